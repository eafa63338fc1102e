"""From the values of a config to the aligner and the prompts that they describe."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.aligner import ParetoAligner
from pareto_align.arguments import path_of
from pareto_align.backends import make_backend
from pareto_align.config.keys import SECTIONS, check_keys, checked_value, value_types, whole
from pareto_align.config.lookup import build, find, objectives_named, reward_function
from pareto_align.config.prompt_files import read_prompt_file
from pareto_align.config.prompt_sets import read_prompt_set
from pareto_align.config.reading import DEFAULT_NAMES, read_config
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.rows import read_rows
from pareto_align.defaults import INDEPENDENT
from pareto_align.discovery.explorers import Explorer, make_explorer
from pareto_align.errors import ConfigError
from pareto_align.objectives import Objective, shared
from pareto_align.runs.settings import Settings, settings_help
from pareto_align.weighting import Weighting, make

if TYPE_CHECKING:
    from pareto_align.result import ParetoFront
    from pareto_align.tuning import TuningResult

__all__ = ["RunConfig", "load_config", "load_origin"]

OWN_REWARDS = "pareto_align.objectives."


@dataclass(frozen=True, eq=False)
class RunConfig:
    """A run that is ready to start.

    Attributes:
        aligner: Built from the settings; it has loaded no model yet.
        prompts: The prompts, or the comparisons, to train on.
        eval_prompts: The held-out ones, or None to take them from `prompts`.
        values: The config as read, overrides included.
    """

    aligner: ParetoAligner
    prompts: Any
    eval_prompts: Any
    values: dict[str, Any]

    def fit(self) -> ParetoFront:
        """Fit the front."""
        return self.aligner.fit(self.prompts, eval_prompts=self.eval_prompts)

    def tune(self) -> TuningResult:
        """Tune the settings as the section `tuning` says; `output_dir` is the sweep's folder."""
        from pareto_align.tuning import tune

        asked = dict(self.values.get("tuning") or {})
        counts = ("trials", "seeds", "confirm_seeds", "search_seed")
        asked |= {key: whole(asked[key]) for key in counts if key in asked}
        return tune(self.aligner, self.prompts, eval_prompts=self.eval_prompts, **asked)

    def resume(self, run: str | Path) -> ParetoFront:
        """Go on with the run in a folder, which was begun with this config."""
        return self.aligner.resume(run)


def load_config(path: str | Path, overrides: Iterable[str] = (), **more: Any) -> RunConfig:
    """Build the run that a config file describes.

    The file's folder becomes importable, for reward functions that lie beside it.

    Args:
        path: The YAML file.
        overrides: `key=value` each, see `read_config`.
        **more: Keywords of `ParetoAligner` that no config holds: `callbacks`, `progress`.

    Raises:
        ConfigError: A key is unknown or missing, a value is of the wrong kind or out of range, or a reward function
            cannot be found.
        ObjectiveError: The objectives do not make a problem.
        PromptError: A prompt file cannot be read.
    """
    path = path_of(path, "path")
    values = read_config(path, overrides)
    folder = path.absolute().parent
    compares = values.get("comparisons") is not None
    kind, other = ("comparisons", "prompts") if compares else ("prompts", "comparisons")
    for key in ("model", kind, "objectives"):
        if not values.get(key):
            raise ConfigError(f"The config {path} needs `{key}`: {SECTIONS[key]}.")
    held_out, _ = _held_out(values.get("eval_prompts"))
    mixed = values.get("prompts") if compares else values.get("eval_comparisons")
    if mixed or (compares and held_out is not None):
        raise ConfigError(
            f"The config {path} learns from `{kind}`, so what it holds out, and all else that it learns from, are no "
            f"{other}. Give `comparisons` with `eval_comparisons`, or `prompts` with `eval_prompts`."
        )
    aligner = _aligner(values, folder, **more)
    prompts: Any
    eval_prompts: Any
    if compares:
        prompts = _comparisons("comparisons", values["comparisons"], folder)
        given = values.get("eval_comparisons")
        eval_prompts = None if given is None else _comparisons("eval_comparisons", given, folder)
    else:
        prompts = _prompts("prompts", values["prompts"], folder)
        eval_prompts = None if held_out is None else _prompts("eval_prompts", held_out, folder)
    # a resumed run has its prompts in its folder
    own = ("prompts", "eval_prompts", "comparisons", "eval_comparisons", "output_dir", "tuning")
    kept = {key: value for key, value in values.items() if key not in own}
    kept |= {key: getattr(aligner.loading, key) for key in ("model", "tokenizer") if kept.get(key) is not None}
    if aligner.start is not None:
        kept["start_from"] = str(aligner.start.folder)
    kept["eval_prompts"] = aligner.settings.eval_prompts
    aligner.origin = {"command": "fit", "config": kept}
    return RunConfig(aligner, prompts, eval_prompts, values)


