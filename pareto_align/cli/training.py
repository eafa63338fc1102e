"""The commands that train: `fit`, `demo`, `resume` and `tune`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pareto_align.cli.output import front_json, print_front, print_json, say

if TYPE_CHECKING:
    from pareto_align.result import ParetoFront

__all__ = ["demo", "fit", "resume", "tune"]


def fit(arguments: argparse.Namespace) -> None:
    """Fit a front as a config describes it, and print it."""
    from pareto_align.config import load_config

    _show(load_config(arguments.config, arguments.overrides).fit(), arguments.json)


def tune(arguments: argparse.Namespace) -> None:
    """Tune the settings of a config, and print what was found."""
    from pareto_align.config import load_config

    found = load_config(arguments.config, arguments.overrides).tune()
    if arguments.json:
        print_json(found.to_dict())
    else:
        say(found.summary())


def demo(arguments: argparse.Namespace) -> None:
    """Fit the demo's front; it prints by itself."""
    from pareto_align.demo import run_demo

    run_demo(
        arguments.output_dir,
        seed=arguments.seed,
        steps=arguments.steps,
        population=arguments.population,
        json=arguments.json,
    )


def resume(arguments: argparse.Namespace) -> None:
    """Go on with a run that was stopped or killed, and print its front."""
    from pareto_align.config import load_config, load_origin
    from pareto_align.runs.folder import read_run_record, run_folder

    folder = run_folder(arguments.run)
    origin = read_run_record(folder).get("origin")
    if arguments.config is not None:
        _show(load_config(arguments.config, arguments.overrides).resume(folder), arguments.json)
    elif isinstance(origin, dict) and origin.get("command") == "demo":
        from pareto_align.demo import run_demo

        numbers = {name: origin.get(name) for name in ("steps", "population")}
        run_demo(folder, seed=origin.get("seed", 0), **numbers, json=arguments.json, resume=True)
    else:
        _show(load_origin(origin, folder).resume(folder), arguments.json)


def _show(front: ParetoFront, json: bool) -> None:
    if json:
        print_json(front_json(front))
    else:
        print_front(front)
