"""Fitting from a config and talking to what came out, on a model of a few thousand parameters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from pareto_align.result import ParetoFront


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """The project's folder is importable while its config is read, and not afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("rewards", None)
    sys.modules.pop("trouble", None)


@pytest.fixture
def typed(monkeypatch):
    """Lines on stdin; `person=True` makes it a terminal."""

    def type_lines(*lines, person=False):
        stream = io.StringIO("".join(f"{line}\n" for line in lines))
        stream.isatty = lambda: person
        monkeypatch.setattr(sys, "stdin", stream)

    return type_lines


def members(folder):
    return [member.id for member in ParetoFront.load(folder)]


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_fit_does_what_the_config_says(fitted):
    front = ParetoFront.load(fitted)
    assert front.names == ("friendly", "short")
    assert len(front) > 1, "the tests of chat switch between members"
    assert front.record.config["steps"] == 60
    assert front.record.config["learning_rate"] == 0.02
    assert json.loads((front[0].adapter_path / "adapter_config.json").read_text())["r"] == 2
    assert sum(event["event"] == "step" for event in front.history) == 60


def test_fit_with_overrides_prints_json(cli, project, tmp_path):
    arguments = ["fit", project / "run.yaml", "steps=1", "--json", f"output_dir={tmp_path / 'run'}", "lora.r=3"]
    found = cli(*arguments)
    assert found.code == 0, found.err
    assert found.json()["run"] == str(tmp_path / "run")
    front = ParetoFront.load(tmp_path / "run")
    assert [member["id"] for member in found.json()["members"]] == [member.id for member in front]
    assert front.record.config["steps"] == 1
    assert json.loads((front[0].adapter_path / "adapter_config.json").read_text())["r"] == 3


def test_fit_refuses_before_it_loads_a_model(cli, project, fitted):
    found = cli("fit", project / "run.yaml", "stpes=1")
    assert found.code == 2
    assert found.err == f"error: Unknown key 'stpes' in {project / 'run.yaml'}. Did you mean 'steps'?\n"
    found = cli("fit", project / "run.yaml", f"output_dir={fitted}")
    assert found.code == 2
    assert "already holds a run" in found.err
    found = cli("fit", project / "none.yaml")
    assert found.code == 2
    assert found.err.startswith("error: Cannot read the config")


def test_a_reward_that_raises_leaves_a_front_that_loads(cli, project, tmp_path):
    (project / "trouble.py").write_text(
        "calls = 0\n\n\ndef fails(completions, **columns):\n    global calls\n    calls += 1\n"
        "    if calls > 4:\n        raise RuntimeError('the judge is gone')\n"
        "    return [len(text) / 100 for text in completions]\n"
    )
    arguments = ["objectives.1.reward=trouble:fails", "steps=9", "eval_every=1", f"output_dir={tmp_path / 'run'}"]
    found = cli("fit", project / "run.yaml", *arguments)
    assert found.code == 2
    assert found.err.count("error: ") == 1
    assert "the judge is gone" in found.err
    assert str(tmp_path / "run" / "front") in found.err, "the error says where the front found so far is"
    assert cli("front", tmp_path / "run").code == 0


def test_the_program_is_quiet_where_nobody_watches(project, fitted):
    """Neither transformers nor tqdm writes to a log; stdout holds the answer alone."""
    code = "import sys; from pareto_align.cli import main; sys.exit(main())"
    arguments = ["chat", str(fitted), "--prompt", "do you like tea", "--json", "--seed", "1"]
    env = {name: value for name, value in os.environ.items() if name not in ("TRANSFORMERS_VERBOSITY",)}
    env.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout).keys() == {"member", "prompt", "completion"}


# ---- chat ------------------------------------------------------------------------------------------------------------


def test_chat_answers_one_prompt_with_the_selected_member(cli, fitted):
    front = ParetoFront.load(fitted)
    wanted = front.select({"friendly": 1}).member
    arguments = ["chat", fitted, "--prefer", "friendly=1", "--prompt", "do you like tea", "--temperature", 0, "--json"]
    found = cli(*arguments).json()
    assert found["member"] == wanted.id
    assert found["prompt"] == "do you like tea"
    chat = [{"role": "system", "content": "you like tea"}, {"role": "user", "content": "do you like tea"}]
    assert found["completion"] == wanted.generate([chat], do_sample=False)[0], "the run's system message is sent along"
    plain = cli(*arguments, "--system", "").json()["completion"]
    assert plain == wanted.generate(["do you like tea"], do_sample=False)[0]


def test_chat_with_a_member_by_name(cli, fitted):
    for name in members(fitted)[:2]:
        found = cli("chat", fitted, "--member", name, "--prompt", "tea", "--json").json()
        assert found["member"] == name


def test_a_seed_makes_answers_repeat(cli, fitted):
    def answer(seed):
        return cli("chat", fitted, "--prompt", "do you like tea", "--seed", seed, "--max-new-tokens", 20).out

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(6)}) > 1, "answers are sampled, as in training"


