"""Preferences of the slots, and settings that agree wherever they are written down."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields

import numpy as np
import pytest
from aligner_runs import fit, make

from pareto_align import ParetoAligner
from pareto_align.discovery import Explorer, Grid, Settings, make_explorer
from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.learning import losses
from pareto_align.runs import settings as settings_module
from pareto_align.runs.settings import settings_help
from pareto_align.testing.problems import get_problem

NAMES = ["tone", "brevity"]


def test_the_grid_is_even_and_has_its_corners():
    found = make_explorer("grid").preferences(NAMES, 5, 0)
    assert np.allclose(found[:, 0], [1, 0.75, 0.5, 0.25, 0]) or np.allclose(found[:, 0], [0, 0.25, 0.5, 0.75, 1])
    assert np.allclose(found.sum(1), 1)


def test_a_margin_pulls_the_grid_in():
    found = Grid(margin=0.1).preferences(NAMES, 5, 0)
    assert found.min() == pytest.approx(0.1)
    assert np.allclose(found.sum(1), 1)


def test_given_preferences_are_taken_in_their_order():
    found = Grid([{"brevity": 3, "tone": 1}, [1, 0]]).preferences(NAMES, 2, 0)
    assert np.allclose(found, [[0.25, 0.75], [1, 0]])


@pytest.mark.parametrize(
    ("explorer", "error", "said"),
    [
        (lambda: make_explorer("grit"), ConfigError, "Did you mean 'grid'"),
        (lambda: make_explorer(3), ConfigError, "`explorer` must be a name"),
        (lambda: Grid(margin=-0.1), ConfigError, "`margin` .* Found -0.1"),
        (lambda: Grid(margin=math.nan), ConfigError, "`margin` .* Found nan"),
        (lambda: make_explorer({"name": "grid", "margin": "a"}), ConfigError, "`margin` .* Found 'a'"),
        (
            lambda: make_explorer({"name": "grid", "margin": None}),
            ConfigError,
            "`margin` .* Found None",
        ),
        (
            lambda: make_explorer({"name": "grid", "preferences": 3}),
            ConfigError,
            "'grid': `preferences` must be a list of preferences",
        ),
        (lambda: make_explorer({"name": "grid", "margn": 0.1}), ConfigError, "'margn'.*Did you mean 'margin'"),
        (lambda: Grid(margin=0.5).preferences(NAMES, 3, 0), ConfigError, "`margin` must be below 1/m = 0.5 for 2"),
        (lambda: Grid([[1, 0]]).preferences(NAMES, 3, 0), ConfigError, "Found 1 for a population of 3"),
        (lambda: Grid([{"tome": 1}]).preferences(NAMES, 1, 0), PreferenceError, "tone"),
        (lambda: Grid([[1, -1]]).preferences(NAMES, 1, 0), PreferenceError, ""),
        (lambda: Grid([[0, 0]]).preferences(NAMES, 1, 0), PreferenceError, ""),
    ],
)
def test_what_makes_no_preferences(explorer, error, said):
    with pytest.raises(error, match=said or None):
        explorer()


def test_an_explorer_of_ones_own_is_taken_as_it_is():
    class Mine(Explorer):
        name = "mine"

        def preferences(self, names, population, seed):
            return np.full((population, len(names)), 1 / len(names))

    mine = Mine()
    assert make_explorer(mine) is mine


# -------------------------------------------------------------------------------------------------- settings


def test_every_setting_is_a_keyword_of_the_aligner_with_the_same_default():
    keywords = inspect.signature(ParetoAligner).parameters
    for field in fields(Settings):
        assert keywords[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert keywords[field.name].default == field.default, field.name
        assert keywords[field.name].annotation == field.type, field.name
    given = {field.name: _other(field) for field in fields(Settings)}
    aligner = ParetoAligner("nowhere", [_objective()], **given)
    assert aligner.settings == Settings(**given)


def _objective():
    from pareto_align import Objective

    return Objective("n", lambda completions, **_: [0.0] * len(completions))


def _other(field):
    """A valid value that is not the default: one that got lost on the way would be noticed."""
    special = {"lr_schedule": "cosine", "kl": "k3", "aggregation": "token", "top_p": 0.5, "max_grad_norm": 2.0}
    special |= {"layout": "dense", "gradient_checkpointing": True, "activated": True, "max_tokens": 10**6}
    special |= {"rollout_correction": "sequence_mask"}
    special |= {"eval_group": "topic", "sampler": "eager", "deterministic": True, "kl_limit": 0.5, "optimizer": "lion"}
    special |= {"overlap": "bounded"}
    if field.name in special:
        return special[field.name]
    return 7 if field.default is None or isinstance(field.default, int) else field.default + 0.25


def test_every_setting_says_what_it_is_for():
    assert settings_help().keys() == {field.name for field in fields(Settings)}
    assert all(len(field.metadata["help"]) > 5 for field in settings_help().values())


def test_a_limit_on_the_first_update_is_refused():
    with pytest.raises(ConfigError, match="`kl_limit` does nothing with updates_per_rollout=1"):
        Settings(kl_limit=0.5)
    assert Settings(kl_limit=0.5, updates_per_rollout=2).kl_limit == 0.5


COUNTS = [
    "population", "steps", "prompts_per_step", "group_size", "max_new_tokens", "updates_per_rollout", "eval_every",
    "eval_prompts", "eval_group_size", "stall_patience", "micro_batch_tokens", "top_k", "archive_capacity",
]  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_are_whole_and_positive(name, value):
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"lr_schedule": "exponential"}, "exponential"),
        ({"sampler": "sglang"}, "sampler.*auto, eager, graphs, vllm.*sglang"),
        ({"sampler": {"name": "eager", "sleep": True}}, "'eager' takes no settings"),
        ({"sampler": {"sleep": True}}, "sampler.*None"),
        ({"sampler": {"name": "vllm", "slep": True}}, "no setting 'slep'.*sleep"),
        ({"sampler": {"name": "vllm", "gpu_memory_utilization": 0}}, "gpu_memory_utilization.*above 0"),
        ({"rollout_correction": "tis"}, "rollout_correction.*token_truncate.*tis"),
        ({"rollout_cap": 0.0}, "rollout_cap.*positive"),
        ({"deterministic": "yes"}, "deterministic"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"resolution": -1.0}, "resolution"),
        ({"resolution": math.nan}, "resolution"),
    ],
)
def test_numbers_out_of_range(settings, named):
    with pytest.raises(ConfigError, match=named):
        Settings(**settings)


@pytest.mark.parametrize("name", ["seed", "remeasure_rounds"])
@pytest.mark.parametrize("value", ["a", 1.5, None, -1, True])
def test_counts_that_may_be_zero(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` must be a whole number of at least 0. Found {name}={value!r}"):
        Settings(**{name: value})
    assert getattr(Settings(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", ["temperature", "weight_decay", "kl_coef", "clip", "resolution"])
@pytest.mark.parametrize("value", ["1e-3", None, True])
def test_a_number_is_asked_for_by_name(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` must be a number"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "learning_rate",
        "weight_decay",
        "kl_coef",
        "clip",
        "resolution",
        "top_p",
        "max_grad_norm",
        "max_seconds",
    ],
)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_a_number_is_finite(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` must be a finite number. Found {name}="):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adam"}, "`optimizer` must be one of adamw, lion. Found 'adam'"),
        ({"kl": "k2"}, "`kl` must be one of k1, k3. Found 'k2'"),
        ({"aggregation": "mean"}, "`aggregation` must be one of constant, token, sequence. Found 'mean'"),
        ({"kl_coef": -0.1}, "`kl_coef` must be 0 or more. Found -0.1"),
        ({"clip": 0}, "`clip` must be positive. Found 0"),
        ({"seed": 2**70}, r"`seed` must be at most 2\*\*63 - 1"),
        ({"steps": 2**63}, r"`steps` must be at most 2\*\*63 - 1"),
    ],
)
def test_what_the_loss_and_the_files_would_refuse_is_refused_at_once(settings, said):
    with pytest.raises(ConfigError, match=said):
        Settings(**settings)
    with pytest.raises(ConfigError, match=said):
        ParetoAligner("some/model", get_problem("arc").objectives(), **settings)


def test_settings_and_loss_know_the_same_names():
    assert (settings_module.KL_ESTIMATORS, settings_module.AGGREGATIONS) == (losses.KL_ESTIMATORS, losses.AGGREGATIONS)


def test_numpy_numbers_are_numbers():
    assert Settings(learning_rate=np.float32(0.5)).learning_rate == 0.5


def test_the_usual_rate_falls_with_the_width_and_never_rises():
    """2e-3 at SmolLM2's 576 and below; of the order of LoRA Without Regret's 2.9e-4 to 4.7e-4 at 4096."""
    rates = [Settings().rate(width) for width in (32, 576, 1152, 4096)]
    assert rates[:2] == [2e-3, 2e-3]
    assert rates[2] == pytest.approx(2e-3 * 2**-0.8)
    assert 2.9e-4 < rates[3] < 4.7e-4
    assert Settings(optimizer="lion").rate() == 4e-4
    assert Settings(learning_rate=0.1).rate(4096, compared=True) == 0.1
    assert Settings().rate(compared=True) == pytest.approx(4e-4)


def test_a_run_has_the_rate_of_its_models_width_and_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_module, "WIDTH", 8)  # the problem's model is twice as wide
    front, aligner = fit(tmp_path / "run", learning_rate=None, steps=2)
    assert front.record.config["learning_rate"] == pytest.approx(2e-3 * 2**-0.8)
    assert make(learning_rate=None).usual_rate() == front.record.config["learning_rate"]
    monkeypatch.setattr(settings_module, "WIDTH", 4)
    assert len(aligner.resume(tmp_path / "run")) == len(front)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.00114"):
        make(learning_rate=1e-3, steps=2).resume(tmp_path / "run")
