"""The study of comparisons: `python studies/comparisons/run.py` trains what is missing, writes results and README.md.

Several minutes a run on one core; a run that is in results.json is not repeated, so it can be stopped at any time.
`--methods` and `--seeds` take a part. README.md and fronts.png are written from the results; `--page` does only that.
`--smoke` tries it in a few steps and writes nothing unless it is told where. The ratings are fetched by pip.
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


def write_page(results: dict[str, Any]) -> None:
    """README.md and its figure."""
    from page import draw, report

    (HERE / "README.md").write_text(report(results), encoding="utf-8")
    draw(results).savefig(HERE / "fronts.png", dpi=130)


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
        told=lambda found: f"hypervolume {found['head'][0]:.3f} by the head, {found['audit'][0]:.3f} by the audit",
        pages=write_page,
    )


if __name__ == "__main__":
    raise SystemExit(main())
