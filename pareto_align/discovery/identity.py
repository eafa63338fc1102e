"""What makes a run this run and no other: taken down when it begins, compared when it goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from pareto_align.arguments import arguments_of, plain
from pareto_align.discovery.plan import Plan
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.policies.lora_config import default_lora_config
from pareto_align.runs.folder import objective_records
from pareto_align.runs.settings import Settings
from pareto_align.versions import check_versions

__all__ = [
    "check_alike",
    "check_same_base",
    "check_same_run",
    "plan_facts",
    "warn_of_other_machine",
    "warn_of_sampler",
]


def plan_facts(
    plan: Plan,
    *,
    start: Mapping[str, str] | None = None,
    quantization: Any = None,
    gguf_file: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is known before the model is loaded, beside names and settings, in JSON's own types."""
    loading = quantization if not hasattr(quantization, "to_dict") else quantization.to_dict()
    return {
        "arguments": {
            "weighting": arguments_of(plan.weighting),
            "learner": plan.learner.facts(),
            "explorer": arguments_of(plan.explorer),
            "lora": _lora_facts(default_lora_config() if plan.lora is None else plan.lora),
            **({} if plan.family is None else {"family": arguments_of(plan.family)}),
        },
        **({} if start is None else {"start": dict(start)}),
        # what draws the same again with the same seeds is told as before there was anything else
        **({} if plan.settings.engine is None else {"exact": False, "drawn_with": _engine_version(plan.settings)}),
        "loading": {
            "quantization": plain(loading),
            "gguf_file": gguf_file,
            "chat_template_kwargs": dict(chat_template_kwargs or {}),
        },
    }


def _engine_version(settings: Settings) -> str:
    from importlib import metadata

    assert settings.engine is not None
    name = settings.engine["name"]
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return str(name)


def _lora_facts(lora: Any) -> Any:
    """What a LoRA config says about adapters; not which release wrote it, nor for which model."""
    told = plain(lora.to_dict()) if hasattr(lora, "to_dict") else {"lora": plain(lora)}
    about_files = ("peft_version", "base_model_name_or_path", "revision", "inference_mode")
    return {name: value for name, value in told.items() if name not in about_files}


def check_same_run(
    record: Mapping[str, Any], plan: Plan, facts: Mapping[str, Any], model: str | None, *, begun: bool = False
) -> None:
    """Refuse to go on with a run that was begun otherwise.

    Records of earlier releases lack some of the facts, and a release may add an argument to a class: what was not taken
    down is not compared.

    Args:
        record: Of the run.
        plan: What would go on with it.
        facts: Its `plan_facts`.
        model: The model's name; None for one in memory.
        begun: It has a checkpoint to go on from: what its policies began as is asked no more.

    Raises:
        ConfigError: It says what differs.
    """
    now: dict[str, Any] = plan.names() | asdict(plan.settings)
    then = dict(record["config"])
    for side in (now, then):
        side.setdefault("family", "independent")  # what has no family is not called so
    for name in ("reading", "sampler", "deterministic", "shard_size"):  # not taken down at first
        then.setdefault(name, now[name])
    for setting in fields(plan.settings):  # one that is younger than the run leaves things as they were by default
        then.setdefault(setting.name, setting.default)
    for side in (now, then):
        if isinstance(side["sampler"], dict):
            side["sampler"] = side["sampler"].get("name")  # its settings are memory and speed
    if "bounded" not in (now["overlap"], then["overlap"]):
        now["overlap"] = then["overlap"]  # the others come to the same bytes
    for name in ("micro_batch_tokens", "learning_rate"):  # found when the run began, and kept for the whole of it
        if now[name] is None:
            now[name] = then.get(name)
    now["objectives"], then["objectives"] = objective_records(plan.objectives), record["objectives"]
    if isinstance(then["objectives"], list):  # constraints had no tolerance at first
        then["objectives"] = [{"tolerance": 0.0} | _mapping(one) for one in then["objectives"]]
    if model is not None:
        now["model"], then["model"] = model, record["model"]
    # what it began as, by what is in it: a folder may have been moved
    for side, known in ((now, facts), (then, record)):
        side["start_from"] = None if begun else _mapping(known.get("start")).get("digest")
    told = _differences(then, now, sorted(now.keys() | then.keys()))
    groups = {**_mapping(record.get("arguments")), "": record.get("loading")}
    for group, known in {**facts["arguments"], "": facts["loading"]}.items():
        before = _mapping(groups.get(group))
        told += _differences(before, known, sorted(known.keys() & before.keys()), f"{group}." if group else "")
    _refuse(told)


