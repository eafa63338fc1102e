"""The archive brings its verdicts up to date; they are those of judging everything anew, on any stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_archive import PlainArchive

from pareto_align.front import Estimate, ParetoArchive, Status


def verdicts(archive: ParetoArchive) -> list[tuple[object, ...]]:
    return [
        (e.id, str(e.status), e.reason, e.rival, e.column, e.bound, e.released, e.adapter, e.measured)
        for e in archive.entries.values()
    ]


def estimate(rng: np.random.Generator, m: int, kind: str) -> Estimate:
    """A measurement on a few of 12 prompts; some exact, some equal, some without a mean or a known noise."""
    center = rng.uniform(0, 1, size=m).round(1 if kind == "coarse" else 6)
    n = int(rng.choice([1, 2, 6, 12])) if kind == "few" else 12
    if kind == "exact":
        return Estimate(center.round(1), np.zeros((m, m)), n=50)
    samples = center + rng.normal(size=(n, m)) * rng.choice([0.02, 0.2, 0.6])
    if kind == "missing":
        samples[rng.uniform(size=samples.shape) < 0.25] = np.nan
    return Estimate.from_samples(samples, rng.permutation(12)[:n].tolist())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 4),
    kind=st.sampled_from(["plain", "coarse", "few", "exact", "missing"]),
    resolution=st.sampled_from([0.0, 0.5, 2.0]),
    capacity=st.sampled_from([None, None, 3]),
    spares=st.sampled_from([None, 0, 4]),
    confidence=st.sampled_from([0.5, 0.8, 0.95]),
    carried=st.floats(0, 1),
    constrained=st.booleans(),
)
def test_a_random_stream_gets_the_same_verdicts(
    seed: int,
    m: int,
    kind: str,
    resolution: float,
    capacity: int | None,
    spares: int | None,
    confidence: float,
    carried: float,
    constrained: bool,
) -> None:
    made = {
        "axes": range(m),
        "reference": np.zeros(m),
        "scale_lower": np.zeros(m),
        "scale_upper": np.ones(m),
        "resolution": resolution,
        "capacity": capacity,
        "spares": spares,
        "confidence": confidence,
        "constraints": [(m, 0.2)] if constrained else [],
    }
    quick, plain = ParetoArchive(**made), PlainArchive(**made)
    rng = np.random.default_rng(seed)
    for step in range(40):
        again = [id for id, entry in quick.entries.items() if not entry.released]
        if again and rng.uniform() < 0.12:
            chosen = rng.choice(again, size=min(2, len(again)), replace=False)
            found = {str(id): estimate(rng, m + constrained, kind) for id in chosen}
            for archive in (quick, plain):
                archive.remeasure_all(found)
        else:
            given_, adapter = estimate(rng, m + constrained, kind), step if rng.uniform() < carried else None
            for archive in (quick, plain):
                archive.offer(f"e{step}", given_, {}, adapter)
        assert verdicts(quick) == verdicts(plain), step
        assert quick.comparisons == plain.comparisons
    assert len(quick) == len(plain)


@pytest.mark.parametrize(("m", "noise"), [(2, 0.02), (8, 0.02), (3, 0.3), (8, 0.5)])
def test_a_longer_stream_gets_the_same_verdicts(m: int, noise: float) -> None:
    made = {"axes": range(m), "reference": np.zeros(m), "scale_lower": np.zeros(m), "scale_upper": np.ones(m)}
    quick, plain = (kind(**made, resolution=2.0, spares=20) for kind in (ParetoArchive, PlainArchive))
    rng = np.random.default_rng(m)
    for step in range(150):
        direction = np.abs(rng.normal(size=m))
        center = direction / np.linalg.norm(direction) * min(1.0, 0.5 + step / 200)
        found = Estimate.from_samples(center + rng.normal(size=(16, m)) * noise, range(16))
        for archive in (quick, plain):
            archive.offer(f"e{step}", found, {}, adapter=step)
        assert verdicts(quick) == verdicts(plain), step
    assert {e.status for e in quick.entries.values()} >= {Status.MEMBER}


def test_a_stopped_archive_goes_on_with_the_same_verdicts() -> None:
    made = {"axes": range(3), "reference": np.zeros(3), "scale_lower": np.zeros(3), "scale_upper": np.ones(3)}
    quick, plain = (kind(**made, resolution=2.0, spares=5) for kind in (ParetoArchive, PlainArchive))
    rng = np.random.default_rng(0)
    for step in range(60):
        if step % 20 == 19:
            state = quick.state_dict()
            adapters = {e.id: e.adapter for e in quick.entries.values()}
            quick = ParetoArchive(**made, resolution=2.0, spares=5)
            quick.load_state_dict(state)
            for id, adapter in adapters.items():
                quick.entries[id].adapter = adapter
        found = estimate(rng, 3, "plain")
        for archive in (quick, plain):
            archive.offer(f"e{step}", found, {}, adapter=step)
        assert verdicts(quick) == verdicts(plain), step
