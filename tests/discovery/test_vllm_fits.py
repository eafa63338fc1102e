"""Whole runs whose completions are drawn by a pretended vLLM: what they find, tell, refuse, and go on from."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings

import numpy as np
import pytest
from pretended_vllm import Machine
from symbol_family import passing_lines
from tiny_models import PROMPTS, SYMBOLS, lora, tiny_model

from pareto_align import ConfigError, Objective, ParetoAligner, ParetoAlignWarning, TrainingError
from pareto_align.config.building import load_config
from pareto_align.discovery.mismatch import MOST_NATS, STEPS
from pareto_align.runs.folder import read_run_record
from pareto_align.runs.journal import read_journal
from pareto_align.testing.tiny import symbol_tokenizer

TEXTS = [f"<{n % PROMPTS}>{'abc'[: n % 3]}{'de'[: n % 2]}" for n in range(12)]
SMALL = {
    "population": 3,
    "steps": 4,
    "prompts_per_step": 2,
    "group_size": 4,
    "max_new_tokens": 4,
    "learning_rate": 3e-2,
    "eval_every": 2,
    "eval_prompts": 4,
    "eval_group_size": 2,
    "dtype": "float32",
    "family": "independent",
    "learner": "centred",
    "progress": False,
    "use_chat_template": False,
    "sampler": "vllm",
}


def first(completions, **_):
    return [sum(symbol in "abcd" for symbol in text) / 4 for text in completions]


def second(completions, **_):
    return [sum(symbol in "cdef" for symbol in text) / 4 for text in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama", num_hidden_layers=1).save_pretrained(folder)
    passing_lines(symbol_tokenizer(SYMBOLS, PROMPTS)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return Machine().install(monkeypatch)


def late(reward):
    """The same after a moment, and asked in threads."""

    def judge(completions, **_):
        time.sleep(0.005)
        return reward(completions)

    return judge


def make(model, run=None, rewards=(first, second), **settings):
    apart = rewards != (first, second)
    objectives = [
        Objective(name, reward, bounds=(0, 1), rowwise=apart, thread_safe=apart)
        for name, reward in zip(("first", "second"), rewards, strict=True)
    ]
    return ParetoAligner(model, objectives, output_dir=run, **{**SMALL, "lora": lora(2), **settings})


def fit(model, run, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        return make(model, run, **settings).fit(TEXTS)


def by_hand(model, steps, **settings):
    """The steps of a run of which nothing is measured but the untrained model."""
    told = []
    callbacks = [lambda event: told.append(event) if event["event"] == "step" else None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        whole = {"steps": 20, "eval_every": 20, "eval_group_size": 1, "callbacks": callbacks}
        with make(model, **whole, **settings).by_hand(TEXTS) as discovery:
            for _ in range(steps):
                discovery.tell(discovery.ask())
    return told


def steps_of(run):
    return [event for event in read_journal(run / "journal.jsonl") if event["event"] == "step"]


@pytest.mark.parametrize("overlap", [{"weighting": "fixed"}, {"overlap": "bounded", "max_age": 2}])
def test_shards_draw_in_any_order_what_they_train_on(overlap, model, machine, tmp_path):
    """An engine that drew for another shard, or for an earlier step, would be off by far more."""
    fit(model, tmp_path / "run", rewards=(late(first), late(second)), shard_size=1, **overlap)
    told = steps_of(tmp_path / "run")
    assert len(told) == SMALL["steps"]
    assert sum(event["reward_seconds"]["hidden"] for event in told) > 0, "shards worked meanwhile"
    assert np.shape([event["mismatch"] for event in told]) == (SMALL["steps"], 3)
    assert max(max(event["mismatch"]) for event in told) < 1e-5


def test_a_run_reaches_a_front_that_the_populations_own_sampler_reaches(model, machine, tmp_path):
    longer = {"steps": 14, "group_size": 6, "eval_every": 7, "eval_group_size": 4, "max_new_tokens": 3}
    front = fit(model, tmp_path / "vllm", **longer)
    own = fit(model, tmp_path / "own", sampler="auto", **longer)
    reached = [max(member.values.sum() for member in found) for found in (front, own)]
    begun = [event for event in read_journal(tmp_path / "vllm" / "journal.jsonl") if event["event"] == "start"]
    assert reached[0] > sum(begun[0]["reference"]) + 0.3
    assert abs(reached[0] - reached[1]) < 0.25
    told = steps_of(tmp_path / "vllm")
    assert max(max(event["mismatch"]) for event in told) < 1e-4
    assert not np.any([event["mismatch_outside"] + event["mismatch_truncated"] for event in told])
    assert all(len(event["mismatch_kl"]) == 3 for event in told)
    (llm,) = machine.engines
    assert len(llm.loaded) == 14 * 3
    assert llm.ended
    record = read_run_record(tmp_path / "vllm")
    assert (record["exact"], record["drawn_with"].split()[0]) == (False, "vllm")
    assert (record["config"]["sampler"], record["config"]["rollout_correction"]) == ("vllm", "auto")
    exact = read_run_record(tmp_path / "own")
    assert not {"exact", "drawn_with"} & exact.keys()
    assert not {"rollout_correction", "rollout_cap"} & exact["config"].keys()
    assert not any("mismatch" in event for event in steps_of(tmp_path / "own"))


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_size": 2},
        {"family": {"name": "gates", "shared": 2, "each": 2}},
        {"family": "symbols", "max_new_tokens": 3},
        {"updates_per_rollout": 2, "kl_limit": 0.1, "kl_coef": 0.05},
        {"learner": "online-dpo"},
        {"learner": "disco", "rollout_correction": "sequence_mask", "rollout_cap": 1.02},
        {"weighting": "mgda", "rollout_correction": "sequence_mask", "sampler": {"name": "vllm", "sleep": False}},
        {"weighting": "modo", "layout": "dense", "temperature": 0.7, "rollout_correction": "none"},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_what_it_works_with(settings, model, machine):
    machine.noise = 0.02
    told = by_hand(model, 2, **settings)
    for event in told:
        assert len(event["mismatch"]) == 3
        assert 0.005 < np.mean(event["mismatch"]) < 0.03
        assert 0 < np.mean(event["mismatch_kl"]) < 2e-3, "half the noise's variance, at most"
    cut = np.mean([event["mismatch_truncated"] for event in told])
    assert cut > 0 if settings.get("rollout_cap") == 1.02 else cut == 0
    assert len(machine.engines) == 1
    assert machine.engines[0].room == settings.get("shard_size", 3)


BEYOND = r"log-probabilities of policy \d differ by .* for 5 steps in a row"


def test_a_temperature_that_is_left_out_ends_the_run(model, machine):
    machine.faults = {"leaves the temperature out"}
    with pytest.raises(TrainingError, match=BEYOND):
        by_hand(model, 10, temperature=0.5)
    assert machine.engines[0].ended


def test_a_sampler_that_draws_from_other_policies_ends_the_run(model, machine, tmp_path):
    """The adapters are nothing at first, and so is what ignoring them does."""
    machine.faults = {"ignores adapters"}
    with pytest.raises(TrainingError, match=BEYOND):
        fit(model, tmp_path / "run", steps=14, learning_rate=0.1, eval_every=7)
    told = np.array([event["mismatch"] for event in steps_of(tmp_path / "run")])
    assert (told[-STEPS:] > MOST_NATS).all(0).any()
    assert told[0].max() < 1e-4
    assert STEPS < len(told) < 14
    assert (tmp_path / "run" / "front" / "front.json").exists(), "what was found before is there"
    assert machine.engines[0].ended


def test_a_run_that_goes_on_says_that_it_draws_otherwise(model, machine, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(model, tmp_path / "run", callbacks=[stop])
    assert machine.engines[0].ended
    with pytest.warns(ParetoAlignWarning, match="drawn by vllm.* not the same bytes as without the stop"):
        front = make(model, sampler={"name": "vllm", "gpu_memory_utilization": 0.2}).resume(tmp_path / "run")
    assert len(front) > 0
    assert [event["step"] for event in steps_of(tmp_path / "run")] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"rollout_cap was 2\.0, is 3\.0"):
        make(model, rollout_cap=3.0).resume(tmp_path / "run")
    with pytest.raises(ConfigError, match="sampler was 'vllm', is 'auto'"):
        make(model, sampler="auto").resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"top_k": 5}, "top_k and top_p"),
        ({"top_p": 0.9}, "top_k and top_p"),
        ({"temperature": 2.5}, "temperatures from 0.01 to 2. Found temperature=2.5"),
        ({"temperature": 0.001}, "temperatures from 0.01"),
        ({"activated": True}, "no activated adapters"),
        ({"lora": lora(2, alora_invocation_tokens=[1])}, "no activated adapters"),
        ({"deterministic": True}, "deterministic=False"),
        ({"lora": lora(600)}, "rank 512 at most"),
        ({"family": {"name": "blocks", "shared": 400, "each": 200}}, "rank 512 at most"),
        ({"quantization": "4bit"}, "Leave `quantization` out"),
        ({"gguf_file": "model.gguf"}, "GGUF"),
        ({"device": "cpu"}, "Found device='cpu'"),
        ({"backend": "ray", "shard_size": 1}, "backend='local'"),
        ({"learner": "online-dpo", "rollout_correction": "token_truncate"}, "'online-dpo' has another loss"),
    ],
)
def test_what_it_does_not_work_with_is_told_before_anything_is_loaded(settings, told, model, machine, tmp_path):
    with pytest.raises(ConfigError, match=told):
        make(model, tmp_path / "run", **settings).fit(TEXTS)
    assert not machine.engines
    assert not (tmp_path / "run").exists()


def test_a_model_in_memory_is_refused(machine):
    aligner = make(tiny_model("llama"), tokenizer=symbol_tokenizer(SYMBOLS, PROMPTS))
    with pytest.raises(ConfigError, match=r"by its name.*save_pretrained"):
        aligner.fit(TEXTS)


def test_learners_that_draw_nothing_are_refused(model, machine):
    rows = [{"prompt": "<0>", "chosen": "a", "rejected": "b"}] * 4
    objective = Objective("first", first, bounds=(0, 1), prefers="first")
    aligner = ParetoAligner(model, [objective], **{**SMALL, "learner": "dpo"})
    with pytest.raises(ConfigError, match="draws nothing for the learner 'dpo'"):
        aligner.fit(rows)


def test_a_correction_of_exact_samplers_has_to_be_asked_for(model, tmp_path):
    """Whoever mistrusts rounding may have it; truncated sampling has not the trainer's probabilities."""
    fit(model, tmp_path / "run", sampler="eager", rollout_correction="token_truncate", device="cpu", steps=2)
    assert all(max(event["mismatch"]) < 1e-4 for event in steps_of(tmp_path / "run"))
    with pytest.raises(ConfigError, match="Leave top_k and top_p, or rollout_correction, out"):
        fit(model, None, sampler="eager", rollout_correction="token_truncate", top_k=4)


def test_a_config_file_names_it(model, machine, tmp_path):
    file = tmp_path / "fit.yaml"
    values = {"model": model, "objectives": [{"name": "n", "reward": "pareto_align.objectives.text:word_count"}]}
    values |= {"prompts": TEXTS, "sampler": {"name": "vllm", "sleep": False}, "rollout_correction": "sequence_mask"}
    file.write_text(json.dumps(values))
    settings = load_config(file).aligner.settings
    assert settings.engine == {"name": "vllm", "sleep": False}
    assert settings.decoding == "auto"
    assert dataclasses.replace(settings, sampler="graphs").decoding == "graphs"
