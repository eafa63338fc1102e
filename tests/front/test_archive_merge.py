"""Archives that were kept apart and merged are one archive that was offered everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_align.errors import ConfigError
from pareto_align.front import Estimate, ParetoArchive, Status


def archive(m: int = 2, **more) -> ParetoArchive:
    return ParetoArchive(range(m), reference=np.zeros(m), scale_lower=np.zeros(m), scale_upper=np.ones(m), **more)


def policies(count: int, m: int, seed: int) -> list[Estimate]:
    """Noisy measurements on shared prompts; some are exactly equal."""
    rng = np.random.default_rng(seed)
    means = rng.choice([0.2, 0.4, 0.6, 0.8], (count, m)) + rng.choice([0.0, 0.03], (count, m))
    return [Estimate.from_samples(mean + 0.1 * rng.normal(size=(16, m)).round(1), range(16)) for mean in means]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_members_are_those_of_one_archive(count: int, m: int, parts: int, seed: int) -> None:
    found = policies(count, m, seed)
    where = np.sort(np.random.default_rng(seed).integers(0, parts, count))
    whole, apart = archive(m), [archive(m) for _ in range(parts)]
    for number, (estimate, part) in enumerate(zip(found, where, strict=True)):
        whole.offer(f"e{number}", estimate, {"step": number}, f"adapter {number}")
        apart[part].offer(f"e{number}", estimate, {"step": number}, f"adapter {number}")
    merged = archive(m)
    merged.merge(apart)
    assert [(e.id, e.adapter) for e in merged.members()] == [(e.id, e.adapter) for e in whole.members()]
    assert merged.hypervolume() == whole.hypervolume()
    assert merged.entries.keys() == whole.entries.keys()
    several = archive(m)
    for one in apart:  # one after another as well as at once
        several.merge([one])
    assert [e.id for e in several.members()] == [e.id for e in whole.members()]


def test_what_is_merged_stays_as_it_was_and_the_verdicts_are_anew() -> None:
    one, other = archive(), archive()
    exact = np.zeros((2, 2))
    one.offer("low", Estimate(np.array([0.2, 0.2]), exact, 100), {}, "adapter")
    other.offer("high", Estimate(np.array([0.8, 0.8]), exact, 100), {})
    merged = archive()
    merged.merge([one, other])
    assert merged.entries["low"].status is Status.DOMINATED
    assert merged.entries["low"].adapter is None
    assert one.entries["low"].status is Status.MEMBER
    assert one.entries["low"].adapter == "adapter"
    assert merged.offer("between", Estimate(np.array([0.9, 0.5]), exact, 100), {}) is Status.MEMBER


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (archive(3), "same axes"),
        (archive(constraints=[(1, 0.5)]), "constraints"),
        (ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 2]), "scale"),
    ],
    ids=["axes", "constraints", "scale"],
)
def test_archives_in_other_frames_are_refused(other: ParetoArchive, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        archive().merge([other])


def test_two_entries_of_one_name_are_refused_and_nothing_is_changed() -> None:
    one, other = archive(), archive()
    for each in (one, other):
        each.offer("same", policies(1, 2, 0)[0], {})
    merged = archive()
    with pytest.raises(ConfigError, match="'same'"):
        merged.merge([one, other])
    assert not merged.entries
