"""Front records built by hand, small enough to check by eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pareto_align.front.estimates import Estimate
from pareto_align.front.storage import FrontRecord, MemberRecord, ObjectiveRecord


def objective(
    name: str,
    *,
    maximize: bool = True,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    role: str = "optimize",
    frame: tuple[float, float] | None = None,
    **more: Any,
) -> ObjectiveRecord:
    """An objective whose frozen frame is its bounds, in maximised units, unless `frame` says otherwise."""
    low, high = frame or bounds or (0.0, 1.0)
    lower, upper = (low, high) if maximize else (-high, -low)
    fields: dict[str, Any] = {"at_least": None, "at_most": None, "description": "", **more}
    return ObjectiveRecord(name=name, role=role, maximize=maximize, lower=lower, upper=upper, bounds=bounds, **fields)


def estimate(mean: Sequence[float], stderr: Sequence[float] | float = 0.01, n: int = 64) -> Estimate:
    """An estimate in maximised units with independent errors and no samples."""
    spread = np.broadcast_to(np.asarray(stderr, dtype=float), (len(mean),))
    return Estimate(np.array(mean, dtype=float), np.diag(spread**2), n)


def paired(means: Sequence[Sequence[float]], *, prompts: int = 64, noise: float = 0.1, seed: int = 0) -> list[Estimate]:
    """Estimates of several policies on the same prompts, whose difficulty they share; means are exact."""
    rng = np.random.default_rng(seed)
    m = len(means[0])
    shared = rng.normal(size=(prompts, m)) * 2 * noise
    found = []
    for mean in means:
        rows = shared + rng.normal(size=(prompts, m)) * noise
        found.append(Estimate.from_samples(rows - rows.mean(axis=0) + np.array(mean), tuple(range(prompts))))
    return found


def record(
    objectives: Sequence[ObjectiveRecord],
    estimates: Sequence[Estimate],
    preferences: Sequence[Sequence[float] | None] | None = None,
    *,
    ids: Sequence[str] | None = None,
    **more: Any,
) -> FrontRecord:
    """A front; everything in maximised units."""
    spanning = [o for o in objectives if o.role == "optimize"]
    names = list(ids) if ids is not None else [f"p{k}-s40" for k in range(len(estimates))]
    members = []
    for k, (name, found) in enumerate(zip(names, estimates, strict=True)):
        weights = None if preferences is None else preferences[k]
        members.append(
            MemberRecord(
                id=name,
                estimate=found,
                preference=None if weights is None else [float(w) for w in weights],
                provenance={"step": 40, "policy": k},
                adapter=f"members/{name}",
                files={},
                sample=[{"prompt": "Say hello.", "completion": f"Hello from {name}."}],
            )
        )
    fields: dict[str, Any] = {
        "schema_version": 1,
        "base": {"name": "acme/tiny-llama", "dtype": "float32", "chat_template_used": True},
        "split": "report",
        "reference": [0.0] * len(spanning),
        "reference_policy": None,
        "fallen": [],
        "cost": {"seconds": 512.25, "reward_calls": 20480},
        "config": {"max_new_tokens": 16},
        "created": "2024-05-01T12:00:00+00:00",
        **more,
    }
    return FrontRecord(objectives=list(objectives), members=members, **fields)


def tone_and_length(**more: Any) -> FrontRecord:
    """Three members: tone in [0, 1] to maximise, length in [0, 100] words to minimise, toxicity audited.

    In the user's units the members stand at (tone, length) = (0.8, 60), (0.6, 30), (0.3, 10): a front.
    """
    objectives = [
        objective("tone"),
        objective("length", maximize=False, bounds=(0.0, 100.0)),
        objective("toxicity", maximize=False, role="audit"),
    ]
    estimates = [
        estimate([0.8, -60.0, -0.02], [0.02, 3.0, 0.004]),
        estimate([0.6, -30.0, -0.05], [0.02, 2.0, 0.004]),
        estimate([0.3, -10.0, -0.01], [0.02, 1.0, 0.004]),
    ]
    return record(objectives, estimates, [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], ids=["a", "b", "c"], **more)
