"""What every preference loss must do, as tests that a plug-in's author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.preferences import PreferenceLossContract


    class TestMyLoss(PreferenceLossContract):
        def make(self):
            return MyLoss()
    ```
    pytest then collects every check below for `MyLoss`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from pareto_align.learning.preferences import PairView, PreferenceLoss

__all__ = ["PreferenceLossContract", "random_view"]


def random_view(
    seed: int = 0,
    *,
    K: int = 3,
    N: int = 6,
    G: int = 2,
    m: int = 2,
    spread: float = 1.0,
    soft: bool = True,
    missing: float = 0.2,
) -> PairView:
    """A batch with everything that any loss may ask for, in float64.

    Every row has one pair of its first two responses, and with more than two also the pair of the last two. Labels are
    hard, soft and ties, some are missing; ratings and marks agree with nothing in particular.

    Args:
        seed: Of the random numbers.
        K: Policies.
        N: Rows.
        G: Responses of each.
        m: Objectives.
        spread: Standard deviation of the log-ratios.
        soft: False leaves hard labels and ties only.
        missing: Share of labels that are missing.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(3, 12, (N, G), generator=generator)
    reference = -1.5 * lengths[None] - (0.5 + spread) * uniform(1, N, G)
    # below 0, as log-probabilities are, however far they are from the reference's
    logps = torch.minimum(reference + spread * normal(K, N, G), -0.01 - uniform(K, N, G))
    ends = [(0, 1)] if G == 2 else [(0, 1), (G - 2, G - 1)]
    pairs = torch.tensor([(row, a, b) for row in range(N) for a, b in ends])
    labels = uniform(len(pairs), m) * 0.98 + 0.01
    if not soft:
        labels = labels.round()
    draw = uniform(len(pairs), m)
    labels = torch.where(draw < 0.15, torch.full_like(labels, 0.5), labels)
    labels = torch.where(draw > 1 - missing, torch.full_like(labels, torch.nan), labels)
    labels[0], labels[-1] = torch.linspace(0.8, 0.9, m), torch.linspace(0.1, 0.3, m)  # something is known of all
    scores = normal(N, G, m)
    marks = (uniform(N, G, m) > 0.5).double()
    if missing:
        scores[1, 0], marks[1, 0] = torch.nan, torch.nan
    return PairView(
        logps=logps,
        lengths=lengths,
        pairs=pairs,
        labels=labels,
        reference=reference,
        margins=uniform(len(pairs), m) * 3 + 0.1,
        weights=torch.randint(1, 4, (len(pairs), m), generator=generator).double(),
        scores=scores,
        marks=marks,
        golds=torch.zeros(N, dtype=torch.long),
        trade=_simplex(uniform(K, m)),
        rewards=normal(len(pairs), m),
        kl=uniform(K),
        previous=reference + 0.3 * normal(K, N, G),
    )


def _simplex(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True)


class PreferenceLossContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        soft: False where labels in between are refused.
        pulls_at_ties: True for a loss that pulls on two responses of which neither is preferred, because it follows
            something else than labels.
    """

    soft: bool = True
    pulls_at_ties: bool = False

    def make(self) -> PreferenceLoss:
        """A new loss."""
        raise NotImplementedError

    def view(self, seed: int = 0, *, G: int = 2, m: int = 2, spread: float = 1.0, missing: float = 0.2) -> PairView:
        """A batch that the loss takes."""
        return random_view(seed, G=G, m=m, spread=spread, soft=self.soft, missing=missing)

    def test_it_is_finite(self) -> None:
        """Log-ratios up to a thousand nats give finite losses and slopes, also in float32."""
        for spread in (0.0, 1.0, 30.0, 1000.0):
            view = self.view(3, spread=spread)
            for found in (view, _single(view)):
                values, slopes = self.make().coefficients(found)
                assert torch.isfinite(values).all(), spread
                assert torch.isfinite(slopes).all(), spread

    def test_slopes_are_those_of_the_losses(self) -> None:
        """Coefficients agree with finite differences of the mean losses."""
        loss, step = self.make(), 1e-6
        for G in (2, 4):
            view = self.view(4, G=G)
            _, slopes = loss.coefficients(view)
            generator = torch.Generator().manual_seed(9)
            for _ in range(3):
                along = torch.randn(view.logps.shape, generator=generator, dtype=torch.float64)
                ahead = loss.values(replace(view, logps=view.logps + step * along))
                behind = loss.values(replace(view, logps=view.logps - step * along))
                expected = (ahead - behind) / (2 * step)
                found = (slopes * along[..., None]).sum((1, 2))
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    def test_the_order_of_a_pair_does_not_matter(self) -> None:
        """The loss of (b, a) with the label 1 - s is that of (a, b) with s."""
        loss = self.make()
        for G in (2, 4):
            view = self.view(5, G=G)
            turned = replace(
                view,
                pairs=view.pairs[:, [0, 2, 1]],
                labels=1 - view.labels,
                rewards=None if view.rewards is None else -view.rewards,
            )
            for found, expected in zip(loss.coefficients(turned), loss.coefficients(view), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    def test_rank_one_is_true(self) -> None:
        """Where the loss says so, slopes of margins and of scores give the coefficients, for all objectives at once."""
        loss = self.make()
        if not loss.rank_one:
            return
        for G in (2, 4):
            view = self.view(6, G=G)
            values, slopes, factors = loss.slopes(view)
            expected, coefficients = loss.coefficients(view)
            torch.testing.assert_close(values, expected)
            row, a, b = view.pairs.unbind(1)
            found = torch.zeros_like(coefficients)
            for place, sign in ((a, 1), (b, -1)):
                pulled = sign * slopes * factors[:, row, place][..., None]
                for k in range(len(found)):
                    found[k].index_put_((row, place), pulled[k], accumulate=True)
            torch.testing.assert_close(found, coefficients, rtol=1e-8, atol=1e-10)

    def test_a_policy_does_not_depend_on_its_company(self) -> None:
        """Values and coefficients of a policy are the same alone and among others."""
        loss, view = self.make(), self.view(7)
        values, slopes = loss.coefficients(view)
        for k in range(len(view.logps)):
            own: dict[str, Any] = {name: _row(view, name, k) for name in ("logps", "trade", "kl", "previous")}
            alone = replace(view, **own)
            one, slope = loss.coefficients(alone)
            torch.testing.assert_close(one[0], values[k], equal_nan=True)
            torch.testing.assert_close(slope[0], slopes[k])

    def test_what_is_not_labelled_moves_nothing(self) -> None:
        """An objective without a label has the value NaN and slopes of 0, and the others are as they were."""
        loss, view = self.make(), self.view(8, m=3, missing=0.0)
        if loss.weights_inside:
            return
        _, expected = loss.coefficients(view)
        without: dict[str, Any] = {
            name: _without_last(getattr(view, name)) for name in ("labels", "scores", "marks", "margins")
        }
        bare = replace(view, **without)
        values, slopes = loss.coefficients(bare)
        assert torch.isnan(values[:, 2]).all()
        assert (slopes[..., 2] == 0).all()
        torch.testing.assert_close(slopes[..., :2], expected[..., :2])

    def test_a_tie_moves_nothing_apart(self) -> None:
        """Two equally likely responses, neither preferred, are left where they are."""
        loss = self.make()
        if self.pulls_at_ties:
            return
        view = self.view(10, missing=0.0)
        same = replace(
            view,
            lengths=torch.full_like(view.lengths, 7),
            logps=torch.full_like(view.logps, -9.0),
            reference=torch.full_like(view.logps, -9.0),
            previous=torch.full_like(view.logps, -9.0),
            labels=torch.full_like(view.labels, 0.5),
            scores=torch.zeros_like(view.scores) if view.scores is not None else None,
            rewards=torch.zeros_like(view.labels),
            marks=torch.full_like(view.marks, 0.5) if view.marks is not None else None,
        )
        _, slopes = loss.coefficients(same)
        gap = (slopes[:, :, 0] - slopes[:, :, 1]).abs().max()
        assert gap < 1e-12

    def test_a_weight_of_two_is_two_pairs(self) -> None:
        """A pair that counts twice is the same as the pair twice."""
        loss, view = self.make(), self.view(11)
        if loss.unit != "pair" or loss.couples_batch:
            return
        weights = torch.ones_like(view.labels)
        weights[0] = 2
        twice: dict[str, Any] = {
            name: torch.cat([found[:1], found])
            for name in ("pairs", "labels", "margins", "rewards")
            if (found := getattr(view, name)) is not None
        }
        found = loss.coefficients(replace(view, weights=weights))
        expected = loss.coefficients(replace(view, weights=None, **twice))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_it_does_not_change_what_it_is_given(self) -> None:
        """The view is as it was."""
        view = self.view(12)
        before = {field.name: _copy(getattr(view, field.name)) for field in fields(view)}
        self.make().coefficients(view)
        for name, expected in before.items():
            if isinstance(expected, Tensor):
                torch.testing.assert_close(getattr(view, name), expected, equal_nan=True, rtol=0, atol=0)


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _single(view: PairView) -> PairView:
    """The view in float32."""
    found: dict[str, Any] = {field.name: getattr(view, field.name) for field in fields(view)}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            found[name] = value.float()
    return PairView(**found)


def _row(view: PairView, name: str, k: int) -> Tensor | None:
    found = getattr(view, name)
    return None if found is None else found[k : k + 1]


def _without_last(found: Tensor | None) -> Tensor | None:
    """With the last objective's column missing."""
    if found is None:
        return None
    bare = found.clone()
    bare[..., -1] = torch.nan
    return bare
