"""Ready-made rewards that read the text of a completion: tone, brevity, readability, coverage, diversity, length.

Each is a small picklable object with TRL's signature: create it once, then use it as an objective's reward or hand it
to a TRL trainer. Completions may be strings or lists of chat messages. VADER and textstat come with the ``demo`` extra
and are imported when first needed; where they are missing, a reward that needs them cannot be created.

References:
    Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
    Flesch (1948), A new readability yardstick.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pareto_align.errors import ConfigError, ObjectiveError

__all__ = [
    "TextReward",
    "brevity",
    "column_values",
    "completion_text",
    "distinct_words",
    "keyword_coverage",
    "positive_tone",
    "profanity",
    "readability",
    "token_brevity",
    "token_count",
    "word_count",
    "words",
]

# An apostrophe joins ("don't"); a hyphen does not, or gluing words together would be a way to be brief.
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def completion_text(completion: Any) -> str:
    """The text of a completion: itself if a string, else what the assistant says in its chat messages.

    Messages without a role count as the assistant's (TRL's own rewards are called so), content made of parts
    contributes its text parts, and several assistant messages are joined by newlines.

    Raises:
        ObjectiveError: The completion is neither a string nor a list of messages.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Mapping):
        completion = [completion]
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        raise ObjectiveError(f"A completion must be a string or a list of chat messages. Found {completion!r}.")
    return "\n".join(
        _content_text(message.get("content"))
        for message in completion
        if message.get("role", "assistant") == "assistant"
    )


def _content_text(content: Any) -> str:
    if content is None:  # a message that only calls a tool
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        return "".join(part.get("text") or "" for part in content if part.get("type", "text") == "text")
    raise ObjectiveError(f"A message's content must be a string or a list of parts. Found {content!r}.")


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, joined by apostrophes. Punctuation alone is no word.

    Scripts that do not put spaces between words (Chinese, Japanese, Thai) give one word a run.
    """
    if not text.isascii():
        # Combining marks and joiners are part of their word, but are no letters to a regular expression.
        text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Mc", "Me", "Cf"))
    return _WORD.findall(text)


class TextReward:
    """Base of rewards that judge each completion by its text alone; a subclass says how in `judge`."""

    @property
    def __name__(self) -> str:
        return str(type(self).__name__)

    def judge(self, text: str) -> float | None:
        """The reward of one text; None where it does not apply."""
        raise NotImplementedError

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The reward of each completion."""
        return [self.judge(completion_text(completion)) for completion in completions]


@dataclass(frozen=True)
class positive_tone(TextReward):
    """Positive sentiment by VADER's compound score, in [0, 1].

    The compound score c in [-1, 1] becomes (c + 1) / 2, so neutral text, and no text at all, is worth 0.5. VADER
    reads a lexicon shipped with the package, in English, and never the network. It saturates: a pile of superlatives
    reaches 1, so weigh it against something that notices.

    Args:
        clip_negative: Map by max(0, c) instead: neutral and negative text are both worth 0.
    """

    clip_negative: bool = False

    def __post_init__(self) -> None:
        _require(self.__name__, "vaderSentiment")

    def judge(self, text: str) -> float:
        """The reward of one text."""
        compound = float(_sentiment_analyzer().polarity_scores(text)["compound"])
        return max(0.0, compound) if self.clip_negative else (compound + 1.0) / 2.0


@dataclass(frozen=True)
class brevity(TextReward):
    """Few words, in [0, 1]: 1 for a single word, falling linearly to 0 at `max_words` and beyond.

    An answer without a word in it is worth 0: nothing said is not brevity.

    Args:
        max_words: The number of words, at least 2, from which on nothing is earned.
    """

    max_words: int = 60

    def __post_init__(self) -> None:
        if isinstance(self.max_words, bool) or not isinstance(self.max_words, int) or self.max_words < 2:
            raise ConfigError(f"max_words must be a whole number of at least 2. Found {self.max_words!r}.")

    def judge(self, text: str) -> float:
        """The reward of one text."""
        count = len(words(text))
        if count == 0:
            return 0.0
        return max(0.0, (self.max_words - count) / (self.max_words - 1))


