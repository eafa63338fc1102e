"""Which layers a LoRA config selects, by PEFT's own rules, and how a member names them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from pareto_align.errors import ConfigError, ModelError, ParetoAlignWarning
from pareto_align.policies.lora_config import ALL_LINEAR, ATTENTION_PROJECTIONS
from pareto_align.printable import kind_of

__all__ = ["find_targets", "target_names"]


def find_targets(model: Any, lora: Any) -> list[tuple[str, nn.Linear]]:
    """The `nn.Linear` layers that PEFT's own rules select, in the model's order.

    Args:
        model: A causal language model of transformers.
        lora: A `peft.LoraConfig`; targets, exclusions and layer numbers are honoured.

    Raises:
        ConfigError: The head, the embeddings or another layer that carries no population is among the targets.
        ModelError: No `nn.Linear` matches, or one inside a mixture of experts does.

    Warns:
        ParetoAlignWarning: A name among targets or exclusions matches nothing.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as BY_MODEL_TYPE

    config, modules = copy.copy(lora), dict(model.named_modules())
    head = model.get_output_embeddings()
    named: Any = ()
    if config.target_modules is None:
        config.target_modules = BY_MODEL_TYPE.get(model.config.model_type, list(ATTENTION_PROJECTIONS))
    meant: Any = modules.keys() - {""}
    everything = isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
    # our own default holds the names of several kinds of models
    if ours := everything or set(config.target_modules) == set(ATTENTION_PROJECTIONS):
        meant = _all_linear(model, modules)
    if everything:
        config.target_modules = meant
    elif not ours and not isinstance(config.target_modules, str):
        named = sorted(lora.target_modules or ())
    hits = {
        name: module for name, module in modules.items() if name in meant and check_target_module_exists(config, name)
    }
    found = [(name, module) for name, module in hits.items() if isinstance(module, nn.Linear) and module is not head]
    misread = _misread(model, [name for name, _ in found])
    if ours:
        found = [(name, module) for name, module in found if name not in misread]
    for name, module in hits.items():
        if module is head or isinstance(module, nn.Embedding):
            what = "head" if module is head else "embedding"
            raise ConfigError(
                f"target_modules={lora.target_modules!r} selects {name!r}, the model's {what}. A population adapts the "
                "linear layers in between: leave it out, or take 'all-linear'."
            )
    others = [f"{n} ({type(m).__name__})" for n, m in hits.items() if not isinstance(m, nn.Linear)]
    if not found:
        raise ModelError(_nothing_found(model, lora.target_modules or config.target_modules, others))
    for name, module in hits.items():
        if not isinstance(module, nn.Linear) and next(module.parameters(recurse=False), None) is not None:
            raise ConfigError(
                f"target_modules={lora.target_modules!r} selects {name!r}, {kind_of(module)}, which cannot "
                "carry a population. Leave it out."
            )
    if any(".experts." in name for name, _ in found):
        raise ModelError(
            "Targets inside mixture-of-experts layers cannot be trained as a population: tokens are reordered."
        )
    if misread and not ours:
        raise ModelError(
            f"target_modules={lora.target_modules!r} selects {min(misread)!r}. Where an adapter of it is loaded, PEFT "
            f"finds no such layer in a model of type {model.config.model_type!r}, or refuses it: nobody could use what "
            "is trained. Leave it out, or take 'all-linear', which does."
        )
    _warn_of_unknown(model, "target_modules", named, [name for name, _ in found])
    if config.exclude_modules is not None and not isinstance(config.exclude_modules, str):
        _warn_of_unknown(model, "exclude_modules", config.exclude_modules, list(modules))
    return found


def _all_linear(model: Any, modules: Mapping[str, nn.Module]) -> set[str]:
    """All linear layers that read text but the head, and but the experts of a mixture and what chooses among them.

    Policies are asked in text: what reads images is never run, and would be nothing but zeros in every adapter.
    """
    mixtures = {name.rpartition(".")[0] for name in modules if name.rpartition(".")[2] == "experts"}
    # a mixture's own layers choose, or are in a module of its own that does
    choosing = mixtures | {f"{name}.{part}" for name in mixtures for part in ("gate", "router")}
    reading = set(map(id, (model.get_decoder() or model).modules())) - {id(model.get_output_embeddings())}
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear) and id(module) in reading}
    return {name for name in linear if ".experts." not in name and name.rpartition(".")[0] not in choosing}


def _misread(model: Any, names: Iterable[str]) -> set[str]:
    """Those of some layers that PEFT does not find by their names in a folder, or refuses.

    In mixtures that transformers has changed since, it takes names such as `gate_proj` for the experts', wherever they
    stand; and of state-space models it refuses layers whose weights are read without calling them. Whether it does goes
    by a layer's last name and the model's type, so it is asked on a stand-in that has nothing else.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    found = set()
    for last in {name.rpartition(".")[2] for name in names}:
        stand_in = nn.Module()
        stand_in.config = model.config
        stand_in.add_module(last, nn.Linear(1, 1))
        try:
            inject_adapter_in_model(LoraConfig(r=1, target_modules=[last]), stand_in)
        except ValueError:
            found.add(last)
        else:
            if not isinstance(getattr(stand_in, last), LoraLayer):
                found.add(last)
    return {name for name in names if name.rpartition(".")[2] in found}


def target_names(names: Sequence[str], model: nn.Module) -> list[str]:
    """What a member's config names: the layers' last names if those select exactly these layers, else their full ones.

    Args:
        names: Full names of the adapted layers.
        model: The model as it is without a population.
    """
    last = sorted({name.rpartition(".")[2] for name in names})
    selected = {n for n, _ in model.named_modules() if n.rpartition(".")[2] in last}
    return last if selected == set(names) else list(names)


def _warn_of_unknown(model: nn.Module, field: str, asked: Iterable[str], names: Sequence[str]) -> None:
    """Name what was asked for and is nowhere: PEFT passes over it, and a slip of the pen goes unnoticed."""
    unknown = [t for t in sorted(asked) if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        warnings.warn(
            f"LoraConfig({field}=...) names {', '.join(map(repr, unknown))}, which no layer of {type(model).__name__} "
            "that could be meant is called. The other names are honoured.",
            ParetoAlignWarning,
            stacklevel=2,
        )


def _as_a_list(model: nn.Module, targets: Any) -> str:
    """What somebody meant who named layers in one text, which to PEFT is a pattern of whole names."""
    last = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    meant = re.split(r"[,\s]+", targets.strip()) if isinstance(targets, str) else []
    if not meant or not last.issuperset(meant):
        return ""
    return f" A text is a pattern that the whole name of a layer must match: give a list, target_modules={meant!r}."


def _nothing_found(model: nn.Module, targets: Any, others: Sequence[str]) -> str:
    kinds = sorted({type(m).__name__ for m in model.modules() if type(m).__name__ in ("Conv1D", "Conv1d")})
    hint = _as_a_list(model, targets)
    hint += f" Its layers are {kinds[0]}, which cannot carry a population." if kinds else ""
    names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
    if names and not others:
        hint += f" Its linear layers are {', '.join(names)}."
    return f"{type(model).__name__} has no nn.Linear that matches target_modules={targets!r}.{hint}" + (
        f" Matching but not nn.Linear: {others[0]}." if others else ""
    )
