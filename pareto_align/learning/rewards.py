"""Objectives learned from comparisons: judges of new text, on the states of a frozen model.

The model reads a prompt with its answer once, and its last state at the stop token is what a head sees. Fitting takes
one pass over the answers and then seconds, whatever is fitted. With `lora` every head reads with an adapter of its own
(`reward_models`), which takes training.

References:
    Chakraborty et al., arXiv 2402.08925 (kind "mixture"); Chen et al., arXiv 2406.08469 ("pal"); Zhang et al., arXiv
    2410.02197 ("gpm"); Wang et al., arXiv 2406.12845 ("regression"). See `pareto_align.objectives.learned`.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from pareto_align.arguments import path_of
from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparison_rows import ComparisonRow, encode_comparisons, encode_response, laid_out
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.pair_table import table_of
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.learning.reward_models import ADAPTED_KINDS, fit_adapters
from pareto_align.objectives import Objective
from pareto_align.objectives.learned import HeadReport, IdealPoints, Judged, Mixture, Scores, fit_scores, read_scores
from pareto_align.policies.base import Base, load_base
from pareto_align.policies.lora_config import read_lora_config
from pareto_align.policies.readers import Readers
from pareto_align.policies.serving import described, recorded_base
from pareto_align.policies.states import end_states

__all__ = [
    "LearnedReward",
    "LearnedRewards",
    "fit_rewards",
    "judged_rows",
    "learned_reward",
    "load_rewards",
    "reads_with",
]

FloatArray = NDArray[np.float64]


class LearnedRewards:
    """Rewards that were learned from comparisons, and the frozen model whose states they read.

    Args:
        scores: What was fitted.
        base: The model; None loads the recorded one when it is first needed.
        readers: What the heads read with, where each has an adapter of its own; or the folder that holds these
            adapters, which are read when they are first needed.
        load: Passed to `load_base` then.

    Attributes:
        scores: What was fitted.
        report: How good each is on held-out prompts: accuracy, cross-entropy, temperature, calibration error.
    """

    def __init__(
        self, scores: Scores, base: Base | None = None, readers: Readers | Path | None = None, **load: Any
    ) -> None:
        self.scores, self._base, self._readers, self._load = scores, base, readers, load
        self._known: tuple[tuple[tuple[int, ...], ...], FloatArray] | None = None

    @property
    def report(self) -> tuple[HeadReport, ...]:
        """How good each is on prompts that were held out."""
        return self.scores.report

    @property
    def names(self) -> tuple[str, ...]:
        """What each is called: the objective, with its group or prototype where there are several."""
        return self.scores.names

    @property
    def groups(self) -> dict[Hashable, list[float]]:
        """By user, how probable he is of each group, in the order of `names`: what `Comparisons.by_group` takes.

        Raises:
            ConfigError: The rewards are of another kind than "mixture".
        """
        if not isinstance(self.scores.model, Mixture):
            raise ConfigError(f"Only rewards of kind 'mixture' know groups of users; these are {self.scores.kind!r}.")
        return dict(zip(self.scores.model.users, self.scores.model.responsibilities.tolist(), strict=True))

    @property
    def base(self) -> Base:
        """The frozen model, loaded at the first use.

        Raises:
            ModelError: It was given in memory when the rewards were fitted, and not again.
        """
        if self._base is None:
            self._base = recorded_base(
                self.scores.facts, instead="Give it: load_rewards(folder, base=...).", **self._load
            )
        return self._base

    @property
    def readers(self) -> Readers | None:
        """What the heads read with, where each has an adapter of its own; read at the first use.

        Raises:
            FrontFileError: The adapters cannot be read, or are of another model.
            ModelError: The model cannot be loaded, or carries adapters already.
        """
        if isinstance(self._readers, Path):
            self._readers = Readers.read(self.base, _adapters(self._readers, len(self.names)))
        return self._readers

    def objectives(self, **more: Any) -> list[Objective]:
        """One objective each, for a run; `more` is passed to `Objective`.

        They share the model and its states, so that several cost as much as one. A run on the same `Base` shares it as
        well: outside of what is being served, the model is the frozen base.
        """
        return [Objective(name, LearnedReward(self, place), **more) for place, name in enumerate(self.names)]

    def __getitem__(self, name: str) -> LearnedReward:
        """The reward of this name."""
        if name not in self.names:
            raise ConfigError(f"There is no learned reward {name!r}. There are {', '.join(self.names)}.")
        return LearnedReward(self, self.names.index(name))

    def judge(self, prompts: Sequence[Any], completions: Sequence[Any], variables: Any = None) -> FloatArray:
        """Scores `[n, q]` of new answers.

        Args:
            prompts: n prompts, each text or chat messages.
            completions: n answers, each text or the assistant's messages.
            variables: n variables of the chat template, or None.
        """
        base = self.base
        asked, said = [], []
        given = [None] * len(prompts) if variables is None else variables
        for prompt, completion, own in zip(prompts, completions, given, strict=True):
            columns = {} if own is None else {"chat_template_kwargs": own}
            comparison = Comparison(prompt, (completion,), NOTHING, columns=columns)
            ids = tuple(base.encode(prompt, own))
            asked.append(ids)
            said.append(encode_response(base, comparison, ids, completion)[0])
        rows = tuple((*ids, *tokens) for ids, tokens in zip(asked, said, strict=True))
        known = self._known
        if known is None or known[0] != rows:  # all objectives ask about one batch in turn
            unique = dict.fromkeys(zip(asked, said, strict=True))
            features = self._states([one for one, _ in unique], [one for _, one in unique])
            place = {one: n for n, one in enumerate(unique)}
            scores = self.scores.of(features)
            known = self._known = rows, scores[[place[one] for one in zip(asked, said, strict=True)]]
        return known[1]

    def _states(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """`[n, d]`, or `[q, n, d]` where each head reads with an adapter of its own."""
        if self.readers is None:
            return end_states(self.base, prompts, completions)
        return self.readers.states(prompts, completions)

    def preference_of(self, comparisons: Comparisons, *, seed: int = 0) -> FloatArray:
        """What a user wants who made these comparisons: weights `[Z]` of the prototypes of kind "pal".

        They are a preference over the objectives, as `front.select` takes it.

        Args:
            comparisons: A few, labelled by the one objective that was learned.
            seed: Of the starts.

        Raises:
            ConfigError: The rewards are of another kind, or the comparisons are not labelled by the objective.
        """
        if not isinstance(self.scores.model, IdealPoints):
            raise ConfigError(
                f"Only rewards of kind 'pal' know users as preferences; these are of kind {self.scores.kind!r}."
            )
        learned = self.scores.report[0].name
        if learned not in comparisons.names:
            raise ConfigError(f"These rewards learned {learned!r}; labelled are {', '.join(comparisons.names)}.")
        judged = judged_rows(self.base, encode_comparisons(comparisons, self.base)[0], comparisons.names)
        labels = judged.labels[:, comparisons.names.index(learned)]
        known = np.isfinite(labels)
        first, second = (self.scores.standardised(side) for side in judged.sides(known))
        return self.scores.model.preference_of(first, second, labels[known], seed=seed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the rewards to a folder, plain JSON and safetensors; `load_rewards` reads it.

        Adapters are stock PEFT folders in it, `adapter-1` for the first name and so on.
        """
        folder = path_of(path, "path")
        if self.readers is not None:
            self.readers.save(_adapters(folder, len(self.names)))
        self.scores.save(folder)
        return folder

    def __repr__(self) -> str:
        told = ", ".join(f"{one.name} {one.accuracy:.2f}" for one in self.report)
        return f"<LearnedRewards {self.scores.kind}: {told}>"


