"""The study of comparisons: its page says what its results say, its labels are what they are called, it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pareto_align.front.estimates import Estimate

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "comparisons"
MODULES = ("cases", "page", "ratings", "run", "runs")


def test_the_results_are_of_the_one_setting_and_planned(code, results):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) <= {case.key for case in code.cases.cases()}


def test_the_page_is_written_from_the_results(code, results):
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results)


def test_a_label_is_the_share_of_raters_who_rate_higher(code):
    rated = code.ratings.Rated
    assert code.ratings.warmer(rated("a", (1, 2)), rated("b", (0, 1))) == pytest.approx(3 / 4 + 1 / 8)
    assert code.ratings.warmer(rated("a", (1,)), rated("b", (1,))) == 0.5


def test_every_prompt_has_four_sentences_about_it_and_no_sentence_has_two(code):
    sentences = [code.ratings.Rated(f"the plot of this one is number {n}, says me", (1.0,)) for n in range(11)]
    sentences.append(code.ratings.Rated("plot plot", (1.0,)))  # too short
    groups, left = code.ratings.about(sentences, "film")
    assert [len(group) for _, group in groups] == [4, 4]
    assert [prompt for prompt, _ in groups] == [form.format("plot") for form in code.ratings.FORMS["film"]]
    used = [sentence.text for _, group in groups for sentence in group] + [sentence.text for sentence in left]
    assert sorted(used) == sorted(sentence.text for sentence in sentences)


def test_comparisons_are_all_pairs_with_both_labels(code):
    rated = code.ratings.Rated
    group = [rated("one two", (4, 4)), rated("one", (0, 0)), rated("one two three", (0, 4))]
    found = code.ratings.compared([("p", group)], lambda text: 4 * len(text.split()))
    assert found.names == ("warm", "brief")
    labels = found[0].labels
    assert labels.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert labels.values[:, 0].tolist() == [1.0, 0.75, 0.25]
    e = np.e
    assert labels.values[:, 1] == pytest.approx([1 / (1 + e), e / (1 + e), e**2 / (1 + e**2)])


def test_the_hypervolume_is_that_of_the_means_and_lies_in_its_interval(code):
    rng = np.random.default_rng(0)
    samples = np.stack([rng.uniform(0, 1, (30, 2)) * 0.2 + [0.7, 0.1], rng.uniform(0, 1, (30, 2)) * 0.2 + [0.1, 0.7]])
    value, low, high = code.cases.interval(samples)
    (a, b), (c, d) = samples.mean(1)
    assert value == pytest.approx(a * b + c * d - c * b, abs=1e-3)
    assert low < value < high


def test_samples_stand_in_the_order_of_the_prompts(code):
    estimate = Estimate.from_samples(np.array([[[3.0]], [[1.0]], [[2.0]]]), prompt_ids=[9, 3, 5])
    assert code.cases.by_prompt(estimate)[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_single_policy_reads_as_many_tokens(code):
    singles = [settings for settings in code.cases.METHODS.values() if "alone" in settings]
    assert {settings["learner"] for settings in singles} == {"dpo"}
    assert {settings["alone"] for settings in singles} == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}


def test_the_command_keeps_what_it_ran_and_does_not_repeat_it(code, tmp_path, capsys, monkeypatch):
    calls = []
    run = {"head": [0.5, 0.4, 0.6], "audit": [0.4, 0.3, 0.5]}
    monkeypatch.setattr(code.run, "measure", lambda case, setting: calls.append(case) or run)
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--seeds", "0"]
    assert code.run.main(arguments) == 0
    assert code.run.main(arguments) == 0
    assert len(calls) == len(code.cases.METHODS)
    assert "modpo/0" in capsys.readouterr().out


def test_the_figure_shows_every_method_and_seed(code, results):
    figure = code.page.draw(results)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"untrained", *code.cases.METHODS}
    for seed, axes in zip(code.cases.SEEDS, figure.axes, strict=True):
        places = [tuple(xy) for line in axes.lines for xy in line.get_xydata()]
        members = results["runs"][f"dpo/{seed}"]["values"]
        assert all((warm, brief) in places for warm, brief, _ in members)
