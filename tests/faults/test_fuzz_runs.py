"""Run folders damaged in thousands of ways: what resuming reads either holds what was written or is refused by name."""

from __future__ import annotations

import json
import random
import shutil
import warnings

import pytest
import torch
from aligner_runs import PROBLEM, make

from pareto_align import ParetoAlignError, ParetoAlignWarning
from pareto_align.policies import load_base
from pareto_align.runs.checkpoint import read_checkpoint
from pareto_align.runs.folder import read_run_record, read_splits

ROUNDS = 1500
WORDS = ["", "null", "NaN", "-1", "1e999", "[]", "{}", '"x"', "[" * 4000, "\x00", "9" * 400, '"../../x"', "true"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped between two checkpoints, and what resuming reads of it."""
    run = tmp_path_factory.mktemp("stopped") / "run"

    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(RuntimeError):
            make(output_dir=run, callbacks=[stop]).fit(list(PROBLEM.prompts))
    base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer(), use_chat_template=False)
    checkpoint = read_checkpoint(run)
    record = read_run_record(run)
    return run, base, checkpoint, record, read_splits(run, base, record["prompts"])


def damaged(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    at = rng.randrange(max(len(data), 1))
    if kind == 0:  # a flipped bit
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data
    if kind == 1:  # cut off
        return data[:at]
    if kind == 2:  # a hole
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if kind == 3:  # something else in its place
        end = at + rng.randrange(40)
        return data[:at] + rng.choice(WORDS).encode() + data[end:]
    return rng.choice(WORDS).encode()


def same(found, expected) -> bool:
    if found.record != expected.record or found.tensors.keys() != expected.tensors.keys():
        return False
    pairs = [(found.tensors[k], expected.tensors[k]) for k in expected.tensors]
    pairs += [(found.adapters[k], expected.adapters[k]) for k in expected.adapters]
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def test_a_damaged_checkpoint_is_what_was_written_or_refused(stopped, tmp_path):
    run, _, expected, _, _ = stopped
    rng = random.Random(0)
    shutil.copytree(run / "checkpoint", tmp_path / "checkpoint")
    files = [path for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()]
    refused = 0
    for _ in range(ROUNDS):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        try:
            assert same(read_checkpoint(tmp_path), expected)
        except ParetoAlignError:
            refused += 1
        finally:
            path.write_bytes(whole)
    assert refused > ROUNDS / 2


@pytest.mark.parametrize("name", ["run.json", "prompts.jsonl"])
def test_a_damaged_record_or_prompt_file_is_read_or_refused(name, stopped, tmp_path):
    run, base, _, record, splits = stopped
    rng = random.Random(1)
    shutil.copy(run / name, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for _ in range(ROUNDS):
        (tmp_path / name).write_bytes(damaged(whole, rng))
        try:
            if name == "run.json":
                assert isinstance(read_run_record(tmp_path)["config"], dict)
            else:
                assert read_splits(tmp_path, base, record["prompts"]).train == splits.train
        except ParetoAlignError:
            refused += 1
    assert refused > ROUNDS / 4


def test_an_altered_prompt_is_not_trained_on(stopped, tmp_path):
    run, _, _, _, _ = stopped
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "prompts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["ids"] = lines[-1]["ids"] = [2]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ParetoAlignError, match=r"prompts\.jsonl"):
        make().resume(tmp_path / "run")
