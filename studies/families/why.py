"""Why a family learns more: `python studies/families/why.py` varies one thing at a time, writes why.json and README.md.

The known front `contexts-3` under linear weights, where what a preference could have is known: a family and policies of
their own with as many ranks in all, 8 preferences x 32 answers, 100 steps. Each variant changes one thing. An hour
on one free core; a run that is in why.json is not repeated. `--variants` and `--seeds` take a part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

import runs  # noqa: E402
from cases import CENTRED, SETTING, SMOKE, fitted  # noqa: E402

SEEDS = (0, 1, 2)
PROBLEM = "contexts-3"
OBJECTIVES = 3

FAMILY: dict[str, Any] = {"family": CENTRED, "weighting": "fixed"}
ALONE: dict[str, Any] = {"weighting": "fixed", "rank": 1 + OBJECTIVES}
SIDES = {"family": FAMILY, "independent": ALONE}
"""With as many ranks in all: a block for what is shared and one an objective."""

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    **{f"steps {n}": {"contexts_steps": n} for n in (10, 25, 50, 200)},
    **{f"K {k}": {"population": k, "group_size": 256 // k} for k in (4, 16)},
    **{f"answers {n}": {"group_size": n} for n in (8, 128)},
    **{f"ranks {4 * r}": {"rank": r} for r in (2, 16)},
    **{f"rate {rate}": {"learning_rate": rate} for rate in (0.0007, 0.006)},
}
"""What differs from the setting, for both sides. `K` keeps the answers a step; `ranks` are those in all."""

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{side}, {name}": (change, method) for side, method in SIDES.items() for name, change in CHANGES.items()
} | {
    "independent, all answers each": ({"group_size": 256}, ALONE),
    "independent, all steps each": ({"contexts_steps": 800}, ALONE),
    "family, preferences that stay": ({}, FAMILY | {"explorer": "grid"}),
    "family, nothing shared": ({}, FAMILY | {"family": CENTRED | {"shared": 0, "each": 11}}),
    "family, one rank an objective": ({}, FAMILY | {"family": CENTRED | {"shared": 29, "each": 1}}),
}
"""Setting and method of each. `each`: every policy has as much as the whole family, eight times the budget."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        variant: Of VARIANTS.
        seed: Of model, noise and run.
    """

    variant: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.variant}/{self.seed}"


def cases(seeds: Sequence[int] = SEEDS, variants: Sequence[str] | None = None) -> Iterator[Case]:
    """All runs, or those of some variants; seed by seed."""
    return (Case(name, seed) for seed in seeds for name in VARIANTS if variants is None or name in variants)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run, see `fitted`."""
    change, method = VARIANTS[case.variant]
    if setting == SMOKE:
        change = {name: SMOKE[name] for name in change}
        method = method | ({"family": CENTRED} if "family" in method else {})
    return fitted(PROBLEM, case.seed, setting | change, method)


def write_page(_: dict[str, Any]) -> None:
    """README.md, which has the results of both commands."""
    from run import write_page as write_both

    write_both(runs.read(HERE / "results.json", SETTING))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return runs.carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"variants": list(VARIANTS)},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"own {found['own']:.3f}, unseen {found['unseen']:.3f}",
        pages=write_page,
        file="why.json",
    )


if __name__ == "__main__":
    raise SystemExit(main())
