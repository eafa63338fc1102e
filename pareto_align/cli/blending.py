"""What serves a preference between the members of a front."""

from __future__ import annotations

import argparse

from pareto_align.cli.output import print_json, say
from pareto_align.result import ParetoFront

__all__ = ["blend"]


def blend(arguments: argparse.Namespace) -> None:
    """Print who takes part in a mixture and what is predicted of it; write it, or answer with it, where asked to."""
    front = ParetoFront.load(arguments.run)
    try:
        mixed = front.mixture(arguments.prefer, by=arguments.by)
        answer = None if arguments.prompt is None else mixed.generate([arguments.prompt])[0]
        folder = None if arguments.out is None else mixed.save(arguments.out)
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
    if last:
        say(f"Disagreement: {last['disagreement']:.3f} nats, which the distance to the exact mixture does not exceed")
    if lost := getattr(mixed, "rank_error", None):
        say(f"Lost by the cut to one adapter's rank: {lost:.1%} of the update")
    if folder is not None:
        say(f"Folder: {folder}")