def load_origin(origin: Any, run: str | Path) -> RunConfig:
    """Build the aligner of a run again from what its folder says about it, to resume it.

    A run folder may come from elsewhere, so nothing is imported on its word but this package's own rewards.

    Raises:
        ConfigError: The run was begun in another way, or its config names code of the user's own.
    """
    values = origin.get("config") if isinstance(origin, Mapping) else None
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"The run in {run} was begun from Python: build the same ParetoAligner and call its `resume`."
        )
    if foreign := [name for name in _code_named(values) if not _is_ours(name)]:
        raise ConfigError(
            f"The run in {run} uses code that is not this package's: {', '.join(foreign)}. It is not imported on the "
            "word of a run folder: give the file it was begun with, `--config CONFIG`."
        )
    if _trusts(values):
        raise ConfigError(f"The run in {run} trusted code that comes with a model. Say so again: `--config CONFIG`.")
    check_keys(values, [*SECTIONS, *settings_help()], str(run))
    return RunConfig(_aligner(values, Path(__file__).parents[2]), [], None, dict(values))


def _code_named(values: Mapping[str, Any]) -> list[str]:
    """Everything in a config that would be imported: rewards, also within arguments, and classes after a colon."""
    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            if isinstance(value.get("reward"), str):
                found.append(value["reward"])
            for entry in value.values():
                look(entry)
        elif isinstance(value, list):
            for entry in value:
                look(entry)

    look(values.get("objectives"))
    for section in ("weighting", "explorer", "learner", "family"):
        spec = values.get(section)
        name = spec.get("name") if isinstance(spec, Mapping) else spec
        if isinstance(name, str) and ":" in name:
            found.append(name)
    return found


