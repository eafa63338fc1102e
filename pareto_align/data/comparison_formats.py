"""The format of a source of comparisons, the columns that hold its labels, and its rows as that format reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pareto_align.data.group_formats import read_marked, read_nectar, read_rated, read_responses, read_ultrafeedback
from pareto_align.data.labels import Kind, check_kind, is_missing, kind_of, number, read_label
from pareto_align.data.pair_formats import LOGPS, SCORES, LabelColumns, read_chosen, read_hh, read_strength, read_two
from pareto_align.data.source_rows import SourceRow, check_text
from pareto_align.errors import ComparisonError, ConfigError
from pareto_align.spelling import hint

__all__ = ["FORMATS", "Source", "format_of", "read_source"]

FORMATS: dict[str, str] = {
    "trl": "`chosen` and `rejected`, with a `prompt` or a common beginning, as texts or messages",
    "hh": "`chosen` and `rejected` as dialogues of '\\n\\nHuman:' and '\\n\\nAssistant:' turns",
    "pairs": "`prompt`, `response_0`, `response_1` and a column of labels an objective (PKU-SafeRLHF)",
    "strength": "`prompt` or `context`, `response_1`, `response_2` and a signed strength (HelpSteer2 and 3)",
    "ultrafeedback": "`instruction` and `completions` with `annotations`",
    "nectar": "`prompt` and `answers` with a `rank`",
    "responses": "`prompt`, `responses` and columns with one rating for each",
    "ratings": "`prompt` and `response`, or `messages`, and numbers in further columns (HelpSteer2)",
    "unpaired": "`prompt`, `completion` and a `label`, true or false",
    "beavertails": "`prompt`, `response` and `is_safe`",
    "written": "what `Comparisons.to_rows` gives",
}
"""The formats that are read, each with its columns."""

STRENGTHS = ("preference_strength", "overall_preference")
USERS = ("user", "user_id", "annotator", "annotator_id", "worker_id")
_USED: dict[str, set[str]] = {
    "trl": {"prompt", "chosen", "rejected", "margin", "reference", *LOGPS, *SCORES},
    "hh": {"chosen", "rejected"},
    "pairs": {"prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"},
    "strength": {"prompt", "context", "response_1", "response_2", "response1", "response2"},
    "responses": {"prompt", "responses"},
    "ratings": {"prompt", "response", "messages"},
}


@dataclass
class Source:
    """A source of comparisons, read.

    Attributes:
        rows: Its rows.
        counts: How many rows were left out, by reason.
        unread: Columns that might have been labels and hold something else, each with what is wrong.
        columns: The columns that there are.
    """

    rows: list[SourceRow]
    counts: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


def format_of(row: Mapping[str, Any]) -> str:
    """The format of a source, by the columns of one of its rows.

    Raises:
        ComparisonError: It is none that is known.
    """
    has = set(row)
    if {"chosen", "rejected"} <= has:
        dialogue = all(isinstance(row[name], str) and "\n\nAssistant:" in row[name] for name in ("chosen", "rejected"))
        return "hh" if dialogue and row.get("prompt") is None else "trl"
    if "responses" in has:
        return "written" if isinstance(row.get("labels"), Mapping) else "responses"
    for format, columns in (
        ("ultrafeedback", {"completions"}),
        ("nectar", {"answers"}),
        ("pairs", {"response_0", "response_1"}),
        ("strength", {"response_1", "response_2"}),
        ("strength", {"response1", "response2"}),
        ("unpaired", {"completion"}),
        ("beavertails", {"response", "is_safe"}),
        ("ratings", {"response"}),
        ("ratings", {"messages"}),
    ):
        if columns <= has:
            return format
    known = "; ".join(FORMATS.values())
    raise ComparisonError(f"A comparison has the columns {', '.join(map(str, row)) or 'none'}. Known are: {known}.")


def read_source(
    given: Sequence[Mapping[str, Any]],
    wheres: Sequence[str],
    *,
    format: str = "auto",
    labels: Sequence[str] | None = None,
    kinds: Mapping[str, Any] | None = None,
    user: str | None = None,
    trust_reference: bool = False,
) -> Source:
    """The rows of a source.

    Args:
        given: Mappings of columns.
        wheres: How the message of an error about each begins.
        format: One of `FORMATS`; "auto" tells by the columns.
        labels: The columns that hold labels; None takes all that can be read as such.
        kinds: By column how its labels are read, where that is not plain.
        user: The column that says who judged; None takes the first of the usual names that is there.
        trust_reference: Whether reference log-probabilities of the source are taken as they are.

    Raises:
        ComparisonError: The format is not known, a column is missing, or a row cannot be read.
        ConfigError: There is no such format or kind.
    """
    if format == "auto":
        format = format_of(given[0])
    if format not in FORMATS:
        raise ConfigError(f"Unknown format {format!r} of comparisons.{hint(format, ['auto', *FORMATS])}")
    columns = tuple(dict.fromkeys(str(name) for row in given for name in row))
    if user is not None and user not in columns:
        raise ComparisonError(f"There is no column {user!r} that says who judged.{hint(user, columns)}")
    if absent := [name for name in kinds or () if name not in columns]:
        raise ComparisonError(f"There is no column {absent[0]!r} of labels.{hint(absent[0], columns)}")
    judge = user or next((name for name in USERS if name in columns), None)
    source = Source([], columns=columns)
    used = _USED.get(format, set()) | ({judge} if judge else set())
    candidates = [name for name in columns if name not in used]
    if format in ("trl", "hh", "pairs", "strength"):
        found = _label_columns(given, wheres, format, candidates, labels, kinds or {}, source)
        told = LabelColumns(found[0], found[1], judge, trust_reference)
        if not trust_reference and any(name in columns for name in LOGPS):
            source.counts["reference log-probabilities of the source not used"] = len(given)
        reader = {"trl": read_chosen, "hh": read_hh, "pairs": read_two, "strength": read_strength}[format]
        for row, where in zip(given, wheres, strict=True):
            read = reader(row, where, told)
            if read is None:
                source.counts["dialogues that differ before the last answer"] += 1
            else:
                _keep(read, labels)
                check_text(read)
                source.rows.append(read)
        return source
    rated = _rated_columns(given, format, candidates, labels)
    for row, where in zip(given, wheres, strict=True):
        if format == "ultrafeedback":
            read = read_ultrafeedback(row, where)
        elif format == "nectar":
            read = read_nectar(row, where)
        elif format == "responses":
            read = read_responses(row, where, rated)
        elif format == "ratings":
            read = read_rated(row, where, rated)
        elif format == "beavertails":
            read = read_marked(row, where, "response", "is_safe")
        else:
            read = read_marked(row, where, "completion", "label")
        if judge is not None:
            said = read.columns.pop(judge, None)
            read.user = None if is_missing(said) else said
        _keep(read, labels)
        check_text(read)
        source.rows.append(read)
    return source


def _keep(read: SourceRow, labels: Sequence[str] | None) -> None:
    """Leave out what is said under other names than these."""
    if labels is not None:
        for part in (read.labels, read.margins, read.scores, read.marks):
            for name in part.keys() - set(labels):
                del part[name]


def _label_columns(
    given: Sequence[Mapping[str, Any]],
    wheres: Sequence[str],
    format: str,
    candidates: Sequence[str],
    labels: Sequence[str] | None,
    kinds: Mapping[str, Any],
    source: Source,
) -> tuple[dict[str, Kind], dict[str, tuple[str, str]]]:
    """The columns of one label a pair with their kinds, and the objectives with the ratings of both responses."""
    rated = _two_columns(given, candidates)
    inside = {column for pair in rated.values() for column in pair}
    wanted = list(candidates) if labels is None else [name for name in labels if name not in (*rated, "chosen", "safe")]
    if labels is None and format == "pairs" and (ids := [name for name in candidates if name.endswith("_response_id")]):
        wanted = [*ids, *(name for name in kinds if name not in ids)]  # PKU-SafeRLHF: the others are no labels
    if labels is None and format == "strength" and (known := [name for name in STRENGTHS if name in candidates]):
        wanted = [*known, *(name for name in kinds if name not in known)]
    words = {"strength": (("response_1", "response1"), ("response_2", "response2"))}.get(format, ((), ()))
    found: dict[str, Kind] = {}
    for name in wanted:
        if name in inside:
            continue
        if not any(name in row for row in given):
            raise ComparisonError(f"No comparison has the column {name!r}.{hint(name, [*candidates, *rated])}")
        values = [row.get(name) for row in given]
        try:
            if name in kinds:
                kind: Kind = check_kind(kinds[name], name)
            elif all(is_missing(value) for value in values):
                continue
            elif name in STRENGTHS and format == "strength":
                kind = "signed"
            else:
                kind = "which" if name.endswith("_response_id") else kind_of(values, name)
            for value, where in zip(values, wheres, strict=True):
                read_label(value, kind, name, where, words)
        except ComparisonError as error:
            if labels is not None or name in kinds or name.endswith("_response_id"):
                raise
            source.unread[name] = str(error)
            continue
        found[name] = kind
    if labels is not None:
        rated = {name: pair for name, pair in rated.items() if name in labels}
    return found, rated


def _two_columns(given: Sequence[Mapping[str, Any]], candidates: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Objectives whose ratings stand in two columns, `x_0` and `x_1`."""
    stems = [name[:-2] for name in candidates if name.endswith("_0") and f"{name[:-2]}_1" in candidates]
    pairs = {stem: (f"{stem}_0", f"{stem}_1") for stem in stems if stem}
    return {
        stem: pair for stem, pair in pairs.items() if all(_numeric(row.get(name) for row in given) for name in pair)
    }


