"""Contract with the installed TRL: a weighting's weights reach what its trainers learn from, and survive a resume."""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import SYMBOLS, tiny_model

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning, PreferenceError
from pareto_align.testing.tiny import symbol_tokenizer
from pareto_align.weighting import Chebyshev, Schedule, Weighting

trl = pytest.importorskip("trl", minversion="1.0")

from pareto_align.integrations.trl import STATE_KEY, WeightingCallback  # noqa: E402

TRAINERS = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}
GROUP = 4


def late(prompts, completions, **columns):
    """Mean place in the alphabet, 0 to 11."""
    return [float(np.mean([ord(c) - ord("a") for c in text if c.isalpha()] or [0.0])) for text in completions]


def varied(prompts, completions, **columns):
    """Share of different symbols, 0 to 1; every third completion has none."""
    return [None if i % 3 == 2 else len(set(text)) / max(len(text), 1) for i, text in enumerate(completions)]


FUNCTIONS = [late, varied]
BOUNDS = {"late": (0, 11), "varied": (0, 1)}


class Recorder:
    """What a trainer saw: raw rewards [n, M] of each batch as its functions gave them, and the advantages it made.

    Made before the callback is attached, so the rewards are those of the functions, not the callback's doing.
    """

    def __init__(self, trainer):
        self.rewards, self.advantages = [], []
        calculate, generate = trainer._calculate_rewards, trainer._generate_and_score_completions

        def calculate_rewards(*args, **kwargs):
            rewards = calculate(*args, **kwargs)
            self.rewards.append(rewards.double().numpy())
            return rewards

        def generate_and_score(*args, **kwargs):
            output = generate(*args, **kwargs)
            self.advantages.append(output["advantages"].double().numpy())
            return output

        trainer._calculate_rewards, trainer._generate_and_score_completions = calculate_rewards, generate_and_score

    def combined(self, index, weights):
        """Rewards [prompts, group] of a batch under weights for raw rewards; TRL counts a missing one as 0."""
        return (np.nan_to_num(self.rewards[index]) @ np.asarray(weights)).reshape(-1, GROUP)


class Spy(Weighting):
    """The preference, and a record of the signals."""

    name = "spy"

    def __init__(self):
        self.signals = []

    def __call__(self, signal):
        self.signals.append(signal)
        return np.array(signal.preferences)


