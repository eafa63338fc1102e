"""The study of real models: `python studies/real/run.py` trains what is missing and writes the results and their page.

Ten to twenty minutes a run on one core; a run that is in results.json is not repeated, so it can be stopped at any
time. `--methods`, `--tasks` and `--seeds` take a part. README.md is written from report.md and the results; `--page`
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
from cases import METHODS, SEEDS, SETTING, SMOKE, cases, measure  # noqa: E402
from tasks import TASKS  # noqa: E402


def write_page(results: dict[str, Any]) -> None:
    """README.md and the figure."""
    from figure import draw
    from page import report

    draw(results).savefig(HERE / "curves.png", dpi=110)
    (HERE / "README.md").write_text(report(results), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return runs.carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"methods": list(METHODS), "tasks": list(TASKS)},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"hypervolume {found['hypervolume'][0]:.3f}, {len(found['values'])} members",
        pages=write_page,
    )


if __name__ == "__main__":
    raise SystemExit(main())
