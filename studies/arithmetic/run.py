"""The study of arithmetic: `python studies/arithmetic/run.py` trains, writes results.json, README.md and the figure.

About 20 minutes on one free core, from the weights that `pretrain.py` made; a run that is in results.json is not
repeated, so it can be stopped at any time. `--methods` and `--seeds` take a part. README.md is written from report.md
and the results; `--page` does only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # of what studies share

from cases import METHODS, SEEDS, SETTING, SMOKE, cases, measure, untrained  # noqa: E402
from runs import read, write  # noqa: E402


def write_pages(results: dict[str, Any]) -> None:
    """README.md and the figure."""
    from figure import draw
    from page import report

    (HERE / "README.md").write_text(report(results), encoding="utf-8")
    draw(results).savefig(HERE / "fronts.png", dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--page", action="store_true", help="train nothing, write page and figure from the results")
    parser.add_argument("--smoke", action="store_true", help="a few steps of few completions")
    parser.add_argument("--results", type=Path, help="default: results.json beside this file; page only with that one")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = SMOKE if options.smoke else SETTING
    file = options.results or (None if options.smoke else HERE / "results.json")
    results = read(file, setting)
    planned = [case.key for case in cases()]
    todo = [] if options.page else [c for c in cases(options.seeds, options.methods) if c.key not in results["runs"]]
    if todo and "untrained" not in results:
        results["untrained"] = untrained(setting)
    started = time.monotonic()
    for number, case in enumerate(todo, 1):
        found = results["runs"][case.key] = measure(case, setting)
        minutes = (time.monotonic() - started) / 60
        best = max(values[0] for values in found["values"])
        print(f"{case.key}: best accuracy {best:.3f} ({number} of {len(todo)}, {minutes:.1f} min)", flush=True)
        if file is not None:
            write(file, results, planned)
    if file == HERE / "results.json":
        write_pages(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
