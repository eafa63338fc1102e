"""What the sampler and the pretended vLLM take for granted, held to the release that is installed, where one is.

No engine is started, so no GPU is needed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import typing

import pretended_vllm
import pytest
import torch
from tiny_models import lora, random_population, tiny_base

from pareto_align.policies.samplers.vllm import RANKS, _logprobs_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def test_keywords_are_the_releases_own():
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams

    pretended = set(inspect.signature(pretended_vllm.LLM).parameters) - {"machine"}
    assert pretended <= {field.name for field in dataclasses.fields(EngineArgs)}
    for own, real in ((pretended_vllm.SamplingParams, SamplingParams), (pretended_vllm.LoRARequest, LoRARequest)):
        names = [field.name for field in dataclasses.fields(own)]
        assert set(names) <= set(real.__struct_fields__)
    order = [field.name for field in dataclasses.fields(pretended_vllm.LoRARequest)]
    assert list(LoRARequest.__struct_fields__)[:3] == order[:3]
    asked = {"n": 4, "temperature": 0.8, "max_tokens": 6, "seed": 2**61, "stop_token_ids": [2], "ignore_eos": True}
    params = SamplingParams(**asked, logprobs=0, detokenize=False)
    assert {name: getattr(params, name) for name in asked} == asked


def test_ranks_are_the_releases_own():
    from vllm.config.lora import MaxLoRARanks

    assert typing.get_args(MaxLoRARanks) == RANKS


@pytest.mark.parametrize("scaled", [False, True])
def test_the_release_reads_the_adapters_that_are_written_bit_for_bit(tmp_path, monkeypatch, scaled):
    from vllm.config.lora import LoRAConfig
    from vllm.lora import lora_model
    from vllm.lora.peft_helper import PEFTHelper

    monkeypatch.setattr(lora_model, "PIN_MEMORY", False)
    population = random_population(tiny_base(dtype="bfloat16"), 2, config=lora(2, use_rslora=scaled))
    population.save_adapter(population.parameters[1], tmp_path, dtype=torch.bfloat16)
    helper = PEFTHelper.from_local_dir(str(tmp_path), 64)
    helper.validate_legal(LoRAConfig(max_lora_rank=8, max_loras=2))
    adapted = {block.name.rpartition(".")[2] for block in population.blocks}
    read = lora_model.LoRAModel.from_local_checkpoint(
        str(tmp_path), adapted, peft_helper=helper, lora_model_id=1, device="cpu", dtype=torch.bfloat16
    )
    assert read.loras.keys() == {block.name for block in population.blocks}
    for block in population.blocks:
        a, b = block.split(population.parameters[1:2])
        found = read.loras[block.name]
        assert torch.equal(found.lora_a, a[0].bfloat16())
        assert torch.equal(found.lora_b, b[0].bfloat16())
        assert found.scaling == population.scaling
    population.close()


def test_log_probabilities_are_read_as_the_release_tells_them():
    from vllm.logprobs import append_logprobs_for_next_position, create_sample_logprobs
    from vllm.outputs import CompletionOutput

    told = create_sample_logprobs(False)
    for token, value in ((7, -1.0), (2, -0.5)):
        append_logprobs_for_next_position(told, [token], [value], [None], 1, 0)
    said = CompletionOutput(0, "", [7, 2], -1.5, told, finish_reason="stop")
    assert _logprobs_of(said) == [-1.0, -0.5]
