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
    report = examine(Comparisons.read(arguments.file, **options))
    if arguments.json:
        print_json({"file": arguments.file, **report.to_dict()})
        return
    say("\n".join(report_lines(report)))
