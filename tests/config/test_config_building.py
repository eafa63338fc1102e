"""From a config to an aligner: every keyword arrives, rewards are found, and mistakes end before anything is loaded."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pareto_align import ObjectiveError, ParetoAligner, PromptError
from pareto_align.config import OBJECTIVE_KEYS, PROMPT_KEYS, SECTIONS, load_config, settings_rows
from pareto_align.errors import ConfigError
from pareto_align.objectives import Objective
from pareto_align.objectives.text import brevity, positive_tone
from pareto_align.runs.settings import Settings
from pareto_align.weighting import Chebyshev, Fixed

DOCS = Path(__file__).parents[2] / "docs"

REWARDS = '''\
"""Rewards of a test."""

from pareto_align.weighting import Weighting


def plain(completions, **columns):
    return [1.0 for _ in completions]


def scaled(completions, factor=1.0, **columns):
    return [factor for _ in completions]


def strict(completions, limit):
    return [float(limit) for _ in completions]


def maker(value):
    return lambda completions: [value for _ in completions]


class Judge:
    def __init__(self, value=3.0):
        self.value = value

    def __call__(self, completions, **columns):
        return [self.value for _ in completions]

    @staticmethod
    def method(completions):
        return [4.0 for _ in completions]


class Tilted(Weighting):
    def __init__(self, *, gain=1.0):
        self.gain = gain

    def __call__(self, signal):
        return signal.preferences


NOT_CALLABLE = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A config's folder; modules imported from it are forgotten afterwards."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\nThree?\nFour?\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


BASIC = {
    "model": "some/model",
    "prompts": "prompts.txt",
    "objectives": [{"name": "a", "reward": "rewards:plain"}, {"name": "b", "reward": "rewards:scaled"}],
}


@pytest.fixture
def load(folder):
    def load(overrides=(), name="run.yaml", **more):
        values = {key: value for key, value in {**BASIC, **more}.items() if value is not ...}
        (folder / name).write_text(yaml.safe_dump(values))
        return load_config(folder / name, overrides)

    return load


def rewards_of(run):
    return [objective.reward(completions=["x"]) for objective in run.aligner.objectives]


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_the_keys_are_the_keywords_of_the_aligner():
    keywords = set(inspect.signature(ParetoAligner).parameters) - {"callbacks", "progress"}
    assert {*SECTIONS, *(name for name, _, _ in settings_rows())} == keywords | {
        "prompts",
        "comparisons",
        "eval_comparisons",
        "tuning",
    }
    assert set(OBJECTIVE_KEYS) - {"args"} == set(inspect.signature(Objective).parameters)


def test_every_key_arrives(load, folder):
    run = load(
        tokenizer="acme/tokenizer",
        use_chat_template=False,
        gguf_file="q8.gguf",
        device="cpu",
        dtype="float32",
        trust_remote_code=True,
        output_dir="out",
        learner="rloo",
        eval_group="topic",
        steps=7,
        learning_rate=1,
        top_p=0.9,
        lr_schedule="cosine",
        archive_capacity=3,
    )
    aligner = run.aligner
    loading = aligner.loading
    assert (loading.model, loading.tokenizer, loading.gguf_file) == ("some/model", "acme/tokenizer", "q8.gguf")
    assert (loading.device, loading.dtype, loading.trust_remote_code) == ("cpu", "float32", True)
    assert loading.use_chat_template is False
    assert aligner.output_dir == "out"
    assert type(aligner.learner).name == "rloo"
    expected = Settings(
        eval_group="topic", steps=7, learning_rate=1, top_p=0.9, lr_schedule="cosine", archive_capacity=3
    )
    assert aligner.settings == expected
    assert run.prompts == ["One?", "Two?", "Three?", "Four?"]
    assert run.eval_prompts is None


def test_what_is_left_out_is_the_aligners_default(load):
    aligner = load().aligner
    plain = ParetoAligner("some/model", list(aligner.objectives))
    for name in ("settings", "learner", "lora", "loading", "output_dir"):
        assert getattr(aligner, name) == getattr(plain, name), name
    assert type(aligner.weighting) is type(plain.weighting)


def test_paths_are_relative_to_the_config(load, folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run = load(model="./base", tokenizer="../tok", output_dir="./out")
    assert run.aligner.loading.model == str(folder / "base")
    assert run.aligner.loading.tokenizer == str(folder.parent / "tok")
    assert run.aligner.output_dir == "./out"


def test_held_out_prompts(load, folder):
    (folder / "held.jsonl").write_text('"Five?"\n"Six?"\n')
    assert load(eval_prompts=5).eval_prompts is None
    assert load(eval_prompts=5).aligner.settings.eval_prompts == 5
    assert load(eval_prompts="held.jsonl").eval_prompts == ["Five?", "Six?"]
    run = load(eval_prompts={"path": "held.jsonl", "count": 1})
    assert run.eval_prompts == ["Five?", "Six?"]
    assert run.aligner.settings.eval_prompts == 1
    assert load(eval_prompts=["Seven?", "Eight?"]).eval_prompts == ["Seven?", "Eight?"]
    assert load(["eval_prompts.count=2"], eval_prompts="held.jsonl").aligner.settings.eval_prompts == 2


def test_prompts_may_stand_in_the_config(load):
    rows = [{"prompt": "One?", "answer": 1}, {"prompt": "Two?", "answer": 2}]
    assert load(prompts=rows, eval_prompts=rows).prompts == rows


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["One?", 2], "Prompt 1: A prompt must be a string .* Found an int: 2"),
        (["One?", None], "Prompt 1: A prompt must be a string"),
        (["One?", {"Question": "what is rain?"}], "Prompt 1 is a mapping without a 'prompt'. Its keys: Question"),
        (["One?", [{"role": "user", "content": "Two?"}]], "Prompt 1 is a conversation, the first one is text"),
        (["One?", {"prompt": "Two?", "answer": 2}], r"Prompt 1 has the columns \['answer'\], the first one has \[\]"),
        ([{"prompt": "One?", 3: 4}], "Prompt 0 has the column 3; names of columns must be text"),
    ],
)
def test_inline_prompts_are_checked_at_once(load, prompts, message):
    with pytest.raises(PromptError, match=message):
        load(prompts=prompts)
    with pytest.raises(PromptError, match=message.replace("Prompt", "`eval_prompts`, prompt")):
        load(eval_prompts=prompts)


def test_whole_numbers_may_be_written_as_floats(load):
    run = load(
        ["steps=1e2", "max_tokens=1e6", "lora.r=4.0", "objectives.0.retries=0.0", "tuning.trials=1e1"],
        archive_capacity=100.0,
        tuning={"seeds": [1e1, 11]},
    )
    settings = run.aligner.settings
    found = settings.steps, settings.max_tokens, settings.archive_capacity, run.aligner.lora.r
    assert found == (100, 1_000_000, 100, 4)
    assert all(type(number) is int for number in found)
    assert run.aligner.objectives[0].retries == 0
    assert load(learning_rate=1).aligner.settings.learning_rate == 1


def test_a_folder_may_be_named_like_a_number_or_a_date(load):
    assert load(["output_dir=20261128"]).aligner.output_dir == "20261128"
    assert load(["output_dir=2026-11-28"]).aligner.output_dir == "2026-11-28"
    assert load(["output_dir=no"]).aligner.output_dir == "no"
    assert load(["output_dir="]).aligner.output_dir is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": ...}, r"needs `model`: hub id"),
        ({"prompts": ...}, "needs `prompts`"),
        ({"prompts": []}, "needs `prompts`"),
        ({"objectives": ...}, "needs `objectives`"),
        ({"model": 3}, "`model` must be text. Found 3"),
        ({"steps": "many"}, "`steps` must be a whole number. Found 'many'"),
        ({"steps": 2.5}, "`steps` must be a whole number. Found 2.5"),
        ({"steps": float("inf")}, "`steps` must be a whole number. Found inf"),
        ({"steps": True}, "`steps` must be a whole number. Found True"),
        ({"steps": 0}, "`steps` must be a whole number of at least 1"),
        ({"population": 0}, "`population` must be a whole number of at least 1"),
        ({"learning_rate": "fast"}, "`learning_rate` must be a number or null. Found 'fast'"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number"),
        ({"top_k": 1.5}, "`top_k` must be a whole number or null"),
        ({"use_chat_template": "no"}, "`use_chat_template` must be true or false or null"),
        ({"trust_remote_code": 1}, "`trust_remote_code` must be true or false. Found 1"),
        ({"eval_prompts": 1.5}, "`eval_prompts` must be a whole number. Found 1.5"),
        ({"eval_prompts": {"count": "x"}}, "`eval_prompts` must be a whole number. Found 'x'"),
        ({"eval_prompts": {"path": 3}}, "`eval_prompts` must be the path of a file, a list of prompts, or a mapping"),
        ({"prompts": 3}, "`prompts` must be the path"),
        ({"weighting": "chebishev"}, "Unknown weighting 'chebishev'. Did you mean 'chebyshev'"),
        ({"weighting": {"name": "chebyshev", "um": 1}}, r"`weighting` 'chebyshev' has no setting 'um'. Known: mu, "),
        ({"weighting": {"name": "fixed", "mu": 1}}, "`weighting` 'fixed' has no setting 'mu'. It takes none"),
        ({"weighting": {"mu": -1}}, "`mu` must be a positive number"),
        ({"weighting": 3}, "`weighting` must be a name, or a mapping with a `name`. Found 3"),
        ({"weighting": "rewards:plain"}, "rewards:plain is no subclass of Weighting"),
        ({"weighting": "rewards:Tiltde"}, r"has no 'Tiltde'. Did you mean 'Tilted'\?"),
        ({"explorer": "gird"}, "Unknown explorer 'gird'. Did you mean 'grid'"),
        (
            {"explorer": {"name": "grid", "margn": 0.1}},
            r"`explorer` 'grid' has no setting 'margn'. Did you mean 'margin'",
        ),
        ({"explorer": {"name": "grid", "margin": 2}}, "`margin` must be a number of at least 0 and below 1"),
        ({"learner": "rlooo"}, "Unknown learner 'rlooo'. Did you mean 'rloo'"),
        ({"learner": {"name": "rvpo", "kk": 1}}, r"`learner` 'rvpo' has no setting 'kk'. Did you mean 'k'\?"),
        ({"learner": {"name": "rvpo", "k": "a"}}, "^`learner` 'rvpo': `k` must be a positive number. Found 'a'"),
        ({"weighting": {"name": "stch", "mu": "a"}}, "^`weighting` 'stch': `mu` must be a positive number. Found 'a'"),
        ({"explorer": {"name": "soups", "kinds": "search"}}, "^`explorer` 'soups': `kinds` must be a list of"),
        ({"lr": 0.1}, "Did you mean 'learning_rate'"),
        ({"learner": 3}, "`learner` must be a name, or a mapping with a `name`. Found 3"),
        (
            {"weighting": {"name": "chebyshev", "margn": 1}},
            r"`weighting` 'chebyshev' has no setting 'margn'. Known: mu, ",
        ),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"lora": {"rank": 3}}, r"Unknown key 'rank' in `lora`. Did you mean 'r'\?"),
        ({"lora": {"rr": 8}}, r"Unknown key 'rr' in `lora`. Did you mean 'r'\?"),
        ({"lora": {"r": 0}}, "`lora.r` must be at least 1"),
        ({"lora": {"r": "big"}}, "`lora.r` must be a whole number. Found 'big'"),
        ({"lora": 8}, "`lora` must map keys to values. Found 8"),
    ],
)
def test_wrong_values_are_named(load, more, message):
    with pytest.raises(ConfigError, match=message):
        load(**more)


def test_a_prompt_file_that_is_not_there(load):
    with pytest.raises(PromptError, match=r"Cannot read the prompts in .*none\.txt"):
        load(prompts="none.txt")


def test_a_wrong_setting_is_found_before_any_code_of_the_user_runs(load, folder):
    (folder / "rewards.py").write_text("raise SystemExit('imported')")
    with pytest.raises(ConfigError, match="`steps`"):
        load(steps=0)


# ---- sections --------------------------------------------------------------------------------------------------------


def test_weightings(load):
    assert type(load(weighting="fixed").aligner.weighting) is Fixed
    weighting = load(weighting={"name": "chebyshev", "mu": 0.2, "ideal": [1, 1]}).aligner.weighting
    assert type(weighting) is Chebyshev
    assert weighting.mu == 0.2
    assert load(["weighting.mu=0.3"]).aligner.weighting.mu == 0.3
    assert load(weighting={"name": "rewards:Tilted", "gain": 2.0}).aligner.weighting.gain == 2.0


def test_learners(load):
    from pareto_align.learning.credit import Grpo, Rvpo, available_credits

    assert type(load(learner="grpo").aligner.learner) is Grpo
    learner = load(learner={"name": "rvpo", "k": 2.0}).aligner.learner
    assert type(learner) is Rvpo
    assert learner.k == 2.0
    assert load(["learner.k=3.0"], learner="rvpo").aligner.learner.k == 3.0
    assert load(learner=None).aligner.learner == "grpo"
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    for name in available_credits():  # the command line's help and the documents know them all
        assert re.search(rf"\b{name}\b", SECTIONS["learner"])
        assert f"`{name}`" in concepts.partition("## Credit")[2].partition("\n## ")[0]


def test_independent_policies_are_those_of_a_config_that_says_so(load):
    for said in ("independent", {"name": "independent"}):
        found = load(family=said).aligner
        assert (found.family, found.explorer.name) == ("independent", "discover")
    assert load(["family=independent"]).aligner.family == "independent"
    assert load(family=None).aligner.family == load().aligner.family == "gates"
    assert load(family={"name": "gates", "shared": 4}).aligner.family.shared == 4
    with pytest.raises(ConfigError, match="independent"):
        load(family="independant")


def test_explorers(load):
    explorer = load(explorer={"name": "grid", "margin": 0.1}).aligner.explorer
    np.testing.assert_allclose(explorer.preferences(["a", "b"], 2, 0), [[0.9, 0.1], [0.1, 0.9]])
    explorer = load(explorer={"name": "grid", "preferences": [{"a": 3, "b": 1}, [0, 2]]}, population=2).aligner.explorer
    np.testing.assert_allclose(explorer.preferences(["a", "b"], 2, 0), [[0.75, 0.25], [0, 1]])


def test_lora(load):
    from pareto_align.policies import default_lora_config

    default = default_lora_config()
    found = load(lora={"r": 16}).aligner.lora
    assert (found.r, found.lora_alpha, found.lora_dropout) == (16, 32, 0.0)
    assert found.target_modules == default.target_modules
    assert load(lora={}).aligner.lora == default
    found = load(lora={"r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]}).aligner.lora
    assert (found.lora_alpha, found.target_modules, found.layers_to_transform) == (4, {"q_proj"}, [0])
    assert load(["lora.r=2"]).aligner.lora.r == 2


# ---- rewards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({"reward": "rewards:plain"}, 1.0),
        ({"reward": "rewards.plain"}, 1.0),
        ({"reward": "rewards:scaled", "args": {"factor": 2.0}}, 2.0),
        ({"reward": "rewards:scaled", "args": {}}, 1.0),
        ({"reward": "rewards:strict", "args": {"limit": 5}}, 5.0),
        ({"reward": "rewards:maker", "args": {"value": 6.0}}, 6.0),
        ({"reward": "rewards:Judge"}, 3.0),
        ({"reward": "rewards:Judge", "args": {"value": 8.0}}, 8.0),
        ({"reward": "rewards:Judge.method"}, 4.0),
    ],
)
def test_rewards_are_found_and_made(load, spec, value):
    run = load(objectives=[{"name": "a", **spec}])
    assert rewards_of(run) == [[value]]
    assert run.aligner.objectives.score(["p"], ["x"]).tolist() == [[value]]


def test_ready_made_rewards(load):
    run = load(
        objectives=[
            {"name": "short", "reward": "pareto_align.objectives.text:brevity", "args": {"max_words": 20}},
            {"name": "tone", "reward": "pareto_align.objectives.positive_tone", "args": {"clip_negative": True}},
        ]
    )
    assert [objective.reward for objective in run.aligner.objectives] == [brevity(20), positive_tone(True)]


@pytest.mark.filterwarnings("ignore:.*thresholds")
def test_all_of_an_objective_arrives(load):
    run = load(
        objectives=[
            {"name": "a", "reward": "rewards:plain", "bounds": [0, 2], "maximize": False},
            {"name": "b", "reward": "rewards:plain", "role": "audit"},
            {"name": "c", "reward": "rewards:plain", "role": "constrain", "at_least": 0.5},
        ]
    )
    a, b, c = run.aligner.objectives
    assert (a.name, a.bounds, a.maximize, a.role) == ("a", (0.0, 2.0), False, "optimize")
    assert b.role == "audit"
    assert (c.role, c.at_least) == ("constrain", 0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"reward": "rewards:plain", "name": ...}, "`objectives.0` needs a `name`, as text. Found None"),
        ({"name": "a"}, "`objectives.0` needs a `reward`"),
        ({"reward": "brevity"}, "Objective 'a': 'brevity' does not say where to find it. Write module:attribute"),
        ({"reward": "rewards:"}, "does not say where"),
        ({"reward": "rewards:plan"}, r"rewards:plan has no 'plan'. Did you mean 'plain'\?"),
        ({"reward": "reward:plain"}, "there is no module 'reward', neither in .* nor installed"),
        ({"reward": "pareto_align.objectives.txt:brevity"}, "there is no module 'pareto_align.objectives.txt'"),
        ({"reward": "rewards:NOT_CALLABLE"}, "is 3, which cannot be called"),
        ({"reward": "rewards:plain", "args": [1]}, r"`args` must map names to values. Found \[1\]"),
        ({"reward": "rewards:strict", "args": {"limti": 1}}, r"has no setting 'limti'. Did you mean 'limit'\?"),
        ({"reward": "rewards:Judge", "args": {"valeu": 1}}, "has no setting 'valeu'. Did you mean 'value'"),
        ({"reward": "rewards:maker", "args": {}}, "rewards:maker cannot be made with {}: .*missing 1 required"),
        (
            {"reward": "pareto_align.objectives.text:brevity", "args": {"max_words": 1}},
            "Objective 'a': .*brevity: max_words must be a whole number of at least 2",
        ),
        ({"reward": "broken:plain"}, "importing broken failed: ZeroDivisionError"),
        ({"reward": "needy:plain"}, "needy needs the module 'no_such_module', which is not installed"),
    ],
)
def test_rewards_that_cannot_be_had(load, folder, spec, message):
    (folder / "broken.py").write_text("1 / 0")
    (folder / "needy.py").write_text("import no_such_module")
    spec = {key: value for key, value in {"name": "a", **spec}.items() if value is not ...}
    with pytest.raises(ConfigError, match=message):
        load(objectives=[spec])


def test_objectives_say_themselves_what_is_wrong_with_them(load):
    with pytest.raises(ObjectiveError, match=re.escape("did you mean (0, 1)?")):
        load(objectives=[{"name": "a", "reward": "rewards:plain", "bounds": [1, 0]}])
    with pytest.raises(ObjectiveError, match="'a'"):
        load(objectives=[BASIC["objectives"][0], BASIC["objectives"][0]])
    with pytest.raises(ObjectiveError, match="if the function makes"):
        load(objectives=[{"name": "a", "reward": "rewards:maker"}])


def test_two_configs_may_each_have_a_module_of_one_name(load, folder, tmp_path_factory):
    first = load()
    other = tmp_path_factory.mktemp("other")
    (other / "rewards.py").write_text("def plain(completions):\n    return [9.0 for _ in completions]\n")
    (other / "run.yaml").write_text(
        yaml.safe_dump({**BASIC, "prompts": ["One?"], "objectives": [{"name": "a", "reward": "rewards:plain"}]})
    )
    second = load_config(other / "run.yaml")
    assert rewards_of(second) == [[9.0]]
    assert rewards_of(first) == [[1.0], [1.0]]
    assert rewards_of(load()) == [[1.0], [1.0]]


# ---- documentation ---------------------------------------------------------------------------------------------------


def test_reading_a_config_loads_no_torch():
    code = (
        "import sys\nfrom pareto_align.config import load_config\n"
        f"load_config({str(DOCS / 'examples' / 'fit.yaml')!r}, ['lora='])\nprint('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_example_is_valid(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = load_config(DOCS / "examples" / "fit.yaml")
    assert run.aligner.objectives.names == ("friendly", "brevity", "variety")
    assert list(run.aligner.objectives.axes) == [0, 1]
    assert run.aligner.settings.learning_rate == 2e-3
    assert run.aligner.settings.population == 5
    assert len(run.prompts) == len(set(run.prompts)) >= 4 * run.aligner.settings.eval_prompts
    rewards = run.aligner.objectives.score(["Hi"], ["I am glad, and happy to see you."])
    np.testing.assert_allclose(rewards, [[0.5, 32 / 39, 1.0]])
    assert run.aligner.explorer.preferences(["friendly", "brevity"], 5, 0).min() == pytest.approx(0.1)


def test_every_key_is_documented():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for name, default, meaning in settings_rows():
        assert f"| `{name}` | `{default}` | {meaning} |\n" in text
    named = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, flags=re.MULTILINE))
    found = {key for cell in named for key in re.findall(r"`(\w+)`", cell)}
    assert found == {*SECTIONS, *OBJECTIVE_KEYS, *PROMPT_KEYS, *(name for name, _, _ in settings_rows())}


def test_the_documented_objectives_and_overrides_work(load, folder):
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    (folder / "rewards.py").write_text("def polite(completions, **columns):\n    return [1.0 for _ in completions]\n")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "judges.py").write_text(
        "def toxicity(completions):\n    return [0.0 for _ in completions]\n"
    )
    [block] = re.findall(r"```yaml\n(objectives:.*?)```", text, flags=re.DOTALL)
    objectives = yaml.safe_load(block)["objectives"]
    lines = re.findall(r"^pareto-align fit fit.yaml (.*)$", text, flags=re.MULTILINE)
    assert len(lines) == 2
    with pytest.warns(match="thresholds"):
        first = load(shlex.split(lines[0]), objectives=objectives).aligner
    second = load(shlex.split(lines[1]), objectives=objectives).aligner
    assert second.weighting.name == "lagrangian"
    assert (first.settings.steps, first.lora.r, first.weighting.mu) == (20, 16, 0.1)
    assert second.objectives.names == ("brevity", "polite", "toxicity")
    assert len(second.explorer.given) == second.settings.population == 2


def test_an_objective_may_have_labels_in_place_of_a_reward(load):
    labels = {"name": "safe", "prefers": "safer_response_id"}
    run = load(objectives=[{"name": "a", "reward": "rewards:plain"}, labels])
    assert run.aligner.objectives[1].prefers == "safer_response_id"
    assert run.aligner.objectives[1].reward is None
    with pytest.raises(ConfigError, match=r"`objectives.0` needs a `reward`"):
        load(objectives=[{"name": "safe"}])


def test_a_config_of_0_1_0_means_what_it_meant(tmp_path):
    """With every setting that there was, as a run of then took them down."""
    record = json.loads((Path(__file__).parents[1] / "fixtures/run-0.1.0/run.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in record["config"].items() if value is not None}
    settings["weighting"] = {"name": "chebyshev", "mu": 0.05, "tau": 0.0, "ideal": [1, 1], "nadir": [0, 0]}
    reward = {"reward": "pareto_align.objectives.text:brevity", "args": {"max_words": 40}, "bounds": [0, 1]}
    objectives = [{"name": name, **reward} for name in ("a", "b")]
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"model": "a/model", "prompts": ["x", "y"], "objectives": objectives, **settings}))
    aligner = load_config(path).aligner
    for key in settings.keys() - {"weighting", "learner", "explorer"}:
        assert getattr(aligner.settings, key) == settings[key], key
    assert (aligner.weighting.name, aligner.weighting.mu, aligner.learner.name) == ("chebyshev", 0.05, "centred")
    assert (aligner.explorer.name, aligner.family) == ("discover", "independent")
