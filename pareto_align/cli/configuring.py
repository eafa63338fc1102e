"""The commands for who writes configs and types commands: `config` and `completion`."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from pareto_align.cli.kinds import is_path
from pareto_align.cli.output import print_json, say
from pareto_align.cli.parser import build_parser
from pareto_align.errors import ConfigError

__all__ = ["completion", "config"]


def config(arguments: argparse.Namespace) -> None:
    """Print a config with every default written out, or the schema of all configs.

    Raises:
        ConfigError: Neither a config nor `--schema` is given, or the config is wrong.
    """
    from pareto_align.config import as_yaml, config_schema, resolved_config

    if arguments.schema:
        if arguments.config is not None or arguments.print:
            raise ConfigError("--schema is that of all configs: give no CONFIG and no --print with it.")
        print_json(config_schema())
        return
    if arguments.config is None:
        raise ConfigError("Give a CONFIG to print, or --schema.")
    values = resolved_config(arguments.config, arguments.overrides)
    if arguments.json:
        print_json(values)
    else:
        say(as_yaml(values).rstrip())


def completion(arguments: argparse.Namespace) -> None:
    """Print the script that completes this program's commands in a shell.

    Raises:
        ConfigError: shtab, which makes it, is not installed.
    """
    if find_spec("shtab") is None:
        raise ConfigError(
            "Completion needs the package shtab. Install it with `pip install 'pareto-align[completion]'`."
        )
    import shtab

    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if is_path(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(parser, shell=arguments.shell)
    if arguments.json:
        print_json({"shell": arguments.shell, "script": script})
    else:
        print(script)
