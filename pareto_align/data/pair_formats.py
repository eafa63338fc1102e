"""Sources in which two responses are compared: TRL's, HH-RLHF, UltraFeedback binarized, PKU-SafeRLHF, HelpSteer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pareto_align.data.labels import Kind, is_missing, read_label
from pareto_align.data.source_rows import (
    Response,
    SourceRow,
    key_of,
    plain_messages,
    read_rating,
    read_response,
)
from pareto_align.errors import ComparisonError
from pareto_align.messages import Prompt

__all__ = ["LabelColumns", "conversation_of", "read_chosen", "read_hh", "read_strength", "read_two"]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
SCORES = ("score_chosen", "score_rejected")


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of a source hold labels.

    Attributes:
        kinds: By column how it is read.
        rated: By objective the two columns that hold the ratings of the first and the second response.
        user: The column that says who judged.
        trust_reference: Whether the source's own reference log-probabilities are taken.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    rated: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    user: str | None = None
    trust_reference: bool = False


def read_chosen(row: Mapping[str, Any], where: str, columns: LabelColumns) -> SourceRow:
    """A row with `chosen` and `rejected`, as TRL has them: with a prompt or sharing one, text or messages."""
    chosen = read_response(row.get("chosen"), where, "chosen")
    rejected = read_response(row.get("rejected"), where, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ComparisonError(f"{where}: `chosen` and `rejected` must both be texts, or both lists of messages.")
    prompt, first, second = _prompt_and_two(row.get("prompt"), chosen, rejected, where)
    read = SourceRow(where, prompt, [first, second], pairs=[(0, 1)], labels={"chosen": [1.0]})
    margin = read_rating(row.get("margin"), "margin", where)
    if margin < 0:
        raise ComparisonError(f"{where}: margin must not be negative. Found {margin:g}.")
    if all(name in row for name in SCORES):  # UltraFeedback binarized
        one, other = (read_rating(row[name], name, where) for name in SCORES)
        margin = abs(one - other)
    if margin == margin:
        read.margins["chosen"] = [margin]
    if row.get("reference") is not None:  # TPO's third response, to be imitated
        gold = _in_form(read_response(row["reference"], where, "reference"), prompt)
        if key_of(gold) not in (key_of(first), key_of(second)):
            read.responses.append(gold)
        read.gold = [key_of(response) for response in read.responses].index(key_of(gold))
    if columns.trust_reference and all(row.get(name) is not None for name in LOGPS):
        found = [read_rating(row[name], name, where) for name in LOGPS]
        read.reference = found + [float("nan")] * (len(read.responses) - 2)
    used = {"prompt", "chosen", "rejected", "margin", "reference", *SCORES, *LOGPS}
    return _with_labels(read, row, columns, used, ((), ()))


def read_hh(row: Mapping[str, Any], where: str, columns: LabelColumns) -> SourceRow | None:
    """HH-RLHF: two dialogues as one text each, which differ in the last answer; None where they differ before."""
    sides = [str(row.get(name)).rpartition("\n\nAssistant:") for name in ("chosen", "rejected")]
    if not all(mark for _, mark, _ in sides):
        raise ComparisonError(f"{where}: `chosen` and `rejected` need an answer after '\\n\\nAssistant:'.")
    if sides[0][0] != sides[1][0]:
        return None
    responses: list[Response] = [[{"role": "assistant", "content": text.strip()}] for _, _, text in sides]
    prompt = conversation_of(sides[0][0], where)
    read = SourceRow(where, prompt, responses, pairs=[(0, 1)], labels={"chosen": [1.0]})
    return _with_labels(read, row, columns, {"chosen", "rejected"}, ((), ()))


def read_two(row: Mapping[str, Any], where: str, columns: LabelColumns) -> SourceRow:
    """A row with `response_0` and `response_1` and a column of labels an objective, as PKU-SafeRLHF has them."""
    names = ("response_0", "response_1")
    read = _two(row, where, names)
    safe = [row.get(f"is_{name}_safe") for name in names]
    if any(value is not None for value in safe):
        read.marks["safe"] = [
            read_rating(value, f"is_{name}_safe", where) for value, name in zip(safe, names, strict=True)
        ]
    used = {"prompt", *names, *(f"is_{name}_safe" for name in names)}
    return _with_labels(read, row, columns, used, ((), ()))


def read_strength(row: Mapping[str, Any], where: str, columns: LabelColumns) -> SourceRow:
    """HelpSteer2 and 3: `response_1`, `response_2` and a strength from -3 to 3, negative where the first is better.

    A strength of 0 is a tie here; NeMo's first reader makes it a win of the second response.
    """
    names = ("response_1", "response_2") if "response_1" in row else ("response1", "response2")
    read = _two(row, where, names)
    return _with_labels(read, row, columns, {"prompt", "context", *names}, ((names[0],), (names[1],)))


def conversation_of(text: str, where: str) -> Prompt:
    """A dialogue of "\\n\\nHuman:" and "\\n\\nAssistant:" turns as messages.

    Raises:
        ComparisonError: It does not begin with such a turn.
    """
    parts = _TURN.split(text if text.startswith("\n\n") else f"\n\n{text.lstrip()}")
    if parts[0].strip() or len(parts) < 3:
        raise ComparisonError(f"{where}: the dialogue must begin with '\\n\\nHuman:'. Found {text[:60]!r}.")
    turns = zip(parts[1::2], parts[2::2], strict=True)
    messages = [{"role": _ROLES[speaker], "content": said.strip()} for speaker, said in turns]
    while messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()  # the turn that is to be answered
    return messages


def _two(row: Mapping[str, Any], where: str, names: tuple[str, str]) -> SourceRow:
    given = row.get("prompt", row.get("context"))
    if given is None:
        raise ComparisonError(f"{where} has no `prompt`. Its columns: {', '.join(map(str, row))}.")
    prompt: Prompt = given if isinstance(given, str) else plain_messages(given, where)
    read = [read_response(row.get(name), where, name) for name in names]
    if isinstance(prompt, str) and not all(isinstance(response, str) for response in read):
        prompt = [{"role": "user", "content": prompt}]
    return SourceRow(where, prompt, [_in_form(response, prompt) for response in read], pairs=[(0, 1)])


def _with_labels(
    read: SourceRow, row: Mapping[str, Any], columns: LabelColumns, used: set[str], words: tuple[Any, Any]
) -> SourceRow:
    """The row with what its label columns say of its one pair, and with its other columns."""
    for column, kind in columns.kinds.items():
        label = read_label(row.get(column), kind, column, read.where, words)
        read.labels[column] = [label.value]
        if label.margin == label.margin:
            read.margins[column] = [label.margin]
        if label.scores is not None:
            read.scores[column] = [*label.scores, *[float("nan")] * (len(read.responses) - 2)]
    for name, pair in columns.rated.items():
        ratings = [read_rating(row.get(column), column, read.where) for column in pair]
        label = read_label(ratings, "scores", name, read.where)
        read.labels[name], read.margins[name] = [label.value], [label.margin]
        read.scores[name] = [*ratings, *[float("nan")] * (len(read.responses) - 2)]
        used |= set(pair)
    if columns.user is not None:
        user = row.get(columns.user)
        read.user = None if is_missing(user) else user
        used |= {columns.user}
    read.columns = {str(name): value for name, value in row.items() if name not in used | columns.kinds.keys()}
    return read


def _in_form(response: Response, prompt: Prompt) -> Response:
    """A response in the form of its prompt: messages to a conversation."""
    if isinstance(prompt, str) or not isinstance(response, str):
        return response
    return [{"role": "assistant", "content": response}]


def _prompt_and_two(given: Any, chosen: Response, rejected: Response, where: str) -> tuple[Prompt, Response, Response]:
    """The prompt, and what follows it in both; without one it is what both begin with."""
    if given is not None:
        prompt: Prompt = given if isinstance(given, str) else plain_messages(given, where)
        if isinstance(prompt, str) and not isinstance(chosen, str):
            if chosen[0]["role"] != "assistant":  # messages that repeat the prompt
                return _shared_messages(chosen, rejected, where)
            prompt = [{"role": "user", "content": prompt}]
        elif not isinstance(prompt, str) and not isinstance(chosen, str):
            shared = len(prompt)
            if chosen[:shared] == prompt == rejected[:shared] and shared < min(len(chosen), len(rejected)):
                chosen, rejected = chosen[shared:], rejected[shared:]  # type: ignore[assignment]
        return prompt, _in_form(chosen, prompt), _in_form(rejected, prompt)
    if isinstance(chosen, str):
        return _shared_text(chosen, str(rejected), where)
    return _shared_messages(chosen, rejected, where)


def _shared_messages(chosen: Any, rejected: Any, where: str) -> tuple[Prompt, Response, Response]:
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    while shared and chosen[shared - 1]["role"] == "assistant":
        shared -= 1  # an answer that both begin with belongs to the answers
    if shared < 1:
        raise ComparisonError(f"{where}: chosen and rejected share no beginning. Give the `prompt` as a column.")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _shared_text(chosen: str, rejected: str, where: str) -> tuple[Prompt, Response, Response]:
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = min(len(chosen), len(rejected)) if shared is None else shared
    if shared and chosen[shared - 1] == " ":
        shared -= 1  # the space belongs to the answers, as in TRL's extract_prompt
    if not chosen[:shared].strip():
        raise ComparisonError(f"{where}: chosen and rejected share no beginning. Give the `prompt` as a column.")
    return chosen[:shared], chosen[shared:], rejected[shared:]