@dataclass(frozen=True)
class readability(TextReward):
    """Ease of reading in [0, 1]: the Flesch reading ease of English text, clipped to [0, 100] and divided by 100.

    Words and sentences are counted by textstat, syllables by pyphen's hyphenation patterns. textstat's own
    ``flesch_reading_ease`` is not used: from release 0.7.5 it looks syllables up in a pronunciation dictionary that
    it downloads on first use, and fails without a network; and where one machine has that dictionary and another
    has not, they would give different rewards for one text. The patterns are those textstat used before, and uses
    for words the dictionary lacks. They find fewer syllables ("idea" has 1), so texts come out easier.

    A text without words is worth 0.
    """

    def __post_init__(self) -> None:
        _require(self.__name__, "textstat", "pyphen")

    def judge(self, text: str) -> float:
        """The reward of one text."""
        textstat, hyphenation = _readability_tools()
        found = words(text)
        count = int(textstat.lexicon_count(text))
        if not found or count == 0:
            return 0.0
        sentences = max(1, int(textstat.sentence_count(text)))
        syllables = sum(len(hyphenation.positions(word.lower())) + 1 for word in found)
        ease = 206.835 - 1.015 * count / sentences - 84.6 * syllables / len(found)
        return min(max(ease, 0.0), 100.0) / 100.0


