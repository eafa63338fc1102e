"""The demo's data and settings; `.ci/run` runs the demo itself on its real model for two steps."""

from __future__ import annotations

import numpy as np

from pareto_align import demo
from pareto_align.objectives import ObjectiveSet


def test_the_prompts_are_many_short_and_different() -> None:
    prompts = demo.demo_prompts()
    questions = [messages[-1]["content"] for messages in prompts]
    assert len(questions) >= 200
    assert len(set(questions)) == len(questions)
    assert all(2 <= len(question.split()) <= 15 for question in questions)
    assert all(messages[0] == {"role": "system", "content": demo.SYSTEM} for messages in prompts)


def test_the_objectives_pull_against_each_other() -> None:
    objectives = ObjectiveSet(demo.demo_objectives())
    prompts = [[{"role": "user", "content": "How was the barbecue?"}]] * 5
    said = ["I love it, what a wonderful and happy barbecue, thank you!", "The barbecue burned.", "", "A good friend."]
    said.append("Great great great great barbecue, great great great barbecue!")
    completions = [[{"role": "assistant", "content": text}] for text in said]
    scores = objectives.score(
        prompts, completions, completion_ids=[list(range(14)), [1, 2, 3], [], [1, 2, 3, 4], [1] * 9]
    )
    warm, short, empty, anything, repeated = scores
    assert warm[0] > 0.9 > short[0]
    assert short[1] > 0.9 > warm[1]
    assert empty[1] == 0, "an empty answer is not brevity"
    assert anything[0] == anything[1] == 0, "what could be said to anybody earns nothing"
    assert repeated[0] == 0, "nor does one word over and over"
    assert np.isfinite(scores).all()
    assert [objectives[i].role for i in range(4)] == ["optimize", "optimize", "audit", "audit"]


def test_the_aligner_is_built_without_loading_the_model() -> None:
    aligner = demo.demo_aligner(steps=3, seed=5)
    assert aligner.loading.model == demo.MODEL
    assert (aligner.settings.steps, aligner.settings.seed) == (3, 5)
    assert aligner.settings.population >= 4
    parts = (aligner.family, aligner.weighting.name, aligner.explorer.name)
    assert parts == ("gates", "steady-chebyshev", "everywhere"), "the package's own defaults"


def test_one_word_is_no_short_answer() -> None:
    objectives = ObjectiveSet(demo.demo_objectives())
    prompts = [[{"role": "user", "content": "How was the barbecue?"}]] * 2
    said = ["Barbecue.", "I love barbecue."]
    completions = [[{"role": "assistant", "content": text}] for text in said]
    word, sentence = objectives.score(prompts, completions, completion_ids=[[1, 2], [1, 2, 3, 4]])
    assert word[1] < 0.4 < 0.8 < sentence[1]
