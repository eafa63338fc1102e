"""How hard comparisons are for a model that is to learn from them: what it prefers untrained, and what it would say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.data.comparison_rows import encode_comparisons, laid_out
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.difficulty import flip_losses, idealised_accuracy, ranking_accuracy
from pareto_align.data.pair_table import table_of
from pareto_align.errors import ConfigError
from pareto_align.policies.base import Base
from pareto_align.policies.engine import Engine
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams
from pareto_align.policies.states import read_answers
from pareto_align.printable import one_line

__all__ = ["ModelReport", "ObjectiveDifficulty", "examine_with", "model_lines"]

STUCK = 0.1
"""DPO loss below which a pair that the model ranks wrong has to come: in practice it is never turned."""

FAR = 1.0
"""Nats a token by which answers are less probable than the model's own, from which on it is said."""

OWN_PROMPTS, OWN_TOKENS = 16, 48
"""Prompts that the model answers itself, and tokens of the longest answer."""


@dataclass(frozen=True)
class ObjectiveDifficulty:
    """One objective's decided pairs, as the untrained model sees them.

    Attributes:
        name: The objective.
        pairs: Decided pairs.
        accuracy: Share in which the preferred answer is the likelier one.
        accuracy_per_token: The same by the mean over tokens.
        idealised: Share that the policy would rank right at which DPO ideally ends; of the graded labels alone, NaN
            where there are none.
        graded: Pairs with such labels.
        stuck: Share that it ranks wrong by so much that training will hardly turn them.
        ches: Median CHES by token means: high where learning a pair lowers the likelihood of both answers.
    """

    name: str
    pairs: int
    accuracy: float
    accuracy_per_token: float
    idealised: float
    graded: int
    stuck: float
    ches: float


@dataclass(frozen=True)
class ModelReport:
    """What a model makes of comparisons before it is trained.

    Attributes:
        model: Its name.
        beta: DPO's, at which pairs are called stuck and the ideal policy is taken.
        surprise: Nats a token of the answers, in the mean over answers.
        own_surprise: The same of the model's own answers to some of the prompts: an estimate of its entropy.
        objectives: Each objective's pairs.
        advice: What to know before anything is trained.
    """

    model: str | None
    beta: float
    surprise: float
    own_surprise: float
    objectives: tuple[ObjectiveDifficulty, ...]
    advice: tuple[str, ...] = ()

    @property
    def off_policy(self) -> float:
        """How much less probable the answers are than the model's own, in nats a token."""
        return self.surprise - self.own_surprise

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types."""
        return {**asdict(self), "off_policy": self.off_policy}


def examine_with(base: Base, comparisons: Comparisons, *, beta: float = 0.1, seed: int = 0) -> ModelReport:
    """The report of a model on some comparisons: one pass over the answers, and a few answers of its own.

    Args:
        base: The model.
        comparisons: All their labels are looked at.
        beta: DPO's.
        seed: Of its own answers.

    Raises:
        ConfigError: `beta` is not positive.
        ComparisonError: A comparison cannot be read by the model.
    """
    if not beta > 0:
        raise ConfigError(f"`beta` must be positive. Found {beta!r}.")
    rows, _ = encode_comparisons(comparisons, base)
    prompts, said, pairs = laid_out(rows)
    logps, states = read_answers(base, prompts, said)
    lengths = np.array([len(one) for one in said])
    labels = table_of([row.comparison for row in rows]).values
    means = states / lengths[:, None]
    objectives = [
        _difficulty(name, labels[:, j], pairs, logps, lengths, means, beta) for j, name in enumerate(comparisons.names)
    ]
    own = _own_surprise(base, [list(row.ids) for row in rows[:: max(1, len(rows) // OWN_PROMPTS)]][:OWN_PROMPTS], seed)
    report = ModelReport(base.name, beta, float(-(logps / lengths).mean()), own, tuple(objectives))
    return ModelReport(**{**vars(report), "advice": tuple(_advice(report))})


def _difficulty(
    name: str,
    labels: NDArray[np.float64],
    pairs: NDArray[np.int64],
    logps: NDArray[np.float64],
    lengths: NDArray[np.int64],
    means: NDArray[np.float64],
    beta: float,
) -> ObjectiveDifficulty:
    decided = np.isfinite(labels) & (labels != 0.5)
    if not decided.any():
        return ObjectiveDifficulty(name, 0, math.nan, math.nan, math.nan, 0, math.nan, math.nan)
    s, both = labels[decided], pairs[decided]
    winner, loser = np.where(s > 0.5, both.T, both.T[::-1])
    gaps = logps[winner] - logps[loser]
    per_token = logps[winner] / lengths[winner] - logps[loser] / lengths[loser]
    p = np.maximum(s, 1 - s)
    graded = p < 1
    ches = (means[winner] * (means[loser] - means[winner])).sum(1)
    return ObjectiveDifficulty(
        name,
        len(s),
        ranking_accuracy(gaps),
        ranking_accuracy(per_token),
        idealised_accuracy(gaps[graded], p[graded], beta) if graded.any() else math.nan,
        int(graded.sum()),
        float(((gaps < 0) & (flip_losses(gaps, beta) < STUCK)).mean()),
        float(np.median(ches)),
    )


def _own_surprise(base: Base, prompts: Sequence[Sequence[int]], seed: int) -> float:
    """Nats a token of what the model says itself."""
    population = PolicyPopulation(base, 1)  # adapters that have learnt nothing: the model itself
    try:
        drawn = Engine(population).sample(prompts, 1, SamplingParams(OWN_TOKENS), [seed])
    finally:
        population.close()
    return float(-(drawn.logprobs * drawn.mask).sum() / drawn.mask.sum())


def _advice(report: ModelReport) -> list[str]:
    found = []
    if report.off_policy > FAR:
        found.append(
            f"The answers are {report.off_policy:.1f} nats a token less probable than the model's own: it will hardly "
            "say such things. Answers of its own, judged, teach more; or begin with some fine-tuning on these "
            "(loss_type=['sigmoid', 'sft'])."
        )
    for one in report.objectives:
        if one.pairs and one.stuck > STUCK:
            found.append(
                f"{one_line(one.name)}: {one.stuck:.0%} of the pairs are ranked wrong by so much that DPO with beta "
                f"{report.beta:g} will hardly turn them. A smaller beta, or an objective by token means "
                "('sigmoid_norm', 'simpo'), reaches more of them."
            )
    return found


def model_lines(report: ModelReport) -> list[str]:
    """The report as lines of text."""
    lines = [
        f"{one_line(report.model or 'the model')}, untrained: the answers take {report.surprise:.2f} nats a token, its "
        f"own {report.own_surprise:.2f}"
    ]
    for one in report.objectives:
        if not one.pairs:
            lines.append(f"{one_line(one.name)}: no pair is decided")
            continue
        ideal = "" if not one.graded else f", the ideal policy {one.idealised:.2f} of {one.graded:,} graded ones"
        lines.append(
            f"{one_line(one.name)}: it ranks {one.accuracy:.2f} of {one.pairs:,} pairs right "
            f"({one.accuracy_per_token:.2f} by token means){ideal}; {one.stuck:.0%} stuck; CHES {one.ches:.3g}"
        )
    return [*lines, *([""] if report.advice else []), *report.advice]
