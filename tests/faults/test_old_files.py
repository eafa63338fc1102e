"""Files of every released format load, with exactly these values.

`tests/fixtures/front-v1` is a run folder as the first release wrote it: run format 1, front format 1 without a checksum
of its own. Four members of a model of 13,000 parameters, two objectives to maximise and an audited one to minimise.
Fixtures are never written again; a new format gets a new folder beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from pareto_align.front import read_front, write_front
from pareto_align.report.history_plot import history_info
from pareto_align.report.weights_plot import weights_info
from pareto_align.result import ParetoFront
from pareto_align.runs.journal import scan_journal

FIXTURE = Path(__file__).parents[1] / "fixtures" / "front-v1"


@pytest.fixture
def front() -> ParetoFront:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ParetoFront.load(FIXTURE)


def test_the_fixture_is_the_file_of_then():
    data = json.loads((FIXTURE / "front" / "front.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 1
    assert "sha256" not in data
    assert list(data) == [
        "schema_version", "objectives", "members", "base", "split", "reference", "reference_policy", "fallen", "cost",
        "config", "created",
    ]  # fmt: skip
    assert sum(p.stat().st_size for p in FIXTURE.rglob("*") if p.is_file()) < 30_000


def test_a_front_of_format_1_loads_with_these_values(front):
    assert front.problems == []
    assert front.names == ("a", "b", "distinct")
    assert [member.id for member in front] == ["m0002", "m0000", "m0001", "m0003"]
    # 16 completions of 3 symbols each on 2 report prompts: every mean is a multiple of 1/48, and of 1/16 for a count
    np.testing.assert_array_equal(np.round(front.values[:, :2] * 48, 9), [[22, 3], [9, 7], [2, 29], [1, 43]])
    np.testing.assert_array_equal(front.values[:, 2] * 16, [31, 36, 30, 20])
    assert front.values[0].tolist() == [0.45833333333333337, 0.0625, 1.9375]
    assert front.values[3].tolist() == [0.020833333333333332, 0.8958333333333333, 1.25]
    # with two prompts the standard error of the mean is half their difference
    for member, row in zip(front.record.members, front.stderr, strict=True):
        np.testing.assert_allclose(row, np.abs(np.diff(member.estimate.samples, axis=0)[0]) / 2, atol=1e-15)
    assert [member.preference.tolist() for member in front] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert [member.provenance["step"] for member in front] == [6, 3, 3, 6]
    assert all(len(member.samples) == 2 for member in front)


def test_its_record_is_complete(front):
    record = front.record
    assert [(o.role, o.maximize, o.bounds) for o in record.objectives] == [
        ("optimize", True, (0.0, 1.0)), ("optimize", True, (0.0, 1.0)), ("audit", False, (1.0, 3.0)),
    ]  # fmt: skip
    assert [(o.lower, o.upper) for o in record.objectives] == [(0.0, 1.0), (0.0, 1.0), (-3.0, -1.0)]
    assert (record.base["name"], record.base["dtype"], record.split) == (None, "float32", "report")
    assert (record.reference, record.fallen, record.created) == ([0.0, 0.0], [], "2026-11-24T11:07:06+00:00")
    assert (record.cost["train_tokens"], record.cost["reward_calls"]) == (288, 768)
    assert (record.config["weighting"], record.config["seed"], record.config["steps"]) == ("chebyshev", 1, 6)
    np.testing.assert_array_equal(np.round(record.reference_policy.mean * [48, 48, 16], 9), [7, 8, -33])


def test_what_it_is_asked_is_answered(front):
    # steps of the front from the right: (22-9)*3 + (9-2)*7 + (2-1)*29 + 1*43 = 160 in units of 1/48 by 1/48
    assert front.hypervolume() == pytest.approx(160 / 48**2)
    assert front.select({"a": 1}).member.id == "m0002"
    assert front.select({"b": 1}).member.id == "m0003"
    assert "m0001" in front.summary()


def test_its_adapters_are_the_files_of_then(front):
    from safetensors.numpy import load_file

    digests = {}
    for member in front:
        path = member.adapter_path / "adapter_model.safetensors"
        digests[member.id] = hashlib.sha256(path.read_bytes()).hexdigest()
        shapes = sorted(array.shape for array in load_file(path).values())
        assert shapes == [(1, 16), (16, 1)]
        assert json.loads((member.adapter_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert digests == {m.id: m.files["adapter_model.safetensors"] for m in front.record.members}
    assert len(set(digests.values())) == 4


def test_a_journal_of_then_is_read(front):
    events, problems = scan_journal(FIXTURE / "journal.jsonl")
    assert problems == []
    assert front.history == events
    assert [event["event"] for event in events] == [
        "start", *["step"] * 3, "evaluation", *["step"] * 3, "evaluation", "report", "end",
    ]  # fmt: skip
    info = history_info(front.record, front.history)
    assert info.steps.tolist() == [3, 6]
    assert info.training.values.shape == (6, 2, 3)
    np.testing.assert_allclose(weights_info(front.record, front.history).shares.sum(axis=2), 1.0)


def test_a_run_record_of_then_is_read():
    from pareto_align.runs.folder import read_run_record

    record = read_run_record(FIXTURE)
    assert record["schema_version"] == 1
    assert [objective["name"] for objective in record["objectives"]] == ["a", "b", "distinct"]
    assert record["config"]["population"] == 2


def test_written_again_it_is_the_same_front_with_a_checksum(tmp_path, front):
    adapters = {member.id: member.adapter_path for member in front}
    write_front(tmp_path, front.record, lambda id, to: shutil.copytree(adapters[id], to, dirs_exist_ok=True) and None)
    then = json.loads((FIXTURE / "front" / "front.json").read_text())
    now = json.loads((tmp_path / "front.json").read_text())
    assert len(now.pop("sha256")) == 64
    assert [objective.pop("tolerance") for objective in now["objectives"]] == [0.0, 0.0, 0.0]  # younger than the file
    assert now == then
    assert read_front(tmp_path)[1] == []
