"""The checkpoint: what is written comes back, each adapter is saved once, and the state before stays until the next."""

from __future__ import annotations

import pytest
import torch

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
    assert sum(size > 20000 for size in hashed) == 4
    adapters = {name: adapter for name, adapter in adapters.items() if name != "m0"} | {"m4": torch.ones(5000)}
    hashed.clear()
    writer.write(state(2, adapters))
    assert sum(size > 20000 for size in hashed) == 1
    found = read_checkpoint(tmp_path)
    assert found.record == {"step": 2}
    assert found.adapters.keys() == adapters.keys()
    assert all(torch.equal(found.adapters[name], adapter) for name, adapter in adapters.items())
    assert len(list((tmp_path / "checkpoint" / "adapters").iterdir())) == 3, "m1 and m4 are the same numbers"


def test_another_adapter_under_the_same_name_is_written(tmp_path):
    writer = CheckpointWriter(tmp_path)
    writer.write(state(1, {"m0": torch.zeros(3)}))
    writer.write(state(2, {"m0": torch.ones(3)}))
    assert torch.equal(read_checkpoint(tmp_path).adapters["m0"], torch.ones(3))


def test_an_adapter_that_went_missing_is_written_again(tmp_path):
    writer, adapters = CheckpointWriter(tmp_path), {"m0": torch.ones(3)}
    writer.write(state(1, adapters))
    for path in (tmp_path / "checkpoint" / "adapters").iterdir():
        path.unlink()
    writer.write(state(2, adapters))
    assert torch.equal(read_checkpoint(tmp_path).adapters["m0"], torch.ones(3))
