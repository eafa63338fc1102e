"""What a LoRA config may say: to a population that trains under it, and in the folder of an adapter that is read.

Both ways it is an allow list. PEFT's config holds a good hundred lines of switches, and every release adds some: a
field that nobody here has heard of is refused unless it is off, so that no field can mean at load what it did not mean
in training.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.printable import kind_of

if TYPE_CHECKING:
    from peft import LoraConfig

    from pareto_align.policies.base import Base

__all__ = [
    "ALL_LINEAR",
    "ATTENTION_PROJECTIONS",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "activated_lora_config",
    "check_lora",
    "default_lora_config",
    "member_config",
    "plain_lora_config",
    "read_lora_config",
]

ALL_LINEAR = "all-linear"
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "dense", "out_proj")
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

SELECTING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
HONOURED = ("r", "lora_alpha", "use_rslora", "alora_invocation_tokens", "task_type", *SELECTING)
# PEFT's own bookkeeping, and the last one it ignores for an `nn.Linear`
BOOKKEEPING = ("peft_type", "peft_version", "base_model_name_or_path", "inference_mode", "runtime_config")
WITHOUT_EFFECT = (*BOOKKEEPING, "fan_in_fan_out")
# of an adapter that is read: how it began and was trained is over
OVER = ("task_type", "lora_dropout", "revision", "qalora_group_size")
OVERWRITTEN = (True, False, "gaussian", "orthogonal")  # initial A and B that leave the base's weights alone
PLAIN = {"bias": "none", "megatron_core": "megatron.core"}  # PEFT's defaults that are not empty, whatever the release


def default_lora_config(r: int = 8, alpha: int = 16) -> Any:
    """LoRA of rank 8 on the attention projections.

    At the same rate adapters of all linear layers learn faster, and forget more of what the model knew: see
    `studies/real`.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=r, lora_alpha=alpha, target_modules=list(ATTENTION_PROJECTIONS), lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def activated_lora_config(base: Base, lora: Any = None) -> Any:
    """A LoRA config whose adapters act only from the assistant's turn on.

    What stands before is then read by the frozen base, once for all policies, and takes no part in the backward pass.
    Greenewald et al., "Activated LoRA: Fine-tuned LLMs for Intrinsics", arXiv 2504.12397.

    Args:
        base: The model, whose chat template says how an assistant's turn begins.
        lora: What else the config says; `default_lora_config()` by default. Invocation tokens of its own are kept.

    Raises:
        ConfigError: There is no chat template, or it marks no beginning of the assistant's turn.
    """
    config = default_lora_config() if lora is None else copy.copy(lora)
    if config.alora_invocation_tokens:
        return config
    hint = "Give the tokens yourself: LoraConfig(alora_invocation_tokens=[...])."
    if base.tokenizer.chat_template is None:
        raise ConfigError(f"Activated adapters begin with the assistant's turn, and there is no chat template. {hint}")
    turn, opened = (
        base.tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], add_generation_prompt=opens, tokenize=True, return_dict=False
        )
        for opens in (False, True)
    )
    if len(opened) <= len(turn) or list(opened[: len(turn)]) != list(turn):
        raise ConfigError(f"The chat template marks no beginning of the assistant's turn. {hint}")
    config.alora_invocation_tokens = list(opened[len(turn) :])
    return config


def check_lora(lora: Any) -> None:
    """Refuse by name what stacked slots cannot do.

    Raises:
        ConfigError: `lora` is no `peft.LoraConfig`, or asks for something that a population does not do.
    """
    from peft import LoraConfig

    if not isinstance(lora, LoraConfig):
        raise ConfigError(f"`lora` must be a peft.LoraConfig. Found {kind_of(lora)}.")
    if lora.peft_type != "LORA":
        raise ConfigError(f"A population trains plain LoRA adapters. Found {kind_of(lora)}.")
    said = {field.name: getattr(lora, field.name, _default(field)) for field in dataclasses.fields(lora)}
    _check_values(
        {name: _plain(value) for name, value in said.items()}, lambda text: ConfigError(f"LoraConfig: {text}")
    )
    if said["task_type"] not in (None, "CAUSAL_LM"):
        raise ConfigError(
            f"LoraConfig(task_type={str(said['task_type'])!r}) cannot be trained as a population, which is of causal "
            "language models. Use task_type='CAUSAL_LM'."
        )
    for field in dataclasses.fields(lora):
        value = said[field.name]
        if field.name in HONOURED or field.name in WITHOUT_EFFECT or _is_off(value, _default(field)):
            continue
        raise ConfigError(
            f"LoraConfig({field.name}={value!r:.80}) cannot be trained as a population. "
            f"Leave it at its default, {_default(field)!r}."
        )
    if getattr(lora, "_custom_modules", None):
        raise ConfigError("A LoraConfig with custom modules cannot be trained as a population. Take a plain one.")


