"""A request made by comparisons: which member of a front likes what somebody likes.

The policy that maximises a reward r under a KL price is `pi_ref exp(r / beta) / Z`, so a member's own reward is, but
for a constant of the prompt, beta times how much likelier than the untrained model it finds an answer.

References:
    Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", arXiv 2305.18290.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from pareto_align.data.comparison_rows import encode_comparisons, laid_out
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.pair_table import table_of
from pareto_align.errors import ComparisonError, ConfigError, PreferenceError
from pareto_align.messages import refuse_instructions
from pareto_align.objectives.learned.heads import cross_entropy
from pareto_align.printable import one_line
from pareto_align.report.request import Answer

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord
    from pareto_align.policies.serving import Server

__all__ = ["Liked", "answer_like", "liked"]

FloatArray = NDArray[np.float64]

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""What differences of log-ratios are multiplied by, where nothing is said: the one with the most evidence."""

DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Liked:
    """How well each of n members agrees with comparisons.

    Attributes:
        posterior: `[n]` how probable each is, all being equally probable before.
        right: `[n]` share of the comparisons that each ranks right.
        regret: What the most probable one is expected to explain less than the best, in bits a comparison.
        beta: What differences were multiplied by.
    """

    posterior: FloatArray
    right: FloatArray
    regret: float
    beta: float


def liked(gaps: ArrayLike, labels: ArrayLike, *, beta: float | None = None, seed: int = 0) -> Liked:
    """Which members foresee labels.

    Args:
        gaps: `[n, pairs]` how much more each member prefers the first answer than the untrained model does, in nats.
        labels: `[pairs]` how strongly it is preferred, 0 to 1.
        beta: See `Liked`; by default one of `BETAS`.
        seed: Of the resampled comparisons behind `regret`.

    Raises:
        ConfigError: `beta` is not positive.
    """
    d, s = np.asarray(gaps, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if beta is not None and not beta > 0:
        raise ConfigError(f"`beta` must be positive. Found {beta!r}.")

    def losses(b: float) -> FloatArray:
        return cross_entropy(b * d, s)

    chosen = max(BETAS, key=lambda b: float(logsumexp(-losses(b).sum(1)))) if beta is None else float(beta)
    loss = losses(chosen)
    logs = -loss.sum(1)
    best = int(np.argmax(logs))
    places = np.random.default_rng(seed).integers(len(s), size=(DRAWS, len(s)))
    means = loss[:, places].mean(2) / np.log(2)  # [n, draws]
    right = np.where(d > 0, s, np.where(d < 0, 1 - s, 0.5)).mean(1)
    return Liked(np.exp(logs - logsumexp(logs)), right, float((means[best] - means.min(0)).mean()), chosen)


def answer_like(
    record: FrontRecord,
    folders: Sequence[Path],
    server: Server,
    comparisons: Any,
    *,
    column: str | None = None,
    beta: float | None = None,
) -> Answer:
    """Choose the member that agrees best with comparisons; see `ParetoFront.select_like`.

    Args:
        record: The front.
        folders: The members' adapters.
        server: Reads with them.
        comparisons, column, beta: As `select_like` takes them.

    Raises:
        PreferenceError, ComparisonError, ConfigError, ModelError: As `select_like` does.
    """
    if not record.members:
        raise PreferenceError("This front has no members to choose from.")
    refuse_instructions(folders, "comparisons are read without that. Choose by `select`")
    data = comparisons if isinstance(comparisons, Comparisons) else Comparisons.from_rows(comparisons)
    if column is None and data.m > 1:
        raise ConfigError(
            f"Several labels are there: {', '.join(data.names)}. Say which count: column={data.names[0]!r}."
        )
    if column is not None and column not in data.names:
        raise ConfigError(f"`column` must be one of {', '.join(data.names)}. Found {column!r}.")
    place = 0 if column is None else data.names.index(column)
    rows, _ = encode_comparisons(data, server.at_hand())
    prompts, said, pairs = laid_out(rows)
    labels = table_of([row.comparison for row in rows]).values[:, place]
    known = np.isfinite(labels)
    if not (labels[known] != 0.5).any():
        raise ComparisonError(f"None of the {len(labels)} pairs prefers an answer, so nothing can be chosen by them.")
    untrained = np.array(server.logprobs(None, prompts, said))
    ratios = np.array([server.logprobs(folder, prompts, said) for folder in folders]) - untrained
    gaps = (ratios[:, pairs[:, 0]] - ratios[:, pairs[:, 1]])[:, known]
    found = liked(gaps, labels[known], beta=beta)
    order = np.argsort(-found.posterior, kind="stable")
    ids = [member.id for member in record.members]
    best, second = int(order[0]), (int(order[1]) if len(order) > 1 else None)
    reason = (
        f"{ids[best]} agrees best with these {len(gaps[0])} comparisons: it ranks {found.right[best]:.0%} of them right"
    )
    if second is not None:
        reason += (
            f". With all members equally probable before, it is the one that is wanted with probability "
            f"{found.posterior[best]:.2f}, {ids[second]} with {found.posterior[second]:.2f}"
        )
    if found.right[best] <= 0.5:
        reason += ". That is no better than chance: none of the members likes what these comparisons do"
    return Answer(
        row=best,
        runner_up=second,
        regret=found.regret,
        probability_best=float(found.posterior[best]),
        feasible=True,
        rule="like",
        reason=one_line(f"{reason}."),
        posterior=dict(zip(ids, map(float, found.posterior), strict=True)),
    )
