"""The commands that train: `fit` and `demo`."""

from __future__ import annotations

import argparse

from pareto_align.cli.output import front_json, print_front, print_json

__all__ = ["demo", "fit"]


def fit(arguments: argparse.Namespace) -> None:
    """Fit a front as a config describes it, and print it."""
    from pareto_align.config import load_config

    front = load_config(arguments.config, arguments.overrides).fit()
    if arguments.json:
        print_json(front_json(front))
    else:
        print_front(front)


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