def member_config(lora: Any, targets: Sequence[str], base: str | None) -> str:
    """The adapter_config.json of a member: what the population honoured, and nothing that could mean anything else.

    Args:
        lora: What it was trained under.
        targets: Names of exactly the layers that it adapts.
        base: Where its base model comes from.
    """
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": int(lora.r),
        "lora_alpha": lora.lora_alpha,
        "use_rslora": bool(lora.use_rslora),
        "target_modules": list(targets),
        "exclude_modules": None,
        "alora_invocation_tokens": list(lora.alora_invocation_tokens) if lora.alora_invocation_tokens else None,
        # PEFT's defaults, for readers that ask
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_dora": False,
    }
    return json.dumps(said, indent=2, sort_keys=True) + "\n"


def read_lora_config(folder: Path) -> LoraConfig:
    """The config of an adapter folder, made anew from the fields that are known here; PEFT never sees the file.

    PEFT imports modules that some fields name, so a stranger's file is not handed to it.

    Raises:
        FrontFileError: The file cannot be read, is of another method than LoRA, or says something that is not known.
    """
    from peft import LoraConfig

    def refusal(text: str) -> FrontFileError:
        return FrontFileError(f"The adapter in {folder} cannot be loaded: its {CONFIG_FILE} {text}")

    try:
        said = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FrontFileError(f"Cannot read the adapter in {folder}: {error}") from error
    if not isinstance(said, dict):
        raise refusal("is no mapping.")
    if said.get("peft_type") != "LORA":
        raise refusal(f"is of type {said.get('peft_type')!r:.40}, not 'LORA'.")
    defaults = {field.name: _default(field) for field in dataclasses.fields(LoraConfig)} | PLAIN
    known = {**{name: said[name] for name in HONOURED if name in said}, **_patterns(said, refusal)}
    _check_values({**defaults, **known}, refusal)
    for name, value in said.items():
        if name in known or name in WITHOUT_EFFECT or name in OVER or _is_off(value, defaults.get(name)):
            continue
        if name == "init_lora_weights" and value in OVERWRITTEN:
            continue
        if name == "auto_mapping" and _is_of_transformers(value):
            continue
        raise refusal(f"says {name}={value!r:.80}, which no member of a front does.")
    return LoraConfig(**{**known, "task_type": "CAUSAL_LM", "inference_mode": True})


def plain_lora_config(config: Any) -> LoraConfig:
    """What an adapter's config says of its shape, and nothing of how it was trained."""
    from peft import LoraConfig

    kept = ("r", "lora_alpha", "use_rslora", "alora_invocation_tokens", *SELECTING)
    said = {name: getattr(config, name, None) for name in kept}
    said["r"] = max(config.r, *(config.rank_pattern or {}).values()) if config.rank_pattern else config.r
    return LoraConfig(**{name: value for name, value in said.items() if value is not None}, task_type="CAUSAL_LM")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_off(value: Any, default: Any) -> bool:
    """Whether a field says no more than PEFT's default does."""
    return bool(value == default) or (not value and not default)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) and all(isinstance(v, str) for v in value) else value


def _is_of_transformers(value: Any) -> bool:
    """Whether an auto mapping is what PEFT writes for a model of transformers; it is dropped either way."""
    return isinstance(value, dict) and str(value.get("parent_library")).startswith("transformers.models.")


def _patterns(said: Mapping[str, Any], refusal: Callable[[str], Exception]) -> dict[str, Any]:
    """Ranks and alphas of single layers, which an adapter from elsewhere may have."""
    found = {}
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = said.get(name) or {}
        if not isinstance(pattern, dict) or not all(_is_number(value) for value in pattern.values()):
            raise refusal(f"says {name}={pattern!r:.80}, which is no mapping from layers to numbers.")
        found[name] = pattern
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _check_values(said: Mapping[str, Any], error: Callable[[str], Exception]) -> None:
    """Whether the honoured fields hold what they should.

    Raises:
        Exception: They do not; as `error` makes it.
    """

    def names(value: Any, *, of: type = str) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(v, of) and not isinstance(v, bool) for v in value)

    def none_or(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: value is None or check(value)

    text_or_names = none_or(lambda v: isinstance(v, str) or names(v))
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "r": (lambda v: _is_number(v) and isinstance(v, int), "a whole number of at least 1"),
        "lora_alpha": (_is_number, "a number above 0"),
        "use_rslora": (lambda v: isinstance(v, bool), "true or false"),
        "alora_invocation_tokens": (none_or(lambda v: names(v, of=int)), "a list of token ids"),
        "target_modules": (text_or_names, "a list of names, or a text"),
        "exclude_modules": (text_or_names, "a list of names, or a text"),
        "layers_to_transform": (none_or(lambda v: isinstance(v, int) or names(v, of=int)), "a list of whole numbers"),
        "layers_pattern": (text_or_names, "a list of names, or a text"),
    }
    for name, (check, wanted) in checks.items():
        if not check(said[name]):
            raise error(f"`{name}` must be {wanted}. Found {name}={said[name]!r:.80}.")
