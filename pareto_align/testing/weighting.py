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
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.weighting import Signal, Weighting, available
from pareto_align.weighting.base import FloatArray

__all__ = ["GramianWeightingContract", "WeightingContract", "gramian_samples", "random_signals"]


AUDITED = 2
"""Audited objectives in the checks."""


def random_signals(
    seed: int, count: int, K: int, m: int, *, scale: float = 1.0, measured: bool = True, constraints: int = 0
) -> list[Signal]:
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
        constraints: Columns of `slack`; 0 leaves it None.
    """
    rng, others, more, last = (np.random.default_rng(stream) for stream in (seed, [seed, 1], [seed, 2], [seed, 3]))
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
        slack = scale * (others.random((K, constraints)) - 0.5) if constraints else None
        spread = scale * others.random((K, m))
        halves = gradients + more.standard_normal((2, K, m, 8))
        rewards = scale * more.standard_normal((K, m, 2 * m))
        signal = Signal(
            step,
            count,
            scale * level,
            preferences,
            measured=latest,
            gramians=gramians,
            slack=slack,
            spread=spread,
            covariances=rewards @ rewards.transpose(0, 2, 1) / (2 * m),
            cross_gramians=halves[0] @ halves[1].transpose(0, 2, 1),
            audits=scale * more.random((K, AUDITED)),
            audit_covariances=scale * last.standard_normal((K, m, AUDITED)),
            audit_gramians=last.standard_normal((K, m, AUDITED)),
        )
        signals.append(_frozen(signal))
    return signals


def gramian_samples(m: int, *, seed: int = 0) -> dict[str, FloatArray]:
    """Gramians [m, m] of m gradients that a weighting must stand, by name.

    No gradient at all, one objective without, all the same, all parallel but of other lengths, in pairs opposed, at
    odds with each other as much as m vectors can be, cancelling under a positive mixture, nearly so, and random ones at
    lengths from 1e-15 to 1e15, also mixed.

    Args:
        m: Objectives.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((m, m + 5))
    saturated = plain.copy()
    saturated[0] = 0.0
    signs = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    # The corners of a regular simplex seen from its centre: all angles equal, the sum is 0.
    simplex = np.eye(m) - 1 / m
    mixture = rng.dirichlet(np.ones(m))
    cancelling = plain - (mixture @ plain) / m / mixture[:, None]
    gradients = {
        "zero": np.zeros((m, 1)),
        "one saturated": saturated,
        "identical": np.ones((m, 1)),
        "parallel": np.arange(1.0, m + 1)[:, None],
        "opposed": signs[:, None],
        "strong conflict": simplex if m > 1 else np.ones((1, 1)),
        "stationary": cancelling,
        "nearly stationary": cancelling + 1e-7 * plain,
        "random": plain,
        "tiny": 1e-15 * plain,
        "huge": 1e15 * plain,
        "mixed lengths": plain * np.logspace(-2, 2, m)[:, None],
        "extreme lengths": plain * np.logspace(-15, 15, m)[:, None],
    }
    return {name: rows @ rows.T for name, rows in gradients.items()}


def _frozen(signal: Signal) -> Signal:
    for field in dataclasses.fields(signal):
        array = getattr(signal, field.name)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return signal


def _rows(signal: Signal, rows: ArrayLike, columns: ArrayLike) -> Signal:
    """The signal with policies and objectives taken in another order."""
    r, c = np.asarray(rows, dtype=int), np.asarray(columns, dtype=int)
    places: dict[str, Any] = dict.fromkeys(("gramians", "covariances", "cross_gramians"), np.ix_(r, c, c))
    places |= dict.fromkeys(("values", "preferences", "measured", "spread"), np.ix_(r, c))
    places |= dict.fromkeys(("audit_covariances", "audit_gramians"), np.ix_(r, c))
    places |= dict.fromkeys(("slack", "audits"), (r,))
    arrays = {name: getattr(signal, name) for name in places}
    taken: dict[str, Any] = {name: None if array is None else array[places[name]] for name, array in arrays.items()}
    return _frozen(dataclasses.replace(signal, **taken))


class WeightingContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        K: Policies in the checks.
        m: Objectives in the checks.
        row_sum: What every row must sum to; None where the sum carries a step factor.
        shares_population: True for a method whose rows depend on other policies (a shared ideal point, a shared front).
            The checks of independence are then left out.
        symmetric: False for a method that treats objectives differently (a main objective and constraints).
        signed: True for a method whose weights may be negative; it says so itself in an attribute `signed`.
        constraints: Constrained objectives in the checks, c: for a method that requires "slack" and returns [K, m + c].
        steers_audits: True for a method whose weights have columns for audited objectives, of which the checks have
            two; it says so itself.
    """

    K: int = 4
    m: int = 3
    row_sum: float | None = 1.0
    shares_population: bool = False
    symmetric: bool = True
    signed: bool = False
    constraints: int = 0
    steers_audits: bool = False

    @property
    def further(self) -> int:
        """Columns of weights beside those of the m objectives."""
        return self.constraints + (AUDITED if self.steers_audits else 0)

    def make(self) -> Weighting:
        """A new weighting, not set up yet."""
        raise NotImplementedError("A subclass of WeightingContract implements make().")

    def ready(self, K: int | None = None, m: int | None = None) -> Weighting:
        """A new weighting, set up for K policies and m objectives."""
        weighting = self.make()
        weighting.setup(K or self.K, m or self.m)
        return weighting

    def signals(self, seed: int, count: int, K: int | None = None, m: int | None = None, **how: Any) -> list[Signal]:
        """`random_signals` with as many policies, objectives and constraints as the checks have."""
        return random_signals(seed, count, K or self.K, m or self.m, constraints=self.constraints, **how)

    def test_it_is_registered(self) -> None:
        """It has a name that `make` knows, says how it reads a preference, and asks only for fields that exist."""
        weighting = self.make()
        assert weighting.name in available()
        assert weighting.applies_to in ("advantage", "reward")
        assert weighting.reading in ("place", "rate")
        assert weighting.requires <= {field.name for field in dataclasses.fields(Signal) if field.default is None}
        assert bool(getattr(weighting, "signed", False)) == self.signed
        assert weighting.steers_audits == self.steers_audits

    def test_rows_are_weights(self) -> None:
        """Rows are finite, non-negative and sum as promised, also for one policy or one objective."""
        for K, m in ((1, 1), (1, 2), (self.K, self.m), (3, 5)):
            weighting = self.ready(K, m)
            for signal in self.signals(0, 8, K, m):
                self._check(weighting(signal), K, m)

    def test_rows_are_weights_before_the_first_measurement(self) -> None:
        """`measured` is None until the first evaluation."""
        weighting = self.ready()
        for signal in self.signals(1, 3, measured=False):
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
                    slack = factor * np.resize(values, (K, self.constraints)) if self.constraints else None
                    signal = Signal(
                        step,
                        4,
                        factor * values,
                        preferences,
                        measured=framed,
                        gramians=gramians,
                        slack=slack,
                        spread=np.abs(values),
                        covariances=gramians,
                        cross_gramians=factor * gramians,
                        audits=factor * np.resize(values, (K, AUDITED)),
                        audit_covariances=factor * np.resize(values, (K, m, AUDITED)),
                        audit_gramians=factor * np.resize(values, (K, m, AUDITED)),
                    )
                    self._check(weighting(_frozen(signal)), K, m)

    def test_permuting_objectives_permutes_weights(self) -> None:
        """The order in which objectives are listed does not matter."""
        if self.symmetric:
            order = np.roll(np.arange(self.m), 1)
            plain, permuted = self.ready(), self.ready()
            for signal in self.signals(2, 8):
                # Columns of constraints come after those of the objectives and stay where they are.
                expected = plain(signal)[:, [*order, *range(self.m, self.m + self.further)]]
                found = permuted(_rows(signal, np.arange(self.K), order))
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def test_permuting_policies_permutes_rows(self) -> None:
        """The slot that a policy lives in does not matter."""
        order = np.roll(np.arange(self.K), 1)
        plain, permuted = self.ready(), self.ready()
        for signal in self.signals(3, 8):
            expected = plain(signal)[order]
            found = permuted(_rows(signal, order, np.arange(self.m)))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def test_same_signals_same_weights(self) -> None:
        """No hidden randomness."""
        first, second = self.ready(), self.ready()
        for signal in self.signals(4, 8):
            np.testing.assert_array_equal(first(signal), second(signal))

    def test_state_round_trip(self) -> None:
        """A weighting that loads a state goes on exactly like the one that saved it; the state is a copy."""
        signals = self.signals(5, 12)
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
        for signal in self.signals(6, 5):
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
        for signal in self.signals(7, 7):
            used(signal)
        used.setup(self.K, self.m)
        for signal in self.signals(8, 6):
            np.testing.assert_array_equal(used(signal), new(signal))

    def test_policies_are_independent(self) -> None:
        """A policy's row is what it would be in a population of its own."""
        if not self.shares_population:
            alone = [self.ready(1) for _ in range(self.K)]
            together = self.ready()
            for signal in self.signals(9, 8):
                rows = together(signal)
                for k in range(self.K):
                    one = alone[k](_rows(signal, [k], np.arange(self.m)))
                    np.testing.assert_allclose(rows[k : k + 1], one, rtol=1e-12)

    def test_what_is_of_each_policy_is_so_to_the_bit(self) -> None:
        """One that says `per_policy` gives a policy the very same row beside whatever others."""
        together = self.ready()
        alone = [self.ready() for _ in range(self.K)]
        if together.per_policy:
            for signal in self.signals(12, 6):
                rows = together(signal)
                for k in range(self.K):
                    beside = _rows(signal, np.full(self.K, k), np.arange(self.m))
                    np.testing.assert_array_equal(rows[k], alone[k](beside)[k])

    def test_reset_leaves_other_slots_alone(self) -> None:
        """Resetting one slot does not change the rows of the others."""
        signals = self.signals(10, 9)
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
            signals = self.signals(11, 10)
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
            yield _frozen(dataclasses.replace(signal, values=values, measured=measured))

    def _check(self, weights: FloatArray, K: int, m: int) -> None:
        assert weights.shape == (K, m + self.further)
        assert weights.dtype == np.float64
        assert np.isfinite(weights).all()
        assert self.signed or (weights >= 0).all()
        if self.row_sum is not None:
            np.testing.assert_allclose(weights.sum(axis=1), self.row_sum, rtol=1e-9)

    @staticmethod
    def _assert_refused(call: Callable[[], object]) -> None:
        try:
            call()
        except ConfigError:
            return
        raise AssertionError("Expected a ConfigError.")


