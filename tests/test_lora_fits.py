"""A whole fit under every permitted shape of LoRA: what is exported is what was trained, under stock PEFT."""

from __future__ import annotations

import json
import threading
import warnings

import pytest
import torch
from aligner_runs import PROBLEM, fit, lora, make
from peft import PeftModel

from pareto_align import ModelError, ParetoAlignWarning, ParetoFront
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies import parity as parities

SHAPES = {
    "rslora": {"use_rslora": True},
    "all-linear, some left out": {"exclude_modules": ["q_proj", "layers.1.mlp.up_proj"]},
    "a pattern": {"target_modules": r".*\.(self_attn\.(q|v)|mlp\.down)_proj"},
    "rank above alpha": {"r": 3, "lora_alpha": 2, "target_modules": ["o_proj", "up_proj"]},
    "activated": {"alora_invocation_tokens": PROBLEM.tokenizer()(PROBLEM.prompts[0])["input_ids"][:1]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_exported_is_what_was_trained(shape, tmp_path):
    front, aligner = fit(tmp_path / "run", lora=lora(**SHAPES[shape]))
    assert front.record.parity["member"] == front[0].id
    assert front.record.parity["largest_difference"] < 1e-5
    out = front.export(tmp_path / "out")
    base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer())
    ids = torch.tensor([base.encode(PROBLEM.prompts[0])])
    population = PolicyPopulation(base, 1, lora=aligner.lora)
    rows = {member.id: population.read_adapter(member.adapter_path) for member in front}
    for id, row in rows.items():
        with population.serving(row[None]), torch.no_grad():
            ours = base.model(ids).logits
        with population.moved_out(), torch.no_grad():
            theirs = PeftModel.from_pretrained(PROBLEM.model(), str(out / id)).eval()(ids).logits
        assert (ours - theirs).abs().max() < 1e-5


def test_a_member_that_means_something_else_at_load_is_said_loudly_and_for_good(tmp_path, monkeypatch):
    save = PolicyPopulation.save_adapter

    def saved_wrongly(self, row, folder, **more):
        save(self, row, folder, **more)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 4000}))

    monkeypatch.setattr(PolicyPopulation, "save_adapter", saved_wrongly)
    with pytest.warns(ParetoAlignWarning, match=r"may not be what was measured.*its log-probabilities differ by"):
        make(output_dir=tmp_path / "run").fit(list(PROBLEM.prompts))
    with pytest.warns(ParetoAlignWarning, match="may not be what was measured"):
        front = ParetoFront.load(tmp_path / "run")
    assert any("may not be what was measured" in problem for problem in front.problems)
    parity = front.record.parity
    assert parity["largest_difference"] > parity["allowed"]


def test_what_cannot_be_compared_is_said_and_the_run_is_not_lost(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(parities, "compare_with_peft", broken)
    with pytest.warns(ParetoAlignWarning, match=r"may not be what was measured.*RuntimeError: no such kernel"):
        front = make(output_dir=tmp_path / "run").fit(list(PROBLEM.prompts))
    assert len(front) > 0


def test_of_two_fits_at_once_on_one_model_one_is_refused_and_the_other_is_right(tmp_path):
    fit(tmp_path / "expected")
    model, inside, over = PROBLEM.model(), threading.Event(), threading.Event()

    def hold(event):
        if event["event"] == "start":
            inside.set()
            over.wait(60)

    def first():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(model=model, output_dir=tmp_path / "one", callbacks=[hold]).fit(list(PROBLEM.prompts))

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    try:
        with pytest.raises(ModelError, match="A population is being trained on this"):
            make(model=model, output_dir=tmp_path / "two").fit(list(PROBLEM.prompts))
    finally:
        over.set()
        thread.join()
    one, whole = (path / "front" / "front.json" for path in (tmp_path / "one", tmp_path / "expected"))
    assert one.read_bytes() == whole.read_bytes()
    make(model=model, output_dir=tmp_path / "three").loading.load()  # the mark is gone
