"""Pushed to a hub and fetched from it: huggingface_hub, PEFT and transformers as they are, a hub of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from front_records import tone_and_length
from huggingface_hub import ModelCard

from pareto_align.errors import ConfigError
from pareto_align.report.card import model_card
from pareto_align.report.hub import card_header
from pareto_align.result import ParetoFront

REPO = "acme/polite-front"


def within(code: str, hub, tmp_path: Path, *arguments: str) -> str:
    """What a process prints for which the fake hub is the Hub: its address is read when the library is imported."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "PARETO_ALIGN_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ROUND = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from pareto_align.result import ParetoFront

run, base, repo = sys.argv[1:]
print(ParetoFront.load(run).push_to_hub(repo, private=True, license="apache-2.0"))
front = ParetoFront.from_hub(repo)
ids = torch.tensor([[3, 4, 5, 6, 3]])
for member in front:
    with torch.inference_mode():
        here = member.load_model(base).eval()(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base)
        there = PeftModel.from_pretrained(plain, repo, subfolder=f"members/{member.id}").eval()(ids).logits
    print(member.id, float((here - there).abs().max()))
print(front.folder)
"""


def test_a_front_goes_to_the_hub_and_comes_back(run, base_folder, hub, tmp_path):
    address, *members, folder = within(ROUND, hub, tmp_path, str(run), str(base_folder), REPO).splitlines()
    assert address.startswith(f"{hub.address}/{REPO}/commit/")
    assert hub.private == {REPO}
    assert hub.tokens == {"Bearer hf_secret"}
    assert members == ["a 0.0", "b 0.0", "c 0.0"]
    files = hub.repos[REPO]
    assert not any(b"hf_secret" in data for data in files.values())
    assert not any(name.endswith("journal.jsonl") for name in files)
    assert {f"members/{name}/README.md" for name in "abc"} < set(files)
    (tmp_path / "card.md").write_bytes(files["README.md"])
    card = ModelCard.load(tmp_path / "card.md")
    assert card.data.license == "apache-2.0"
    assert len(card.data.eval_results) == 3 * 3
    assert f'PeftModel.from_pretrained(base, "{REPO}", subfolder="members/a")' in card.text
    back = ParetoFront.load(folder)
    np.testing.assert_array_equal(back.values, ParetoFront.load(run).values)


AGAIN = """
import sys
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.result import ParetoFront

run, repo, kept = sys.argv[1:]
ParetoFront.load(run).push_to_hub(repo, journal=True)
print(len(ParetoFront.from_hub(repo, path=kept)))
for wrong in ("acme/nothing", "acme/empty"):
    try:
        ParetoFront.from_hub(wrong)
    except FrontFileError as error:
        print(str(error).splitlines()[0])
"""


def test_what_was_there_and_is_no_member_goes_and_what_is_no_front_is_said(run, hub, tmp_path):
    hub.repos[REPO] = {"members/old/adapter_model.safetensors": b"x", "LICENSE": b"mine"}
    hub.repos["acme/empty"] = {"README.md": b"hello"}
    told = within(AGAIN, hub, tmp_path, str(run), REPO, str(tmp_path / "kept")).splitlines()
    assert told[0] == "3"
    assert told[1].startswith("Cannot fetch the front of 'acme/nothing'")
    assert told[2] == "The repository 'acme/empty' has no front.json, so no front was pushed to it."
    assert "members/old/adapter_model.safetensors" not in hub.repos[REPO]
    assert hub.repos[REPO]["LICENSE"] == b"mine"
    assert "journal.jsonl" in hub.repos[REPO]
    assert (tmp_path / "kept" / "front.json").is_file()
    assert not (tmp_path / "kept" / "front.json").is_symlink()


REFUSED = """
import sys
from pareto_align.cli import main
sys.exit(main(["push", *sys.argv[1:]]))
"""


def test_a_hub_that_refuses_is_one_line(run, hub, tmp_path):
    hub.refuse = 403
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(run), REPO], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: Cannot push to '{REPO}'")
    assert "hf_secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hub_that_nobody_finds_is_one_line(run, hub, tmp_path):
    hub.close()
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(run), REPO], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: Cannot push to '{REPO}': ")


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", 7, "a b"])
def test_names_that_no_repository_has(front, repo):
    with pytest.raises(ConfigError, match="owner/name"):
        front.push_to_hub(repo)
    with pytest.raises(ConfigError, match="owner/name"):
        ParetoFront.from_hub(repo)


def test_results_are_one_for_each_member_and_objective_in_the_users_units(tmp_path):
    made = tone_and_length()
    (tmp_path / "README.md").write_text(model_card(made, header=card_header(made, results="x"), repo="a/x"))
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    found = {(r.metric_config, r.metric_type): r.metric_value for r in results}
    assert found[("a", "length")] == 60.0
    assert found[("c", "tone")] == 0.3
    assert all(r.dataset_split == "report" for r in results)
    unknown = replace(made, members=[replace(made.members[0], estimate=made.members[0].estimate)])
    assert len(ModelCard(model_card(unknown, header=card_header(unknown, results="x"))).data.eval_results) == 3
    assert json.dumps(found[("b", "toxicity")]) == "0.05"
