"""A member's folder says what it is, how it was measured, and how it is loaded; and loads so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from front_records import objective, record, tone_and_length

from pareto_align.errors import ConfigError
from pareto_align.report.handover import generation_settings, member_card, write_card
from pareto_align.result import ParetoFront


def code_of(card: str) -> str:
    return re.search(r"```python\n(.*?)\n```", card, flags=re.DOTALL).group(1)


def test_every_exported_folder_carries_its_card_and_its_sampling(front, tmp_path):
    target = front.export(tmp_path / "out")
    for member in front:
        folder = target / member.id
        assert {"README.md", "generation_config.json", "adapter_config.json"} <= {p.name for p in folder.iterdir()}
        assert json.loads((folder / "generation_config.json").read_text()) == {
            "do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "max_new_tokens": 6,
        }  # fmt: skip
        assert (folder / "README.md").read_text() == member_card(front.record, member.id)


def test_the_card_has_the_values_with_intervals_in_the_users_units(front):
    card = member_card(front.record, "b")
    assert "- **tone** (more is better): 0.600 ± 0.040; untrained 0.200" in card
    assert "- **length** (less is better): 30.0 ± 4.0; untrained 80.0" in card
    assert "(less is better, audit)" in card
    assert "preference tone 0.50, length 0.50" in card
    assert "over 64 held-out prompts" in card
    assert str(front.path.parent) not in card  # a path says where things lie on somebody's disk


def test_the_base_is_named_as_others_find_it(front, tmp_path):
    found = replace(front.record, base={"name": "acme/tiny", "revision": "abc", "dtype": "bfloat16"})
    card = member_card(found, "a")
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["base_model_relation"]) == ("acme/tiny", "adapter")
    assert "for acme/tiny, revision abc, in bfloat16" in card
    assert 'from_pretrained("acme/tiny", revision="abc", dtype="bfloat16")' in card
    assert 'AutoTokenizer.from_pretrained("acme/tiny", revision="abc")' in card
    ParetoFront(found, front.path).export(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "acme/tiny"


def test_the_cards_own_lines_load_the_member_by_plain_peft(front, base_folder, tmp_path):
    """As they stand, in a process that does not know this package; the answer is as long as it was measured."""
    target = front.export(tmp_path / "out")
    code = code_of((target / "c" / "README.md").read_text()).replace("path/to/the/base/model", str(base_folder))
    code = code.replace('"Hello"', '"<0><1>"')
    check = (
        "\nimport sys\nassert 'pareto_align' not in sys.modules"
        "\nout = model.generate(**inputs, **sampling)\nassert out.shape[1] - inputs['input_ids'].shape[1] <= 6"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code + check], cwd=target / "c", capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_a_saved_front_and_a_finished_run_carry_them_beside_what_is_checksummed(front, run, tmp_path):
    saved = ParetoFront.load(front.save(tmp_path / "saved"))
    for member in saved:
        assert (member.adapter_path / "README.md").is_file()
        assert not {"README.md", "generation_config.json"} & set(saved.record.members[0].files)
    write_card(front.record, run / "front")
    assert (run / "front" / "members" / "a" / "generation_config.json").is_file()
    (run / "front" / "members" / "a" / "README.md").write_text("edited")
    again = ParetoFront.load(run)
    assert not again.problems
    # what a copy is made of is what was measured, whatever somebody wrote beside it
    text = (again.save(tmp_path / "again") / "members" / "a" / "README.md").read_text()
    assert text == member_card(front.record, "a")


def test_greedy_runs_and_runs_that_cut_nothing():
    assert generation_settings(tone_and_length(config={"temperature": 0.0, "max_new_tokens": 9})) == {
        "do_sample": False, "max_new_tokens": 9,
    }  # fmt: skip
    assert generation_settings(tone_and_length(config={})) == {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["</script>", "a` ```\n# b", "[x](http://e)", "---\nlicense: mit\n---"])
def test_other_peoples_text_is_shown_as_text(text):
    found = record([objective(text)], tone_and_length().members[:0])
    made = tone_and_length(base={"name": text, "chat_template_kwargs": {f"x={text}": text}, "use_chat_template": True})
    card = member_card(replace(made, objectives=[replace(o, name=text + o.name) for o in made.objectives]), "a")
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n")).keys() == {
        "library_name", "pipeline_tag", "tags",
    }  # fmt: skip
    compile(code_of(card), "card", "exec")
    assert found is not None


def test_members_by_name(front, tmp_path):
    target = front.export(tmp_path / "out", members=["b"])
    assert sorted(p.name for p in target.iterdir()) == ["README.md", "b"]
    assert 'PeftModel.from_pretrained(base, "b")' in (target / "README.md").read_text()
    assert "\n| c |" not in (target / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"no member 'z'\. It has a, b, c"):
        front.export(tmp_path / "other", members=["z"])
    with pytest.raises(ConfigError, match="give merge=True"):
        front.export(tmp_path / "other", dtype="float32")
    assert not (tmp_path / "other").exists()


def test_the_script_starts_vllm_with_every_member_wherever_it_lies(front, tmp_path):
    """A program called vllm says what it was started with; the folder is moved in between, and has a space."""
    target = front.export(tmp_path / "out", format="vllm")
    moved = tmp_path / "moved here"
    target.rename(moved)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "vllm"
    fake.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "BASE": "my model"}
    done = subprocess.run(
        ["sh", str(moved / "serve.sh"), "--port", "9000"], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "serve", "my model", "--enable-lora", "--max-lora-rank", "8", "--port", "9000",
        "--lora-modules", *(f"{name}={moved / name}" for name in "abc"),
    ]  # fmt: skip
    assert os.access(moved / "serve.sh", os.X_OK)
    del environment["BASE"]  # a base that is a folder of somebody else's disk has to be said
    done = subprocess.run(["sh", str(moved / "serve.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Set BASE" in done.stderr


def test_the_commit_of_a_model_of_the_hub_is_recorded_and_no_other(base_folder):
    from pareto_align.policies import load_base
    from pareto_align.policies.serving import described

    base = load_base(str(base_folder), dtype="float32")
    base.model.config._commit_hash = "0123abcd"
    assert "revision" not in described(base)  # a folder has none, whatever it was copied from
    assert described(replace(base, name="acme/tiny"))["revision"] == "0123abcd"
    base.model.config._commit_hash = None
    assert "revision" not in described(replace(base, name="acme/tiny"))
