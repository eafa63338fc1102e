"""Shards in one process: whoever they stand beside, and however many there are."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from sharded_runs import FAMILY, SMALL, TEXTS, bytes_of, fit, make, second
from tiny_models import lora

from pareto_align import ConfigError, Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.backends import Local, available_backends, make_backend
from pareto_align.data.prompts import encode_rows
from pareto_align.data.rows import read_rows
from pareto_align.discovery.hosting import Host, Work
from pareto_align.learning import Context, Modpo, PolicyLoss, make_learner
from pareto_align.learning.rollouts import batch_of, roll_out
from pareto_align.objectives import RewardScale
from pareto_align.policies import PolicyPopulation, SamplingParams, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.runs.folder import read_run_record, read_splits
from pareto_align.runs.journal import read_journal
from pareto_align.runs.settings import Settings
from pareto_align.seeds import seed_for


def test_by_default_a_run_is_the_engine_the_learner_and_the_optimizer_on_all_policies(model, tmp_path):
    """Its steps made anew with nothing between: from the weights in its journal to the last bit of its policies."""
    settings = {"shard_size": None, "explorer": "grid", "weighting": "chebyshev", "lr_schedule": "constant"}
    aligner = fit(model, tmp_path / "run", **settings)
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    (start,) = [event for event in events if event["event"] == "start"]
    base = load_base(model, device="cpu", dtype="float32", use_chat_template=False)
    population = PolicyPopulation(base, 4, lora=lora(2), seed=seed_for(0, "adapters"))
    engine = Engine(population)
    learner = make_learner("centred", PolicyLoss())
    scale, params = RewardScale.from_dict(start["scale"]), SamplingParams(4)
    learner.setup(Context(engine, scale, [0, 1], PopulationAdamW(population.parameters)))
    rows = trained_on(tmp_path / "run", base)
    for event in events:
        if event["event"] == "step":
            step = event["step"] - 1
            seeds = [seed_for(0, "rollout", step, k) for k in range(4)]
            seen = roll_out(engine, aligner.objectives, batch_of(rows, 2, step, 0), 4, params, seeds)
            np.testing.assert_array_equal(seen.values(), event["values"])
            learner.step(seen, np.array(event["weights"]), SMALL["learning_rate"])
    assert torch.equal(population.parameters, aligner.policies_)
    population.close()


def trained_on(run, base):
    return read_splits(run, base, read_run_record(run).get("prompts")).train


def test_one_shard_of_all_policies_is_the_default(model, tmp_path):
    fit(model, tmp_path / "default", shard_size=None)
    fit(model, tmp_path / "whole", shard_size=4)
    default, whole = (bytes_of(tmp_path / name) for name in ("default", "whole"))
    different = {name for name in default if default[name] != whole[name]}
    assert different <= {"front.json"}, "which says that the size was given"


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_size": 1},
        {"shard_size": 3},
        {"weighting": "mgda", "kl_coef": 0.05},
        {"weighting": "pareto-da"},
        {"learner": {"name": "online-dpo", "reference": "previous"}},
        {"updates_per_rollout": 2},
        FAMILY,
        {**FAMILY, "shard_size": 3, "weighting": "mgda"},
    ],
    ids=["one", "uneven", "gradients", "halves", "previous", "updates", "family", "family-gradients"],
)
def test_a_run_in_shards_repeats_itself_and_goes_on_where_it_was_stopped(settings, model, tmp_path):
    aligner = fit(model, tmp_path / "whole", **settings)
    assert torch.isfinite(aligner.policies_).all()

    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(RuntimeError, match="enough"):
            make(model, output_dir=tmp_path / "run", callbacks=[stop], **settings).fit(TEXTS)
        again = make(model, **settings)
        again.resume(tmp_path / "run")
    whole, resumed = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "run")
    assert {k: v for k, v in whole.items() if k != "journal"} == {k: v for k, v in resumed.items() if k != "journal"}
    assert torch.equal(again.policies_, aligner.policies_)


def test_a_shard_comes_to_the_same_alone(model):
    """Beside another shard on the same model, which works in turn with it, not a bit of it changes."""
    settings = Settings(**{name: value for name, value in SMALL.items() if name in Settings.__dataclass_fields__})
    objectives = make(model).objectives
    weights, found = np.array([[0.7, 0.3], [0.2, 0.8]]), []
    for together in ([1], [0, 1]):
        host = hosted(model, settings)
        for shard in together:
            host.open(shard)
        for step in range(2):
            for shard in together:
                answers = host.call(shard, "collect", (step,))
                answers.judge(objectives)
                host.call(shard, "step", (answers.rewards, weights, 1e-2, "advantage"))
        found.append(host.call(1, "state", ()))
        host.population.close()
    alone, beside = found
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def hosted(model, settings):
    """A host as a worker has it, ready to open shards."""
    base = load_base(model, device="cpu", dtype="float32", use_chat_template=False)
    host = Host(base)
    host.move_in(lora(2), settings)
    host.read_with(settings, 1.0, 4096)
    zero, one = np.zeros(2), np.ones(2)
    scale = RewardScale(location=zero, scale=one, lower=zero, upper=one)
    rows = encode_rows(read_rows(TEXTS), base, 4)
    learner = make_learner("centred", PolicyLoss())
    host.begin(Work(settings, learner, None, 2, np.full((4, 2), 0.5), scale, [0, 1], rows, None))
    return host


def test_a_shard_that_goes_through_its_calls_again_comes_to_the_same(model):
    """What a backend does for a shard that was lost: no reward is asked for again, and no other shard."""
    settings = Settings(**{name: value for name, value in SMALL.items() if name in Settings.__dataclass_fields__})
    objectives = make(model).objectives
    host, calls = hosted(model, settings), []
    host.open(0)

    def call(method, *arguments):
        calls.append((method, copy.deepcopy(arguments)))
        return host.call(0, method, arguments)

    row = host.population.fresh(77)
    for step in range(3):
        answers = call("collect", step)
        answers.judge(objectives)
        call("gradients", answers.rewards, False)
        call("step", None, np.array([[0.7, 0.3], [0.2, 0.8]]), 1e-2, "advantage")
        if step == 1:
            call("adopt", 1, row)
    expected = host.call(0, "state", ())
    host.population.close()
    other = hosted(model, settings)
    other.open(0)
    for method, arguments in calls:
        other.call(0, method, arguments)
    found = other.call(0, "state", ())
    other.population.close()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_rewards_are_asked_once_an_objective_for_all_policies(model, tmp_path):
    asked = []

    def counted(completions, **_):
        asked.append(len(completions))
        return [float(len(text)) for text in completions]

    objectives = [Objective("counted", counted), Objective("second", second, bounds=(0, 1))]
    settings = {**SMALL, "steps": 2, "remeasure_rounds": 0, "output_dir": tmp_path / "run"}
    ParetoAligner(model, objectives, lora=lora(2), **settings).fit(TEXTS)
    assert asked.count(4 * 2 * 4) == 2, "two steps of four policies, two prompts, four answers"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_size": 5}, "at most the population, 4"),
        ({"shard_size": 0}, "at least 1"),
        ({**FAMILY, "updates_per_rollout": 2}, "updates_per_rollout=1"),
        ({"backend": "cloud"}, "Unknown backend 'cloud'"),
        ({"backend": {"name": "local", "workers": 2}}, "has no setting 'workers'"),
        ({"backend": {"name": "ray", "workers": 0}}, "`workers` must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(settings, message):
    with pytest.raises(ConfigError, match=message):
        make("nowhere", **settings)._plan()


def test_modpo_has_all_policies_in_one_shard():
    assert Modpo.couples_policies


def test_backends_have_names():
    assert available_backends() == ["local", "ray"]
    assert isinstance(make_backend("local"), Local)
