"""Between the adapters of a front: one that serves a preference that none was trained for, made of its neighbours."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.errors import ConfigError, FrontFileError, ModelError, ParetoAlignWarning, PreferenceError
from pareto_align.front.blending import coefficients_for
from pareto_align.front.estimates import Estimate
from pareto_align.front.files import check_new
from pareto_align.front.interpolation import predict
from pareto_align.front.preferences import Preference
from pareto_align.messages import refuse_instructions
from pareto_align.printable import one_line
from pareto_align.report.export import copy_adapter
from pareto_align.report.units import decimals, interval_text, measured, optimized, preferences_of, signs

if TYPE_CHECKING:
    from peft import PeftModel

    from pareto_align.front.storage import FrontRecord
    from pareto_align.objectives import ObjectiveSet
    from pareto_align.policies.base import Prompt

__all__ = ["WAYS", "Blend", "BlendMeasured", "compare", "run_objectives", "scored"]

WAYS = ("logits", "soup")
DRAWING = ("max_new_tokens", "temperature", "top_k", "top_p", "do_sample")
PRICED = ("centred", "dr_grpo", "rloo")
"""Learners to which a nat costs `kl_coef` in scaled reward; to others it is in deviations of that, or their own."""


@dataclass(frozen=True, eq=False)
class BlendMeasured:
    """What a blend was found to be worth, beside what was predicted.

    Attributes:
        names: The M objectives.
        values: `[M]` means in the user's units.
        halfwidth: `[M]` half the widths of their 95 % intervals.
        predicted: `[M]` what the front predicts, same units.
        held: `[M]` whether prediction and measurement agree, as far as both intervals go; True where neither is known.
        disagreement: Mean S of the answers in nats, an upper bound of their distance to the exact mixture; NaN for a
            soup.
        rival: The member that was trained for the nearest preference, where it answered the same prompts.
        gain: What the blend is worth more than the rival, under the preference: framed reward, less the price of KL
            where it is known in that unit: `kl_coef` of the learners `centred`, `dr_grpo` and `rloo`, where every
            optimized objective declares bounds. Mean over the prompts, paired.
        gain_stderr: Its standard error.
    """

    names: tuple[str, ...]
    values: np.ndarray
    halfwidth: np.ndarray
    predicted: np.ndarray
    held: np.ndarray
    disagreement: float
    rival: str | None = None
    gain: float = np.nan
    gain_stderr: float = np.nan

    @property
    def alarm(self) -> str | None:
        """What a user has to know where there is something that would serve better; else None.

        Beside a rival: that the blend is not at least one standard error better than it; of those that are as good, one
        in six is by chance. Without one: that the prediction did not hold.
        """
        if self.rival is not None:
            if self.gain > self.gain_stderr:
                return None
            return (
                f"Measured, the blend is not known to serve the preference better than {self.rival} alone: it is worth "
                f"{self.gain:+.3g} more, with a standard error of {self.gain_stderr:.2g}. Take {self.rival} instead, "
                "measure on more prompts, or train for this preference."
            )
        off = [name for name, held in zip(self.names, self.held, strict=True) if not held]
        if not off:
            return None
        return (
            f"Measured, the blend is not what the front predicts in {', '.join(off)}: between its adapters the values "
            "are not between theirs. Take a member of the front instead, or train for this preference."
        )


class Predicted(ABC):
    """Answers prompts, and has a prediction that can be held against what the answers are worth.

    Attributes:
        predicted, halfwidth: `[M]` means and half the widths of their intervals, in the user's units.
    """

    _record: FrontRecord
    predicted: np.ndarray
    halfwidth: np.ndarray

    @abstractmethod
    def generate(self, prompts: Any, *, seed: int | None = 0, **kw: Any) -> list[str]:
        """Answer prompts."""

    def measure(
        self,
        prompts: Sequence[Prompt],
        objectives: Sequence[Any],
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
        rival: bool = True,
        **kw: Any,
    ) -> BlendMeasured:
        """Answer prompts that nothing was chosen on, score the answers, and compare with the prediction.

        Args:
            prompts: N of them.
            objectives: The run's `Objective`s, all of the front's names.
            columns: Further columns that the rewards ask for, N entries each.
            seed: Of the answers.
            rival: Only mixtures of members have one; here nothing changes with it.
            **kw: Passed to `generate`.

        Raises:
            ConfigError: The objectives are not those of the front.

        Warns:
            ParetoAlignWarning: The prediction did not hold; see `BlendMeasured.alarm`.
        """
        return compare(
            self._record, self.predicted, self.halfwidth, lambda asked: self.generate(asked, seed=seed, **kw),
            prompts, objectives, columns, self._disagreed,
        )  # fmt: skip

    def _disagreed(self) -> float:
        """Mean distance of the last answers to the mixture that they stand for, in nats; NaN where there is none."""
        return np.nan


class Blend(Predicted):
    """Adapters of a front that serve a preference together. Made by `ParetoFront.mixture`.

    Args:
        record: The front.
        folder: Its folder.
        preference: Whatever `Preference.of` reads; None with coefficients.
        coefficients: Weights by member, instead of a preference; scaled to sum 1.
        by: One of `WAYS`.
        server: Gives what `generate` answers with.
        scratch: Gives a folder for adapters that nobody asked to keep.

    Raises:
        ConfigError: `by` is no way, or there are both or neither of preference and coefficients.
        PreferenceError: The preference cannot be read, a coefficient is of no member, or no member has a preference.
        ModelError: The adapters are of different base models.

    Warns:
        ParetoAlignWarning: The preference lies outside of those that members were trained for.

    Attributes:
        by: How they answer together: "logits" multiplies what they say, token by token; "soup" adds up their updates.
        experts: Names of the members that take part.
        coefficients: `[k]` their weights.
        preference: `[m]` the preference asked for; None where coefficients were given.
        served: `[m]` the one that is served: the nearest that lies between the members' own.
        predicted: `[M]` means over the front's `names`, in the user's units, read off between its members.
        halfwidth: `[M]` half the widths of their 95 % intervals; NaN where too few members are there to know.
        rank_error: What cutting a soup to the adapters' rank lost, as a share of its Frobenius norm; None before it was
            made.
        last: Of the last answers by logits: "disagreement", the mean S in nats, which the distance to the exact mixture
            does not exceed; "kl", that distance, where several answers a prompt were drawn, else NaN; "acceptance",
            the share of answers that a rejection sampler of it would keep.
        reason: A few sentences: who takes part, and what is known of it.
    """

    def __init__(
        self,
        record: FrontRecord,
        folder: Path,
        preference: Any = None,
        *,
        coefficients: Mapping[str, float] | None = None,
        by: str = "logits",
        server: Callable[[], Any],
        scratch: Callable[[], Path],
    ) -> None:
        if by not in WAYS:
            raise ConfigError(f"`by` must be one of {', '.join(WAYS)}. Found {by!r:.40}.")
        if (preference is None) == (coefficients is None):
            raise ConfigError("A mixture takes a preference or `coefficients`, and not both.")
        if not record.members:
            raise PreferenceError("This front has no members to mix.")
        self.by, self._record, self._server, self._scratch = by, record, server, scratch
        self._folder = folder
        self._names = [objective.name for objective in record.objectives]
        self._table = measured(record)
        ids = list(self._table.ids)
        if coefficients is None:
            self.preference: np.ndarray | None = Preference.of(preference, self._spanning).weights
            found = coefficients_for(preferences_of(record), self.preference, self._worth(self.preference))
            weights, self.served, distance = found.weights, found.served, found.distance
        else:
            self.preference, distance = None, 0.0
            weights = _by_name(coefficients, ids)
            taking_part = np.flatnonzero(weights)
            self.served = weights[taking_part] @ preferences_of(record)[taking_part]
        self._rows = [int(row) for row in np.flatnonzero(weights)]
        self.coefficients = weights[self._rows]
        self.experts = [ids[row] for row in self._rows]
        self._folders = [folder / record.members[row].adapter for row in self._rows]
        refuse_instructions(self._folders, "are one adapter, which has nothing to mix: take by='map'")
        _check_one_base(self._folders)
        self.predicted, self.halfwidth = self._predicted(weights)
        self.rank_error: float | None = None
        self.last: dict[str, float] = {}
        self.reason = self._why(distance)
        if distance:
            warnings.warn(self._outside, ParetoAlignWarning, stacklevel=3)

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def _spanning(self) -> list[str]:
        return [self._names[i] for i in optimized(self._record)]

    def _worth(self, preference: np.ndarray) -> np.ndarray:
        """[n] the members' values under a preference, normalised: of two trained for the same the better one counts."""
        return self._framed(np.stack([member.estimate.mean for member in self._record.members]), preference)

    def _framed(self, values: np.ndarray, preference: np.ndarray) -> np.ndarray:
        """[n] utilities of values [n, M], maximised, under a preference."""
        axes = list(optimized(self._record))
        objectives = [self._record.objectives[i] for i in axes]
        framed = (values[:, axes] - [o.lower for o in objectives]) / [o.upper - o.lower for o in objectives]
        return np.asarray(framed @ preference)

    def _predicted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unknown = np.full(len(self._names), np.nan)
        if self.preference is None:
            return np.asarray(weights[self._rows] @ self._table.values[self._rows]), unknown
        places = preferences_of(self._record)
        rows = np.flatnonzero(np.isfinite(places).all(axis=1))
        stderr = np.stack([member.estimate.stderr for member in self._record.members])
        n = min(self._table.n[row] for row in rows)
        # of members at one place `predict` takes the mean, and the mixture the better one: the value is the mixture's
        _, half = predict(places[rows], self._table.values[rows], stderr[rows], n, self.served)
        return np.asarray(weights[self._rows] @ self._table.values[self._rows]), half

    @property
    def _outside(self) -> str:
        asked, served = (_shares(w, self._spanning) for w in (self.preference, self.served))
        return (
            f"The preference {asked} lies outside of those that members were trained for; the nearest one "
            f"between them, {served}, is served."
        )

    def _why(self, distance: float) -> str:
        parts = [f"{expert} {weight:.2f}" for expert, weight in zip(self.experts, self.coefficients, strict=True)]
        how = "token by token" if self.by == "logits" else "in one adapter"
        told = f"{parts[0].split()[0]} alone." if len(parts) == 1 else f"{', '.join(parts)}, mixed {how}."
        if distance:
            told += f" {self._outside}"
        if len(parts) > 1 and not self._record.config.get("kl_coef"):
            told += (
                " The front was trained without a price of KL: no formula says that a mixture of its members is "
                "good, so `measure` it."
            )
        return one_line(told)

    @property
    def id(self) -> str:
        """A name for it, the same for the same members and coefficients."""
        told = json.dumps([self.by, self.experts, self.coefficients.tolist()])
        return f"blend-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    # ---- answering -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        batch_size: int = 8,
        seed: int | None = 0,
        candidates: int = 1,
        **kw: Any,
    ) -> list[str]:
        """Answer prompts, by default as the members were measured.

        Args:
            prompts: One prompt or several, each text or chat messages.
            batch_size: Prompts answered at a time.
            seed: Of what is drawn: equal calls give equal answers. None gives others each time.
            candidates: Answers drawn for each prompt, of which one is kept, in proportion to what the exact mixture
                would say: the more, the nearer to it. For `by="logits"`.
            **kw: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `do_sample`; for `by="soup"` what else `generate`
                of transformers takes.

        Returns:
            One completion a prompt. What `last` says is of all that was drawn for them.

        Raises:
            ConfigError: A setting is none, or one of transformers that a mixture of distributions does not take.
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base or an adapter cannot be loaded.
        """
        if self.by == "soup":
            if candidates != 1:
                raise ConfigError(
                    "`candidates` are for by='logits': a soup is one adapter, and draws from nothing else."
                )
            answers: list[str] = self._server().generate(
                self.adapter_path, prompts, batch_size=batch_size, seed=seed, **kw
            )
            return answers
        if strange := sorted(set(kw) - set(DRAWING)):
            raise ConfigError(f"A mixture of distributions takes {', '.join(DRAWING)}. Found {', '.join(strange)}.")
        found = self._server().generate_blend(
            self._folders, self.coefficients, prompts, batch_size=batch_size, seed=seed, candidates=candidates, **kw
        )
        self.last = {"disagreement": found.disagreement, "kl": found.kl, "acceptance": found.acceptance}
        return list(found.texts)

    def _disagreed(self) -> float:
        return self.last.get("disagreement", np.nan) if self.by == "logits" else np.nan

    def measure(
        self,
        prompts: Sequence[Prompt],
        objectives: Sequence[Any],
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
        rival: bool = True,
        **kw: Any,
    ) -> BlendMeasured:
        """Answer prompts that nothing was chosen on, beside the member that was trained for the nearest preference.

        Both are scored and compared, prompt by prompt, from the same random numbers; the blend is held against what was
        predicted, too. A mixture can be worse than the members that it is made of.

        Args:
            prompts: N of them.
            objectives: The run's `Objective`s, all of the front's names.
            columns: Further columns that the rewards ask for, N entries each.
            seed: Of the answers.
            rival: Whether the member answers, which costs about as many answers again.
            **kw: Passed to `generate`; with what only transformers knows there is no rival.

        Raises:
            ConfigError: The objectives are not those of the front.

        Warns:
            ParetoAlignWarning: There is something that would serve better; see `BlendMeasured.alarm`.
        """
        known = {"batch_size", *DRAWING} | ({"candidates"} if self.by == "logits" else set())
        row = self._nearest() if rival and set(kw) <= known else None
        if row is None:
            return super().measure(prompts, objectives, columns=columns, seed=seed, **kw)
        asked, drawing = list(prompts), {name: value for name, value in kw.items() if name != "candidates"}
        price = 0.0 if set(drawing) - {"batch_size", "max_new_tokens"} or kw.get("candidates", 1) != 1 else self._price
        alone = self._folder / self._record.members[row].adapter
        nats: list[float] | None = None

        def answers(asked: Sequence[Prompt]) -> list[str]:
            nonlocal nats
            parts = ([self.adapter_path], [1.0]) if self.by == "soup" else (self._folders, self.coefficients)
            said = self._server().generate_blend(*parts, asked, seed=seed, ratios=price > 0, **kw)
            if self.by == "logits":
                self.last = {"disagreement": said.disagreement, "kl": said.kl, "acceptance": said.acceptance}
            nats = said.ratios
            return list(said.texts)

        def against(scores: np.ndarray, score: Callable[[Sequence[str]], np.ndarray]) -> tuple[str, float, float]:
            other = self._server().generate_blend([alone], [1.0], asked, seed=seed, ratios=price > 0, **drawing)
            apart = self._framed(scores, self._wanted) - self._framed(score(other.texts), self._wanted)
            if price:
                apart = apart - price * (np.array(nats) - np.array(other.ratios))
            known = apart[np.isfinite(apart)]
            error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
            return self._record.members[row].id, float(known.mean()) if len(known) else np.nan, float(error)

        return compare(
            self._record, self.predicted, self.halfwidth, answers, asked, objectives, columns, self._disagreed, against
        )

    @property
    def _wanted(self) -> np.ndarray:
        """`[m]` the preference by which the blend is judged."""
        return self.served if self.preference is None else self.preference

    @property
    def _price(self) -> float:
        """What a nat of KL costs in framed reward; 0 where the record does not say it."""
        config = self._record.config
        if config.get("learner") not in PRICED:
            return 0.0
        # of an objective without bounds the frame is no scale that training knows
        bounded = all(self._record.objectives[i].bounds is not None for i in optimized(self._record))
        cut = config.get("top_k") is not None or config.get("top_p") is not None
        return float(config.get("kl_coef") or 0.0) if bounded and not cut else 0.0

    def _nearest(self) -> int | None:
        """The row of the member that a user would take instead; None where there is none beside the blend itself."""
        asked = self._wanted
        apart = np.linalg.norm(preferences_of(self._record) - asked, axis=1)
        if not np.isfinite(apart).any():
            return None
        # of several that were trained for it, from early and late in the run, the one that is worth most
        ceilings = [member.provenance.get("ceiling") for member in self._record.members]
        nats = np.array([0.0 if one is None else float(one["kl"]) for one in ceilings])
        worth = self._worth(asked) - self._price * nats
        row = int(np.where(apart <= np.nanmin(apart) + 1e-9, worth, -np.inf).argmax())
        if self._rows == [row]:
            return None
        try:
            _check_one_base([*self._folders, self._folder / self._record.members[row].adapter])
        except ModelError:  # a member of another base can be no part of a blend, and no rival
            return None
        return row

    # ---- shipping ------------------------------------------------------------------------------------------------

    @property
    def adapter_path(self) -> Path:
        """A stock PEFT folder of the soup; a temporary one, which goes with the front. `save` writes one to keep.

        Raises:
            ConfigError: The blend is one of distributions, which no single adapter is.
        """
        if self.by != "soup":
            raise ConfigError(
                "No single adapter says what a mixture of distributions says. Take mixture(..., by='soup')."
            )
        folder = self._scratch() / self.id
        if not folder.is_dir() or self.rank_error is None:
            self.rank_error = self._server().save_soup(self._folders, self.coefficients, folder)
        return folder

    def load_model(self, base: Any = None, **load: Any) -> PeftModel:
        """The base model with the soup on it; see `Member.load_model`.

        Raises:
            ConfigError: The blend is one of distributions: `generate` answers with it, and `save` writes what
                `pareto_align.integrations.mixing` runs on stock PEFT.
        """
        loaded: PeftModel = self._server().load_model(self.adapter_path, self.id, base, **load)
        return loaded

    def save(self, path: str | Path) -> Path:
        """Write it to a new folder: a soup as a stock PEFT adapter, distributions as mixture.json and their adapters.

        Raises:
            FrontFileError: The folder has something in it, or cannot be written.
        """
        target = path_of(path, "path")
        check_new(target)
        if self.by == "soup":
            copy_adapter(self.adapter_path, target)
            return target
        try:
            target.mkdir(parents=True, exist_ok=True)
            names = [f"expert-{number}" for number in range(len(self._folders))]
            for name, folder in zip(names, self._folders, strict=True):
                copy_adapter(folder, target / name)
            config = self._record.config
            told: dict[str, Any] = {
                "format": 1,
                "base": self._record.base.get("name"),
                "experts": names,
                "members": self.experts,
                "coefficients": self.coefficients.tolist(),
                **{name: config[name] for name in ("temperature", "top_k", "top_p") if name in config},
                "preference": None if self.preference is None else self.preference.tolist(),
            }
            (target / "mixture.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise FrontFileError(f"Cannot write {target}: {error.strerror or error}.") from error
        return target

    def to_dict(self) -> dict[str, Any]:
        """Names to numbers, ready for JSON; None where nothing is known."""

        def named(numbers: np.ndarray) -> dict[str, float | None]:
            return {k: float(v) if np.isfinite(v) else None for k, v in zip(self._names, numbers, strict=True)}

        return {
            "by": self.by,
            "coefficients": dict(zip(self.experts, map(float, self.coefficients), strict=True)),
            "preference": None
            if self.preference is None
            else dict(zip(self._spanning, map(float, self.preference), strict=True)),
            "predicted": named(self.predicted),
            "halfwidth": named(self.halfwidth),
            "rank_error": self.rank_error,
            "reason": self.reason,
        }

    def __repr__(self) -> str:
        parts = [
            f"{name} {interval_text(value, half, decimals(np.array([half]), np.array([value])))}"
            for name, value, half in zip(self._names, self.predicted, self.halfwidth, strict=True)
        ]
        mixed = " + ".join(f"{w:.2f} {e}" for e, w in zip(self.experts, self.coefficients, strict=True))
        return one_line(f"<{type(self).__name__} {mixed} by {self.by}: {', '.join(parts)}>")


def _check_one_base(folders: Sequence[Path]) -> None:
    """Refuse adapters of different base models: neither their sum nor the product of what they say means anything."""
    bases: dict[str, str] = {}
    for folder in folders:
        try:
            said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FrontFileError(f"Cannot read the adapter in {folder}: {error}") from error
        if isinstance(said, Mapping) and said.get("base_model_name_or_path"):
            bases[str(said["base_model_name_or_path"])] = folder.name
    if len(bases) > 1:
        (one, first), (other, second), *_ = bases.items()
        raise ModelError(
            f"Adapters of different base models cannot be mixed: {first} is one of {one!r}, {second} one of {other!r}."
        )


def _by_name(coefficients: Mapping[str, float], ids: Sequence[str]) -> np.ndarray:
    """[n] coefficients by member, scaled to sum 1."""
    for name in coefficients:
        if name not in ids:
            raise PreferenceError(f"This front has no member {name!r}. It has {', '.join(ids)}.")
    try:
        weights = np.array([float(coefficients.get(name, 0.0)) for name in ids])
    except (TypeError, ValueError) as error:
        raise PreferenceError(f"Coefficients must be numbers. Found {dict(coefficients)!r:.200}.") from error
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise PreferenceError(
            f"Coefficients must be finite, not negative, and one above 0. Found {dict(coefficients)!r:.200}."
        )
    return weights / weights.sum()


def _shares(weights: np.ndarray | None, names: Sequence[str]) -> str:
    assert weights is not None
    return " / ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True))


def compare(
    record: FrontRecord,
    predicted: np.ndarray,
    halfwidth: np.ndarray,
    answers: Callable[[list[Prompt]], list[str]],
    prompts: Sequence[Prompt],
    objectives: Sequence[Any],
    columns: Mapping[str, Sequence[Any]] | None = None,
    disagreement: Callable[[], float] = lambda: np.nan,
    against: Callable[[np.ndarray, Callable[[Sequence[str]], np.ndarray]], tuple[str, float, float]] | None = None,
) -> BlendMeasured:
    """Let prompts be answered, score the answers, and hold them against what was predicted; see `Blend.measure`."""
    names = [objective.name for objective in record.objectives]
    rewards, asked = run_objectives(objectives, names), list(prompts)
    scores = scored(rewards, names, asked, answers(asked), columns)
    estimate = Estimate.from_samples(scores * signs(record), range(len(asked)))
    half = estimate.halfwidth()
    off = np.abs(estimate.mean - predicted)
    known = np.hypot(np.nan_to_num(half), np.nan_to_num(halfwidth))
    rival, gain, error = (
        (None, np.nan, np.nan)
        if against is None
        else against(scores, lambda said: scored(rewards, names, asked, said, columns))
    )
    found = BlendMeasured(
        names=tuple(names),
        values=estimate.mean,
        halfwidth=half,
        predicted=predicted,
        held=~(np.isfinite(half) & (off > known)),
        disagreement=disagreement(),
        rival=rival,
        gain=gain,
        gain_stderr=error,
    )
    if found.alarm is not None:
        warnings.warn(found.alarm, ParetoAlignWarning, stacklevel=3)
    return found


def run_objectives(objectives: Any, names: Sequence[str]) -> ObjectiveSet:
    """A run's objectives, as they are given to judge answers anew.

    Raises:
        ConfigError: They are not all of the front's.
    """
    from pareto_align.objectives import ObjectiveSet

    found = objectives if isinstance(objectives, ObjectiveSet) else ObjectiveSet(list(objectives))
    if sorted(found.names) != sorted(names):
        raise ConfigError(f"The front was measured in {', '.join(names)}. Found objectives {', '.join(found.names)}.")
    return found


def scored(
    objectives: ObjectiveSet,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.ndarray:
    """Scores `[N, M]` of an answer to each prompt, maximised, in the order of the front's `names`."""
    said = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, answers, strict=True)
    ]
    scores = objectives.score(list(prompts), said, columns, training=False)
    return np.asarray(scores[:, [objectives.names.index(name) for name in names]])
