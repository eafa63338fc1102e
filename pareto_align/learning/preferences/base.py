"""What a preference loss is: log-probabilities and labels in, one loss a pair out.

The gradient of any such loss is a sum over responses of `c_j(y) grad log pi(y)`, with one number `c_j(y)` a response
and objective. So a loss knows nothing of models: it is a small pure function, and its coefficients come from autograd
on numbers `[K, N, G]`. Minus a coefficient is what the rest of the package calls an advantage.

A loss of one difference only (of two responses' scores) is of rank one: `c_j(a) = d_j v(a)` and `c_j(b) = -d_j v(b)`
with `v` the same for all objectives. Then one backward pass with one copy of the prompt carries all objectives.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pareto_align.arguments import KeepsArguments
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.view import PairView
from pareto_align.registry import Registry

__all__ = [
    "Combined",
    "PreferenceLoss",
    "Slopes",
    "Unit",
    "available_preferences",
    "column_slopes",
    "make_losses",
    "make_preference",
    "preference_losses",
    "register_preference",
]

Unit = Literal["pair", "response", "group"]
"""What a loss has one value for: a pair of responses, a response, or all responses of a prompt."""

Slopes = tuple[Tensor, Tensor, Tensor]
"""Of a rank-one loss: its means `[K, m]`, slopes in each pair's margin `[K, pairs, m]`, and of a response's score in
its log-probability `[K, N, G]`."""


class PreferenceLoss(KeepsArguments, ABC):
    """A loss on log-probabilities of compared responses.

    A subclass implements `losses` and says by its attributes what it needs. The tests of
    `pareto_align.testing.preferences.PreferenceLossContract` check all of it.

    Attributes:
        name: The name it is registered under.
        unit: What it has one value for.
        needs_reference: Whether it compares with a reference policy.
        soft_labels: Whether it learns from labels between 0 and 1, ties among them; if not, it takes the likelier side
            and leaves ties out.
        rank_one: Whether it depends on differences of two responses' scores only; see the module's text. A wrong True
            would train wrongly; a wrong False costs time.
        couples_batch: Whether one pair's loss depends on other pairs of the batch.
        weights_inside: Whether the objectives' weights (`PairView.trade`) are in the loss already. The sum over
            objectives is then the loss, and no weight may be applied to it again.
    """

    kind = "Preference loss"
    name: ClassVar[str] = ""
    unit: Unit = "pair"
    needs_reference: bool = True
    soft_labels: bool = False
    rank_one: bool = False
    couples_batch: bool = False
    weights_inside: ClassVar[bool] = False

    @abstractmethod
    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]` (unit "pair"), `[K, N, G, m]` ("response") or `[K, N, m]` ("group").

        Pure and differentiable in `view.logps`. What it gives where there is no label does not matter, if it is finite.
        """

    def counted(self, view: PairView) -> Tensor:
        """What each loss counts, in the shape of `losses` without K: 0 where nothing is said."""
        if self.unit == "response":
            if view.marks is None:
                raise ConfigError(
                    f"{self.name!r} learns from marks of single responses, and these are pairs. {_fitting('pair')}"
                )
            return torch.isfinite(view.marks).to(view.logps.dtype)
        if not len(view.pairs) and view.marks is not None:
            raise ConfigError(
                f"{self.name!r} learns from pairs, and these are marks of responses. {_fitting('response')}"
            )
        said = torch.isfinite(view.labels)
        if view.drop_ties or not self.soft_labels:
            said = said & (view.labels != 0.5)
        weights = torch.ones_like(view.known) if view.weights is None else view.weights.to(view.logps.dtype)
        return torch.where(said, weights, torch.zeros_like(weights))

    def values(self, view: PairView) -> Tensor:
        """Mean losses `[K, m]`, each objective over what is labelled for it; NaN where nothing is."""
        counted = self.counted(view)  # first: it says what is missing in the best words
        if view.shares is not None and (self.couples_batch or self.unit != "pair"):
            raise ConfigError(
                f"{self.name!r} is a loss of the whole batch, or not of pairs: it has no form for shares."
            )
        return self._means(self.losses(view), counted, view)

    @staticmethod
    def _means(losses: Tensor, counted: Tensor, view: PairView) -> Tensor:
        of_pairs = losses.shape[1:] == view.labels.shape
        if view.confidences is not None and of_pairs:
            first, second = view.of_pairs(view.confidences)
            losses = losses * (first + second).exp().detach()[..., None]
        if view.shares is not None and of_pairs:
            counted = counted * view.shares.detach()[..., None].to(counted)  # [K, pairs, m]
        dims = tuple(range(1, losses.ndim - 1))
        # where, and not a product: what stands beside a missing label may be anything
        total = torch.where(counted > 0, losses * counted, torch.zeros_like(losses)).sum(dims)
        weight = counted.sum(tuple(range(counted.ndim - len(dims) - 1, counted.ndim - 1)))
        divisor = weight if view.totals is None else view.totals.to(weight)
        nothing = torch.full_like(total, math.nan)
        return torch.where(weight > 0, total / divisor.clamp(min=torch.finfo(total.dtype).tiny), nothing)

    def coefficients(self, view: PairView) -> tuple[Tensor, Tensor]:
        """Mean losses `[K, m]`, and the slope of each in each response's log-probability `[K, N, G, m]`.

        Both are detached. Where nothing is labelled the mean is NaN and the slopes are 0.
        """
        with torch.enable_grad():
            logps = view.logps.detach().requires_grad_()
            values = self.values(replace(view, logps=logps))
            slopes = column_slopes(values, logps)
        return values.detach(), slopes

    def slopes(self, view: PairView) -> Slopes:
        """Of a rank-one loss what `Slopes` says.

        Raises:
            ConfigError: The loss is not of rank one.
        """
        raise ConfigError(f"The preference loss {self.name!r} does not depend on differences of scores only.")

    @property
    def factor(self) -> Hashable:
        """What `v` of a rank-one loss is; losses of one factor can be summed and stay of rank one."""
        return None


