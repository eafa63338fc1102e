"""Measuring a population's speed: what is counted, what is recommended, what is left behind, and what is recorded."""

from __future__ import annotations

import json
import logging
import mmap
import sys
from dataclasses import replace

import pytest
import torch
from aligner_runs import PROBLEM
from aligner_runs import fit as fit_problem
from tiny_models import EOS, PAD, tiny_base

from pareto_align.bench import throughput
from pareto_align.bench.memory import PeakMemory
from pareto_align.bench.speeds import BudgetSpeed, PopulationSpeed, Throughput, Workload
from pareto_align.bench.throughput import measure_throughput
from pareto_align.errors import ConfigError, ModelError
from pareto_align.learning import OnlineLearner
from pareto_align.policies import load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.micro_batch import DEFAULT_MICRO_BATCH_TOKENS, record_micro_batch, recorded_micro_batch
from pareto_align.policies.records import cache_folder

N, G, P, T = 3, 2, 8, 6
SMALL = {
    "populations": (3, 1),
    "prompts": N,
    "group_size": G,
    "prompt_tokens": P,
    "max_new_tokens": T,
    "r": 2,
    "budgets": (600, 1),
    "repeats": 2,
}


@pytest.fixture(scope="module")
def base():
    return tiny_base("llama")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def speeds(*seconds, populations=(1, 2, 4, 8), rates=((1024, 1.0),)):
    """Results by hand: seconds of a whole step for each K, half of them sampling; seconds of training a budget."""
    rows = tuple(
        PopulationSpeed(k, 100 * k, (s / 2,), (s / 2,), None) for k, s in zip(populations, seconds, strict=False)
    )
    budgets = tuple(BudgetSpeed(budget, 2, 900, 100, (second,)) for budget, second in rates)
    return Throughput("m", "cpu", "cpu", "float32", 1, 5, "packed", Workload(), rows, budgets, "none")


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_every_completion_counts_in_full_though_the_model_likes_to_end(base):
    found = measure_throughput(base, Workload(**SMALL))
    assert [speed.population for speed in found.populations] == [1, 3]
    assert [speed.tokens for speed in found.populations] == [N * G * T, 3 * N * G * T]
    for speed in found.populations:
        assert len(speed.sampling_seconds) == len(speed.training_seconds) == 2
        assert min(*speed.sampling_seconds, *speed.training_seconds) > 0
        assert speed.memory is None or speed.memory >= 0
    assert (found.layout, found.device, found.dtype) == ("packed", "cpu", "float32")
    assert found.threads == torch.get_num_threads()
    # A [r, in] and B [out, r] of q, k, v, o in two layers of width 32, k and v of 16
    assert found.parameters == 2 * 2 * ((32 + 32) * 2 + (32 + 16) * 2)
    assert found.did_not_fit == ()


def test_budgets_are_what_the_learner_makes_of_them(base):
    found = measure_throughput(base, Workload(**SMALL))
    small, large = found.budgets
    assert (small.micro_batch_tokens, large.micro_batch_tokens) == (1, 600)
    # three policies' packed rows of one prompt are 3 (8 + 2 6) = 60 tokens: ten prompts fill the larger budget
    assert (large.passes, large.pass_tokens) == (1, 600)
    assert small.passes > 1
    assert small.passes * small.pass_tokens >= 600
    assert small.tokens == large.tokens == 3 * 10 * G * T
    assert len(small.seconds) == len(large.seconds) == 2


def test_budgets_that_cut_alike_share_a_measurement(base, monkeypatch):
    steps = []
    step = OnlineLearner.step
    monkeypatch.setattr(
        OnlineLearner,
        "step",
        lambda self, *a, **k: steps.append(self.engine.rows.micro_batch_tokens) or step(self, *a, **k),
    )
    found = measure_throughput(base, Workload(**SMALL | {"populations": (2,), "budgets": (1, 5, 39)}))
    assert steps[:3] == [DEFAULT_MICRO_BATCH_TOKENS] * 3, "one warm-up and two rounds of the only population"
    assert steps[3:] == [1, 5, 39, 1, 1], "each budget once, then the smallest alone"
    assert {budget.seconds for budget in found.budgets} == {found.budgets[0].seconds}


def test_variants_alternate_after_a_warm_up(base):
    lines = []
    measure_throughput(base, Workload(**SMALL), progress=lines.append)
    sizes = [line for line in lines if line.startswith("K = ")]
    assert sizes == [
        "K = 1: warming up", "K = 3: warming up",
        "K = 1: round 1 of 2", "K = 3: round 1 of 2",
        "K = 1: round 2 of 2", "K = 3: round 2 of 2",
    ]  # fmt: skip
    assert [line.split()[2] for line in lines[6:]] == ["1", "600"] * 3


