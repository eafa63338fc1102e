"""The command that looks at comparisons before anything is trained: `data`."""

from __future__ import annotations

import argparse
from typing import Any

from pareto_align.cli.output import print_json, say
from pareto_align.data.comparisons import Comparisons
from pareto_align.report.data_report import examine, report_lines

__all__ = ["data"]


def data(arguments: argparse.Namespace) -> None:
    """Print what a file of comparisons holds, and the front that its labels allow."""
    options: dict[str, Any] = {"format": arguments.format, "pairs": arguments.pairs, "user": arguments.user}
    if arguments.labels:
        options["labels"] = arguments.labels
    if arguments.kinds:
        options["kinds"] = dict(arguments.kinds)
    comparisons = Comparisons.read(arguments.file, **options)
    report, lines = examine(comparisons), []
    told: dict[str, Any] = {"file": arguments.file, **report.to_dict()}
    if arguments.model is not None:
        from pareto_align.policies.base import load_base
        from pareto_align.report.model_report import examine_with, model_lines

        found = examine_with(load_base(arguments.model), comparisons, beta=arguments.beta)
        told["model"], lines = found.to_dict(), ["", *model_lines(found)]
    if arguments.json:
        print_json(told)
        return
    say("\n".join([*report_lines(report), *lines]))
