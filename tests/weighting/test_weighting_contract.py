"""Every shipped weighting keeps the contract that plug-ins are held to."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import Chebyshev, Fixed, Hypervolume, HypervolumePaper, Signal, SteadyChebyshev, Weighting


class TestFixed(WeightingContract):
    def make(self) -> Weighting:
        return Fixed()


class TestChebyshev(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return Chebyshev()


class TestChebyshevFixedFrame(WeightingContract):
    """With ideal and nadir given, a policy's row depends on that policy only."""

    def make(self) -> Weighting:
        return _FramedChebyshev()


class _FramedChebyshev(Chebyshev):
    name = "chebyshev"

    def setup(self, K: int, m: int) -> None:
        self.ideal, self.nadir = np.ones(m), np.zeros(m)
        super().setup(K, m)


class TestSteadyChebyshev(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return SteadyChebyshev()


class TestHypervolume(WeightingContract):
    row_sum = None
    shares_population = True

    def make(self) -> Weighting:
        return Hypervolume()


class TestHypervolumeOwnFront(WeightingContract):
    row_sum = None

    def make(self) -> Weighting:
        return Hypervolume(share_front=False)


class TestHypervolumePaper(WeightingContract):
    row_sum = None

    def make(self) -> Weighting:
        return HypervolumePaper()


class _Negative(Fixed):
    name = "fixed"

    def __call__(self, signal: Signal) -> np.ndarray:
        return -signal.preferences


class _First(Fixed):
    name = "fixed"

    def __call__(self, signal: Signal) -> np.ndarray:
        return np.eye(self.m)[np.zeros(self.K, dtype=int)]


class _Leaky(Fixed):
    """Counts calls in an attribute that is not in its state."""

    name = "fixed"
    calls = 0

    def __call__(self, signal: Signal) -> np.ndarray:
        self.calls += 1
        return np.eye(self.m)[np.full(self.K, self.calls % self.m)]


class _Greedy(Fixed):
    """Reset forgets everybody."""

    name = "fixed"
    state_names = ("sums",)

    def setup(self, K: int, m: int) -> None:
        super().setup(K, m)
        self.sums = np.ones((K, m))

    def reset(self, slot: int) -> None:
        self.setup(self.K, self.m)

    def __call__(self, signal: Signal) -> np.ndarray:
        self.sums = self.sums + signal.values
        return self.sums / self.sums.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_Negative, "test_rows_are_weights"),
        (_Negative, "test_extreme_inputs"),
        (_First, "test_permuting_objectives_permutes_weights"),
        (_Leaky, "test_state_round_trip"),
        (_Leaky, "test_setup_forgets"),
        (_Greedy, "test_reset_leaves_other_slots_alone"),
        (_Greedy, "test_unknown_slot_is_refused"),
    ],
)
def test_the_contract_catches(broken: type[Weighting], check: str) -> None:
    class Contract(WeightingContract):
        def make(self) -> Weighting:
            return broken()

    with pytest.raises(AssertionError):
        getattr(Contract(), check)()
