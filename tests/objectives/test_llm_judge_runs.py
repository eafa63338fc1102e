"""A language model as the judge of whole runs: a server that is slow, one that dies, and a key that is nowhere."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the runs that tests/ has

from aligner_runs import fit, make
from fake_judge import FakeJudge

from pareto_align import Objective
from pareto_align.errors import ObjectiveError
from pareto_align.objectives import completion_text, llm_judge, llm_preference, win_rate
from pareto_align.result import ParetoFront

KEY = "sk-this-is-a-secret-0123456789"
PROMPTS = [f"<0>{a}{b}" for a, b in itertools.product("abcdef", "abcdef")]
SETTINGS = {"population": 4, "prompts_per_step": 4, "group_size": 6, "max_new_tokens": 3, "steps": 4, "eval_every": 2,
            "eval_group_size": 2}  # fmt: skip


DATA = {"prompts": PROMPTS[:24], "eval_prompts": PROMPTS[24:]}


@pytest.fixture
def server(monkeypatch):
    found = FakeJudge()
    monkeypatch.setattr("pareto_align.objectives.endpoint.FIRST_PAUSE_S", 0.05)
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    yield found
    found.close()


def brief(completions, **_):
    return [-float(len(completion_text(c))) for c in completions]


def objectives(server, cache, **more):
    reward = llm_judge(
        "How helpful?", model="judge-1", base_url=server.url, api_key_env="MY_JUDGE_KEY", cache=cache,
        request_timeout_s=2.0, **more,
    )  # fmt: skip
    return [Objective("helpful", reward, bounds=(1, 10)), Objective("brief", brief)]


def files_with(folder: Path, text: str) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_a_run_of_batches_of_96_on_a_server_that_takes_eight_at_a_time(server, tmp_path):
    server.limit, server.retry_after, server.delay_s = 8, 1, 0.002
    front, aligner = fit(
        tmp_path / "run",
        objectives(server, tmp_path / "j.sqlite"),
        prompts=PROMPTS[:24],
        eval_prompts=PROMPTS[24:],
        **SETTINGS,
    )
    assert len(front) > 0
    assert server.twice == []  # a completion that comes again is not paid again
    assert server.refused <= 16
    assert front.record.cost["judge_requests"] == server.calls
    assert front.record.cost["judge_tokens"] == 107 * len(server.asked)
    assert front.record.cost["judge_failed"] == 0
    assert "judge requests" in front.card()
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert files_with(tmp_path, KEY) == []
    assert KEY not in repr(aligner) + repr(front)


def test_a_server_that_dies_leaves_a_run_that_goes_on_and_asks_nothing_twice(server, tmp_path):
    settings = {**SETTINGS, "output_dir": tmp_path / "run"}
    # past the measurement of the untrained model: some step of training is interrupted
    server.dies_after = 150
    with pytest.raises(ObjectiveError, match="got no answer") as stopped:
        fit(
            tmp_path / "run",
            objectives(server, tmp_path / "j.sqlite"),
            prompts=PROMPTS[:24],
            eval_prompts=PROMPTS[24:],
            **SETTINGS,
        )
    assert KEY not in str(stopped.value)
    assert files_with(tmp_path, KEY) == []
    server.dies_after = None
    with pytest.warns():  # few prompts are held out
        front = make(objectives(server, tmp_path / "j.sqlite"), **settings).resume()
    assert len(front) > 0
    assert server.twice == []
    undisturbed, _ = fit(
        tmp_path / "other",
        objectives(server, tmp_path / "j.sqlite"),
        prompts=PROMPTS[:24],
        eval_prompts=PROMPTS[24:],
        **SETTINGS,
    )
    assert server.twice == []
    assert (undisturbed.values == ParetoFront.load(tmp_path / "run").values).all()


def test_a_judge_of_two_in_a_run(server, tmp_path):
    server.says = lambda body: '{"better": "A"}'
    reward = win_rate(
        llm_preference("Which?", model="m", base_url=server.url, cache=None), reference="gold", opponents=2
    )
    prompts = [{"prompt": prompt, "gold": "<0>"} for prompt in PROMPTS]
    front, _ = fit(
        tmp_path / "run", [Objective("better", reward, bounds=(0, 1)), Objective("brief", brief)], prompts=prompts[:24],
        eval_prompts=prompts[24:], **{**SETTINGS, "steps": 2},
    )  # fmt: skip
    assert front.record.cost["judge_requests"] == server.calls > 0
    assert (front.values[:, 0] == 0.5).all()  # a judge that favours what it reads first says nothing
