from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))  # the builders that tests/report has, too

from front_records import estimate, objective, paired, record, tone_and_length

from pareto_align.errors import (
    ConfigError,
    FrontFileError,
    ModelError,
    ParetoAlignWarning,
    PreferenceError,
    PromptError,
)
from pareto_align.front import Estimate
from pareto_align.front.storage import FrontRecord, write_front
from pareto_align.result import ParetoFront

PROMPTS = ["<0>", "<1>", "<0><1>"]


def copier(folders):
    def write(name: str, folder: Path) -> None:
        for file in folders[name].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    return write


@pytest.fixture
def run(tmp_path, base_folder, adapter_folders) -> Path:
    """A run folder with a front of three members and a journal."""
    base = {"name": str(base_folder), "dtype": "float32", "use_chat_template": False}
    found = tone_and_length(base=base, config={"max_new_tokens": 6}, reference_policy=estimate([0.2, -80.0, -0.1]))
    write_front(tmp_path / "run" / "front", found, copier(adapter_folders))
    events = [
        {"event": "start", "preferences": [[1.0, 0.0]]},
        {"event": "step", "step": 1, "values": [[0.1, 70.0, 0.0]], "weights": [[0.5, 0.5]]},
    ]
    (tmp_path / "run" / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return tmp_path / "run"


@pytest.fixture
def front(run) -> ParetoFront:
    return ParetoFront.load(run)


def in_memory(found: FrontRecord) -> ParetoFront:
    return ParetoFront(found, "/nowhere")


def test_importing_it_is_light():
    heavy = "torch", "transformers", "peft", "matplotlib", "pandas"
    code = f"import sys, pareto_align.result; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_values_are_in_the_users_units(front):
    assert front.names == ("tone", "length", "toxicity")
    assert len(front) == 3
    np.testing.assert_allclose(front.values, [[0.8, 60, 0.02], [0.6, 30, 0.05], [0.3, 10, 0.01]])
    np.testing.assert_allclose(front.stderr[:, 1], [3.0, 2.0, 1.0])
    np.testing.assert_array_equal(front[1].values, front.values[1])


def test_members_by_position_and_name(front):
    assert [member.id for member in front] == ["a", "b", "c"]
    assert front["b"].id == front[1].id == front[-2].id == "b"
    with pytest.raises(KeyError, match=r"no member 'z'\. It has a, b, c"):
        front["z"]
    with pytest.raises(IndexError, match=rf"has {len(front)} members, counted from 0. There is no"):
        front[3]


def test_a_member_as_a_dictionary_is_json(front):
    found = json.loads(json.dumps(front["b"].to_dict()))
    assert found["values"] == {"tone": 0.6, "length": 30.0, "toxicity": 0.05}
    assert found["interval"].keys() == found["stderr"].keys()
    assert found["interval"]["length"][0] < 30.0 < found["interval"]["length"][1]
    assert found["preference"] == {"tone": 0.5, "length": 0.5}
    assert Path(found["adapter_path"]).is_dir()


def test_run_folder_and_front_folder_are_the_same_front(run):
    a, b = ParetoFront.load(run), ParetoFront.load(run / "front")
    assert a.history == b.history != []
    assert a[0].adapter_path == b[0].adapter_path
    assert (a[0].adapter_path / "adapter_config.json").is_file()


def test_the_long_table_has_a_row_for_each_policy_and_objective(run):
    pytest.importorskip("pandas")
    made = tone_and_length(
        reference_policy=estimate([0.2, -80.0, -0.1], [0.02, 3.0, 0.004]),
        fallen=[{"id": "z", "values": [0.1, 90.0, 0.0], "stderr": [0.01, 1.0, 0.0], "reason": "beaten",
                 "status": "dominated", "split": "select", "provenance": {"step": 7}}],
    )  # fmt: skip
    front = ParetoFront(made, run)
    table = front.to_pandas(long=True)
    assert len(table) == 4 * 3
    assert set(table["status"]) == {"member", "untrained"}
    row = table[(table["id"] == "a") & (table["objective"] == "length")].iloc[0]
    assert (row["value"], row["stderr"], row["preference"], row["step"]) == (60.0, 3.0, 0.0, 40)
    assert row["low"] < 60 < row["high"]
    assert table[table["objective"] == "toxicity"]["preference"].isna().all()
    everything = front.to_pandas(long=True, fallen=True)
    beaten = everything[everything["id"] == "z"].set_index("objective")
    assert (beaten.loc["length", "status"], beaten.loc["length", "value"], beaten.loc["length", "step"]) == (
        "dominated", 90.0, 7,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="long=True"):
        front.to_pandas(fallen=True)


def test_pandas_has_a_row_a_member(front):
    table = front.to_pandas()
    assert len(table) == 3
    assert list(table.index) == ["a", "b", "c"]
    assert table.loc["a", "length"] == pytest.approx(60)
    assert table.loc["a", "length_stderr"] == pytest.approx(3.0)
    assert table.loc["b", "preference_tone"] == 0.5
    assert "preference_toxicity" not in table


def test_columns_of_one_name_are_refused(front):
    """A new run cannot have such objectives; a front of an earlier release may."""
    record = replace(front.record, objectives=[replace(o) for o in front.record.objectives])
    record.objectives[1] = replace(record.objectives[1], name=f"{record.objectives[0].name}_stderr")
    with pytest.raises(ConfigError, match=r"Two columns would be called '.*_stderr'"):
        ParetoFront(record, front.path).to_pandas()


def test_without_pandas_the_error_names_the_extra(front, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pareto-align\[pandas\]"):
        front.to_pandas()


def test_hypervolume_with_and_without_an_interval(front):
    value = front.hypervolume()
    assert value == pytest.approx(0.56)
    again, low, high = front.hypervolume(confidence=0.9)
    assert again == value
    assert low < value < high
    assert front.hypervolume([0.5, 50.0]) == pytest.approx(0.02)


def test_text_and_html(front):
    text = str(front)
    assert text == repr(front)
    assert text.startswith("Pareto front of 3 adapters for ")
    assert "60.0 ± 6.0" in text
    assert "untrained" in text
    assert front.summary(unicode=False).isascii()
    assert front._repr_html_().count("<tr>") == 5
    assert repr(front["a"]) == "<Member a: tone 0.800 ± 0.040, length 60.0 ± 6.0, toxicity 0.0200 ± 0.0080>"


def test_names_are_escaped_in_html():
    found = in_memory(record([objective("<script>")], [estimate([0.5])], base={"name": "<b>"}))
    assert "<script>" not in found._repr_html_()
    assert "<b>" not in found._repr_html_()


def test_every_figure_comes_back(front):
    from matplotlib.figure import Figure

    for draw in (front.plot, front.plot_history, front.plot_weights, front.plot_tradeoff):
        assert isinstance(draw(), Figure)


def test_a_front_without_members_can_still_be_looked_at():
    empty = in_memory(record([objective("a"), objective("b")], []))
    assert len(empty) == 0
    assert empty.hypervolume() == 0.0
    assert "0 adapters" in str(empty)
    with pytest.raises(PreferenceError, match="no members to choose from"):
        empty.select({"a": 1})


# ---- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preference", "chosen"),
    [({"tone": 1}, "a"), ({"length": 1}, "c"), ([1, 1], "b"), (None, "b"), ((0.9, 0.1), "a"), (np.array([0, 2]), "c")],
)
def test_linear_choice(front, preference, chosen):
    # framed: a (0.8, 0.4), b (0.6, 0.7), c (0.3, 0.9)
    assert front.select(preference).member.id == chosen


def test_limits_exclude_members(front):
    choice = front.select({"tone": 1}, at_most={"length": 40})
    assert choice.member.id == "b"
    assert choice.runner_up is not None
    assert choice.runner_up.id == "c"
    assert choice.feasible
    assert "1 member did not keep the limits" in choice.reason
    assert front.select({"length": 1}, at_least={"tone": 0.7}).member.id == "a"


def test_audited_objectives_can_be_limited(front):
    assert front.select([1, 1], at_most={"toxicity": 0.03}).member.id == "a"
    with pytest.raises(PreferenceError, match="Unknown objective 'toxicity' in the preference"):
        front.select({"toxicity": 1})


def test_a_limit_kept_only_in_the_mean_is_said_so(front):
    choice = front.select({"tone": 1}, at_most={"length": 31})
    assert choice.member.id == "b"
    assert not choice.feasible
    assert "It keeps length at most 31 in the mean, but not with 95 % confidence" in choice.reason


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda front: front.select(at_least=0.5), PreferenceError, "`at_least` must map objectives to numbers"),
        (lambda front: front.select(at_most=0), PreferenceError, r"such as \{'tone': 0.5\}. Found 0"),
        (lambda front: front.select(at_least=["tone"]), PreferenceError, r"Found \['tone'\]"),
        (lambda front: front.select({"tone": True}), PreferenceError, "must be a finite number .* Found True"),
        (lambda front: front.select([True, False]), PreferenceError, "must be a finite number .* Found True"),
        (lambda front: ParetoFront.load(3), ConfigError, "`path` must be a path, as text or a `Path`. Found 3"),
        (lambda front: ParetoFront.load(None), ConfigError, "Found None"),
        (lambda front: ParetoFront.load(""), ConfigError, "Found ''"),
        (lambda front: front.save(b"x"), ConfigError, "Found b'x'"),
        (lambda front: front.export(3), ConfigError, "Found 3"),
        (lambda front: front[0].generate(3), PromptError, "must be a prompt or a list of prompts. Found 3"),
        (lambda front: front[0].generate({"prompt": "<0>"}), PromptError, "must be a prompt or a list of prompts"),
        (lambda front: front[0].generate(["<0>", 3]), PromptError, "Prompt 1: A prompt must be a string"),
        (lambda front: front[0].generate(["<0>", "<0>!"]), PromptError, "Prompt 1: the tokenizer refuses it: "),
        (lambda front: front[0].generate("<0>", batch_size="a"), ConfigError, "`batch_size` must be a whole number"),
        (lambda front: front[0].generate("<0>", batch_size=0), ConfigError, "of at least 1. Found 0"),
        (lambda front: front[0].generate("<0>", seed=1.5), ConfigError, "`seed` must be a whole number"),
        (lambda front: front[0].generate("<0>", seed=-1), ConfigError, "of at least 0. Found -1"),
        (lambda front: front[0].generate("<0>", temprature=1), ConfigError, "does not take {'temprature': 1}"),
        (lambda front: front[0].generate("<0>", temperature="hot"), ConfigError, "not take {'temperature': 'hot'}"),
        (lambda front: front.select().generate("<0>", max_new_tokens=-1), ConfigError, "does not take"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_said_by_us(front, ask, error, said):
    with pytest.raises(error, match=said):
        ask(front)


def test_a_reference_above_all_members_is_said(front):
    with pytest.warns(ParetoAlignWarning, match=r"No member is better than the reference \[0.9, 5\] in every"):
        assert front.hypervolume(reference=[0.9, 5]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert front.hypervolume(reference=[0.5, 50]) > 0


def test_wrong_requests(front):
    with pytest.raises(PreferenceError, match="limit it with `at_most`"):
        front.select([1, 1], at_least={"length": 10})
    with pytest.raises(PreferenceError, match=r"No member keeps tone at least 0\.95"):
        front.select([1, 1], at_least={"tone": 0.95})
    with pytest.raises(ConfigError, match="Unknown selection rule 'best'"):
        front.select([1, 1], rule="best")
    with pytest.raises(PreferenceError, match="3 preference weights for 2 objectives"):
        front.select([1, 1, 1])


def test_chebyshev_reaches_into_a_dent():
    dent = record([objective("x"), objective("y")], [estimate(v) for v in ([0.9, 0.1], [0.45, 0.45], [0.1, 0.9])])
    assert in_memory(dent).select([1, 1], rule="chebyshev").member.id == "p1-s40"
    assert in_memory(dent).select([1, 1]).member.id != "p1-s40"


def test_what_prompts_share_makes_the_choice_surer():
    objectives = [objective("x"), objective("y")]
    shared = paired([[0.55, 0.5], [0.5, 0.5]], noise=0.2)
    alone = [estimate(e.mean, e.stderr) for e in shared]
    sure = in_memory(record(objectives, shared)).select([1, 1])
    unsure = in_memory(record(objectives, alone)).select([1, 1])
    assert sure.probability_best > unsure.probability_best
    assert sure.regret < unsure.regret


def test_a_choice_points_to_its_member(front):
    choice = front.select({"tone": 1})
    np.testing.assert_array_equal(choice.values, front["a"].values)
    np.testing.assert_array_equal(choice.stderr, front["a"].stderr)
    assert choice.adapter_path == front["a"].adapter_path
    assert "Choice a: tone 0.800" in repr(choice)
    assert choice.regret >= 0
    assert 0 <= choice.probability_best <= 1


# ---- shipping --------------------------------------------------------------------------------------------------------


def test_a_member_and_a_choice_print_the_ends_of_an_interval_that_is_not_symmetric():
    rare = Estimate.from_samples(np.array([[1.0, -30.0]] * 2 + [[0.0, -31.0]] * 30), range(32))
    front = in_memory(record([objective("tone"), objective("length", maximize=False, bounds=None)], [rare]))
    assert "tone 0.06 (0.01 to 0.21), length 30.938 ± 0.089" in repr(front[0])
    assert "tone 0.06 (0.01 to 0.21)" in repr(front.select({"tone": 1}))


def test_save_and_load_again(front, tmp_path):
    folder = front.save(tmp_path / "copy")
    again = ParetoFront.load(folder)
    np.testing.assert_array_equal(again.values, front.values)
    assert again.history == front.history
    assert str(again) == str(front)
    assert "library_name: peft" in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(FrontFileError, match="exists already and is not empty"):
        front.save(tmp_path / "copy")  # another front may be in there
    assert str(ParetoFront.load(folder)) == str(front)


def test_save_onto_itself_changes_nothing(front, run):
    front.save(run / "front")
    again = ParetoFront.load(run)
    assert len(again) == 3
    assert again.history == front.history


def test_save_onto_itself_leaves_the_journal_with_its_run(run):
    """A copy in the front folder would be read ever after, and the run's goes on."""
    front = ParetoFront.load(run)
    front.save(front.folder)
    assert not (front.folder / "journal.jsonl").exists()
    assert ParetoFront.load(run).history == front.history


def test_save_onto_itself_deletes_no_member_that_was_left_out(run, tmp_path):
    lost = ParetoFront.load(run)[0]
    (lost.adapter_path / "adapter_config.json").write_text("{}")
    with pytest.warns(ParetoAlignWarning, match="was left out"):
        front = ParetoFront.load(run)
    with pytest.raises(FrontFileError, match=f"holds {lost.id} as well"):
        front.save(front.folder)
    assert lost.adapter_path.is_dir()
    assert [member.id for member in ParetoFront.load(front.save(tmp_path / "new"))] == [m.id for m in front]


def test_save_without_the_adapters_says_which_is_gone(front, tmp_path):
    (front["b"].adapter_path / "adapter_config.json").unlink()
    with pytest.raises(FrontFileError, match="is gone or is no PEFT adapter"):
        front.save(tmp_path / "copy")


def test_a_damaged_member_is_named(run):
    (run / "front" / "members" / "b" / "adapter_model.safetensors").write_bytes(b"?")
    with pytest.warns(ParetoAlignWarning, match="'b' was left out"):
        front = ParetoFront.load(run)
    assert [member.id for member in front] == ["a", "c"]
    assert len(front.problems) == 1


@pytest.mark.parametrize("format", ["peft", "vllm"])
def test_exported_folders_load_with_stock_peft(front, base_folder, tmp_path, format):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = front.export(tmp_path / "out", format)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    assert PeftModel.from_pretrained(base, folder / "b").peft_config["default"].r == 4
    assert (folder / "lora_modules.json").exists() == (format == "vllm")


def test_load_model_is_the_adapter_on_its_base(front, adapter_folders, base_folder):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[0, 1, 2]])
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), adapter_folders["b"]).eval()
    model = front["b"].load_model()
    assert not model.training
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, stock(ids).logits)
        # the same model takes a second member and switches
        other = front["c"].load_model(model)
        assert other is model
        assert not torch.allclose(other(ids).logits, stock(ids).logits)
        back = front["b"].load_model(other)
        torch.testing.assert_close(back(ids).logits, stock(ids).logits)


