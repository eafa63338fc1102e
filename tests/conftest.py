"""One thread for the whole suite: the matrices are tiny, and a second thread costs more than it brings."""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST_FIRST = (
    "test_resume.py",
    "test_devices.py",
    "test_known_fronts.py",
    "test_explorers_contract.py",
    "test_ray.py",
    "test_ranks.py",
    "test_page_browser.py",
    "test_family_fits.py",
    "test_selfplay.py",
    "test_fuzz_fronts.py",
)
"""Files of half a minute and more: with one worker a core, what begins last should be short."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Converted models and probe results of the user's own cache are neither read nor written."""
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "pareto-align-cache"))


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
