"""Which interval of a mean holds its 95 %? `python studies/intervals/run.py` writes results.json and README.md here.

1000 samples of every kind and size take about five minutes on one core; `--samples 50` is a first look. The tables of
README.md are made of the results, its text is report.md; `--page` does only that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from methods import BOUNDED, METHODS, doubtful, student

HERE = Path(__file__).parent
SIZES = (3, 8, 16, 64, 200)
SAMPLES = 1000


def rare_failure(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A score near .9 that is 0 once in fifty: mean .98 * .9."""
    return np.where(rng.random(shape) < 0.02, 0.0, rng.uniform(0.8, 1.0, shape))


REWARDS: dict[str, tuple[float, bool, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]]] = {
    "normal": (0.0, False, lambda rng, shape: rng.normal(size=shape)),
    "exponential": (1.0, False, lambda rng, shape: rng.exponential(size=shape)),
    "lognormal, s = 1.5": (float(np.exp(1.125)), False, lambda rng, shape: rng.lognormal(0.0, 1.5, shape)),
    "t with 3 degrees": (0.0, False, lambda rng, shape: rng.standard_t(3, shape)),
    "binary, 50 %": (0.5, True, lambda rng, shape: (rng.random(shape) < 0.5) * 1.0),
    "binary, 10 %": (0.1, True, lambda rng, shape: (rng.random(shape) < 0.1) * 1.0),
    "binary, 2 %": (0.02, True, lambda rng, shape: (rng.random(shape) < 0.02) * 1.0),
    "beta(.2, .2)": (0.5, True, lambda rng, shape: rng.beta(0.2, 0.2, shape)),
    "beta(20, 20)": (0.5, True, lambda rng, shape: rng.beta(20, 20, shape)),
    "rare failure": (0.882, True, rare_failure),
}
"""The true mean, whether values lie in [0, 1], and how samples [R, n] are drawn."""


def study(samples: int, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Coverage and mean width of every method, by rewards and size; how often the product doubts Student's interval."""
    found: dict[str, Any] = {}
    for number, (name, (mean, bounded, draw)) in enumerate(REWARDS.items()):
        for n in sizes:
            x = draw(np.random.default_rng([number, n]), (samples, n))
            row: dict[str, Any] = {}
            for method, interval in METHODS.items():
                if bounded or method not in BOUNDED:
                    low, high = interval(x)
                    # what is covered up to rounding is covered
                    covered = (low <= mean + 1e-12) & (mean - 1e-12 <= high)
                    row[method] = [round(float(covered.mean()), 4), round(float((high - low).mean()), 5)]
            low, high = student(x)
            trusted = ~doubtful(x)
            held = ((low <= mean) & (mean <= high))[trusted]
            row["doubted"] = round(float((~trusted).mean()), 4)
            row["Student, not doubted"] = round(float(held.mean()), 4) if trusted.any() else None
            found[f"{name} | {n}"] = row
    return found


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def coverage_table(results: dict[str, Any], bounded: bool) -> list[str]:
    """Coverage in percent, and width as a multiple of Student's, a row for each kind of rewards and size."""
    methods = [name for name in METHODS if bounded or name not in BOUNDED]
    last = [] if bounded else ["doubted", "Student, where not doubted"]
    lines = [
        f"| rewards | n | {' | '.join([*methods, *last])} |",
        f"|---|---|{'---|' * (len(methods) + len(last))}",
    ]
    for name, (_, kind, _) in REWARDS.items():
        if kind != bounded:
            continue
        for n in results["sizes"]:
            row = results["runs"][f"{name} | {n}"]
            cells = [f"{_percent(row[method][0])} ({row[method][1]:.2g})" for method in methods]
            if last:
                cells += [_percent(row["doubted"]), _percent(row["Student, not doubted"])]
            lines.append(f"| {name} | {n} | {' | '.join(cells)} |")
    return lines


def product_table(results: dict[str, Any]) -> list[str]:
    """What 0.1.0 published and what is published now, in percent."""
    sizes = results["sizes"]
    lines = [f"| rewards | {' | '.join(f'n = {n}' for n in sizes)} |", f"|---|{'---|' * len(sizes)}"]
    for name, (_, bounded, _) in REWARDS.items():
        cells = []
        for n in sizes:
            row = results["runs"][f"{name} | {n}"]
            if bounded:
                cells.append(f"{_percent(row['Student'][0])} → {_percent(row['Gaffke'][0])}")
            else:
                cells.append(f"{_percent(row['Student'][0])}, doubted in {round(100 * row['doubted'])} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def page(results: dict[str, Any]) -> str:
    """README.md."""
    template = Template((HERE / "report.md").read_text(encoding="utf-8"))
    return template.substitute(
        product="\n".join(product_table(results)),
        bounded="\n".join(coverage_table(results, bounded=True)),
        unbounded="\n".join(coverage_table(results, bounded=False)),
        samples=results["samples"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of every kind of rewards and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--page", action="store_true", help="run nothing, write README.md from the results")
    options = parser.parse_args(arguments)
    if options.page:
        results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    else:
        runs = study(options.samples, options.sizes)
        results = {"samples": options.samples, "sizes": options.sizes, "runs": runs}
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in runs.items())
        head = json.dumps({"samples": options.samples, "sizes": options.sizes})[:-1]
        (options.out / "results.json").write_text(f'{head}, "runs": {{\n{lines}\n}}}}\n', encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
