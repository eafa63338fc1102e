"""A batch of completions on their way, and who leaves it when."""

from __future__ import annotations

import torch
from torch import Tensor

from pareto_align.policies.drawing import Drawn
from pareto_align.policies.layers.attention import no_mask
from pareto_align.policies.layers.caching import GrowingCache, SharedPrompt
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.transfers import Look, runs_behind, to_device

__all__ = ["Decoding", "Looks", "living_first"]

ACCELERATOR_LOOKS = 8  # steps between looks at who has ended, where a look makes the device wait


class Decoding:
    """A batch of completions on their way: their keys, their next logits.

    Attributes:
        logits: `[rows, V]` of the next token.
    """

    def __init__(self, population: PolicyPopulation, plan: SharedPrompt, cache: GrowingCache, position: Tensor) -> None:
        self.population, self.plan, self.cache, self.position = population, plan, cache, position
        self.logits = torch.empty(0)

    def advance(self, token: Tensor) -> None:
        """Append one token `[rows]` to every row and compute the next logits."""
        with self.population.attention.following(self.plan):
            hidden = self.population.head.read(
                self.cache,
                input_ids=token[:, None],
                position_ids=self.position[:, None],
                attention_mask=no_mask(token.device),
            )
        self.position = self.position + 1
        self.logits = self.population.head.logits(hidden[:, -1])

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only `[n]`, told on the CPU."""
        index = to_device(rows, self.position.device)
        self.cache.take(index)
        self.position = self.position[index]
        own = None if self.plan.own_seen is None else self.plan.own_seen[index]
        self.plan.serve(self.plan.prefix_of_row[rows], own)


class Looks:
    """When the host looks at which completions have ended.

    On the CPU after every step. On an accelerator every `ACCELERATOR_LOOKS` steps, and what it saw is read at the next
    look, so that the device has something to do in the meantime: always then, whether or not it was there earlier, as
    what is computed must not depend on how fast it was.

    Args:
        drawn: The completions.
    """

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        device = drawn.ended.device
        self.every = 1 if device.type == "cpu" else ACCELERATOR_LOOKS
        self.behind = int(runs_behind(device))
        self._looks: list[Look] = []

    def due(self, step: int) -> bool:
        """Whether it is the time to look, after the token number `step`."""
        return (step + 1) % self.every == 0

    def ended(self) -> Tensor | None:
        """Look; returns the completions `[rows]` that had ended at the look before, on the CPU, if there was one."""
        self._looks.append(Look(self.drawn.ended))
        return self._looks.pop(0).read() if len(self._looks) > self.behind else None


def living_first(ended: Tensor, policies: int, count: int) -> Tensor:
    """Numbers `[K * count]` of the rows that stay, equally many a policy: those that go on, then some that have ended.

    Args:
        ended: `[rows]` which of the rows in the batch have, grouped by policy; on the CPU.
        policies: K.
        count: Rows of a policy that stay.
    """
    width = len(ended) // policies
    order = ended.view(policies, width).int().argsort(dim=1, stable=True)[:, :count]
    return (order + torch.arange(policies)[:, None] * width).flatten()
