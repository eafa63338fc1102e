"""A model that two ranks share: what each computes, runs from end to end, and what is said where there can be none."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from multiprocessing.connection import Pipe

import pytest
import torch
from overlapped_runs import fitted
from pretended_ray import Cluster
from pretended_vllm import Machine
from ranks_here import Reused, tried, whole
from safetensors.torch import load_file
from sharded_runs import FAMILY, TEXTS, bytes_of, fit, make
from tiny_models import lora, relative_error, tiny_model

from pareto_align import ConfigError, ModelError, ParetoAlignWarning, TrainingError
from pareto_align.backends import Local, make_backend
from pareto_align.backends import local as local_backend
from pareto_align.backends.ranks import Job, _received, check_system
from pareto_align.backends.ray import worker as ray_worker
from pareto_align.discovery import hosting
from pareto_align.policies.layers.linear import SWITCH, onednn_works
from pareto_align.policies.sharding.fsdp import FullySharded
from pareto_align.policies.sharding.tensor import TensorParallel
from pareto_align.runs.folder import read_run_record

TENSOR = {"backend": {"name": "local", "ranks": 2}}
FSDP = {"backend": {"name": "local", "ranks": 2, "base_sharding": "fsdp"}}


@pytest.fixture(scope="module", autouse=True)
def pair():
    """One for all tests of this file; weights that are gathered are not packed, so no weights are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        onednn_works.cache_clear()  # an earlier file of this process may have asked without the switch
        patch.setattr(local_backend, "Ranks", Reused)
        patch.setattr(ray_worker, "Ranks", Reused)
        yield
        Reused.end()
    onednn_works.cache_clear()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    def folder(family, **overrides):
        where = tmp_path_factory.mktemp(family)
        tiny_model(family, **overrides).save_pretrained(where)
        return where

    return folder


def in_ranks(method, *arguments):
    return tried().run([Job(0, method, arguments)])[0]


# -- what two ranks compute --------------------------------------------------------------------------------------------

KINDS = {
    "llama": {},
    "qwen2": {"checkpointing": True},  # biases of layers that are cut by outputs
    "gemma2": {},  # soft caps, and norms behind attention and MLP
    "gpt_neox": {},  # queries, keys and values in one layer; biases of layers that are cut by inputs
}


@pytest.mark.parametrize("family", KINDS)
def test_tensor_parallel_is_one_process_up_to_rounding(family, saved):
    folder = saved(family)
    found, expected = in_ranks("computed", folder, "tensor", KINDS[family]), whole(folder, **KINDS[family])
    assert torch.equal(found["tokens"], expected["tokens"])
    assert float((found["logits"] - expected["logits"]).abs().max()) <= 1e-5
    assert float((found["logprobs"] - expected["logprobs"]).abs().max()) <= 1e-5
    assert relative_error(found["gradients"], expected["gradients"]) <= 1e-4
    cut = sum(
        parameter.numel()
        for name, parameter in tiny_model(family).named_parameters()
        if "layers." in name and parameter.dim() == 2
    )
    total = sum(parameter.numel() for parameter in tiny_model(family).parameters())
    assert all(held <= total - cut / 2 for held in found["held"]), "each has half of every matrix"


@pytest.mark.parametrize("how", [{}, {"checkpointing": True}, {"config": lora(2, ["o_proj"], layers_to_transform=[1])}])
def test_fully_sharded_is_one_process_to_the_bit(how, saved):
    folder = saved("llama", num_hidden_layers=3)
    found, expected = in_ranks("computed", folder, "fsdp", how), whole(folder, **how)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_a_rank_has_all_of_one_layer_at_a_time(saved):
    """Within a layer it has that one whole, and the buffer that it came in; before and after none."""
    folder = saved("llama", num_hidden_layers=8, hidden_size=64, intermediate_size=128, vocab_size=24)
    found = in_ranks("memory", folder)
    alike = tiny_model("llama", num_hidden_layers=1, hidden_size=64, intermediate_size=128)
    layer = 4 * sum(parameter.numel() for parameter in alike.model.layers[0].parameters())
    assert layer < found["within"] - found["before"] < 3 * layer
    assert abs(found["after"] - found["before"]) < layer / 2


def test_a_model_that_computes_something_else_when_it_is_cut_is_refused(saved):
    told = in_ranks("wrong", saved("llama"))
    assert "this LlamaForCausalLM computes something else" in told
    assert "Use base_sharding='fsdp'" in told


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_size": 3, "weighting": "mgda", "kl_coef": 0.05, "gradient_checkpointing": True},
        {**FAMILY, "shard_size": 1, "steps": 2},
    ],
    ids=["uneven", "family"],
)
def test_a_fully_sharded_run_is_one_of_one_process_to_the_byte(settings, model, tmp_path):
    """Shards of unequal size on the ranks, and a rank with nothing to do at times."""
    fit(model, tmp_path / "one", **settings)
    fit(model, tmp_path / "two", **settings, **FSDP)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_while_answers_are_judged_ranks_work_on(model, tmp_path):
    settings = {"weighting": "mgda", "kl_coef": 0.05, "shard_size": 1, "overlap": "exact"}
    fitted(model, tmp_path / "one", **settings)
    fitted(model, tmp_path / "two", **settings, **FSDP)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_a_tensor_parallel_run_finds_the_front_of_one_process(model, tmp_path):
    fit(model, tmp_path / "one")
    fit(model, tmp_path / "two", **TENSOR)
    assert_alike(tmp_path / "one", tmp_path / "two")
    record = read_run_record(tmp_path / "two")
    assert record["machine"]["ranks"] == 2, "the last bits depend on it"
    assert read_run_record(tmp_path / "one")["machine"]["ranks"] == 1
    # stock PEFT, with each rank's part of the adapter on its part of the model, says what the population says
    parity = json.loads((tmp_path / "two" / "front" / "front.json").read_text())["parity"]
    assert "problem" not in parity, parity["problem"]
    assert parity["largest_difference"] <= parity["allowed"]


