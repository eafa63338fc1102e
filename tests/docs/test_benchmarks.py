"""The benchmark page says what its results say, and every measure of the speed study runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from amount import ALL

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "speed"
RESULTS = STUDY / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
NAMES = [
    *(
        "trl",
        "trl-small",
        "dpo",
        "dpo-long",
        "dpo-objectives",
        "decode",
        "decode-mixed",
        "decode-growth",
        "train",
        "family",
        "bilevel",
        "gradients",
        "activated",
        "memory",
    ),
    *("floor-decode", "floor-train"),
]
LIKE_OTHERS = ("trl-small", "dpo-long")  # the same code as "trl" and "dpo" with other sizes


@pytest.fixture(scope="module")
def study():
    """The study's modules, as its own command sees them; gone afterwards."""
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        names = ("run", "page", "timing", "subject", "within", "against_trl", "against_dpo", "against_peft", "floor")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(STUDY)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the trials of all measures are gathered."""
    return tmp_path_factory.mktemp("speed")


def measured(ratio, **sides):
    side = {"label": "a", "unit": "s", "median": 1.0, "min": 1.0, "max": 1.0, **sides}
    return {
        "ratio": {"median": ratio, "min": ratio / 2, "max": ratio * 2},
        "rounds": [ratio] * 3,
        "over": side,
        "under": side,
    }


# ------------------------------------------------------------------------------------------------ the committed page


@pytest.mark.skipif(not RESULTS.exists(), reason="the study has not been run")
def test_the_page_is_what_the_results_give(study):
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == study.page.render(results), "run `python studies/speed/run.py --page`"


@pytest.mark.skipif(not RESULTS.exists(), reason="the study has not been run")
def test_the_results_are_of_the_real_model_with_enough_rounds(study):
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for name, found in results.items():
        assert found["model"] == study.subject.Subject().name, name
        assert all(len(figure["rounds"]) >= 3 for figure in found["figures"].values() if "rounds" in figure), name


# ------------------------------------------------------------------------------------------------ every measure runs


def test_every_measure_is_tried_here_and_stands_on_the_page(study):
    assert list(study.run.MEASURES) == NAMES
    assert {row.measure for row in study.page.ROWS} == set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if ALL or name not in LIKE_OTHERS])
def test_a_measure_runs_small_and_its_lines_can_be_written(study, kept, name, capsys):
    page, file = kept / "benchmarks.md", kept / "results.json"
    assert study.run.main(["--smoke", "--only", name, "--results", str(file), "--page-file", str(page)]) == 0
    found = json.loads(file.read_text())[name]
    rows = [row for row in study.page.ROWS if row.measure == name]
    assert {row.figure for row in rows} == set(found["figures"])
    for figure in found["figures"].values():
        assert figure["value" if "value" in figure else "ratio"]
        if "rounds" in figure:
            # both sides were timed, and the ratio is theirs
            assert figure["rounds"] == [pytest.approx(figure["over"]["median"] / figure["under"]["median"], rel=1e-3)]
    text = page.read_text()
    assert all(f"| {row.title} |" in text for row in rows)
    assert len(text.splitlines()) > 80
    assert "tiny random Llama" in text  # a trial cannot be taken for the real thing
    assert name in capsys.readouterr().out


def test_training_of_both_sides_sees_the_same_number_of_tokens_and_prompts(study):
    subject = study.subject.Subject(smoke=True)
    base = subject.base("float32", endless=True)
    assert base.stop_ids == ()
    prompts = subject.prompts(base, 7, 5)
    assert [len(base.encode(prompt)) for prompt in prompts] == [7] * 5
    assert len(set(prompts)) == 5
    trainer = study.subject.PopulationTrainer(subject.population(base, 3), 2, 4)
    found = trainer.step(prompts[:2])
    assert found["tokens"] == 3 * 2 * 2 * 4
    assert found["mean_length"] == 4
    assert found["sampling"] + found["training"] == pytest.approx(found["seconds"])


def test_trl_takes_the_asked_steps_with_its_clock_stopped_in_between(study):
    subject = study.subject.Subject(smoke=True)
    base = subject.base("float32")
    calls = []

    def between(step):
        calls.append(step)
        torch.empty(0).new_zeros(1)
        study.timing.time.sleep(0.5)

    found = study.against_trl.trl_steps(
        base, subject, subject.prompts(base, 6, 4), 2, group=4, length=3, settings={}, between=between
    )
    assert calls == [0, 1]
    assert [reading["tokens"] for reading in found] == [2 * 4 * 3] * 2
    assert found[1]["seconds"] < 0.5


# ------------------------------------------------------------------------------------------------ the arithmetic


def test_variants_take_turns_and_the_ratio_is_formed_within_a_round(study, monkeypatch):
    monkeypatch.setattr(study.timing, "gc", SimpleNamespace(collect=lambda: None))  # slow after so many models
    order = []
    seconds = {"a": iter([8.0, 6.0, 40.0]), "b": iter([2.0, 3.0, 4.0])}

    def variant(name):
        def run():
            order.append(name)
            return {"seconds": next(seconds[name]), "tokens": 12}

        return run

    readings = study.timing.alternate({name: variant(name) for name in "ab"}, 3, warm_up=lambda: order.append("warm"))
    assert order == ["warm", *"ababab"]
    found = study.timing.compare(("A", readings["a"]), ("B", readings["b"]), "s", per=(1.0, 2.0))
    assert found["rounds"] == [8.0, 4.0, 20.0]  # 8 / (2 / 2), 6 / (3 / 2), 40 / (4 / 2)
    assert found["ratio"] == {"median": 8.0, "min": 4.0, "max": 20.0}
    assert found["over"]["median"] == 8.0
    assert found["under"]["median"] == 1.5
    assert found["over"]["tokens_per_second"] == 1.5  # the medians of 12/8, 12/6, 12/40


def test_a_row_that_ended_early_is_no_measurement(study):
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Identity()])

    def passes(count):
        return lambda: [model.layers[0](torch.zeros(1)) for _ in range(count)]

    found = study.subject.decoding(model, 3, passes(3))
    assert 0 < found["decoding"] < found["seconds"]
    with pytest.raises(RuntimeError, match="3 tokens came from 2 forward passes"):
        study.subject.decoding(model, 3, passes(2))


def test_memory_counts_each_storage_once_and_gradients_that_nobody_asked_for(study):
    before = study.within.held_bytes()
    big = torch.zeros(1000)
    view, leaf = big[10:], torch.zeros(500, requires_grad=True)
    leaf.sum().backward()
    assert study.within.held_bytes() - before == 4 * (1000 + 500 + 500)
    del view


def test_the_floor_multiplies_by_every_weight_in_both_directions(study):
    subject = study.subject.Subject(smoke=True)
    model = subject.base("float32").model
    floor = study.floor.Floor(model, 6, 3, 6, training=True)
    assert "torch" in floor.kernels
    for layers, head in floor.kernels.values():
        weights = [m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
        assert len(layers) == len(weights) == 14
        for kernel, weight in zip([*layers, head], [*weights, model.lm_head.weight], strict=True):
            x, g = torch.randn(6, weight.shape[1]), torch.randn(6, weight.shape[0])
            torch.testing.assert_close(kernel.forward(x), x @ weight.T, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(kernel.backward(g), g @ weight, rtol=1e-4, atol=1e-4)
    assert floor.measure()["seconds"] > 0


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("times", 4.1, "aim"), ("times", 2.6, "goal"), ("times", 2.4, "no"),
        ("cost", 1.9, "aim"), ("cost", 2.9, "goal"), ("cost", 3.1, "no"),
    ],
)  # fmt: skip
def test_what_was_reached_depends_on_which_way_is_better(study, kind, value, expected):
    goal, aim = (2.5, 4) if kind == "times" else (3, 2)
    assert study.page.reached(study.page.Row("trl", "step", "", goal, aim, kind), value) == expected


def test_a_line_shows_median_range_and_both_sides(study):
    results = {"trl": {"figures": {row.figure: measured(3.2) for row in study.page.ROWS if row.measure == "trl"}}}
    results["trl"]["figures"]["step"]["under"] = {"label": "ours", "unit": "s per policy-step", "median": 1234.5}
    lines = study.page.table(results).splitlines()
    line = next(line for line in lines if "GRPOTrainer" in line)
    assert line.endswith("| ≥ 2.5x / 4x | 3.20x (1.60–6.40) | goal | a: 1 s; ours: 1234 s per policy-step |")
    assert sum("not measured" in line for line in lines) == len(study.page.ROWS) - 4


def test_the_estimate_is_the_formula(study):
    # Llama-3.1-8B, 8 rows: 16 GB of weights and 8 x 512 x 131072 bytes of cache, read at 3 TB/s
    alone = study.page.decoding_seconds("Llama-3.1-8B", 1, 8, launch=0)
    assert alone == pytest.approx((16e9 + 2 * 6.8e6 + 8 * 512 * 131072) / 3e12)
    assert study.page.decoding_seconds("Llama-3.1-8B", 8, 8, launch=0.025) == 0.025
    assert study.page.decoding_seconds("Llama-3.1-8B", 8, 10_000, launch=0) >= 2 * 8e9 * 80_000 / 600e12


# ------------------------------------------------------------------------------------------------ the command


def test_only_keeps_the_others_and_page_measures_nothing(study, tmp_path, monkeypatch, capsys):
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    fakes = iter([3.0, 1.5, 2.0])

    def fake(subject):
        value = next(fakes)
        return {
            "setting": {},
            "figures": {row.figure: measured(value) for row in study.page.ROWS if row.measure == "train"},
        }

    monkeypatch.setattr(
        study.run,
        "MEASURES",
        {
            "train": fake,
            "decode-growth": lambda s: {**fake(s), "figures": {"decoding": measured(9.0), "call": measured(9.0)}},
        },
    )
    options = ["--results", str(file), "--page-file", str(page)]
    study.run.main(options)
    study.run.main(["--only", "train", *options])
    results = json.loads(file.read_text())
    assert results["train"]["figures"]["float32"]["ratio"]["median"] == 2.0
    assert results["decode-growth"]["figures"]["decoding"]["ratio"]["median"] == 9.0
    written = page.read_text()
    page.unlink()
    study.run.main(["--page", *options])
    assert page.read_text() == written
    assert "2.00x (1.00–4.00)" in written
    capsys.readouterr()


def test_the_command_refuses_what_makes_no_sense(study, tmp_path, capsys):
    for wrong, message in (
        (["--rounds", "2"], "at least 3"),
        (["--page", "--results", str(tmp_path / "none.json")], "no results"),
        (["--only", "nothing"], "nothing"),
    ):
        with pytest.raises(SystemExit):
            study.run.main(wrong)
        assert message in capsys.readouterr().err


def test_a_setting_of_the_peer_that_does_not_run_is_listed_as_such(study):
    results = {"trl": {"candidates": {"fast": 2.0, "broken": "ValueError: a | b"}, "baseline": "fast"}}
    text = study.page.candidates(results)
    assert "| `trl` | fast **(baseline)** | 2 s |" in text
    assert "| `trl` | broken | does not run: ValueError: a / b |" in text
