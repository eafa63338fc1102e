"""A `DPOConfig` of TRL as our loss: its spellings are ours, and what else it holds is named."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import Combined, PreferenceLoss, make_losses, preference_losses

__all__ = ["is_trl_config", "learner_of_trl", "losses_of_trl"]

_OF_LOSSES = ("beta", "f_divergence_type", "f_alpha_divergence_coef", "discopop_tau")
_ELSEWHERE = ("loss_type", "loss_weights", "label_smoothing", "ld_alpha", *_OF_LOSSES)
_OF_TRAINING = (
    "learning_rate", "lr_scheduler_type", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm",
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    "sync_ref_model", "truncation_mode", "use_liger_kernel", "use_weighting",
)  # fmt: skip
"""Fields that change what is learned and are not the loss."""
_SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})


def losses_of_trl(config: Any) -> tuple[PreferenceLoss, list[str]]:
    """The loss that a `trl.DPOConfig` asks for, and the fields set there that say nothing about a loss.

    `ld_alpha` is a setting of the learner here, and is not in the list. As in TRL, `label_smoothing` is for
    "exo_pair", "robust" and the two "aot" only.

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


def is_trl_config(part: Any) -> bool:
    """Whether this is a config of TRL's DPOTrainer, as far as its fields tell; trl is not imported for it."""
    return dataclasses.is_dataclass(part) and not isinstance(part, type) and hasattr(part, "f_divergence_type")


def learner_of_trl(config: Any) -> tuple[dict[str, Any], list[str]]:
    """The learner "dpo" that a `trl.DPOConfig` asks for, as a mapping, and what of its training it does not read.

    Args:
        config: Anything with TRL's attributes.

    Raises:
        ConfigError: It has no `loss_type`, or one that is not known.
    """
    loss, ignored = losses_of_trl(config)
    names = [part.name for part in getattr(loss, "parts", (loss,))]
    settings = {key: getattr(config, key, None) for key in ("ld_alpha", "max_length", "loss_weights")}
    plain = getattr(config, "f_divergence_type", "reverse_kl") == "reverse_kl"
    for key in _OF_LOSSES:
        if plain and key.startswith("f_"):
            continue
        if hasattr(config, key) and any(_taken(name, {key: None}) for name in names):
            settings[key] = getattr(config, key)
    if set(names) & _SMOOTHED:
        settings["label_smoothing"] = config.label_smoothing
    told = {name: value for name, value in settings.items() if value is not None}
    of_training = [name for name in ignored if name in _OF_TRAINING]
    return {"name": "dpo", "loss_type": names[0] if len(names) == 1 else names, **told}, of_training


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
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if field.init and field.name not in _ELSEWHERE and getattr(config, field.name) != default:
            changed.append(field.name)
    return changed
