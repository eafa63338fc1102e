"""What serves a preference between the members of a front."""

from __future__ import annotations

import argparse

from pareto_align.cli.output import print_json, say
from pareto_align.errors import ConfigError
from pareto_align.gate import Gate, Routed
from pareto_align.result import ParetoFront

__all__ = ["blend"]


def blend(arguments: argparse.Namespace) -> None:
    """Print who takes part in a mixture and what is predicted of it; write it, or answer with it, where asked to."""
    if arguments.by == "routed" and arguments.out is not None:
        raise ConfigError("Members that answer prompt by prompt are no one adapter to be written: leave --out away.")
    front = ParetoFront.load(arguments.run)
    gate = None if arguments.gate is None else Gate.load(arguments.gate)
    try:
        mixed = front.mixture(arguments.prefer, by=arguments.by, gate=gate)
        answer = None if arguments.prompt is None else mixed.generate([arguments.prompt])[0]
        folder = None if arguments.out is None or isinstance(mixed, Routed) else mixed.save(arguments.out)
    finally:
        front.close()
    last = getattr(mixed, "last", {})
    if arguments.json:
        print_json({**mixed.to_dict(), "folder": folder, "completion": answer, "answers": last})
        return
    say(repr(mixed)[1:-1])
    if reason := getattr(mixed, "reason", None):
        say(reason)
    if answer is not None:
        say(answer.strip())
    if last and not isinstance(mixed, Routed):
        say(f"Disagreement: {last['disagreement']:.3f} nats, which the distance to the exact mixture does not exceed")
    if lost := getattr(mixed, "rank_error", None):
        say(f"Lost by the cut to one adapter's rank: {lost:.1%} of the update")
    if folder is not None:
        say(f"Folder: {folder}")
