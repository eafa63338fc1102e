"""One training step of the whole population: credit, one collapse of the vector, one loss, one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.learning.credit import Credit
from pareto_align.learning.gradients import ObjectiveGradients, halves_of, inner_products
from pareto_align.learning.layout import Batch, Part, RowLayout, checkpointing
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import RewardScale
from pareto_align.policies.logprobs import TokenLoss, fused_loss, lay_out, predicting_states, token_logprobs
from pareto_align.policies.optimizer import FamilyAdamW, PopulationAdamW
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.transfers import moved

__all__ = ["Learner", "StepReport"]


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one step did to each policy.

    Attributes:
        grad_norm: `[K]` before clipping; not finite where the policy's update was skipped.
        kl: `[K]` mean estimate of KL(pi || reference) a completion in nats; NaN where it was not measured.
        entropy: `[K]` mean of minus the sampled tokens' log-probabilities, in nats a token.
        spread: `[K]` mean within-group standard deviation of the advantages (over the batch where G is 1); 0 means
            nothing can be learnt.
    """

    grad_norm: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray

    def pooled(self) -> StepReport:
        """The report of a family as of one policy: its gradient is finite where that of any preference was."""
        finite = self.grad_norm[np.isfinite(self.grad_norm)]
        norm = np.array([finite.mean() if len(finite) else np.nan])
        return StepReport(norm, *(np.array([part.mean()]) for part in (self.kl, self.entropy, self.spread)))


