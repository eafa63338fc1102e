"""AdamW over stacked policy slots: one row a policy, each with its own step count, clipping and reset.

Of a family there is one row, which is stepped by what all slots find.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pareto_align.policies.families import Family
    from pareto_align.policies.population import PolicyPopulation

__all__ = ["FamilyAdamW", "PopulationAdamW"]


class PopulationAdamW:
    """Decoupled Adam on parameters `[K, P]`, every row stepped as if it were alone.

    Adam: arXiv 1412.6980; decoupled weight decay: arXiv 1711.05101. Each row's update equals `torch.optim.AdamW`'s.

    Args:
        parameters: `[K, P]` float32, updated in place.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        max_norm: A policy's gradient is scaled down to this L2 norm, its neighbours' are untouched; None turns it off.
    """

    def __init__(
        self,
        parameters: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.max_norm = max_norm
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = torch.zeros(parameters.shape[0], 1, dtype=torch.float32, device=parameters.device)

    @torch.no_grad()
    def step(self, grad: Tensor, learning_rate: float | Tensor) -> Tensor:
        """Take one step; a policy whose gradient is not finite keeps its parameters and moments.

        Args:
            grad: `[K, P]` gradient of the loss.
            learning_rate: One rate, or `[K]` rates.

        Returns:
            `[K]` gradient norms before clipping; not finite where a policy was skipped.
        """
        norms = grad.norm(dim=1, keepdim=True)
        sound = torch.isfinite(norms)
        rate = torch.as_tensor(learning_rate, dtype=torch.float32, device=grad.device).reshape(-1, 1) * sound
        first, second = self.betas
        self.steps += sound
        steps = self.steps.clamp(min=1)
        # two blocks `[K, P]` and what is made in them; a fresh one a product would be five
        grad = torch.where(sound, grad, 0.0)
        if self.max_norm is not None:
            grad *= (self.max_norm / (norms + 1e-6)).clamp(max=1.0).where(sound, torch.ones_like(norms))
        self.mean.lerp_(grad, (1 - first) * sound.to(grad.dtype))
        self.square.lerp_(grad.square_(), (1 - second) * sound.to(grad.dtype))
        scale = grad.copy_(self.square).div_(_bias(second, steps)).sqrt_().add_(self.eps)
        if self.weight_decay:
            self.parameters.mul_(1 - rate * self.weight_decay)
        self.parameters.sub_(torch.div(self.mean, _bias(first, steps)).mul_(rate).div_(scale))
        return norms.squeeze(1)

    @torch.no_grad()
    def reset(self, slot: int) -> None:
        """Forget the moments and step count of one policy, as for a freshly made optimizer."""
        self.mean[slot].zero_()
        self.square[slot].zero_()
        self.steps[slot].zero_()

    @torch.no_grad()
    def put_back(self, slot: int, policy: Tensor) -> None:
        """Let a slot go on from a policy `[P]` of before, as freshly made."""
        self.parameters[slot].copy_(policy)
        self.reset(slot)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments `[K, P]` and step counts `[K, 1]`."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state into this optimizer."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps.copy_(state["steps"])


def _bias(beta: float, steps: Tensor) -> Tensor:
    """Adam's bias correction `1 - beta**steps`, where a plain difference loses four digits of float32 at first."""
    return -torch.expm1(steps * math.log(beta)) if beta > 0 else torch.ones_like(steps)


class FamilyAdamW:
    """AdamW on a family's parameters, with the face of `PopulationAdamW`: it is handed the policies' gradients.

    Args:
        family: Set up on `population`.
        population: Serves the family's policies, one a slot.
        **adam: Of `PopulationAdamW`.

    Attributes:
        preferences: `[K, m]` what the slots serve now.
    """

    def __init__(self, family: Family, population: PolicyPopulation, **adam: Any) -> None:
        self.family = family
        self.population = population
        self.inner = PopulationAdamW(family.parameters, **adam)
        self.preferences = torch.full((population.size, family.m), 1 / family.m)

    @torch.no_grad()
    def place(self, preferences: Any) -> None:
        """Let slot k serve the preference of row k of `[K, m]` from now on."""
        self.preferences = torch.as_tensor(preferences, dtype=torch.float32)
        self.population.parameters.copy_(self.family.rows(self.preferences))

    @torch.no_grad()
    def step(self, grad: Tensor, learning_rate: float) -> Tensor:
        """Take one step along the mean of the policies' gradients; those that are not finite are left out.

        Args:
            grad: `[K, P]` gradient of each policy's loss.
            learning_rate: As for a single policy.

        Returns:
            `[K]` norms of the policies' gradients; not finite where one was left out.
        """
        norms = grad.norm(dim=1)
        sound = torch.isfinite(norms)
        if sound.any():
            kept = sound.cpu()
            self.inner.step(self.family.pull(self.preferences[kept], grad[sound]), learning_rate)
            self.place(self.preferences)
        return norms

    def reset(self, slot: int) -> None:
        """Nothing: a slot of a family has no moments of its own."""

    @property
    def parameters(self) -> Tensor:
        """`[1, D]` what is trained."""
        return self.family.parameters

    @torch.no_grad()
    def put_back(self, row: int, parameters: Tensor) -> None:
        """Let the family go on from parameters `[D]` of before, with a fresh optimizer."""
        self.inner.put_back(row, parameters)
        self.place(self.preferences)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments `[1, D]`, step count `[1, 1]` and the family's parameters `[1, D]`."""
        return {**self.inner.state_dict(), "family": self.family.parameters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state into this optimizer and the family."""
        state = dict(state)
        self.family.parameters.copy_(state.pop("family"))
        self.inner.load_state_dict(state)