def test_a_base_with_adapters_on_it_is_refused(front, base_folder):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_folder)
    front["a"].load_model(base)
    with pytest.raises(ModelError, match="already carries adapters"):
        front["b"].load_model(base)


def test_a_base_of_another_shape_is_refused(front):
    from pareto_align.testing.tiny import tiny_llama

    with pytest.raises(ModelError, match="cannot be put on this base model"):
        front["a"].load_model(tiny_llama(8, 2, hidden_size=64))


def test_a_run_on_a_model_in_memory_asks_for_it(front, base_folder):
    from transformers import AutoModelForCausalLM

    front.record.base["name"] = None
    with pytest.raises(ModelError, match=r"load_model\(base=\.\.\.\)"):
        front["a"].load_model()
    assert front["a"].load_model(AutoModelForCausalLM.from_pretrained(base_folder)) is not None


def test_generate_of_a_run_on_a_model_in_memory_says_how_to_give_it(front, base_folder):
    from pareto_align.policies import load_base

    front.record.base["name"] = None
    for who in (front["a"], front.select({"tone": 1})):
        with pytest.raises(ModelError, match=r"Set it: front\.base = load_base\(model, tokenizer=\.\.\.\)"):
            who.generate(PROMPTS)
    front.base = load_base(str(base_folder), dtype="float32", device="cpu")
    assert len(front["a"].generate(PROMPTS)) == 3
    answers = front["b"].generate(PROMPTS, do_sample=False)
    model = front["a"].load_model()
    assert model.active_adapter == front["a"].adapter_path.name
    assert front["b"].load_model() is model
    assert front["b"].generate(PROMPTS, do_sample=False) == answers


