"""Seconds per policy-step of learning from comparisons, against TRL's DPOTrainer with one policy on the same pairs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from subject import LEARNING_RATE, WORDS, Subject
from timing import Reading, alternate, clocked, compare, once

from pareto_align.data.comparison_rows import ComparisonRow, encode_comparisons
from pareto_align.data.comparisons import Comparisons
from pareto_align.learning import Context, Learner, make_learner
from pareto_align.objectives import RewardScale
from pareto_align.policies import Base
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW

BETA = 0.1
PAIRS = 4
POLICIES = 8


def pairs(subject: Subject, base: Base, prompt: int, answer: int, count: int) -> list[dict[str, Any]]:
    """TRL's rows: prompts of `prompt` tokens with two answers of about `answer` tokens each."""
    words = list("abcdefghijk") if subject.smoke else [f" {word}" for word in WORDS]
    rows = []
    for n, asked in enumerate(subject.prompts(base, prompt, count)):
        said = ["".join(words[(n + offset + i) % len(words)] for i in range(answer - 1)) for offset in (3, 7)]
        if subject.smoke:
            rows.append({"prompt": asked, "chosen": said[0], "rejected": said[1]})
        else:
            chosen, rejected = ([{"role": "assistant", "content": text.strip()}] for text in said)
            rows.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
    return rows


def encoded(base: Base, rows: Sequence[dict[str, Any]], objectives: int) -> list[ComparisonRow]:
    """The same pairs as tokens, with a label for each of m objectives, which disagree."""
    comparisons = Comparisons.from_rows(list(rows), format="trl")
    found, _ = encode_comparisons(comparisons, base)
    made = []
    for row in found:
        labels = row.comparison.labels
        values = np.tile(np.arange(objectives) % 2, (len(labels), 1)).astype(float)
        told = type(labels)(labels.pairs, values)
        comparison = type(row.comparison)(row.comparison.prompt, row.comparison.responses, told)
        made.append(ComparisonRow(row.row, row.tokens, comparison))
    return made


def learner_of(subject: Subject, base: Base, rows: Sequence[ComparisonRow], objectives: int, policies: int) -> Learner:
    """Our learner, ready to step."""
    population = subject.population(base, policies, trained=False)
    learner = make_learner({"name": "dpo", "beta": BETA})
    scale = RewardScale.of_labels(objectives)
    learner.setup(
        Context(
            Engine(population, layout="auto"),
            scale,
            range(objectives),
            PopulationAdamW(population.parameters),
            prompts=rows,
            prompts_per_step=subject.pick(PAIRS, 2),
        )
    )
    return learner


def our_step(learner: Learner, number: int, objectives: int) -> None:
    """One optimizer step of all policies."""
    seen = learner.collect(number)
    weights = np.full((learner.population.size, objectives), 1 / objectives)
    learner.step(seen, weights, LEARNING_RATE)


def trl_steps(
    subject: Subject, rows: Sequence[dict[str, Any]], steps: int, between: Callable[[int], object] = lambda _: None
) -> list[Reading]:
    """Optimizer steps of a stock DPOTrainer by the clock, the untrained model's log-probabilities found beforehand."""
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    transformers.logging.set_verbosity_error()
    base = subject.base("float32")

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = DPOConfig(
            output_dir=folder, per_device_train_batch_size=len(rows) // steps, max_steps=steps, beta=BETA,
            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", gradient_checkpointing=False, bf16=False,
            use_cpu=True, precompute_ref_log_probs=True, max_length=None, report_to="none", logging_steps=10_000,
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = DPOTrainer(
            model=base.model, args=config, processing_class=base.tokenizer, train_dataset=Dataset.from_list(list(rows)),
            peft_config=subject.lora(),
        )  # fmt: skip
        return clocked(trainer, between)


def against_dpo(subject: Subject, *, prompt: int, answer: int) -> dict[str, Any]:
    """A step of K policies and two objectives against K steps of TRL's trainer with one objective."""
    rounds, size = subject.rounds, subject.pick(PAIRS, 2)
    base = subject.base("float32")
    rows = pairs(subject, base, prompt, answer, size * rounds)
    learner = learner_of(subject, base, encoded(base, rows, 2), 2, POLICIES)
    our_step(learner, 0, 2)  # what is settled at the first step, the reading of the untrained model included
    trl_steps(subject, rows[:size], 1)
    ours: list[Reading] = []
    theirs = trl_steps(
        subject, rows, rounds, lambda number: ours.append(once(lambda: our_step(learner, number + 1, 2)))
    )
    return {
        "setting": {
            "dtype": "float32", "pairs": size, "prompt_tokens": prompt, "answer_tokens": answer, "K": POLICIES,
            "objectives": 2,
        },
        "figures": {
            "step": compare(
                ("TRL", theirs), (f"population, K = {POLICIES}, m = 2", ours), "s per policy-step",
                per=(1.0, float(POLICIES)),
            ),
        },
    }  # fmt: skip


def dpo_equal(subject: Subject) -> dict[str, Any]:
    return against_dpo(subject, prompt=subject.pick(64, 6), answer=subject.pick(64, 4))


def dpo_long(subject: Subject) -> dict[str, Any]:
    return against_dpo(subject, prompt=subject.pick(256, 12), answer=subject.pick(64, 3))


def dpo_objectives(subject: Subject) -> dict[str, Any]:
    """What four objectives cost against one."""
    size = subject.pick(PAIRS, 2)
    prompt, answer = subject.pick(64, 6), subject.pick(64, 4)
    made = {}
    for objectives in (1, 4):
        base = subject.base("float32")
        rows = pairs(subject, base, prompt, answer, size)
        made[objectives] = learner_of(subject, base, encoded(base, rows, objectives), objectives, POLICIES)
    found = alternate(
        {str(m): lambda m=m, learner=learner: our_step(learner, 0, m) for m, learner in made.items()},
        max(subject.rounds, subject.pick(5, 1)),
    )
    return {
        "setting": {"dtype": "float32", "pairs": size, "prompt_tokens": prompt, "answer_tokens": answer, "K": POLICIES},
        "figures": {"four": compare(("four objectives", found["4"]), ("one objective", found["1"]), "s")},
    }
