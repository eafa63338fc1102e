"""Optimizers over stacked policy slots: one row a policy, each with its own step count, clipping and reset.

Of a family there is one row, which is stepped by what all slots find.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pareto_align.policies.families import Family
    from pareto_align.policies.population import PolicyPopulation

__all__ = ["OPTIMIZERS", "FamilyOptimizer", "PopulationAdamW", "PopulationLion", "PopulationOptimizer", "keep_within"]


class PopulationOptimizer(ABC):
    """An optimizer of parameters `[K, P]`, every row stepped as if it were alone.

    Args:
        parameters: `[K, P]` float32, updated in place.
        betas: Decay rates of its moments.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        max_norm: A policy's gradient is scaled down to this L2 norm, its neighbours' are untouched; None turns it off.

    Attributes:
        state_names: Tensors with a row a policy, 0 at the start, that make up its state.
    """

    state_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        parameters: Tensor,
        *,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.weight_decay = weight_decay
        self.max_norm = max_norm

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
        grad = torch.where(sound, grad, 0.0)
        if self.max_norm is not None:
            grad *= (self.max_norm / (norms + 1e-6)).clamp(max=1.0).where(sound, torch.ones_like(norms))
        self._move(grad, rate, sound)
        return norms.squeeze(1)

    @abstractmethod
    def _move(self, grad: Tensor, rate: Tensor, sound: Tensor) -> None:
        """Update parameters and moments.

        Args:
            grad: `[K, P]`, finite and clipped, 0 for a policy that is skipped; may be written into.
            rate: `[K, 1]`, 0 for a policy that is skipped.
            sound: `[K, 1]` False for a policy that is skipped.
        """

    @torch.no_grad()
    def reset(self, slot: int) -> None:
        """Forget the moments and step count of one policy, as for a freshly made optimizer."""
        for name in self.state_names:
            getattr(self, name)[slot].zero_()

    @torch.no_grad()
    def rescale(self, start: Tensor, factors: Sequence[float]) -> None:
        """Make the way that was gone since `start` longer or shorter; the moments stay as they are.

        Args:
            start: `[K, P]` the parameters of before.
            factors: K factors of each policy's way; 1 leaves it to the bit.
        """
        for row, factor in enumerate(factors):
            if factor == 0:
                self.parameters[row].copy_(start[row])
            elif factor != 1:
                self.parameters[row].sub_(start[row]).mul_(factor).add_(start[row])

    @torch.no_grad()
    def put_back(self, slot: int, policy: Tensor) -> None:
        """Let a slot go on from a policy `[P]` of before, as freshly made."""
        self.parameters[slot].copy_(policy)
        self.reset(slot)

    def state_dict(self) -> dict[str, Tensor]:
        """What `state_names` names."""
        return {name: getattr(self, name) for name in self.state_names}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state into this optimizer."""
        for name in self.state_names:
            getattr(self, name).copy_(state[name])


class PopulationAdamW(PopulationOptimizer):
    """Decoupled Adam on parameters `[K, P]`, every row stepped as if it were alone.

    Adam: arXiv 1412.6980; decoupled weight decay: arXiv 1711.05101. Each row's update equals `torch.optim.AdamW`'s.

    Args:
        parameters: `[K, P]` float32, updated in place.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        max_norm: A policy's gradient is scaled down to this L2 norm, its neighbours' are untouched; None turns it off.
    """

    state_names = ("mean", "square", "steps")

    def __init__(
        self,
        parameters: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
    ) -> None:
        super().__init__(parameters, betas=betas, weight_decay=weight_decay, max_norm=max_norm)
        self.eps = eps
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = torch.zeros(parameters.shape[0], 1, dtype=torch.float32, device=parameters.device)

    def _move(self, grad: Tensor, rate: Tensor, sound: Tensor) -> None:
        first, second = self.betas
        self.steps += sound
        steps = self.steps.clamp(min=1)
        # two blocks `[K, P]` and what is made in them; a fresh one a product would be five
        self.mean.lerp_(grad, (1 - first) * sound.to(grad.dtype))
        self.square.lerp_(grad.square_(), (1 - second) * sound.to(grad.dtype))
        scale = grad.copy_(self.square).div_(_bias(second, steps)).sqrt_().add_(self.eps)
        if self.weight_decay:
            self.parameters.mul_(1 - rate * self.weight_decay)
        self.parameters.sub_(torch.div(self.mean, _bias(first, steps)).mul_(rate).div_(scale))


class PopulationLion(PopulationOptimizer):
    """Lion on parameters `[K, P]`: the sign of a mean gradient, so every parameter moves by the learning rate.

    Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675. One moment, 4 bytes a parameter and
    policy less than AdamW. Its rate is 3 to 10 times below AdamW's, its decay as much above. torch has none, and
    libraries' step all policies as one: here each is skipped and started again by itself. Clipping changes only
    how much a gradient weighs in the mean.

    Args:
        parameters: `[K, P]` float32, updated in place.
        betas: Share of the mean in the step, and the mean's own decay rate.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        max_norm: A policy's gradient is scaled down to this L2 norm; None turns it off.
    """

    state_names = ("mean",)

    def __init__(
        self,
        parameters: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
    ) -> None:
        super().__init__(parameters, betas=betas, weight_decay=weight_decay, max_norm=max_norm)
        self.mean = torch.zeros_like(parameters)

    def _move(self, grad: Tensor, rate: Tensor, sound: Tensor) -> None:
        first, second = self.betas
        if self.weight_decay:
            self.parameters.mul_(1 - rate * self.weight_decay)
        self.parameters.sub_(torch.lerp(grad, self.mean, first).sign_().mul_(rate))
        self.mean.lerp_(grad, (1 - second) * sound.to(grad.dtype))


