"""Two fronts in one frame: paired where prompts agree, told apart where they differ, and not where they do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from front_records import estimate, objective, record, tone_and_length

from pareto_align.errors import ConfigError
from pareto_align.front import Estimate, write_front
from pareto_align.front.bootstrap import bootstrap_difference
from pareto_align.report.comparison import compare_fronts, draw_comparison
from pareto_align.result import ParetoFront

OBJECTIVES = [objective("tone"), objective("length", maximize=False, bounds=(0.0, 100.0))]
MEANS = np.array([[0.8, -60.0], [0.6, -30.0], [0.3, -10.0]])
PROMPTS = [f"prompt {i}" for i in range(60)]


def front(shift=0.0, *, seed=0, hard=None, ids=None, objectives=OBJECTIVES, **more):
    """Three members on 60 prompts whose difficulty `hard` [60, 2] they share; means are exact."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(99).normal(size=(60, 2)) if hard is None else hard
    found = []
    for mean in MEANS:
        rows = hard * [0.1, 10.0] + rng.normal(size=(60, 2)) * [0.02, 2.0]
        rows += mean + [shift, shift] - rows.mean(axis=0)
        found.append(Estimate.from_samples(rows, tuple(range(60)) if ids is None else ids))
    return record([replace(o, bounds=None) for o in objectives], found, [[1, 0], [0.5, 0.5], [0, 1]], **more)


def test_paired_prompts_tell_apart_what_unpaired_ones_cannot():
    paired = compare_fronts(front(0.02), front(seed=1), ("a", "b"), (PROMPTS, PROMPTS))
    alone = compare_fronts(front(0.02), front(seed=1), ("a", "b"), (PROMPTS, None))
    assert paired.paired == 60
    assert alone.paired == 0
    assert paired.difference == pytest.approx(alone.difference)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    assert paired.low > 0
    assert paired.verdict == "a attains more"
    assert alone.verdict == "neither is shown to attain more"
    assert "paired on 60 prompts: a attains more" in str(paired)
    assert "not paired" in str(alone)


def test_the_difference_is_that_of_the_hypervolumes_and_turns_round():
    one, other = front(0.05), front(seed=1)
    found = compare_fronts(one, other, prompts=(PROMPTS, PROMPTS))
    back = compare_fronts(other, one, prompts=(PROMPTS, PROMPTS))
    first, second = found.hypervolumes
    assert found.difference == pytest.approx(first.value - second.value)
    assert back.difference == pytest.approx(-found.difference)
    assert back.low == pytest.approx(-found.high, abs=0.003)
    assert found.low <= found.difference <= found.high
    assert found.beaten == (0, 3)
    assert back.beaten == (3, 0)


