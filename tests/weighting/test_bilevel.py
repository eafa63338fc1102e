from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pareto_align import Grid, Objective, ParetoAligner
from pareto_align.discovery.explorers import CMORL
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.report.card import model_card
from pareto_align.testing import exact
from pareto_align.testing.judging import JudgedFit, judged_fit
from pareto_align.testing.problems import get_problem
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import Bilevel, Signal, Weighting
from pareto_align.weighting.evidence import make_signal, reward_covariances
from pareto_align.weighting.schedules import Schedule

QUICK = {"period": 1, "after": 0.0}


class TestBilevel(WeightingContract):
    def make(self) -> Weighting:
        return Bilevel(**QUICK)


class TestBilevelInTheBox(WeightingContract):
    row_sum = None

    def make(self) -> Weighting:
        return Bilevel(simplex=False, **QUICK)


def after_a_reset(contract: WeightingContract, slot: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of a weighting in which a slot began again, and of one in which none did, two steps long."""
    signals, plain, reset = contract.signals(10, 9), contract.ready(), contract.ready()
    for signal in signals[:7]:
        plain(signal)
        reset(signal)
    reset.reset(slot)
    return [(reset(signal), plain(signal)) for signal in signals[7:]]


class TestBilevelShared(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return Bilevel(shared=True, **QUICK)

    def test_reset_leaves_other_slots_alone(self) -> None:
        """The one row of all stays as it is: a slot that begins again has it, too."""
        for found, expected in after_a_reset(self, slot=1):
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))


class TestBilevelByGramians(WeightingContract):
    steers_audits = True

    def make(self) -> Weighting:
        return Bilevel(estimate="gramian", primary=1, **QUICK)


class TestBilevelByPairs(WeightingContract):
    """Two neighbouring slots belong together: they are moved, and begin again, as one."""

    row_sum = None
    steers_audits = True
    shares_population = True

    def make(self) -> Weighting:
        return Bilevel(estimate="paired", **QUICK)

    def test_permuting_policies_permutes_rows(self) -> None:
        order = np.array([2, 3, 0, 1])
        plain, permuted = self.ready(), self.ready()
        for signal in self.signals(3, 8):
            taken = {name: getattr(signal, name)[order] for name in ("values", "preferences", "audits")}
            found = permuted(Signal(signal.step, signal.steps, **taken))
            np.testing.assert_allclose(found, plain(signal)[order], rtol=1e-9)

    def test_reset_leaves_other_slots_alone(self) -> None:
        for found, expected in after_a_reset(self, slot=3):
            np.testing.assert_array_equal(found[:2], expected[:2])
            assert (found[2:, :3] != expected[2:, :3]).all()


def feed(weighting: Bilevel, *covariances: object, preference: object = (0.5, 0.5), steps: int = 10) -> np.ndarray:
    """The row [m] of one policy after the last of the covariances [m] with one audit."""
    wanted = np.asarray(preference, dtype=float)[None]
    weighting.setup(1, wanted.shape[1])
    for step, found in enumerate([*covariances, np.zeros(wanted.shape[1])]):
        answers = np.asarray(found, dtype=float)[None, :, None]
        row = weighting(Signal(step, steps, np.zeros_like(wanted), wanted, audit_covariances=answers))[0]
    return row


def test_gold_rows() -> None:
    # h = (.3, -.4) has deviation .35 under even weights, the longest: .7 / (.35 * 1.05) = 1.904762 between the two.
    row = feed(Bilevel(eta=0.15, floor=1e-9, **QUICK), [0.3, -0.4])
    np.testing.assert_allclose(np.log(row[0] / row[1]), 0.15 * 1.904762, rtol=1e-5)
    # in the box h has length .5, the longest: step = h / (.5 * 1.05) = (.571429, -.761905)
    step = np.array([0.571429, -0.761905])
    row = feed(Bilevel(simplex=False, eta=0.05, **QUICK), [0.3, -0.4])
    np.testing.assert_allclose(row, 0.5 + 0.05 * step, rtol=1e-6)
    # Then (0, .1) with memory .9: H = (.09 (.3, -.4) + .1 (0, .1)) / .19 = (.142105, -.136842), length .197285;
    # the longest stays .5: step = H / (.197285 + .025) = (.639292, -.615614).
    row = feed(Bilevel(simplex=False, eta=0.05, **QUICK), [0.3, -0.4], [0.0, 0.1])
    np.testing.assert_allclose(row, 0.5 + 0.05 * (step + [0.639292, -0.615614]), rtol=1e-5)


def test_a_move_on_the_simplex_has_its_length_in_the_metric_of_the_simplex() -> None:
    """Of two rows a and b the angle between their roots is half the way: eta, but for what `delta` takes."""
    start = np.array([0.6, 0.3, 0.1])
    row = feed(Bilevel(eta=0.01, delta=1e-6, floor=1e-9, **QUICK), [0.3, -0.4, 0.2], preference=start)
    assert 2 * np.arccos(np.sqrt(start * row).sum()) == pytest.approx(0.01, rel=1e-2)


def test_what_all_proxies_have_in_common_and_a_dropped_one_take_nothing_of_a_move() -> None:
    settings = {"delta": 1e-6, "floor": 1e-9, **QUICK}
    plain = feed(Bilevel(**settings), [0.3, -0.4], preference=[0.6, 0.4])
    np.testing.assert_allclose(feed(Bilevel(**settings), [9.3, 8.6], preference=[0.6, 0.4]), plain, rtol=1e-6)
    dropped = [0.6 - 1e-9, 0.4 - 1e-9, 2e-9]
    row = feed(Bilevel(**settings), [0.3, -0.4, -5.0], preference=dropped)
    np.testing.assert_allclose(row[:2], plain, rtol=1e-5)


def test_neither_the_audits_unit_nor_a_constant_audit_moves_the_weights() -> None:
    plain = feed(Bilevel(**QUICK), [0.3, -0.4], [0.1, 0.2])
    np.testing.assert_allclose(feed(Bilevel(**QUICK), [3e5, -4e5], [1e5, 2e5]), plain, rtol=1e-12)
    for nothing in ([0.0, 0.0], [1e-17, -1e-17], [np.nan, np.nan]):
        np.testing.assert_allclose(feed(Bilevel(floor=1e-9, **QUICK), nothing), [0.5, 0.5], rtol=1e-8)


def test_it_waits_and_moves_by_periods() -> None:
    rows = [feed(Bilevel(period=3, after=0.5), *[[1.0, 0.0]] * n, steps=13) for n in range(10)]
    # progress passes .5 at step 6; steps 8, 11, ... end a period, so the ninth signal moves first
    assert [n for n in range(1, 10) if not np.array_equal(rows[n], rows[n - 1])] == [9]


def test_an_objective_without_preference_can_come_in() -> None:
    row = feed(Bilevel(**QUICK), *[[0.0, 1.0]] * 120, preference=[1.0, 0.0], steps=200)
    assert row[1] > 0.9


def test_a_proxy_that_harms_is_switched_off_in_the_box() -> None:
    row = feed(Bilevel(simplex=False, **QUICK), *[[-0.1, -0.1]] * 20, steps=50)
    np.testing.assert_array_equal(row, [0.0, 0.0])


def test_pairs() -> None:
    weighting = Bilevel(estimate="paired", lam=4.0, simplex=False, eta=0.05, **QUICK)
    weighting.setup(3, 2)
    values = np.array([[0.2, 0.5], [0.3, 0.5], [0.9, 0.1]])
    preferences = np.array([[0.4, 0.6], [0.6, 0.4], [1.0, 0.0]])
    signal = Signal(0, 10, values, preferences, audits=np.zeros((3, 2)))
    first, second = weighting(signal), weighting(signal)
    # a pair begins at the mean; the second of it is trained on u / 4 as well; the odd one out has no partner
    np.testing.assert_allclose(first, [[0.5, 0.5, 0, 0], [0.5, 0.5, 0.25, 0], [1, 0, 0, 0]])
    # h = 4 ((.3, .5) - (.2, .5)) = (.4, 0): one move of .05 / 1.05 along it
    np.testing.assert_allclose(second[:2, :2], [[0.5 + 0.05 / 1.05, 0.5]] * 2)
    np.testing.assert_allclose(second[2], first[2])


@pytest.mark.parametrize(("name", "weights"), [("misleading", [0.3, 0.3, 0.4]), ("hacked", [0.5, 0.2])])
@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_the_covariance_is_the_derivative(name: str, weights: list[float], beta: float) -> None:
    problem = get_problem(name)
    (gold,) = problem.audits.values()
    reference = np.full(problem.rewards.shape[:2], 1 / problem.rewards.shape[1])

    def value(at: np.ndarray) -> float:
        return float((exact.optimal_policy(reference, problem.rewards, at, beta) * gold).sum(1).mean())

    at = np.array(weights)
    policy = exact.optimal_policy(reference, problem.rewards, at, beta)
    # expectations in the place of a sample: each string as often as it is said, to 1 in 100,000
    counts = np.round(policy[0] * 1e5).astype(int)
    said = np.repeat(np.arange(len(counts)), counts)
    rewards = np.concatenate([problem.rewards[0, said], gold[0, said, None]], 1)[None, None]
    found = reward_covariances(rewards[..., :-1], rewards[..., -1:])[0, :, 0] / beta
    shifts = 1e-5 * np.eye(len(at))
    slopes = np.array([(value(at + d) - value(at - d)) / 2e-5 for d in shifts])
    np.testing.assert_allclose(found, slopes, rtol=0.01, atol=1e-4)


def test_the_signal_is_made_of_rewards_and_audits() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(2, 3, 4, 4))
    rewards[0, 0, 0, 3] = np.nan

    def read(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    def length(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    roles = {"audit one": "audit", "a": "optimize", "b": "optimize", "two": "audit"}
    objectives = ObjectiveSet([Objective(name, length, role=role) for name, role in roles.items()])
    scale = RewardScale.measure(rewards.reshape(-1, 4), objectives)
    told = {"step": 0, "steps": 2, "preferences": np.full((2, 2), 0.5), "rewards": rewards}
    means = np.nanmean(rewards, (1, 2))
    signal = make_signal(Bilevel(), objectives, scale, means, **told)
    each = scale.normalize(rewards)
    by_hand = np.mean([np.cov(each[1, n, :, 2], each[1, n, :, 3], bias=True)[0, 1] for n in range(3)])
    assert signal.audit_covariances is not None
    np.testing.assert_allclose(signal.audit_covariances[1, 1, 1], by_hand)
    both = np.isfinite(each[0, 0, :, 3])
    first = np.cov(each[0, 0, both, 1], each[0, 0, both, 3], bias=True)[0, 1]
    rest = [np.cov(each[0, n, :, 1], each[0, n, :, 3], bias=True)[0, 1] for n in (1, 2)]
    np.testing.assert_allclose(signal.audit_covariances[0, 0, 1], np.mean([first, *rest]))
    # halves: the objectives' columns come first, those of the audits last
    cross = rng.normal(size=(2, 4, 4))
    signal = make_signal(Bilevel(estimate="gramian"), objectives, scale, means, cross_gramians=cross, **told)
    assert signal.audit_gramians is not None
    np.testing.assert_allclose(signal.audit_gramians[1, 0, 1], (cross[1, 0, 3] + cross[1, 3, 0]) / 2)
    assert signal.cross_gramians is not None
    np.testing.assert_array_equal(signal.cross_gramians, cross[:, :2, :2])


@pytest.mark.parametrize(
    "settings",
    [
        {"estimate": "exact"}, {"primary": -1}, {"window": 1.0}, {"period": 0}, {"after": 1.5}, {"eta": 0.0},
        {"delta": 0.0}, {"floor": 0.0}, {"lam": 0.0},
    ],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Bilevel(**settings)


@pytest.mark.parametrize("estimate", ["covariance", "gramian", "paired"])
def test_what_it_goes_by_must_be_there(estimate: str) -> None:
    weighting = Bilevel(estimate=estimate, primary=2)
    weighting.setup(1, 2)
    signal = Signal(
        0, 1, np.zeros((1, 2)), np.full((1, 2), 0.5), audits=np.zeros((1, 2)),
        audit_covariances=np.zeros((1, 2, 2)), audit_gramians=np.zeros((1, 2, 2)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="number 2"):
        weighting(signal)
    with pytest.raises(ConfigError, match="Found 0 audited"):
        weighting(Signal(0, 1, np.zeros((1, 2)), np.full((1, 2), 0.5)))


def test_constraints_and_audits_cannot_both_be_steered_in_one_schedule() -> None:
    with pytest.raises(ConfigError, match="which column is whose"):
        Schedule([(0.0, "lagrangian"), (0.5, {"name": "bilevel", "estimate": "gramian"})])


def run(folder: Path, weighting: object, **settings: Any) -> JudgedFit:
    more = {"steps": 3, "group_size": 16, "learning_rate": 5e-3, "eval_every": 3, "kl_coef": 0.1} | settings
    explorer = Grid([[1 / 3] * 3] * more.setdefault("population", 1))
    return judged_fit(get_problem("misleading"), folder, weighting=weighting, explorer=explorer, **more)


def test_an_audit_without_weight_is_not_trained_on(tmp_path: Path) -> None:
    """By Gramians the audit is among the learner's columns, at weight 0: the policy is the one of fixed weights."""
    still = {"name": "bilevel", "estimate": "gramian", "after": 1.0, "period": 100}
    plain, steered = run(tmp_path / "plain", "fixed"), run(tmp_path / "steered", still)
    np.testing.assert_allclose(steered.policies, plain.policies, rtol=1e-4)
    event = next(event for event in steered.front.history if event["event"] == "step")
    assert event["steering"] == [[0.0]]


def test_the_second_of_a_pair_is_trained_on_the_audit(tmp_path: Path) -> None:
    paired = {"name": "bilevel", "estimate": "paired", "after": 1.0, "lam": 0.05}
    fit = run(tmp_path, paired, population=2, steps=30, eval_every=30)
    gold = get_problem("misleading").audits["wanted"]
    first, second = ((table * gold).sum() for table in fit.policies)
    assert second > first + 0.05


def test_it_reaches_more_of_what_is_wanted_and_the_card_says_how(tmp_path: Path) -> None:
    """The study in small: half of its steps, a quarter of its samples."""
    gold = get_problem("misleading").audits["wanted"]
    settings = {"steps": 100, "eval_every": 100, "learning_rate": 1e-2}
    plain = run(tmp_path / "plain", "fixed", **settings)
    learned = run(tmp_path / "learned", {"name": "bilevel", "period": 2}, **settings)
    even, found, reference = (
        (table * gold).sum() for table in (plain.policies[0], learned.policies[0], plain.reference)
    )
    assert found - reference > 1.1 * (even - reference)
    card = model_card(learned.front.record)
    assert "no audit** of this run" in card
    assert "No objective was kept aside as an audit" in card
    untouched = model_card(plain.front.record)
    assert "measured, never optimized" in untouched
    assert "kept aside" not in untouched


def test_the_box_needs_a_price_of_kl(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kl_coef above 0"):
        run(tmp_path, {"name": "bilevel", "simplex": False}, kl_coef=0.0)


@pytest.mark.parametrize(("explorer", "population"), [("discover", 2), (Grid([[1 / 3] * 3]), 1), (CMORL(), 2)])
def test_a_pair_must_stay_together(tmp_path: Path, explorer: object, population: int) -> None:
    """Of a slot that the explorer moves, or that has no neighbour, nothing can be compared."""
    with pytest.raises(ConfigError, match=r"explorer='grid' with population=2"):
        judged_fit(
            get_problem("misleading"), tmp_path, weighting={"name": "bilevel", "estimate": "paired"},
            explorer=explorer, population=population, steps=2,
        )  # fmt: skip


def test_a_family_has_no_slots_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or family='independent'"):
        judged_fit(get_problem("misleading"), tmp_path, weighting="bilevel", family="blocks", population=3, steps=2)
    weighting = Schedule([(0.0, "fixed"), (0.5, "bilevel")])
    assert weighting.follows_slots
    assert weighting.goes_by_covariance


@pytest.mark.parametrize("learner", ["grpo", "gdpo"])
def test_learners_that_rescale_each_prompt_are_warned_of(learner: str) -> None:
    def planned(weighting: str, learner: str) -> None:
        aligner = ParetoAligner("tiny", get_problem("misleading").objectives(), weighting=weighting, learner=learner)
        aligner._plan()

    with pytest.warns(ParetoAlignWarning, match="means another thing from step to step") as seen:
        planned("bilevel", learner)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParetoAlignWarning)
        planned("bilevel", "centred")
        planned("fixed", learner)


def test_an_audit_must_be_there() -> None:
    with pytest.raises(ConfigError, match="goes by audited objectives"):
        ParetoAligner("tiny", get_problem("arc").objectives(), weighting="bilevel")._check_steering()
