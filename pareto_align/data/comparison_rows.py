"""Comparisons as tokens: each response as the sampler would have produced it.

A response's log-probability must be that of what is sampled, or implicit rewards and the KL divergence on the policy's
own answers disagree. So a response ends with its first stop token, which is added where the text has none, and what a
chat template puts behind it is left out. TRL trains on that as well.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.prompts import PromptRow
from pareto_align.data.source_rows import Response
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning, PromptError
from pareto_align.messages import template_variables
from pareto_align.policies.base import Base, Prompt
from pareto_align.policies.encoding import encode_messages, encode_text

__all__ = ["OVERFLOWS", "ComparisonRow", "encode_comparisons", "encode_response", "laid_out"]

OVERFLOWS = ("error", "drop", "truncate")
"""What may be done with a comparison that is too long."""

MANY = 0.05
"""Share of pairs of equal responses above which a warning is given."""


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One comparison as tokens.

    Attributes:
        row: Its prompt.
        tokens: G responses as token ids, the stop token included.
        comparison: What was said about them.
    """

    row: PromptRow
    tokens: tuple[tuple[int, ...], ...]
    comparison: Comparison

    @property
    def prompt(self) -> Prompt:
        """The prompt as it was given."""
        return self.row.prompt

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return self.row.ids

    @property
    def columns(self) -> Mapping[str, Any]:
        """The comparison's further columns."""
        return self.row.columns

    def to_fields(self) -> dict[str, Any]:
        """The responses' tokens and what was said about them, in JSON's own types; the prompt is told beside them."""
        names = [str(place) for place in range(self.comparison.m)]
        told = {
            name: value for name, value in self.comparison.to_row(names).items() if name not in ("prompt", "columns")
        }
        return {"tokens": [list(one) for one in self.tokens], "comparison": told}

    @classmethod
    def from_fields(cls, row: PromptRow, fields: Mapping[str, Any]) -> ComparisonRow:
        """What `to_fields` told, of the prompt `row`.

        Raises:
            ComparisonError: It is no such thing.
        """
        told = {"prompt": row.prompt, "columns": dict(row.columns), **fields["comparison"]}
        names = list(told.get("labels", {}))
        tokens = tuple(tuple(int(i) for i in one) for one in fields["tokens"])
        return cls(row, tokens, Comparison.from_row(told, names, "A comparison of the run"))


def encode_comparisons(
    comparisons: Comparisons,
    base: Base,
    *,
    max_length: int | None = None,
    overflow: Literal["error", "drop", "truncate"] = "error",
    parity: Literal["trl"] | None = None,
) -> tuple[list[ComparisonRow], Counter[str]]:
    """Comparisons as token rows, and what was left out or changed, by reason.

    Args:
        comparisons: Under the objectives that are trained.
        base: The model whose tokenizer, stop tokens and context length count.
        max_length: Tokens that prompt and response may have together; by default the model's context.
        overflow: What happens to a comparison that is longer: "error" refuses, "drop" leaves it out, "truncate" cuts
            all its responses to what fits and takes the stop token from all of them, so that their ends say nothing.
        parity: "trl" keeps what the chat template puts behind the stop token, for tests against TRL.

    Raises:
        ComparisonError: A comparison is too long or has an empty response, or nothing is left.
        ConfigError: `overflow` or `max_length` is wrong.

    Warns:
        ParetoAlignWarning: A prompt's tokens are no beginning of those of prompt and response; many responses are
            equal.
    """
    if overflow not in OVERFLOWS:
        raise ConfigError(f"`overflow` must be one of {', '.join(OVERFLOWS)}. Found {overflow!r}.")
    limit = base.context_length if max_length is None else min(max_length, base.context_length)
    if limit < 2:
        raise ConfigError(f"`max_length` must be at least 2. Found {max_length}.")
    counts: Counter[str] = Counter()
    rows = []
    for number, comparison in enumerate(comparisons):
        where = f"Comparison {number}"
        try:
            ids = tuple(base.encode(comparison.prompt, comparison.columns.get("chat_template_kwargs")))
        except PromptError as error:
            raise ComparisonError(f"{where}: {error}") from None
        tokens = []
        for position, response in enumerate(comparison.responses):
            found, apart = encode_response(base, comparison, ids, response, parity=parity)
            counts["responses tokenised apart from their prompt"] += apart
            if not found:
                raise ComparisonError(
                    f"{where}, response {position} is empty, and the model has no stop token that would make it an "
                    "answer."
                )
            tokens.append(found)
        longest = max(len(one) for one in tokens)
        if len(ids) + longest > limit:
            tokens = _shortened(where, len(ids), tokens, limit, overflow, base.stop_ids, counts)
            if not tokens:
                continue
        row = PromptRow(comparison.prompt, ids, comparison.columns)
        if (made := _distinct(ComparisonRow(row, tuple(tokens), comparison), counts)) is not None:
            rows.append(made)
    if not rows:
        told = "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise ComparisonError(f"No comparison is left: {told}.")
    _warn(counts, comparisons.pair_count)
    return rows, +counts


def encode_response(
    base: Base, comparison: Comparison, ids: Sequence[int], response: Response, *, parity: str | None = None
) -> tuple[tuple[int, ...], bool]:
    """The tokens of one response behind its prompt, and whether it had to be tokenised apart from it.

    The tokens are what follows the prompt's own in those of both together. Where the prompt's are no beginning of
    these (a tokenizer merges across the border, a template renders a prompt otherwise), the response is tokenised
    alone: what the sampler could have produced behind this prompt.

    Args:
        base: The model.
        comparison: Whose prompt it is.
        ids: The prompt's tokens.
        response: The response.
        parity: See `encode_comparisons`.
    """
    whole = _together(base, comparison, response)
    apart = list(whole[: len(ids)]) != list(ids)
    found = encode_text_alone(base, response) if apart else list(whole[len(ids) :])
    stops = set(base.stop_ids)
    end = next((place for place, token in enumerate(found) if token in stops), None)
    if end is None:
        return (*found, *_stop(base)), apart
    return tuple(found if parity == "trl" else found[: end + 1]), apart


