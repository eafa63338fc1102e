"""Families: one set of parameters that says, for every preference, which policy serves it.

All policies of a family share their LoRA factors A `[R, in]` and B `[out, R]`; a preference w decides only a small core
C(w) between them, layer by layer:

    update of a layer = scaling * B C(w) A

Folded into B, a family at any w is a stock LoRA adapter of rank R. So nothing else has to know: the population serves
the family at K preferences as K ordinary policies, and the gradients that they collect are pulled back through the fold
to the one set of parameters. What is learnt for one preference teaches its neighbours.

A family may say the preference instead, in a text before every prompt. A policy is a row of parameters, so there the
preference stands at the end of the row, where no layer reads it, and whoever lets the row answer asks with the text.
"""

from __future__ import annotations

import copy
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from pareto_align.arguments import KeepsArguments, Within
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.messages import Instruction
from pareto_align.policies.lora_config import CONFIG_FILE, WEIGHTS_FILE, default_lora_config
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.tensors import read_tensors, write_tensors
from pareto_align.registry import Registry, is_named
from pareto_align.spelling import hint

__all__ = [
    "Family",
    "available_families",
    "families",
    "fold",
    "make_family",
    "register_family",
    "spoken",
    "write_policy",
]

EXTRAS_FILE = "family.safetensors"
BEGINNING, END = "base_model.model.", ".lora_B.weight"
"""Of the name that PEFT gives the B of a layer."""
INDEPENDENT = "independent"
"""The name for no family at all: every policy has parameters of its own."""
MOST = 4096
"""Of ranks in a block and of bins; settings come from files too, and are not to ask for all memory."""
Ranks = Annotated[int, Within(least=1, most=MOST)]
SharedRanks = Annotated[int, Within(least=0, most=MOST)]