class LearnedReward:
    """One learned reward, with TRL's signature.

    Args:
        rewards: Where it is from.
        place: Which of them.
    """

    def __init__(self, rewards: LearnedRewards, place: int) -> None:
        self.rewards, self.place = rewards, place
        self.__name__ = rewards.names[place]

    @property
    def shares(self) -> tuple[Any, ...]:
        """What it has in common with the others."""
        return (self.rewards,)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """The reward of each completion; one unit is one unit of log odds."""
        found = self.rewards.judge(prompts, completions, columns.get("chat_template_kwargs"))
        return [float(value) for value in found[:, self.place]]


def reads_with(reward: Any, base: Base) -> bool:
    """Whether a reward, or a member of it, is a learned one that reads with this very model."""
    if isinstance(reward, LearnedReward):
        return reward.rewards._base is base
    members = getattr(reward, "members", ())
    return any(reads_with(member, base) for member in members) if isinstance(members, tuple) else False


def fit_rewards(
    base: Any,
    comparisons: Comparisons,
    *,
    kind: str = "bt",
    objective: str | None = None,
    groups: int | None = None,
    penalty: float | None = None,
    lora: Any = None,
    seed: int = 0,
    **more: Any,
) -> LearnedRewards:
    """Learn rewards from comparisons, on the states of a frozen model or with adapters of their own.

    Args:
        base: The model: a `Base`, or whatever `load_base` takes.
        comparisons: What was judged; every column of labels is an objective.
        kind: See `objectives.learned.fit_scores`.
        objective: The one column to learn; by default all of them.
        groups: Groups of users, or prototypes.
        penalty: Of the heads; by default the best of a few on held-out prompts.
        lora: Train an adapter beside the head of each objective, of kind "bt" or "regression": a `peft.LoraConfig`, or
            True for `default_lora_config()`. None leaves the model as it is, and is much faster.
        seed: Of what is held out, and of the starts.
        more: `dimension`, `planes` and `steps` of `fit_scores`; with `lora` the `passes`, `learning_rate`,
            `prompts_per_step`, `micro_batch_tokens` and `gradient_checkpointing` of `reward_models.fit_adapters`;
            `max_length` and `overflow` of `encode_comparisons`.

    Raises:
        ConfigError: There is no such kind or objective, or the kind needs what is not there.
        ComparisonError: A comparison cannot be read by the model.
        ModelError: With `lora`: a run has its policies on this model, or adapters are on it.
    """
    if lora and kind not in ADAPTED_KINDS:
        raise ConfigError(f"`lora` trains adapters beside heads, of kind {' or '.join(ADAPTED_KINDS)}. Found {kind!r}.")
    if objective is not None:
        if objective not in comparisons.names:
            raise ConfigError(f"`objective` must be one of {', '.join(comparisons.names)}. Found {objective!r}.")
        comparisons = comparisons.for_objectives([Objective(objective, prefers=objective)])
    base = load_base(base)
    how = {name: more.pop(name) for name in ("max_length", "overflow") if name in more}
    rows, _ = encode_comparisons(comparisons, base, **how)
    judged = judged_rows(base, rows, comparisons.names)
    if lora:
        config = None if lora is True else lora
        readers, scores = fit_adapters(base, rows, judged, kind, lora=config, penalty=penalty, seed=seed, **more)
        return LearnedRewards(replace(scores, facts=described(base)), base, readers)
    scores = fit_scores(judged, kind, groups=groups, penalty=penalty, seed=seed, **more)
    return LearnedRewards(replace(scores, facts=described(base)), base)


