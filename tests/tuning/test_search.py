"""Both engines: what they propose lies in the space, depends on the trials alone, and gets better with them."""

from __future__ import annotations

import itertools
import math

import pytest

from pareto_align.errors import ConfigError
from pareto_align.runs.settings import Settings
from pareto_align.tuning import search as searching
from pareto_align.tuning.search import make_search, resolve_engine
from pareto_align.tuning.space import DEFAULT_SPACE, TUNABLE, Space
from pareto_align.tuning.trials import FAILED, FINISHED, Run, Trial

KINDS = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "kl_coef": {"low": 0, "high": 0.1},
    "updates_per_rollout": {"low": 1, "high": 4},
    "lr_schedule": {"choices": ["linear", "cosine", "constant"]},
    "top_k": {"choices": [None, 10]},
}


@pytest.fixture(params=["optuna", "sobol"])
def engine(request):
    return request.param


def trial(number, settings, *values, status=FINISHED):
    return Trial(number, settings, status, [Run(seed, value) for seed, value in enumerate(values)])


def searched(space, count, value=lambda settings: settings["kl_coef"], engine="optuna", seed=0):
    """So many trials one after the other, the first with the settings of a run that is to be tuned."""
    default = space.of(Settings(learning_rate=2e-4))  # a poor one, so that there is something to find
    search, trials = make_search(engine, space, seed), [trial(0, default, value(default))]
    while len(trials) < count:
        settings = search.propose(trials)
        trials.append(trial(len(trials), settings, value(settings)))
    return trials


def test_proposals_lie_in_the_space_and_are_no_two_alike(engine):
    space = Space.read(KINDS, Settings())
    trials = searched(space, 12, engine=engine)
    for found in trials[1:]:
        assert list(found.settings) == list(KINDS)
        assert space.holds(found.settings)
        Settings(**found.settings)  # of the right kinds, too
        assert type(found.settings["updates_per_rollout"]) is int
        assert type(found.settings["learning_rate"]) is float
    assert len({str(found.settings) for found in trials}) == 12
    assert {found.settings["lr_schedule"] for found in trials[1:]} == {"linear", "cosine", "constant"}


def test_a_proposal_depends_on_the_trials_and_the_seed_alone(engine):
    space = Space.read(DEFAULT_SPACE, Settings())
    trials = searched(space, 7, engine=engine)
    for number in range(1, 7):
        assert make_search(engine, space, 0).propose(trials[:number]) == trials[number].settings
    assert make_search(engine, space, 1).propose(trials[:1]) != trials[1].settings