class Family(KeepsArguments, ABC):
    """A map from preferences to policies, trained as a whole.

    A subclass says how many ranks it needs (`rank`), how many further numbers it learns a layer (`extras`, and
    `initial_extras`), and what core they make (`cores`), in differentiable torch. `pareto_align.testing.family` has the
    tests that prove one.

    Args:
        shared: Ranks that serve every preference alike; by default the LoRA config's `r`.
        each: Ranks of each block that the preference weighs; by default the LoRA config's `r`.

    Attributes:
        instructs: Whether a text before every prompt says the preference; then `instruction` says which.
        names: What the m objectives that a preference weighs are called in it. Set by `lora`.
        ranks: What `shared` and `each` are in this run. Set by `lora`.
        parameters: `[1, D]` float32: A and B of every layer as in a policy's row, then the extras `[L, E]` of L layers.
            Made by `setup`.

    Raises:
        ConfigError: A setting is out of range, or no rank is left.
    """

    kind = "Family"
    name: ClassVar[str] = ""
    instructs: ClassVar[bool] = False
    names: Sequence[str]
    ranks: tuple[int, int]
    parameters: Tensor

    def __init__(self, *, shared: SharedRanks | None = None, each: Ranks | None = None) -> None:
        self.shared, self.each = shared, each

    # -- what a family is ---------------------------------------------------------------------------------------

    @abstractmethod
    def rank(self, m: int) -> int:
        """R, the rank of the adapters, for m objectives; `ranks` are known by then."""

    @abstractmethod
    def cores(self, preferences: Tensor, extras: Tensor) -> Tensor:
        """The cores of all layers, differentiable in `extras`.

        Args:
            preferences: `[k, m]` on the simplex.
            extras: `[L, E]` learnt numbers of each of L layers.

        Returns:
            `[k, L, R]` the diagonals, or `[k, L, R, R]` the whole cores. L may be 1 where all layers have the same.
        """

    def extras(self, m: int) -> int:
        """E, how many further numbers a layer learns."""
        return 0

    def initial_extras(self, m: int, generator: torch.Generator) -> Tensor:
        """`[E]` what a layer's further numbers are at the beginning."""
        return torch.zeros(self.extras(m))

    def instruction(self, preference: Any) -> Instruction | None:
        """What stands before every prompt for a preference `[m]`; None where nothing does."""
        return None

    # -- how it is trained and served ---------------------------------------------------------------------------

    def lora(self, config: Any, names: Sequence[str]) -> Any:
        """A LoRA config as a user gives it, at the family's rank and with the same scaling of the update.

        Args:
            config: `peft.LoraConfig`, whose `r` is the rank of a block; None for `default_lora_config()`.
            names: Of the m objectives that the preference weighs; see `spoken`.

        Raises:
            ConfigError: There is only one objective.
        """
        m, self.names = len(names), list(names)
        if m < 2:
            raise ConfigError(
                f"The family {self.name!r} needs at least two objectives to optimize, so that there is a preference to "
                f"condition on. Found {m}. With one objective use family='independent'."
            )
        given = default_lora_config() if config is None else copy.copy(config)
        r = int(given.r)
        self.ranks = (r if self.shared is None else self.shared, r if self.each is None else self.each)
        R = self.rank(m)
        # alpha / r (rsLoRA: alpha / sqrt(r)) is what a step of the learning rate means
        given.lora_alpha = given.lora_alpha * (math.sqrt(R / r) if given.use_rslora else R / r)
        if float(given.lora_alpha).is_integer():
            given.lora_alpha = int(given.lora_alpha)
        given.r = R
        return given

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not set up: what belongs to a run stays with it."""
        return {name: value for name, value in self.__dict__.items() if name not in ("population", "parameters")}

    def setup(self, population: PolicyPopulation, m: int, seed: int) -> None:
        """Allocate the parameters: A as a fresh policy's, B zero, hence exactly the reference policy everywhere."""
        self.population, self.m = population, m
        generator = torch.Generator().manual_seed(seed)
        count, device = len(population.blocks), population.parameters.device
        extras = torch.stack([self.initial_extras(m, generator) for _ in range(count)])
        self.parameters = torch.cat([population.fresh(seed), extras.flatten().to(device)])[None]
        population.tell = self.instruction if self.instructs else None

    def policies(self, parameters: Tensor, preferences: Tensor) -> Tensor:
        """The policies `[k, P]` for preferences `[k, m]`, differentiable in the family's parameters `[1, D]`."""
        k, P = len(preferences), self.population.parameter_count
        cores = self.cores(preferences, parameters[0, P:].view(len(self.population.blocks), self.extras(self.m)))
        parts: list[Tensor] = []
        for layer, block in enumerate(self.population.blocks):
            a, b = block.split(parameters[:, :P])  # [1, R, in], [1, out, R]
            core = cores[:, layer if cores.shape[1] > 1 else 0]
            parts += [a.expand(k, -1, -1).flatten(1), fold(b, core).flatten(1)]
        if self.population.notes:
            parts.append(preferences.to(parameters))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def rows(self, preferences: Any) -> Tensor:
        """The policies `[k, P]` for preferences `[k, m]`, to be served, measured or written."""
        return self.policies(self.parameters, self._on_device(preferences))

    def pull(self, preferences: Any, grad: Tensor) -> Tensor:
        """The gradient `[1, D]` of the mean loss over k preferences `[k, m]`, from the policies' own `[k, P]`."""
        with torch.enable_grad():
            parameters = self.parameters.detach().requires_grad_()
            policies = self.policies(parameters, self._on_device(preferences))
            (found,) = torch.autograd.grad(policies, parameters, grad_outputs=grad / len(grad))
        return found

    def save(self, folder: Path) -> None:
        """Write the family as a PEFT folder with all blocks open, and beside it the extras of each layer.

        `write_policy` makes the adapter of a preference of it, without the model.
        """
        P = self.population.parameter_count
        self.population.save_adapter(self.parameters[0, :P], folder)
        extras = self.parameters[0, P:].detach().cpu().view(len(self.population.blocks), -1)
        named = {block.name: row.clone() for block, row in zip(self.population.blocks, extras, strict=True)}
        write_tensors(named, folder / EXTRAS_FILE)

    def read(self, folder: Path) -> Tensor:
        """The parameters `[1, D]` that `save` wrote for a family of this kind, settings and ranks.

        Raises:
            FrontFileError: The folder cannot be read, or holds another family.
        """
        policy = self.population.read_adapter(folder)
        try:
            named = read_tensors(folder / EXTRAS_FILE)
            extras = torch.stack([named[block.name].float() for block in self.population.blocks])
            found = torch.cat([policy, extras.flatten().to(policy.device)])[None]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise FrontFileError(f"The family in {folder} cannot be read: {type(error).__name__}: {error}") from error
        if found.shape != self.parameters.shape:
            raise FrontFileError(f"The family in {folder} is not of the kind of the run's.")
        return found

    def _on_device(self, preferences: Any) -> Tensor:
        return torch.as_tensor(preferences, dtype=torch.float32).to(self.parameters.device)


