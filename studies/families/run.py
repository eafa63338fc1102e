"""The study of families: `python studies/families/run.py` trains what is missing, writes results.json and README.md.

About an hour on one free core; a run that is in results.json is not repeated, so it can be stopped at any time.
`--methods`, `--problems` and `--seeds` take a part. README.md is written from report.md and the results; `--page` does
only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

import runs  # noqa: E402
from cases import METHODS, PROBLEMS, SEEDS, SETTING, SMOKE, cases, measure  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    options = runs.command(__doc__, SEEDS, methods=METHODS, problems=PROBLEMS).parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = SMOKE if options.smoke else SETTING
    file = options.results or (None if options.smoke else HERE / "results.json")
    results = runs.read(file, setting)
    plan = cases(options.seeds, options.methods, options.problems)
    todo = [] if options.page else [case for case in plan if case.key not in results["runs"]]
    runs.fill(
        results,
        todo,
        lambda case: measure(case, setting),
        file=file,
        planned=[case.key for case in cases()],
        told=lambda found: f"ratio {found['ratio']:.3f}, unseen {found['unseen']:.3f}",
    )
    if file == HERE / "results.json":
        from page import report

        (HERE / "README.md").write_text(report(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
