"""A front from comparisons on the command line: fit, look, stop and go on."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from pareto_align.result import ParetoFront

WORDS = ["glad", "love", "happy rain", "tea", "cats snow", "the rain is it", "we like tea", "I love you and tea"]


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def compared(project, tmp_path):
    """A config whose labels say which answer is kinder and which is shorter."""
    rows = []
    for n in range(24):
        a, b = WORDS[n % 8], WORDS[(3 * n + 1) % 8]
        if a == b:
            continue
        rows.append(
            {
                "prompt": f"I like {WORDS[n % 8]} {n}?",
                "response_0": a,
                "response_1": b,
                "kinder": int("love" in b),
                "shorter": int(len(b) < len(a)),
            }
        )
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "model": str(project / "model"),
        "comparisons": "pairs.jsonl",
        "objectives": [{"name": "kind", "prefers": "kinder"}, {"name": "short", "prefers": "shorter"}],
        "learner": {"name": "dpo", "beta": 0.3},
        "population": 3,
        "steps": 6,
        "prompts_per_step": 4,
        "eval_every": 3,
        "max_new_tokens": 6,
        "learning_rate": 0.01,
        "lora": {"r": 2},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run.yaml"


def test_a_front_is_fitted_shown_and_its_labels_looked_at(cli, compared, tmp_path):
    found = cli("fit", compared, "--json")
    assert found.code == 0, found.err
    front = ParetoFront.load(tmp_path / "run")
    assert front.names == ("kind", "short")
    assert front.record.config["learner"] == "dpo"
    assert [member["id"] for member in found.json()["members"]] == [member.id for member in front]
    assert all(member.samples for member in front), "answers are kept for people to read"
    assert "Measured on labels, not on answers" in cli("front", tmp_path / "run").out
    card = (tmp_path / "run" / "front" / "README.md").read_text(encoding="utf-8")
    assert "**Measured on labels, not on answers" in card
    assert cli("data", compared.with_name("pairs.jsonl")).code == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts=pairs.jsonl"], "Give `comparisons` with `eval_comparisons`"),
        (["eval_prompts.path=pairs.jsonl"], "Give `comparisons` with `eval_comparisons`"),
        (["learner=grpo"], "has labels (prefers='kinder') and no reward"),
        (["objectives.0.prefers=kindest"], "no comparison has the column 'kindest'. Did you mean 'kinder'?"),
        (["learner.loss_type=dpoo"], "Unknown preference loss 'dpoo'"),
        (["comparisons=nowhere.jsonl"], "nowhere.jsonl"),
        (["learner.max_length=3"], "Nothing is cut unasked"),
    ],
)
def test_what_cannot_work_is_said(cli, compared, overrides, message):
    found = cli("fit", compared, *overrides)
    assert found.code == 2
    assert message in found.err
    assert "Traceback" not in found.err


def test_a_run_goes_on_without_the_file(cli, compared, tmp_path, monkeypatch):
    from pareto_align.discovery.loop import FrontDiscovery

    tell = FrontDiscovery.tell

    def killed(self, seen):
        tell(self, seen)
        if self.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FrontDiscovery, "tell", killed)
        assert cli("fit", compared).code != 0
    compared.with_name("pairs.jsonl").unlink()
    assert cli("resume", tmp_path / "run").code == 0
    assert len(ParetoFront.load(tmp_path / "run")) >= 1
