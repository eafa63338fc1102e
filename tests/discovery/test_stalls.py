"""A policy in which nothing varies is noticed, and a better place to start from is found."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.discovery.stalls import StallMonitor, choose_parent
from pareto_align.front import Estimate, ParetoArchive

QUIET, LIVELY = 0.0, 0.1


def test_patience_steps_in_a_row_make_a_stall():
    monitor = StallMonitor(3, 3)
    assert monitor.update(np.array([QUIET, LIVELY, QUIET])) == []
    assert monitor.update(np.array([QUIET, QUIET, LIVELY])) == []
    assert monitor.update(np.array([QUIET, QUIET, QUIET])) == [0]
    assert monitor.update(np.array([QUIET, QUIET, QUIET])) == [1]


def test_one_that_could_not_be_helped_is_looked_at_again():
    monitor = StallMonitor(1, 2)
    assert [monitor.update(np.array([QUIET])) for _ in range(5)] == [[], [0], [], [0], []]


def test_a_newcomer_starts_counting_afresh():
    monitor = StallMonitor(1, 2)
    monitor.update(np.array([QUIET]))
    monitor.reset(0)
    assert monitor.update(np.array([QUIET])) == []
    assert monitor.update(np.array([QUIET])) == [0]


def archive(*entries):
    """Entries (name, values, spread) on two axes framed to [0, 1]."""
    made = ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 1])
    for name, values, spread in entries:
        estimate = Estimate(np.array(values), np.eye(2) * 1e-6, 16)
        made.offer(name, estimate, {"spread": spread}, adapter=name)
    return made


CORNER = ("corner", (1.0, 0.0), LIVELY)
KNEE = ("knee", (0.7, 0.7), LIVELY)
DEAD = ("dead", (0.75, 0.72), QUIET)


@pytest.mark.parametrize(
    ("entries", "preference", "values", "parent"),
    [
        ([CORNER, KNEE], [0.5, 0.5], [0.0, 0.9], "knee"),  # stalled in the other corner
        ([CORNER, KNEE], [1.0, 0.0], [0.0, 0.9], "corner"),
        ([CORNER, DEAD], [0.5, 0.5], [0.3, 0.95], None),  # what stalled itself is no help, the corner no better
        ([CORNER, KNEE], [0.5, 0.5], [0.9, 0.9], None),  # it serves its preference better than anyone
        ([], [0.5, 0.5], [0.0, 0.9], None),
    ],
)
def test_the_parent_serves_the_preference_best(entries, preference, values, parent):
    found = choose_parent(archive(*entries), lambda e: e.mean, np.array(preference), np.array(values))
    assert (found and found.id) == parent


def test_only_what_still_has_an_adapter_can_be_a_parent():
    held = archive(CORNER, KNEE)
    held.entries["knee"].adapter = None  # as after an eviction
    found = choose_parent(held, lambda e: e.mean, np.array([0.5, 0.5]), np.array([0.0, 0.9]))
    assert found.id == "corner"
