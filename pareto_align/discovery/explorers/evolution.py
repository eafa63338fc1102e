"""A search over adapters without gradients, for objectives whose gradients say little.

Children are archived adapters with a random step, made and measured without training; a slot goes on from the archived
policy that serves its preference best, which may be a child.

References:
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (MeZO), arXiv 2305.17333.
    Such et al., "Deep Neuroevolution: Genetic Algorithms Are a Competitive Alternative for Training Deep Neural
        Networks for Reinforcement Learning", arXiv 1712.06567.
    Pinnau et al., "A consensus-based model for global optimization and its mean-field limit", arXiv 1604.05648.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Within
from pareto_align.discovery.explorers.base import Exploration, Explorer, Mixture, Task, register_explorer
from pareto_align.discovery.explorers.checks import (
    check_keys,
    require,
)
from pareto_align.discovery.explorers.openings import newest
from pareto_align.errors import ConfigError
from pareto_align.front import Entry
from pareto_align.front import preferences as simplex

__all__ = ["Evolution", "utilities"]

EVEN = 0.01  # linear part of the utility: of two policies equal in the objective that decides, the better one wins


def utilities(values: np.ndarray, preference: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """How well policies `[n, m]` serve a preference `[m]`: augmented Chebyshev utility, 0 at the ideal `[m]`, `[n]`."""
    shortfall = np.maximum(preference, 1e-3) * (ideal - values)
    return np.asarray(-shortfall.max(1) - EVEN * shortfall.sum(1))


@register_explorer("evolution")
class Evolution(Explorer):
    """Children by random steps from archived adapters, one slot's preference after the other.

    With u(v) the utility of a preference, of the elite that serves it best:

        "ga"    child = theta + sigma z,  theta drawn from the elite                  Deep GA: truncation, no crossover
        "cbo"   child = theta + step (c - theta) + sigma (1 - share of theta) z,  c = sum_i softmax(alpha u_i) theta_i
        "mezo"  theta + sigma z and theta - sigma z are measured; then  theta + step (u+ - u-) / (2 sigma) z

    z is a random step that its seed stands for, scaled to the adapter's own size. Sums are of weight updates. An
    adapter that was never trained has no size, so the slots train first.

    Args:
        method: "ga", "cbo" or "mezo".
        children: Children made and measured at a time. "mezo" needs at least 2: a pair, and in the next round the step
            that it found; with more, further pairs beside the steps.
        sigma: Size of a random step, as a share of the adapter's.
        elite: Policies that may have children, for each preference.
        step: "cbo": share of the way to the consensus. "mezo": length of a step for a unit of slope.
        alpha: "cbo": sharpness of the consensus.
        after: Share of the run before the first child.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        method: Literal["ga", "cbo", "mezo"] = "ga",
        children: Count = 4,
        sigma: Annotated[float, Within(least=1e-9)] = 0.05,
        elite: Count = 3,
        step: NotNegative = 0.5,
        alpha: NotNegative = 20.0,
        after: Share = 0.2,
    ) -> None:
        self.method = method
        if method == "mezo" and children < 2:
            raise ConfigError(f"Explorer 'evolution': `children` must be at least 2 with 'mezo'. Found {children}.")
        self.children = int(children)
        self.sigma = float(sigma)
        self.elite = int(elite)
        self.step = float(step)
        self.alpha = float(alpha)
        self.after = float(after)
        self.turn = 0
        self.pairs: list[dict[str, Any]] = []

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population)
        self.turn, self.pairs = 0, []
        return simplex.grid(len(names), population)

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        """See `Explorer.mixtures`."""
        alive = state.alive()
        if state.progress < self.after or not alive:
            return ()
        rng = np.random.default_rng(state.seed)
        points = state.points(alive)
        made = self._descents(state, alive) if self.method == "mezo" else []
        self.pairs = []
        while len(made) + (self.method == "mezo") < self.children:
            preference = state.preferences[self.turn % len(state.preferences)]
            self.turn += 1
            worth = utilities(points, preference, points.max(0))
            best = np.argsort(-worth, kind="stable")[: self.elite]
            theta, seed = int(rng.choice(best)), int(rng.integers(2**31))
            if self.method == "ga":
                reason = f"{alive[theta].id!r} with a random step."
                made.append(Mixture([alive[theta].id], [1.0], reason, preference, self.sigma, seed))
            elif self.method == "cbo":
                made.append(self._towards(alive, worth, best, theta, preference, seed))
            else:
                parent = alive[int(best[0])].id
                for sign in (1.0, -1.0):
                    reason = f"{parent!r} and a random step {'there' if sign > 0 else 'and back'}: a slope."
                    made.append(Mixture([parent], [1.0], reason, preference, sign * self.sigma, seed))
                self.pairs.append({"parent": parent, "seed": seed, "preference": preference.tolist()})
        return made

    def _towards(
        self, alive: list[Entry], worth: np.ndarray, best: np.ndarray, theta: int, preference: np.ndarray, seed: int
    ) -> Mixture:
        """A consensus-based step: towards where the elite agrees, with less noise the nearer that is."""
        weight = np.exp(self.alpha * (worth[best] - worth[best].max()))
        coefficients = self.step * weight / weight.sum()
        coefficients[best == theta] += 1 - self.step
        noise = self.sigma * float(1 - coefficients[best == theta][0])
        parents = [alive[int(i)].id for i in best]
        reason = f"{alive[theta].id!r} drawn to the consensus of the best."
        return Mixture(parents, [float(c) for c in coefficients], reason, preference, noise, seed)

    def _descents(self, state: Exploration, alive: list[Entry]) -> list[Mixture]:
        """The steps whose slopes were measured since."""
        held = {entry.id: entry for entry in alive}
        made = []
        for pair in self.pairs:
            found: dict[bool, Entry] = {}
            for entry in state.archive.entries.values():
                if entry.origin.seed == pair["seed"]:
                    found[entry.origin.noise > 0] = entry
            if len(found) < 2 or pair["parent"] not in held:
                continue
            preference = np.array(pair["preference"], dtype=float)
            values = state.points([found[True], found[False]])
            ahead, behind = utilities(values, preference, state.points(alive).max(0))
            length = float(self.step * (ahead - behind) / (2 * self.sigma))
            # a step longer than a few of those that measured the slope goes where nothing was measured
            length = float(np.clip(length, -3 * self.sigma, 3 * self.sigma))
            if length:
                reason = f"{pair['parent']!r} along the slope that two random steps found."
                made.append(Mixture([pair["parent"]], [1.0], reason, preference, length, pair["seed"]))
        return made

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks: list[Task | None] = [None] * len(state.preferences)
        alive = state.alive()
        if state.progress < self.after or not alive:
            return tasks
        points = state.points(alive)
        for slot, own in enumerate(newest(state)):
            preference = state.preferences[slot]
            worth = utilities(points, preference, points.max(0))
            best = alive[int(worth.argmax())]
            if own is None or best is own:
                continue
            current = utilities(state.measured[[slot]], preference, points.max(0))[0]
            noise = np.hypot(state.frame_stderr(own.estimate), state.frame_stderr(best.estimate))
            if worth.max() > current + (np.maximum(preference, 1e-3) * noise).max():
                tasks[slot] = Task(preference, f"{best.id!r} serves its preference better.", best.id)
        return tasks

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return {"turn": self.turn, "pairs": [dict(pair) for pair in self.pairs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"turn", "pairs"})
        self.turn = int(state["turn"])
        self.pairs = [dict(pair) for pair in state["pairs"]]
