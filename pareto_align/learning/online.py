"""Learning from what the policies say themselves: credit, one collapse of the vector, one loss, one optimizer step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pareto_align.arguments import Count, arguments_of
from pareto_align.errors import ConfigError
from pareto_align.learning.credit import Credit
from pareto_align.learning.learner import StepReport
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.on_policy import OnPolicyLearner
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import ObjectiveSet
from pareto_align.policies.batches import Batch
from pareto_align.policies.gradients import ObjectiveGradients, halves_of, inner_products
from pareto_align.policies.logprobs import TokenLoss

__all__ = ["OnlineLearner"]


class OnlineLearner(OnPolicyLearner):
    """Policy gradients: completions are sampled, rewarded, and compared with their peers.

    Args:
        credit: Rewards to vector advantages, and their collapse under weights.
        loss: The policy-gradient loss.
        updates: Optimizer steps per rollout; more than one makes the loss clip.
    """

    def __init__(self, credit: Credit, loss: PolicyLoss | None = None, *, updates: Count = 1) -> None:
        self.credit = credit
        self.loss = loss or PolicyLoss()
        self.updates = updates
        self.name = credit.name  # type: ignore[misc]
        self.needs_group = credit.needs_group

    corrects: ClassVar[bool] = True

    @property
    def reads_reference(self) -> bool:
        """Whether leaving the frozen base has a price."""
        return self.loss.kl_coef != 0

    def facts(self) -> dict[str, Any]:
        """What its credit was built with; the loss is told among the run's settings."""
        return arguments_of(self.credit)

    def check(self, objectives: ObjectiveSet) -> None:
        """Whether the credit can work with the optimized objectives.

        Raises:
            ConfigError: It cannot.
        """
        every = list(objectives)
        self.credit.check([every[column] for column in objectives.axes])

    def coefficients(self, seen: Rollouts) -> Tensor:
        """Advantages `[K, N, G, m]` of the optimized objectives on the frozen scale."""
        return self.credit.vector(self._scaled(seen))

    def _scaled(self, seen: Rollouts) -> Tensor:
        """Rewards `[K, N, G, m]` of the optimized objectives on the frozen scale, NaN where missing."""
        scaled = self.context.scale.normalize(seen.rewards)[..., self.axes]
        return torch.from_numpy(np.ascontiguousarray(scaled)).float()

    def step(
        self,
        seen: Rollouts,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy on its own completions: see `Learner.step`."""
        done = seen.completions
        batch = self._prepared(seen) if gradients is None else gradients.batch
        vector = self.coefficients(seen)
        trade = torch.from_numpy(weights).float()
        likely = done.logprobs.sum(-1) / done.lengths.clamp(min=1) if self.credit.needs_logprobs else None
        advantages = self.credit.combine(vector, trade, applies_to=applies_to, logprobs=likely)
        # a group of one has no spread of its own: its peers are the policy's other prompts
        peers = advantages if advantages.shape[2] > 1 else advantages.transpose(1, 2)
        spread = peers.std(2, correction=0).mean(1)
        reference = self._charged(seen, batch) if gradients is None else gradients.reference
        if reference is not None:
            advantages = self.loss.charge_kl(advantages, done.logprobs, reference, self.credit.against_peers)
        old = None if gradients is None else gradients.logprobs
        sums = gradients is not None and gradients.exact and applies_to == "advantage"
        for update in range(self.updates):
            if sums and update == 0:
                assert gradients is not None
                self.population.grad.copy_(-gradients.combine(trade))
            else:
                old = self._descend(batch, advantages, reference, old)
            norms = self.optimizer.step(self.population.grad, learning_rate)
        return self._reported(seen, norms, spread.numpy(), reference, old)

    def moved(self, seen: Rollouts) -> np.ndarray:
        """How far a step has moved each policy since it answered: `[K]` nats of KL divergence a completion.

        Half the mean square of the change of log-probability, summed over a completion's tokens: the divergence to
        second order, and of less variance than the mean change itself (the estimator k2 of Schulman, "Approximating KL
        Divergence", 2020). A step of a share s of the way has about s^2 of it.
        """
        before = seen.completions.logprobs if seen.trained is None else seen.trained
        change = (self.engine.logprobs(self._prepared(seen)) - before) * seen.completions.mask
        nats: np.ndarray = change.double().square().sum(-1).mean((1, 2)).div(2).numpy()
        return nats

    def gradients(self, seen: Rollouts, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy, from one backward pass.

        On-policy the loss of an objective is linear in its advantages, so one pass over the completions' summed
        log-probabilities holds all of them. The KL term of `kl="k1"` is one more sum.

        With `halves` the prompts of the two halves are passed through one after the other: as many tokens, one more
        buffer of gradients. With a single prompt its completions are halved, and passed through twice.

        Args:
            seen: What the current policies sampled, once: after an update the log-probabilities differ.
            halves: Also find `cross_gramians`, from two halves of the batch.

        Raises:
            ConfigError: The batch is too small to be halved.
        """
        done = seen.completions
        batch = self._prepared(seen)
        whole = self.coefficients(seen)
        _, prompts, group, objectives = whole.shape
        members = halves_of(prompts, group) if halves else None
        vector = whole if members is None else self._halved_credit(seen)
        reference = self._charged(seen, batch)
        charge = self.loss.kl == "k1" and reference is not None
        factors = vector
        if charge:
            assert reference is not None
            free = torch.zeros(vector.shape[:3])
            spent = self.loss.charge_kl(free, done.logprobs, reference, self.credit.against_peers)
            factors = torch.cat([vector, spent[..., None]], 3)
        batch = batch.carrying(factors.shape[-1])
        weights, correction = self.loss.token_weights(done.mask), self.context.correction
        parts, logprobs = self.engine.ascend(batch, factors, weights, members, correction)
        if correction.by_completion:
            kept = correction.kept(logprobs, done.logprobs, done.mask)
            parts *= self.loss.renewal(done.mask, kept).to(parts.device)[:, None, None]
        total, cross = parts[0], None
        if members is not None:
            first, second = (member.numel() / int(member.sum()) for member in members)
            cross = first * second * inner_products(parts[0, :, :objectives], parts[1, :, :objectives])
            total += parts[1]
        kl = total[:, objectives] if charge else None
        exact = self.credit.linear and (reference is None or charge) and torch.equal(vector, whole)
        return ObjectiveGradients(total[:, :objectives], kl, reference, logprobs, batch, exact, cross)

    def _halved_credit(self, seen: Rollouts) -> Tensor:
        """Advantages `[K, N, G, m]` in which a completion is compared with peers of its own half only.

        A baseline that both halves share would tie their gradients to each other.
        """
        _, prompts, group, _ = seen.rewards.shape
        along, length = (1, prompts) if prompts > 1 else (2, group)
        if length < 2 or (along == 2 and self.credit.needs_group and group < 4):
            raise ConfigError(
                "Two halves of a batch need at least 2 prompts a step, or of one prompt at least 4 completions (2 for "
                f"a learner without groups). Found prompts_per_step={prompts}, group_size={group}."
            )
        scaled = self._scaled(seen)
        found = torch.empty_like(scaled)
        for start in (0, 1):
            part = (slice(None),) * along + (slice(start, None, 2),)
            found[part] = self.credit.vector(scaled[part])
        return found

    def _charged(self, seen: Rollouts, batch: Batch) -> Tensor | None:
        """Log-probabilities `[K, N, G, T]` under the frozen base; None where nothing is charged for leaving it."""
        return self._reference(seen, batch) if self.reads_reference else None

    def _descend(self, batch: Batch, advantages: Tensor, reference: Tensor | None, old: Tensor | None) -> Tensor:
        """Put the loss's gradient into the population's buffer; returns the log-probabilities before the first update.

        The first update's own log-probabilities stand for the sampler's: in bfloat16 those differ by rounding. Where
        that is more than rounding, completions are weighed by the ratio of these two; the clip is about the ratio of
        this update's policy to the first one's.
        """
        correction, sampled, mask = self.context.correction, batch.done.logprobs, batch.done.mask
        weights, shares = self.loss.token_weights(mask), None
        if old is not None and correction.weighs:
            kept = correction.kept(old, sampled, mask)
            shares = correction.of_completions(old, sampled, mask)
            weights = weights * shares * self.loss.renewal(mask, kept)[:, None, None, None]
            mask = mask & kept[..., None]
        given = {"advantage": advantages[..., None].expand(weights.shape), "weight": weights}
        given |= {name: x for name, x in (("reference", reference), ("old", old)) if x is not None}
        if old is not None and self.loss.kl_limit is not None:
            back = self.loss.pull_back(old, self.engine.logprobs(batch), mask)
            given["back"] = back if shares is None else back * shares
        if old is not None:
            self.engine.descend(batch, self._token_loss, given)
            return old
        found = self.engine.descend(batch, self._token_loss, given, logprobs=True, correction=correction)
        assert found is not None
        if correction.by_completion:
            renewal = self.loss.renewal(mask, correction.kept(found, sampled, mask))
            self.population.grad *= renewal.to(self.population.grad.device)[:, None]
        return found

    def _token_loss(
        self,
        advantage: Tensor,
        weight: Tensor,
        reference: Tensor | None = None,
        old: Tensor | None = None,
        back: Tensor | None = None,
    ) -> TokenLoss:
        def loss(logprob: Tensor, chunk: slice) -> Tensor:
            sampled = logprob.detach() if old is None else old[chunk]
            ref = None if reference is None else reference[chunk]
            found = self.loss.token_loss(logprob, sampled, advantage[chunk], ref) * weight[chunk]
            return found if back is None else found + back[chunk] * (sampled - logprob)

        return loss