@dataclass(frozen=True)
class keyword_coverage(TextReward):
    """Share of keywords that occur in the completion as whole words or phrases, case aside, in [0, 1].

    Args:
        keywords: The keywords every completion should contain; None to read them from a dataset column.
        column: The column with a list of keywords (or a single one) a row, where `keywords` is None. A row without
            keywords gets None: the objective does not apply there.
    """

    keywords: tuple[str, ...] | None = None
    column: str = "keywords"

    def __post_init__(self) -> None:
        if self.keywords is not None:
            object.__setattr__(self, "keywords", _keyword_tuple(self.keywords))
            if not self.keywords:
                raise ConfigError("keywords must not be empty.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads."""
        return () if self.keywords is not None else (self.column,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The reward of each completion."""
        if self.keywords is not None:
            rows: Sequence[Any] = [self.keywords] * len(completions)
        else:
            rows = column_values(self.__name__, self.column, columns)
        return [
            _coverage(completion_text(completion), _keyword_tuple(keywords) if keywords else ())
            for completion, keywords in zip(completions, rows, strict=True)
        ]


@dataclass(frozen=True)
class distinct_words(TextReward):
    """Share of different n-grams of words among all, in [0, 1]: low for text that repeats itself.

    A text shorter than one n-gram is worth 0.

    Args:
        ngram: The length of what is compared, at least 1. Single words favor short texts; 2 or 3 do so less.
    """

    ngram: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.ngram, bool) or not isinstance(self.ngram, int) or self.ngram < 1:
            raise ConfigError(f"ngram must be a whole number of at least 1. Found {self.ngram!r}.")

    def judge(self, text: str) -> float:
        """The reward of one text."""
        found = [word.lower() for word in words(text)]
        ngrams = [tuple(found[i : i + self.ngram]) for i in range(len(found) - self.ngram + 1)]
        return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@dataclass(frozen=True)
class profanity(TextReward):
    """Probability that a text is offensive, in [0, 1], by alt-profanity-check; usually minimized or constrained.

    A linear classifier over words and their pieces, trained on 200,000 comments in English; it ships with its package
    and reads no network. A text without words is worth 0.

    What a policy can exploit: it knows words and not meaning. A threat in polite words passes, as does an odd spelling
    or another language, and saying less is the surest way to offend nobody. Constrain it, `role="constrain",
    at_most=0.1`, and keep a classifier that reads sentences aside as an audit (`reward_model`).

    Raises:
        ObjectiveError: The package alt-profanity-check (extra `safety`) is not installed.
    """

    def __post_init__(self) -> None:
        _require(self.__name__, "profanity_check", package="alt-profanity-check", extra="safety")

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The probability of each completion."""
        texts = [completion_text(completion) for completion in completions]
        spoken = [n for n, text in enumerate(texts) if words(text)]
        found: list[float | None] = [0.0] * len(texts)
        if spoken:
            for n, probability in zip(spoken, _profanity_of([texts[n] for n in spoken]), strict=True):
                found[n] = float(probability)
        return found


@dataclass(frozen=True)
class word_count(TextReward):
    """The number of words, as it is; usually minimized or constrained."""

    def judge(self, text: str) -> float:
        """The reward of one text."""
        return float(len(words(text)))


@dataclass(frozen=True)
class token_count(TextReward):
    """The number of tokens of the completion, as it is; usually minimized or constrained."""

    def __call__(  # type: ignore[override]
        self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """The length of each list of ids."""
        return [float(len(ids)) for ids in completion_ids]


@dataclass(frozen=True)
class token_brevity(TextReward):
    """Few tokens, in [0, 1]: 1 for a single token, falling linearly to 0 at `max_tokens` and beyond.

    What is counted is what is paid for, and a policy cannot pass off one endless word as a short answer, as it learns
    to against `brevity`. An answer without a word in it is worth 0: nothing said is not brevity. With `least_words` an
    answer of fewer words earns in proportion: a single word is brief, but seldom a reply.

    Args:
        max_tokens: The number of tokens, at least 2, from which on nothing is earned.
        least_words: Words from which on brevity counts in full.
    """

    max_tokens: int = 128
    least_words: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 2:
            raise ConfigError(f"max_tokens must be a whole number of at least 2. Found {self.max_tokens!r}.")
        if isinstance(self.least_words, bool) or not isinstance(self.least_words, int) or self.least_words < 1:
            raise ConfigError(f"least_words must be a whole number of at least 1. Found {self.least_words!r}.")

    def __call__(  # type: ignore[override]
        self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """The reward of each list of ids."""
        return [
            max(0.0, (self.max_tokens - len(ids)) / (self.max_tokens - 1))
            * min(1.0, len(words(completion_text(text))) / self.least_words)
            for text, ids in zip(completions, completion_ids, strict=True)
        ]


def column_values(reward: str, column: str, columns: Mapping[str, Any]) -> Sequence[Any]:
    """The dataset column a reward reads.

    Raises:
        ObjectiveError: There is no such column.
    """
    if column not in columns:
        hidden = ("prompts", "completion_ids", "trainer_state", "log_extra", "log_metric")
        have = ", ".join(repr(name) for name in columns if name not in hidden) or "none"
        raise ObjectiveError(
            f"{reward} reads the column {column!r}, which the prompts do not have (they have: {have})."
        )
    values: Sequence[Any] = columns[column]
    return values


def _keyword_tuple(keywords: Any) -> tuple[str, ...]:
    found = (keywords,) if isinstance(keywords, str) else tuple(keywords)
    if not all(isinstance(keyword, str) and words(keyword) for keyword in found):
        raise ConfigError(f"Keywords must be texts with a word in them. Found {found!r}.")
    return found


def _coverage(text: str, keywords: Sequence[str]) -> float | None:
    if not keywords:
        return None
    # Between spaces on both sides, so that "art" is not found in "party".
    text = f" {' '.join(words(text)).casefold()} "
    return sum(f" {' '.join(words(keyword)).casefold()} " in text for keyword in keywords) / len(keywords)


@functools.cache
def _sentiment_analyzer() -> Any:
    """VADER's analyzer; built once, since building reads and parses its lexicon."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@functools.cache
def _readability_tools() -> tuple[Any, Any]:
    import textstat
    from pyphen import Pyphen

    return textstat, Pyphen(lang="en_US")


def _profanity_of(texts: Sequence[str]) -> Any:
    from profanity_check import predict_prob

    return predict_prob(list(texts))


def _require(reward: str, *modules: str, package: str | None = None, extra: str = "demo") -> None:
    """Refuse a reward without its packages: a run that cannot be judged does not begin."""
    for module in modules:
        if find_spec(module) is None:
            raise ObjectiveError(
                f"{reward} needs the package {package or module}; install it with: pip install 'pareto-align[{extra}]'."
            )