def _rated_columns(
    given: Sequence[Mapping[str, Any]], format: str, candidates: Sequence[str], labels: Sequence[str] | None
) -> list[str]:
    """The columns with ratings, of the formats that have them in columns."""
    if format not in ("responses", "ratings"):
        return []
    if labels is not None:
        if missing := [name for name in labels if name not in candidates]:
            raise ComparisonError(f"No comparison has the column {missing[0]!r}.{hint(missing[0], candidates)}")
        return list(labels)
    if format == "ratings":
        found = [name for name in candidates if _numeric(row.get(name) for row in given)]
    else:
        found = [
            name
            for name in candidates
            if all(row.get(name) is None or _is_rating_list(row[name], row.get("responses")) for row in given)
            and any(row.get(name) is not None for row in given)
        ]
    if not found and format == "ratings":
        raise ComparisonError(
            "Comparison 0 has one response and no `label`. A single response needs a mark (`label` or `is_safe`) or "
            f"ratings in further columns. Its columns: {', '.join(map(str, given[0]))}."
        )
    return found


def _numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if not is_missing(value)]
    return bool(present) and all(number(value) is not None for value in present)


def _is_rating_list(value: Any, responses: Any) -> bool:
    if isinstance(value, str | Mapping) or not hasattr(value, "__len__") or not hasattr(responses, "__len__"):
        return False
    if len(value) != len(responses):
        return False
    return all(is_missing(one) or number(one) is not None or isinstance(one, bool) for one in value)
