"""What the loop hands to weightings and explorers, and what it does with their answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, events, fit

from pareto_align import ConfigError, Objective, ParetoFront, TrainingError
from pareto_align.discovery.explorers import Explorer, Mixture, Task
from pareto_align.runs.budget import Budget
from pareto_align.runs.settings import Settings
from pareto_align.weighting import Weighting, make


class Watching(Weighting):
    """Even weights; keeps the signals it was given."""

    def __init__(self, requires=()):
        self.requires = frozenset(requires)
        self.seen = []

    def __call__(self, signal):
        self._check(signal)
        self.seen.append(signal)
        columns = self.m + (0 if signal.slack is None else signal.slack.shape[1])
        return np.full((self.K, columns), 1 / columns)


def constrained(threshold=0.3):
    first, second = PROBLEM.objectives()
    return [first, Objective("held", second.reward, bounds=(0.0, 1.0), role="constrain", at_least=threshold)]


def test_slack_and_spread_are_those_of_the_rewards(tmp_path):
    watching = Watching({"slack", "spread"})
    fit(tmp_path / "run", constrained(), weighting=watching, steps=1)
    (signal,) = watching.seen
    (step,) = events(tmp_path / "run", "step")
    values = np.array(step["values"])
    np.testing.assert_allclose(signal.slack[:, 0], values[:, 1] - 0.3, atol=1e-12)
    np.testing.assert_allclose(signal.values[:, 0], values[:, 0], atol=1e-12)
    assert signal.spread.shape == (3, 1)
    assert (signal.spread > 0).all()
    assert np.array(step["steering"]).shape == (3, 1)
    assert np.array(step["weights"]).shape == (3, 1)


def test_a_weighting_sees_only_what_it_asked_for(tmp_path):
    watching = Watching()
    fit(tmp_path / "run", constrained(), weighting=watching, steps=1)
    assert watching.seen[0].slack is None
    assert watching.seen[0].spread is None


@pytest.mark.parametrize("name", ["lagrangian", "lagrangian-sigmoid", "safe-rlhf"])
def test_multipliers_move_a_violated_constraint_up(name, tmp_path):
    # every symbol of the arc with a good second reward has a poor first one: unconstrained the second falls
    settings = {"steps": 40, "eval_every": 40, "learning_rate": 2e-2, "kl_coef": 0.0, "group_size": 16}
    free, _ = fit(tmp_path / "free", constrained(0.6), weighting="fixed", **settings)
    held, _ = fit(tmp_path / "held", constrained(0.6), weighting=make(name), **settings)
    last = {run: np.array(events(tmp_path / run, "evaluation")[-1]["values"])[:, 1].mean() for run in ("free", "held")}
    assert last["free"] < 0.45
    assert last["held"] > 0.5
    assert len(held) >= len(free)


class Planned(Explorer):
    """Proposes what it was built with after the first measurement."""

    name = "planned"

    def __init__(self, plan=(), mixed=()):
        self.plan, self.mixed, self.states = plan, mixed, []

    def preferences(self, names, population, seed):
        return np.full((population, len(names)), 1 / len(names))

    def propose(self, state):
        self.states.append(state)
        return self.plan(state) if len(self.states) == 1 else super().propose(state)

    def mixtures(self, state):
        return self.mixed(state) if self.mixed and not self.states else ()


def test_a_task_moves_a_slot_to_its_parent_and_preference(tmp_path):
    explorer = Planned(lambda s: [Task(np.array([0.9, 0.1]), "try", parent=s.alive()[0].id), None, None])
    watching = Watching({"measured"})
    fit(tmp_path / "run", explorer=explorer, weighting=watching)
    (task,) = events(tmp_path / "run", "task")
    assert task["policy"] == 0
    assert task["parent"] in explorer.states[0].archive.entries
    before, after = watching.seen[1], watching.seen[2]
    np.testing.assert_allclose(before.preferences[0], [0.5, 0.5])
    np.testing.assert_allclose(after.preferences[0], [0.9, 0.1])
    np.testing.assert_allclose(after.preferences[1], [0.5, 0.5])
    assert np.isnan(after.measured[0]).all(), "the old tenant's measurement is not the newcomer's"
    assert np.isfinite(after.measured[1]).all()


def test_floors_turn_the_weights_to_what_falls_short(tmp_path):
    only_first = np.array([1.0, 0.0])
    explorer = Planned(lambda s: [Task(only_first, "hold", floors=np.array([np.nan, 2.0])), None, None])
    fit(tmp_path / "run", explorer=explorer, weighting="fixed")
    weights = np.array([event["weights"] for event in events(tmp_path / "run", "step")])
    np.testing.assert_allclose(weights[1, 0], [0.5, 0.5])
    assert (weights[2:, 0, 1] > 0.5).all(), "a floor out of reach takes most of the weight"
    np.testing.assert_allclose(weights.sum(2), 1.0)
    np.testing.assert_allclose(weights[2:, 1], [[0.5, 0.5]] * 2)


def test_a_mixture_is_measured_and_offered(tmp_path):
    def mixed(state):
        parents = [e.id for e in state.archive.entries.values() if e.adapter is not None][:2]
        return [Mixture(parents, [1.0, 0.0], "the first alone"), Mixture(parents, [0.5, 0.5], "half and half")]

    explorer = Planned(lambda s: [None] * 3, mixed)
    fit(tmp_path / "run", explorer=explorer, resolution=0.0, remeasure_rounds=0)
    (event,) = events(tmp_path / "run", "mixtures")
    alone, half = event["rank_errors"]
    assert alone == 0.0
    assert 0.0 <= half < 1.0
    entry = explorer.states[0].archive.entries[event["names"][0]]
    parent = explorer.states[0].archive.entries[event["parents"][0][0]]
    # the same adapter on the same prompts with the same random numbers
    np.testing.assert_array_equal(entry.estimate.mean, parent.estimate.mean)
    assert event["statuses"][0] == "duplicate"


def test_a_budget_of_tokens_ends_the_run_with_a_measurement_and_a_report(tmp_path):
    front, _ = fit(tmp_path / "run", steps=50, eval_every=50, max_tokens=200)
    steps = events(tmp_path / "run", "step")
    assert 1 <= len(steps) < 50
    assert events(tmp_path / "run", "evaluation")[-1]["step"] == len(steps)
    assert events(tmp_path / "run", "end")[0]["cost"]["train_tokens"] >= 36
    assert front.record.split == "report"
    with pytest.raises(ConfigError, match="max_tokens"):
        fit(tmp_path / "other", max_tokens=10)


def test_a_budget_of_tokens_far_below_the_steps_still_takes_a_run_through_all_its_stages(tmp_path, monkeypatch):
    from pareto_align.learning import OnlineLearner

    rates = []
    step = OnlineLearner.step

    def noted(self, rollouts, weights, rate, **more):
        rates.append(rate)
        return step(self, rollouts, weights, rate, **more)

    monkeypatch.setattr(OnlineLearner, "step", noted)
    explorer, watching = Planned(lambda s: [None] * 3), Watching()
    fit(tmp_path / "run", explorer=explorer, weighting=watching, steps=1000, eval_every=2, max_tokens=2000)
    signals, made = [s.progress for s in watching.seen], len(watching.seen)
    assert 10 < made < 100
    assert [s.steps for s in watching.seen] == [1000] * made
    assert signals == sorted(signals)
    assert signals[0] < 0.1
    assert 0.9 < signals[-1] < 1
    explored = [s.progress for s in explorer.states]
    assert any(0.3 < share < 0.7 for share in explored)
    assert explored[-1] > 0.8
    assert [s.step for s in explorer.states] == list(range(2, made, 2))
    np.testing.assert_allclose(rates, [1e-2 * (1 - share) for share in signals])


def test_stages_follow_the_budget_that_ends_the_run_and_never_the_clock():
    def budget(**limits):
        return Budget(Settings(population=1, prompts_per_step=1, group_size=1, steps=10, **limits))

    assert budget().progress(4, tokens=10**9) == 0.4
    assert budget(max_tokens=100).progress(4, tokens=20) == 0.4
    assert budget(max_tokens=100).progress(4, tokens=70) == 0.7
    assert budget(max_tokens=100).progress(4, tokens=170) == 1.0
    assert budget(max_seconds=1.0).progress(4, tokens=0) == 0.4
    assert budget(max_seconds=1.0).used_up(4, tokens=0, seconds=1.5)
    assert not budget(max_seconds=1.0, max_tokens=100).used_up(9, tokens=99, seconds=0.5)
    assert budget(max_tokens=100).used_up(1, tokens=100, seconds=0.0)
    assert budget().used_up(10, tokens=0, seconds=0.0)


def test_a_policy_whose_numbers_went_wrong_goes_back_and_the_others_go_on(tmp_path, monkeypatch):
    from pareto_align.learning import OnlineLearner

    step = OnlineLearner.step
    taken = []

    def poisoned(self, rollouts, weights, rate, **more):
        report = step(self, rollouts, weights, rate, **more)
        taken.append(self.population.parameters.detach().clone())
        if len(taken) == 3:  # one step after the first measurement
            self.population.parameters[1] = torch.nan
            report.sound[1] = False
        return report

    monkeypatch.setattr(OnlineLearner, "step", poisoned)
    front, _ = fit(tmp_path / "run", steps=4)
    (event,) = events(tmp_path / "run", "rolled back")
    assert (event["policy"], event["step"]) == (1, 3)
    undisturbed, before = taken[3][0], taken[2][0]
    assert not torch.equal(undisturbed, before), "the others go on"
    # it went on from where it was when measured, at step 2, and not from where step 3 had brought it
    moved_from_good = (taken[3][1] - taken[1][1]).norm()
    assert 0 < moved_from_good < 1.0
    assert np.isfinite(front.values).all()


def test_three_steps_without_a_finite_gradient_roll_back_and_one_does_not(tmp_path, monkeypatch):
    from pareto_align.learning import OnlineLearner

    step = OnlineLearner.step
    count = [0]

    def blind(self, rollouts, weights, rate, **more):
        report = step(self, rollouts, weights, rate, **more)
        count[0] += 1
        if count[0] in (1, 3, 4, 5):
            report.grad_norm[2] = np.inf
        return report

    monkeypatch.setattr(OnlineLearner, "step", blind)
    fit(tmp_path / "run", steps=6)
    assert [(e["policy"], e["step"]) for e in events(tmp_path / "run", "rolled back")] == [(2, 5)]


def blind_in(steps, monkeypatch):
    """No policy has a finite gradient in these steps, counted from 1; the optimizer passes over such steps."""
    from pareto_align.policies.optimizer import PopulationAdamW

    step = PopulationAdamW.step
    count = [0]

    def blinded(self, grad, rate):
        count[0] += 1
        if count[0] in steps:
            grad = torch.full_like(grad, torch.nan)
        return step(self, grad, rate)

    monkeypatch.setattr(PopulationAdamW, "step", blinded)


def test_a_lone_policy_passes_over_a_step_without_a_finite_gradient(tmp_path, monkeypatch):
    blind_in({2}, monkeypatch)
    front, aligner = fit(tmp_path / "run", population=1, steps=4)
    assert [e["grad_norm"] == [None] for e in events(tmp_path / "run", "step")] == [False, True, False, False]
    assert events(tmp_path / "run", "rolled back") == []
    assert torch.isfinite(aligner.policies_).all()
    assert len(front) >= 1


@pytest.mark.parametrize("population", [1, 3])
def test_a_run_in_which_nobody_has_a_finite_gradient_any_more_rolls_back_and_then_stops(
    population, tmp_path, monkeypatch
):
    blind_in(range(3, 100), monkeypatch)
    with pytest.raises(TrainingError, match="No policy had a finite gradient in 6 steps in a row"):
        fit(tmp_path / "run", population=population, steps=50, eval_every=2)
    back = [(e["policy"], e["step"]) for e in events(tmp_path / "run", "rolled back")]
    assert back == [(slot, 5) for slot in range(population)]
    assert events(tmp_path / "run", "step")[-1]["step"] == 8
    assert len(ParetoFront.load(tmp_path / "run")) >= 1


def test_a_mixture_of_ranks_is_the_sum_of_updates(tiny_population):
    from pareto_align.policies.mixing import mix

    population = tiny_population
    rows = torch.randn(2, population.parameter_count, generator=torch.Generator().manual_seed(0))
    for block in population.blocks:
        a, b = block.split(rows)
        b[1, :, 1:] = 0  # the second has rank 1, the first rank r - 1: the sum fits
        b[0, :, -1] = 0
        a[1, 1:] = 0
    row, error = mix(population, rows, [0.3, -1.5])
    assert error < 1e-6
    for block in population.blocks:
        a, b = (part.double() for part in block.split(rows))
        mixed_a, mixed_b = (part.double() for part in block.split(row))
        torch.testing.assert_close(mixed_b @ mixed_a, 0.3 * b[0] @ a[0] - 1.5 * b[1] @ a[1], atol=1e-5, rtol=1e-4)


def test_the_stated_error_of_a_mixture_is_what_the_cut_lost(tiny_population):
    from pareto_align.policies.mixing import mix

    population = tiny_population
    rows = torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(1))
    row, error = mix(population, rows, [0.5, 0.2, 0.3])
    lost = whole = 0.0
    for block in population.blocks:
        a, b = (part.double() for part in block.split(rows))
        mixed_a, mixed_b = (part.double() for part in block.split(row))
        target = torch.einsum("n,nor,nri->oi", torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), b, a)
        lost += float((target - mixed_b @ mixed_a).square().sum())
        whole += float(target.square().sum())
    assert error > 0.1
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-5)


@pytest.fixture
def tiny_population():
    from aligner_runs import lora

    from pareto_align.policies import PolicyPopulation, load_base

    population = PolicyPopulation(load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer()), 2, lora=lora(r=3))
    yield population
    population.close()


def test_a_front_that_stands_still_ends_the_run_and_says_so(tmp_path):
    nothing_moves = {"learning_rate": 1e-12, "steps": 12, "eval_every": 1, "remeasure_rounds": 0}
    fit(tmp_path / "run", stop_patience=3, **nothing_moves)
    (settled,) = events(tmp_path / "run", "settled")
    measured = events(tmp_path / "run", "evaluation")
    assert settled["step"] == len(events(tmp_path / "run", "step")) == len(measured) == 4
    assert settled["interval"] == [measured[0]["hypervolume_low"], measured[0]["hypervolume_high"]]
    fit(tmp_path / "whole", **nothing_moves)
    assert len(events(tmp_path / "whole", "step")) == 12
