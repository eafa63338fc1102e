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


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    """A tiny Llama and its tokenizer, saved."""
    from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

    folder = tmp_path_factory.mktemp("base")
    tiny_llama(8, 2, hidden_size=32).save_pretrained(folder)
    symbol_tokenizer(8, 2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folders(tmp_path_factory, base_folder) -> dict[str, Path]:
    """Stock PEFT folders whose adapters each make the model say something of their own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base_folder),
            LoraConfig(r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False),
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.mul_(20)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        (folders[name] / "README.md").unlink(missing_ok=True)  # PEFT's own; members of a run have none
    return folders


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
