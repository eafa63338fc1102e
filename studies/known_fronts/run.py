"""The study of known fronts: `python studies/known_fronts/run.py` trains, writes results.json, tables and the figure.

About an hour on one free core; a run that is in results.json is not repeated, so it can be stopped at any time.
`--methods`, `--problems` and `--seeds` take a part, `--jobs` several at a time. README.md and the page of the docs
are written from report.md, page.md and the results; `--page` does only that. `--smoke` tries it in a few steps and
writes nothing unless it is told where.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cases import PLAN, SEEDS, SETTING, SMOKE, Case, cases, measure

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "choosing-a-weighting.md"


def done(todo: Sequence[Case], setting: dict[str, Any], jobs: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Results as they come."""
    if jobs == 1:
        for case in todo:
            yield case, measure(case, setting)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they load torch
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, case, setting): case for case in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def read(file: Path | None, setting: dict[str, Any]) -> dict[str, Any]:
    """The results so far.

    Raises:
        SystemExit: They are of another setting, so that they could not be compared.
    """
    if file is None or not file.exists():
        return {"setting": setting, "runs": {}}
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if results["setting"] != setting:
        raise SystemExit(f"{file} holds runs of another setting: {results['setting']}. Delete it, or write elsewhere.")
    return results


def write(file: Path, results: dict[str, Any]) -> None:
    """Keep the results, one line a run, in the order of the plan."""
    order = {(problem, method): number for number, (problem, method) in enumerate(PLAN)}

    def place(key: str) -> tuple[int, int]:
        problem, method, seed = key.split("/")
        return order.get((problem, method), len(order)), int(seed)

    lines = [f"  {json.dumps(key)}: {json.dumps(results['runs'][key])}" for key in sorted(results["runs"], key=place)]
    head = {name: value for name, value in results.items() if name != "runs"}
    text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "runs": {\n' + ",\n".join(lines) + "\n }\n}\n"
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def write_pages(results: dict[str, Any]) -> None:
    """README.md, the page of the documentation, and the figure."""
    from figure import draw
    from page import choosing, report

    (HERE / "README.md").write_text(report(results), encoding="utf-8")
    PAGE.write_text(choosing(results), encoding="utf-8")
    draw(results).savefig(HERE / "fronts.png", dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    known_methods, known_problems = (sorted({pair[i] for pair in PLAN}) for i in (1, 0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=known_methods, metavar="METHOD", help=", ".join(known_methods))
    parser.add_argument("--problems", nargs="+", choices=known_problems, metavar="NAME", help=", ".join(known_problems))
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--page", action="store_true", help="train nothing, write pages and figure from the results")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a few policies")
    parser.add_argument("--results", type=Path, help="default: results.json beside this file; pages only with that one")
    options = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = SMOKE if options.smoke else SETTING
    file = options.results or (None if options.smoke else HERE / "results.json")
    results = read(file, setting)
    todo = [case for case in cases(options.seeds, options.methods, options.problems) if case.key not in results["runs"]]
    started = time.monotonic()
    for number, (case, found) in enumerate(done([] if options.page else todo, setting, options.jobs), 1):
        results["runs"][case.key] = found
        minutes = (time.monotonic() - started) / 60
        print(f"{case.key}: ratio {found['ratio']:.3f} ({number} of {len(todo)}, {minutes:.1f} min)", flush=True)
        if file is not None:
            write(file, results)
    if file == HERE / "results.json":
        write_pages(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
