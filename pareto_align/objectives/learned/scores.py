"""What was learned from comparisons, as scores of new responses by their features; saved to a folder and read again.

The folder holds `rewards.json`, which a person can read, and `rewards.safetensors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.files import write_whole
from pareto_align.objectives.learned.embeddings import Embeddings, skew
from pareto_align.objectives.learned.heads import HeadReport, Heads
from pareto_align.objectives.learned.ideal_points import IdealPoints
from pareto_align.objectives.learned.mixture import Mixture

__all__ = ["KINDS", "Scores", "read_scores"]

FloatArray = NDArray[np.float64]
Model = Heads | Mixture | IdealPoints | Embeddings

KINDS = ("bt", "regression", "mixture", "pal", "gpm")
"""Bradley-Terry heads, ridge regression on ratings, groups of users, ideal points, preference embeddings."""

VERSION = 1


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of responses by their features.

    Attributes:
        kind: One of `KINDS`.
        names: What each of the q scores is called.
        center: `[d]` what is taken from features.
        scale: `[d]` what they are divided by then.
        model: What was fitted to such features.
        report: How good it is on prompts that were held out; of "mixture" all users first, then those of each group.
        pool: `[p, 2k]` embeddings of the answers that "gpm" compares a new one with; None of other kinds.
        facts: More that is worth keeping, in JSON's own types: the model whose states the features are.
        adapted: Each head reads with an adapter of its own, and has features of its own.
    """

    kind: str
    names: tuple[str, ...]
    center: FloatArray
    scale: FloatArray
    model: Model
    report: tuple[HeadReport, ...]
    pool: FloatArray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    adapted: bool = False

    def standardised(self, features: ArrayLike) -> FloatArray:
        """Features `[n, d]` in the unit that the model was fitted to."""
        return np.asarray((np.asarray(features, dtype=np.float64) - self.center) / self.scale)

    def of(self, features: ArrayLike) -> FloatArray:
        """Scores `[n, q]` of responses with features `[n, d]`, `[q, n, d]` where each score reads with its own adapter.

        One unit is one unit of log odds; ratings have their own unit, and "gpm" gives the log odds of being preferred
        to an answer of the pool, in the mean over them.
        """
        h = self.standardised(features)
        if self.adapted:
            assert isinstance(self.model, Heads)
            return self.model.own_scores(h)
        if isinstance(self.model, Embeddings):
            assert self.pool is not None
            score = skew(self.model.embed(with_one(h))[:, None], self.pool[None]) / self.model.tau
            return np.asarray(score.mean(1, keepdims=True))
        return self.model.scores(h)

    def save(self, folder: Path) -> None:
        """Write `rewards.json` and `rewards.safetensors` to a folder, which is made where there is none.

        Raises:
            ConfigError: Users are neither texts nor numbers.
        """
        from safetensors.numpy import save

        arrays: dict[str, FloatArray] = {"center": self.center, "scale": self.scale}
        if self.pool is not None:
            arrays["pool"] = self.pool
        told: dict[str, Any] = {}
        for name, value in vars(self.model).items():
            if isinstance(value, np.ndarray):
                arrays[f"model.{name}"] = value
            elif name not in ("report", "names"):
                told[name] = list(value) if isinstance(value, tuple) else value
        users = told.get("users", [])
        if not all(isinstance(user, str | int | float) for user in users):
            raise ConfigError("Users can be written where they are texts or numbers. Name them so, and fit again.")
        record = {
            "version": VERSION,
            "kind": self.kind,
            "names": list(self.names),
            "model": told,
            "report": [{k: _number(v) for k, v in asdict(one).items()} for one in self.report],
            "facts": dict(self.facts),
            "adapted": self.adapted,
        }
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
        write_whole(folder / "rewards.safetensors", save(tensors))
        write_whole(folder / "rewards.json", (json.dumps(record, indent=1) + "\n").encode())


def read_scores(folder: Path) -> Scores:
    """What `Scores.save` wrote. Nothing that is read is run.

    Raises:
        FrontFileError: There is no such thing in the folder, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        record = json.loads((folder / "rewards.json").read_text(encoding="utf-8"))
        arrays = {k: v.astype(np.float64) for k, v in load((folder / "rewards.safetensors").read_bytes()).items()}
        if record["version"] != VERSION or record["kind"] not in KINDS:
            raise FrontFileError(
                f"{folder} holds rewards of kind {record['kind']!r}, version {record['version']!r}, which this release "
                "does not know."
            )
        own = {name.removeprefix("model."): array for name, array in arrays.items() if name.startswith("model.")}
        told: list[dict[str, Any]] = [
            {k: math.nan if v is None else v for k, v in one.items()} for one in record["report"]
        ]
        report = tuple(HeadReport(**one) for one in told)
        names = tuple(str(name) for name in record["names"])
        return Scores(
            record["kind"],
            names,
            arrays["center"],
            arrays["scale"],
            _model(record["kind"], own, record["model"], names, report),
            report,
            arrays.get("pool"),
            dict(record["facts"]),
            bool(record.get("adapted", False)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise FrontFileError(f"{folder} holds no learned rewards that can be read: {error!r:.200}.") from error


def _model(
    kind: str, arrays: Mapping[str, Any], told: Mapping[str, Any], names: tuple[str, ...], report: Sequence[HeadReport]
) -> Model:
    if kind in ("bt", "regression"):
        return Heads(names=names, report=tuple(report), **arrays)
    users: tuple[Hashable, ...] = tuple(told.get("users", ()))
    if kind == "mixture":
        return Mixture(users=users, likelihood=float(told["likelihood"]), steps=int(told["steps"]), **arrays)
    if kind == "pal":
        return IdealPoints(users=users, **arrays)
    return Embeddings(tau=float(told["tau"]), **arrays)


def with_one(features: FloatArray) -> FloatArray:
    """`[n, d + 1]` features and a 1: what embeddings need, whose length says nothing, to tell h from its opposite."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def warmed(model: Model, t: float) -> Model:
    """The model with all differences of scores multiplied by t, which is positive."""
    if isinstance(model, Heads):
        return replace(model, weights=t * model.weights, bias=t * model.bias)
    if isinstance(model, Mixture):
        return replace(model, weights=t * model.weights)
    if isinstance(model, IdealPoints):  # squared distances
        return replace(model, map=t**0.5 * model.map, prototypes=t**0.5 * model.prototypes)
    return replace(model, tau=model.tau / t)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
