"""Parity with TRL: its own reward functions serve as objectives unchanged, and functions see what TRL shows them."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from pareto_align.errors import ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, brevity, conciseness, exact_match, positive_tone

rewards = pytest.importorskip("trl.rewards")

PROMPTS = [[{"role": "user", "content": question}] for question in ("a third?", "a half?", "no gold?")]
TEXTS = [
    r"<think>One over three.</think>It is \boxed{\frac{1}{3}}",
    r"<think>One over two.</think>It is \boxed{\frac{1}{4}}",
    r"It is \boxed{1}",
]
COMPLETIONS = [[{"role": "assistant", "content": text}] for text in TEXTS]
SOLUTIONS = [r"\frac{1}{3}", r"\frac{1}{2}", "not mathematics"]
IDS = [[1] * 80, [1] * 90, [1] * 120]


def test_trl_rewards_serve_unchanged():
    pytest.importorskip("math_verify")
    objectives = ObjectiveSet(
        [
            Objective("format", rewards.think_format_reward, bounds=(0, 1)),
            Objective("accuracy", rewards.accuracy_reward, bounds=(0, 1)),
            Objective("reasoned", rewards.reasoning_accuracy_reward, bounds=(0, 1)),
            Objective("length", rewards.get_soft_overlong_punishment(100, 20), bounds=(-1, 0)),
        ]
    )
    found = objectives.score(PROMPTS, COMPLETIONS, {"solution": SOLUTIONS}, IDS)
    expected = [
        [1.0, 1.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, -0.5],
        [0.0, np.nan, 0.0, -1.0],  # no gold answer to parse: TRL returns None; no finished reasoning: 0
    ]
    np.testing.assert_array_equal(found, expected)


def test_trl_rewards_on_plain_text_say_what_to_change():
    objectives = ObjectiveSet([Objective("format", rewards.think_format_reward)])
    with pytest.raises(ObjectiveError, match=r"'format' raised TypeError.*give the prompts as lists of messages"):
        objectives.score(["a third?"], TEXTS[:1])


def test_a_function_sees_the_same_arguments_and_gives_the_same_rewards_as_in_trl():
    torch = pytest.importorskip("torch")
    trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    seen = []

    def spy(**arguments):
        seen.append(arguments)
        return [0.5, None, 1.0]

    functions = [spy, brevity(30), positive_tone(), exact_match("solution"), conciseness(memory=None)]
    columns = {"solution": SOLUTIONS, "level": [1, 2, 3]}
    inputs = [
        {"prompt": prompt, "solution": solution, "level": level}
        for prompt, solution, level in zip(PROMPTS, columns["solution"], columns["level"], strict=True)
    ]
    state = SimpleNamespace(global_step=3)
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        state=state,
        reward_funcs=functions,
        reward_processing_classes=[None] * len(functions),
        reward_func_names=[function.__name__ for function in functions],
        environments=None,
        _log_completion_extra=print,
        _log_metric=print,
    )
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        theirs = trainer.GRPOTrainer._calculate_rewards(stub, inputs, PROMPTS, COMPLETIONS, IDS)
    except AttributeError as error:  # a private method: other releases may want more of the trainer
        pytest.skip(f"this TRL calculates rewards in another way: {error}")

    functions[-1] = conciseness(memory=None)
    objectives = ObjectiveSet([Objective(f"{i}", function) for i, function in enumerate(functions)])
    ours = objectives.score(PROMPTS, COMPLETIONS, columns, IDS, trainer_state=state, log_extra=print, log_metric=print)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
    assert seen[0] == seen[1]