def test_only_the_sampling_and_training_of_a_step_are_timed(base, monkeypatch):
    """A clock that only the two move: sampling T tokens takes T seconds, a training step 100."""
    clock = [0.0]
    sample, step = throughput.sample, OnlineLearner.step

    def slow_sample(population, prompts, group, params, seeds, **options):
        clock[0] += params.max_new_tokens
        return sample(population, prompts, group, params, seeds, **options)

    def slow_step(self, *arguments, **options):
        clock[0] += 100
        return step(self, *arguments, **options)

    monkeypatch.setattr(throughput, "sample", slow_sample)
    monkeypatch.setattr(OnlineLearner, "step", slow_step)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    found = measure_throughput(base, Workload(**SMALL))
    for speed in found.populations:
        assert speed.sampling_seconds == (T, T)
        assert speed.training_seconds == (100, 100)
        assert speed.sampling_rate == pytest.approx(speed.population * N * G)
        assert speed.price == pytest.approx((T + 100) / speed.population)
    assert all(budget.seconds == (100, 100) for budget in found.budgets)


def test_the_model_is_as_it_was_before(base):
    modules = [type(module) for module in base.model.modules()]
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in base.model.parameters()]
    measure_throughput(base, Workload(**SMALL))
    assert [type(module) for module in base.model.modules()] == modules
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())
    assert [parameter.requires_grad for parameter in base.model.parameters()] == flags
    assert base.stop_ids == (EOS,)
    assert base.model.generation_config.eos_token_id == EOS
    assert not base.model.get_decoder()._forward_pre_hooks


def test_prompts_are_plain_tokens(base):
    rows = throughput._random_prompts(base, 5, 200)
    assert [len(row.ids) for row in rows] == [200] * 5
    assert len({row.ids for row in rows}) == 5, "prompts that agreed could share work that real ones do not"
    seen = {token for row in rows for token in row.ids}
    assert seen.isdisjoint({PAD, EOS})
    assert len(seen) > 10


def test_targets_and_rank_arrive(base):
    found = measure_throughput(base, Workload(**SMALL | {"targets": ("q_proj",), "r": 3}))
    assert found.parameters == 2 * 3 * (32 + 32)
    found = measure_throughput(base, Workload(**SMALL | {"targets": ("all-linear",)}))
    attention, mlp = 2 * 2 * ((32 + 32) * 2 + (32 + 16) * 2), 2 * 2 * 3 * (32 + 48)
    assert found.parameters == attention + mlp
    with pytest.raises(ModelError, match="no_such"):
        measure_throughput(base, Workload(**SMALL | {"targets": ("no_such",)}))


def test_a_group_of_one_can_be_measured(base):
    found = measure_throughput(base, Workload(**SMALL | {"group_size": 1}))
    assert found.populations[0].tokens == N * T


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_memory_is_the_growth_since_the_model_was_there():
    memory = PeakMemory(torch.device("cpu"))
    memory.reset()
    block = mmap.mmap(-1, 64 * 2**20)  # not from the heap, which may hold freed pages of earlier tests
    for page in range(0, len(block), 4096):
        block[page] = 1
    held = memory.read()
    assert 60 * 2**20 < held < 100 * 2**20
    block.close()
    memory.reset()
    assert memory.read() < 30 * 2**20, "an earlier peak is forgotten"


def test_what_does_not_fit_is_named_and_left_out(base, monkeypatch):
    step = OnlineLearner.step

    def small_device(self, *arguments, **options):
        if self.population.size > 2 or self.engine.rows.micro_batch_tokens in (600, 900):
            raise torch.OutOfMemoryError("out of memory")
        return step(self, *arguments, **options)

    monkeypatch.setattr(OnlineLearner, "step", small_device)
    found = measure_throughput(base, Workload(**SMALL | {"populations": (1, 2, 3, 4)}))
    assert [speed.population for speed in found.populations] == [1, 2]
    assert [budget.micro_batch_tokens for budget in found.budgets] == [1]
    assert found.did_not_fit == ("K = 3", "micro-batches of 600 tokens")
    with pytest.raises(ModelError, match="K = 3 does not fit on cpu"):
        measure_throughput(base, Workload(**SMALL | {"populations": (3,)}))
    with pytest.raises(ModelError, match="Micro-batches of 900 tokens do not fit"):
        measure_throughput(base, Workload(**SMALL | {"populations": (2,), "budgets": (900,)}))
    assert not any("Population" in type(module).__name__ for module in base.model.modules()), "put back all the same"


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"populations": (2, 0)}, "`populations` must be whole and at least 1. Found 0"),
        ({"populations": ()}, "`populations` is empty"),
        ({"budgets": (-5,)}, "`budgets` .* Found -5"),
        ({"budgets": (1.5,)}, "`budgets` .* Found 1.5"),
        ({"repeats": 0}, "`repeats`"),
        ({"prompts": True}, "`prompts`"),
        ({"targets": ()}, "`targets` is empty"),
    ],
)
def test_numbers_out_of_range(settings, said):
    with pytest.raises(ConfigError, match=said):
        Workload(**settings)


