"""The study of real models: `python studies/real/run.py` trains what is missing, writes results.json and README.md.

Ten to twenty minutes a run on one core; a run that is in results.json is not repeated, so it can be stopped at any
time. `--methods`, `--tasks` and `--seeds` take a part. README.md is written from report.md and the results; `--page`
does only that. `--smoke` tries it in a few steps and writes nothing unless it is told where.
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
from cases import METHODS, SEEDS, SETTING, SMOKE, cases, measure  # noqa: E402
from tasks import TASKS  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    options = runs.command(__doc__, SEEDS, methods=METHODS, tasks=TASKS).parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = SMOKE if options.smoke else SETTING
    file = options.results or (None if options.smoke else HERE / "results.json")
    results = runs.read(file, setting)
    plan = cases(options.seeds, options.methods, options.tasks)
    todo = [] if options.page else [case for case in plan if case.key not in results["runs"]]
    runs.fill(
        results,
        todo,
        lambda case: measure(case, setting),
        file=file,
        planned=[case.key for case in cases()],
        told=lambda found: f"hypervolume {found['hypervolume'][0]:.3f}, {len(found['values'])} members",
    )
    if file == HERE / "results.json":
        from page import report

        (HERE / "README.md").write_text(report(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
