"""The study of arithmetic: `python studies/arithmetic/run.py` trains, writes results.json, README.md and the figure.

About 20 minutes on one free core, from the weights that `pretrain.py` made; a run that is in results.json is not
repeated, so it can be stopped at any time. `--methods` and `--seeds` take a part. README.md is written from report.md
and the results; `--page` does only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

import runs  # noqa: E402
from cases import METHODS, SEEDS, SETTING, SMOKE, cases, measure, untrained  # noqa: E402


def write_pages(results: dict[str, Any]) -> None:
    """README.md and the figure."""
    from figure import draw
    from page import report

    (HERE / "README.md").write_text(report(results), encoding="utf-8")
    draw(results).savefig(HERE / "fronts.png", dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    options = runs.command(__doc__, SEEDS, methods=list(METHODS)).parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = SMOKE if options.smoke else SETTING
    file = options.results or (None if options.smoke else HERE / "results.json")
    results = runs.read(file, setting)
    planned = [case.key for case in cases()]
    todo = [] if options.page else [c for c in cases(options.seeds, options.methods) if c.key not in results["runs"]]
    if todo and "untrained" not in results:
        results["untrained"] = untrained(setting)
    runs.fill(
        results,
        todo,
        lambda case: measure(case, setting),
        file=file,
        planned=planned,
        told=lambda found: f"best accuracy {max(values[0] for values in found['values']):.3f}",
    )
    if file == HERE / "results.json":
        write_pages(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
