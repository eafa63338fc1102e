"""How a step's completions are laid out for the forward and backward passes: in which rows, how many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pareto_align.errors import ConfigError, ModelError, ParetoAlignWarning, TrainingError
from pareto_align.policies.layers.packing import Past, row_lengths
from pareto_align.policies.logprobs import completion_logprobs
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions, fits_window, read_contexts

__all__ = ["Batch", "Part", "RowLayout", "checkpointing"]

LAYOUTS = ("auto", "packed", "dense")


@dataclass(frozen=True)
class Part:
    """Completions of a batch that one pass reads: some of those that some policies gave to some prompts.

    Attributes:
        policies, completions: Ranges of their numbers.
        prompts: Their numbers.
    """

    policies: slice
    prompts: list[int]
    completions: slice

    @property
    def index(self) -> tuple[slice, list[int], slice]:
        """Of `[K, N, G, ...]`."""
        return self.policies, self.prompts, self.completions


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's completions, ready to be laid out.

    Attributes:
        done: The completions `[K, N, G, T]`.
        prompts: N prompts, as far as the adapters read them, or K*N, policy-major, where each policy has its own.
        past: What the frozen base read before them; None if the adapters read everything.
        packed: Completions share their prompt's row.
        plain: Attention is left to transformers.
    """

    done: Completions
    prompts: list[list[int]]
    past: Past | None
    packed: bool
    plain: bool

    def part(self, part: Part) -> tuple[list[list[int]], Tensor, Tensor, Past | None]:
        """Prompts, tokens and mask `[k, n, g, T]`, and past of a part, cut to the longest completion."""
        mask = self.done.mask[part.index]
        length = max(1, int(mask.sum(-1).max()))
        past = None if self.past is None else self.past.take(part.prompts)
        count, size = self.done.tokens.shape[:2]
        asked = range(count)[part.policies] if self.own else range(1)
        prompts = [self.prompts[k * size + n] for k in asked for n in part.prompts]
        return prompts, self.done.tokens[part.index][..., :length], mask[..., :length], past

    @property
    def own(self) -> bool:
        """Whether each policy has prompts of its own."""
        return len(self.prompts) > self.done.tokens.shape[1]

    def pick(self, values: Tensor, part: Part) -> Tensor:
        """Values `[n]` of a part's completion tokens, of `[K, N, G, T]`."""
        return values[part.index][self.done.mask[part.index]]

    def put(self, values: Tensor, found: Sequence[tuple[Part, Tensor]]) -> None:
        """Write values `[n]` of the completion tokens of parts, wherever they are, into `[K, N, G, T]` on the CPU.

        All in one copy: where they were found on a device, the host waits for it once.
        """
        if not found:
            return
        home = torch.cat([numbers for _, numbers in found]).cpu()
        for (part, _), numbers in zip(found, home.split([len(numbers) for _, numbers in found]), strict=True):
            block = values[part.index]
            block[self.done.mask[part.index]] = numbers
            values[part.index] = block

    def dense(self) -> Batch:
        """The same with a row for every completion."""
        return replace(self, packed=False, plain=self.past is None)

    def carrying(self, sums: int) -> Batch:
        """The batch as S sums of gradients are found on it: packed rows would hold their prompt S times for them, which
        is no less work than rows of their own where there are as many sums as completions."""
        return self.dense() if self.packed and sums >= self.done.tokens.shape[2] else self

    def of_one(self) -> Batch:
        """The first policy's completions alone, `[1, N, G, T]`: all there is where the policies share theirs."""
        done = self.done
        first = replace(done, tokens=done.tokens[:1], mask=done.mask[:1], logprobs=done.logprobs[:1])
        return replace(self, done=first)

    def folded(self) -> Batch:
        """All policies' completions as one group `[1, N, K*G, T]`: what a model reads that is the same for all.

        Where each policy has prompts of its own, as those of one policy: `[1, K*N, G, T]`.
        """

        def fold(x: Tensor) -> Tensor:
            if self.own:
                return x.flatten(0, 1).unsqueeze(0)
            return x.transpose(0, 1).flatten(1, 2).unsqueeze(0)

        done = replace(self.done, tokens=fold(self.done.tokens), mask=fold(self.done.mask), logprobs=torch.empty(0))
        return replace(self, done=done)

    def unfolded(self, values: Tensor) -> Tensor:
        """Values of the folded batch back as `[K, N, G, T]`; those of an unfolded one as they are."""
        policies, _, group, _ = self.done.tokens.shape
        if values.shape[0] == policies and values.shape[2] == group:
            return values
        if self.own:
            return values[0].unflatten(0, (policies, -1))
        return values[0].unflatten(1, (policies, group)).transpose(0, 1)


