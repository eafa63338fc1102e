"""The commands that read comparisons and train no policy: `data` and `rewards`."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

from pareto_align.cli.output import print_json, say
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ConfigError
from pareto_align.front.files import check_new
from pareto_align.report.data_report import examine, report_lines

__all__ = ["data", "rewards"]


def data(arguments: argparse.Namespace) -> None:
    """Print what a file of comparisons holds, and the front that its labels allow."""
    comparisons = _read(arguments)
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


def rewards(arguments: argparse.Namespace) -> None:
    """Learn rewards from a file of comparisons and write them to a folder."""
    from pareto_align.learning.rewards import fit_rewards

    passes = {} if arguments.passes is None else {"passes": arguments.passes}
    if passes and not arguments.lora:
        raise ConfigError("`--passes` is how often adapters read the file. Give `--lora` as well, or leave it out.")
    check_new(arguments.out)
    comparisons = _read(arguments)
    found = fit_rewards(
        arguments.model,
        comparisons,
        kind=arguments.kind,
        objective=arguments.objective,
        groups=arguments.groups,
        seed=arguments.seed,
        **({"lora": True, **passes} if arguments.lora else {}),
    )
    folder = found.save(arguments.out)
    if arguments.json:
        print_json({"folder": str(folder), "names": list(found.names), "report": [asdict(one) for one in found.report]})
        return
    for one in found.report:
        what = "R squared" if math.isnan(one.error) else "accuracy"
        rest = "" if math.isnan(one.error) else f", cross-entropy {one.cross_entropy:.3f}, calibration {one.error:.3f}"
        say(f"{one.name}: {what} {one.accuracy:.2f} of {one.n} held out{rest}")
    say(f"\n{', '.join(found.names)}: in {folder}")


def _read(arguments: argparse.Namespace) -> Comparisons:
    options: dict[str, Any] = {"format": arguments.format, "pairs": arguments.pairs, "user": arguments.user}
    if arguments.labels:
        options["labels"] = arguments.labels
    if arguments.kinds:
        options["kinds"] = dict(arguments.kinds)
    return Comparisons.read(arguments.file, **options)
