"""Merged models are what base and adapter say together, for plain transformers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pareto_align.errors import ConfigError, FrontFileError, ModelError
from pareto_align.result import ParetoFront

IDS = torch.tensor([[3, 4, 5, 6, 3]])


def logits(model):
    with torch.inference_mode():
        return model.eval()(IDS).logits


def test_a_merged_models_logits_are_those_of_base_and_adapter(front, base_folder, tmp_path):
    target = front.export(tmp_path / "out", merge=True, members=["a", "c"])
    assert sorted(p.name for p in target.iterdir()) == ["a", "c"]
    for name in "ac":
        base = AutoModelForCausalLM.from_pretrained(base_folder)
        expected = logits(PeftModel.from_pretrained(base, front[name].adapter_path))
        merged = AutoModelForCausalLM.from_pretrained(target / name)
        assert not any("lora" in key for key in merged.state_dict())
        assert (logits(merged) - expected).abs().max() < 1e-5
        assert (logits(AutoModelForCausalLM.from_pretrained(base_folder)) - expected).abs().max() > 0.1
        assert AutoTokenizer.from_pretrained(target / name)("<0><1>").input_ids
        sampling = GenerationConfig.from_pretrained(target / name)
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.9, 6)
        header = yaml.safe_load((target / name / "README.md").read_text().split("---")[1])
        assert header["library_name"] == "transformers"


def test_one_member_alone_and_a_base_at_hand_that_stays_as_it_is(front, base_folder, tmp_path):
    from pareto_align.policies import load_base

    front.base = load_base(str(base_folder), dtype="float32")
    before = logits(front.base.model)
    folder = front["b"].merge(tmp_path / "b")
    assert torch.equal(logits(front.base.model), before)
    assert not hasattr(front.base.model, "peft_config")
    expected = logits(front["b"].load_model(str(base_folder)))
    assert (logits(AutoModelForCausalLM.from_pretrained(folder)) - expected).abs().max() < 1e-5
    with pytest.raises(FrontFileError, match="exists already"):
        front["b"].merge(tmp_path / "b")


def test_end_tokens_stay_the_bases(front, base_folder, tmp_path):
    front["a"].merge(tmp_path / "a")
    ours, theirs = (GenerationConfig.from_pretrained(folder) for folder in (tmp_path / "a", base_folder))
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.pad_token_id == theirs.pad_token_id


def test_greedy_settings_are_ones_that_transformers_saves(front, tmp_path):
    greedy = ParetoFront(replace(front.record, config={"temperature": 0.0, "max_new_tokens": 5}), front.path)
    greedy["a"].merge(tmp_path / "a")
    assert GenerationConfig.from_pretrained(tmp_path / "a").do_sample is False


def test_what_cannot_be_merged_is_refused_before_a_model_is_loaded(front, tmp_path):
    base = {**front.record.base, "quantization": "4bit"}
    held = ParetoFront(replace(front.record, base=base), front.path)
    with pytest.raises(ModelError, match="held in 4bit"):
        held.export(tmp_path / "out", merge=True)
    with pytest.raises(ConfigError, match="Merged models are whole ones"):
        front.export(tmp_path / "out", "vllm", merge=True)
    config = front["a"].adapter_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "alora_invocation_tokens": [3, 4]}))
    with pytest.raises(ModelError, match="activated"):
        front["a"].merge(tmp_path / "a")
    assert not (tmp_path / "out").exists()
