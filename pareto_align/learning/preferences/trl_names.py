"""A `DPOConfig` of TRL as our loss: its spellings are ours, and what else it holds is named."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import Combined, PreferenceLoss, make_losses, preference_losses

__all__ = ["losses_of_trl"]

_OF_LOSSES = ("beta", "f_divergence_type", "f_alpha_divergence_coef", "discopop_tau")
_ELSEWHERE = ("loss_type", "loss_weights", "label_smoothing", "use_weighting", "ld_alpha", *_OF_LOSSES)
_SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})


def losses_of_trl(config: Any) -> tuple[PreferenceLoss, list[str]]:
    """The loss that a `trl.DPOConfig` asks for, and the fields set there that say nothing about a loss.

    `use_weighting` and `ld_alpha` are settings of the learner here, and are not in the list. As in TRL,
    `label_smoothing` is for "exo_pair", "robust" and the two "aot" only.

    Args:
        config: Anything with TRL's attributes.

    Raises:
        ConfigError: It has no `loss_type`, or one that is not known.
    """
    names = getattr(config, "loss_type", None)
    if names is None:
        raise ConfigError(f"A config of TRL's DPOTrainer has `loss_type`. Found a {type(config).__name__}.")
    listed = [names] if isinstance(names, str) else list(names)
    parts = []
    for name in listed:
        settings = {key: getattr(config, key) for key in _OF_LOSSES if hasattr(config, key)}
        if name in _SMOOTHED:
            settings["label_smoothing"] = config.label_smoothing
        parts.append(make_losses(name, **_taken(name, settings)))
    weights = getattr(config, "loss_weights", None)
    return (parts[0] if len(parts) == 1 and not weights else Combined(parts, weights)), _ignored(config)


def _taken(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    cls = preference_losses.get(name)
    known = [] if cls is None else list(inspect.signature(cls).parameters)
    return {key: value for key, value in settings.items() if key in known}


def _ignored(config: Any) -> list[str]:
    """Fields that were changed from their defaults and say nothing about a loss."""
    if not dataclasses.is_dataclass(config):
        return []
    changed = []
    for field in dataclasses.fields(config):
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.init and field.name not in _ELSEWHERE and getattr(config, field.name) != default:
            changed.append(field.name)
    return changed
