"""The study of arithmetic: its task is what it says, its page says what its results say, and its command runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "arithmetic"


@pytest.fixture(scope="module")
def code():
    """The study's modules, as its own command sees them; gone afterwards."""
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY.parent))
        patch.syspath_prepend(str(STUDY))
        names = ("task", "pretrain")
        for name in names:
            patch.delitem(sys.modules, name, raising=False)  # another study has modules of the same names
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(STUDY.parent)):
            del sys.modules[name]


# ------------------------------------------------------------------------------------------------ the task


def test_the_working_leads_to_the_answer(code):
    assert code.task.answer((37, 85, 46), "written") == "7+5+6=18,3+8+4+1=16#168"
    for numbers in code.task.problems("judge")[:200].tolist():
        for form in code.task.FORMS:
            text = code.task.answer(numbers, form)
            assert code.task.form_of(text) == form
            working, marked = text.split("#")
            columns = working.split(",") if working else []
            assert int(marked) == sum(numbers)
            if columns:
                low, high = (int(column.split("=")[-1]) for column in columns)
                assert 10 * high + low % 10 == sum(numbers)
            for column in columns:
                if "=" in column:
                    terms, total = column.split("=")
                    assert sum(map(int, terms.split("+"))) == int(total)


def test_no_problem_is_in_two_splits(code):
    parts = [set(map(tuple, code.task.problems(name).tolist())) for name in (*code.task.SPLITS, "pretrain")]
    assert [len(part) for part in parts[:-1]] == list(code.task.SPLITS.values())
    assert len(set.union(*parts)) == sum(map(len, parts)) == 90**3


@pytest.mark.parametrize(
    ("text", "form", "worth"),
    [
        ("#168", "short", (1, 22 / 26, 0)),
        ("#167", "short", (0, 22 / 26, 0)),
        ("18,16#168", "sums", (1, 17 / 26, 0.5)),
        ("00,00#168", "sums", (1, 17 / 26, 0.5)),  # of the form only: what it is worth is the answer's business
        ("7+5+6=18,3+8+4+1=16#168", "written", (1, 3 / 26, 1)),
        ("7+5+6=18#168", None, (1, 14 / 26, 0)),
        ("", None, (0, 0, 0)),
        ("#", None, (0, 0, 0)),
        ("#16", None, (0, 0, 0)),
        ("168", None, (0, 0, 0)),
        ("#168#", None, (0, 0, 0)),
    ],
)
def test_what_an_answer_is_worth(code, text, form, worth):
    task = code.task
    assert task.form_of(text) == form
    ids = [list(range(len(text)))]  # as they are handed over, without the end
    columns = {"completions": [text], "completion_ids": ids, "answer": ["168"]}
    found = [reward(**columns)[0] for reward in (task.accuracy, task.conciseness, task.clarity)]
    assert found == pytest.approx(worth)


def test_the_tokenizer_has_one_token_a_character_and_the_budget_holds_every_answer(code):
    tokenizer = code.task.adding_tokenizer()
    ids = tokenizer("37+85+46=").input_ids
    assert tokenizer.decode(ids[1:]) == "37+85+46="
    assert len(ids) == 10
    assert ids[0] == tokenizer.bos_token_id
    assert max(len(code.task.answer((99, 99, 99), form)) + 1 for form in code.task.FORMS) <= code.task.BUDGET


@pytest.fixture(scope="module")
def untrained(code):
    return code.task.judge(code.task.adding(judged_on=300), None)


def test_longer_answers_of_the_committed_model_are_more_often_right(code, untrained):
    assert code.task.WEIGHTS.stat().st_size < 3e6
    assert 7e5 < sum(weight.numel() for weight in code.task.adding_model().parameters()) < 1.2e6
    short, sums, written = untrained.right[0]
    assert short < 0.6
    assert min(sums, written) > short + 0.25
    # all three are in its language, and little else
    assert untrained.forms[0, :3].min() > 0.2
    assert untrained.forms[0, 3] < 0.03
    assert untrained.forms.sum() == pytest.approx(1.0)


def test_judging_counts_what_the_rewards_count(code, untrained):
    values, forms, right = untrained.values[0], untrained.forms[0], untrained.right[0]
    assert values[0] == pytest.approx(forms[:3] @ right, abs=0.02)
    assert values[2] == pytest.approx(forms[:3] @ [0, 0.5, 1])
    assert values[1] == pytest.approx(1 - (untrained.tokens[0] - 1) / code.task.BUDGET, abs=0.01)


def test_adapters_are_judged_from_tensors_and_from_folders(code, tmp_path, untrained):
    import torch

    from pareto_align.policies import PolicyPopulation, load_base

    task = code.task.adding(judged_on=40)
    population = PolicyPopulation(load_base(task.model, tokenizer=task.tokenizer), 2, lora=task.settings["lora"])
    rows = population.parameters.detach().clone()
    rows[1] += 0.05 * torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
    for slot in range(2):
        population.save_adapter(rows[slot], tmp_path / str(slot))
    population.close()
    judged = code.task.judge(task, rows)
    again = code.task.judge(task, [tmp_path / "0", tmp_path / "1"])
    np.testing.assert_array_equal(judged.values, again.values)
    # a fresh adapter changes nothing; noise spoils the sums
    np.testing.assert_array_equal(judged.values[0], code.task.judge(task, None).values[0])
    assert judged.values[1, 0] < judged.values[0, 0] - 0.2


def test_pretraining_learns_the_forms_first(code, tmp_path, capsys):
    import torch
    from safetensors.torch import load_file

    assert code.pretrain.main(["--steps", "2", "--out", str(tmp_path / "w.safetensors")]) == 0
    kept = load_file(tmp_path / "w.safetensors")
    committed = load_file(code.task.WEIGHTS)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in kept.items()} == {
        name: (tensor.shape, torch.float16) for name, tensor in committed.items()
    }
    start = code.task.adding_llama().state_dict()
    assert any(not torch.equal(kept[name], start[name].half()) for name in kept)