def check_same_base(record: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a run in another precision; on another kind of device it may, and is told what that means.

    Args:
        record: Of the run.
        facts: Of the host that would go on with it, `Host.facts`.

    Raises:
        ConfigError: The model has another dtype than it had.

    Warns:
        ParetoAlignWarning: It is on another kind of device.
    """
    then, now = _mapping(record.get("base")), facts["base"]
    _refuse(_differences(then, now, sorted({"dtype"} & then.keys())))
    if then.get("device", now["device"]) != now["device"]:
        warnings.warn(
            f"The run was begun on the device {then['device']!r} and goes on on {now['device']!r}: what it finds from "
            "here on is as good, but not the same bytes.",
            ParetoAlignWarning,
            stacklevel=3,
        )


def warn_of_other_machine(record: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Say in what the machine, or what is installed there, is not as it was when the run began.

    Records of earlier releases lack some of it; what was not taken down is not compared.

    Args:
        record: Of the run.
        facts: Of the host that would go on with it, `Host.facts`.

    Warns:
        ParetoAlignWarning: Something differs, so that the rest of the run is not the same, byte for byte.
    """
    told = []
    for part in ("versions", "machine"):
        then, now = _mapping(record.get(part)), facts[part]
        told += _differences(then, now, [name for name in now if name in then])
    if told:
        warnings.warn(
            f"The run goes on under other conditions than it began under: {'; '.join(told)}. What it finds from here "
            "on is as good, but not the same bytes.",
            ParetoAlignWarning,
            stacklevel=3,
        )


def warn_of_sampler(record: Mapping[str, Any]) -> None:
    """Say that a run does not go on to the same bytes where its sampler does not draw the same again.

    Args:
        record: Of the run.

    Warns:
        ParetoAlignWarning: So it is.
    """
    if record.get("exact", True) is False:
        warnings.warn(
            f"The completions of this run are drawn by {record.get('drawn_with', 'an engine')}, which does not draw "
            "the same again: what the run finds from here on is as good, but not the same bytes as without the stop.",
            ParetoAlignWarning,
            stacklevel=3,
        )


def check_alike(hosts: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> None:
    """Refuse hosts that have other versions than this process; say it where they are of several kinds.

    Args:
        hosts: What each of them is, `Host.facts`.
        here: The versions in this process.

    Raises:
        ConfigError: It says which host has which version of what.

    Warns:
        ParetoAlignWarning: They compute differently, so that it depends on where a shard is what it becomes.
    """
    check_versions([(facts["name"], facts["versions"]) for facts in hosts], here)
    kinds = {str({**facts["machine"], **facts["base"]}): facts["name"] for facts in hosts}
    if len(kinds) > 1:
        warnings.warn(
            f"The workers are of several kinds: {'; '.join(f'{name}: {kind}' for kind, name in kinds.items())}. What a "
            "shard becomes is the same, byte for byte, only among workers of one kind.",
            ParetoAlignWarning,
            stacklevel=3,
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], names: list[str], prefix: str = "") -> list[str]:
    return [
        f"{prefix}{name} was {then.get(name)!r}, is {now.get(name)!r}"
        for name in names
        if now.get(name) != then.get(name)
    ]


def _refuse(told: list[str]) -> None:
    if told:
        raise ConfigError(
            f"This aligner is not the one that began the run: {'; '.join(told)}. Build it as it was; on the "
            "command line, give the keys again that were set for fit."
        )


def _mapping(value: Any) -> dict[str, Any]:
    """A run folder may hold anything where a mapping belongs."""
    return dict(value) if isinstance(value, Mapping) else {}
