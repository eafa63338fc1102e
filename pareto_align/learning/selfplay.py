"""Preferences among a policy's own answers: they are compared by their rewards, and learned from.

Every objective labels the pairs for itself, so labels that disagree stay apart until a weighting trades them. Where an
objective is how often an answer wins (`win_rate`), what is learned is a policy that others do not beat: the Nash
equilibrium of a game whose players stay near the untrained model.

References:
    Guo et al., "Direct Language Model Alignment from Online AI Feedback", arXiv 2402.04792 (online DPO).
    Flet-Berliac et al., "Contrastive Policy Gradient", arXiv 2406.19185 (`loss_type="copg"`).
    Calandriello et al., "Human Alignment of Large Language Models through Online Preference Optimisation",
        arXiv 2403.08635 (online IPO: `copg` on win rates).
    Wu et al., "Self-Play Preference Optimization for Language Model Alignment", arXiv 2405.00675 (`Sppo`).
    Zhang et al., "Iterative Nash Policy Optimization", arXiv 2407.00617 (`Inpo`).
    Zhou et al., "Extragradient Preference Optimization (EGPO)", arXiv 2503.08942 (`Egpo`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from pareto_align.arguments import Count, NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.learner import Context, StepReport, register_learner
from pareto_align.learning.on_policy import OnPolicyLearner
from pareto_align.learning.preferences import PairView, make_losses
from pareto_align.learning.rollouts import Rollouts
from pareto_align.policies.batches import Batch
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.weighting.evidence import FROM_REWARDS, spread_of

__all__ = ["Egpo", "Inpo", "OnlineDpo", "Sppo"]

IN_PROPORTION = ("ipo", "inpo", "sppo")
"""Losses that ask for a margin in proportion to the label, whatever number that is."""


@register_learner("online-dpo")
class OnlineDpo(OnPolicyLearner):
    """DPO on what the policies say themselves, labelled by the rewards.

    The label of a pair under an objective is whether the first answer has the larger reward, or with `labels="soft"`
    how likely that is under Bradley and Terry with the rewards' difference on the frozen scale as the logit.

    Args:
        loss_type: A loss of pairs by its name in TRL, "sppo", "copg" or "inpo".
        beta: How strongly the reference is held on to; by default the loss's own. "inpo" has `eta` and `tau` instead:
            give it as the learner of that name.
        labels: "hard", a tie counting one half, "soft", or "difference": one half and the rewards' own difference, for
            rewards that are probabilities to win.
        pairs: "all" pairs of a prompt's answers, or only the "extremes" of each objective: its best against its worst.
        reference: What a policy is compared with: the untrained model, the "base", or itself a while ago, "previous".
        every: Steps after which "previous" is taken anew. A policy that a slot begins with counts as taken.
    """

    needs_group = True
    own_loss = True
    provides = FROM_REWARDS | {"measured", "gramians"}
    previous: Tensor | None = None  # [K, P], where the policies were when it was last taken

    def __init__(
        self,
        *,
        loss_type: Any = "sigmoid",
        beta: Positive | None = None,
        labels: Literal["hard", "soft", "difference"] = "hard",
        pairs: Literal["all", "extremes"] = "all",
        reference: Literal["base", "previous"] = "base",
        every: Count = 1,
    ) -> None:
        settings: dict[str, Any] = {} if beta is None else {"beta": beta}
        self._begin(make_losses(loss_type, **settings), labels, pairs, reference, every)

    def _begin(self, loss: Any, labels: str, pairs: str, reference: str, every: int) -> None:
        if loss.weights_inside or (loss.unit != "pair" and loss.name != "sppo"):
            raise ConfigError(f"The learner {self.name!r} compares pairs of answers. Found loss_type={loss.name!r}.")
        if loss.name == "copg" and (labels, pairs) != ("hard", "all"):
            raise ConfigError("'copg' reads the rewards themselves: leave `labels` and `pairs` out.")
        if labels == "difference" and loss.name not in IN_PROPORTION:
            raise ConfigError(
                f"labels='difference' may be below 0 and above 1, which only {', '.join(IN_PROPORTION)} take. Found "
                f"loss_type={loss.name!r}."
            )
        self.loss, self.labels, self.pairs = loss, labels, pairs
        self.reference, self.every = reference, every

    def setup(self, context: Context) -> None:
        """Begin a run."""
        super().setup(context)
        self.steps_made = 0
        self.previous = self._now() if self._keeps_previous else None

    @property
    def _keeps_previous(self) -> bool:
        return self.reference == "previous" or self.loss.name == "inpo"

    @property
    def needs_own_policies(self) -> bool:
        """Where it keeps the iterate before."""
        return self._keeps_previous

    @property
    def reads_reference(self) -> bool:
        """Whether its steps need the log-probabilities of the answers under the untrained model."""
        return self.reference == "base"

    def _now(self) -> Tensor:
        return self.optimizer.parameters.detach().clone()

    def coefficients(self, seen: Rollouts) -> Tensor:
        """How steeply the likelihood of each objective's labels rises in each answer's log-probability."""
        return self._slopes(seen, *self._held(seen, self._prepared(seen)))

    def gradients(self, seen: Rollouts, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy, from one backward pass.

        Args:
            seen: What the current policies sampled, once.
            halves: Not offered.

        Raises:
            ConfigError: `halves` was asked for.
        """
        if halves:
            raise ConfigError(f"The learner {self.name!r} does not halve its batch.")
        batch = self._prepared(seen)
        reference, previous = self._held(seen, batch)
        slopes = self._slopes(seen, reference, previous)
        found, logprobs = self.engine.ascend(batch, slopes, seen.completions.mask.float())
        return ObjectiveGradients(found[0], None, reference, logprobs, batch, True)

    def _held(self, seen: Rollouts, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities `[K, N, G, T]` under the reference, and the iterate before if the loss reads it."""
        before = None if self.previous is None else self.engine.logprobs(batch, self.previous)
        if self.reference == "previous":
            assert before is not None
            return before, None
        return self._reference(seen, batch), before

    def _slopes(self, seen: Rollouts, reference: Tensor, previous: Tensor | None) -> Tensor:
        """`[K, N, G, m]` of every policy's own answers, compared with each other only."""
        scaled = self.context.scale.normalize(seen.rewards)[..., self.axes]
        sums = [None if held is None else held.sum(-1) for held in (seen.completions.logprobs, reference, previous)]
        found = []
        for k, rewards in enumerate(scaled):
            logps, *held = (None if x is None else x[k : k + 1] for x in sums)
            view = self._view(rewards, seen.completions.lengths[k], logps, *held)
            found.append(-self.loss.coefficients(view)[1][0])
        return torch.stack(found).float()

    def _view(self, rewards: np.ndarray, lengths: Tensor, logps: Any, reference: Any, previous: Any = None) -> PairView:
        """One policy's answers, labelled by their rewards `[N, G, m]`."""
        prompts, group, m = rewards.shape
        of_group = np.array(list(combinations(range(group), 2)))
        first, second = rewards[:, of_group[:, 0]], rewards[:, of_group[:, 1]]  # [N, pairs, m]
        gap = first - second
        said = {"hard": 0.5 + 0.5 * np.sign(gap), "soft": expit(gap), "difference": 0.5 + gap}[self.labels]
        if self.pairs == "extremes":
            # NaN where a reward is missing is neither the largest nor the smallest
            with np.errstate(invalid="ignore"):
                widest = np.abs(gap) >= np.nanmax(np.abs(np.nan_to_num(gap)), axis=1, keepdims=True)
            said = np.where(widest, said, np.nan)
        numbers = np.repeat(np.arange(prompts), len(of_group))
        pairs = np.column_stack([numbers, np.tile(of_group, (prompts, 1))])
        return PairView(
            logps,
            lengths,
            torch.from_numpy(pairs),
            torch.from_numpy(said.reshape(-1, m)).float(),
            reference=reference,
            previous=previous,
            scores=torch.from_numpy(np.ascontiguousarray(rewards)).float(),
        )

    def step(
        self,
        seen: Rollouts,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy: see `Learner.step`.

        Raises:
            ConfigError: Weights are to act on rewards, which are compared before anything weighs them.
        """
        if applies_to != "advantage":
            raise ConfigError(f"The learner {self.name!r} compares rewards before anything weighs them.")
        found = self.gradients(seen) if gradients is None else gradients
        self.population.grad.copy_(-found.combine(torch.from_numpy(weights).float()))
        norms = self._move(learning_rate)
        self.steps_made += 1
        if self.previous is not None and self.steps_made % self.every == 0:
            self.previous = self._now()
        scaled = self.context.scale.normalize(seen.rewards)[..., self.axes]
        varied = np.nan_to_num(spread_of(scaled.reshape(-1, *scaled.shape[2:]))).reshape(len(scaled), -1).mean(1)
        base = found.reference if self.reference == "base" else None
        return self._reported(seen, norms, varied, base)

    def _move(self, learning_rate: float) -> Tensor:
        """Follow the gradients that stand in the population's buffer; returns their norms `[K]`."""
        return self.optimizer.step(self.population.grad, learning_rate)

    def reset(self, slot: int) -> None:
        """A slot changes hands: its new tenant was not there before."""
        super().reset(slot)
        if self.previous is not None:
            self.previous[slot] = self.optimizer.parameters[slot]

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on needs."""
        own = {} if self.previous is None else {"previous": self.previous}
        return {**super().state_dict(), **own, "steps_made": torch.tensor(self.steps_made)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        super().load_state_dict(state)
        self.steps_made = int(state["steps_made"])
        if self.previous is not None:
            self.previous.copy_(state["previous"])


@register_learner("sppo")
class Sppo(OnlineDpo):
    """SPPO: the log-ratio to the iterate before is regressed on how much more often than not an answer wins.

    Nothing holds it to the untrained model, so the last policy may go in circles where preferences do; the archive
    keeps those that were good on the way. Answers are drawn from the policy as it is, not from the iterate before.

    Args:
        beta: 1 / eta; the paper's is 0.001.
        labels: How pairs are labelled, see `OnlineDpo`: "difference" for win rates, "soft" or "hard" for other rewards.
        every: Steps of one iteration.
    """

    def __init__(
        self,
        *,
        beta: Positive = 1e-3,
        labels: Literal["hard", "soft", "difference"] = "difference",
        every: Count = 8,
    ) -> None:
        self._begin(make_losses("sppo", beta=beta), labels, "all", "previous", every)


@register_learner("inpo")
class Inpo(OnlineDpo):
    """INPO: mirror descent towards the Nash equilibrium of the game that `tau` nats of the untrained model hold.

    An iteration regresses the log-ratio to a mixture of the iterate before and the untrained model on the labels.

    Args:
        eta: Size of the step from the iterate before, inverted.
        tau: How strongly the untrained model is held on to; at most eta.
        labels: How pairs are labelled, see `OnlineDpo`: "difference" for win rates, "soft" or "hard" for other rewards.
        every: Steps of one iteration.
    """

    def __init__(
        self,
        *,
        eta: Positive = 0.0075,
        tau: NotNegative = 0.0025,
        labels: Literal["hard", "soft", "difference"] = "difference",
        every: Count = 8,
    ) -> None:
        self._begin(make_losses("inpo", eta=eta, tau=tau), labels, "all", "base", every)


@register_learner("egpo")
class Egpo(OnlineDpo):
    """EGPO: online IPO by extragradient, whose last policy reaches the Nash equilibrium, fast where steps are large.

    Every second step is taken from where the step before began, along the gradient that was found after it. So a full
    step costs two, and a policy that is measured between them is half-way: let `eval_every` be even. The paper draws
    the pairs from a fixed distribution and takes only the opponents from half-way; here the second half samples, and
    is differentiated, where the first one led. The fixed point is the same.

    Args:
        beta: The price of one nat from the untrained model, in units of the reward.
    """

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self._begin(make_losses("copg", beta=beta), "hard", "all", "base", 1)

    def setup(self, context: Context) -> None:
        """Begin a run."""
        super().setup(context)
        self.start = self._whole()

    @property
    def needs_own_policies(self) -> bool:
        """It keeps where a step began."""
        return True

    def _whole(self) -> dict[str, Tensor]:
        """The policies and the optimizer's state, as they are."""
        state = {name: value.clone() for name, value in self.optimizer.state_dict().items()}
        return {"parameters": self._now(), **state}

    def _move(self, learning_rate: float) -> Tensor:
        """Half a step, or from where that began a whole one."""
        if self.steps_made % 2 == 0:
            self.start = self._whole()
        else:
            self.optimizer.parameters.data.copy_(self.start["parameters"])
            self.optimizer.load_state_dict(self.start)
        return super()._move(learning_rate)

    def reset(self, slot: int) -> None:
        """A slot changes hands: the step of its new tenant begins where it is."""
        super().reset(slot)
        for name, value in self._whole().items():
            self.start[name][slot] = value[slot]

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on needs."""
        return {**super().state_dict(), **{f"start.{name}": value for name, value in self.start.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        super().load_state_dict(state)
        self.start = {name: value.copy_(state[f"start.{name}"]) for name, value in self.start.items()}
