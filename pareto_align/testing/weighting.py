"""What every reward weighting must do, as tests that a plug-in's author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.weighting import WeightingContract


    class TestMyWeighting(WeightingContract):
        def make(self):
            return MyWeighting()
    ```
    pytest then collects every check below for `MyWeighting`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.weighting import Signal, Weighting, available
from pareto_align.weighting.base import FloatArray

__all__ = ["WeightingContract", "random_signals"]


def random_signals(seed: int, count: int, K: int, m: int, *, scale: float = 1.0, measured: bool = True) -> list[Signal]:
    """`count` consecutive signals of a population that wanders and improves.

    The first two have no measurement yet, later ones a new one every second step. All arrays are read-only, so a
    weighting that writes into its input fails.

    Args:
        seed: Of the random numbers.
        count: Number of signals.
        K: Policies.
        m: Objectives.
        scale: Size of the values.
        measured: False leaves `measured` None throughout.
    """
    rng = np.random.default_rng(seed)
    preferences = rng.dirichlet(np.ones(m), size=K)
    level = rng.random((K, m)) * 0.5
    latest: FloatArray | None = None
    signals = []
    for step in range(count):
        level = np.clip(level + 0.05 * rng.standard_normal((K, m)) + 0.01, 0.0, 1.0)
        if measured and step >= 2 and step % 2 == 0:
            latest = level.copy()
        gradients = rng.standard_normal((K, m, 8))
        gramians = gradients @ gradients.transpose(0, 2, 1)
        signals.append(_frozen(Signal(step, count, scale * level, preferences, latest, gramians)))
    return signals


def _frozen(signal: Signal) -> Signal:
    for array in (signal.values, signal.preferences, signal.measured, signal.gramians):
        if array is not None:
            array.flags.writeable = False
    return signal


def _rows(signal: Signal, rows: ArrayLike, columns: ArrayLike) -> Signal:
    """The signal with policies and objectives taken in another order."""
    r, c = np.asarray(rows, dtype=int), np.asarray(columns, dtype=int)
    gramians = None if signal.gramians is None else signal.gramians[np.ix_(r, c, c)]
    measured = None if signal.measured is None else signal.measured[np.ix_(r, c)]
    values, preferences = signal.values[np.ix_(r, c)], signal.preferences[np.ix_(r, c)]
    return _frozen(Signal(signal.step, signal.steps, values, preferences, measured, gramians))


class WeightingContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        K: Policies in the checks.
        m: Objectives in the checks.
        row_sum: What every row must sum to; None where the sum carries a step factor.
        shares_population: True for a method whose rows depend on other policies (a shared ideal point, a shared front).
            The checks of independence are then left out.
        symmetric: False for a method that treats objectives differently (a main objective and constraints).
    """

    K: int = 4
    m: int = 3
    row_sum: float | None = 1.0
    shares_population: bool = False
    symmetric: bool = True

    def make(self) -> Weighting:
        """A new weighting, not set up yet."""
        raise NotImplementedError("A subclass of WeightingContract implements make().")

    def ready(self, K: int | None = None, m: int | None = None) -> Weighting:
        """A new weighting, set up for K policies and m objectives."""
        weighting = self.make()
        weighting.setup(K or self.K, m or self.m)
        return weighting

    def test_it_is_registered(self) -> None:
        """It has a name that `make` knows, and asks only for fields that exist."""
        weighting = self.make()
        assert weighting.name in available()
        assert weighting.applies_to in ("advantage", "reward")
        assert weighting.requires <= {"measured", "gramians"}

    def test_rows_are_weights(self) -> None:
        """Rows are finite, non-negative and sum as promised, also for one policy or one objective."""
        for K, m in ((1, 1), (1, 2), (self.K, self.m), (3, 5)):
            weighting = self.ready(K, m)
            for signal in random_signals(0, 8, K, m):
                self._check(weighting(signal), K, m)

    def test_rows_are_weights_before_the_first_measurement(self) -> None:
        """`measured` is None until the first evaluation."""
        weighting = self.ready()
        for signal in random_signals(1, 3, self.K, self.m, measured=False):
            self._check(weighting(signal), self.K, self.m)

    def test_extreme_inputs(self) -> None:
        """Zero, identical, huge, tiny and negative values, corner preferences."""
        K, m = self.K, self.m
        corner = np.eye(m)[np.arange(K) % m]
        even = np.full((K, m), 1 / m)
        steps = np.arange(K * m, dtype=np.float64).reshape(K, m)
        for values in (np.zeros((K, m)), np.ones((K, m)), steps * 1e15, steps * -1e15, steps * 1e-15, steps * 1e-300):
            for preferences in (corner, even):
                weighting = self.ready()
                framed = np.asarray((values - values.min()) / max(float(np.ptp(values)), 1e-300), dtype=np.float64)
                for step, factor in enumerate((1.0, 1.0, -1.0, 0.0)):
                    gramians = np.einsum("ki,kj->kij", values, values)
                    signal = Signal(step, 4, factor * values, preferences, framed, gramians)
                    self._check(weighting(_frozen(signal)), K, m)

    def test_permuting_objectives_permutes_weights(self) -> None:
        """The order in which objectives are listed does not matter."""
        if self.symmetric:
            order = np.roll(np.arange(self.m), 1)
            plain, permuted = self.ready(), self.ready()
            for signal in random_signals(2, 8, self.K, self.m):
                expected = plain(signal)[:, order]
                found = permuted(_rows(signal, np.arange(self.K), order))
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def test_permuting_policies_permutes_rows(self) -> None:
        """The slot that a policy lives in does not matter."""
        order = np.roll(np.arange(self.K), 1)
        plain, permuted = self.ready(), self.ready()
        for signal in random_signals(3, 8, self.K, self.m):
            expected = plain(signal)[order]
            found = permuted(_rows(signal, order, np.arange(self.m)))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def test_same_signals_same_weights(self) -> None:
        """No hidden randomness."""
        first, second = self.ready(), self.ready()
        for signal in random_signals(4, 8, self.K, self.m):
            np.testing.assert_array_equal(first(signal), second(signal))

    def test_state_round_trip(self) -> None:
        """A weighting that loads a state goes on exactly like the one that saved it; the state is a copy."""
        signals = random_signals(5, 12, self.K, self.m)
        kept = self.ready()
        for signal in signals[:7]:
            kept(signal)
        state = kept.state_dict()
        untouched = copy.deepcopy(state)
        resumed = self.make()
        resumed.load_state_dict(state)
        for signal in signals[7:]:
            np.testing.assert_array_equal(resumed(signal), kept(signal))
        # Neither the weighting that gave the state nor the one that took it may write into it later on.
        for name, value in untouched.items():
            np.testing.assert_array_equal(state[name], value)

    def test_state_is_plain(self) -> None:
        """The state can be written to a checkpoint: arrays, numbers, strings, lists."""
        weighting = self.ready()
        for signal in random_signals(6, 5, self.K, self.m):
            weighting(signal)
        for name, value in weighting.state_dict().items():
            assert isinstance(name, str)
            assert isinstance(value, (np.ndarray, int, float, str, list)), (name, type(value))
            assert not isinstance(value, np.ndarray) or value.dtype != object, name

    def test_foreign_state_is_refused(self) -> None:
        """A state with an unknown entry is an error, not half a load."""
        state = self.ready().state_dict()
        state["no such entry"] = 1
        self._assert_refused(lambda: self.make().load_state_dict(state))

    def test_setup_forgets(self) -> None:
        """A second `setup` starts a new run."""
        used, new = self.ready(), self.ready()
        for signal in random_signals(7, 7, self.K, self.m):
            used(signal)
        used.setup(self.K, self.m)
        for signal in random_signals(8, 6, self.K, self.m):
            np.testing.assert_array_equal(used(signal), new(signal))

    def test_policies_are_independent(self) -> None:
        """A policy's row is what it would be in a population of its own."""
        if not self.shares_population:
            alone = [self.ready(1) for _ in range(self.K)]
            together = self.ready()
            for signal in random_signals(9, 8, self.K, self.m):
                rows = together(signal)
                for k in range(self.K):
                    one = alone[k](_rows(signal, [k], np.arange(self.m)))
                    np.testing.assert_allclose(rows[k : k + 1], one, rtol=1e-12)

    def test_reset_leaves_other_slots_alone(self) -> None:
        """Resetting one slot does not change the rows of the others."""
        signals = random_signals(10, 9, self.K, self.m)
        for slot in range(self.K):
            plain, reset = self.ready(), self.ready()
            for signal in signals[:7]:
                plain(signal)
                reset(signal)
            reset.reset(slot)
            others = np.arange(self.K) != slot
            # The newcomer is bad at everything, so that it sets no record a shared ideal point would follow.
            for signal in self._with_poor(signals[7:], slot):
                np.testing.assert_array_equal(reset(signal)[others], plain(signal)[others])

    def test_reset_slot_starts_afresh(self) -> None:
        """A reset slot behaves like a slot of a new weighting."""
        if not self.shares_population:
            signals = random_signals(11, 10, self.K, self.m)
            weighting, new = self.ready(), self.ready()
            for signal in signals[:6]:
                weighting(signal)
            weighting.reset(0)
            for signal in signals[6:]:
                np.testing.assert_array_equal(weighting(signal)[0], new(signal)[0])

    def test_unknown_slot_is_refused(self) -> None:
        """`reset` of a slot outside the population is an error."""
        weighting = self.ready()
        self._assert_refused(lambda: weighting.reset(-1))
        self._assert_refused(lambda: weighting.reset(self.K))

    def _with_poor(self, signals: list[Signal], slot: int) -> Iterator[Signal]:
        for signal in signals:
            values, measured = np.array(signal.values), signal.measured
            values[slot] = 0.0
            if measured is not None:
                measured = np.array(measured)
                measured[slot] = 0.0
            yield _frozen(Signal(signal.step, signal.steps, values, signal.preferences, measured, signal.gramians))

    def _check(self, weights: FloatArray, K: int, m: int) -> None:
        assert weights.shape == (K, m)
        assert weights.dtype == np.float64
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()
        if self.row_sum is not None:
            np.testing.assert_allclose(weights.sum(axis=1), self.row_sum, rtol=1e-9)

    @staticmethod
    def _assert_refused(call: Callable[[], None]) -> None:
        try:
            call()
        except ConfigError:
            return
        raise AssertionError("Expected a ConfigError.")
