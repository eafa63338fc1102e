"""What studies share: their command, a file of runs that can be gone on with, and means with intervals over seeds.

Used by the studies that say so in their imports; a study puts this folder on its path.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def carry_out(
    arguments: Sequence[str] | None,
    about: str | None,
    *,
    home: Path,
    seeds: Sequence[int],
    parts: Mapping[str, Sequence[str]],
    settings: tuple[dict[str, Any], dict[str, Any]],
    cases: Callable[..., Iterable[Any]],
    measure: Callable[[Any, dict[str, Any]], dict[str, Any]],
    told: Callable[[dict[str, Any]], str],
    pages: Callable[[dict[str, Any]], None],
    before: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    file: str = "results.json",
) -> int:
    """A study's command: measure what is missing, then write its pages.

    Args:
        arguments: Of the command line; None: the process's own.
        about: What `--help` says.
        home: The study's folder.
        seeds: All that are planned.
        parts: By option, what can be chosen of the study.
        settings: Of the study, and of `--smoke`.
        cases: `cases(seeds, **chosen)` are the runs, which have a `key`; without arguments all that are planned.
        measure: The numbers of a case under a setting.
        told: What a line says of them.
        pages: Writes the pages; called where the results are the study's own.
        before: Called with results and setting before the first run that is missing.
        file: Where the study's own results are, in its folder.
    """
    options = command(about, seeds, **parts).parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    logging.getLogger("transformers").setLevel(logging.ERROR)
    setting = settings[options.smoke]
    kept = options.results or (None if options.smoke else home / file)
    results = read(kept, setting)
    plan = cases(options.seeds, **{name: getattr(options, name) for name in parts})
    todo = [] if options.page else [case for case in plan if case.key not in results["runs"]]
    if todo and before is not None:
        before(results, setting)
    planned = [case.key for case in cases()]
    fill(results, todo, lambda case: measure(case, setting), told=told, file=kept, planned=planned)
    if kept == home / file:
        pages(results)
    return 0


def command(about: str | None, seeds: Sequence[int], **parts: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a study: which seeds, which of each of its parts, and what becomes of the results."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    for name, known in parts.items():
        parser.add_argument(f"--{name}", nargs="+", choices=list(known), metavar="NAME", help=", ".join(known))
    parser.add_argument("--page", action="store_true", help="train nothing, write the page from the results")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to try it")
    parser.add_argument("--results", type=Path, help="default: results.json beside the command")
    return parser


def fill(
    results: dict[str, Any],
    todo: Sequence[Any],
    measure: Callable[[Any], dict[str, Any]],
    *,
    told: Callable[[dict[str, Any]], str],
    file: Path | None,
    planned: Sequence[str],
) -> None:
    """Measure cases, which have a `key`; each is kept at once and told in a line.

    Several commands may fill one file: what another one has kept meanwhile is taken over, and not measured again.

    Args:
        results: As `read` gives them; the runs are put in.
        todo: The cases that are missing.
        measure: The numbers of a case.
        told: What a line says of them.
        file: Where they are kept; None keeps nothing.
        planned: The keys of all cases, in order.
    """
    started = time.monotonic()
    for number, case in enumerate(todo, 1):
        take_over(results, file)
        if case.key in results["runs"]:
            continue
        found = measure(case)
        take_over(results, file)
        results["runs"][case.key] = found
        minutes = (time.monotonic() - started) / 60
        print(f"{case.key}: {told(found)} ({number} of {len(todo)}, {minutes:.1f} min)", flush=True)
        if file is not None:
            write(file, results, planned)


def take_over(results: dict[str, Any], file: Path | None) -> None:
    """Put in the runs that another command has kept since."""
    if file is not None and file.exists():
        results["runs"] |= json.loads(file.read_text(encoding="utf-8"))["runs"]


def read(file: Path | None, setting: dict[str, Any]) -> dict[str, Any]:
    """The results so far: `{"setting": ..., "runs": {key: numbers}}`.

    Args:
        file: results.json; None or a missing one holds nothing yet.
        setting: Of all runs, as JSON has it.

    Raises:
        SystemExit: The file is of another setting, so that its runs could not be compared.
    """
    if file is None or not file.exists():
        return {"setting": setting, "runs": {}}
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if results["setting"] != setting:
        raise SystemExit(f"{file} holds runs of another setting: {results['setting']}. Delete it, or write elsewhere.")
    return results


def write(file: Path, results: dict[str, Any], planned: Sequence[str]) -> None:
    """Keep the results, one line a run, in the order of the plan's keys; whole or not at all."""
    known = [key for key in planned if key in results["runs"]]
    order = [*known, *sorted(results["runs"].keys() - set(known))]
    lines = [f"  {json.dumps(key)}: {json.dumps(results['runs'][key])}" for key in order]
    head = {name: value for name, value in results.items() if name != "runs"}
    text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "runs": {\n' + ",\n".join(lines) + "\n }\n}\n"
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def rounded(value: Any) -> Any:
    """Five significant digits: more would be noise, and would change the file with every run."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


@dataclass(frozen=True)
class Spread:
    """Mean of one number over seeds, with its intervals.

    Attributes:
        mean: Over the seeds.
        low, high: 95 % of the means of resampled seeds lie between.
        wide: Half the width of Student's 95 % interval, which holds for few seeds if the numbers are normal.
    """

    mean: float
    low: float
    high: float
    wide: float

    @property
    def verdict(self) -> int:
        """1 where the bootstrap interval lies above 0, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def strict(self) -> int:
        """The same by Student's interval."""
        return int(self.mean - self.wide > 0) - int(self.mean + self.wide < 0)


def spread(values: Sequence[float]) -> Spread:
    """Mean, percentile interval of 10,000 resamples of the seeds, and Student's interval."""
    from scipy.stats import t

    numbers = np.array(values, dtype=float)
    drawn = np.random.default_rng(0).integers(len(numbers), size=(10_000, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(1), [0.025, 0.975])
    wide = t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else np.inf
    return Spread(float(numbers.mean()), float(low), float(high), float(wide))
