"""Decoding in shapes that do not change: a step is one function of tensors, which can be captured or compiled.

The eager sampler (`sampling`) is the reference: this one draws the same tokens with the same random numbers. What grows
or shrinks there stands still here: keys go to a place that a tensor holds, in a block with room for the longest
completion; a mask hides what is not filled yet; rows leave only down to a few widths, and stay in the same memory. On
CUDA a step is captured once for each of these shapes and replayed, which spares the host its launches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from pareto_align.policies.decoding import Decoding, Looks, living_first
from pareto_align.policies.drawing import Drawn, draw_tokens
from pareto_align.policies.graphs import Graphs, Workspace
from pareto_align.policies.layers.attention import no_mask
from pareto_align.policies.layers.caching import SharedPrompt
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.transfers import to_device

__all__ = ["LADDER", "StaticSampler", "rung"]

LADDER = (1 / 4, 3 / 8, 1 / 2, 3 / 4, 7 / 8)  # shares of a policy's rows that may be left in the batch
SPAN, UNCAPTURED_SPAN = 64, 16  # the blocks of own keys are attended to in steps of this many: each is a graph
PREFIX = 64  # the room for prompts where it is captured: a multiple of this
COMPILE = "PARETO_ALIGN_COMPILE"


def rung(living: int, rows: int) -> int:
    """Rows of a policy that stay in the batch while `living` of its `rows` have not ended."""
    return next((width for share in LADDER if (width := -int(-rows * share // 1)) >= living), rows)


class StaticSampler:
    """Decodes the completions of a population, step by step in fixed shapes.

    Args:
        population: The policies.
        compiler: Makes the step faster, such as `torch.compile`; by default the one if `PARETO_ALIGN_COMPILE=1`.

    Attributes:
        graphs: What has been captured; nothing on another device than CUDA.
    """

    def __init__(self, population: PolicyPopulation, compiler: Callable[[Any], Any] | None = None) -> None:
        if compiler is None and os.environ.get(COMPILE, "0").strip().lower() in ("1", "true", "on", "yes"):
            compiler = torch.compile
        self.population = population
        self.graphs = Graphs(population.base.device)
        self._step = step if compiler is None else compiler(step)
        self._workspace = Workspace()

    def decode(self, start: Decoding, drawn: Drawn, policies: int) -> None:
        """Decode all completions of a batch whose prompts have been read; the policies are being served.

        Args:
            start: The batch after its prompts.
            drawn: Where the completions go.
            policies: K.
        """
        rows, length = drawn.tokens.shape
        looks, width = Looks(drawn), rows // policies
        workspace = self._workspace if self.graphs.working else Workspace(fixed=False)
        batch = StaticBatch(self.population, start, drawn, workspace)
        del start  # what has been copied need not be there twice
        for number in range(1, length):
            if looks.due(number - 1):
                batch.hand_over(number)
                ended = looks.ended()
                if ended is not None:
                    living = int((~ended).view(policies, -1).sum(1).max())
                    if living == 0:
                        break
                    if (left := rung(living, width) * policies) < batch.rows:
                        batch.keep(living_first(ended[batch.slots], policies, left // policies), number)
            batch.reach(number)
            self.graphs.run(
                (*batch.shape, drawn.params, self.population.served.count),
                (workspace.generation, self.population.compute.generation),
                lambda: self._step(batch),
            )
        batch.hand_over(length)
        ends = drawn.ends(drawn.tokens)
        drawn.kept = ends.cumsum(1) == ends.long()  # no end before it


class StaticLayer(CacheLayerMixin):
    """One layer's keys and values of the completions, in blocks that stay; a step writes at a place told by a tensor.

    Args:
        keys, values: `[rows, key heads, T, D]` with room for the longest completion.
        place: `[1]` where the next token goes.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, keys: Tensor, values: Tensor, place: Tensor) -> None:
        super().__init__()
        self.blocks, self.place = (keys, values), place
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing left to do."""

    def show(self, rows: int, span: int) -> None:
        """From now on the first rows are run, which attend to the first `span` places."""
        self.keys, self.values = (block[:rows, :, :span] for block in self.blocks)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values `[rows, key heads, 1, D]`; returns all places, filled or not."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of no use: the plan hides what is not there yet."""
        return self.blocks[0].shape[2], 0

    def get_seq_length(self) -> int:
        """The room; how much of it is filled only the device knows."""
        return int(self.blocks[0].shape[2])

    def get_max_length(self) -> int:
        """The room."""
        return int(self.blocks[0].shape[2])