def test_generate_answers_each_prompt_with_the_members_adapter(front):
    answers = {member.id: member.generate(PROMPTS, do_sample=False, max_new_tokens=5) for member in front}
    assert all(len(found) == 3 and all(len(text) == 5 for text in found) for found in answers.values())
    assert len({tuple(found) for found in answers.values()}) == 3
    # batches, their padding and the other members in between change nothing
    assert front["a"].generate(PROMPTS, do_sample=False, max_new_tokens=5, batch_size=1) == answers["a"]
    assert front["a"].generate(PROMPTS[2], do_sample=False, max_new_tokens=5) == answers["a"][2:]
    assert len(front.select({"tone": 1}).generate("<0>")[0]) == 6  # the run's own length
    with pytest.raises(ConfigError, match="batch_size"):
        front["a"].generate(PROMPTS, batch_size=0)


def test_generate_uses_the_base_at_hand_and_gives_it_back(front, base_folder):
    import torch

    from pareto_align.policies.base import load_base

    front.record.base["name"] = None
    front.base = load_base(str(base_folder), dtype="float32", device="cpu")
    ids = torch.tensor([[0, 1, 2]])
    with torch.inference_mode():
        before = front.base.model(ids).logits
        assert len(front["a"].generate(PROMPTS, do_sample=False)) == 3
        front.close()
        torch.testing.assert_close(front.base.model(ids).logits, before)
    assert front["b"].load_model(front.base) is not None