def _is_ours(path: str) -> bool:
    """Whether a dotted path leads to a public reward of this package, and to nothing that its modules import."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not f"{module}.".startswith(OWN_REWARDS):
        return False
    try:
        return name in importlib.import_module(module).__all__
    except (ImportError, AttributeError):
        return False


def _trusts(values: Any) -> bool:
    """Whether `trust_remote_code` is on anywhere."""
    if isinstance(values, Mapping):
        return bool(values.get("trust_remote_code")) or any(_trusts(value) for value in values.values())
    return isinstance(values, list) and any(_trusts(value) for value in values)


def _aligner(values: Mapping[str, Any], folder: Path, **more: Any) -> ParetoAligner:
    """The aligner that checked values describe; paths and modules are looked for from `folder`."""
    _, count = _held_out(values.get("eval_prompts"))
    keywords = {key: value for key, value in values.items() if key in value_types() and key != "eval_prompts"}
    if count is not None:
        keywords["eval_prompts"] = count
    types = value_types()
    keywords = {key: checked_value(key, value, types[key]) for key, value in keywords.items()}
    Settings(**{key: value for key, value in keywords.items() if key in settings_help()})  # ranges, before any import
    for key in ("model", "tokenizer"):
        if (keywords.get(key) or "").startswith((".", "~")):
            keywords[key] = str((folder / os.path.expanduser(keywords[key])).resolve())
    if values.get("chat_template_kwargs") is not None:
        keywords["chat_template_kwargs"] = values["chat_template_kwargs"]
    objectives = _objectives(values["objectives"], folder)
    keywords |= named_parts(values, folder)
    if values.get("lora") is not None:
        keywords["lora"] = _lora(values["lora"])
    if values.get("backend") is not None:
        keywords["backend"] = _backend(values["backend"])
    if values.get("report_to") is not None:
        keywords["report_to"] = values["report_to"]
    return ParetoAligner(objectives=objectives, **keywords, **more)


def named_parts(values: Mapping[str, Any], folder: Path, *, own_code: bool = True) -> dict[str, Any]:
    """Weighting, explorer, learner and family that a config names, made.

    Args:
        values: Of the config.
        folder: Classes of the user's own are looked for from here.
        own_code: Whether those are loaded; else they are left out.

    Raises:
        ConfigError: A name or a setting is unknown, or a setting is of the wrong kind.
    """
    made: dict[str, Any] = {}

    def make_part(section: str, registered: Callable[[str], Any], base: type | tuple[type, ...]) -> None:
        spec = values[section]
        name = spec.get("name") if isinstance(spec, Mapping) else spec
        if own_code or not (isinstance(name, str) and ":" in name):
            made[section] = _named(section, spec, folder, registered, base)

    if values.get("weighting") is not None:
        make_part("weighting", make, Weighting)
    if values.get("explorer") is not None:
        make_part("explorer", make_explorer, Explorer)
    if values.get("learner") is not None:
        from pareto_align.learning.choice import check_learner
        from pareto_align.learning.credit import Credit
        from pareto_align.learning.learner import Learner

        make_part("learner", check_learner, (Learner, Credit))
    if values.get("family") is not None:
        from pareto_align.policies.families import Family, make_family

        make_part("family", make_family, (Family, type(None)))
        if "family" in made and made["family"] is None:
            made["family"] = INDEPENDENT
    return made


def _held_out(value: Any) -> tuple[Any, Any]:
    """Held-out prompts as written, and how many of them each split takes: `eval_prompts` may say either or both."""
    if isinstance(value, dict):
        rest = {key: given for key, given in value.items() if key != "count"}
        return (rest["path"] if set(rest) == {"path"} else rest or None), value.get("count")
    return (value, None) if isinstance(value, str | list) else (None, value)


def _prompts(key: str, value: Any, folder: Path) -> list[Any]:
    if isinstance(value, list):
        read_rows(value, key)
        return value
    if isinstance(value, dict):
        return read_prompt_set(value, key, folder)
    if not isinstance(value, str):
        raise ConfigError(f"`{key}` must be the path of a file, a list of prompts, or a mapping. Found {value!r}.")
    return read_prompt_file(folder / os.path.expanduser(value))


def _comparisons(key: str, value: Any, folder: Path) -> Comparisons:
    """Comparisons of a file, or of rows in the config, read as the options beside them say."""
    options = dict(value) if isinstance(value, dict) else {"path": value}
    source = options.pop("path", None)
    if isinstance(source, list):
        return Comparisons.from_rows(source, **options)
    if not isinstance(source, str):
        raise ConfigError(
            f"`{key}` must be the path of a file, a list of rows, or a mapping with `path`. Found {value!r}."
        )
    return Comparisons.read(folder / os.path.expanduser(source), **options)


def _objectives(specs: Sequence[Mapping[str, Any]], folder: Path) -> list[Objective]:
    named = set().union(*(objectives_named(spec.get("args")) for spec in specs))
    rewards: dict[str, Any] = {}
    objectives = []
    for number, spec in enumerate(specs):
        objective = _objective(number, spec, folder, rewards)
        if objective.name in named and objective.reward is not None:  # judged once for itself and all made of it
            objective = dataclasses.replace(objective, reward=shared(objective.reward))
        if objective.reward is not None:
            rewards[objective.name] = objective.reward
        objectives.append(objective)
    return objectives


def _objective(number: int, spec: Mapping[str, Any], folder: Path, rewards: Mapping[str, Any]) -> Objective:
    labelled = spec.get("prefers") is not None and spec.get("reward") is None
    for key in ("name",) if labelled else ("name", "reward"):
        if not isinstance(spec.get(key), str):
            raise ConfigError(f"`objectives.{number}` needs a `{key}`, as text. Found {spec.get(key)!r}.")
    reward = None
    if not labelled:
        reward = reward_function(spec["reward"], spec.get("args"), folder, f"Objective {spec['name']!r}", rewards)
    keywords = {key: value for key, value in spec.items() if key not in ("name", "reward", "args")}
    if "retries" in keywords:
        keywords["retries"] = whole(keywords["retries"])
    return Objective(spec["name"], reward, **keywords)


def _named(
    section: str, spec: Any, folder: Path, registered: Callable[[str], Any], base: type | tuple[type, ...]
) -> Any:
    """An instance from `name` or `{name: ..., settings}`; a name with a colon leads to a class of the user's own."""
    settings = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = settings.pop("name", DEFAULT_NAMES.get(section))
    if not isinstance(name, str):
        raise ConfigError(f"`{section}` must be a name, or a mapping with a `name`. Found {spec!r}.")
    cls = find(name, folder, f"`{section}`") if ":" in name else type(registered(name))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        bases = " or ".join(one.__name__ for one in (base if isinstance(base, tuple) else (base,)))
        raise ConfigError(f"`{section}`: {name} is no subclass of {bases}.")
    return build(cls, settings, f"`{section}` {name!r}")


def _backend(spec: Any) -> Any:
    """A backend from its name, or a mapping with it; none is looked for in code of the user's own."""
    if isinstance(spec, Mapping):
        spec = {"name": DEFAULT_NAMES["backend"], **{key: whole(value) for key, value in spec.items()}}
    return make_backend(spec)


def _lora(spec: Any) -> Any:
    """A `peft.LoraConfig`; what is left out is as in `default_lora_config`, lora_alpha in proportion to the rank."""
    from peft import LoraConfig

    from pareto_align.policies.lora_config import default_lora_config

    check_keys(spec, [field.name for field in dataclasses.fields(LoraConfig)], "`lora`")
    default = default_lora_config()
    r = checked_value("lora.r", spec.get("r", default.r), int)
    if r < 1:
        raise ConfigError(f"`lora.r` must be at least 1. Found {r}.")
    settings = {
        "r": r,
        "lora_alpha": r * default.lora_alpha // default.r,
        "target_modules": sorted(default.target_modules),
        "task_type": default.task_type,
    }
    return build(LoraConfig, settings | spec | {"r": r}, "`lora`")