def test_what_exceeds_the_context_is_refused_before_anything_runs(base):
    lines = []
    with pytest.raises(ConfigError, match="60 prompt tokens and 6 new ones exceed the model's context of 64"):
        measure_throughput(base, Workload(**SMALL | {"prompt_tokens": 60}), progress=lines.append)
    assert lines == []


# ---- what is recommended ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "population", "another"),
    [
        # a step of 9 + K seconds: a policy costs 10, 5.5, 3.25, 2.125: the largest K, and beyond it nothing is known
        ((10, 11, 13, 17), 8, None),
        # a step of K seconds: batching gains nothing, another policy costs all that one costs
        ((1, 2, 4, 8), 1, 1.0),
        # 2 + K: prices 3, 2, 1.5, 1.25; 1.5 is above 1.375, so 8; with 1 + K: 2, 1.5, 1.25, 1.125: 1.25 > 1.2375
        ((3, 4, 6, 10), 8, None),
        # 0.8 + K: 1.8, 1.4, 1.2, 1.1: 1.2 is below 1.21; each of the four more costs 1 of 1.2
        ((1.8, 2.8, 4.8, 8.8), 4, 1 / 1.2),
        # beyond K = 2 it gets dearer: 4, 2, 2.5, 3; two more cost 6 seconds, 3 each, 1.5 of what one costs
        ((4, 4, 10, 24), 2, 1.5),
    ],
)
def test_the_population_from_which_another_policy_costs_its_full_price(seconds, population, another):
    found = speeds(*seconds)
    assert found.recommended.population == population
    assert found.another_costs == (None if another is None else pytest.approx(another))


@pytest.mark.parametrize(
    ("rates", "budget", "tokens"),
    [
        (((1024, 1.06), (2048, 1.05), (4096, 1.0)), 2048, 2048),  # 1/1.05 is within 5 % of 1, 1/1.06 is not
        (((1024, 1.0), (2048, 1.3)), 1024, 1024),
        (((512, 1.0), (1024, 1.0)), 512, 900),  # a pass took 900 tokens: that is what was measured
    ],
)
def test_the_smallest_budget_within_five_percent_of_the_best(rates, budget, tokens):
    found = speeds(1, populations=(1,), rates=rates)
    assert found.recommended_budget.micro_batch_tokens == budget
    assert found.recommended_micro_batch == tokens


def test_rates_are_of_the_median_round():
    speed = PopulationSpeed(4, 120, (1.0, 9.0, 2.0), (30.0, 3.0, 4.0), None)
    assert (speed.sampling_rate, speed.training_rate, speed.price) == (60, 30, 1.5)
    assert BudgetSpeed(1024, 1, 900, 120, (5.0, 1.0, 3.0)).rate == 40


def test_everything_goes_to_json():
    found = json.loads(json.dumps(speeds(1.8, 2.8, 4.8, 8.8).to_dict()))
    assert found["recommended"] == {
        "population": 4,
        "another_costs": pytest.approx(1 / 1.2),
        "micro_batch_tokens": 1024,
    }
    assert found["populations"][1]["sampling_rate"] == pytest.approx(200 / 1.4)
    assert found["populations"][1]["sampling_seconds"] == [1.4]
    assert found["budgets"][0]["rate"] == 100
    assert found["workload"]["prompt_tokens"] == 128


# ---- what is recorded ------------------------------------------------------------------------------------------------


def renamed(base, name, **overrides):
    return replace(base, name=name, **overrides)


def test_a_record_is_for_one_model_type_device_and_number_of_threads(base, cache, monkeypatch):
    here = renamed(base, "acme/model")
    assert recorded_micro_batch(here) is None
    file = record_micro_batch(here, 2048)
    assert file == cache_folder() / "micro_batch.json"
    assert file.parent == cache
    assert recorded_micro_batch(here) == 2048
    record_micro_batch(renamed(base, "acme/other"), 512)
    record_micro_batch(here, 8192)
    assert recorded_micro_batch(here) == 8192
    assert recorded_micro_batch(renamed(base, "acme/other")) == 512
    assert recorded_micro_batch(renamed(base, "acme/third")) is None
    assert recorded_micro_batch(renamed(base, "acme/model", dtype=torch.bfloat16)) is None
    assert recorded_micro_batch(renamed(base, "acme/model", device=torch.device("mps"))) is None
    assert recorded_micro_batch(renamed(base, "acme/model", gguf_file="q8.gguf")) is None
    assert [path.name for path in cache.iterdir()] == ["micro_batch.json"], "no partial file stays"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert recorded_micro_batch(here) is None


