"""Public benchmarks by lm-evaluation-harness: what a model scores on each question of a task.

lm_eval is imported when a benchmark is asked for, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from pareto_align.errors import ConfigError, ModelError
from pareto_align.front.estimates import Estimate

__all__ = ["TaskScore", "check_tasks", "harness_scores", "widened"]


@dataclass(frozen=True, eq=False)
class TaskScore:
    """One metric of one task.

    Attributes:
        name: Task and metric, such as "arc_easy acc".
        maximize: Whether more is better.
        values: [questions] in the order of the task; NaN for one that has no such number.
    """

    name: str
    maximize: bool
    values: np.ndarray


def check_tasks(tasks: Any) -> list[Any]:
    """A list of tasks, before anything is loaded.

    Raises:
        ConfigError: There is none, or lm_eval is not installed.
    """
    listed = [tasks] if isinstance(tasks, str | Mapping) else list(tasks)
    if not listed or not all(isinstance(task, str | Mapping) and task for task in listed):
        raise ConfigError(
            f"`tasks` must name tasks of lm-evaluation-harness, such as ['arc_easy']. Found {tasks!r:.80}."
        )
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "Benchmarks need lm-evaluation-harness. Install it with `pip install 'pareto-align[benchmarks]'`."
        )
    return listed


def harness_scores(
    model: Any, tokenizer: Any, tasks: Sequence[Any], *, limit: int | None = None, batch_size: int = 8, **kw: Any
) -> list[TaskScore]:
    """What a model scores on each question of some tasks.

    Only metrics with a number for each question are told; one of the whole task, such as a corpus BLEU, has no
    interval.

    Args:
        model: A causal language model of transformers, or a `PeftModel`.
        tokenizer: Its tokenizer.
        tasks: Names of tasks, or configs of one's own, as `lm_eval.simple_evaluate` takes them.
        limit: The first so many questions of each task.
        batch_size: Questions answered at a time.
        **kw: Passed to `lm_eval.simple_evaluate`, such as `num_fewshot` or `task_manager`.

    Raises:
        ConfigError: lm_eval does not know a task or takes no such argument.
        ModelError: No task has a number for each question.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            **kw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"lm-evaluation-harness does not take {tasks!r:.80} with {kw!r:.80}: {error}") from error
    scores = _scores(found)
    if not scores:
        raise ModelError(f"No metric of {', '.join(map(str, tasks))} has a number for each question.")
    return scores


def _scores(found: Mapping[str, Any]) -> list[TaskScore]:
    """Of what lm_eval returns: each metric of each task under each filter, question by question."""
    scores = []
    for task, samples in found.get("samples", {}).items():
        better = found.get("higher_is_better", {}).get(task) or {}
        filters = sorted({str(sample.get("filter", "none")) for sample in samples})
        for chosen in filters:
            rows = sorted(
                (sample for sample in samples if str(sample.get("filter", "none")) == chosen),
                key=lambda sample: int(sample["doc_id"]),
            )
            for metric in dict.fromkeys(name for row in rows for name in row.get("metrics", ())):
                values = np.array([_float(row.get(metric)) for row in rows])
                if np.isfinite(values).any():
                    suffix = f" ({chosen})" if len(filters) > 1 else ""
                    scores.append(TaskScore(f"{task} {metric}{suffix}", better.get(metric) is not False, values))
    return scores


def _float(value: Any) -> float:
    """A number as such, anything else, such as the parts of a corpus score, as NaN."""
    number = isinstance(value, bool | int | float | np.number)
    return float(value) if number and np.isfinite(float(value)) else np.nan


def widened(estimate: Estimate, scores: Sequence[TaskScore]) -> Estimate:
    """An estimate over M objectives, with further ones that were measured on prompts of their own.

    Each question is a prompt that the others did not apply to, so means, intervals and pairings of the M stay what they
    are, and two policies are compared question by question.

    Args:
        estimate: [M], maximised.
        scores: s metrics in the user's units.

    Returns:
        [M + s], maximised; `n` stays the number of the run's own prompts.
    """
    count, more = estimate.mean.size, len(scores)
    asked = sum(len(score.values) for score in scores)
    ids = list(estimate.prompt_ids or ())
    old = np.zeros((0, count)) if estimate.samples is None else estimate.samples
    mean = np.concatenate([estimate.mean, np.zeros(more)])
    covariance = np.zeros((count + more, count + more))
    covariance[:count, :count] = estimate.covariance
    new = np.full((asked, count + more), np.nan)
    at = 0
    for j, score in enumerate(scores):
        values = score.values if score.maximize else -score.values
        alone = Estimate.from_samples(values[:, None], range(len(values)))
        mean[count + j], covariance[count + j, count + j] = alone.mean[0], alone.covariance[0, 0]
        new[at : at + len(values), count + j] = values
        at += len(values)
    if estimate.samples is None:  # nothing to stand beside: what was not kept cannot be counted
        return Estimate(mean, covariance, estimate.n)
    kept = np.hstack([old, np.full((len(old), more), np.nan)])
    # without ids of their own the run's prompts are as many distinct ones, and none of them a question
    known = ids or list(range(len(old)))
    first = max(known, default=-1) + 1
    together = None
    if estimate.groups is not None:
        start = max(estimate.groups, default=-1) + 1
        together = (*estimate.groups, *range(start, start + asked))
    return Estimate(
        mean, covariance, estimate.n, np.vstack([kept, new]), (*known, *range(first, first + asked)), together
    )
