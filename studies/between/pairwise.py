"""Questions by a Gaussian process of utility, as BoTorch has it, beside those of `front.elicit`: the same users."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from botorch.acquisition.preference import AnalyticExpectedUtilityOfBestOption
from botorch.fit import fit_gpytorch_mll
from botorch.models.pairwise_gp import PairwiseGP, PairwiseLaplaceMarginalLogLikelihood

from pareto_align.front.elicitation import Users
from pareto_align.testing.users import interviewed

USERS, QUESTIONS = 60, 6
ASKERS = ("worth", "pairwise GP")
ROWS = [{"m": m, "members": n, "kind": kind} for m, n in ((3, 16), (5, 24)) for kind in ("linear", "chebyshev")]


class PairwiseUsers:
    """A user whose utility of a member is a Gaussian process over what the member is worth.

    The next pair is the one of which the better is expected to have the largest utility (EUBO, arXiv 2303.15746), the
    choice the member with the largest expected utility. It is fitted anew after each answer.

    Args:
        values: [n, m] what the members are worth.
        lower, upper: [m] what becomes 0 and 1.
        seed: Of the first pair, before anything is known.
    """

    def __init__(self, values: np.ndarray, *, lower: np.ndarray, upper: np.ndarray, seed: int) -> None:
        self.members = torch.from_numpy((values - lower) / (upper - lower))
        self.rng = np.random.default_rng(seed)
        self.said: list[tuple[int, int]] = []
        self.model: PairwiseGP | None = None

    @property
    def best(self) -> int:
        """The member with the largest expected utility; before any answer the one that is best on average."""
        if self.model is None:
            return int(self.members.mean(1).argmax())
        with torch.no_grad():
            return int(self.model.posterior(self.members).mean.squeeze(-1).argmax())

    def regret(self) -> float:
        """It states none."""
        return float("nan")

    def ask(self, askable: np.ndarray, left: int = 0) -> tuple[int, int]:
        """The pair, of those that may be asked about."""
        pairs = np.argwhere(askable)
        if self.model is None:
            return tuple(map(int, pairs[self.rng.integers(len(pairs))]))  # type: ignore[return-value]
        with torch.no_grad():
            worth = AnalyticExpectedUtilityOfBestOption(self.model)(self.members[pairs])
        return tuple(map(int, pairs[int(worth.argmax())]))  # type: ignore[return-value]

    def answer(self, first: int, second: int, verdict: str) -> None:
        """Learn which of the two is better."""
        self.said.append((first, second) if verdict == "first" else (second, first))
        self.model = PairwiseGP(self.members, torch.tensor(self.said))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fit that stopped early
            fit_gpytorch_mll(PairwiseLaplaceMarginalLogLikelihood(self.model.likelihood, self.model))


def pairwise(smoke: bool) -> list[dict[str, Any]]:
    """What six questions leave of the regret of the same users, by each asker; with standard errors."""
    torch.set_num_threads(1)
    found = []
    for row in ROWS:
        regret = {}
        for name, asker in zip(ASKERS, (Users, PairwiseUsers), strict=True):
            left = [
                interviewed(row["kind"], row["m"], row["members"], user, questions=QUESTIONS, asker=asker)[-1, 0]
                for user in range(2 if smoke else USERS)
            ]
            regret[name] = [round(float(np.mean(left)), 4), round(float(np.std(left, ddof=1) / np.sqrt(len(left))), 4)]
        found.append(row | {"users": len(left), "regret": regret})
        print(found[-1], flush=True)
    return found
