"""The GPU study: what it does with a stage that fails or does not fit, what it keeps, and the table it gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from amount import ALL

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "gpu"
PAGE = ROOT / "docs" / "benchmarks.md"
MODULES = ("predictions", "harness", "brought", "models", "page", "run", "training", "prepare")


@pytest.fixture
def bench(code, tmp_path):
    return code.harness.Bench(tmp_path, torch.device("cpu"), smoke=True)


def written(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_the_benchmark_page_has_the_table_of_the_committed_results(code):
    table = code.page.gpu(code.page.read())
    assert table in PAGE.read_text(encoding="utf-8"), "run `python studies/speed/run.py --page`"
    if not list((STUDY / "results").glob("*.json")):
        assert "No GPU was at hand" in table
        assert table.count("| not run |") == len(code.page.TITLES)


def test_every_figure_on_the_page_is_predicted_or_asked_for_and_every_stage_has_a_function(code):
    names = {stage.name.partition("-")[2] for stage in code.run.STAGES}
    known = {*code.page.TITLES, *code.predictions.PREDICTED, *code.predictions.GOALS}
    assert {name.partition(".")[0] for name in known} <= names
    assert [int(stage.name[:2]) for stage in code.run.STAGES] == list(range(10))
    assert all(callable(stage.load()) for stage in code.run.STAGES)
    for command in "ab":
        assert sum(s.seconds for s in code.run.STAGES if s.command == command) <= code.run.LIMITS[command]


def test_a_stage_is_kept_at_once_with_its_figures_beside_their_predictions(code, bench, capsys):
    def stage(bench):
        bench.median("copy_bandwidth", [8.6, 4.3, 2.15], "TB/s")
        bench.say("other", True)

    code.harness.run_stage(bench, "00-machine", 5, stage)
    figure = written(bench.out, "00-machine")["figures"]["copy_bandwidth"]
    assert figure == {
        "value": 4.3, "unit": "TB/s", "least": 2.15, "greatest": 8.6, "rounds": 3, "predicted": 4.3,
    }  # fmt: skip
    assert "copy_bandwidth: 4.3 TB/s / 4.3 predicted = 1.00x" in capsys.readouterr().out


def test_what_fails_is_written_down_with_what_was_found_before(code, bench):
    def stage(bench):
        bench.say("first", 1.0)
        bench.try_to("part", lambda: 1 / 0)
        bench.try_to("lacking", lambda: (_ for _ in ()).throw(code.harness.NotAvailable("no such setting")))
        raise ValueError("broken")

    code.harness.run_stage(bench, "02-decode", 5, stage)
    record = written(bench.out, "02-decode")
    assert record["status"] == "failed"
    assert "broken" in record["error"]
    assert record["figures"]["first"]["value"] == 1.0
    assert "ZeroDivisionError" in record["figures"]["part"]["error"]
    assert record["figures"]["lacking"]["value"] == "not available: no such setting"


def test_stages_that_do_not_fit_into_the_time_are_skipped_and_say_so(code, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(code.run.Stage, "load", lambda self: lambda bench: ran.append(self.name))
    code.run.main(["--smoke", "--out", str(tmp_path), "--command", "a", "--seconds", "16"])
    assert ran == ["05-seven"], "the others have more than twice the seconds that are left"
    assert written(tmp_path, "00-machine")["status"] == "skipped"
    assert {path.stem for path in tmp_path.glob("*.json")} == {s.name for s in code.run.STAGES if s.command == "a"}


def test_a_failed_trial_is_an_error_and_the_next_stage_still_runs(code, tmp_path, monkeypatch):
    def broken(bench):
        raise ValueError("broken")

    monkeypatch.setattr(code.run.Stage, "load", lambda self: broken if self.name == "07-front" else lambda bench: None)
    assert code.run.main(["--smoke", "--out", str(tmp_path), "--command", "b"]) == 1
    assert written(tmp_path, "09-evaluation")["status"] == "done"


def test_the_model_is_joined_from_parts_of_two_commands_and_checked(code, tmp_path, monkeypatch):
    brought, whole = tmp_path / "brought", tmp_path / "whole"
    brought.mkdir()
    whole.write_bytes(bytes(range(256)) * 10)
    monkeypatch.setattr(code.brought, "KEPT", tmp_path / "kept")
    converted = []
    monkeypatch.setattr(code.brought, "convert", lambda file, *_: converted.append(file.read_bytes()))
    code.prepare.cut(whole, brought)
    second = brought / code.brought.PART_B
    later = second.read_bytes()
    second.unlink()
    assert code.brought.join(brought) is None, "the first command has one part"
    (brought / code.brought.PART_A).unlink()
    second.write_bytes(later)
    assert code.brought.join(brought) == str(tmp_path / "kept" / "model")
    assert converted == [whole.read_bytes()]
    second.write_bytes(later[:-1])
    with pytest.raises(RuntimeError, match="not the file that was cut"):
        code.brought.join(brought)


def test_the_operations_of_a_step_are_counted_on_paper(code):
    shape = code.models.Shape("llama", 1, 2, 3, 1, 1, 2, 5, 1.0)
    assert (shape.body, shape.head) == (2 * 2 * 2 * 2 + 3 * 2 * 3, 10)
    # one policy, one prompt of 4 tokens, two completions of 3: 10 tokens, 6 of them through the head
    expected = 4 * 10 * shape.body + 4 * 6 * shape.head + 3.5 * 4 * (2 * 3 * 5.5 + 8) * 2
    assert code.training.operations(shape, 1, 1, 4, 2, 3) == expected


@pytest.mark.skipif(not ALL, reason="CI runs the whole command small")
def test_the_command_runs_small(tmp_path):
    done = subprocess.run(
        [sys.executable, str(STUDY / "run.py"), "--smoke", "--out", str(tmp_path), "--only", "01-correctness",
         "03-graphs"],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = written(tmp_path, "01-correctness")["figures"]
    assert found["leak_between_policies"]["value"] == 0
    assert found["packed_and_dense_gradients"]["value"] < 1e-4
    assert found["same_bits_default"]["value"] is True
