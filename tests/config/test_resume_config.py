"""Resuming a run without its config: only what is this package's own is imported on the word of a run folder."""

from __future__ import annotations

import pytest

from pareto_align import ConfigError
from pareto_align.config import load_config, load_origin

CONFIG = """
model: nowhere
prompts: [a, b]
objectives:
  - {name: brevity, reward: pareto_align.objectives.text.token_brevity, args: {max_tokens: 20}, bounds: [0, 1]}
  - {name: tone, reward: pareto_align.objectives.text.positive_tone, bounds: [0, 1]}
weighting: {name: gradient, lr: 0.5}
lora: {r: 4}
learning_rate: 1e-3
"""


def test_the_aligner_comes_back_as_it_was(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.replace("nowhere", "./here"))
    begun = load_config(path, ["steps=7", "eval_prompts=5"]).aligner
    again = load_origin(begun.origin, "run").aligner
    assert again.settings == begun.settings
    assert again.settings.steps == 7
    assert again.loading.model == begun.loading.model == str(tmp_path / "here")
    assert again.objectives.names == begun.objectives.names
    assert again.weighting.lr == 0.5
    assert again.lora.r == 4


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["objectives.0.reward=my_rewards:brevity"], "my_rewards:brevity"),
        (["objectives.0.reward=os.system"], "os.system"),
        (["objectives.0.reward=pareto_align.objectives.text:math.fsum"], "math.fsum"),
        (["objectives.0.reward=pareto_align.objectives.calling.inspect"], "inspect"),
        (["objectives.0.reward=pareto_align.objectivesx.f"], "objectivesx"),
        (["objectives.0.args={rewards: [{reward: os.system}]}"], "os.system"),
        (["weighting=mine:Weighting"], "mine:Weighting"),
        (["weighting={name: 'mine:Weighting'}"], "mine:Weighting"),
        (["explorer=mine:Explorer"], "mine:Explorer"),
        (["learner=mine:Credit"], "mine:Credit"),
    ],
)
def test_code_of_others_is_not_imported(overrides, named, tmp_path, monkeypatch):
    from pareto_align.config.reading import read_config

    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    values = read_config(path, overrides)
    monkeypatch.setattr("pareto_align.config.building._aligner", lambda *_: pytest.fail("it was built"))
    with pytest.raises(ConfigError, match="--config") as error:
        load_origin({"command": "fit", "config": values}, "run")
    assert named in str(error.value)


@pytest.mark.parametrize("override", ["trust_remote_code=true", "objectives.0.args.trust_remote_code=true"])
def test_trust_is_not_taken_from_a_folder(override, tmp_path):
    from pareto_align.config.reading import read_config

    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    with pytest.raises(ConfigError, match="trusted code"):
        load_origin({"command": "fit", "config": read_config(path, [override])}, "run")


@pytest.mark.parametrize("unknown", [None, {}, [], "fit", {"config": 3}])
def test_a_run_from_python_is_resumed_from_python(unknown):
    with pytest.raises(ConfigError, match="Python"):
        load_origin(unknown, "run")