def load_rewards(path: str | os.PathLike[str], *, base: Any = None, **load: Any) -> LearnedRewards:
    """Rewards that `LearnedRewards.save` wrote; the model is loaded by its name at the first use.

    Args:
        path: The folder.
        base: The model where it is at hand, or another place to load it from.
        **load: Passed to `load_base`, such as `device` or `dtype`.

    Raises:
        FrontFileError: The folder holds no such rewards, or they or their adapters are of another model.
        ModelError: They have adapters, and a run has its policies on this model, or adapters are on it.
    """
    folder = path_of(path, "path")
    scores = read_scores(folder)
    if scores.adapted:
        for adapter in _adapters(folder, len(scores.names)):
            read_lora_config(adapter)
    kept = folder if scores.adapted else None
    if base is None:
        return LearnedRewards(scores, None, kept, **load)
    given = load_base(base, **load)
    width = given.model.get_output_embeddings().weight.shape[1]
    if width != len(scores.center):
        raise FrontFileError(
            f"The rewards in {path} read states of {len(scores.center)} numbers, and this model's have {width}."
        )
    found = LearnedRewards(scores, given, kept)
    _ = found.readers  # what does not belong together is refused now
    return found


def _adapters(folder: Path, count: int) -> list[Path]:
    """Where the adapters of so many rewards stand in their folder."""
    return [folder / f"adapter-{place + 1}" for place in range(count)]


_loaded: WeakValueDictionary[Any, LearnedRewards] = WeakValueDictionary()


def learned_reward(folder: str | os.PathLike[str], *, name: str | None = None, **load: Any) -> LearnedReward:
    """One of the rewards in a folder, as a config names it; those of one folder share the model.

    Args:
        folder: What `LearnedRewards.save` wrote.
        name: Which of them; may be left out where there is one.
        **load: Passed to `load_base`, such as `device` or `dtype`.

    Raises:
        ConfigError: There is no such reward, or several and no name.
        FrontFileError: The folder holds no such rewards.
    """
    path = path_of(folder, "folder")
    record = path / "rewards.json"
    key = (path.resolve(), record.stat().st_mtime_ns if record.is_file() else 0, repr(sorted(load.items())))
    rewards = _loaded.get(key)
    if rewards is None:
        rewards = _loaded[key] = load_rewards(path, **load)
    if name is None and len(rewards.names) > 1:
        raise ConfigError(f"{path} holds several rewards: {', '.join(rewards.names)}. Say which by `name`.")
    return rewards[rewards.names[0] if name is None else name]


def judged_rows(base: Base, rows: Sequence[ComparisonRow], names: Sequence[str]) -> Judged:
    """Comparisons as features of their responses and labels.

    Args:
        base: The model that reads them.
        rows: As token rows.
        names: Of the objectives.
    """
    counts = [len(row.tokens) for row in rows]
    prompts, said, pairs = laid_out(rows)
    features = end_states(base, prompts, said)
    comparisons = [row.comparison for row in rows]
    table = table_of(comparisons)
    rated = any(one.scores is not None for one in comparisons)
    ratings = [
        np.full((count, len(names)), np.nan) if one.scores is None else one.scores
        for one, count in zip(comparisons, counts, strict=True)
    ]
    named = any(user is not None for user in table.users)
    return Judged(
        features.astype(np.float64),
        np.repeat(np.arange(len(rows)), counts),
        pairs,
        table.values,
        tuple(names),
        table.weights,
        table.users if named else None,
        np.concatenate(ratings) if rated else None,
    )


NOTHING = Labels(np.empty((0, 2), dtype=np.int64), np.empty((0, 1)))
