"""Synthetic users, who know what they want: what questions leave of their regret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pareto_align.front.elicitation import Users, utilities_of

__all__ = ["interviewed"]

NOISE = 0.05
"""By how much of his range of utilities two members have to differ to be told apart in 73 of 100 cases."""


def interviewed(
    kind: Literal["linear", "chebyshev"],
    m: int,
    n: int,
    seed: int,
    *,
    questions: int = 6,
    by: Literal["worth", "chance"] = "worth",
    slips: float = 0.0,
    repeat: bool = False,
    asker: Callable[..., Any] = Users,
    **settings: Any,
) -> NDArray[np.float64]:
    """What a synthetic user loses with the member that was found for him, and what is said of it.

    His front is n members on the part of a sphere where all objectives are positive, his weights are uniform on the
    simplex.

    Args:
        kind: How he judges.
        m: Objectives.
        n: Members.
        seed: Of the front, the weights and the replies.
        questions: How many he is asked; the rule knows how many are left.
        by: Which two members are shown: those whose answer is worth most, or any.
        slips: The share of his replies that are turned round.
        repeat: Whether he may be asked about two members again.
        asker: Makes what asks and learns: `Users`, or what has the same `ask`, `answer`, `best` and `regret`.
        settings: Of it, such as `lapse`.

    Returns:
        `[questions + 1, 2]` true and stated regret after no question, one, two, ...: shares of his range of utilities.
    """
    rng = np.random.default_rng([seed, m])
    values = np.abs(rng.normal(size=(n, m)))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    frame: dict[str, Any] = {"lower": np.zeros(m), "upper": np.ones(m)}
    truth = utilities_of(
        kind, values[None], rng.dirichlet(np.ones(m), size=1), **frame, ideal=values.max(0), span=np.ptp(values, axis=0)
    )[0]
    users = asker(values, **frame, seed=seed, **settings)
    askable = np.triu(np.ones((n, n), dtype=bool), 1)
    found = [(1 - truth[users.best], users.regret())]
    for left in reversed(range(questions)):
        pairs = np.argwhere(askable)
        pair = users.ask(askable, left) if by == "worth" else tuple(pairs[rng.integers(len(pairs))])
        assert pair is not None
        i, j = map(int, pair)
        askable[i, j] = repeat
        first = rng.random() < 1 / (1 + np.exp(-(truth[i] - truth[j]) / NOISE))
        users.answer(i, j, "first" if first != (rng.random() < slips) else "second")
        found.append((1 - truth[users.best], users.regret()))
    return np.array(found)
