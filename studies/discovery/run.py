"""The study of discovery: `python studies/discovery/run.py` trains, writes results.json, README.md and the figure.

About an hour on one free core; a run that is in results.json is not repeated, so it can be stopped at any time.
`--explorers`, `--problems` and `--seeds` take a part. README.md is written from report.md and the results; `--page`
does only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

import runs  # noqa: E402
from cases import EXPLORERS, SEEDS, SETTING, SMOKE, TASKS, cases, measure  # noqa: E402


def write_pages(results: dict[str, Any]) -> None:
    """README.md and the figure."""
    from figure import draw
    from page import report

    (HERE / "README.md").write_text(report(results), encoding="utf-8")
    draw(results).savefig(HERE / "differences.png", dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return runs.carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"explorers": EXPLORERS, "problems": sorted({problem for problem, _ in TASKS})},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"ratio {found['ratio']:.3f}",
        pages=write_pages,
    )


if __name__ == "__main__":
    raise SystemExit(main())
