"""What a dotted path in a config leads to: reward functions, and classes of the user's own."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pareto_align.errors import ConfigError, ParetoAlignError
from pareto_align.spelling import hint

__all__ = ["build", "find", "objectives_named", "reward_function"]

_ROLLOUTS = ("prompts", "completions", "completion_ids")


def reward_function(
    path: str, arguments: Any, folder: Path, where: str, objectives: Mapping[str, Any] | None = None
) -> Any:
    """A reward function by dotted path.

    An argument of the form ``{reward: path, args: ...}`` is a reward function by dotted path itself, and one of the
    form ``{objective: name}`` is the reward of that objective; in a list, each entry may be. So rewards that are made
    of other rewards can be written down.

    Args:
        path: `module:attribute` or `module.attribute`.
        arguments: None takes a function as it is. A mapping is what a class or a maker of reward functions is called
            with; for a function that takes completions itself, it fixes further arguments. A class is always called.
        folder: Modules are looked for here first, then among those installed.
        where: How the message of an error begins.
        objectives: Rewards by the name of their objective, for arguments that name one.

    Raises:
        ConfigError: There is no such thing, or it does not take these arguments.
    """
    if arguments is not None and not isinstance(arguments, dict):
        raise ConfigError(f"{where}: `args` must map names to values. Found {arguments!r}.")
    found = find(path, folder, where)
    if not callable(found):
        raise ConfigError(f"{where}: {path} is {found!r}, which cannot be called.")
    if arguments is None and not inspect.isclass(found):
        return found
    arguments = {key: _resolved(value, folder, where, objectives or {}) for key, value in (arguments or {}).items()}
    if not inspect.isclass(found) and any(name in _ROLLOUTS for name in _parameters(found)):
        _check_arguments(found, arguments, f"{where}: {path}")
        return functools.partial(found, **arguments)
    return build(found, arguments, f"{where}: {path}")


def _resolved(value: Any, folder: Path, where: str, objectives: Mapping[str, Any]) -> Any:
    """An argument, with the rewards that it describes in place of their descriptions."""
    if isinstance(value, list):
        return [_resolved(entry, folder, where, objectives) for entry in value]
    if _is_reward(value):
        return reward_function(value["reward"], value.get("args"), folder, where, objectives)
    if not _is_objective(value):
        return value
    if value["objective"] not in objectives:
        hint = f"Above it are: {', '.join(objectives)}." if objectives else "There is none above it."
        raise ConfigError(f"{where}: `objective: {value['objective']}` must name an objective above this one. {hint}")
    return objectives[value["objective"]]


def _is_reward(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("reward"), str) and value.keys() <= {"reward", "args"}


def _is_objective(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"objective"} and isinstance(value["objective"], str)


def objectives_named(arguments: Any) -> set[str]:
    """The objectives whose rewards are named anywhere in the arguments of a reward."""
    if _is_objective(arguments):
        return {arguments["objective"]}
    entries = arguments.values() if isinstance(arguments, dict) else arguments if isinstance(arguments, list) else ()
    return set().union(*(objectives_named(entry) for entry in entries))


def build(make: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    """`make(**arguments)`.

    Raises:
        ConfigError: It does not take one of them (one that is like it is named), or refuses a value.
    """
    _check_arguments(make, arguments, where)
    try:
        return make(**arguments)
    except ParetoAlignError as error:
        named = f"{getattr(make, 'kind', '')} {getattr(make, 'name', '')!r}: "  # how a part itself begins
        raise ConfigError(f"{where}: {str(error).removeprefix(named)}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} cannot be made with {dict(arguments)}: {error}") from error


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins do not say
        return {}


def _check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            told = hint(key, parameters) if parameters else " It takes none."
            raise ConfigError(f"{where} has no setting {key!r}.{told}")


def find(path: str, folder: Path, where: str) -> Any:
    """What `module:attribute` or `module.attribute` leads to.

    Raises:
        ConfigError: The module cannot be imported, or has no such attribute (the nearest is named).
    """
    module, colon, attribute = path.partition(":")
    if not colon:
        module, _, attribute = path.rpartition(".")
    if not module or not attribute:
        raise ConfigError(
            f"{where}: {path!r} does not say where to find it. Write module:attribute, such as my_rewards:{path}."
        )
    found: Any = _import(module, folder, where)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigError(f"{where}: {path} has no {part!r}.{hint(part, names)}")
        found = getattr(found, part)
    return found


def _import(module: str, folder: Path, where: str) -> ModuleType:
    """Import a module, the config's folder first, as a script's own folder is."""
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    _forget_namesake(module.partition(".")[0], folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            raise ConfigError(f"{where}: there is no module {missing!r}, neither in {folder} nor installed.") from error
        raise ConfigError(f"{where}: {module} needs the module {missing!r}, which is not installed.") from error
    except Exception as error:  # whatever the user's own module raises
        raise ConfigError(f"{where}: importing {module} failed: {type(error).__name__}: {error}") from error


def _forget_namesake(name: str, folder: Path) -> None:
    """Two configs of one process may each have a `rewards.py`; the one that lies beside the config is meant."""
    own = (folder / f"{name}.py", folder / name / "__init__.py")
    known = getattr(sys.modules.get(name), "__file__", None)
    if known is not None and any(file.is_file() for file in own) and Path(known) not in own:
        for module in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[module]
