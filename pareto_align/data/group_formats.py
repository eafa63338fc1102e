"""Sources that rate, rank or mark responses: UltraFeedback, Nectar, HelpSteer2, BeaverTails, TRL's unpaired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pareto_align.data.labels import is_missing
from pareto_align.data.pair_formats import conversation_of
from pareto_align.data.source_rows import (
    Response,
    SourceRow,
    plain_messages,
    read_rating,
    read_ratings,
    read_response,
)
from pareto_align.errors import ComparisonError
from pareto_align.messages import Prompt

__all__ = ["read_marked", "read_nectar", "read_rated", "read_responses", "read_ultrafeedback"]


def read_ultrafeedback(row: Mapping[str, Any], where: str) -> SourceRow:
    """UltraFeedback: several completions, each with a rating an aspect, as text; "N/A" is a missing rating.

    The ratings are numbers here. Read as text, "N/A" is larger than every digit.
    """
    completions = _listed(row.get("completions"), where, "completions")
    responses: list[Response] = []
    scores: dict[str, list[float]] = {}
    for position, completion in enumerate(completions):
        responses.append(read_response(completion.get("response"), where, f"completions[{position}].response"))
        found = {
            str(aspect): (said or {}).get("Rating") if isinstance(said, Mapping) else said
            for aspect, said in (completion.get("annotations") or {}).items()
        }
        if "overall_score" in completion:
            found["overall_score"] = completion["overall_score"]
        for aspect, value in found.items():
            column = scores.setdefault(aspect, [math.nan] * len(completions))
            column[position] = read_rating(value, aspect, where)
    prompt = _text(row.get("instruction", row.get("prompt")), where, "instruction")
    rest = {str(name): value for name, value in row.items() if name not in ("instruction", "completions")}
    return SourceRow(where, prompt, responses, scores=scores, columns=rest)


def read_nectar(row: Mapping[str, Any], where: str) -> SourceRow:
    """Nectar: answers with a rank, 1 being the best; equal ranks are ties."""
    answers = _listed(row.get("answers"), where, "answers")
    prompt: Prompt = _text(row.get("prompt"), where, "prompt")
    if isinstance(prompt, str) and "\n\nHuman:" in f"\n\n{prompt.lstrip()}":
        prompt = conversation_of(prompt, where)
    given = [read_response(answer.get("answer"), where, "answer") for answer in answers]
    responses: list[Response] = [
        [{"role": "assistant", "content": text}] if isinstance(text, str) and not isinstance(prompt, str) else text
        for text in given
    ]
    ranks = [read_rating(answer.get("rank"), "rank", where) for answer in answers]
    rest = {str(name): value for name, value in row.items() if name not in ("prompt", "answers")}
    return SourceRow(where, prompt, responses, scores={"rank": [-rank for rank in ranks]}, columns=rest)


def read_rated(row: Mapping[str, Any], where: str, attributes: Sequence[str]) -> SourceRow:
    """One response with ratings in columns, as HelpSteer2 has them; with `messages` the answer is their end."""
    if "messages" in row:
        messages = plain_messages(row["messages"], where)
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise ComparisonError(f"{where}: `messages` must end with the assistant's answer to something.")
        prompt: Prompt = messages[:-1]
        response: Response = messages[-1:]
    else:
        prompt = _text(row.get("prompt"), where, "prompt")
        response = read_response(row.get("response"), where, "response")
        if isinstance(response, str) and not isinstance(prompt, str):
            response = [{"role": "assistant", "content": response}]
    scores = {name: [read_rating(row.get(name), name, where)] for name in attributes}
    used = {"prompt", "response", "messages", *attributes}
    rest = {str(name): value for name, value in row.items() if name not in used}
    return SourceRow(where, prompt, [response], scores=scores, columns=rest)


def read_marked(row: Mapping[str, Any], where: str, response: str, label: str) -> SourceRow:
    """One response that is desirable or not: TRL's unpaired `completion` and `label`, BeaverTails' `is_safe`."""
    prompt = _text(row.get("prompt"), where, "prompt")
    answer = read_response(row.get(response), where, response)
    if not isinstance(answer, str) and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    mark = row.get(label)
    if is_missing(mark):
        raise ComparisonError(f"{where} has one response and no `{label}`. A single response needs a mark.")
    found = {"true": 1.0, "false": 0.0}.get(str(mark).strip().lower())
    found = read_rating(mark, label, where) if found is None else found
    if found not in (0.0, 1.0):
        raise ComparisonError(f"{where}: {label} must be true or false. Found {mark!r}.")
    rest = {str(name): value for name, value in row.items() if name not in ("prompt", response, label)}
    return SourceRow(where, prompt, [answer], marks={label: [found]}, columns=rest)


def read_responses(row: Mapping[str, Any], where: str, rated: Sequence[str]) -> SourceRow:
    """Several `responses` and columns with one rating for each."""
    prompt = _text(row.get("prompt"), where, "prompt")
    given: Any = row.get("responses")
    if isinstance(given, str | Mapping) or not hasattr(given, "__iter__"):
        raise ComparisonError(f"{where}: `responses` must be a list. Found {given!r:.80}.")
    given = list(given)
    responses = [read_response(one, where, f"responses[{position}]") for position, one in enumerate(given)]
    if not responses:
        raise ComparisonError(f"{where} has no response. Give at least two.")
    if not all(isinstance(one, str) for one in responses) and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, str):
        responses = [[{"role": "assistant", "content": one}] if isinstance(one, str) else one for one in responses]
    scores = {name: read_ratings(row[name], len(responses), name, where) for name in rated if row.get(name) is not None}
    rest = {str(name): value for name, value in row.items() if name not in {"prompt", "responses", *rated}}
    return SourceRow(where, prompt, responses, scores=scores, columns=rest)


def _text(found: Any, where: str, name: str) -> Prompt:
    if isinstance(found, str):
        return found
    if found is None:
        raise ComparisonError(f"{where} has no `{name}`.")
    return plain_messages(found, f"{where}, `{name}`")


def _listed(found: Any, where: str, name: str) -> list[Mapping[str, Any]]:
    if found is not None and hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, list | tuple) or not all(isinstance(entry, Mapping) for entry in found):
        raise ComparisonError(f"{where}: `{name}` must be a list of mappings. Found {found!r:.80}.")
    if not found:
        raise ComparisonError(f"{where} has no response: `{name}` is empty.")
    return list(found)
