"""Drawing by vLLM, pretended: what it is asked, what is read of its answers, and what it is not believed."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from pretended_vllm import FAULTS, LoRARequest, Machine
from tiny_models import PROMPTS, RAGGED, SYMBOLS, lora, random_population, tiny_model

from pareto_align.errors import ConfigError, ModelError, ParetoAlignWarning, TrainingError
from pareto_align.policies import SamplingParams, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.samplers import InProcess, Vllm, make_engine
from pareto_align.policies.samplers.vllm import RANKS, legal_rank
from pareto_align.testing.tiny import symbol_tokenizer

T, SIZE, GROUP = 6, 3, 4
PARAMS = SamplingParams(T, temperature=0.8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    symbol_tokenizer(SYMBOLS, PROMPTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def machine(monkeypatch):
    return Machine().install(monkeypatch)


@pytest.fixture
def population(model):
    base = load_base(model, device="cpu", dtype="float32", use_chat_template=False)
    population = random_population(base, SIZE, config=lora(2, use_rslora=True))
    yield population
    if population.outside is not None:
        population.outside.close()
    population.close()


def opened(population, **settings):
    """An engine that draws by vLLM."""
    population.outside = Vllm(**settings).open(population, SIZE, 9 + T)
    return Engine(population, temperature=PARAMS.temperature)


def drawn(engine, seeds=range(SIZE), group=GROUP):
    ids = [engine.population.base.encode(prompt) for prompt in RAGGED]
    return engine.sample(ids, group, PARAMS, list(seeds))


def gap(engine, done):
    """Largest difference to the trainer's log-probabilities."""
    trained = engine.logprobs(engine.prepare(done.prompt_ids, done))
    return float((trained - done.logprobs).abs().max())


def test_completions_are_the_policies_own_with_their_probabilities(machine, population):
    engine = opened(population)
    done = drawn(engine)
    assert done.tokens.shape == (SIZE, len(RAGGED), GROUP, T)
    assert gap(engine, done) < 1e-4
    stops = torch.isin(done.tokens, torch.tensor(done.stop_ids)) & done.mask
    assert stops.any(), "some end by themselves"
    assert not done.mask.all()
    assert (done.logprobs[~done.mask] == 0).all()
    assert (done.tokens[~done.mask] == population.base.tokenizer.pad_token_id).all()
    ended = stops.any(-1)
    assert torch.equal(done.lengths[~ended], torch.full_like(done.lengths[~ended], T))


def test_they_are_drawn_as_often_as_they_are_likely(machine, population):
    """First tokens of many completions against the probabilities that the population's own sampler has."""
    engine = opened(population)
    ids = [population.base.encode(RAGGED[0])]
    done = engine.sample(ids, 1500, SamplingParams(1, temperature=0.8), [0, 1, 2])
    own = InProcess(population)
    own.push(population.parameters, 1)
    other = own.draw(ids, 1500, SamplingParams(1, temperature=0.8), [0, 1, 2])
    for k in range(SIZE):
        counts = [torch.bincount(x.tokens[k].flatten(), minlength=SYMBOLS + 3 + PROMPTS) / 1500 for x in (done, other)]
        assert float((counts[0] - counts[1]).abs().sum()) / 2 < 0.08, "total variation"


def test_no_two_completions_have_the_same_random_numbers(machine, population):
    """A request's completions are seeded one after another, so seeds of requests must not lie side by side."""
    population.parameters[:] = population.parameters[0].clone()
    engine = opened(population)
    done = engine.sample([population.base.encode("<0>")] * 4, 8, PARAMS, [0, 1, 2])
    said = {tuple(row) for row in done.tokens.flatten(0, 2).tolist()}
    assert len(said) > 0.8 * SIZE * 4 * 8, "one prompt, one policy, and nearly all of it different"
    again = drawn(engine, seeds=[0, 1, 2])
    assert torch.equal(again.tokens, drawn(engine, seeds=[0, 1, 2]).tokens)
    assert not torch.equal(again.tokens, drawn(engine, seeds=[3, 4, 5]).tokens)


def test_prompts_of_their_own_go_to_their_policies(machine, population):
    engine = opened(population)
    asked = [population.base.encode(f"<{k}>{'abc'[:n]}") for k in range(SIZE) for n in range(2)]
    done = engine.sample(asked, 2, PARAMS, [0, 1, 2], own=True)
    assert done.tokens.shape == (SIZE, 2, 2, T)
    assert done.prompt_ids == asked
    assert gap(engine, done) < 1e-4


