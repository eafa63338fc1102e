"""Comparisons: what a front can be fitted to where there is no reward function, but somebody has judged answers.

A comparison is a prompt, some responses, and for every objective a label in [0, 1], or none, for pairs of them.
Whatever the source (chosen and rejected, ratings, rankings, several annotators, marks of single responses) becomes
this, and nothing else is learned from. No model is needed to read comparisons, and torch is not loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparison_files import read_rows_of_file
from pareto_align.data.comparison_reading import Read, ReadOptions, read_comparisons
from pareto_align.data.pair_table import PairTable, marked, softened, table_of
from pareto_align.data.ratings import PairRule, hierarchy_labels
from pareto_align.data.source_rows import list_rows
from pareto_align.errors import ComparisonError, ConfigError
from pareto_align.objectives.objective import Objective
from pareto_align.spelling import hint

__all__ = ["Comparison", "Comparisons", "Labels", "PairTable"]


def comparisons_of_run(data: Any, objectives: Sequence[Objective], learner: str, *, rated: bool = False) -> Comparisons:
    """Comparisons under the objectives of a run, from whatever they were given as.

    Args:
        data: `Comparisons`, or rows that they can be read from.
        objectives: All of them.
        learner: Who asks, for errors.
        rated: See `Comparisons.for_objectives`.

    Raises:
        ComparisonError: They cannot be read, or have no labels for an objective.
    """
    if isinstance(data, str):
        raise ComparisonError(
            f"The learner {learner!r} learns from comparisons. Found a text. Read a file with Comparisons.read(path)."
        )
    try:
        found = data if isinstance(data, Comparisons) else Comparisons.from_rows(data)
    except (TypeError, AttributeError) as error:
        raise ComparisonError(
            f"The learner {learner!r} learns from comparisons: rows with a prompt, answers and labels. Found "
            f"{type(data).__name__}: {error}"
        ) from error
    return found.for_objectives(list(objectives), rated=rated)


class Comparisons(Sequence[Comparison]):
    """Comparisons under m named objectives; immutable.

    Args:
        rows: One comparison a prompt.
        names: What each of the m columns of labels is called.
        counts: What was left out at reading, by reason.
        unread: Columns of the source that hold no labels, each with what is wrong with them.
        columns: All columns of the source.

    Raises:
        ComparisonError: There are none, or one has labels of another number of objectives.
    """

    def __init__(
        self,
        rows: Sequence[Comparison],
        names: Sequence[str],
        *,
        counts: Mapping[str, int] | None = None,
        unread: Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self._rows, self._names = tuple(rows), tuple(names)
        self.counts: Mapping[str, int] = dict(counts or {})
        self._unread, self._columns = dict(unread or {}), tuple(columns)
        if not self._rows:
            told = "; ".join(f"{count} {reason}" for reason, count in self.counts.items())
            raise ComparisonError(f"There are no comparisons{f': {told}' if told else ''}.")
        for position, row in enumerate(self._rows):
            if row.m != len(self._names):
                raise ComparisonError(
                    f"Comparison {position} has labels of {row.m} objectives, not {len(self._names)}."
                )

    # ------------------------------------------------------------------------------------------------ reading

    @classmethod
    def read(cls, path: str | Path, **options: Unpack[ReadOptions]) -> Comparisons:
        """The comparisons of a file.

        Args:
            path: A .jsonl, .jsonl.gz, .json, .csv or .parquet file.
            options: As `from_rows` takes them.

        Raises:
            ComparisonError: The file or one of its rows cannot be read; the message says which and what is accepted.
        """
        return cls._of(read_comparisons(*read_rows_of_file(path), **options))

    @classmethod
    def from_rows(cls, rows: Any, **options: Unpack[ReadOptions]) -> Comparisons:
        """Comparisons from a list of mappings, a `datasets.Dataset` or a table.

        Rows of one prompt are put together. `names` is then what labels were found: the columns of labels, or the
        aspects of ratings; TRL's `chosen` and `rejected` are one objective called "chosen".

        Args:
            rows: The rows, in any of the formats of `comparison_formats.FORMATS`.
            options: `format`: one of these; "auto" (default) tells by the columns. `labels`: the columns that hold
                labels; by default all that can be read as such. `kinds`: by column "which", "probability", "signed" or
                "scores", where it is not plain how it is to be read. `pairs`: which pairs are made of ratings, see
                `ratings.PairRule`. `user`: the column that says who judged. `trust_reference`: take reference
                log-probabilities of the source. `seed`: for `pairs="random"`.

        Raises:
            ComparisonError: A row cannot be read; the message says which and what is accepted.
            ConfigError: There is no such option, or a value is wrong.

        Warns:
            ParetoAlignWarning: Many pairs are of two equal responses.
        """
        listed = list_rows(rows)
        return cls._of(
            read_comparisons(listed, [f"Comparison {position}" for position in range(len(listed))], **options)
        )

    @classmethod
    def _of(cls, found: Read) -> Comparisons:
        return cls(found.rows, found.names, counts=found.counts, unread=found.unread, columns=found.columns)

    @classmethod
    def from_ratings(
        cls,
        prompts: Sequence[Any],
        responses: Sequence[Sequence[Any]],
        ratings: Mapping[str, Sequence[Sequence[float | None]]],
        *,
        pairs: PairRule = "auto",
        seed: int = 0,
    ) -> Comparisons:
        """Comparisons from ratings of several responses, more being better.

        Args:
            prompts: N prompts.
            responses: N lists of G responses each; G may differ.
            ratings: By objective N lists of G numbers, None where one is missing.
            pairs: Which pairs are made of them, see `ratings.PairRule`.
            seed: For `pairs="random"`.

        Raises:
            ComparisonError: Lists differ in length, or a rating is no number.
        """
        if not ratings:
            raise ComparisonError("`ratings` must map names of objectives to ratings. Found none.")
        for name, column in {"responses": responses, **ratings}.items():
            if len(column) != len(prompts):
                raise ComparisonError(f"`{name}` has {len(column)} entries for {len(prompts)} prompts.")
        rows = [
            {"prompt": prompt, "responses": list(responses[n]), **{name: list(ratings[name][n]) for name in ratings}}
            for n, prompt in enumerate(prompts)
        ]
        return cls.from_rows(rows, format="responses", labels=list(ratings), pairs=pairs, seed=seed)

    @classmethod
    def from_rankings(
        cls,
        prompts: Sequence[Any],
        responses: Sequence[Sequence[Any]],
        ranks: Mapping[str, Sequence[Sequence[float | None]]] | Sequence[Sequence[float | None]],
        *,
        pairs: PairRule = "auto",
        seed: int = 0,
    ) -> Comparisons:
        """Comparisons from rankings: 1 is the best, equal ranks are ties. Arguments as of `from_ratings`.

        Args:
            prompts: N prompts.
            responses: N lists of G responses.
            ranks: N lists of G ranks, or a mapping of objectives to such; a single one is called "rank".
            pairs: Which pairs are made of them.
            seed: For `pairs="random"`.

        Raises:
            ComparisonError: Lists differ in length, or a rank is no number.
        """
        named = ranks if isinstance(ranks, Mapping) else {"rank": ranks}
        turned = {
            name: [[None if rank is None else -rank for rank in row] for row in column]
            for name, column in named.items()
        }
        return cls.from_ratings(prompts, responses, turned, pairs=pairs, seed=seed)

    @classmethod
    def from_hierarchy(
        cls,
        prompts: Sequence[Any],
        responses: Sequence[Sequence[Any]],
        ratings: Mapping[str, Sequence[Sequence[float | None]]],
        *,
        margins: Sequence[float] | None = None,
        name: str = "hierarchy",
    ) -> Comparisons:
        """Comparisons by objectives in order of importance: the first that tells two responses apart decides.

        Pairs that no objective tells apart are left out, and counted.

        Args:
            prompts: N prompts.
            responses: N lists of G responses.
            ratings: The most important objective first.
            margins: What a difference must exceed to decide, one an objective; 0 by default.
            name: What the one objective of the labels is called.

        Raises:
            ComparisonError: Lists differ in length, a rating is no number, or nothing is told apart.

        References:
            Bukharin et al., "Deep Reinforcement Learning from Hierarchical Preference Design", arXiv 2309.02632
            (HERON).
        """
        rated = cls.from_ratings(prompts, responses, ratings, pairs="all")
        limits = [0.0] * len(ratings) if margins is None else [float(margin) for margin in margins]
        if len(limits) != len(ratings) or not all(limit >= 0 for limit in limits):
            raise ComparisonError(f"`margins` must hold {len(ratings)} numbers of at least 0. Found {margins!r}.")
        found, counts = [], Counter[str]()
        for row in rated:
            assert row.scores is not None
            pairs = np.array(list(combinations(range(row.G), 2)), dtype=np.int64).reshape(-1, 2)
            labels = hierarchy_labels(row.scores, limits, pairs)
            decided = labels != 0.5
            counts["pairs that no level tells apart"] += int((~decided).sum())
            if decided.any():
                found.append(
                    Comparison(
                        row.prompt, row.responses, Labels(pairs[decided], labels[decided][:, None]), columns=row.columns
                    )
                )
        return cls(found, (name,), counts=counts)

    # ------------------------------------------------------------------------------------------------ looking

    @property
    def names(self) -> tuple[str, ...]:
        """What the m columns of labels are called."""
        return self._names

    @property
    def m(self) -> int:
        """The number of objectives."""
        return len(self._names)

    @property
    def users(self) -> tuple[Hashable, ...]:
        """All who judged, in the order in which they are met; empty where nobody is named."""
        named = (user for row in self._rows if row.labels.users is not None for user in row.labels.users)
        return tuple(dict.fromkeys(user for user in named if user is not None))

    @property
    def pair_count(self) -> int:
        """Pairs of all comparisons."""
        return sum(len(row.labels) for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...

    @overload
    def __getitem__(self, index: slice) -> Comparisons: ...

    def __getitem__(self, index: int | slice) -> Comparison | Comparisons:
        if isinstance(index, slice):
            return self._with(self._rows[index])
        return self._rows[index]

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"<Comparisons: {len(self)} prompts, {self.pair_count} pairs, {', '.join(self._names)}>"

    def table(self) -> PairTable:
        """All pairs, one after the other."""
        return table_of(self._rows)

    def summary(self) -> str:
        """A few lines: how many there are, what is labelled, what was left out."""
        table = self.table()
        responses = sum(row.G for row in self._rows)
        lines = [f"{len(self)} prompts, {responses} responses, {len(table.values)} pairs"]
        if self.users:
            lines[0] += f", {len(self.users)} users"
        for name, column in zip(self._names, table.values.T, strict=True):
            known = ~np.isnan(column)
            ties = int((column == 0.5).sum())
            lines.append(f"{name}: {int(known.sum())} labelled, {ties} ties, {int((~known).sum())} without a label")
        lines += [f"left out: {count} {reason}" for reason, count in self.counts.items() if count]
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------------------ choosing

    def filter(self, keep: ArrayLike | Callable[[Comparison], bool]) -> Comparisons:
        """Those that a mask `[len]` or a function of a comparison keeps.

        Raises:
            ComparisonError: The mask has another length, or nothing is kept.
        """
        mask = [bool(keep(row)) for row in self._rows] if callable(keep) else np.asarray(keep, dtype=bool).tolist()
        if not isinstance(mask, list) or len(mask) != len(self):
            raise ComparisonError(f"`keep` must have {len(self)} entries, one a comparison.")
        return self._with([row for row, kept in zip(self._rows, mask, strict=True) if kept])

    def for_objectives(self, objectives: Sequence[Objective], *, rated: bool = False) -> Comparisons:
        """The same with one column of labels an objective, in their order and under their names.

        Each takes the column that its `prefers` names, turned round where less is better. One without `prefers` has no
        labels.

        Args:
            objectives: m of them.
            rated: Ratings are what is learned from: each objective needs some, and no pair that it prefers.

        Raises:
            ComparisonError: There is no such column, it holds no labels, or none that prefers a response.
        """
        columns = [None if objective.prefers is None else self._column(objective) for objective in objectives]
        turned = [not objective.maximize for objective in objectives]
        rows = [row.of_columns(columns, turned) for row in self._rows]
        found = self._with(rows, [objective.name for objective in objectives])
        check = found._check_rated if rated else found._check_decided
        check(objectives)
        return found

    def _column(self, objective: Objective) -> int:
        wanted = str(objective.prefers)
        if wanted in self._names:
            return self._names.index(wanted)
        if wanted in self._unread:
            raise ComparisonError(f"Objective {objective.name!r}: {self._unread[wanted]}")
        if wanted in self._columns:
            raise ComparisonError(
                f"Objective {objective.name!r}: the column {wanted!r} holds no labels. Found labels in "
                f"{', '.join(self._names) or 'none'}. Read with labels=[...] to say which columns hold them."
            )
        raise ComparisonError(
            f"Objective {objective.name!r}: no comparison has the column {wanted!r}.{hint(wanted, self._names)}"
        )

    def _check_rated(self, objectives: Sequence[Objective]) -> None:
        """Refuse an objective without ratings."""
        for place, objective in enumerate(objectives):
            known = any(row.scores is not None and np.isfinite(row.scores[:, place]).any() for row in self._rows)
            if objective.prefers is not None and not known:
                raise ComparisonError(
                    f"Objective {objective.name!r} has no ratings in the column {objective.prefers!r}: give numbers of "
                    "single answers, such as Comparisons.from_ratings(...), or learn from pairs with learner='dpo'."
                )

    def _check_decided(self, objectives: Sequence[Objective]) -> None:
        """Refuse an objective whose labels prefer nothing."""
        values = np.concatenate([row.labels.values for row in self._rows])
        for place, objective in enumerate(objectives):
            column = values[:, place]
            decided = bool((np.isfinite(column) & (column != 0.5)).any())
            marked = any(row.marks is not None and np.isfinite(row.marks[:, place]).any() for row in self._rows)
            if objective.prefers is None or decided or marked:
                continue
            ties = int((column == 0.5).sum())
            raise ComparisonError(
                f"Objective {objective.name!r} has nothing to learn: of {len(column)} pairs, {ties} are ties in the "
                f"column {objective.prefers!r} and {len(column) - ties} have no label."
            )

    def require_users(self, learner: str) -> None:
        """Refuse comparisons in which nobody is named, for a learner that needs to know who judged.

        Raises:
            ComparisonError: It names the argument to give.
        """
        if not self.users:
            raise ComparisonError(
                f"{learner} needs to know who judged, and no comparison says so. Read with user='COLUMN', the "
                "column of annotators or groups."
            )

    def by_group(self, groups: Mapping[Hashable, Any], names: Sequence[str] | None = None) -> Comparisons:
        """One column of labels a group of users, so that each group is an objective and a run has an expert for each.

        Args:
            groups: By user, the name of his group, or how much he counts in each, a list as long as `names`. Pairs of
                users who are missing lose their labels.
            names: Of the groups; by default those that `groups` names, sorted.

        Raises:
            ComparisonError: There are several columns of labels, nobody is named, or no user is of any group.
            ConfigError: Shares are not as many as names, below 0 or not finite, or a group is not among the names.
        """
        if self.m != 1:
            raise ComparisonError(
                f"Groups are made of one column of labels. Found {', '.join(self._names)}: read with labels=[...]."
            )
        self.require_users("`by_group`")
        named = {user: group for user, group in groups.items() if isinstance(group, str)}
        known = tuple(sorted(set(named.values())) if names is None else map(str, names))
        if strange := sorted(set(named.values()) - set(known)):
            raise ConfigError(f"Groups are {', '.join(known)}. Found {', '.join(strange)}.")
        shares = {}
        for user, group in groups.items():
            row = np.array([float(group == name) for name in known] if user in named else group, dtype=np.float64)
            if row.shape != (len(known),) or not (np.isfinite(row).all() and (row >= 0).all()):
                raise ConfigError(
                    f"User {user!r} needs a group, or a number of at least 0 for each of {', '.join(known) or 'none'}. "
                    f"Found {group!r}."
                )
            shares[user] = row
        if not any(shares[user].any() for user in self.users if user in shares):
            raise ComparisonError(f"Nobody who judged is in a group: they are {', '.join(map(str, self.users[:5]))}.")
        return self._with([row.of_groups(shares, len(known)) for row in self._rows], known)

    def soften(self, tau: float | None = None) -> Comparisons:
        """Labels by how large the margins are: s = sigmoid(margin / tau) for the preferred response.

        Pairs without a margin keep their label.

        Args:
            tau: The margin that makes a preference of 73 %; by default, objective by objective, the standard deviation
                of the margins (with their sign, those of ties left out).

        Raises:
            ComparisonError: `tau` is not positive, or no pair has a margin.
        """
        table = self.table()
        if tau is not None and not tau > 0:
            raise ComparisonError(f"`tau` must be positive. Found {tau!r}.")
        if np.isnan(table.margins).all():
            raise ComparisonError("No pair has a margin: read ratings, or a column `margin`.")
        return self._with(softened(self._rows, table, tau))

    def unpaired(self) -> Comparisons:
        """Marks of single responses from pairs: a preferred response is desirable, the other one is not.

        What losses such as "kto" learn from. A response that is preferred in one pair and not in another has the mean.
        """
        return self._with([marked(row) for row in self._rows])

    def to_rows(self) -> list[dict[str, Any]]:
        """All comparisons in JSON's own types; `from_rows` and `read` bring them back as they are."""
        return [row.to_row(self._names) for row in self._rows]

    def _with(self, rows: Sequence[Comparison], names: Sequence[str] | None = None) -> Comparisons:
        return Comparisons(
            rows,
            self._names if names is None else names,
            counts=self.counts,
            unread=self._unread,
            columns=self._columns,
        )
