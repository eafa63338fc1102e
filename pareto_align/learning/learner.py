"""One training step of the whole population: credit, one collapse of the vector, one loss, one optimizer step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.learning.credit import Credit
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import RewardScale
from pareto_align.policies.logprobs import Head, completion_hidden, completion_logprobs, fused_loss
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.policies.population import PolicyPopulation

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
        micro_batch_tokens: Tokens of one forward and backward pass; prompts are taken a few at a time to stay below.
        layout: `"packed"`, `"dense"`, or `"auto"`: packed where a check at the first step finds it equal to dense.
            A packed row longer than the model's sliding window falls back to dense rows in any case.
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
    ) -> None:
        if layout not in ("auto", "packed", "dense"):
            raise ConfigError(f"`layout` must be auto, packed or dense. Found layout={layout!r}.")
        if updates < 1:
            raise ConfigError(f"`updates` must be at least 1. Found updates={updates}.")
        self.population = population
        self.credit = credit
        self.loss = loss
        self.scale = scale
        self.axes = list(axes)
        self.temperature = temperature
        self.updates = updates
        self.micro_batch_tokens = micro_batch_tokens
        self.head = Head(population.base)
        self.optimizer = PopulationAdamW(population.parameters, max_norm=max_norm, weight_decay=weight_decay)
        self.layout = layout
        self.packed = layout == "packed"
        self._reads_packed_rows: bool | None = None

    def vector_credit(self, rollouts: Rollouts) -> Tensor:
        """Advantages `[K, N, G, m]` of the optimized objectives on the frozen scale."""
        scaled = self.scale.normalize(rollouts.rewards)[..., self.axes]
        return self.credit.vector(torch.from_numpy(np.ascontiguousarray(scaled)).float())

    def step(
        self, rollouts: Rollouts, weights: np.ndarray, learning_rate: float, *, applies_to: str = "advantage"
    ) -> StepReport:
        """Update every policy on its own completions.

        Args:
            rollouts: What the current policies sampled.
            weights: `[K, m]`; a row's direction is the trade, its sum the strength of the step.
            learning_rate: For all policies.
            applies_to: Whether weights act on the advantage or, as some papers have it, on the reward before the
                credit normalises it.
        """
        done = rollouts.completions
        self.packed = self._can_pack(rollouts)
        vector = self.vector_credit(rollouts)
        advantages = self.credit.combine(vector, torch.from_numpy(weights).float(), applies_to=applies_to)
        # a group of one has no spread of its own: its peers are the policy's other prompts
        peers = advantages if advantages.shape[2] > 1 else advantages.transpose(1, 2)
        spread = peers.std(2, correction=0).mean(1)
        reference = self._reference_logprobs(rollouts) if self.loss.kl_coef > 0 else None
        if reference is not None:
            advantages = self.loss.charge_kl(advantages, done.logprobs, reference)
        token_weights = self.loss.token_weights(done.mask)
        old: list[Tensor | None] = [None] * len(rollouts.rows)
        for _ in range(self.updates):
            self.population.grad.zero_()
            with self.population.serving(training=True):
                for part in self._micro_batches(rollouts):
                    self._backward(rollouts, part, advantages, token_weights, reference, old)
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

    def _backward(
        self,
        rollouts: Rollouts,
        part: slice,
        advantages: Tensor,
        token_weights: Tensor,
        reference: Tensor | None,
        old: list[Tensor | None],
    ) -> None:
        """Add the gradient of some prompts' completions to the population's buffer."""
        done, device = rollouts.completions, self.population.base.device
        mask = done.mask[:, part]
        length = int(mask.sum(-1).max())
        mask, tokens = mask[..., :length], done.tokens[:, part, :, :length]
        where = mask.to(device)
        hidden = completion_hidden(
            self.head, self.population.base, done.prompt_ids[part], tokens, mask, packed=self.packed
        )
        advantage = advantages[:, part, :, None].expand(mask.shape)[mask].to(device)
        weight = token_weights[:, part, :, :length][mask].to(device)
        ref = None if reference is None else reference[:, part, :, :length][mask].to(device)
        before = old[part.start]

        def token_loss(logprob: Tensor, chunk: slice) -> Tensor:
            # the first update's own log-probabilities stand for the sampler's: in bfloat16 those differ by rounding
            sampled = logprob.detach() if before is None else before[chunk]
            losses = self.loss.token_loss(logprob, sampled, advantage[chunk], None if ref is None else ref[chunk])
            return losses * weight[chunk]

        total, logprobs = fused_loss(
            hidden[where], self.head, tokens.to(device)[where], token_loss, temperature=self.temperature
        )
        total.backward()  # type: ignore[no-untyped-call]
        if before is None:
            old[part.start] = logprobs

    def _micro_batches(self, rollouts: Rollouts) -> list[slice]:
        """Slices of the prompts, as many as fit the token budget with all policies' rows; at least one prompt each."""
        policies, prompts, group, _ = rollouts.completions.tokens.shape
        longest = int(rollouts.completions.lengths.max())
        prompt = max(len(row.ids) for row in rollouts.rows)
        tokens = policies * (prompt + group * longest if self.packed else group * (prompt + longest))
        size = max(1, self.micro_batch_tokens // max(tokens, 1))
        return [slice(start, min(start + size, prompts)) for start in range(0, prompts, size)]

    def _reference_logprobs(self, rollouts: Rollouts) -> Tensor:
        """Log-probabilities `[K, N, G, T]` of the completions under the frozen base, one adapter-free forward."""
        done = rollouts.completions
        found = torch.zeros(done.tokens.shape)
        with self.population.reference():
            for part in self._micro_batches(rollouts):
                length = int(done.mask[:, part].sum(-1).max())
                found[:, part, :, :length] = completion_logprobs(
                    self.head,
                    self.population.base,
                    done.prompt_ids[part],
                    done.tokens[:, part, :, :length],
                    done.mask[:, part, :, :length],
                    temperature=self.temperature,
                    packed=self.packed,
                ).cpu()
        return found

    def _can_pack(self, rollouts: Rollouts) -> bool:
        """Whether completions can share their prompt's row; once they cannot, separate rows are used for good."""
        if self.layout == "dense" or self._reads_packed_rows is False:
            return False
        window = getattr(self.population.base.model.config.get_text_config(), "sliding_window", None)
        group = rollouts.completions.tokens.shape[2]
        row = max(len(row.ids) for row in rollouts.rows) + group * int(rollouts.completions.lengths.max())
        reason = None
        if window and row > window:  # the prompt would slide out of the later completions' sight
            reason = f": a packed row has {row} tokens, its window {window}"
        elif self.layout == "auto" and self._reads_packed_rows is None:
            reason = self._why_packed_differs(rollouts)
        self._reads_packed_rows = reason is None
        if reason is not None:
            warnings.warn(
                f"{type(self.population.base.model).__name__} does not read packed rows like separate ones{reason}; "
                "training uses separate rows, which is slower.",
                ParetoAlignWarning,
                stacklevel=3,
            )
        return reason is None

    def _why_packed_differs(self, rollouts: Rollouts) -> str | None:
        """What keeps the model from reading packed rows as separate ones (recurrent layers, say); None if it does."""
        done, part = rollouts.completions, slice(0, 1)
        arguments = (self.head, self.population.base, done.prompt_ids[part], done.tokens[:, part], done.mask[:, part])
        with self.population.serving():
            try:
                packed, dense = (
                    completion_logprobs(*arguments, temperature=self.temperature, packed=way) for way in (True, False)
                )
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError) as error:
                return f": {error}"
        gap = float((packed - dense).abs().sum() / done.mask[:, part].sum().clamp(min=1))
        # rounding: other shapes, other order of summation; in bfloat16 single tokens differ by up to .3 nats
        tolerance = 1e-3 if self.population.base.dtype == torch.float32 else 0.1
        return None if gap <= tolerance else f" (mean difference {gap:.2g} nats a token)"