@pytest.mark.parametrize("word", ["quit", "exit", ":q", "/quit", "/exit"])
def test_chat_ends_at_what_people_type(cli, fitted, typed, word):
    typed(word, "never asked")
    found = cli("chat", fitted)
    assert (found.code, found.out) == (0, "")


def test_lines_are_answered_one_by_one(cli, fitted, typed):
    typed("do you like tea", "", "  do you like rain ", "/quit", "never asked")
    found = cli("chat", fitted, "--json", "--temperature", 0)
    assert found.code == 0, found.err
    answers = [json.loads(line) for line in found.out.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["do you like tea", "do you like rain"]
    alone = cli("chat", fitted, "--json", "--temperature", 0, "--prompt", "do you like rain").json()
    assert answers[1]["completion"] == alone["completion"], "a line is a prompt of its own"


def test_the_conversation_is_sent_along_when_asked(cli, fitted, typed, monkeypatch):
    from pareto_align.result import Member

    asked = []
    monkeypatch.setattr(Member, "generate", lambda self, prompts, **kw: asked.extend(prompts) or ["a cat"])
    typed("one", "two", "/forget", "three")
    assert cli("chat", fitted, "--remember").code == 0
    roles = [[turn["role"] for turn in prompt] for prompt in asked]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"], ["system", "user"]]
    assert asked[1][2] == {"role": "assistant", "content": "a cat"}


def test_the_runs_sampling_is_used_unless_another_is_asked_for(cli, fitted, monkeypatch):
    from pareto_align.result import Member

    options = []
    monkeypatch.setattr(Member, "generate", lambda self, prompts, **kw: options.append(kw) or ["x"])
    cli("chat", fitted, "--prompt", "tea")
    cli("chat", fitted, "--prompt", "tea", "--temperature", "0.5", "--max-new-tokens", "3")
    cli("chat", fitted, "--prompt", "tea", "--temperature", "0")
    assert options == [
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 3},
        {"do_sample": False},
    ]


def test_a_person_can_switch_members_and_slip(cli, fitted, typed):
    names = members(fitted)
    lines = [
        "/prefer friendly=1",
        "/prefer frindly=1",
        "/prefer",
        f"/member {names[0]}",
        "/member zzz",
        "/help",
        "/perfer a=1",
        "tea",
    ]
    typed(*lines, person=True)
    found = cli("chat", fitted, "--json")
    assert found.code == 0
    assert found.err.count("error: ") == 4
    assert "There is no command /perfer. Did you mean '/prefer'?" in found.err
    assert "/member ID" in found.err
    assert "System message: you like tea" in found.err
    assert f'"member": "{names[0]}"' in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--member", "zzz", "--prompt", "x"], "This front has no member 'zzz'. Did you mean"),
        (["--member", "m0", "--prefer", "friendly=1"], "not both"),
        (["--prefer", "frendly=1", "--prompt", "x"], "friendly"),
        (["--prompt", " "], "empty"),
    ],
)
def test_what_cannot_be_asked(cli, fitted, arguments, message):
    found = cli("chat", fitted, *arguments)
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert message in found.err


def test_a_slip_in_piped_prompts_ends_with_an_error(cli, fitted, typed):
    typed("/member zzz", "tea")
    found = cli("chat", fitted)
    assert found.code == 2
    assert found.out == ""


# ---- select --like ---------------------------------------------------------------------------------------------------


def test_comparisons_choose_a_member(cli, fitted, tmp_path):
    answers = {"chosen": "tea", "rejected": "I do not like snow and rain"}
    rows = [{"prompt": f"do you like {thing}", **answers} for thing in ("tea", "cats")]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = cli("select", fitted, "--like", file, "--json")
    assert found.code == 0, found.err
    assert found.json()["rule"] == "like"
    assert set(found.json()["posterior"]) == set(members(fitted))
    assert found.json()["member"] == max(found.json()["posterior"].items(), key=lambda one: one[1])[0]
    assert "bits a comparison" in cli("select", fitted, "--like", file).out
    for arguments, words in (
        (["--like", file, "--prefer", "short=1"], "Leave out --prefer"),
        (["--column", "chosen"], "--like"),
    ):
        refused = cli("select", fitted, *arguments)
        assert refused.code != 0
        assert words in refused.err


def test_a_front_of_a_run_that_has_not_ended_says_so(cli, fitted, monkeypatch):
    assert "note:" not in cli("front", fitted).err
    half = ParetoFront.load(fitted)
    half.record.split = "select"
    half.history = [event for event in half.history if event["event"] != "end"]
    monkeypatch.setattr(ParetoFront, "load", lambda *_, **__: half)
    found = cli("front", fitted)
    assert found.code == 0
    assert "note: the run has not ended: step " in found.err
