from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from front_records import tone_and_length

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.report.export import export_adapters, front_folder, journal_path


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, rank in (("a", 8), ("b", 24), ("c", 4)):
        folder = tmp_path / "members" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
        (folder / "adapter_model.safetensors").write_bytes(name.encode())
        found[name] = folder
    return found


def test_peft_folders_are_copied_by_name(adapters, tmp_path):
    target = export_adapters(tone_and_length(), adapters, tmp_path / "out", "peft")
    assert sorted(p.name for p in target.iterdir()) == ["README.md", "a", "b", "c"]
    assert (target / "b" / "adapter_model.safetensors").read_bytes() == b"b"
    assert 'PeftModel.from_pretrained(base, "a")' in (target / "README.md").read_text(encoding="utf-8")
    assert stat.S_IMODE(target.stat().st_mode) & 0o500 == 0o500


def test_vllm_modules(adapters, tmp_path):
    target = export_adapters(tone_and_length(), adapters, tmp_path / "out", "vllm")
    modules = json.loads((target / "lora_modules.json").read_text())
    assert [module["name"] for module in modules] == ["a", "b", "c"]
    for module in modules:
        assert set(module) == {"name", "path", "base_model_name"}
        assert module["base_model_name"] == "acme/tiny-llama"
        assert Path(module["path"]).is_absolute()
        assert (Path(module["path"]) / "adapter_config.json").is_file()
    # 24 is the largest rank, and 32 the smallest limit that vLLM accepts for it
    assert "--max-lora-rank 32" in (target / "serve.sh").read_text(encoding="utf-8")
    assert "sh serve.sh" in (target / "README.md").read_text(encoding="utf-8")


def test_ids_that_are_no_folder_names_go_by_their_stored_names(adapters, tmp_path):
    odd = {"../up": adapters["a"], "b/c": adapters["b"]}
    found = tone_and_length()
    found.members = [replace(m, id=name) for m, name in zip(found.members, odd, strict=False)]
    target = export_adapters(found, odd, tmp_path / "out", "vllm")
    assert sorted(p.name for p in target.iterdir() if p.is_dir()) == ["a", "b"]
    assert [m["name"] for m in json.loads((target / "lora_modules.json").read_text())] == ["a", "b"]


def test_nothing_is_overwritten(adapters, tmp_path):
    (tmp_path / "out").mkdir()
    export_adapters(tone_and_length(), adapters, tmp_path / "out", "peft")  # an empty folder may be filled
    with pytest.raises(FrontFileError, match="exists already"):
        export_adapters(tone_and_length(), adapters, tmp_path / "out", "peft")


def test_a_missing_adapter_leaves_nothing_behind(adapters, tmp_path):
    (adapters["c"] / "adapter_config.json").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FrontFileError, match=r"members/c is gone or is no PEFT adapter"):
        export_adapters(tone_and_length(), adapters, tmp_path / "out", "peft")
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_format(adapters, tmp_path):
    with pytest.raises(ConfigError, match="Unknown export format 'gguf'"):
        export_adapters(tone_and_length(), adapters, tmp_path / "out", "gguf")


def test_where_front_and_journal_are(tmp_path):
    run = tmp_path / "run"
    (run / "front").mkdir(parents=True)
    (run / "front" / "front.json").write_text("{}")
    (run / "journal.jsonl").write_text("")
    assert front_folder(run) == front_folder(run / "front") == run / "front"
    assert journal_path(run) == journal_path(run / "front") == (run / "journal.jsonl").resolve()
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "front.json").write_text("{}")
    assert journal_path(saved) == saved / "journal.jsonl"
