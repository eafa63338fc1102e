"""From the rows of any source to comparisons, one a prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from pareto_align.data.comparison import Comparison
from pareto_align.data.comparison_formats import format_of, read_source
from pareto_align.data.merging import SAME, merged, names_of
from pareto_align.data.ratings import PairRule, check_pairs
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning
from pareto_align.spelling import hint

__all__ = ["Read", "ReadOptions", "read_comparisons"]

MANY = 0.05
"""Share of pairs of equal responses above which a warning is given."""


class ReadOptions(TypedDict, total=False):
    """How comparisons are read.

    Attributes:
        format: One of `comparison_formats.FORMATS`; "auto" (default) tells by the columns.
        labels: The columns that hold labels; by default all that can be read as such.
        kinds: By column "which", "probability", "signed" or "scores", where it is not plain how it is to be read.
        pairs: Which pairs are made of ratings, see `ratings.PairRule`.
        user: The column that says who judged; by default the first of the usual names that is there.
        trust_reference: Take reference log-probabilities of the source, which may be of another model.
        seed: For `pairs="random"`.
    """

    format: str
    labels: Sequence[str] | None
    kinds: Mapping[str, str] | None
    pairs: PairRule
    user: str | None
    trust_reference: bool
    seed: int


@dataclass
class Read:
    """What was read.

    Attributes:
        rows: One comparison a prompt.
        names: The objectives that labels were found of.
        counts: What was left out, by reason.
        unread: Columns that hold no labels, each with what is wrong with them.
        columns: All columns of the source.
    """

    rows: list[Comparison]
    names: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


def read_comparisons(given: Sequence[Mapping[str, Any]], wheres: Sequence[str], **options: Unpack[ReadOptions]) -> Read:
    """The comparisons of some rows.

    Args:
        given: Mappings of columns.
        wheres: How the message of an error about each begins.
        options: See `ReadOptions`.

    Raises:
        ComparisonError: A row cannot be read, or no column holds labels.
        ConfigError: There is no such option, or a value is wrong.

    Warns:
        ParetoAlignWarning: Many pairs are of two equal responses.
    """
    known = list(ReadOptions.__annotations__)
    if unknown := [name for name in options if name not in known]:
        raise ConfigError(f"Reading comparisons has no option {unknown[0]!r}.{hint(unknown[0], known)}")
    rule = options.get("pairs", "auto")
    check_pairs(rule)
    asked = options.get("format", "auto")
    if asked == "written" or (asked == "auto" and format_of(given[0]) == "written"):
        return _written(given, wheres)
    source = read_source(
        given,
        wheres,
        format=asked,
        labels=options.get("labels"),
        kinds=options.get("kinds"),
        user=options.get("user"),
        trust_reference=options.get("trust_reference", False),
    )
    names = names_of(source.rows)
    found, counts = merged(source.rows, names, pairs=rule, seed=options.get("seed", 0))
    if source.rows and not names:
        told = "; ".join(source.unread.values()) or f"its columns are {', '.join(source.columns)}."
        raise ComparisonError(f"No column holds labels: {told}")
    counts.update(source.counts)
    made = sum(len(row.pairs) for row in source.rows)
    if made and counts[SAME] > MANY * made:
        warnings.warn(
            f"{counts[SAME]} of {made} pairs are of two equal responses, and were left out.",
            ParetoAlignWarning,
            stacklevel=3,
        )
    return Read(found, names, counts, source.unread, source.columns)


def _written(given: Sequence[Mapping[str, Any]], wheres: Sequence[str]) -> Read:
    """What `Comparisons.to_rows` wrote."""
    for row, where in zip(given, wheres, strict=True):
        if not isinstance(row.get("labels"), Mapping):
            raise ComparisonError(f"{where} is no comparison as `Comparisons.to_rows` writes it: it has no `labels`.")
    names = tuple(dict.fromkeys(str(name) for row in given for name in row["labels"]))
    return Read([Comparison.from_row(row, names, where) for row, where in zip(given, wheres, strict=True)], names)