def spoken(name: str, maximize: bool) -> str:
    """What an objective is called where more of what is called so is better."""
    return name if maximize else f"low {name}"


def fold(b: Tensor, core: Tensor) -> Tensor:
    """B C: factors `[.., out, R]` with cores `[k, R]` (diagonals) or `[k, R, R]` folded in, `[k, out, R]`."""
    return b * core[:, None, :] if core.dim() == 2 else b @ core


def write_policy(family: Family, source: Path, preference: Any, target: Path) -> None:
    """Write the policy of one preference as a stock PEFT folder.

    Args:
        family: Of the kind, with the settings and the ranks, that wrote `source`.
        source: The folder that `Family.save` wrote.
        preference: `[m]` on the simplex.
        target: The new folder.

    Raises:
        FrontFileError: The source cannot be read or does not fit the family, or the target cannot be written.
    """
    asked = torch.tensor(preference, dtype=torch.float32)[None]
    m = asked.shape[1]
    try:
        tensors, extras = read_tensors(source / WEIGHTS_FILE), read_tensors(source / EXTRAS_FILE)
        for key in [key for key in tensors if key.endswith(END)]:
            b, numbers = tensors[key], extras[key.removeprefix(BEGINNING).removesuffix(END)]
            if (b.shape[1], numbers.numel()) != (family.rank(m), family.extras(m)):
                raise ValueError(f"{key} is not of the rank {family.rank(m)} with {family.extras(m)} further numbers")
            tensors[key] = fold(b[None], family.cores(asked, numbers[None])[:, 0])[0].contiguous()
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise FrontFileError(f"The family in {source} cannot be read: {type(error).__name__}: {error}") from error
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, target / WEIGHTS_FILE)
        shutil.copyfile(source / CONFIG_FILE, target / CONFIG_FILE)
        if (told := family.instruction(preference)) is not None:
            told.write(target)
    except OSError as error:
        raise FrontFileError(f"The adapter cannot be written to {target}: {error}") from error


families: Registry[Family] = Registry("family", Family)  # type: ignore[type-abstract]
register_family = families.register


def available_families() -> list[str]:
    """Names of all registered families, "independent" among them."""
    return sorted([INDEPENDENT, *families.names()])


def make_family(family: str | Mapping[str, Any] | Family | None) -> Family | None:
    """A family by name, by a mapping with `name` and settings, or the instance given; None for independent policies.

    Raises:
        ConfigError: The name or a setting is unknown.
    """
    if family is None or is_named(family, INDEPENDENT):
        return None
    name = family.get("name") if isinstance(family, Mapping) else family
    if isinstance(name, str) and families.get(name) is None:
        known = [INDEPENDENT, *families.names()]
        told = hint(name, known) or f" Known: {', '.join(known)}."
        raise ConfigError(f"Unknown family {name!r}.{told}")
    return families.make(family)
