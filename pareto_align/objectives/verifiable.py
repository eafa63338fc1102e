r"""Ready-made rewards that can be verified: a right answer, a number, valid JSON, a pattern, and how it is laid out.

Each is a small picklable object with TRL's signature: create it once, then use it as an objective's reward or hand it
to a TRL trainer. The expected answer is read from a dataset column; a row without one gets None, which means that the
objective does not apply there.

References:
    Lu et al. (2025), Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting (arXiv
        2509.11452): `boxed_answer`, `conciseness` and `clarity` are its three rewards for mathematics.
    Hendrycks et al. (2021), Measuring Mathematical Problem Solving With the MATH Dataset (arXiv 2103.03874): how two
        LaTeX answers are made comparable as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pareto_align.errors import ConfigError
from pareto_align.objectives.calling import StatefulReward
from pareto_align.objectives.text import TextReward, column_values, completion_text

__all__ = [
    "boxed_answer",
    "boxed_content",
    "clarity",
    "conciseness",
    "exact_match",
    "json_valid",
    "normalize_latex",
    "numeric_answer",
    "regex_match",
]


class AnswerReward(TextReward):
    """Base of rewards that compare a completion with the expected answer in a dataset column."""

    column: str

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads."""
        return (self.column,)

    def verify(self, text: str, expected: Any) -> float | None:
        """The reward of one text, given the expected answer; None where that answer is of no use."""
        raise NotImplementedError

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The reward of each completion; None in rows without an expected answer."""
        answers = column_values(self.__name__, self.column, columns)
        return [
            None if _is_missing(expected) else self.verify(completion_text(completion), expected)
            for completion, expected in zip(completions, answers, strict=True)
        ]


def _is_missing(expected: Any) -> bool:
    # A table with gaps arrives with NaN in them, not None.
    return expected is None or (isinstance(expected, float) and math.isnan(expected))


@dataclass(frozen=True)
class exact_match(AnswerReward):
    """1 if the completion is the expected answer, else 0; surrounding and repeated white space does not matter.

    Args:
        column: The dataset column with the answer, or with a list of answers any of which is right.
        ignore_case: Whether upper and lower case are the same.
    """

    column: str = "answer"
    ignore_case: bool = True

    def verify(self, text: str, expected: Any) -> float | None:
        """The reward of one text, given the expected answer."""
        answers = expected if isinstance(expected, (list, tuple)) else [expected]
        return float(self._plain(text) in [self._plain(str(answer)) for answer in answers]) if answers else None

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True)
class boxed_answer(AnswerReward):
    r"""1 if the content of the last ``\boxed{}`` is the expected answer, else 0. Compared by `normalize_latex`.

    It compares text, not mathematics: ``x+1`` and ``1+x`` differ. TRL's ``accuracy_reward``, which needs the package
    math-verify, compares mathematics and works as an objective as it is.

    Args:
        column: The dataset column with the answer, bare or itself in a ``\boxed{}`` at the end of a solution.
    """

    column: str = "solution"

    def verify(self, text: str, expected: Any) -> float:
        """The reward of one text, given the expected answer."""
        given = boxed_content(text)
        if given is None:
            return 0.0
        wanted = boxed_content(str(expected))
        return float(normalize_latex(given) == normalize_latex(str(expected) if wanted is None else wanted))


@dataclass(frozen=True)
class numeric_answer(AnswerReward):
    r"""1 if the completion's number is the expected one, else 0.

    The number is taken from the last ``\boxed{}`` that holds one, else from what follows the last ``####``, else it
    is the last number of the text. Signs, decimals, exponents and thousands separators (1,234) are understood. A row
    whose expected answer holds no number gets None.

    Args:
        column: The dataset column with the answer: a number, or text that `numeric_answer` would read it from.
        tolerance: How far off still counts as right, absolute below 1 and relative above.
    """

    column: str = "answer"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ConfigError(f"tolerance must be a finite number of at least 0. Found {self.tolerance!r}.")

    def verify(self, text: str, expected: Any) -> float | None:
        """The reward of one text, given the expected answer."""
        wanted = _number_in(str(expected))
        if wanted is None:
            return None
        given = _number_in(text)
        return float(given is not None and abs(given - wanted) <= self.tolerance * max(1.0, abs(wanted)))


@dataclass
class conciseness(StatefulReward):
    """1 if a completion has fewer tokens than the running mean of completion lengths, else 0.

    A batch is counted into the mean before it is judged, all its completions by the same mean; so the first batch is
    judged by its own. The paper's mean is over everything seen and never reset (``memory=None``): as completions get
    shorter it lags behind, until nearly everything is concise and the signal is gone. The default forgets instead.

    Args:
        memory: The share of the old mean that each batch leaves, in [0, 1); None for the mean of all.
    """

    memory: float | None = 0.9
    mean: float = field(default=0.0, init=False)
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.memory is not None and not 0 <= self.memory < 1:
            raise ConfigError(f"memory must be None or a number in [0, 1). Found {self.memory!r}.")

    @property
    def __name__(self) -> str:
        return "conciseness"

    def __call__(
        self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float]:
        """The reward of each completion; `learning` says whether this batch is counted into the mean."""
        lengths = [len(ids) for ids in completion_ids]
        if not lengths:
            return []
        batch_mean = sum(lengths) / len(lengths)
        if self.seen == 0:
            mean = batch_mean
        elif not self.learning:
            mean = self.mean
        elif self.memory is None:
            mean = self.mean + (batch_mean - self.mean) * len(lengths) / (self.seen + len(lengths))
        else:
            mean = self.memory * self.mean + (1 - self.memory) * batch_mean
        if self.learning:
            self.mean, self.seen = mean, self.seen + len(lengths)
        return [float(length < mean) for length in lengths]

    def reset(self) -> None:
        """Forget the running mean."""
        self.mean, self.seen = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """The running mean, and the number of completions counted into it."""
        return {"mean": self.mean, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the mean and count that `state_dict` took down."""
        self.mean, self.seen = float(state["mean"]), int(state["seen"])


