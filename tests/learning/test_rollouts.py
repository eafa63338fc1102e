"""What the reward functions are handed, and where their answers go."""

from __future__ import annotations

import threading

import numpy as np
import torch
from tiny_models import random_population, tiny_base, tiny_model

from pareto_align.learning import PromptRow, roll_out
from pareto_align.learning.rollouts import score
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.policies import SamplingParams, load_base
from pareto_align.policies.engine import Engine
from pareto_align.testing.tiny import symbol_tokenizer


class Recorder:
    """A reward that keeps what it was given and answers with consecutive numbers."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, **columns):
        self.calls.append({"prompts": prompts, "completions": completions, **columns})
        return list(range(len(completions)))


def rows_of(base, *prompts, **columns):
    return [
        PromptRow(prompt, tuple(base.encode(prompt)), {name: values[i] for name, values in columns.items()})
        for i, prompt in enumerate(prompts)
    ]


def test_one_call_for_the_population_with_trls_signature():
    base, reward = tiny_base(), Recorder()
    population = random_population(base, 2)
    rows = rows_of(base, "<0>", "<1>ab", answer=["x", "y"])
    done = roll_out(Engine(population), ObjectiveSet([Objective("n", reward)]), rows, 3, SamplingParams(6), [1, 2])
    (call,) = reward.calls
    assert call["prompts"] == (["<0>"] * 3 + ["<1>ab"] * 3) * 2
    assert call["answer"] == (["x"] * 3 + ["y"] * 3) * 2
    assert call["completions"] == done.texts
    assert call["completions"] == [base.decode(ids) for ids in call["completion_ids"]]
    assert done.rewards.shape == (2, 2, 3, 1)
    assert np.array_equal(done.rewards.ravel(), np.arange(12.0))
    assert done.text(1, 0, 2) == done.texts[8]
    assert done.token_count == int(done.completions.lengths.sum())


def test_a_chat_prompt_is_answered_in_messages():
    tokenizer, reward = symbol_tokenizer(12, 4), Recorder()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    base = load_base(tiny_model(), tokenizer=tokenizer)
    talk = [{"role": "user", "content": "<1>a"}]
    done = roll_out(
        Engine(random_population(base, 1)),
        ObjectiveSet([Objective("n", reward)]),
        rows_of(base, talk, "<0>"),
        2,
        SamplingParams(4),
        [1],
    )
    (call,) = reward.calls
    assert call["prompts"] == [talk, talk, "<0>", "<0>"]
    assert call["completions"][:2] == [[{"role": "assistant", "content": text}] for text in done.texts[:2]]
    assert call["completions"][2:] == done.texts[2:]


def test_what_does_not_apply_is_nan_and_less_is_turned_round():
    base = tiny_base()
    objectives = ObjectiveSet(
        [
            Objective("sometimes", lambda completions, **_: [None if c == "b" else 1.0 for c in completions]),
            Objective("cost", lambda completions, **_: [2.0] * len(completions), maximize=False),
        ]
    )
    found = score(objectives, rows_of(base, "<0>"), 2, 1, ["a", "b"], [[0], [1]])
    assert np.array_equal(found, [[[[1.0, -2.0], [np.nan, -2.0]]]], equal_nan=True)


def test_rewards_learn_from_training_only():
    """A reward with a memory is told by `training` whether it may learn from what it sees."""
    told = []

    class Spy(ObjectiveSet):
        def score(self, *args, training=True, **kwargs):
            told.append(training)
            return super().score(*args, training=training, **kwargs)

    base, objectives = tiny_base(), Spy([Objective("n", Recorder())])
    rows = rows_of(base, "<0>")
    roll_out(Engine(random_population(base, 1)), objectives, rows, 2, SamplingParams(4), [1])
    score(objectives, rows, 2, 1, ["a", "b"], [[0], [1]], training=False)
    score(objectives, rows, 2, 1, ["a", "b"], [[0], [1]], training=False, check=True)
    assert told == [True, False, False]


def test_given_policies_are_run_instead_of_the_slots():
    base = tiny_base()
    population = random_population(base, 3)
    objectives = ObjectiveSet([Objective("n", Recorder())])
    rows = rows_of(base, "<0>")
    every = roll_out(Engine(population), objectives, rows, 4, SamplingParams(6), [1, 2, 3])
    one = roll_out(Engine(population), objectives, rows, 4, SamplingParams(6), [3], policies=population.parameters[2:])
    assert torch.equal(one.completions.tokens[0], every.completions.tokens[2])
    assert one.rewards.shape == (1, 1, 4, 1)


def test_texts_are_made_while_the_frozen_base_reads():
    """Each waits for the other to have begun, so one after the other would end in a timeout."""
    base = tiny_base()
    engine = Engine(random_population(base, 2))
    reading, decoding = threading.Event(), threading.Event()

    def meet(mine, other, work):
        def call(*args):
            mine.set()
            assert other.wait(60)
            return work(*args)

        return call

    base.decode_all = meet(decoding, reading, base.decode_all)
    engine.reference_logprobs = meet(reading, decoding, engine.reference_logprobs)
    rows, params = rows_of(base, "<0>", "<1>ab"), SamplingParams(6)
    objectives = ObjectiveSet([Objective("n", Recorder())])
    done = roll_out(engine, objectives, rows, 3, params, [1, 2], reference=True)
    alone = Engine(engine.population)
    assert torch.equal(done.reference, alone.reference_logprobs(alone.prepare(done.prompt_ids, done.completions)))
    plain = roll_out(alone, objectives, rows, 3, params, [1, 2])
    assert plain.texts == done.texts
    assert plain.reference is None