OPTIMIZERS: dict[str, type[PopulationAdamW | PopulationLion]] = {"adamw": PopulationAdamW, "lion": PopulationLion}
"""By the name that a run's settings have for them."""


def _bias(beta: float, steps: Tensor) -> Tensor:
    """Adam's bias correction `1 - beta**steps`, where a plain difference loses four digits of float32 at first."""
    return -torch.expm1(steps * math.log(beta)) if beta > 0 else torch.ones_like(steps)


CUT = 0.5
"""Where more than this share of a step is taken back, what is left is measured and corrected once more."""


def keep_within(
    limit: float,
    moved: np.ndarray,
    rescale: Callable[[list[float], bool], np.ndarray | None],
    *,
    together: bool = False,
) -> None:
    """Make steps shorter that moved their policies too far.

    Near by the divergence grows as the square of a step. Far away it grows otherwise: by which power, a second
    measurement tells. Wu et al., "Scalable trust-region method for deep reinforcement learning using
    Kronecker-factored approximation", arXiv 1708.05144, shorten their step by the same root, of a divergence that
    they predict.

    Args:
        limit: In nats of KL divergence.
        moved: `[K]` by how many nats the steps as they are have moved the policies; one where it is not finite is taken
            back as a whole.
        rescale: Multiplies the ways gone by K factors, or by one, and says, if asked to, how far they are now.
        together: The policies are of one family, which has one way: the mean over them counts.
    """
    far = np.array([moved.mean()]) if together else moved
    share = np.array([_share(limit, nats) for nats in far.tolist()])
    if (share == 1).all():
        return
    again = bool(((share > 0) & (share < CUT)).any())
    now = rescale(share.tolist(), again)
    if not again or now is None:
        return
    near = np.array([now.mean()]) if together else now
    rescale([_corrected(limit, *one) for one in zip(far.tolist(), share.tolist(), near.tolist(), strict=True)], False)


def _share(limit: float, far: float) -> float:
    """What is kept of a step."""
    if not math.isfinite(far):
        return 0.0
    return math.sqrt(limit / far) if far > limit else 1.0


def _corrected(limit: float, far: float, share: float, near: float) -> float:
    """By what is kept of a step is multiplied that went `far` as a whole and goes `near` now."""
    if not 0 < share < CUT or not near > 0:
        return 1.0
    power = math.log(near / far) / math.log(share) if math.isfinite(near) else 2.0
    factor: float = (limit / near) ** (1 / min(max(power, 1.0), 4.0))
    return min(factor, 1 / share)


class FamilyOptimizer:
    """An optimizer of a family's parameters, with the face of one of policies: it is handed the policies' gradients.

    Args:
        family: Set up on `population`.
        population: Serves the family's policies, one a slot.
        kind: Which optimizer, one of `OPTIMIZERS`.
        alone: Whether the population holds all policies that are trained together. If it does not, `step` only pulls
            the gradients back, and `move` takes the step along the sum of all.
        **more: What it is built with.

    Attributes:
        preferences: `[K, m]` what the slots serve now.
        pulled: The gradient `[1, D]` of the mean loss of the policies at the last step, and of how many: those whose
            own was finite. None where none was.
    """

    def __init__(
        self, family: Family, population: PolicyPopulation, *, kind: str = "adamw", alone: bool = True, **more: Any
    ) -> None:
        self.family = family
        self.alone = alone
        self.pulled: tuple[Tensor, int] | None = None
        self.population = population
        self.inner = OPTIMIZERS[kind](family.parameters, **more)
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
        self.pulled = None
        if sound.any():
            kept = sound.cpu()
            self.pulled = self.family.pull(self.preferences[kept], grad[sound]), int(kept.sum())
            if self.alone:
                self.move(self.pulled[0], learning_rate)
        return norms

    @torch.no_grad()
    def move(self, gradient: Tensor, learning_rate: float) -> None:
        """Take the step along a gradient `[1, D]`, and let the slots serve what comes of it."""
        self.inner.step(gradient, learning_rate)
        self.place(self.preferences)

    def reset(self, slot: int) -> None:
        """Nothing: a slot of a family has no moments of its own."""

    @property
    def parameters(self) -> Tensor:
        """`[1, D]` what is trained."""
        return self.family.parameters

    @torch.no_grad()
    def rescale(self, start: Tensor, factors: Sequence[float]) -> None:
        """Make the family's way since parameters `[1, D]` longer or shorter; see `PopulationOptimizer.rescale`."""
        self.inner.rescale(start, factors)
        self.place(self.preferences)

    @torch.no_grad()
    def put_back(self, row: int, parameters: Tensor) -> None:
        """Let the family go on from parameters `[D]` of before, with a fresh optimizer."""
        self.inner.put_back(row, parameters)
        self.place(self.preferences)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments `[1, D]`, step count `[1, 1]`, the family's parameters `[1, D]`, what the slots serve `[K, m]`."""
        return {**self.inner.state_dict(), "family": self.family.parameters, "preferences": self.preferences}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state into this optimizer and the family."""
        state = dict(state)
        self.preferences = state.pop("preferences")
        self.family.parameters.copy_(state.pop("family"))
        self.inner.load_state_dict(state)
