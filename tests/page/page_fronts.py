"""Fronts to make pages of: any number of members and objectives, on shared prompts or not, well named or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the builders that tests/report has, too

from front_records import estimate, objective, record

from pareto_align.front import Estimate, write_front
from pareto_align.front.storage import FrontRecord
from pareto_align.result import ParetoFront

PROMPTS = ["My train is late again. What now?", "Explain photosynthesis to a child.", "Is it safe to mix them?"]
LONG = "how helpful a careful reader of sixty characters finds it"


def front_record(
    n: int,
    m: int,
    *,
    constraint: bool = False,
    names: Sequence[str] | None = None,
    prompts: int | None = 48,
    seed: int = 0,
    fallen: int = 3,
    words: int = 30,
) -> FrontRecord:
    """A round front of n members over m objectives, the second of which is minimised.

    With `constraint` there is a minimised one that has a threshold, and a maximised one that is audited. Without
    `prompts` the members are measured independently of each other. Of many members the rewards are not declared to be
    bounded: intervals that hold for any bounded rewards take long.
    """
    rng = np.random.default_rng(seed)
    names = list(names) if names is not None else ["tone", "length", "facts", "style", "care"][:m]
    objectives = []
    for j, name in enumerate(names):
        frame = (0.0, 100.0) if j == 1 else (0.0, 1.0)
        objectives.append(objective(name, maximize=j != 1, bounds=frame if n < 20 else None, frame=frame))
    weights = (
        rng.dirichlet(np.ones(m), n) if m > 2 else np.stack([np.linspace(0, 1, n), 1 - np.linspace(0, 1, n)][:m], 1)
    )
    place = np.sqrt(weights) / np.maximum(np.linalg.norm(np.sqrt(weights), axis=1, keepdims=True), 1e-9)
    values = 0.2 + 0.6 * place + rng.normal(0, 0.01, place.shape)
    if constraint:
        objectives.append(objective("harm", maximize=False, role="constrain", at_most=0.3))
        objectives.append(objective("variety", role="audit", bounds=None))
        values = np.column_stack([values, -0.4 + 0.3 * rng.random(n), 0.5 + 0.2 * rng.random(n)])
    low, high = np.array([o.lower for o in objectives]), np.array([o.upper for o in objectives])
    scaled = np.where(np.array([o.role == "optimize" for o in objectives]), low + values * (high - low), values)
    spread = 0.05 * (high - low)

    def estimates(means: np.ndarray) -> list[Estimate]:
        if prompts is None:
            return [estimate(mean, 0.1 * spread, n=12) for mean in means]
        shared = rng.normal(size=(prompts, len(objectives))) * 4
        rows = [(shared + rng.normal(size=shared.shape)) * spread for _ in means]
        return [
            Estimate.from_samples(np.clip(r - r.mean(0) + mean, low, high), tuple(range(prompts)))
            for r, mean in zip(rows, means, strict=True)
        ]

    found = estimates(np.vstack([scaled, low + 0.2 * (high - low)]))
    preferences = [[float(w) for w in row] if row.sum() > 0 else None for row in weights]
    made = record(
        objectives, found[:-1], preferences, ids=[f"m{7 * k:04d}" for k in range(n)],
        reference_policy=found[-1], config={"weighting": "chebyshev", "reading": "place"},
        fallen=[
            {"id": f"m9{k:03d}", "values": [0.1] * len(objectives), "stderr": [0.1] * len(objectives),
             "reason": f"m0000 is better on every axis ({k}).", "split": "report", "status": "dominated"}
            for k in range(fallen)
        ],
    )  # fmt: skip

    def answers(who: str) -> list[dict[str, Any]]:
        return [
            {
                "prompt": prompt,
                "completion": f"{who} says: " + "words " * words,
                "prompt_id": i,
                "rewards": [0.5] * len(objectives),
            }
            for i, prompt in enumerate(PROMPTS)
        ]

    return replace(
        made,
        members=[replace(member, sample=answers(member.id)) for member in made.members],
        reference_sample=answers("untrained"),
    )


def journal(steps: int = 6) -> list[dict[str, Any]]:
    """What a run that comes to rest writes down."""
    told = []
    for s in range(steps):
        value = 0.6 - 0.5 / (s + 1)
        ends = {"hypervolume_low": value - 0.05, "hypervolume_high": value + 0.05}
        told.append({"event": "evaluation", "step": 10 * s, "hypervolume": value, **ends, "open_verdicts": 2})
    return told


def on_disk(made: FrontRecord, run: Path, history: Sequence[dict[str, Any]] = ()) -> ParetoFront:
    """The front as somebody loads it."""

    def adapter(name: str, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(bytes(16))

    write_front(run / "front", made, adapter)
    if history:
        (run / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))
    return ParetoFront.load(run)