def test_a_folder_is_the_same_model_from_wherever_it_is_named(base, cache, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    record_micro_batch(renamed(base, "./model"), 256)
    assert recorded_micro_batch(renamed(base, str(tmp_path / "model"))) == 256


def test_a_model_without_a_name_leaves_no_record(base, cache):
    assert base.name is None
    assert record_micro_batch(base, 256) is None
    assert recorded_micro_batch(base) is None
    assert not cache.exists()


@pytest.mark.parametrize("text", ["{torn", "[]", "KEY: 0", "KEY: true", 'KEY: "many"', "KEY: 2.5"])
def test_a_spoilt_record_is_no_record(base, cache, text):
    here = renamed(base, "acme/model")
    record_micro_batch(here, 256)
    file = cache / "micro_batch.json"
    [key] = json.loads(file.read_text())
    file.write_text("{" + text.replace("KEY", json.dumps(key)) + "}" if "KEY" in text else text)
    assert recorded_micro_batch(here) is None
    assert record_micro_batch(here, 512) == file
    assert recorded_micro_batch(here) == 512


def test_a_cache_that_cannot_be_written_is_no_error(base, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path / "file"))
    assert record_micro_batch(renamed(base, "acme/model"), 256) is None


# ---- what a fit makes of it ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """The settings with which a fit makes its engine."""
    found = []
    make = Engine.__init__

    def note(self, *arguments, **settings):
        found.append(settings)
        make(self, *arguments, **settings)

    monkeypatch.setattr(Engine, "__init__", note)
    return found


@pytest.fixture
def named_model():
    """The problem's model, as if it came from a hub: it has a name."""
    model = PROBLEM.model()
    model.config._name_or_path = "acme/tiny"
    return model


def config_of(folder):
    return json.loads((folder / "run.json").read_text())["config"]


def test_a_fit_without_a_record_takes_the_default(cache, tmp_path, asked, named_model):
    fit_problem(tmp_path / "run", model=named_model, steps=1)
    assert asked[0]["micro_batch_tokens"] == DEFAULT_MICRO_BATCH_TOKENS == 4096
    assert (asked[0]["layout"], asked[0]["gradient_checkpointing"]) == ("auto", False)
    assert config_of(tmp_path / "run")["micro_batch_tokens"] == 4096


def test_a_fit_takes_the_record_and_says_so(cache, tmp_path, asked, named_model, caplog):
    record_micro_batch(load_base(named_model, tokenizer=PROBLEM.tokenizer(), device="cpu"), 1234)
    with caplog.at_level(logging.INFO, logger="pareto_align"):
        fit_problem(tmp_path / "run", model=named_model, steps=1)
    assert asked[0]["micro_batch_tokens"] == 1234
    assert config_of(tmp_path / "run")["micro_batch_tokens"] == 1234, "the run says what it did"
    assert [record.message for record in caplog.records if record.name.startswith("pareto_align.discovery")] == [
        "micro_batch_tokens=1234, as `pareto-align bench` recorded for this model and machine."
    ]


def test_a_setting_overrules_the_record(cache, tmp_path, asked, named_model, caplog):
    record_micro_batch(load_base(named_model, tokenizer=PROBLEM.tokenizer(), device="cpu"), 1234)
    with caplog.at_level(logging.INFO, logger="pareto_align"):
        own = {"micro_batch_tokens": 99, "layout": "dense", "gradient_checkpointing": True}
        fit_problem(tmp_path / "run", model=named_model, steps=1, **own)
    assert own.items() <= asked[0].items()
    assert own.items() <= config_of(tmp_path / "run").items()
    assert not [record for record in caplog.records if record.name.startswith("pareto_align.discovery")]


def test_the_layouts_of_the_settings_are_the_engines(base):
    from pareto_align.policies import PolicyPopulation
    from pareto_align.runs.settings import LAYOUTS, Settings

    population = PolicyPopulation(base, 1)
    try:
        for layout in LAYOUTS:
            Engine(population, layout=Settings(layout=layout).layout)
    finally:
        population.close()
    with pytest.raises(ConfigError, match=r"`layout` must be one of auto, packed, dense. Found 'loose'"):
        Settings(layout="loose")
    with pytest.raises(ConfigError, match=r"`gradient_checkpointing` must be True or False. Found 1"):
        Settings(gradient_checkpointing=1)
