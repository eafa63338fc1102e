"""Runs in shards with rewards that take a moment, each in its own, and judges that do something at a certain call."""

from __future__ import annotations

import random
import threading
import time
import warnings

from sharded_runs import FAMILY, SMALL, TEXTS, first, second
from tiny_models import lora

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.runs.journal import read_journal

QUICK = {"remeasure_rounds": 0, "eval_group_size": 1}
KINDS = {
    "barrier": {},
    "one by one": {"learner": {"name": "online-dpo", "reference": "previous"}, "weighting": "fixed", "shard_size": 1},
    "gradients": {"weighting": "mgda", "kl_coef": 0.05, "shard_size": 3, "max_tokens": 500, "eval_every": 3},
    "family": FAMILY,
    "family, no barrier": {**FAMILY, "weighting": "fixed"},
}


def late(reward):
    """The same after a moment, a shorter or a longer one."""

    def judge(completions, **_):
        time.sleep(random.random() * 0.01)
        return reward(completions)

    return judge


LATE = late(first), late(second)


def aligner_of(model, rewards=LATE, **settings):
    more = settings.pop("objectives", {})
    names = ("first", "second")
    objectives = [
        Objective(name, reward, bounds=(0, 1), **{"rowwise": True, **more})
        for name, reward in zip(names, rewards, strict=True)
    ]
    return ParetoAligner(model, objectives, lora=lora(2), **{**SMALL, **QUICK, **settings})


def fitted(model, run, *rewards, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = aligner_of(model, *rewards, output_dir=run, **settings)
        aligner.fit(TEXTS)
    assert not judging(), "no thread is left"
    return aligner


def judging():
    return [thread for thread in threading.enumerate() if thread.name.startswith("pareto-align-judge")]


def steps_of(run):
    return [event for event in read_journal(run / "journal.jsonl") if event["event"] == "step"]


def failing(times, how):
    """A judge that does something in that call of training."""
    calls = []

    def judge(completions, **_):
        if len(completions) == 2 * 2 * 4:
            calls.append(len(calls))
            if len(calls) == times:
                how()
        return first(completions)

    return judge