def _together(base: Base, comparison: Comparison, response: Response) -> list[int]:
    prompt = comparison.prompt
    if isinstance(prompt, str) and not base.use_chat_template:
        text = response if isinstance(response, str) else str(response[-1]["content"])
        return encode_text(base.tokenizer, prompt + text)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    answer = [{"role": "assistant", "content": response}] if isinstance(response, str) else list(response)
    variables = {**base.chat_template_kwargs, **template_variables(comparison.columns.get("chat_template_kwargs"))}
    goes_on = messages[-1]["role"] == "assistant" and len(answer) == 1
    if goes_on:  # the prompt is the beginning of the answer, and one turn with it
        answer = [{**answer[0], "content": f"{messages[-1]['content']}{answer[0]['content']}"}]
        messages = messages[:-1]
    return encode_messages(base.tokenizer, [*messages, *answer], variables, ended=True)


def encode_text_alone(base: Base, response: Response) -> list[int]:
    """A response's text without anything before it."""
    text = response if isinstance(response, str) else str(response[-1]["content"])
    return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])


def _stop(base: Base) -> list[int]:
    """The stop token that is added: the tokenizer's own end token, where it is one."""
    stops = base.stop_ids
    own = base.tokenizer.eos_token_id
    return [own] if own in stops else list(stops[:1])


def _shortened(
    where: str,
    prompt: int,
    tokens: Sequence[tuple[int, ...]],
    limit: int,
    overflow: str,
    stops: Sequence[int],
    counts: Counter[str],
) -> list[tuple[int, ...]]:
    """Responses that fit; none where the comparison is left out."""
    longest = max(len(one) for one in tokens)
    if overflow == "drop":
        counts["comparisons longer than the limit, dropped"] += 1
        return []
    if overflow == "error" or prompt >= limit:
        remedy = "" if prompt >= limit else ", or 'truncate'"
        raise ComparisonError(
            f"{where} has {prompt} tokens of prompt and a response of {longest}; together they exceed {limit}. "
            f"Nothing is cut unasked: set overflow='drop'{remedy}, or a larger max_length."
        )
    counts["comparisons cut to the limit"] += 1
    cut = [one[:-1] if one and one[-1] in stops else one for one in tokens]
    return [one[: limit - prompt] for one in cut]


def _distinct(row: ComparisonRow, counts: Counter[str]) -> ComparisonRow | None:
    """The row with each response once, by its tokens; None where nothing is left to learn from."""
    places: dict[tuple[int, ...], int] = {}
    moved = [places.setdefault(one, len(places)) for one in row.tokens]
    if len(places) == len(row.tokens):
        return row
    old, comparison = row.comparison.labels, row.comparison
    first = [moved.index(place) for place in range(len(places))]
    pairs = np.array(moved, dtype=np.int64)[old.pairs].reshape(-1, 2)
    kept = pairs[:, 0] != pairs[:, 1]
    counts["pairs of responses with equal tokens"] += int((~kept).sum())
    labels = Labels(
        pairs[kept],
        old.values[kept],
        None if old.margins is None else old.margins[kept],
        None if old.weights is None else old.weights[kept],
        None if old.users is None else tuple(user for user, keep in zip(old.users, kept, strict=True) if keep),
    )
    if not len(labels) and comparison.scores is None and comparison.marks is None:
        return None
    made = replace(
        comparison,
        responses=tuple(comparison.responses[place] for place in first),
        labels=labels,
        scores=None if comparison.scores is None else comparison.scores[first],
        marks=None if comparison.marks is None else comparison.marks[first],
        gold=None if comparison.gold is None else moved[comparison.gold],
        reference=None if comparison.reference is None else comparison.reference[first],
    )
    return ComparisonRow(row.row, tuple(row.tokens[place] for place in first), made)


def _warn(counts: Counter[str], pairs: int) -> None:
    if apart := counts["responses tokenised apart from their prompt"]:
        warnings.warn(
            f"{apart} responses were tokenised apart from their prompt, whose tokens are no beginning of those of both "
            "together: the tokenizer merges across the border, or the chat template renders a prompt otherwise. "
            "They are what the policy could have sampled behind this prompt. Prompts that end before a space avoid it.",
            ParetoAlignWarning,
            stacklevel=3,
        )
    if pairs and (same := counts["pairs of responses with equal tokens"]) > MANY * pairs:
        warnings.warn(
            f"{same} of {pairs} pairs are of responses with equal tokens, and were left out.",
            ParetoAlignWarning,
            stacklevel=3,
        )


def laid_out(rows: Sequence[ComparisonRow]) -> tuple[list[list[int]], list[list[int]], NDArray[np.int64]]:
    """All responses one after the other: the prompt of each, its tokens, and the pairs `[pairs, 2]` by number."""
    begins = np.cumsum([0, *(len(row.tokens) for row in rows)])[:-1]
    pairs = [row.comparison.labels.pairs + begin for row, begin in zip(rows, begins, strict=True)]
    return (
        [list(row.ids) for row in rows for _ in row.tokens],
        [list(tokens) for row in rows for tokens in row.tokens],
        np.concatenate(pairs).reshape(-1, 2).astype(np.int64),
    )