def column_slopes(values: Tensor, logps: Tensor) -> Tensor:
    """The gradient of each column of `values` [K, m] in `logps`, in a last dimension."""
    found = []
    for column in values.unbind(1):
        slope = None
        if column.requires_grad:
            (slope,) = torch.autograd.grad(column.sum(), logps, retain_graph=True, allow_unused=True)
        found.append(torch.zeros_like(logps) if slope is None else slope)
    return torch.stack(found, -1).detach()


class Combined(PreferenceLoss):
    """A weighted sum of losses, as TRL's `loss_type` and `loss_weights`.

    Each part is a mean over what it learns from: a tie is in the mean of a part that takes soft labels and in no other.

    Args:
        parts: The losses; all of one unit.
        weights: One number each; by default 1.

    Raises:
        ConfigError: There are none, weights are more or fewer, or units differ.
    """

    name = "combined"

    def __init__(self, parts: Sequence[PreferenceLoss], weights: Sequence[float] | None = None) -> None:
        self.parts = tuple(parts)
        if not self.parts:
            raise ConfigError("`loss_type` needs at least one loss.")
        self.weights = (1.0,) * len(self.parts) if weights is None else tuple(float(weight) for weight in weights)
        if len(self.weights) != len(self.parts) or not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"`loss_weights` must hold {len(self.parts)} numbers, one a loss. Found {weights!r}.")
        units = {part.unit for part in self.parts}
        if len(units) > 1 or any(part.weights_inside for part in self.parts):
            raise ConfigError(
                "Losses can be summed where all are of pairs, or all of responses, and none has the objectives' "
                f"weights inside. Found {', '.join(repr(part.name) for part in self.parts)}."
            )
        self.unit = units.pop()
        self.needs_reference = any(part.needs_reference for part in self.parts)
        self.soft_labels = any(part.soft_labels for part in self.parts)
        self.couples_batch = any(part.couples_batch for part in self.parts)
        self.rank_one = all(part.rank_one for part in self.parts) and len({part.factor for part in self.parts}) == 1

    def losses(self, view: PairView) -> Tensor:
        """The weighted sum, pair by pair."""
        return torch.stack([w * part.losses(view) for part, w in zip(self.parts, self.weights, strict=True)]).sum(0)

    def values(self, view: PairView) -> Tensor:
        """The weighted sum of the parts' means; a part that learns from nothing here adds nothing."""
        return _sum([part.values(view) for part in self.parts], self.weights)

    def slopes(self, view: PairView) -> Slopes:
        """The weighted sums of the parts' own."""
        if not self.rank_one:
            return super().slopes(view)
        found = [part.slopes(view) for part in self.parts]
        slopes = torch.stack([w * one[1] for one, w in zip(found, self.weights, strict=True)]).sum(0)
        return _sum([one[0] for one in found], self.weights), slopes, found[0][2]

    @property
    def factor(self) -> Hashable:
        """That of its parts."""
        return self.parts[0].factor


def _sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    stacked = torch.stack(list(values))
    total = torch.stack([w * torch.nan_to_num(one) for one, w in zip(values, weights, strict=True)]).sum(0)
    return torch.where(torch.isnan(stacked).all(0), torch.full_like(total, math.nan), total)


preference_losses: Registry[PreferenceLoss] = Registry("preference loss", PreferenceLoss)  # type: ignore[type-abstract]
register_preference = preference_losses.register
make_preference = preference_losses.make


def available_preferences() -> list[str]:
    """Names of all registered preference losses, sorted."""
    return preference_losses.names()


def make_losses(
    loss_type: str | Sequence[str] | PreferenceLoss, loss_weights: Sequence[float] | None = None, **settings: Any
) -> PreferenceLoss:
    """The loss, or the weighted sum of losses, of these names.

    Args:
        loss_type: A name or a list of names, spelled as TRL spells them.
        loss_weights: One weight a loss; 1 by default.
        settings: Such as `beta`; each loss takes those that it has.

    Raises:
        ConfigError: A name is unknown, no loss takes a setting, or a value is wrong.
    """
    if isinstance(loss_type, PreferenceLoss):
        if settings or loss_weights is not None:
            raise ConfigError("Settings cannot be applied to a preference loss that is built already.")
        return loss_type
    names = [loss_type] if isinstance(loss_type, str | Mapping) else list(loss_type)
    parts, taken = [], set[str]()
    for name in names:
        cls = preference_losses.get(name) if isinstance(name, str) else None
        own = {key: value for key, value in settings.items() if cls is not None and key in _settings_of(cls)}
        taken |= set(own)
        parts.append(make_preference({"name": name, **own} if own else name))
    if left := sorted(set(settings) - taken):
        raise ConfigError(f"None of the losses {', '.join(map(str, names))} has a setting {left[0]!r}.")
    if len(parts) == 1 and loss_weights is None:
        return parts[0]
    return Combined(parts, loss_weights)


def _settings_of(cls: type[PreferenceLoss]) -> list[str]:
    return list(inspect.signature(cls).parameters)


def _fitting(unit: Unit) -> str:
    """Which losses learn from what there is."""
    names = [name for name in available_preferences() if (cls := preference_losses.get(name)) and cls.unit == unit]
    return f"Use one of {', '.join(names)}" + (
        ", or turn pairs into marks by `.unpaired()`." if unit == "pair" else "."
    )
