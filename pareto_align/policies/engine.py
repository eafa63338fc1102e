"""Runs K policies on this machine: what they say, how probable it is to them, and from coefficients to gradients.

A loss on the log-probabilities of completions is, at a point, one number for each completion and objective: how fast it
falls as the completion becomes more probable. The engine takes those numbers and knows nothing of where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pareto_align.policies.batches import Batch, Part, RowLayout, checkpointing
from pareto_align.policies.correction import Correction
from pareto_align.policies.logprobs import (
    TokenLoss,
    fused_loss,
    half_scale,
    last_states,
    lay_out,
    predicting_states,
    token_logprobs,
    token_scores,
)
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.samplers.in_process import InProcess
from pareto_align.policies.samplers.protocol import Sampler
from pareto_align.policies.sampling import Completions, SamplingParams
from pareto_align.policies.transfers import moved

__all__ = ["Engine", "Slopes"]

Slopes = Callable[[Part, Tensor], tuple[Tensor, Tensor]]
"""Maps the summed log-probabilities `[k, n, g]` of a part's completions to how steeply S objectives rise in them: the
product of what all objectives have in common, `[k, n, g]`, and what each has of its own, `[k, n, 1, S]` where it is the
same for all completions of a prompt and `[k, n, g, S]` where it is not."""


class Engine:
    """Samples from, reads with, and differentiates all K policies of a population at once.

    Args:
        population: The policies; only their `grad` is changed.
        temperature: Log-probabilities are those of the distribution that is sampled from at it.
        layout: `"packed"`, `"dense"`, or `"auto"`: packed where a check at the first batch finds it equal to dense. A
            sequence longer than the model's sliding window falls back to dense rows in any case.
        micro_batch_tokens: Tokens of one forward and backward pass (`batches.RowLayout.micro_batches`).
        gradient_checkpointing: Keep only the layers' inputs and run each layer again on the way back: less memory, more
            time.

    Attributes:
        rows: How completions are laid out, and how many at a time.
        sampler: What draws from the population's own policies.

    Raises:
        ConfigError: An unknown layout, or no room for a token.
    """

    def __init__(
        self,
        population: PolicyPopulation,
        *,
        temperature: float = 1.0,
        layout: str = "auto",
        micro_batch_tokens: int = 4096,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.population = population
        self.temperature = temperature
        self.gradient_checkpointing = gradient_checkpointing
        self.rows = RowLayout(population, layout, micro_batch_tokens, temperature)
        self.head = population.head
        self.sampler: Sampler = population.outside or InProcess(population)
        self._versions = 0

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        group: int,
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        policies: Tensor | None = None,
        own: bool = False,
    ) -> Completions:
        """What the policies say `[K, N, G, T]`: see `Sampler.draw`.

        Args:
            prompts, group, params, seeds, own: See there.
            policies: `[K, P]` others than the population's own, which it runs itself whatever the sampler is.
        """
        if policies is not None:
            own_sampler = InProcess(self.population)
            own_sampler.push(policies, 0)
            return own_sampler.draw(prompts, group, params, seeds, own=own)
        self._versions += 1  # not the number of the step: several shards draw in one
        self.sampler.wake()
        try:
            self.sampler.push(self.population.parameters, self._versions)
            drawn = self.sampler.draw(prompts, group, params, seeds, own=own)
        except BaseException:
            with suppress(Exception):  # what went wrong first is what has to be told
                self.sampler.rest()
            raise
        self.sampler.rest()
        return drawn

    def prepare(self, prompts: Sequence[Sequence[int]], done: Completions) -> Batch:
        """Completions `[K, N, G, T]` of N prompts, or of K*N where each policy has its own, ready to be read."""
        return self.rows.prepare(prompts, done)

    def logprobs(self, batch: Batch, policies: Tensor | None = None) -> Tensor:
        """Log-probabilities `[K, N, G, T]` of the completions under the policies, 0 on padding; no gradient.

        Args:
            batch: The completions.
            policies: `[K, P]` to read with; by default all slots.
        """
        found = torch.zeros(batch.done.tokens.shape)

        def passes() -> None:
            with self.population.serving(policies):
                parts = self.rows.micro_batches(batch)
                batch.put(found, [(part, self._read(batch, part)) for part in parts])

        self.rows.within_memory(passes)
        return found

    def reference_logprobs(self, batch: Batch) -> Tensor:
        """Log-probabilities `[K, N, G, T]` of the completions under the frozen base, 0 on padding.

        The base is the same for all policies: where rows are packed, all their completions share one prompt.
        """
        done = batch.folded() if batch.packed and not batch.plain else batch
        found = torch.zeros(done.done.tokens.shape)

        def passes() -> None:
            with self.population.reference():
                done.put(found, [(part, self._read(done, part)) for part in self.rows.micro_batches(done)])

        self.rows.within_memory(passes)
        return batch.unfolded(found)

    def ascend(
        self,
        batch: Batch,
        coefficients: Tensor,
        token_weights: Tensor,
        members: Tensor | None = None,
        correction: Correction | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Directions of ascent, one a sum of completions' log-probabilities, from one backward pass.

        A LoRA layer sees each token's own gradient and adds it to S sums, with the coefficients of the token's
        completion as factors. Packed rows hold their prompt S times for this, so that every copy carries one sum
        (`Batch.carrying`).

        Args:
            batch: The completions.
            coefficients: `[K, N, G, S]` of each completion in each sum.
            token_weights: `[K, N, G, T]` of each token in its completion, 0 on padding.
            members: `[H, N, G]`, True for the completions in each of H parts of the batch, which are passed through one
                after the other; by default all of them in one.
            correction: Weighs the tokens by how much likelier they are here than to the sampler that drew them.

        Returns:
            Gradients `[H, K, S, P]` on the population's device, and the log-probabilities `[K, N, G, T]` on the CPU.
        """
        population, device = self.population, self.population.base.device
        _, prompts, group, sums = coefficients.shape
        if members is None:
            members = torch.ones(1, prompts, group, dtype=torch.bool)
        batch = batch.carrying(sums)
        found = torch.zeros(len(members), population.size, sums, population.parameter_count, device=device)
        logprobs = torch.zeros(batch.done.tokens.shape)

        def passes() -> None:
            found.zero_()
            seen = []
            for member, into in zip(members, found, strict=True):
                shares = coefficients * member[..., None]
                with population.serving(training=True, gradients=into):
                    for several in self.rows.micro_batches(batch, copies=sums if batch.packed else 1):
                        prompts = [n for n in several.prompts if member[n, several.completions].any()]
                        if not prompts:
                            continue
                        part = replace(several, prompts=prompts)
                        weight, own = moved([batch.pick(token_weights, part), shares[part.index]], device)

                        def ascent(logprob: Tensor, chunk: slice, weight: Tensor = weight) -> Tensor:
                            return logprob * weight[chunk]

                        seen.append((part, self._backward(batch, part, ascent, correction, factors=own)))
            batch.put(logprobs, seen)

        self.rows.within_memory(passes)
        return found, logprobs

    def respond(
        self,
        batch: Batch,
        sums: int,
        slopes: Slopes,
        token_weights: Tensor | None = None,
        *,
        rank_one: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `ascend`, where the coefficients depend on the log-probabilities themselves.

        The decoder runs once: the head is asked for the log-probabilities first, and once more on the way back. Where a
        prompt's completions share what each objective has of its own (a loss of the difference of two completions
        alone), one copy of the prompt carries any number of sums: the way back holds what is common, and the layers
        multiply a row's tokens by the objective's factor. Otherwise every completion has a row of its own.

        Args:
            batch: The completions.
            sums: S.
            slopes: Called once a part, on the CPU; it sees a prompt's completions together.
            token_weights: `[K, N, G, T]` of each token in its completion's log-probability; by default 1.
            rank_one: Whether the slopes' second factor is `[k, n, 1, S]`.

        Returns:
            Gradients `[K, S, P]` on the population's device, and the log-probabilities `[K, N, G, T]` on the CPU.
        """
        population, device = self.population, self.population.base.device
        if batch.packed and not rank_one:
            batch = batch.dense()
        weights = batch.done.mask.float() if token_weights is None else token_weights
        found = torch.zeros(population.size, sums, population.parameter_count, device=device)
        logprobs = torch.zeros(batch.done.tokens.shape)

        def passes() -> None:
            found.zero_()
            with population.serving(training=True, gradients=found):
                for part in self.rows.micro_batches(batch, whole=True):
                    self._two_phases(batch, part, slopes, weights, logprobs)

        self.rows.within_memory(passes)
        return found, logprobs

    def descend(
        self,
        batch: Batch,
        token_loss: Callable[..., TokenLoss],
        given: Mapping[str, Tensor],
        *,
        logprobs: bool = False,
        correction: Correction | None = None,
    ) -> Tensor | None:
        """Put a loss's gradient into the population's buffer.

        Args:
            batch: The completions.
            token_loss: Called with what `given` holds of some tokens, as keywords; returns their loss.
            given: Numbers `[K, N, G, T]` of all tokens, by name.
            logprobs: Also return the log-probabilities `[K, N, G, T]`, on the CPU.
            correction: See `ascend`.
        """
        device = self.population.base.device
        before = torch.zeros(batch.done.tokens.shape) if logprobs else None

        def passes() -> None:
            self.population.grad.zero_()
            seen = []
            with self.population.serving(training=True):
                for part in self.rows.micro_batches(batch):
                    picked = moved([batch.pick(x, part) for x in given.values()], device)
                    loss = token_loss(**dict(zip(given, picked, strict=True)))
                    seen.append((part, self._backward(batch, part, loss, correction)))
            if before is not None:
                batch.put(before, seen)

        self.rows.within_memory(passes)
        return before

    def descend_states(self, batch: Batch, slopes: Callable[[Part, Tensor], Tensor]) -> None:
        """Put the gradient of a loss of the states at the completions' last tokens into the population's buffer.

        Args:
            batch: The completions.
            slopes: From the states `[k, n, g, d]` of a part, in float32 on the population's device, to the loss's
                gradient in them, 0 in those of empty completions. It sees a prompt's completions together, and is
                called anew for all parts where memory ran out.
        """
        population = self.population

        def passes() -> None:
            population.grad.zero_()
            with population.serving(training=True):
                for part in self.rows.micro_batches(batch, whole=True):
                    prompts, tokens, mask, past = batch.part(part)
                    rows = lay_out(population, prompts, tokens, mask, packed=batch.packed, past=past)
                    with (
                        population.narrowed(part.policies),
                        checkpointing(population.base.model, self.gradient_checkpointing),
                        last_states(population, rows, plain=batch.plain) as hidden,
                    ):
                        ends = rows.ending(hidden)
                        slope = slopes(part, ends.detach().float().view(*mask.shape[:3], -1))
                        scale = half_scale(slope) if ends.dtype == torch.float16 else 1.0
                        population.served.gradient_scale = scale
                        ends.backward((slope * scale).reshape(ends.shape).to(ends.dtype))  # type: ignore[no-untyped-call]

        self.rows.within_memory(passes)

    def _read(self, batch: Batch, part: Part) -> Tensor:
        """Log-probabilities `[n]` of a part's tokens under what is served, on the device; no gradient."""
        prompts, tokens, mask, past = batch.part(part)
        with self.population.narrowed(part.policies):
            return token_logprobs(
                self.population,
                prompts,
                tokens,
                mask,
                temperature=self.temperature,
                packed=batch.packed,
                past=past,
                plain=batch.plain,
            )

    def _backward(
        self,
        batch: Batch,
        part: Part,
        token_loss: TokenLoss,
        correction: Correction | None = None,
        *,
        factors: Tensor | None = None,
    ) -> Tensor:
        """One forward and backward pass over a part; returns its tokens' log-probabilities `[n]`, on the device.

        Args:
            batch: The step's completions.
            part: Which of them.
            token_loss: Loss of each token.
            correction: Weighs the losses.
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
                if correction is not None and correction.weighs:
                    token_loss = self._weighed(correction, token_loss, batch, part, hidden.detach(), targets)
                total, logprobs = fused_loss(hidden, self.head, targets, token_loss, temperature=self.temperature)
                total.backward()  # type: ignore[no-untyped-call]
        finally:
            population.served.streams = None
        return logprobs

    def _weighed(
        self, correction: Correction, token_loss: TokenLoss, batch: Batch, part: Part, hidden: Tensor, targets: Tensor
    ) -> TokenLoss:
        """A loss with each token's share in it; a whole completion's takes the head once more, and no layer."""
        mask = batch.done.mask[part.index]
        rows = torch.arange(mask[..., 0].numel()).repeat_interleave(mask.sum(-1).flatten())
        sampled, rows = moved([batch.pick(batch.done.logprobs, part), rows], hidden.device)
        if not correction.by_completion:

            def token(logprob: Tensor, chunk: slice) -> Tensor:
                return token_loss(logprob, chunk) * correction.weights(logprob.detach() - sampled[chunk])

            return token
        gap = token_scores(self.head, hidden, targets, self.temperature) - sampled
        sums = torch.zeros(mask[..., 0].numel(), device=hidden.device).index_add_(0, rows, gap)
        weights = correction.weights(sums)[rows]

        def of_completion(logprob: Tensor, chunk: slice) -> Tensor:
            return token_loss(logprob, chunk) * weights[chunk]

        return of_completion

    def _two_phases(self, batch: Batch, part: Part, slopes: Slopes, weights: Tensor, logprobs: Tensor) -> None:
        """Log-probabilities of a part, its slopes, and the backward pass; puts the former into `logprobs`."""
        population = self.population
        prompts, tokens, mask, past = batch.part(part)
        rows = lay_out(population, prompts, tokens, mask, packed=batch.packed, past=past)
        (targets,) = moved([tokens[mask]], population.base.device)
        try:
            with (
                population.narrowed(part.policies),
                checkpointing(population.base.model, self.gradient_checkpointing),
                predicting_states(population, rows, plain=batch.plain) as hidden,
            ):
                batch.put(logprobs, [(part, token_scores(self.head, hidden.detach(), targets, self.temperature))])
                summed = (logprobs[part.index] * weights[part.index]).sum(-1)
                common, own = slopes(part, summed)
                slope = (common[..., None] * weights[part.index]).float()[batch.done.mask[part.index]]
                sums = own.shape[-1]
                slope, own = moved([slope, own.float()], population.base.device)
                if own.shape[2] == 1 and rows.group > 1:
                    factors = rows.row_factors(own.reshape(-1, sums))
                else:
                    factors = rows.stream_factors(own.expand(*mask.shape[:3], -1).reshape(rows.count, -1, sums))
                population.served.streams = factors.view(len(tokens), -1, sums)

                def ascent(logprob: Tensor, chunk: slice) -> Tensor:
                    return logprob * slope[chunk]

                total, _ = fused_loss(hidden, self.head, targets, ascent, temperature=self.temperature)
                total.backward()  # type: ignore[no-untyped-call]
        finally:
            population.served.streams = None

    def state_dict(self) -> dict[str, Any]:
        """What was found out about the model and the memory: a run that goes on must not find it out anew."""
        return {
            "reads_packed_rows": self.rows.reads_packed_rows,
            "drivable": self.population.drivable,
            "micro_batch_tokens": self.rows.micro_batch_tokens,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""
        self.rows.reads_packed_rows = state["reads_packed_rows"]
        self.population.drivable = state["drivable"]
        self.rows.micro_batch_tokens = int(state["micro_batch_tokens"])
