"""A front of three members with real adapters on a tiny Llama, as a run leaves it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the builders that tests/report has, too

from fake_hub import FakeHub
from front_records import estimate, tone_and_length

from pareto_align.front.storage import write_front
from pareto_align.result import ParetoFront


@pytest.fixture
def run(tmp_path, base_folder, adapter_folders) -> Path:
    """A run folder with the front, measured with a temperature of .7 and answers of 6 tokens."""

    def copy(name: str, folder: Path) -> None:
        for file in adapter_folders[name].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    base = {"name": str(base_folder), "dtype": "float32", "use_chat_template": False}
    found = tone_and_length(
        base=base,
        config={"max_new_tokens": 6, "temperature": 0.7, "top_p": 0.9},
        reference_policy=estimate([0.2, -80.0, -0.1], [0.02, 3.0, 0.004]),
    )
    write_front(tmp_path / "run" / "front", found, copy)
    (tmp_path / "run" / "journal.jsonl").write_text('{"event": "start", "preferences": [[1.0, 0.0]]}\n')
    return tmp_path / "run"


@pytest.fixture
def front(run) -> ParetoFront:
    return ParetoFront.load(run)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    found = FakeHub()
    yield found
    found.close()