class GramianWeightingContract(WeightingContract):
    """More checks for a weighting that reads `Signal.gramians`: subclass it like `WeightingContract`.

    One that reads `Signal.cross_gramians` too is given the same products there: two halves that agree.

    Attributes:
        scale_free: False where the common length of all gradients matters.
        defensive: True for a method whose update lets no objective fall to first order.
        descends: False where the update may be orthogonal to all gradients or worse: what it does is no ascent of any
            mixture of the objectives. True checks that some objective rises unless the update is 0.
        spared: Names of `gramian_samples` on which a defensive method need not be: by default the one where gradients
            are so short beside others that they count as none.
    """

    scale_free: bool = True
    defensive: bool = False
    descends: bool = True
    spared: tuple[str, ...] = ("extreme lengths",)

    def first_row(self, gramian: ArrayLike, preference: ArrayLike | None = None) -> FloatArray:
        """The row [m] that a new weighting gives one policy with this Gramian [m, m]; even preference by default."""
        found = np.asarray(gramian, dtype=np.float64)
        m = len(found)
        wanted = np.full(m, 1 / m) if preference is None else np.asarray(preference, dtype=np.float64)
        values = np.linspace(0.2, 0.6, m)[None]
        return self.ready(1, m)(self._signal(0, 10, values, wanted[None], found[None]))[0]

    @staticmethod
    def _signal(step: int, steps: int, values: FloatArray, preferences: FloatArray, gramians: FloatArray) -> Signal:
        first, second = gramians.copy(), gramians.copy()
        return _frozen(Signal(step, steps, values, preferences, gramians=first, cross_gramians=second))

    def test_gramians_are_asked_for(self) -> None:
        """It says that it needs Gramians, and refuses a signal without."""
        weighting = self.ready()
        assert "gramians" in weighting.requires
        values, preferences = np.zeros((self.K, self.m)), np.full((self.K, self.m), 1 / self.m)
        self._assert_refused(lambda: weighting(Signal(0, 1, values, preferences)))

    def test_extreme_gramians(self) -> None:
        """Rows stay weights for every sample, with even and corner preferences, and over several steps."""
        for m in (1, 2, self.m, 5):
            for name, gramian in gramian_samples(m).items():
                for preference in (np.full(m, 1 / m), np.eye(m)[0]):
                    weighting = self.ready(2, m)
                    for step in range(3):
                        values = np.full((2, m), 0.1 * step)
                        signal = self._signal(step, 4, values, np.stack([preference] * 2), np.stack([gramian] * 2))
                        rows = weighting(signal)
                        self._check(rows, 2, m)
                        assert np.abs(rows).sum(axis=1).max() < 1e9, name

    def test_no_gradient_means_the_preference(self) -> None:
        """Without any gradient, or with one that is not finite, a new policy's row is its preference."""
        wanted = np.random.default_rng(20).dirichlet(np.ones(self.m))
        broken = np.eye(self.m)
        broken[0, 0] = np.nan
        for gramian in (np.zeros((self.m, self.m)), broken):
            np.testing.assert_allclose(self.first_row(gramian, wanted), wanted, atol=5e-3)

    def test_the_common_length_of_gradients_does_not_matter(self) -> None:
        """A learning signal a million times larger gives the same weights."""
        if self.scale_free:
            for seed in range(5):
                gramian = gramian_samples(self.m, seed=seed)["random"]
                for factor in (1e-12, 1e12):
                    np.testing.assert_allclose(
                        self.first_row(factor * gramian), self.first_row(gramian), rtol=1e-6, atol=1e-9
                    )

    def test_no_objective_falls(self) -> None:
        """The gains C w of a defensive method's update are not negative, in shares of what they could be."""
        if self.defensive:
            for seed in range(10):
                for name, gramian in gramian_samples(self.m, seed=seed).items():
                    if name not in self.spared:
                        assert self._relative_gains(gramian).min() >= -1e-6, name

    def test_something_rises(self) -> None:
        """Unless the update is 0, it raises at least one objective."""
        if self.descends:
            for name, gramian in gramian_samples(self.m).items():
                assert self._relative_gains(gramian).max() >= -1e-6, name

    def _relative_gains(self, gramian: FloatArray) -> FloatArray:
        """<g_i, d> / (|g_i| sum_j |w_j| |g_j|) for the update d, [m]; 0 for a zero gradient."""
        weights = self.first_row(gramian)
        lengths = np.sqrt(np.diagonal(gramian))
        largest = lengths * (np.abs(weights) @ lengths)
        return np.asarray(np.divide(gramian @ weights, largest, out=np.zeros_like(lengths), where=largest > 0))