class RowLayout:
    """Decides between packed and dense rows, and how much is run at a time.

    Args:
        population: The policies.
        layout: `"packed"`, `"dense"`, or `"auto"`: packed where the first batch shows that it equals dense.
        micro_batch_tokens: Tokens of one forward and backward pass.
        temperature: The sampling temperature.

    Attributes:
        divides_prompts: Whether the rows of one prompt are divided where they exceed `micro_batch_tokens`.

    Raises:
        ConfigError: An unknown layout, or no room for a token.
    """

    def __init__(self, population: PolicyPopulation, layout: str, micro_batch_tokens: int, temperature: float) -> None:
        if layout not in LAYOUTS:
            raise ConfigError(f"`layout` must be {', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}. Found layout={layout!r}.")
        if micro_batch_tokens < 1:
            raise ConfigError(f"`micro_batch_tokens` must be at least 1. Found {micro_batch_tokens}.")
        self.population = population
        self.layout = layout
        self.micro_batch_tokens = micro_batch_tokens
        self.temperature = temperature
        self.reads_packed_rows: bool | None = None
        # a CPU's products lose by being cut and its memory is large, so there a prompt is divided only in need
        self.divides_prompts = population.base.device.type != "cpu"
        self._together = self._largest = 0
        self._divisible = False

    def prepare(self, prompts: Sequence[Sequence[int]], done: Completions) -> Batch:
        """Split the prompts where the adapters begin to act, and choose the rows.

        Args:
            prompts: N prompts, as token ids, or K*N, policy-major, where each policy has its own.
            done: What was said to them `[K, N, G, T]`.
        """
        population = self.population
        contexts, read = zip(*(population.split(ids) for ids in prompts), strict=True)
        past = read_contexts(population, contexts) if population.activated else None
        longest = max(map(len, prompts)) + int(done.lengths.max())
        plain = not population.attention.in_place or not fits_window(population.base, longest)
        if plain and past is not None:
            raise ModelError("Activated adapters need a model whose attention the population can plan, in its window.")
        batch = Batch(done, list(read), past, True, plain)
        if self._can_pack(batch, longest):
            return batch
        return batch.dense()

    def micro_batches(self, batch: Batch, *, copies: int = 1, whole: bool = False) -> list[Part]:
        """The batch in parts that each fit the token budget, one pass each.

        As many prompts go together as fit with all policies' rows. Rows are as long as the longest of their part, so
        prompts of similar length go together. One prompt that does not fit is divided by policies, which is no more
        work, and then by completions, each part of which reads the prompt again; on a CPU only after memory ran out.

        Args:
            batch: The completions.
            copies: How often a packed row holds its prompt.
            whole: Completions of one prompt by one policy are never divided.
        """
        rows = row_lengths(batch.prompts, batch.done.mask, copies)
        policies, _, group, _ = batch.done.tokens.shape
        own = torch.tensor([len(ids) for ids in batch.prompts]).view(-1, batch.done.tokens.shape[1]).amax(0)
        longest = batch.done.lengths.amax((0, 2)).cpu()
        if not batch.packed:
            rows = group * (own + longest).expand(policies, -1)
        # what a pass reads of a prompt whatever its completions, and of each completion
        reading, each = (copies * own, longest) if batch.packed else (0 * own, own + longest)
        cost = rows.amax(0).tolist()
        together: list[list[int]] = []
        for n in sorted(range(len(cost)), key=lambda n: -cost[n]):
            if together and policies * cost[together[-1][0]] * (len(together[-1]) + 1) <= self.micro_batch_tokens:
                together[-1].append(n)
            else:
                together.append([n])
        parts = []
        for prompts in together:
            first = prompts[0]
            several, some = policies, group
            if self.divides_prompts and len(prompts) == 1:
                several = self.micro_batch_tokens // max(1, cost[first])
                if several == 0 and not whole:
                    some = (self.micro_batch_tokens - int(reading[first])) // max(1, int(each[first]))
            parts += [
                Part(of_policies, prompts, of_completions)
                for of_policies in _ranges(policies, several)
                for of_completions in _ranges(group, some)
            ]
        self._together = max(map(len, together))
        sizes = [(len(range(policies)[part.policies]), len(range(group)[part.completions])) for part in parts]
        self._divisible = any(size != (1, group if whole else 1) for size in sizes)
        self._largest = max(
            several * min(cost[n], int(reading[n]) + some * int(each[n]))
            for (several, some), n in zip(sizes, (part.prompts[0] for part in parts), strict=True)
        )
        return parts

    def within_memory(self, passes: Callable[[], None]) -> None:
        """Make passes over `micro_batches`; where memory runs out, all of them again with half the tokens at a time.

        The gradient is a sum over completions, so the result is the same up to rounding. The smaller budget is kept.

        Raises:
            TrainingError: One completion of one policy at a time is too much already; or ranks share the model, and the
                others wait where this one stopped.
        """
        while not self._fits(passes):
            if self.population.base.sharding is not None:
                raise TrainingError(
                    f"Memory ran out on a rank with micro_batch_tokens={self.micro_batch_tokens}. Ranks do not try "
                    "again with fewer by themselves: begin a run with `micro_batch_tokens` at half of it, or with "
                    "`gradient_checkpointing`."
                )
            # here, and not where the error was caught: its traceback held on to the pass's tensors
            if self._together == 1 and not self._divisible:
                raise TrainingError(
                    "Memory ran out with one completion of one policy at a time. Take fewer tokens "
                    "(`max_new_tokens`), or turn on `gradient_checkpointing`."
                )
            if self._together > 1:
                self.micro_batch_tokens = max(1, self.micro_batch_tokens // 2)
            else:
                # a run that goes on with the smaller budget comes to the same one from a whole prompt
                self.micro_batch_tokens = max(1, min(self.micro_batch_tokens, self._largest // 2))
                self.divides_prompts = True
            warnings.warn(
                f"Memory ran out; micro-batches hold {self.micro_batch_tokens} tokens from now on.",
                ParetoAlignWarning,
                stacklevel=4,
            )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fits(self, passes: Callable[[], None]) -> bool:
        try:
            passes()
        except torch.OutOfMemoryError:
            return False
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):  # what the CPU's allocator says instead
                raise
            return False
        return True

    def _can_pack(self, batch: Batch, longest: int) -> bool:
        """Whether completions can share their prompt's row; once they cannot, separate rows are used for good."""
        if self.layout == "dense" or self.reads_packed_rows is False:
            return False
        reason = None
        if not fits_window(self.population.base, longest):
            reason = f": a sequence has {longest} tokens, more than its sliding window"
        elif self.layout == "auto" and self.reads_packed_rows is None:
            reason = self._why_packed_differs(batch)
        self.reads_packed_rows = reason is None
        if reason is not None:
            warnings.warn(
                f"{type(self.population.base.model).__name__} does not read packed rows like separate ones{reason}; "
                "training uses separate rows, which is slower.",
                ParetoAlignWarning,
                stacklevel=4,
            )
        return reason is None

    def _why_packed_differs(self, batch: Batch) -> str | None:
        """What keeps the model from reading packed rows as separate ones (recurrent layers, say); None if it does."""
        prompts, tokens, mask, past = batch.part(Part(slice(None), [0], slice(None)))
        dense = batch.dense()
        # one policy will do, whatever the completions are of: where policies are measured, others may be at home here
        with self.population.serving(self.population.parameters[:1]):
            try:
                ours, theirs = (
                    completion_logprobs(
                        self.population,
                        prompts,
                        tokens,
                        mask,
                        temperature=self.temperature,
                        packed=way.packed,
                        past=past,
                        plain=way.plain,
                    )
                    for way in (batch, dense)
                )
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                return f": {error}"
        gap = float((ours - theirs).abs().sum() / mask.sum().clamp(min=1))
        # rounding: other shapes, other order of summation; in bfloat16 single tokens differ by up to .3 nats
        tolerance = 0.1 if self.population.base.rounds_coarsely else 1e-3
        return None if gap <= tolerance else f" (mean difference {gap:.2g} nats a token)"


def _ranges(count: int, most: int) -> list[slice]:
    """`range(count)` in as few pieces of at most `most` as there have to be, of nearly equal size; at least 1 each."""
    pieces = -(-count // max(1, min(most, count)))
    return [slice(i * count // pieces, (i + 1) * count // pieces) for i in range(pieces)]


@contextmanager
def checkpointing(model: Any, on: bool) -> Iterator[None]:
    """Within this context the model's layers are run again on the way back instead of keeping what they computed.

    Only the layers' own switch is set: the model as a whole stays in evaluation mode, so that no dropout wakes up.

    Raises:
        ModelError: The model has no layers that can do so.
    """
    if not on:
        yield
        return
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(f"{type(model).__name__} has no layers that can be checkpointed. Turn it off.")
    before = [(layer, layer.training, layer.gradient_checkpointing) for layer in layers]
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(  # type: ignore[assignment]
            checkpoint, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer, training, was_on in before:
            layer.training, layer.gradient_checkpointing = training, was_on