def test_a_front_equals_itself():
    found = compare_fronts(front(), front(), prompts=(PROMPTS, PROMPTS))
    assert (found.difference, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    assert found.verdict == "neither is shown to attain more"


def test_prompts_that_agree_in_part_and_stand_in_another_order_are_found():
    """The second run measured the later half of the first one's prompts, in reverse, and others."""
    hard = np.random.default_rng(5).normal(size=(60, 2))
    theirs = [*PROMPTS[30:][::-1], *[f"another {i}" for i in range(30)]]
    moved = np.vstack([hard[30:][::-1], np.random.default_rng(6).normal(size=(30, 2))])
    found = compare_fronts(front(hard=hard), front(seed=1, hard=moved), prompts=(PROMPTS, theirs))
    assert found.paired == 30
    unpaired = compare_fronts(front(hard=hard), front(seed=1, hard=moved))
    assert found.high - found.low < unpaired.high - unpaired.low


def test_objectives_in_another_order_and_frames_of_their_own():
    """The frame holds both; the same members in another order of objectives are the same."""
    turned = front(objectives=OBJECTIVES)
    order = [1, 0]
    turned = replace(
        turned,
        objectives=[turned.objectives[i] for i in order],
        reference=[0.0, 0.0],
        members=[
            replace(m, estimate=m.estimate.take(order), preference=[m.preference[i] for i in order])
            for m in turned.members
        ],
    )
    found = compare_fronts(front(), turned, prompts=(PROMPTS, PROMPTS))
    assert found.difference == pytest.approx(0.0, abs=1e-12)
    wide = replace(front(), objectives=[replace(o, lower=o.lower - 1, upper=o.upper + 1) for o in front().objectives])
    found = compare_fronts(front(), wide, prompts=(PROMPTS, PROMPTS))
    assert found.hypervolumes[0].value == pytest.approx(found.hypervolumes[1].value)


def test_fronts_that_have_no_frame_in_common():
    other = record([objective("tone"), objective("facts")], [estimate([0.1, 0.2])])
    with pytest.raises(ConfigError, match="only fronts on the same objectives"):
        compare_fronts(front(), other)
    turned = [OBJECTIVES[0], objective("length", bounds=(0.0, 100.0))]
    with pytest.raises(ConfigError, match="'length' is maximized in one front and minimized in the other"):
        compare_fronts(front(), record(turned, [estimate([0.1, 20.0])]))
    with pytest.raises(ConfigError, match="second has no members"):
        compare_fronts(front(), record(OBJECTIVES, []))


def test_one_prompt_says_nothing_of_noise():
    thin = record(OBJECTIVES, [estimate([0.5, -20.0], np.nan, n=1)])
    found = compare_fronts(front(), thin)
    assert np.isnan([found.low, found.high]).all()
    assert "not known: too little was measured" in found.verdict
    assert found.to_dict()["verdict"] == found.verdict


def test_selection_prompts_against_report_prompts_are_said():
    assert "flatter" in str(compare_fronts(front(), front(split="select")))


def test_groups_of_prompts_are_no_prompts_of_the_other_run():
    grouped = front(seed=1)
    groups = tuple(i // 4 for i in range(60))
    rows = [Estimate.from_samples(m.estimate.samples, m.estimate.prompt_ids, groups) for m in grouped.members]
    grouped = replace(grouped, members=[replace(m, estimate=e) for m, e in zip(grouped.members, rows, strict=True)])
    assert compare_fronts(front(), grouped, prompts=(PROMPTS, PROMPTS[::-1])).paired == 0
    assert compare_fronts(grouped, grouped, prompts=(PROMPTS, PROMPTS)).low == 0.0


def test_intervals_of_the_difference_cover_it():
    """Of 60 pairs of fronts that are truly equal nine in ten of the intervals, at the least, hold 0."""
    held = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        hard = rng.normal(size=(40, 2)) * 0.1
        sides = [
            [Estimate.from_samples(hard + rng.normal(size=(40, 2)) * 0.1 + mean, tuple(range(40)))
             for mean in ([0.8, 0.2], [0.5, 0.5], [0.2, 0.8])]
            for _ in range(2)
        ]  # fmt: skip
        _, low, high = bootstrap_difference(
            *sides, (0, 1), [-0.5, -0.5], scale_lower=[0, 0], scale_upper=[1, 1], n_boot=200, seed=trial
        )
        held += low <= 0 <= high
    assert held >= 54


def test_the_picture_has_both_fronts():
    figure = draw_comparison(compare_fronts(front(0.05), front(seed=1), ("tall run", "other"), (PROMPTS, PROMPTS)))
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == ["tall run", "other"]
    series = [f"smollm2-135m-tone-vs-brevity-seed{k}" for k in range(2)]  # alike as far as there is room
    figure = draw_comparison(compare_fronts(front(0.05), front(seed=1), (series[0], series[1]), (PROMPTS, PROMPTS)))
    told = [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert [name[-6:] for name in told] == ["-seed0", "-seed1"]
    assert {len(name) for name in told} == {28}
    four = [objective(name) for name in "abcd"]
    many = record(four, [estimate([0.5] * 4)])
    with pytest.raises(ConfigError, match="two or three objectives"):
        draw_comparison(compare_fronts(many, many))


@pytest.fixture
def runs(tmp_path):
    """Two run folders with their prompts as a run keeps them."""
    for name, shift, seed in (("one", 0.03, 0), ("two", 0.0, 1)):
        folder = tmp_path / name

        def adapter(_, empty):
            (empty / "adapter_config.json").write_text("{}")
            (empty / "adapter_model.safetensors").write_bytes(bytes(16))

        write_front(folder / "front", front(shift, seed=seed), adapter)
        rows = [
            {"split": "report", "prompt": text, "ids": [1] * (3 + i), "columns": {}} for i, text in enumerate(PROMPTS)
        ]
        rows += [{"split": "train", "prompt": "other", "ids": [1], "columns": {}}]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    return tmp_path


def test_run_folders_know_their_prompts(runs):
    one, two = ParetoFront.load(runs / "one"), ParetoFront.load(runs / "two" / "front")
    found = one.compare(two)
    assert found.paired == 60
    assert found.names == ("one", "two")
    assert one.compare(ParetoFront.load(two.save(runs / "saved"))).paired == 0
    for place in ("morning", "evening"):  # runs of one name lie in folders of others
        one.save(runs / place / "run" / "front")
    again = [ParetoFront.load(runs / place / "run" / "front") for place in ("morning", "evening")]
    assert again[0].compare(again[1]).names == ("morning/run", "evening/run")
    assert again[0].compare(again[0]).names == ("run", "run")
    (runs / "two" / "prompts.jsonl").write_text("damaged\n")
    assert one.compare(two).paired == 0
    assert len(one.plot_comparison(two, style="dark").axes) == 1


def test_the_command(runs, capsys):
    from pareto_align.cli import main

    assert main(["compare", str(runs / "one"), str(runs / "two"), "--out", str(runs / "both.svg")]) == 0
    out = capsys.readouterr().out
    assert "paired on 60 prompts: one attains more" in out
    assert out.endswith(f"{runs / 'both.svg'}\n")
    assert (runs / "both.svg").read_bytes().startswith(b"<?xml")
    assert main(["compare", str(runs / "one"), str(runs / "two"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["paired_prompts"] == 60
    assert [f["name"] for f in told["fronts"]] == ["one", "two"]
    assert told["difference"]["low"] > 0
    assert main(["compare", str(runs / "one"), str(runs / "two"), "--out", "x.gif"]) == 2
    assert "must end in .png, .svg, .pdf" in capsys.readouterr().err


def test_a_front_over_the_same_objectives_with_audits(runs):
    assert compare_fronts(tone_and_length(), tone_and_length()).difference == 0
