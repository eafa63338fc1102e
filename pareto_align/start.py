"""Where the policies of a run begin, where that is not the untrained model: an adapter, or what another run found."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import arguments_of, path_of
from pareto_align.defaults import INDEPENDENT
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.report.export import journal_path
from pareto_align.report.units import optimized
from pareto_align.result import ParetoFront
from pareto_align.runs.folder import kept_prompts

if TYPE_CHECKING:
    from pareto_align.data.prompts import Splits
    from pareto_align.discovery.plan import Plan
    from pareto_align.front.storage import FamilyRecord

__all__ = ["Start"]

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""As `policies.lora_config` has them, which cannot be asked without torch."""


class Start:
    """An adapter that all policies begin as, or a front in which each finds what serves its preference.

    Args:
        source: A front, the folder of a run or of a front, or a PEFT LoRA folder.

    Attributes:
        front: The front; None for one adapter.
        folder: Of the front or the adapter.

    Raises:
        ConfigError: It is none of these, or an empty front.
        FrontFileError: The front cannot be read, or something of it is damaged.
    """

    def __init__(self, source: Any) -> None:
        self.front: ParetoFront | None = None
        if isinstance(source, ParetoFront):
            self.front = source
        else:
            self.folder = path_of(source, "start_from").absolute()
            if all((self.folder / name).is_file() for name in ADAPTER):
                return
            told = "`start_from` must be a front, the folder of a run or of a front, or that of a PEFT adapter."
            if not self.folder.exists():
                raise ConfigError(f"{told} There is no {self.folder}.")
            if (self.folder / ADAPTER[0]).is_file():
                raise ConfigError(f"{told} {self.folder} has {ADAPTER[0]}, and no {ADAPTER[1]} beside it.")
            self.front = ParetoFront.load(self.folder)
        self.folder = self.front.folder.absolute()
        if lost := [problem for problem in self.front.problems if " was left out: " in problem]:
            raise FrontFileError(f"What is to be begun from is damaged. {' '.join(lost)}")
        if self._family is None and not len(self.front):
            raise ConfigError(f"The front in {self.folder} has no member that a policy could start from.")

    def __repr__(self) -> str:
        return repr(str(self.folder))

    @property
    def family(self) -> Any:
        """What goes on from it, as `ParetoAligner` takes a family."""
        told = self._family
        return INDEPENDENT if told is None else {**told.settings, "name": told.name}

    def lora(self, family: Any) -> Any:
        """The `peft.LoraConfig` of a run that was given none: of the adapters in it.

        Args:
            family: That goes on from it, whose `r` is the rank of a block; None: independent policies do.
        """
        from pareto_align.policies.lora_config import plain_lora_config, read_lora_config

        if self.front is None:
            folder = self.folder
        else:
            folder = self.folder / self._family.adapter if self._family else self.front[0].adapter_path
        config = plain_lora_config(read_lora_config(folder))
        if family is not None and self._family is not None:
            shared, each = self._family.ranks
            r = each if family.each is None else shared or each  # both were given: the rank only carries the scale
            share = math.sqrt(r / config.r) if config.use_rslora else r / config.r
            config.r, config.lora_alpha = r, config.lora_alpha * share  # type: ignore[assignment]  # PEFT takes a float
        return config

    def check(self, plan: Plan) -> None:
        """Whether the policies of a run can begin from it, before anything is loaded.

        Raises:
            ConfigError: They cannot.
        """
        told = self._family
        if self.front is not None:
            every = [self.front.record.objectives[i] for i in optimized(self.front.record)]
            theirs, ours = ([_told(o.name, o.maximize) for o in part] for part in (every, self._traded(plan)))
            if theirs != ours:
                raise ConfigError(
                    "`start_from` a front takes, for each preference, what serves it there, so the front must trade "
                    f"what the run trades, in the same order. It trades {', '.join(theirs)}; the run, "
                    f"{', '.join(ours)}. Start all policies from one adapter instead: start_from=front[0].adapter_path."
                )
        if plan.family is None:
            if told is not None and self.front is not None and self.front.at(_first(plan)).instruction is not None:
                raise ConfigError(
                    f"The policies of the family {told.name!r} are told their preference in the prompt, and "
                    f"independent ones are told nothing. Leave `family` out to go on with {told.name!r}."
                )
            return
        if told is None:
            found = "one adapter" if self.front is None else "independent policies"
            raise ConfigError(
                f"A family goes on from a front of the same family, and {self.folder} holds {found}. Leave `family` "
                "out, or merge the adapter into the model."
            )
        same = plan.family.name == told.name and arguments_of(plan.family) == told.settings
        if not same or tuple(plan.family.ranks) != tuple(told.ranks):
            raise ConfigError(
                f"A family goes on from a front of the same family: {told.name!r} with {told.settings} and the ranks "
                f"{tuple(told.ranks)} (shared, each) in {self.folder}. Found {plan.family.name!r} with "
                f"{arguments_of(plan.family)} and {tuple(plan.family.ranks)}. Leave `family` and `lora` out."
            )

    def folders(self, plan: Plan, preferences: np.ndarray) -> list[Path]:
        """The adapter that the policy for each of the preferences `[K, m]` begins as; for a family, the family alone.

        Raises:
            FrontFileError: An adapter cannot be written or read.
        """
        if self.front is None:
            return [self.folder] * len(preferences)
        if plan.family is not None and self._family is not None:
            return [self.folder / self._family.adapter]
        names = [objective.name for objective in self._traded(plan)]
        asked = [dict(zip(names, map(float, preference), strict=True)) for preference in preferences]
        if self._family is not None:
            return [self.front.at(one).adapter_path for one in asked]
        return [self.front.select(one).adapter_path for one in asked]

    def warn_of_trained(self, splits: Splits) -> None:
        """Say so where prompts that are held out here were trained on there.

        Warns:
            ParetoAlignWarning: So it is.
        """
        if self.front is None:
            return
        known = set(kept_prompts(journal_path(self.front.path).parent, "train") or ())
        held_out = [*splits.select, *splits.report]
        told = [{"prompt": row.prompt, "columns": dict(row.columns), "comparison": None} for row in held_out]
        try:
            shared = sum(json.dumps(row, sort_keys=True) in known for row in told)
        except (TypeError, ValueError):
            return  # columns that no file holds: they were not kept there either
        if shared:
            warnings.warn(
                f"{shared} of {len(held_out)} held-out prompts were training prompts of the run that is begun from, so "
                "the published numbers are not of unseen prompts. Give its prompts and its seed, or `eval_prompts`.",
                ParetoAlignWarning,
                stacklevel=4,
            )

    def warn_of_other_base(self, model: Any) -> None:
        """Say so where its adapters were trained on a model of another name.

        Warns:
            ParetoAlignWarning: So it is.
        """
        if self.front is not None:
            known = self.front.record.base.get("name")
        else:
            said = json.loads((self.folder / ADAPTER[0]).read_text(encoding="utf-8"))
            known = said.get("base_model_name_or_path") if isinstance(said, dict) else None
        if known and isinstance(model, str) and Path(str(known)).name != Path(model).name:
            warnings.warn(
                f"What is begun from was trained on {known!s:.200}, and the run's model is {model}. Its adapters mean "
                "something else on other weights.",
                ParetoAlignWarning,
                stacklevel=5,
            )

    def facts(self) -> dict[str, str]:
        """Its folder, what it is, and a digest of the adapters in it, by which a run that is resumed knows it."""
        digest = hashlib.sha256()
        if self.front is None:
            for name in ADAPTER:
                digest.update((self.folder / name).read_bytes())
        else:
            files = [self._family.files] if self._family else [m.files for m in self.front.record.members]
            digest.update(json.dumps(files, sort_keys=True).encode())
        kind = "adapter" if self.front is None else "family" if self._family else "members"
        return {"folder": str(self.folder), "kind": kind, "digest": digest.hexdigest()[:16]}

    @property
    def _family(self) -> FamilyRecord | None:
        return None if self.front is None else self.front.record.family

    @staticmethod
    def _traded(plan: Plan) -> list[Any]:
        every = list(plan.objectives)
        return [every[i] for i in plan.objectives.axes]


def _told(name: str, maximize: bool) -> str:
    return name if maximize else f"{name} (less is better)"


def _first(plan: Plan) -> list[float]:
    """The preference for the first objective alone."""
    return [1.0] + [0.0] * (plan.objectives.m - 1)
