"""The checkpoint: what is written comes back, each adapter is saved once, and the state before stays until the next."""

from __future__ import annotations

import threading

import pytest
import torch

from pareto_align.errors import FrontFileError
from pareto_align.runs import checkpoint
from pareto_align.runs.checkpoint import Checkpoint, CheckpointWriter, read_checkpoint


def state(step, adapters):
    return Checkpoint({"step": step}, {"parameters": torch.full((2, 3), float(step))}, adapters)


@pytest.fixture
def hashed(monkeypatch):
    """How many bytes were hashed, a call each."""
    seen = []
    original = checkpoint.hashlib.sha256

    class Hashing:
        @staticmethod
        def sha256(data):
            seen.append(len(data))
            return original(data)

    monkeypatch.setattr(checkpoint, "hashlib", Hashing)
    return seen


def test_an_adapter_is_hashed_and_written_once(tmp_path, hashed):
    adapters = {f"m{i}": torch.full((5000,), float(i)) for i in range(4)}
    writer = CheckpointWriter(tmp_path)
    writer.write(state(1, adapters))
    writer.finish()
    assert sum(size > 20000 for size in hashed) == 4
    adapters = {name: adapter for name, adapter in adapters.items() if name != "m0"} | {"m4": torch.ones(5000)}
    hashed.clear()
    writer.write(state(2, adapters))
    writer.finish()
    assert sum(size > 20000 for size in hashed) == 1
    found = read_checkpoint(tmp_path)
    assert found.record == {"step": 2}
    assert found.adapters.keys() == adapters.keys()
    assert all(torch.equal(found.adapters[name], adapter) for name, adapter in adapters.items())
    assert len(list((tmp_path / "checkpoint" / "adapters").iterdir())) == 3, "m1 and m4 are the same numbers"


def test_another_adapter_under_the_same_name_is_written(tmp_path):
    with CheckpointWriter(tmp_path) as writer:
        writer.write(state(1, {"m0": torch.zeros(3)}))
        writer.write(state(2, {"m0": torch.ones(3)}))
    assert torch.equal(read_checkpoint(tmp_path).adapters["m0"], torch.ones(3))


def test_an_adapter_that_went_missing_is_written_again(tmp_path):
    adapters = {"m0": torch.ones(3)}
    with CheckpointWriter(tmp_path) as writer:
        writer.write(state(1, adapters))
        writer.finish()
        for path in (tmp_path / "checkpoint" / "adapters").iterdir():
            path.unlink()
        writer.write(state(2, adapters))
    assert torch.equal(read_checkpoint(tmp_path).adapters["m0"], torch.ones(3))


def test_a_state_is_what_it_was_when_it_was_handed_over(tmp_path, monkeypatch):
    let_go, found = threading.Event(), checkpoint.write_synced

    def slow(path, data):
        assert let_go.wait(60)
        found(path, data)

    monkeypatch.setattr(checkpoint, "write_synced", slow)
    record, weights, adapters = {"step": 1}, torch.zeros(3), {"m0": torch.ones(2)}
    with CheckpointWriter(tmp_path) as writer:
        writer.write(Checkpoint(record, {"weights": weights}, adapters))
        record["step"] = 2  # the run goes on
        weights += 1
        adapters.clear()
        let_go.set()
    kept = read_checkpoint(tmp_path)
    assert kept.record == {"step": 1}
    assert kept.tensors["weights"].tolist() == [0, 0, 0]
    assert list(kept.adapters) == ["m0"]


def test_a_state_that_could_not_be_written_is_told_at_the_next_one_and_at_the_end(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(FrontFileError, match="No space left"), CheckpointWriter(tmp_path) as writer:
        writer.write(state(1, {}))
    with CheckpointWriter(tmp_path) as writer:
        writer.write(state(1, {}))
        with pytest.raises(FrontFileError, match="No space left"):
            writer.write(state(2, {}))

    def stopped():
        with CheckpointWriter(tmp_path) as writer:
            writer.write(state(1, {}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
