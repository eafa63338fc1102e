"""The command that looks at comparisons: a page for people, JSON for programs, one line for what cannot be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_models import tiny_model

from pareto_align import learned_reward
from pareto_align.config import load_config
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.testing.tiny import symbol_tokenizer

ROWS = [
    {
        "prompt": f"p{n}", "response_0": "a long answer", "response_1": "short", "better_response_id": int(n >= 8),
        "safer_response_id": n % 2, "rater": f"r{n % 3}",
    }
    for n in range(10)
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    found = tmp_path / "pairs.jsonl"
    found.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return found


def test_a_page_for_people(cli, file):
    found = cli("data", file, "--user", "rater")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0] == "10 prompts, 20 responses, 10 pairs, 3 users"
    assert lines[1] == "pairs a user: 3 to 4, median 3"
    assert "better_response_id / safer_response_id" in found.out
    assert found.err == ""


def test_json_for_programs(cli, file):
    found = cli("data", file, "--json")
    assert found.json()["prompts"] == 10
    assert [one["name"] for one in found.json()["objectives"]] == ["better_response_id", "safer_response_id"]
    conflict = found.json()["conflicts"][0]
    assert conflict["agreement"]["conflict"] == pytest.approx(0.5)
    assert conflict["hypervolume"] == pytest.approx(0.421, abs=2e-3)
    assert found.json()["objectives"][0]["length"]["share"] == 0.8
    assert found.json()["objectives"][0]["disagreement"] is None


def test_options_reach_the_reader(cli, tmp_path):
    rows = [{"prompt": "p", "response_0": "a", "response_1": "b", "x": -2, "y": 1}]
    file = tmp_path / "strengths.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = cli("data", file, "--labels", "x", "--kinds", "x=signed", "--json")
    assert [one["name"] for one in found.json()["objectives"]] == ["x"]
    rated = tmp_path / "rated.json"
    rated.write_text(json.dumps([{"prompt": "p", "responses": ["a", "b", "c"], "x": [1, 2, 3]}]), encoding="utf-8")
    assert cli("data", rated, "--pairs", "best_worst", "--json").json()["pairs"] == 1


def test_what_cannot_be_read_is_one_line(cli, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], "better_response_id": 2}), encoding="utf-8")
    found = cli("data", file)
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert "pairs.jsonl, line 2: better_response_id must be 0 or 1, the better response. Found 2." in found.err
    assert cli("data", tmp_path / "none.jsonl").code == 2
    assert "not of the form column=kind" in cli("data", file, "--kinds", "x=odd").err


def test_no_torch_is_loaded(file):
    import subprocess
    import sys

    code = "import sys\nfrom pareto_align.cli import main\nmain(['data', sys.argv[1]])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_model_says_how_hard_they_are(cli, project, tmp_path):
    rows = [{"prompt": f"do you like {one}", "chosen": "I do", "rejected": "not very"} for one in ("tea", "rain")]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = cli("data", file, "--model", project / "model", "--json")
    assert found.code == 0, found.err
    assert found.json()["model"]["objectives"][0]["pairs"] == 2
    assert "off_policy" in found.json()["model"]
    text = cli("data", file, "--model", project / "model")
    assert "chosen: it ranks" in text.out
    assert cli("data", file, "--model", project / "model", "--beta", "0").code != 0


def test_rewards_are_learned_and_a_config_names_one(cli, file, tmp_path):
    """From a file of comparisons to an objective, without a line of Python."""
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    symbol_tokenizer(12, 4).save_pretrained(model)
    rows = [
        {"prompt": f"<{n % 4}>{'abc'[n % 3]}", "response_0": "ab" * (1 + n % 2), "response_1": "c", "warm": n % 2,
         "brief": 1}
        for n in range(40)
    ]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "rewards"
    found = cli("rewards", file, "--labels", "warm", "brief", "--model", model, "--out", out)
    assert found.code == 0, found.err
    assert found.out.splitlines()[0].startswith("warm: accuracy ")
    assert found.out.splitlines()[-1] == f"warm, brief: in {out}"
    one = learned_reward(out, name="warm")
    assert one.rewards is learned_reward(out, name="brief").rewards
    assert np.isfinite(one(["<0>a"] * 2, ["ab", "c"])).all()
    config = tmp_path / "run.yaml"
    objective = {"reward": "pareto_align:learned_reward"}
    names = [{"name": n, **objective, "args": {"folder": str(out), "name": n}} for n in ("warm", "brief")]
    config.write_text(json.dumps({"model": str(model), "objectives": names, "prompts": ["<0>a", "<1>b"]}))
    rewards = [o.reward for o in load_config(config).aligner.objectives]
    assert [r(["<0>a"], ["ab"])[0] for r in rewards] == [learned_reward(out, name=n)(["<0>a"], ["ab"])[0]
                                                         for n in ("warm", "brief")]  # fmt: skip
    again = cli("rewards", file, "--labels", "warm", "--model", model, "--out", out)
    assert again.code == 2
    assert "is not empty" in again.err
    with pytest.raises(ConfigError, match="several rewards: warm, brief"):
        learned_reward(out)
    with pytest.raises(FrontFileError):
        learned_reward(tmp_path / "nothing")
    adapted = cli(
        "rewards", file, "--labels", "warm", "--model", model, "--out", tmp_path / "c", "--lora", "--passes", "1"
    )
    assert adapted.code == 0, adapted.err
    assert (tmp_path / "c" / "adapter-1" / "adapter_config.json").is_file()
    assert np.isfinite(learned_reward(tmp_path / "c")(["<0>a"] * 2, ["ab", "c"])).all()
    refused = cli("rewards", file, "--model", model, "--out", tmp_path / "d", "--lora", "--kind", "gpm")
    assert "Found 'gpm'" in refused.err
    refused = cli("rewards", file, "--model", "nowhere", "--out", tmp_path / "d", "--passes", "1")
    assert "Give `--lora` as well" in refused.err
    told = cli("rewards", file, "--labels", "warm", "--model", model, "--out", tmp_path / "b", "--json").json()
    assert told["names"] == ["warm"]
    assert 0 <= told["report"][0]["accuracy"] <= 1
