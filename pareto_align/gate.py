"""The member that answers a prompt best, prompt by prompt: a gate that was fitted to what members answered."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.blend import Predicted, run_objectives, scored
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.front.estimates import Estimate
from pareto_align.front.headroom import Headroom, gained
from pareto_align.front.preferences import Preference
from pareto_align.front.routing import Regression, regress
from pareto_align.printable import one_line
from pareto_align.report.units import decimals, interval_text, optimized, signs

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord
    from pareto_align.policies.base import Prompt

__all__ = ["Gate", "Routed", "fit_gate"]

ARRAYS = ("center", "slopes", "means", "answered", "expected")


@dataclass(frozen=True, eq=False)
class Gate:
    """Predicts what each member's answer to a prompt is worth, from the untrained model's state at the prompt's end.

    It is of no preference: one gate serves all of them. `front.gate` fits it.

    Attributes:
        names: The M objectives.
        members: The n members' names.
        regression: Takes features `[N, d]` to `[N, n M]` rewards, maximised.
        answered: `[n, N, M]` mean rewards of the members' answers to the N different prompts that it was fitted to,
            maximised.
        expected: `[n, N, M]` what is predicted of each prompt by a regression without it.
    """

    names: tuple[str, ...]
    members: tuple[str, ...]
    regression: Regression
    answered: np.ndarray
    expected: np.ndarray

    def rewards(self, features: np.ndarray) -> np.ndarray:
        """`[n, N, M]` predicted rewards, maximised, from features `[N, d]`."""
        found = self.regression(features).reshape(len(features), len(self.members), len(self.names))
        return found.swapaxes(0, 1)

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file.

        Raises:
            FrontFileError: The file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        target = path_of(path, "path")
        held = {name: getattr(self.regression if name in ARRAYS[:3] else self, name) for name in ARRAYS}
        told = {"format": "1", "names": json.dumps(self.names), "members": json.dumps(self.members)}
        try:
            save_file({name: np.ascontiguousarray(x, dtype=np.float64) for name, x in held.items()}, target, told)
        except (OSError, SafetensorError) as error:
            raise FrontFileError(f"Cannot write {target}: {error}") from error
        return target

    @classmethod
    def load(cls, path: str | Path) -> Gate:
        """What `save` wrote.

        Raises:
            FrontFileError: The file cannot be read, or holds no gate.
        """
        from safetensors import SafetensorError, safe_open

        target = path_of(path, "path")
        try:
            with safe_open(target, framework="np") as file:
                told, held = file.metadata() or {}, {name: file.get_tensor(name) for name in ARRAYS}
            names, members = (tuple(map(str, json.loads(told[name]))) for name in ("names", "members"))
            n, M, d = len(members), len(names), len(held["center"])
            fits = held["slopes"].shape == (d, n * M) and held["means"].shape == (n * M,)
            if not fits or held["answered"].shape[::2] != (n, M) or held["expected"].shape != held["answered"].shape:
                raise ValueError("its tables are not of its members and objectives")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FrontFileError(f"Cannot read the gate {target}: {type(error).__name__}: {error}") from error
        return cls(
            names, members, Regression(*(held[name] for name in ARRAYS[:3])), held["answered"], held["expected"]
        )  # fmt: skip


def fit_gate(
    record: FrontRecord,
    answer: Sequence[Callable[[list[Prompt], int], list[str]]],
    states: Callable[[list[Prompt]], tuple[np.ndarray, list[tuple[int, ...]]]],
    prompts: Sequence[Prompt],
    objectives: Sequence[Any],
    columns: Mapping[str, Sequence[Any]] | None,
    draws: int,
    seed: int,
) -> Gate:
    """See `ParetoFront.gate`.

    Args:
        record: The front.
        answer: Of each of the n members, what answers prompts under a seed.
        states: Gives features of prompts, and what tells prompts apart.
        prompts: N of them.
        objectives: The run's.
        columns: Further columns that rewards ask for.
        draws: Answers of each member to each prompt.
        seed: Of the answers.
    """
    if not answer:
        raise ConfigError("A gate chooses between members. This front has none.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ConfigError(f"`draws` must be a whole number of at least 1. Found {draws!r}.")
    names = [objective.name for objective in record.objectives]
    rewards, asked = run_objectives(objectives, names), list(prompts)
    features, ids = states(asked)
    if len(set(ids)) < 2:
        raise ConfigError("A gate tells prompts apart: give it several that differ, as many as can be had.")
    found = np.stack(
        [
            np.mean([scored(rewards, names, asked, one(asked, seed + k), columns) for k in range(draws)], axis=0)
            for one in answer
        ]
    )
    if not np.isfinite(found).all():
        raise ConfigError("A gate needs a reward of every member for every prompt: some are missing.")
    # a prompt that stands there several times is one prompt with more answers, and one unit of every interval
    places: dict[tuple[int, ...], list[int]] = {}
    for row, one_prompt in enumerate(ids):
        places.setdefault(one_prompt, []).append(row)
    features = features[[rows[0] for rows in places.values()]]
    found = np.stack([found[:, rows].mean(1) for rows in places.values()], axis=1)
    n, N, M = found.shape
    regression, left_out = regress(features, found.swapaxes(0, 1).reshape(N, n * M), range(N))
    members = tuple(member.id for member in record.members)
    return Gate(tuple(names), members, regression, found, left_out.reshape(N, n, M).swapaxes(0, 1))


class Routed(Predicted):
    """Members of a front, of which each prompt is answered by the one a gate expects most of. By `ParetoFront.mixture`.

    Args:
        record: The front.
        folder: Its folder.
        preference: Whatever `Preference.of` reads.
        gate: Of this front.
        server: Gives what `generate` answers with.

    Raises:
        ConfigError: The gate is of another front.
        PreferenceError: The preference cannot be read.

    Warns:
        ParetoAlignWarning: On the gate's own prompts routing is not known to be better than the best single member.

    Attributes:
        by: "routed".
        preference: `[m]` the preference asked for.
        experts: Names of the members that answer some prompt of the gate's.
        gain: What is gained over the best single member in utility, the weighted sum of framed rewards, on the gate's
            prompts, each routed by a gate without it.
        predicted: `[M]` means over the front's `names` on those prompts, in the user's units.
        halfwidth: `[M]` half the widths of their 95 % intervals.
        last: Of the last answers: names of members, and how many prompts each answered.
        reason: A few sentences: who answers, and what is known of it.
    """

    by = "routed"

    def __init__(
        self, record: FrontRecord, folder: Path, preference: Any, gate: Gate, *, server: Callable[[], Any]
    ) -> None:
        names = [objective.name for objective in record.objectives]
        if (tuple(names), tuple(member.id for member in record.members)) != (gate.names, gate.members):
            raise ConfigError(
                f"This gate is of another front: of members {', '.join(gate.members)} and objectives "
                f"{', '.join(gate.names)}. Fit one with `front.gate(prompts, objectives)`."
            )
        self._record, self._gate, self._server = record, gate, server
        self._folders = [folder / member.adapter for member in record.members]
        axes = list(optimized(record))
        self.preference = Preference.of(preference, [names[i] for i in axes]).weights
        frames = np.array([(record.objectives[i].lower, record.objectives[i].upper) for i in axes])
        self._axes, self._weights = axes, self.preference / (frames[:, 1] - frames[:, 0])
        chosen = self._best(gate.expected)
        rows = np.arange(gate.answered.shape[1])
        utilities = gate.answered[..., axes] @ self._weights
        self.gain: Headroom = gained(utilities[chosen, rows], utilities)
        estimate = Estimate.from_samples(gate.answered[chosen, rows] * signs(record), range(len(rows)))
        self.predicted, self.halfwidth = estimate.mean, estimate.halfwidth()
        shares = np.bincount(chosen, minlength=len(gate.members)) / len(rows)
        self.experts = [name for name, share in zip(gate.members, shares, strict=True) if share]
        self.last: dict[str, int] = {}
        parts = ", ".join(f"{name} {share:.0%}" for name, share in zip(gate.members, shares, strict=True) if share)
        worth = f"{self.gain.value:+.3f} in utility over {gate.members[self.gain.best]} for all of them"
        interval = f"{self.gain.low:+.3f} to {self.gain.high:+.3f}"
        self.reason = one_line(f"Of {len(rows)} prompts {parts}; {worth} ({interval}).")
        if not self.gain.worthwhile:
            warnings.warn(
                f"Routing is not known to be worth anything here: {self.reason} Take the one member, or fit the gate "
                "on more prompts.",
                ParetoAlignWarning,
                stacklevel=3,
            )

    def _best(self, rewards: np.ndarray) -> np.ndarray:
        """`[N]` places of the members with the largest utility by rewards `[n, N, M]`; the lower bounds cancel."""
        found: np.ndarray = (rewards[..., self._axes] @ self._weights).argmax(0)
        return found

    def route(self, prompts: Prompt | Sequence[Prompt]) -> list[str]:
        """The name of the member that answers each prompt.

        Raises:
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base cannot be loaded.
        """
        features, _ = self._server().prompt_states(prompts)
        return [self._gate.members[place] for place in self._best(self._gate.rewards(features))]

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, batch_size: int = 8, seed: int | None = 0, **kw: Any
    ) -> list[str]:
        """Answer prompts, each with its own member, by default as the members were measured; see `Member.generate`.

        Prompts of one member are answered together, one member after the other.
        """
        from pareto_align.policies.serving import several

        asked = several(prompts)
        names = self.route(asked)
        answers = [""] * len(names)
        self.last = {}
        for name, folder in zip(self._gate.members, self._folders, strict=True):
            places = [place for place, chosen in enumerate(names) if chosen == name]
            if not places:
                continue
            own = [asked[place] for place in places]
            said = self._server().generate(folder, own, batch_size=batch_size, seed=seed, **kw)
            self.last[name] = len(places)
            for place, text in zip(places, said, strict=True):
                answers[place] = text
        return answers

    def to_dict(self) -> dict[str, Any]:
        """Names to numbers, ready for JSON."""
        names = self._gate.names
        return {
            "by": self.by,
            "experts": list(self.experts),
            "preference": dict(zip([names[i] for i in self._axes], map(float, self.preference), strict=True)),
            "predicted": dict(zip(names, map(float, self.predicted), strict=True)),
            "halfwidth": {k: float(v) if np.isfinite(v) else None for k, v in zip(names, self.halfwidth, strict=True)},
            "gain": {"value": self.gain.value, "low": self.gain.low, "high": self.gain.high},
            "reason": self.reason,
        }

    def __repr__(self) -> str:
        parts = [
            f"{name} {interval_text(value, half, decimals(np.array([half]), np.array([value])))}"
            for name, value, half in zip(self._gate.names, self.predicted, self.halfwidth, strict=True)
        ]
        return one_line(f"<{type(self).__name__} {' | '.join(self.experts)}: {', '.join(parts)}>")