def test_learning_rates_are_spread_over_their_logarithms():
    space = Space.read({"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}, Settings())
    rates = sorted(space.at([share])["learning_rate"] for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    found = [t.settings["learning_rate"] for t in searched(space, 17, lambda settings: 0.0, engine="sobol")[1:]]
    counts = [sum(1e-5 * 10**decade <= rate < 1e-4 * 10**decade for rate in found) for decade in range(4)]
    assert counts == [4, 4, 4, 4]  # sixteen Sobol points fill four equal parts evenly


def test_whole_numbers_and_choices_are_equally_likely():
    space = Space.read({name: KINDS[name] for name in ("updates_per_rollout", "lr_schedule")}, Settings())
    shares = [(i + 0.5) / 12 for i in range(12)]
    found = [space.at([share, share]) for share in shares]
    assert [s["updates_per_rollout"] for s in found] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert [s["lr_schedule"] for s in found] == ["linear"] * 4 + ["cosine"] * 4 + ["constant"] * 4


def test_optuna_learns_from_the_trials():
    space = Space.read(DEFAULT_SPACE, Settings())

    def value(settings):
        return -((math.log10(settings["learning_rate"]) + 3) ** 2) - (10 * settings["kl_coef"] - 0.5) ** 2

    learnt, blind = (searched(space, 12, value, engine=name) for name in ("optuna", "sobol"))
    assert max(value(t.settings) for t in learnt) > max(value(t.settings) for t in blind)
    late = [value(t.settings) for t in learnt[6:]]
    assert sum(late) / len(late) > sum(value(t.settings) for t in blind[6:]) / 6


def test_failed_trials_and_defaults_outside_the_space_do_no_harm(engine):
    space = Space.read({"learning_rate": {"low": 1e-3, "high": 1e-2}}, Settings())
    default = trial(0, {"learning_rate": 2e-4}, 0.5)
    failed = trial(1, {"learning_rate": 9e-3}, None, status=FAILED)
    trials = [default, failed, *(trial(n, {"learning_rate": 1e-3 * n}, 0.1 * n) for n in (2, 3, 4))]
    search = make_search(engine, space, 0)
    for count in range(1, 6):
        assert space.holds(search.propose(trials[:count]))
    all_failed = [trial(n, {"learning_rate": 2e-3 + n * 1e-3}, None, status=FAILED) for n in range(4)]
    assert space.holds(search.propose(all_failed))


def test_optuna_keeps_away_from_where_trials_failed():
    space = Space.read({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, Settings())
    trials = [
        trial(n, {"learning_rate": rate}, None if rate > 1e-3 else 0.5, status=FAILED if rate > 1e-3 else FINISHED)
        for n, rate in enumerate([1e-4, 2e-4, 5e-4, 8e-3, 5e-3, 3e-3])
    ]
    trials[2].runs[0] = Run(0, 0.7)
    assert make_search("optuna", space, 0).propose(trials)["learning_rate"] < 3e-3


def test_optuna_tries_nothing_twice_where_the_best_is_a_corner():
    """The same settings on the same seeds are the same fits."""
    space = Space.read({"kl_coef": {"low": 0.0, "high": 0.1}}, Settings())
    trials = searched(space, 9, lambda settings: 1 - settings["kl_coef"], seed=3)
    prices = sorted(found.settings["kl_coef"] for found in trials)
    assert min(b - a for a, b in itertools.pairwise(prices)) > 1e-4  # rounding makes no other settings


def test_settings_are_alike_where_no_dimension_tells_them_apart():
    space = Space.read(KINDS, Settings())
    one = {"learning_rate": 1e-3, "kl_coef": 0.0, "updates_per_rollout": 2, "lr_schedule": "linear", "top_k": None}
    assert space.alike(one, {**one, "learning_rate": 1e-3 * (1 + 1e-12)})
    for other in ({"learning_rate": 1.1e-3}, {"kl_coef": 0.01}, {"updates_per_rollout": 3}, {"top_k": 10}):
        assert not space.alike(one, {**one, **other})
    assert not space.alike({**one, "learning_rate": 1e-9}, one)  # the default may lie outside


def test_an_end_of_a_range_counts_where_there_is_more_beyond():
    space = Space.read({**KINDS, "temperature": {"low": 0.6, "high": 1.2}}, Settings())
    inside = {"learning_rate": 1e-3, "kl_coef": 0.0, "updates_per_rollout": 2, "lr_schedule": "linear", "top_k": 10}
    assert space.at_end({**inside, "temperature": 0.9}) == []
    assert space.at_end({**inside, "temperature": 0.6, "learning_rate": 9.5e-3}) == ["learning_rate", "temperature"]
    assert space.at_end({**inside, "temperature": 0.9, "updates_per_rollout": 1}) == ["updates_per_rollout"]


def test_only_optuna_gives_up_and_only_on_what_is_below_the_median(engine):
    space = Space.read(DEFAULT_SPACE, Settings())
    trials = searched(space, 6, lambda settings: 0.5, engine="sobol")
    trials = [trial(t.number, t.settings, 0.3 + 0.1 * n, 0.5) for n, t in enumerate(trials)]  # 0.3 to 0.8 at first
    search = make_search(engine, space, 0)
    assert search.hopeless(trials, [0.4]) is (engine == "optuna")
    assert search.hopeless(trials, [0.7]) is False
    assert search.hopeless(trials[:2], [0.0]) is False  # too few to know a median


def test_auto_takes_optuna_where_it_is_installed(monkeypatch):
    assert resolve_engine("auto") == "optuna"
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    assert resolve_engine("auto") == "sobol"
    with pytest.raises(ConfigError, match=r"pareto-align\[hpo\]"):
        resolve_engine("optuna")
    with pytest.raises(ConfigError, match="'tpe'"):
        resolve_engine("tpe")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "at least one setting"),
        ([], "at least one setting"),
        ({"lerning_rate": {"low": 1, "high": 2}}, "Did you mean 'learning_rate'"),
        ({"population": {"low": 1, "high": 2}}, "'population' cannot be tuned"),
        ({"seed": {"low": 1, "high": 2}}, "'seed' cannot be tuned"),
        ({"learning_rate": [1e-4, 1e-3]}, "is written"),
        ({"learning_rate": {"low": 1e-4}}, "is written"),
        ({"learning_rate": {"low": 1e-4, "high": 1e-3, "step": 1}}, "is written"),
        ({"learning_rate": {"low": 1e-3, "high": 1e-3}}, "low must be below high"),
        ({"learning_rate": {"low": "1", "high": 2}}, "must be numbers"),
        ({"learning_rate": {"low": float("nan"), "high": 2}}, "must be numbers"),
        ({"kl_coef": {"low": 0, "high": 0.1, "log": True}}, "low above 0"),
        ({"learning_rate": {"low": 0.0, "high": 0.1}}, "`learning_rate` must be positive"),
        ({"temperature": {"low": -1, "high": 1}}, "`temperature` must be positive"),
        ({"updates_per_rollout": {"low": 1.5, "high": 3}}, "whole numbers"),
        ({"updates_per_rollout": {"low": 0, "high": 3}}, "`updates_per_rollout` must be"),
        ({"lr_schedule": {"low": 0, "high": 3}}, "is no number"),
        ({"lr_schedule": {"choices": ["linear", "square"]}}, "`lr_schedule` must be one of"),
        ({"lr_schedule": {"choices": ["linear"]}}, "two or more"),
        ({"lr_schedule": {"choices": ["linear", "linear"]}}, "two or more"),
        ({"lr_schedule": {"choices": "linear"}}, "must be a list"),
        ({"kl_coef": {"choices": [[0.1], [0.2]]}}, "numbers or words"),
    ],
)
def test_a_wrong_space_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        Space.read(space, Settings())


def test_every_tunable_setting_is_one():
    assert set(TUNABLE) <= set(vars(Settings()))
    assert set(DEFAULT_SPACE) <= set(TUNABLE)
    assert Space.read(DEFAULT_SPACE, Settings()).holds({"learning_rate": 1e-3, "kl_coef": 0.0, "temperature": 1.0})