def grpo_advantages(rewards):
    return ((rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()


def rloo_advantages(rewards):
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return (rewards - others).ravel()


def make_trainer(kind, folder, functions=FUNCTIONS, *, columns=None, callbacks=None, **settings):
    from datasets import Dataset

    prompts = ["<0>ab", "<1>cd", "<2>ef", "<3>gh"] * 4
    trainer_class, config_class = TRAINERS[kind]
    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 2 * GROUP, "per_device_eval_batch_size": GROUP,
        "num_generations": GROUP, "max_steps": 4, "max_completion_length": 5, "learning_rate": 0.05,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False,
        "disable_tqdm": True, "beta": 0.0, "seed": 3, "dataloader_pin_memory": False,
    }  # fmt: skip
    return trainer_class(
        model=tiny_model("llama"),
        reward_funcs=list(functions),
        args=config_class(**{**defaults, **settings}),
        train_dataset=Dataset.from_dict({"prompt": prompts, **(columns or {})}),
        eval_dataset=Dataset.from_dict({"prompt": ["<0>fg"]}),
        processing_class=symbol_tokenizer(SYMBOLS, 4),
        callbacks=callbacks,
    )


def logged(trainer, *keys):
    """[entries, keys] of the log entries that have them."""
    return np.array([[log[key] for key in keys] for log in trainer.state.log_history if keys[0] in log])


# ------------------------------------------------------------------------------------------------ weights at work


@pytest.mark.parametrize(("kind", "advantages"), [("grpo", grpo_advantages), ("rloo", rloo_advantages)])
def test_a_schedule_flips_which_reward_the_policy_learns_from(kind, advantages, tmp_path):
    trainer = make_trainer(kind, tmp_path)
    seen = Recorder(trainer)
    flip = Schedule(function=lambda step, steps: [1.0, 0.0] if step < steps / 2 else [0.0, 1.0])
    callback = WeightingCallback(flip, bounds=BOUNDS).attach(trainer)
    trainer.train()
    assert len(seen.advantages) == 4
    for i, weights in enumerate([(1 / 11, 0), (1 / 11, 0), (0, 1), (0, 1)]):
        expected = advantages(seen.combined(i, weights))
        np.testing.assert_allclose(seen.advantages[i], expected, atol=2e-4)
        other = advantages(seen.combined(i, (0, 1) if weights[0] else (1 / 11, 0)))
        assert np.abs(other - expected).max() > 0.05, "the two rewards teach the same: this proves nothing"
    np.testing.assert_array_equal(logged(trainer, "weights/late", "weights/varied"), [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert callback.weights == {"late": 0.0, "varied": 1.0}


def test_a_weight_means_a_preference_whatever_units_a_reward_comes_in(tmp_path):
    """The same reward in cents changes no advantage, neither with bounds nor with a measured scale."""

    def cents(prompts, completions, **columns):
        return [100 * reward for reward in late(prompts, completions)]

    found = []
    for function, bounds in ((late, (0, 11)), (cents, (0, 1100))):
        for known in ({"x": bounds, "varied": (0, 1)}, {}):
            trainer = make_trainer("rloo", tmp_path, [function, varied], max_steps=2)
            seen = Recorder(trainer)
            WeightingCallback("fixed", names=["x", "varied"], bounds=known, preference=[2, 1]).attach(trainer)
            trainer.train()
            found.append(np.concatenate(seen.advantages))
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[3], found[1], rtol=1e-4, atol=1e-6)
    assert np.abs(found[0]).max() > 0.05


def test_the_scale_of_the_first_batch_holds_for_the_run(tmp_path):
    trainer = make_trainer("rloo", tmp_path)
    seen = Recorder(trainer)
    WeightingCallback("fixed", preference={"late": 3, "varied": 1}).attach(trainer)
    trainer.train()
    deviations = np.nanstd(seen.rewards[0], axis=0, ddof=1)
    for i, found in enumerate(seen.advantages):
        expected = rloo_advantages(seen.combined(i, np.array([0.75, 0.25]) / deviations))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(np.nanstd(seen.rewards[3], axis=0, ddof=1), deviations)


def test_where_trl_normalizes_each_reward_first_the_scale_is_not_taken_out_twice(tmp_path):
    trainer = make_trainer("grpo", tmp_path, max_steps=2, multi_objective_aggregation="normalize_then_sum")
    seen = Recorder(trainer)
    WeightingCallback("fixed", bounds=BOUNDS, preference=[1, 3]).attach(trainer)
    trainer.train()
    for rewards, found in zip(seen.rewards, seen.advantages, strict=True):
        groups = rewards.reshape(-1, GROUP, 2)
        mean = np.nanmean(groups, axis=1, keepdims=True)
        units = (groups - mean) / (np.nanstd(groups, axis=1, ddof=1, keepdims=True) + 1e-4)
        mixed = np.nansum(units * [0.25, 0.75], axis=2).ravel()
        np.testing.assert_allclose(found, (mixed - mixed.mean()) / (mixed.std(ddof=1) + 1e-4), atol=1e-3)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_weighting_is_asked_once_for_every_batch_of_completions_and_never_in_evaluation(kind, tmp_path):
    trainer = make_trainer(
        kind, tmp_path, per_device_train_batch_size=GROUP, gradient_accumulation_steps=2, num_iterations=2,
        eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    seen = Recorder(trainer)
    spy = Spy()
    WeightingCallback(spy, bounds=BOUNDS, preference=[1, 3]).attach(trainer)
    trainer.train()
    # A batch serves 2 accumulated parts x 2 iterations, that is 2 update steps; every step was evaluated.
    assert [(signal.step, signal.steps) for signal in spy.signals] == [(0, 4), (2, 4)]
    training = [rewards for rewards in seen.rewards if len(rewards) == 2 * GROUP]
    assert len(training) == 2
    assert len(seen.rewards) == 2 + 4
    for signal, rewards in zip(spy.signals, training, strict=True):
        assert np.isnan(rewards[:, 1]).sum() == 2
        np.testing.assert_allclose(signal.values, [np.nanmean(rewards, axis=0) / [11, 1]])
    # Evaluations are reported under the weights of the last batch trained on.
    for log in trainer.state.log_history:
        assert not any(key.startswith("eval_weights") for key in log)
    evaluated = [rewards for rewards in seen.rewards if len(rewards) == GROUP]
    expected = [np.nansum(rewards * [0.25 / 11, 0.75], axis=1).mean() for rewards in evaluated]
    np.testing.assert_allclose(logged(trainer, "eval_reward").ravel(), expected, rtol=1e-4)


def test_a_reward_function_that_never_applies_to_a_batch_leaves_its_value_open(tmp_path):
    def never(prompts, completions, **columns):
        return [None] * len(completions)

    trainer = make_trainer("grpo", tmp_path, [late, never], max_steps=2)
    spy = Spy()
    WeightingCallback(spy, bounds={"late": (0, 11), "never": (0, 1)}).attach(trainer)
    trainer.train()
    assert [np.isnan(signal.values).tolist() for signal in spy.signals] == [[[False, True]]] * 2
    unmeasured = make_trainer("grpo", tmp_path, [late, never], max_steps=2)
    WeightingCallback("fixed", bounds={"late": (0, 11)}).attach(unmeasured)
    with pytest.raises(ObjectiveError, match="'never' applied to none"):
        unmeasured.train()


def test_thresholds_steer_a_lagrangian_in_the_functions_own_units(tmp_path):
    def tokens(prompts, completions, completion_ids, **columns):
        return [float(len(ids)) for ids in completion_ids]

    trainer = make_trainer("rloo", tmp_path, [late, varied, tokens], max_steps=2)
    bounds = {**BOUNDS, "tokens": (0, 5)}
    callback = WeightingCallback("lagrangian", bounds=bounds, at_most={"tokens": 0}).attach(trainer)
    trainer.train()
    weights = callback.weights
    assert weights["late"] == weights["varied"] == pytest.approx((1 - weights["tokens"]) / 2)
    # The limit cannot be met: the multiplier has grown from 0.5, a third of the row, and pushes the count down.
    assert weights["tokens"] > 0.9
    expected = [weights["late"] / 11, weights["varied"], -weights["tokens"] / 5]
    np.testing.assert_allclose(trainer.reward_weights, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", TRAINERS)
def test_covariances_and_audits_are_those_of_the_trainers_groups(kind, tmp_path):
    class Curious(Spy):
        requires = frozenset({"covariances", "audits"})

    def alike(prompts, completions, **columns):
        """The number of a completion's prompt: nothing varies within a group."""
        return [float(prompt[1]) for prompt in prompts]

    def places(prompts, completions, **columns):
        return [float(i % GROUP) for i in range(len(completions))]

    trainer = make_trainer(kind, tmp_path, [alike, places, late], max_steps=1)
    spy = Curious()
    bounds = {"alike": (0, 3), "places": (0, 1), "late": (0, 11)}
    callback = WeightingCallback(spy, bounds=bounds, audited=["late"]).attach(trainer)
    seen = Recorder(trainer)
    trainer.train()
    # 0, 1, 2, 3 in each group: variance 5/4.
    np.testing.assert_allclose(spy.signals[0].covariances, [[[0, 0], [0, 1.25]]], atol=1e-12)
    np.testing.assert_allclose(spy.signals[0].audits, [[seen.rewards[0][:, 2].mean() / 11]])
    assert np.ptp(seen.rewards[0][:, 0]) > 0
    assert trainer.reward_weights[2] == 0
    assert callback.weights == {"alike": 0.5, "places": 0.5}


def test_the_weights_keep_the_trainers_dtype_and_device(tmp_path):
    trainer = make_trainer("grpo", tmp_path, max_steps=1)
    trainer.reward_weights = trainer.reward_weights.double()
    WeightingCallback("fixed", bounds=BOUNDS).attach(trainer)
    trainer.train()
    assert trainer.reward_weights.dtype == torch.float64
    np.testing.assert_allclose(trainer.reward_weights, [0.5 / 11, 0.5], rtol=1e-6)


def test_all_processes_use_the_main_ones_weights(tmp_path, monkeypatch):
    sent = []

    def broadcast(tensor, from_process):
        sent.append((tensor.tolist(), from_process))
        return torch.tensor([0.25, 0.5])

    monkeypatch.setattr("accelerate.utils.broadcast", broadcast)
    trainer = make_trainer("grpo", tmp_path, max_steps=1)
    WeightingCallback("fixed", bounds=BOUNDS).attach(trainer)
    trainer.train()
    assert sent == [([pytest.approx(0.5 / 11), 0.5], 0)]
    assert trainer.reward_weights.tolist() == [0.25, 0.5]


def test_the_example_of_the_page_runs_on_a_tiny_model(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "trl.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"<!-- example -->\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)

    def tiny(model, reward_funcs, args, train_dataset):
        assert args.max_steps == 100
        columns = {"answer": list(train_dataset["answer"]) * 4}
        return make_trainer("grpo", tmp_path, reward_funcs, columns=columns, max_steps=5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trl, "GRPOTrainer", tiny)
    monkeypatch.setattr(trl, "GRPOConfig", functools.partial(trl.GRPOConfig, use_cpu=True, bf16=False))
    found = {}
    exec(compile(source, "trl.md", "exec"), found)
    # The page's schedule at a progress of 0, 1/4, 1/2, 3/4 and 1.
    expected = [[1, 0], [0.85, 0.15], [0.7, 0.3], [0.7, 0.3], [0.7, 0.3]]
    np.testing.assert_allclose(logged(found["trainer"], "weights/right", "weights/brief"), expected)


# ------------------------------------------------------------------------------------------------ strength


@pytest.mark.parametrize(("kind", "settings"), [("grpo", {}), ("rloo", {"normalize_advantages": True})])
def test_a_strength_that_the_trainer_cancels_is_warned_about(kind, settings, tmp_path):
    trainer = make_trainer(kind, tmp_path, max_steps=2, **settings)
    WeightingCallback(Schedule([(0.0, [1.0, 1.0])]), bounds=BOUNDS).attach(trainer)
    with pytest.warns(ParetoAlignWarning, match="'schedule' asks for a step of strength 2") as found:
        trainer.train()
    assert sum(issubclass(warning.category, ParetoAlignWarning) for warning in found) == 1


@pytest.mark.parametrize(("kind", "settings"), [("grpo", {"scale_rewards": "none"}), ("rloo", {})])
@pytest.mark.filterwarnings("error::pareto_align.errors.ParetoAlignWarning")
def test_without_the_trainers_normalisation_strength_scales_the_advantages(kind, settings, tmp_path):
    found = []
    for strength in (1.0, 2.0):
        trainer = make_trainer(kind, tmp_path, max_steps=1, **settings)
        seen = Recorder(trainer)
        WeightingCallback(Schedule([(0.0, [0.5 * strength, 0.5 * strength])]), bounds=BOUNDS).attach(trainer)
        trainer.train()
        found.append(seen.advantages[0])
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5, atol=1e-6)
    assert np.abs(found[0]).max() > 0.05


# ------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize(("kind", "restore"), [("grpo", True), ("rloo", False)])
def test_a_resumed_run_goes_on_with_the_weights_it_would_have_had(kind, restore, tmp_path):
    def run(checkpoint=None):
        trainer = make_trainer(
            kind, tmp_path / "run", max_steps=6, save_strategy="steps", save_steps=3,
            restore_callback_states_from_checkpoint=restore,
        )  # fmt: skip
        # Running means and a measured scale: without its state a weighting would begin elsewhere.
        weighting = Schedule([(0.0, Chebyshev(ideal=[1, 1], nadir=[-1, -1])), (1.0, "maxmin")])
        WeightingCallback(weighting, preference=[1, 3]).attach(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        return logged(trainer, "weights/late", "weights/varied")

    whole = run()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    stored = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"][STATE_KEY]
    assert stored["row"] == whole[2].tolist()
    np.testing.assert_allclose(run(str(checkpoint)), whole, rtol=1e-6)
    assert np.abs(np.diff(whole, axis=0)).min() > 1e-6, "weights that stand still would survive anything"


def test_a_checkpoint_of_another_weighting_is_refused_and_one_of_none_is_warned_about(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    with_weights, without = tmp_path / "with", tmp_path / "without"
    trainer = make_trainer("rloo", with_weights, **settings)
    WeightingCallback("fixed", bounds=BOUNDS).attach(trainer)
    trainer.train()
    make_trainer("rloo", without, **settings).train()

    def resumed(folder):
        trainer = make_trainer("rloo", folder, **{**settings, "max_steps": 2})
        callback = WeightingCallback("maxmin", bounds=BOUNDS).attach(trainer)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
        return callback

    with pytest.raises(ConfigError, match=r"'fixed' of late, varied\. Found 'maxmin' of late, varied"):
        resumed(with_weights)
    with pytest.warns(ParetoAlignWarning, match="without a WeightingCallback; the weighting starts anew at step 1"):
        assert sum(resumed(without).weights.values()) == pytest.approx(1)


def test_a_second_training_starts_anew(tmp_path):
    trainer = make_trainer("rloo", tmp_path, max_steps=1)
    callback = WeightingCallback("fixed").attach(trainer)
    trainer.train()
    first = callback.batch.scale
    trainer.train()
    assert callback.batch.scale is not first


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("weighting", "needs"), [("gradient", "gramians"), ("mgda", "gramians"), ("hypervolume", "measured")]
)
def test_a_weighting_that_needs_what_trl_does_not_measure_is_refused_by_name(weighting, needs):
    with pytest.raises(ConfigError, match=f"'{weighting}' needs {needs}, which TRL's trainers do not measure"):
        WeightingCallback(weighting)


def test_without_trl_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ConfigError, match=r"pip install 'pareto-align\[trl\]'"):
        WeightingCallback("fixed")


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A trainer that nothing is ever attached to."""
    return make_trainer("grpo", tmp_path_factory.mktemp("idle"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"preference": {"lat": 1.0}}, PreferenceError, "Did you mean 'late'"),
        ({"preference": [1, 2, 3]}, PreferenceError, "3 preference weights for 2 objectives"),
        ({"bounds": {"varid": (0, 1)}}, ConfigError, "`bounds` names 'varid'.*Did you mean 'varied'"),
        ({"bounds": {"late": (1, 1)}}, ObjectiveError, "'late': bounds must be"),
        ({"names": ["one"]}, ConfigError, "1 names for 2 reward functions"),
        ({"names": ["x", "x"]}, ConfigError, "Several reward functions are called 'x'"),
        ({"at_least": {"late": 2}}, ConfigError, "'fixed' does not heed the thresholds of late"),
        ({"weighting": "lagrangian"}, ConfigError, "'lagrangian' steers constraints"),
        ({"scale_batches": 0}, ConfigError, "`scale_batches`"),
        ({"audited": ["gold"]}, ConfigError, "`audited` names 'gold'"),
    ],
)
def test_settings_that_do_not_fit_the_trainer_are_refused_before_training(settings, error, message, idle):
    callback = WeightingCallback(**{"weighting": "fixed", **settings})
    with pytest.raises(error, match=message):
        callback.attach(idle)
    assert not any(isinstance(other, WeightingCallback) for other in idle.callback_handler.callbacks)


def test_a_lone_reward_function_has_nothing_to_trade(tmp_path):
    with pytest.raises(ConfigError, match=r"at least two reward functions\. Found late"):
        WeightingCallback("fixed").attach(make_trainer("grpo", tmp_path, [late]))


def test_fixed_weights_in_the_arguments_are_not_overwritten_in_silence(tmp_path):
    trainer = make_trainer("rloo", tmp_path, reward_weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match=r"fix reward_weights=\[1.0, 2.0\]"):
        WeightingCallback("fixed").attach(trainer)


def test_a_trainer_of_another_kind_is_refused_with_the_version(idle):
    with pytest.raises(ConfigError, match=rf"Found object with trl {trl.__version__}, which has no _calculate_rewards"):
        WeightingCallback("fixed").attach(object())


def test_a_callback_belongs_to_one_trainer_and_a_trainer_to_one_callback(tmp_path):
    trainer = make_trainer("grpo", tmp_path)
    callback = WeightingCallback("fixed", bounds=BOUNDS).attach(trainer)
    assert callback.attach(trainer) is callback
    assert trainer.callback_handler.callbacks.count(callback) == 1
    with pytest.raises(ConfigError, match="has a WeightingCallback already"):
        WeightingCallback("fixed").attach(trainer)
    with pytest.raises(ConfigError, match="attached to another trainer"):
        callback.attach(make_trainer("grpo", tmp_path))


def test_a_callback_given_to_the_trainer_alone_says_what_is_missing(tmp_path):
    callback = WeightingCallback("fixed", bounds=BOUNDS)
    trainer = make_trainer("grpo", tmp_path, callbacks=[callback], max_steps=1)
    with pytest.raises(ConfigError, match=r"callback.attach\(trainer\)"):
        trainer.train()
    callback.attach(trainer).trainer.train()
    assert trainer.callback_handler.callbacks.count(callback) == 1
    assert callback.weights == {"late": 0.5, "varied": 0.5}