def test_every_push_has_new_names_and_numbers_and_is_what_is_drawn_from(machine, population):
    engine = opened(population, sleep=False)
    for step in range(4):
        population.parameters += 0.1 * torch.randn(
            population.parameters.shape, generator=torch.Generator().manual_seed(step)
        )
        assert gap(engine, drawn(engine)) < 1e-4
    (llm,) = machine.engines
    assert len({request.lora_int_id for request in llm.loaded}) == 4 * SIZE
    assert len({request.lora_name for request in llm.loaded}) == 4 * SIZE
    assert len(llm.adapters) == SIZE, "there is room for no more"
    folder = Path(llm.loaded[-1].lora_path).parent
    assert len(list(folder.iterdir())) == SIZE, "files of earlier ones are gone"
    population.outside.close()
    assert llm.ended
    assert not folder.exists()


@pytest.mark.parametrize("again", ["number", "name and path"])
def test_why_they_have_to_be_new(machine, population, monkeypatch, tmp_path, again):
    """With the number of an earlier one the adapter is stale, with its name and path the cached prompt is."""
    engine = opened(population, sleep=False)
    if again == "number":
        monkeypatch.setattr(machine.engines[0].llm_engine, "remove_lora", lambda number: True)
        monkeypatch.setattr(
            "pareto_align.policies.samplers.vllm._lora_request",
            lambda: lambda name, number, path: LoRARequest(name, number % SIZE + 1, path),
        )
    else:

        def request(name, number, path):
            slot = name.split("-")[0]
            shutil.copytree(path, tmp_path / slot, dirs_exist_ok=True)
            return LoRARequest(slot, number, str(tmp_path / slot))

        monkeypatch.setattr("pareto_align.policies.samplers.vllm._lora_request", lambda: request)
    assert gap(engine, drawn(engine)) < 1e-4
    population.parameters += 0.5
    assert gap(engine, drawn(engine)) > 0.05


def test_it_sleeps_between_two_drawings_and_what_it_forgets_there_is_pushed_again(machine, population):
    machine.faults = {"forgets adapters asleep"}
    engine = opened(population)
    (llm,) = machine.engines
    assert llm.asleep, "the trainer's memory is measured without it"
    for count in (2, 3):
        assert gap(engine, drawn(engine)) < 1e-4
        assert (llm.asleep, llm.sleeps) == (True, count)
    with pytest.raises(RuntimeError, match="wake"):
        population.outside.draw([[1]], 1, PARAMS, [0, 1, 2])
    with pytest.raises(RuntimeError, match="`wake` comes first"):
        population.outside.push(population.parameters, 9)


def test_without_sleep_it_stays_awake(machine, population):
    engine = opened(population, sleep=False)
    drawn(engine)
    assert machine.engines[0].sleeps == 0


def test_it_sleeps_after_what_went_wrong_as_well(machine, population):
    engine = opened(population)
    machine.faults = {"runs out of memory"}
    with pytest.raises(TrainingError, match="drawing failed: OutOfMemoryError"):
        drawn(engine)
    assert machine.engines[0].asleep


TOLD = {
    "lacks a log-probability": "lacks the log-probability",
    "lacks all log-probabilities": "lacks the log-probability",
    "answers one less": "3 completions instead of 4",
    "numbers twice": "completions instead of 4",
    "answers out of order": "another prompt",
    "skips a request": "8 answers to 9 requests",
    "uses no adapter": "without an adapter",
    "uses another adapter": "of another adapter",
    "aborts": "ends before its end.*abort",
    "says nothing": "0 tokens",
    "invents a token": "a token that the model has not",
    "goes on after the end": "goes on after a stop token",
    "does not wake": "does not wake up",
    "does not load": "not loaded",
    "keeps old adapters": "other adapters than those that were pushed",
    "runs out of memory": "OutOfMemoryError",
}
UNSEEN = {"ignores adapters", "leaves the temperature out"}
"""What no answer shows; the probabilities do, see `discovery/test_vllm_fits.py`."""


def test_all_that_is_pretended_to_go_wrong_is_tried():
    assert set(TOLD) | UNSEEN | {"forgets adapters asleep", "cannot start"} == FAULTS


@pytest.mark.parametrize("fault", TOLD)
def test_what_cannot_be_an_answer_is_refused(fault, machine, population):
    engine = opened(population, sleep=fault != "keeps old adapters")  # where it does not sleep they go with the push
    drawn(engine)
    machine.faults = {fault}
    with pytest.raises(TrainingError, match=TOLD[fault]):
        drawn(engine)


@pytest.mark.parametrize("fault", sorted(UNSEEN))
def test_what_no_answer_shows_is_seen_in_the_probabilities(fault, machine, population):
    engine = opened(population)
    machine.faults = {fault}
    done = drawn(engine)
    assert gap(engine, done) > 0.1


def test_an_engine_that_does_not_start_leaves_nothing(machine, population, tmp_path, monkeypatch):
    monkeypatch.setattr("pareto_align.policies.samplers.vllm.IN_MEMORY", tmp_path)
    machine.faults = {"cannot start"}
    with pytest.raises(ModelError, match=r"vLLM cannot run the model.*Free memory on device"):
        opened(population)
    assert not list(tmp_path.iterdir())
    machine.faults = set()
    opened(population)
    assert len(list(tmp_path.iterdir())) == 1, "adapters lie in memory where there is such a folder"


