"""A whole fit with a gradient-based weighting, activated adapters and checkpointed layers."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import lora, tiny_model

from pareto_align import Objective, ParetoAligner
from pareto_align.errors import ConfigError, PromptError
from pareto_align.learning import OnlineLearner
from pareto_align.testing.tiny import symbol_tokenizer


def share_of(letters):
    return lambda completions, **_: [sum(c in letters for c in text) / 4 for text in completions]


def aligner(**settings):
    objectives = [
        Objective("first", share_of("abcdef"), bounds=(0, 1)),
        Objective("last", share_of("ghijkl"), bounds=(0, 1)),
    ]
    small = {
        "population": 2,
        "steps": 2,
        "prompts_per_step": 2,
        "group_size": 3,
        "max_new_tokens": 4,
        "eval_prompts": 2,
        "family": "independent",
        "learner": "centred",
    }
    return ParetoAligner(
        tiny_model(), objectives, tokenizer=symbol_tokenizer(12, 4), **{"eval_every": 1, **small, **settings}
    )


PROMPTS = [f"<{i % 4}>{'abc'[: i % 3]}dh" for i in range(8)]


@pytest.mark.parametrize("weighting", ["mgda", "gradient", "epo"])
def test_a_fit_by_gradients(weighting, tmp_path, monkeypatch):
    """Every step's update is the weighted sum of the gradients that the weighting saw the Gramians of."""
    taken, step = [], OnlineLearner.step

    def watched(self, rollouts, weights, rate, *, gradients, **options):
        report = step(self, rollouts, weights, rate, gradients=gradients, **options)
        sums = torch.einsum("km,kmp->kp", torch.from_numpy(weights).float(), gradients.gradients)
        taken.append(torch.equal(self.population.grad, -sums) and gradients.gramians.shape == (2, 2, 2))
        return report

    monkeypatch.setattr(OnlineLearner, "step", watched)
    front = aligner(weighting=weighting).fit(PROMPTS, output_dir=tmp_path / "run")
    assert taken == [True, True]
    assert len(front) >= 1


def test_a_fit_of_activated_adapters_saves_stock_ones(tmp_path):
    config = lora(alora_invocation_tokens=[3, 7])
    settings = {"lora": config, "gradient_checkpointing": True, "kl_coef": 0.1}
    front = aligner(**settings).fit(PROMPTS, output_dir=tmp_path / "run")
    saved = json.loads((front[0].adapter_path / "adapter_config.json").read_text())
    assert saved["alora_invocation_tokens"] == [3, 7]


def test_activated_adapters_without_their_turn_are_refused_before_training(tmp_path):
    with pytest.raises(PromptError, match="does not stand in a prompt"):
        aligner(lora=lora(alora_invocation_tokens=[3, 7])).fit(["<0>ab"] * 8, output_dir=tmp_path / "a")
    with pytest.raises(ConfigError, match="there is no chat template"):
        aligner(activated=True).fit(PROMPTS, output_dir=tmp_path / "b")
