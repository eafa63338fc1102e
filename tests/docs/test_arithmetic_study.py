"""The study of arithmetic: its task is what it says, its page says what its results say, and its command runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "arithmetic"
MODULES = ("runs", "task", "pretrain", "cases", "summary", "page", "figure", "run")


@pytest.fixture(scope="module")
def study(code, results):
    return code.summary.Study(results)


# ------------------------------------------------------------------------------------------------ the results


def test_the_results_are_of_the_one_setting_and_all_planned(code, results, study):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) == {case.key for case in code.cases.cases()}
    assert study.methods == tuple(code.cases.METHODS)


def test_every_run_had_the_same_rollouts_and_measurements(code, results):
    setting, policies = results["setting"], len(code.cases.GRID)
    answers = setting["steps"] * policies * setting["prompts_per_step"] * setting["group_size"]
    measured = setting["steps"] // setting["eval_every"] * policies * setting["eval_prompts"]
    assert {(run["rollouts"], run["measured"]) for run in results["runs"].values()} == {(answers, measured)}


def test_the_page_claims_what_the_intervals_say(study):
    better = study.gain("chebyshev", "hypervolume")
    assert better.verdict == better.strict == 1
    assert study.gain("chebyshev", "compromise").strict == 1
    assert study.gain("chebyshev", "utility").strict == 0
    hypervolume = [study.gain("hypervolume", name) for name in ("hypervolume", "utility")]
    assert [(gain.mean < 0, gain.strict) for gain in hypervolume] == [(True, 0)] * 2
    assert study.gain("gradient", "hypervolume").strict == -1
    utilities = {method: study.mean(method, "utility").mean for method in study.methods}
    assert max(utilities, key=utilities.get) == "gradient"
    assert study.gain("presets", "utility").strict == -1
    # two of its policies lose accuracy and nothing comes of it
    focused, efficient = (study.policy("chebyshev", slot, "values", 0) for slot in (3, 5))
    assert efficient.high < focused.low
    assert study.policy("chebyshev", 5, "tokens").mean > study.policy("chebyshev", 3, "tokens").mean
    # answers grow longer where weight follows the gradients
    assert study.policy("gradient", 5, "tokens").low > study.policy("fixed", 5, "tokens").high


def test_the_page_is_what_the_results_give(code, results):
    again = "run `python studies/arithmetic/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results), again


def test_the_results_file_is_written_as_it_is_read(code, results, tmp_path):
    code.runs.write(tmp_path / "results.json", results, [case.key for case in code.cases.cases()])
    assert (tmp_path / "results.json").read_text() == (STUDY / "results.json").read_text(encoding="utf-8")


def test_the_figure_has_a_panel_a_method_and_a_dot_a_policy(code, results, study):
    axes = [a for a in code.figure.draw(results).axes if a.get_visible() and a.get_title(loc="left")]
    assert [a.get_title(loc="left").splitlines()[0] for a in axes] == list(study.methods)
    for panel, method in zip(axes, study.methods, strict=True):
        dots = np.concatenate([c.get_offsets() for c in panel.collections if len(c.get_offsets()) == 1])
        for slot in range(6):
            place = study.policy(method, slot, "tokens").mean, 100 * study.policy(method, slot, "values", 0).mean
            assert np.abs(dots - place).max(1).min() < 1e-9


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


# ------------------------------------------------------------------------------------------------ the arithmetic


def planted(code, gains):
    """Runs in which `chebyshev` has accuracy larger than `fixed` by `gains`, seed by seed."""
    base = [0.2, 0.3, 0.4, 0.5, 0.6]

    def run(seed, gain):
        return {"values": [[base[seed] + gain, 0.5, 0.5]], "tokens": [8.0]}

    runs = {f"fixed/{seed}": run(seed, 0.0) for seed in range(5)}
    runs |= {f"chebyshev/{seed}": run(seed, gains[seed]) for seed in range(5)}
    return code.summary.Study({"setting": {}, "runs": runs})


@pytest.mark.parametrize(
    ("gains", "verdict"), [([0.1, 0.12, 0.08, 0.1, 0.1], 1), ([-0.1] * 5, -1), ([0.1, -0.1, 0.1, -0.1, 0.0], 0)]
)
def test_differences_are_paired_by_seed(code, gains, verdict):
    study = planted(code, gains)
    assert study.methods == ("fixed", "chebyshev")
    found = study.gain("chebyshev", "hypervolume")
    assert found.verdict == found.strict == verdict
    # one point: the box above the reference point, .6 by .6 in the other two objectives
    assert found.mean == pytest.approx(np.mean(gains) * 0.6**2 / 1.1**3)


def test_the_indicators_in_closed_form(code):
    corners = np.eye(3)
    indicators = code.summary.INDICATORS
    # three boxes of 1.1 by .1 by .1 that share one of .1 cubed
    assert indicators["hypervolume"](corners) == pytest.approx((3 * 1.1 * 0.01 - 2 * 0.001) / 1.1**3)
    assert indicators["hypervolume"]([[1, 1, 1]]) == pytest.approx(1.0)
    # the largest weight of every user of the lattice
    n = code.summary.DIVISIONS
    users = [(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]
    assert indicators["utility"](corners) == pytest.approx(np.mean([max(user) / n for user in users]))
    assert indicators["compromise"]([[0.9, 0.1, 0.5], [0.4, 0.3, 0.35]]) == 0.3


def test_a_method_without_all_its_seeds_is_left_out(code):
    study = planted(code, [0.0] * 5)
    del study.runs["chebyshev/3"]
    assert code.summary.Study({"setting": {}, "runs": study.runs}).methods == ("fixed",)


def test_students_interval_is_wider_with_few_seeds(code):
    # closed form: t(.975, 1) = 12.706 and s / sqrt(2) = 1/2 for the numbers 0 and 1
    assert code.runs.spread([0.0, 1.0]).wide == pytest.approx(12.7062 / 2, abs=1e-3)
    # two resampled seeds: both 0 and both 1 have a chance of 1/4 each
    assert (code.runs.spread([0.0, 1.0]).low, code.runs.spread([0.0, 1.0]).high) == (0.0, 1.0)


def test_all_methods_but_the_presets_have_the_same_preferences(code):
    grids = {name: preferences for name, (_, preferences) in code.cases.METHODS.items()}
    presets = grids.pop("presets")
    assert set(grids.values()) == {code.cases.GRID}
    assert len(presets) == len(code.cases.GRID) == 6
    assert set(presets) < set(code.cases.GRID)


# ------------------------------------------------------------------------------------------------ the command


def test_one_run_is_made_kept_and_not_repeated(code, tmp_path, capsys):
    file = tmp_path / "results.json"
    options = ["--smoke", "--methods", "gradient", "--seeds", "0", "--results", str(file)]
    assert code.run.main(options) == 0
    assert "gradient/0" in capsys.readouterr().out
    kept = json.loads(file.read_text())
    (found,) = kept["runs"].values()
    smoke, policies = code.cases.SMOKE, len(code.cases.GRID)
    assert np.shape(found["values"]) == (policies, 3)
    np.testing.assert_allclose(np.sum(found["forms"], axis=1), 1, atol=1e-3)
    assert found["rollouts"] == smoke["steps"] * policies * smoke["prompts_per_step"] * smoke["group_size"]
    assert found["measured"] == smoke["steps"] * policies * smoke["eval_prompts"]
    assert sum(kept["untrained"]["forms"]) == pytest.approx(1, abs=1e-3)
    assert code.run.main(options) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(file.read_text()) == kept


def test_runs_of_another_setting_are_refused(code, tmp_path):
    file = tmp_path / "results.json"
    code.runs.write(file, {"setting": {"steps": 1}, "runs": {}}, [])
    with pytest.raises(SystemExit, match="another setting"):
        code.run.main(["--smoke", "--results", str(file)])