_ENUMERATOR = re.compile(
    r"^[\s>#*_]*(?:step\s+\d+|\d+|[a-z]|[ivx]+)[*_]*[).:-][*_]*(?=\s|$)|^\s*[-*\u2022](?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_ORDINAL = re.compile(
    r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|next|then)(?:ly)?\b", re.IGNORECASE
)


@dataclass(frozen=True)
class clarity(TextReward):
    r"""1 if the answer is boxed and its steps are set apart, else 0.

    Boxed: there is a ``\boxed{}`` that is not empty. Steps: at least two lines begin with an enumerator (a number, a
    letter, a roman numeral or "step n", followed by one of ``) . : -``) or a bullet, or there are at least two of the
    words first to tenth, next and then. Enumerators count at the beginning of a line only: elsewhere the end of a
    sentence about x would be one.
    """

    def judge(self, text: str) -> float:
        """The reward of one text."""
        if not (boxed_content(text) or "").strip():
            return 0.0
        return float(len(_ENUMERATOR.findall(text)) >= 2 or len(_ORDINAL.findall(text)) >= 2)


@dataclass(frozen=True)
class json_valid(TextReward):
    """1 if the completion is one valid JSON value and nothing else (a Markdown code fence around it is fine), else 0.

    Args:
        required: Keys that the value, then an object, must have.
    """

    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        required = (self.required,) if isinstance(self.required, str) else tuple(self.required)
        object.__setattr__(self, "required", required)

    def judge(self, text: str) -> float:
        """The reward of one text."""
        fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)```\s*", text, re.DOTALL | re.IGNORECASE)
        try:
            value = json.loads(fenced.group(1) if fenced else text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return 0.0
        return float(not self.required or (isinstance(value, dict) and all(key in value for key in self.required)))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python reads NaN and Infinity, the standard does not know them


@dataclass(frozen=True)
class regex_match(TextReward):
    """1 if the pattern is found in the completion, else 0.

    Args:
        pattern: A regular expression of Python's `re`.
        full: Whether the whole completion must match, not just a part.
        flags: Flags of `re`, such as ``re.IGNORECASE``.
    """

    pattern: str
    full: bool = False
    flags: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern, self.flags)
        except (re.error, TypeError, ValueError) as error:
            raise ConfigError(f"The pattern {self.pattern!r} is no regular expression: {error}.") from error

    def judge(self, text: str) -> float:
        """The reward of one text."""
        find = re.fullmatch if self.full else re.search
        return float(find(self.pattern, text, self.flags) is not None)


def boxed_content(text: str) -> str | None:
    r"""What the last complete ``\boxed{}`` or ``\fbox{}`` of a text holds; None if there is none."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for position in range(match.end(), len(text)):
            character, escaped = text[position], text[position - 1] == "\\"
            if not escaped:
                depth += (character == "{") - (character == "}")
            if depth == 0:
                return text[match.end() : position]
    return None


def normalize_latex(answer: str) -> str:
    r"""A LaTeX answer with its spelling variants removed, so that equal answers compare as equal text.

    Drops spacing, ``\left`` and ``\right``, dollar, percent and degree signs, a unit in ``\text{}`` at the end, a
    full stop at the end and a short ``x=`` at the front; writes ``\dfrac`` and ``\tfrac`` as ``\frac``, ``\frac12``,
    ``1/2`` and ``0.5`` as ``\frac{1}{2}``, ``\sqrt2`` as ``\sqrt{2}`` and ``.5`` with its zero.
    """
    text = answer.strip().rstrip(".")
    text = re.sub(r"\\(?:text|mbox)\s*\{\s+[^{}]*\}\s*$", "", text)  # "5\text{ cm}": a unit begins with its space
    text = re.sub(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}", r"\1", text)  # "\text{Monday}": the answer itself
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[!,;: ]|\\?[$%]|\^\s*(?:\{\s*\\circ\s*\}|\\circ)", "", text)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    text = re.sub(r"^\s*[^=\s]{1,2}\s*=(?!=)", "", text)
    text = re.sub(r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\w)", r"\1{\2}", text)
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", text)
    return r"\frac{1}{2}" if text == "0.5" else text


_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?")


def _number_in(text: str) -> float | None:
    _, marker, marked = text.rpartition("####")
    # After "####" the answer comes first; in a box and elsewhere the last number is the conclusion.
    for part, which in ((boxed_content(text), -1), (marked if marker else None, 0), (text, -1)):
        numbers = _NUMBER.findall(part) if part else []
        if numbers:
            return float(numbers[which].replace(",", "").replace("\u2212", "-"))
    return None