class StaticCache(Cache):
    """The layers' blocks as a cache of transformers."""

    layers: list[StaticLayer]  # type: ignore[assignment]

    def __init__(self, layers: list[StaticLayer]) -> None:
        super().__init__(layers=layers)  # type: ignore[arg-type]


class StaticPrompt(SharedPrompt):
    """A shared prefix whose indices and masks stay in the same memory, and whose stacks have the same height.

    Args:
        plan: What it begins with.
        workspace: Where memory comes from.
    """

    def __init__(self, plan: SharedPrompt, workspace: Workspace) -> None:
        self.lengths, self.stack = plan.lengths, plan.stack
        wide = plan.keys[0].shape[2]
        wide = -(-wide // PREFIX) * PREFIX if workspace.fixed else wide
        self.keys = [workspace.keep(f"prefix keys {n}", x, (2, wide)) for n, x in enumerate(plan.keys)]
        self.values = [workspace.keep(f"prefix values {n}", x, (2, wide)) for n, x in enumerate(plan.values)]
        rows, device = len(plan.prefix_of_row), plan.keys[0].device
        self._gather = workspace.zeros("gather", (len(self.lengths) * self.stack,), torch.long, device)
        self._scatter = workspace.zeros("scatter", (rows,), torch.long, device)
        self._unseen = workspace.zeros("unseen", (rows, 1, 1, wide), torch.bool, device)
        self.hidden = self._unseen
        self.serve(plan.prefix_of_row)

    def serve(self, prefix_of_row: Tensor, own_seen: Tensor | None = None) -> None:
        """From now on these rows are run, which are no more than before."""
        self.prefix_of_row = prefix_of_row
        rows, device = len(prefix_of_row), self._unseen.device
        self.gather, self.scatter, self.unseen = self._gather, self._scatter[:rows], self._unseen[:rows]
        found = (*self.arrange(prefix_of_row), self.unseen_by(prefix_of_row))
        for block, numbers in zip((self.gather, self.scatter, self.unseen), found, strict=True):
            block.copy_(to_device(numbers, device))

    def hide(self, scores: Tensor, length: int, own: int) -> None:
        """See `SharedPrompt.hide`; one mask for all, made once a step."""
        scores.masked_fill_(self.hidden, -torch.inf)


class StaticBatch:
    """Everything that a step reads and writes; rows that stay are moved to the front of the same memory.

    Args:
        population: The policies.
        start: The batch after its prompts.
        drawn: Its completions.
        workspace: Where memory comes from.

    Attributes:
        rows: Rows that are run.
        slots: `[rows]` the completion of each, on the CPU.
        shape: What else is fixed in a step: two of the same shape do the same to the same memory.
        place, number: `[1]` where the keys of the last token go, and the number of the next token.
        token, position: `[rows]` the last token, and where in the text it stands.
        uniforms: `[rows, T]` the random numbers.
        tokens, logprobs: `[T, rows]` what was drawn.
    """

    def __init__(self, population: PolicyPopulation, start: Decoding, drawn: Drawn, workspace: Workspace) -> None:
        self.population, self.drawn = population, drawn
        device = population.base.device
        rows, length = drawn.tokens.shape
        own = start.cache.layers[0].length  # invocation tokens, which every row has read for itself
        room = own + length - 1
        self._own, self._room, self._step = own, room, SPAN if workspace.fixed else UNCAPTURED_SPAN
        self.slots = torch.arange(rows)
        self._index = to_device(self.slots, device)
        self.plan = StaticPrompt(start.plan, workspace)
        self.place = workspace.keep("place", torch.full((1,), own, device=device))
        self.number = workspace.keep("number", torch.ones(1, dtype=torch.long, device=device))
        self._columns = workspace.keep("columns", torch.arange(room, device=device))
        self._padding: Tensor | None = None
        if start.plan.own_seen is not None:
            self._padding = workspace.keep("padding", ~start.plan.own_seen[:, :room])
        layers = []
        for n, before in enumerate(start.cache.layers):
            keys, values = (
                workspace.zeros(f"{name} {n}", (rows, x.shape[1], room, x.shape[3]), x.dtype, device)
                for name, x in (("keys", start.plan.keys[n]), ("values", start.plan.values[n]))
            )
            if own:
                filled_keys, filled_values = before.filled()
                keys[:, :, :own], values[:, :, :own] = filled_keys, filled_values
            layers.append(StaticLayer(keys, values, self.place))
        self.cache = StaticCache(layers)
        token, logprob = draw_tokens(start.logits, drawn.uniforms[:, 0], drawn.params)
        self._token = workspace.keep("token", token)
        self._position = workspace.keep("position", start.position)
        self._uniforms = workspace.keep("uniforms", drawn.uniforms.clone())
        self._tokens = workspace.zeros("tokens", (length, rows), torch.long, device)
        self._logprobs = workspace.zeros("logprobs", (length, rows), torch.float32, device)
        self._tokens[0], self._logprobs[0] = token, logprob
        self._handed_over = 0
        self._run(rows)

    def _run(self, rows: int) -> None:
        self.rows, self._span = rows, 0
        self.token, self.position, self.uniforms = (x[:rows] for x in (self._token, self._position, self._uniforms))
        self.tokens, self.logprobs = self._tokens[:, :rows], self._logprobs[:, :rows]
        self.padding = None if self._padding is None else self._padding[:rows]

    def reach(self, number: int) -> None:
        """Attend to as many places as the token before `number` needs."""
        span = min(self._room, -(-(self._own + number) // self._step) * self._step)
        if span != self._span:
            self._span = span
            self.columns = self._columns[:span]
            for layer in self.cache.layers:
                layer.show(self.rows, span)

    @property
    def shape(self) -> tuple[Any, ...]:
        """See above."""
        prefixes, heads, wide, depth = self.plan.keys[0].shape
        return (
            self.rows, self._span, len(self._token), self._own, self._room, self._tokens.shape[0], self.plan.stack,
            prefixes, heads, wide, depth, self.plan.sorted, self.padding is None,
        )  # fmt: skip

    def hand_over(self, number: int) -> None:
        """Write the tokens before `number` to where they belong, and which completions have ended."""
        new, into = slice(self._handed_over, number), (self._index, slice(self._handed_over, number))
        self.drawn.tokens[into], self.drawn.logprobs[into] = self.tokens[new].T, self.logprobs[new].T
        self.drawn.ended[self._index] |= self.drawn.ends(self.tokens[new]).any(0)
        self._handed_over = number

    def keep(self, rows: Tensor, number: int) -> None:
        """Go on with some of the rows only `[n]`, told on the CPU, before the token `number`; the others have ended."""
        index, count = to_device(rows, self._token.device), len(rows)
        filled = self._own + number - 1
        moved = [layer.blocks[i][:, :, :filled] for layer in self.cache.layers for i in (0, 1)]
        moved += [self._token, self._position, self._uniforms]
        moved += [] if self._padding is None else [self._padding]
        for block in moved:
            block[:count] = block[index]
        self.slots = self.slots[rows]
        self._index = to_device(self.slots, index.device)
        self.plan.serve(self.plan.prefix_of_row[rows])
        self._run(count)


def step(batch: StaticBatch) -> None:
    """Read the last token of every row and draw the next one: nothing but tensors, all of them in the batch."""
    population, plan = batch.population, batch.plan
    unfilled = (batch.columns > batch.place).expand(batch.rows, 1, 1, -1)
    if batch.padding is not None:
        unfilled = unfilled | batch.padding[:, None, None, : unfilled.shape[3]]
    assert plan.unseen is not None
    plan.hidden = torch.cat([plan.unseen, unfilled], 3)
    with population.attention.following(plan):
        hidden = population.head.read(
            batch.cache,
            input_ids=batch.token[:, None],
            position_ids=batch.position[:, None],
            attention_mask=no_mask(batch.token.device),
        )
    uniform = batch.uniforms.index_select(1, batch.number)[:, 0]
    token, logprob = draw_tokens(population.head.logits(hidden[:, -1]), uniform, batch.drawn.params)
    batch.token.copy_(token)
    batch.tokens.index_copy_(0, batch.number, token[None])
    batch.logprobs.index_copy_(0, batch.number, logprob[None])
    for counter in (batch.position, batch.place, batch.number):
        counter.add_(1)
