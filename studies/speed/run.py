"""The speed study: `python studies/speed/run.py` measures, writes results.json beside it and docs/benchmarks.md.

Each measure compares variants that take turns in one process; half an hour or more in all on 2 cores. `--only NAME ...`
measures some again and keeps the others, `--page` only writes the page from results.json, `--smoke` tries everything
on a tiny random model in seconds and writes nothing unless it is told where.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from against_dpo import dpo_equal, dpo_long, dpo_objectives
from against_peft import decode_growth, decode_mixed, decode_sequential, train_sequential
from against_trl import trl_four_prompts, trl_one_prompt
from floor import floor_decode, floor_training
from page import render
from subject import Subject
from timing import environment
from within import activated_adapters, bilevel_step, family_step, memory, objective_gradients

from pareto_align.errors import ParetoAlignWarning

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

from runs import rounded  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "benchmarks.md"

MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "trl": trl_four_prompts,
    "trl-small": trl_one_prompt,
    "dpo": dpo_equal,
    "dpo-long": dpo_long,
    "dpo-objectives": dpo_objectives,
    "decode": decode_sequential,
    "decode-mixed": decode_mixed,
    "decode-growth": decode_growth,
    "train": train_sequential,
    "family": family_step,
    "bilevel": bilevel_step,
    "gradients": objective_gradients,
    "activated": activated_adapters,
    "memory": memory,
    "floor-decode": floor_decode,
    "floor-train": floor_training,
}


def measure(name: str, subject: Subject) -> dict[str, Any]:
    """One measure, with what it was taken on."""
    torch.manual_seed(0)
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", ParetoAlignWarning)  # a way round that is slower must not pass for the package
        found = MEASURES[name](subject)
    return rounded({"model": subject.name, **found, "seconds": time.monotonic() - start, "environment": environment()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measure; cheap ones take at least 5")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the results")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model and sizes; one round")
    parser.add_argument("--results", type=Path, help="default: results.json beside this file")
    parser.add_argument("--page-file", type=Path, help="default: docs/benchmarks.md")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error(f"a median needs at least 3 rounds; found --rounds {options.rounds}")
    results_file, page_file = options.results, options.page_file
    if not options.smoke:
        results_file, page_file = results_file or HERE / "results.json", page_file or PAGE
    results: dict[str, Any] = {}
    if results_file is not None and results_file.exists():
        results = json.loads(results_file.read_text(encoding="utf-8"))
    if options.page and not results:
        parser.error("there are no results to write the page from: measure first")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    subject = Subject(smoke=options.smoke, rounds=1 if options.smoke else options.rounds)
    for name in [] if options.page else options.only or MEASURES:
        print(f"{name} ...", flush=True)
        results[name] = measure(name, subject)
        print(json.dumps({k: v.get("ratio", v) for k, v in results[name]["figures"].items()}, indent=1), flush=True)
        if results_file is not None:  # at once: the next measure may take ten minutes
            results_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if page_file is not None:
        page_file.write_text(render(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