def test_a_prompt_that_leaves_no_room_for_its_completion_is_told(machine, population):
    population.outside = Vllm().open(population, SIZE, 9 + T - 1)
    population.base.tokenizer.eos_token_id = None  # nothing ends by itself
    population.base.model.generation_config.eos_token_id = None
    with pytest.raises(TrainingError, match=r"to prompt 2 ends before its end \(finish_reason='length'\)"):
        drawn(Engine(population))


def test_a_sampler_is_woken_handed_the_policies_and_left_to_rest(population):
    calls, own = [], InProcess(population)

    class Recorded:
        name, exact = "recorded", False

        def __getattr__(self, name):
            def called(*args, **keywords):
                calls.append((name, args[1] if name == "push" else None))
                if name == "draw" and broken:
                    raise RuntimeError("no")
                return getattr(own, name)(*args, **keywords)

            return called

    population.outside = Recorded()
    engine, broken = Engine(population), False
    first = drawn(engine)
    expected = drawn(Engine(population))
    assert torch.equal(first.tokens, expected.tokens)
    assert [name for name, _ in calls[:4]] == ["wake", "push", "draw", "rest"]
    drawn(engine)
    versions = [version for name, version in calls if name == "push"]
    assert versions == [1, 1, 2], "each engine's own, another one at every call"
    broken = True
    with pytest.raises(RuntimeError, match="no"):
        drawn(engine)
    assert calls[-1][0] == "rest"
    population.outside = None


def test_an_engine_has_room_for_its_policies_only(machine, population):
    opened(population, sleep=False)
    with pytest.raises(ValueError, match="4 policies, and the engine has room for 3"):
        population.outside.push(population.parameters[[0, 1, 2, 0]], 1)


def test_adapters_are_in_the_models_own_dtype(machine, model, monkeypatch):
    """As the layers that are trained compute with them; the engine reads nothing else."""
    base = load_base(model, device="cpu", dtype="bfloat16", use_chat_template=False)
    population = random_population(base, SIZE, config=lora(2))
    engine = opened(population)
    assert 1e-4 < gap(engine, drawn(engine)) < 0.3, "two right ways to round"
    population.outside.close()
    monkeypatch.setattr("pareto_align.policies.samplers.vllm.DTYPES", (torch.float16,))
    with pytest.raises(ConfigError, match="Found dtype=bfloat16; set dtype='bfloat16'"):
        opened(population)
    population.outside = None
    population.close()


def test_other_policies_are_run_by_the_population_itself(machine, population):
    engine = opened(population)
    ids = [population.base.encode(RAGGED[0])]
    done = engine.sample(ids, 2, PARAMS, [0, 1], policies=population.parameters[:2] * 0.5)
    assert done.tokens.shape == (2, 1, 2, T)
    assert machine.engines[0].loaded == []


def test_another_release_is_told(monkeypatch, population):
    Machine().install(monkeypatch, version="0.36.1")
    with pytest.warns(ParetoAlignWarning, match=r"written against vLLM 0\.33\.x; installed is 0\.36\.1"):
        opened(population)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParetoAlignWarning)
        Machine().install(monkeypatch)
        opened(population)


# ------------------------------------------------------------------------------------------ before anything is loaded


def test_what_is_missing_is_told_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'pareto-align\[vllm\]'"):
        Vllm().check(8)
    Machine().install(monkeypatch)
    Vllm().check(8)
    monkeypatch.setattr("pareto_align.policies.samplers.vllm._has_cuda", lambda: False)
    with pytest.raises(ConfigError, match="needs a GPU with CUDA"):
        Vllm().check(8)


def test_ranks_that_it_has():
    for rank in range(1, RANKS[-1] + 1):
        assert legal_rank(rank) == min(legal for legal in RANKS if legal >= rank)
    with pytest.raises(ConfigError, match=r"rank 512 at most. Found lora.r=513"):
        legal_rank(513)


def test_its_settings_are_checked_by_name():
    engine = make_engine({"name": "vllm", "sleep": False, "max_num_seqs": 64})
    assert (engine.sleep, engine.max_num_seqs) == (False, 64)
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        make_engine({"name": "vllm", "gpu_memory_utilization": 1.2})
    with pytest.raises(ConfigError, match="has no setting 'tensor_parallel'"):
        make_engine({"name": "vllm", "tensor_parallel": 2})


def test_settings_reach_the_engine(machine, population):
    opened(population, sleep=False, max_num_seqs=5, enforce_eager=True, gpu_memory_utilization=0.5)
    (llm,) = machine.engines
    assert (llm.room, llm.rank, llm.longest, llm.may_sleep) == (SIZE, 8, 9 + T, False)
