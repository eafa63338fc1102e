"""The study of arithmetic: `python studies/arithmetic/run.py` trains, writes results.json, README.md and the figure.

About 20 minutes on one free core, from the weights that `pretrain.py` made; a run that is in results.json is not
repeated, so it can be stopped at any time. `--methods` and `--seeds` take a part. README.md is written from report.md
and the results; `--page` does only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
"""

from __future__ import annotations

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


def measure_untrained(results: dict[str, Any], setting: dict[str, Any]) -> None:
    """The model before any fit, once."""
    if "untrained" not in results:
        results["untrained"] = untrained(setting)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return runs.carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"methods": list(METHODS)},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"best accuracy {max(values[0] for values in found['values']):.3f}",
        pages=write_pages,
        before=measure_untrained,
    )


if __name__ == "__main__":
    raise SystemExit(main())