def assert_alike(one, two):
    """The same members, and adapters that differ by what Adam makes of rounding."""
    folders = [sorted((run / "front" / "members").iterdir()) for run in (one, two)]
    assert [folder.name for folder in folders[0]] == [folder.name for folder in folders[1]]
    for folder, other in zip(*folders, strict=True):
        then, now = (load_file(one / "adapter_model.safetensors") for one in (folder, other))
        for name, tensor in then.items():
            torch.testing.assert_close(now[name], tensor, rtol=0, atol=1e-3)


def test_workers_on_ray_may_have_ranks(model, tmp_path, monkeypatch):
    """On a pretended cluster: what they do is what ranks of this process do."""
    Cluster().install(monkeypatch)
    fit(model, tmp_path / "local", **TENSOR)
    fit(model, tmp_path / "ray", backend={"name": "ray", "workers": 1, "ranks": 2, "cpus_per_worker": 2})
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


def test_a_rank_that_dies_ends_the_run_which_goes_on_in_one_process_to_the_same_bytes(model, tmp_path):
    fit(model, tmp_path / "whole")

    def kill(event):
        if event["event"] == "step" and event["step"] == 3:
            os.kill(Reused.pair._processes[1].pid, signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(TrainingError, match=r"Rank 1 of 2 \(process \d+\) was lost: exit code -9.*`resume`"):
            make(model, output_dir=tmp_path / "run", callbacks=[kill], **FSDP).fit(TEXTS)
        make(model).resume(tmp_path / "run")
    then, now = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "run")
    assert {k: v for k, v in then.items() if k != "journal"} == {k: v for k, v in now.items() if k != "journal"}


def test_a_call_that_fails_on_one_rank_leaves_nobody_waiting():
    with pytest.raises(TrainingError, match="A call failed on a rank: ValueError: not today") as told:
        in_ranks("fails")
    assert "Rank 1 on" in told.value.__notes__[0]
    assert "in fails" in told.value.__notes__[0], "the rank's own traceback"
    assert Reused.pair is None, "both were ended"


def test_what_a_rank_cannot_import_is_said():
    ours, theirs = Pipe()
    ours.send_bytes(b"cpareto_align.errors\nMine\n.")
    told = _received(theirs)
    assert isinstance(told, ConfigError)
    assert re.search(r"cannot find what the run was given.*'Mine'.*has to be in a module", str(told))


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**FSDP, "shard_size": None}, r"2 ranks for 1 shard;.*base_sharding='tensor'"),
        ({**TENSOR, "quantization": "4bit"}, r"A quantised model cannot be shared by ranks"),
        ({**TENSOR, "device": "cuda:1"}, r"CUDA_VISIBLE_DEVICES.*Found device='cuda:1'"),
        ({**TENSOR, "sampler": "graphs"}, r"in no CUDA graph"),
        ({**TENSOR, "sampler": "vllm"}, r"no part in ranks that share one"),
    ],
)
def test_what_ranks_do_not_do_is_said_before_anything_is_loaded(settings, message, tmp_path, monkeypatch):
    Machine().install(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        fit("nowhere/nothing", tmp_path / "run", **settings)


def test_a_model_in_memory_cannot_be_sent(tmp_path):
    with pytest.raises(ConfigError, match=r"on its ranks, which load it by name.*save_pretrained"):
        fit(tiny_model("llama"), tmp_path / "run", **TENSOR)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"`base_sharding` must be one of tensor, fsdp"):
        make_backend({"name": "local", "ranks": 2, "base_sharding": "pipeline"})
    with pytest.raises(ConfigError, match=r"`ranks` must be a whole number of at least 1"):
        make_backend({"name": "local", "ranks": 0})
    with pytest.raises(ConfigError, match=r"2 ranks need a GPU each. Set gpus_per_worker=2"):
        make_backend({"name": "ray", "ranks": 2, "gpus_per_worker": 1})
    assert not Local(ranks=1, base_sharding="fsdp").remote, "one rank is no other than this process"


def test_there_are_none_on_windows(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    check_system("local", 1)
    with pytest.raises(ConfigError, match="no ranks on Windows"):
        check_system("local", 2)


@pytest.mark.parametrize(
    ("model", "ranks", "message"),
    [
        (("llama", {}), 3, r"3 ranks cannot share the attention of this LlamaForCausalLM: it has 4 heads and 2"),
        (("llama", {"intermediate_size": 49}), 2, r"cannot share 'layers.0.mlp.gate_proj'.*49 wide"),
        (("llama", {"base_model_tp_plan": None}), 2, r"transformers has no plan for its layer 'layers.0.self_attn"),
    ],
)
def test_what_cannot_be_cut_is_said(model, ranks, message):
    family, overrides = model
    plan = overrides.pop("base_model_tp_plan", ...)
    made = tiny_model(family, **overrides)
    if plan is None:
        made.config.base_model_tp_plan = None
    with pytest.raises(ModelError, match=message):
        TensorParallel.check(made, ranks)


def test_a_model_without_layers_to_spread_is_said():
    made = tiny_model("llama")
    made.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="no layers that can be spread over ranks"):
        FullySharded.check(made, 2)


def test_what_is_wrong_with_a_model_is_told_as_what_the_ranks_found(monkeypatch):
    def refuse(loading, way):
        raise ModelError("it is odd")

    monkeypatch.setattr(hosting, "load_share", refuse)
    with pytest.raises(ConfigError, match=r"The ranks on .* cannot share the model: it is odd"):
        hosting.load_host({"model": "org/model"}, "tensor")