class Learner:
    """Steps all K policies of a population at once; each one's update equals the one it would get alone.

    Args:
        population: The policies; only their `parameters` and `grad` are changed.
        credit: Rewards to vector advantages, and their collapse under weights.
        loss: The policy-gradient loss.
        scale: The frozen scale of all objectives.
        axes: Indices of the optimized objectives.
        temperature: The sampling temperature.
        updates: Optimizer steps per rollout; more than one makes the loss clip.
        max_norm: Gradient clipping per policy.
        weight_decay: Of AdamW.
        micro_batch_tokens: Tokens of one forward and backward pass (`layout.RowLayout.micro_batches`).
        layout: `"packed"`, `"dense"`, or `"auto"`: packed where a check at the first step finds it equal to dense.
            A sequence longer than the model's sliding window falls back to dense rows in any case.
        gradient_checkpointing: Keep only the layers' inputs and run each layer again on the way back: less memory, more
            time.
        optimizer: What the policies' gradients `[K, P]` are handed to; by default AdamW on the policies themselves.
    """

    def __init__(
        self,
        population: PolicyPopulation,
        credit: Credit,
        loss: PolicyLoss,
        scale: RewardScale,
        axes: Sequence[int],
        *,
        temperature: float = 1.0,
        updates: int = 1,
        max_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        micro_batch_tokens: int = 4096,
        layout: str = "auto",
        gradient_checkpointing: bool = False,
        optimizer: PopulationAdamW | FamilyAdamW | None = None,
    ) -> None:
        if updates < 1:
            raise ConfigError(f"`updates` must be at least 1. Found updates={updates}.")
        self.population = population
        self.credit = credit
        self.loss = loss
        self.scale = scale
        self.axes = list(axes)
        self.temperature = temperature
        self.updates = updates
        self.gradient_checkpointing = gradient_checkpointing
        self.layout = RowLayout(population, layout, micro_batch_tokens, temperature)
        self.head = population.head
        if optimizer is None:
            optimizer = PopulationAdamW(population.parameters, max_norm=max_norm, weight_decay=weight_decay)
        self.optimizer = optimizer

    def vector_credit(self, rollouts: Rollouts) -> Tensor:
        """Advantages `[K, N, G, m]` of the optimized objectives on the frozen scale."""
        return self.credit.vector(self._scaled(rollouts))

    def _scaled(self, rollouts: Rollouts) -> Tensor:
        """Rewards `[K, N, G, m]` of the optimized objectives on the frozen scale, NaN where missing."""
        scaled = self.scale.normalize(rollouts.rewards)[..., self.axes]
        return torch.from_numpy(np.ascontiguousarray(scaled)).float()

    def step(
        self,
        rollouts: Rollouts,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy on its own completions.

        Args:
            rollouts: What the current policies sampled.
            weights: `[K, m]`; a row's direction is the trade, its sum the strength of the step.
            learning_rate: For all policies.
            applies_to: Whether weights act on the advantage or, as some papers have it, on the reward before the
                credit normalises it.
            gradients: What `gradients(rollouts)` found. Where the credit is linear their weighted sum is the update,
                and no second backward pass is made.
        """
        done = rollouts.completions
        batch = self.layout.prepare(rollouts) if gradients is None else gradients.batch
        vector = self.vector_credit(rollouts)
        trade = torch.from_numpy(weights).float()
        advantages = self.credit.combine(vector, trade, applies_to=applies_to)
        # a group of one has no spread of its own: its peers are the policy's other prompts
        peers = advantages if advantages.shape[2] > 1 else advantages.transpose(1, 2)
        spread = peers.std(2, correction=0).mean(1)
        reference = self._reference_logprobs(batch) if gradients is None else gradients.reference
        if reference is not None:
            advantages = self.loss.charge_kl(advantages, done.logprobs, reference, self.credit.against_peers)
        old = None if gradients is None else gradients.logprobs
        sums = gradients is not None and gradients.exact and applies_to == "advantage"
        for update in range(self.updates):
            if sums and update == 0:
                assert gradients is not None
                self.population.grad.copy_(-gradients.combine(trade))
            else:
                old = self._loss_gradient(batch, advantages, reference, old)
            norms = self.optimizer.step(self.population.grad, learning_rate)
        counts = done.mask.sum((1, 2, 3)).clamp(min=1)
        unmeasured = torch.full(counts.shape, torch.nan)
        kl = unmeasured if reference is None else (done.logprobs - reference).sum(-1).mean((1, 2))
        return StepReport(
            grad_norm=norms.cpu().numpy(),
            kl=kl.numpy(),
            entropy=(-done.logprobs.sum((1, 2, 3)) / counts).numpy(),
            spread=spread.numpy(),
        )

    def gradients(self, rollouts: Rollouts, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy, from one backward pass.

        On-policy the loss of an objective is linear in its advantages, so one pass over the completions' summed
        log-probabilities holds all of them: a LoRA layer sees each token's own gradient and adds it to m sums, with the
        token's completion's advantages as factors. Packed rows hold their prompt m times for this, so that every copy
        carries one sum; with more sums than completions dense rows are less work. The KL term of `kl="k1"` is one more
        sum.

        With `halves` the prompts of the two halves are passed through one after the other: as many tokens, one more
        buffer of gradients. With a single prompt its completions are halved, and passed through twice.

        Args:
            rollouts: What the current policies sampled, once: after an update the log-probabilities differ.
            halves: Also find `cross_gramians`, from two halves of the batch.

        Raises:
            ConfigError: The batch is too small to be halved.
        """
        batch = self.layout.prepare(rollouts)
        done, device = batch.done, self.population.base.device
        whole = self.vector_credit(rollouts)
        _, prompts, group, objectives = whole.shape
        members = halves_of(prompts, group) if halves else torch.ones(1, prompts, group, dtype=torch.bool)
        vector = self._halved_credit(rollouts, members) if halves else whole
        reference = self._reference_logprobs(batch)
        charge = self.loss.kl == "k1" and reference is not None
        factors = vector
        if charge:
            assert reference is not None
            free = torch.zeros(vector.shape[:3])
            spent = self.loss.charge_kl(free, done.logprobs, reference, self.credit.against_peers)
            factors = torch.cat([vector, spent[..., None]], 3)
        sums = factors.shape[-1]
        if batch.packed and sums >= group:
            batch = batch.dense()
        parts = torch.zeros(len(members), self.population.size, sums, self.population.parameter_count, device=device)
        weights = self.loss.token_weights(done.mask)
        logprobs = torch.zeros(done.tokens.shape)

        def passes() -> None:
            parts.zero_()
            seen = []
            for member, found in zip(members, parts, strict=True):
                shares = factors * member[..., None]
                with self.population.serving(training=True, gradients=found):
                    for several in self.layout.micro_batches(batch, copies=sums if batch.packed else 1):
                        prompts = [n for n in several.prompts if member[n, several.completions].any()]
                        if not prompts:
                            continue
                        part = replace(several, prompts=prompts)
                        weight, own = moved([batch.pick(weights, part), shares[part.index]], device)

                        def ascent(logprob: Tensor, chunk: slice, weight: Tensor = weight) -> Tensor:
                            return logprob * weight[chunk]

                        seen.append((part, self._backward(batch, part, ascent, factors=own)))
            batch.put(logprobs, seen)

        self.layout.within_memory(passes)
        total, cross = parts[0], None
        if halves:
            first, second = (member.numel() / int(member.sum()) for member in members)
            cross = first * second * inner_products(parts[0, :, :objectives], parts[1, :, :objectives])
            total += parts[1]
        kl = total[:, objectives] if charge else None
        exact = self.credit.linear and (reference is None or charge) and torch.equal(vector, whole)
        return ObjectiveGradients(total[:, :objectives], kl, reference, logprobs, batch, exact, cross)

    def _halved_credit(self, rollouts: Rollouts, members: Tensor) -> Tensor:
        """Advantages `[K, N, G, m]` in which a completion is compared with peers of its own half `[2, N, G]` only.

        A baseline that both halves share would tie their gradients to each other.
        """
        _, prompts, group, _ = rollouts.rewards.shape
        along, length = (1, prompts) if prompts > 1 else (2, group)
        if length < 2 or (along == 2 and self.credit.needs_group and group < 4):
            raise ConfigError(
                "Two halves of a batch need at least 2 prompts a step, or of one prompt at least 4 completions (2 for "
                f"a learner without groups). Found prompts_per_step={prompts}, group_size={group}."
            )
        scaled = self._scaled(rollouts)
        found = torch.empty_like(scaled)
        for start in (0, 1):
            part = (slice(None),) * along + (slice(start, None, 2),)
            found[part] = self.credit.vector(scaled[part])
        return found

    def _loss_gradient(self, batch: Batch, advantages: Tensor, reference: Tensor | None, old: Tensor | None) -> Tensor:
        """Put the loss's gradient into the population's buffer; returns the log-probabilities before the first update.

        The first update's own log-probabilities stand for the sampler's: in bfloat16 those differ by rounding.
        """
        device = self.population.base.device
        weights = self.loss.token_weights(batch.done.mask)
        before = torch.zeros(batch.done.tokens.shape) if old is None else old

        given = {"advantage": advantages[..., None].expand(weights.shape), "weight": weights}
        given |= {name: x for name, x in (("reference", reference), ("old", old)) if x is not None}

        def passes() -> None:
            self.population.grad.zero_()
            seen = []
            with self.population.serving(training=True):
                for part in self.layout.micro_batches(batch):
                    picked = moved([batch.pick(x, part) for x in given.values()], device)
                    token_loss = self._token_loss(**dict(zip(given, picked, strict=True)))
                    seen.append((part, self._backward(batch, part, token_loss)))
            if old is None:
                batch.put(before, seen)

        self.layout.within_memory(passes)
        return before

    def _token_loss(
        self, advantage: Tensor, weight: Tensor, reference: Tensor | None = None, old: Tensor | None = None
    ) -> TokenLoss:
        def loss(logprob: Tensor, chunk: slice) -> Tensor:
            sampled = logprob.detach() if old is None else old[chunk]
            ref = None if reference is None else reference[chunk]
            return self.loss.token_loss(logprob, sampled, advantage[chunk], ref) * weight[chunk]

        return loss

    def _backward(self, batch: Batch, part: Part, token_loss: TokenLoss, *, factors: Tensor | None = None) -> Tensor:
        """One forward and backward pass over a part; returns its tokens' log-probabilities `[n]`, on the device.

        Args:
            batch: The step's completions.
            part: Which of them.
            token_loss: Loss of each token.
            factors: `[k, n, g, S]` of each completion in each of S sums of gradients; None for one plain sum.
        """
        population = self.population
        prompts, tokens, mask, past = batch.part(part)
        # a row with one completion is the same packed and dense, and its prompt has that completion's factors
        shares_prompts = batch.packed and tokens.shape[2] > 1
        copies = 1 if factors is None or not shares_prompts else factors.shape[-1]
        rows = lay_out(population, prompts, tokens, mask, packed=batch.packed, copies=copies, past=past)
        (targets,) = moved([tokens[mask]], population.base.device)
        spread = None
        if factors is not None:
            factors = factors.reshape(rows.count, rows.group, factors.shape[-1])
            spread = factors if shares_prompts else None
            population.served.streams = rows.stream_factors(factors).view(len(tokens), -1, factors.shape[-1])
        try:
            with (
                population.narrowed(part.policies),
                checkpointing(population.base.model, self.gradient_checkpointing),
                predicting_states(population, rows, spread=spread, plain=batch.plain) as hidden,
            ):
                total, logprobs = fused_loss(hidden, self.head, targets, token_loss, temperature=self.temperature)
                total.backward()  # type: ignore[no-untyped-call]
        finally:
            population.served.streams = None
        return logprobs

    def _reference_logprobs(self, batch: Batch) -> Tensor | None:
        """Log-probabilities `[K, N, G, T]` of the completions under the frozen base; None without a KL term.

        The base is the same for all policies: where rows are packed, all their completions share one prompt.
        """
        if self.loss.kl_coef == 0:
            return None
        done = batch.folded() if batch.packed and not batch.plain else batch
        found = torch.zeros(done.done.tokens.shape)

        def passes() -> None:
            seen = []
            with self.population.reference():
                for part in self.layout.micro_batches(done):
                    prompts, tokens, mask, past = done.part(part)
                    logprobs = token_logprobs(
                        self.population,
                        prompts,
                        tokens,
                        mask,
                        temperature=self.temperature,
                        packed=done.packed,
                        past=past,
                        plain=done.plain,
                    )
                    seen.append((part, logprobs))
            done.put(found, seen)

        self.layout.within_memory(passes)
        return batch.unfolded(found)
