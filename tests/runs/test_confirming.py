"""The report split is read once: it says how good the members are, and takes out only what it refutes."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.front import Estimate, Origin, ParetoArchive, Status, hypervolume
from pareto_align.runs.publishing import confirm


def archive(means: dict[str, tuple[float, ...]], **settings) -> ParetoArchive:
    """An archive in which all of these are members on the select split."""
    made = ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 1], **settings)
    for name, mean in means.items():
        made.offer(name, Estimate(np.array(mean), np.zeros((len(mean),) * 2), n=40), {"step": 1}, adapter=name.upper())
    assert len(made) == len(means)
    return made


def measured(*mean: float, stderr: float = 0.1) -> Estimate:
    return Estimate(np.array(mean), np.eye(len(mean)) * stderr**2, n=40)


MEMBERS = {"a": (0.9, 0.1), "b": (0.5, 0.5), "c": (0.1, 0.9)}


def test_members_stay_members_with_the_numbers_of_the_report_split() -> None:
    chosen = archive(MEMBERS)
    report = {"a": measured(0.5, 0.4), "b": measured(0.52, 0.45), "c": measured(0.1, 0.8)}
    kept, fallen = confirm(chosen, report)
    assert [e.id for e in kept] == ["a", "b", "c"] or [e.id for e in kept] == ["b", "a", "c"]
    assert fallen == []
    assert {e.id: e.estimate for e in kept} == report
    assert {e.id: e.adapter for e in kept} == {"a": "A", "b": "B", "c": "C"}
    notes = {e.id: e.origin.report for e in kept}
    assert notes["b"] is None
    assert notes["a"] == "'b' is better in the mean, but with less than 95% confidence."
    assert chosen.entries["a"].origin == Origin(1)  # the archive's own entries are left alone


def test_what_the_report_split_refutes_falls_and_says_why() -> None:
    kept, fallen = confirm(
        archive(MEMBERS), {"a": measured(0.1, 0.1, stderr=0.02), "b": measured(0.5, 0.5), "c": measured(np.nan, 1.0)}
    )
    assert [e.id for e in kept] == ["b"]
    assert {e.id: e.status for e in fallen} == {"a": Status.DOMINATED, "c": Status.INVALID}
    assert "'b' is better on every axis" in next(e.reason for e in fallen if e.id == "a")
    assert all(e.adapter is None for e in fallen)


def test_equal_members_are_not_merged_again() -> None:
    kept, fallen = confirm(archive(MEMBERS), {name: measured(0.5, 0.5) for name in MEMBERS})
    assert sorted(e.id for e in kept) == ["a", "b", "c"]
    assert fallen == []


def test_a_constraint_takes_out_who_misses_it_for_certain() -> None:
    chosen = archive({"a": (0.9, 0.1, 0.6), "b": (0.5, 0.5, 0.7), "c": (0.1, 0.9, 0.8)}, constraints=[(2, 0.5)])
    kept, fallen = confirm(
        chosen, {"a": measured(0.9, 0.1, 0.45), "b": measured(0.5, 0.5, 0.2), "c": measured(0.1, 0.9, 0.8)}
    )
    assert [e.id for e in kept] == ["a", "c"]  # 0.45 is half a standard error below its bound, 0.2 is three
    assert kept[0].origin.report == "Objective 2 has mean 0.45, below its bound 0.5."
    assert kept[1].origin.report is None
    assert [(e.id, e.status) for e in fallen] == [("b", Status.INFEASIBLE)]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_gained_or_lost_by_who_falls(seed: int) -> None:
    # the hypervolume of the means of what stays is that of everything that the select split chose
    rng = np.random.default_rng(seed)
    angles = np.linspace(0.1, 1.4, 12)
    truth = {f"p{i}": (float(np.cos(a)), float(np.sin(a))) for i, a in enumerate(angles)}
    noise = rng.uniform(0.01, 0.2)
    report = {name: measured(*(mean + noise * rng.normal(size=2)), stderr=noise) for name, mean in truth.items()}
    kept, fallen = confirm(archive(truth), report)
    assert len(kept) + len(fallen) == 12
    assert hypervolume([e.estimate.mean for e in kept], [0, 0]) == pytest.approx(
        hypervolume([e.mean for e in report.values()], [0, 0]), abs=1e-12
    )


def test_one_measurement_refutes_nobody() -> None:
    chosen = archive({"a": (0.9, 0.1, 0.6), "b": (0.5, 0.5, 0.7)}, constraints=[(2, 0.5)])
    report = {
        name: Estimate.from_samples([row], [0]) for name, row in {"a": (0.1, 0.1, 0.4), "b": (0.5, 0.5, 0.7)}.items()
    }
    kept, fallen = confirm(chosen, report)
    assert {e.id for e in kept} == {"a", "b"}
    assert fallen == []
    assert next(e for e in kept if e.id == "a").origin.report.startswith(
        "Objective 2 has mean 0.4, below its bound 0.5."
    )
