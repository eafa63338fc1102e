"""Every ready-made reward, and rewards made of them, keep the contract."""

from __future__ import annotations

from pareto_align.objectives import (
    boxed_answer,
    brevity,
    clarity,
    conciseness,
    conditioned,
    distinct_words,
    ensemble,
    exact_match,
    json_valid,
    keyword_coverage,
    lexicographic,
    numeric_answer,
    positive_tone,
    readability,
    regex_match,
    token_brevity,
    token_count,
    word_count,
)
from pareto_align.testing.objective import ANSWERS, RewardContract

EXPECTED = {"answer": ["42"] * len(ANSWERS), "solution": ["\\boxed{42}"] * len(ANSWERS)}

MADE = {
    "positive_tone": lambda: positive_tone(),
    "brevity": lambda: brevity(40),
    "readability": lambda: readability(),
    "keyword_coverage": lambda: keyword_coverage(["day", "rain"]),
    "distinct_words": lambda: distinct_words(),
    "word_count": lambda: word_count(),
    "token_count": lambda: token_count(),
    "token_brevity": lambda: token_brevity(10),
    "clarity": lambda: clarity(),
    "json_valid": lambda: json_valid(),
    "regex_match": lambda: regex_match("[0-9]+"),
    "conditioned": lambda: conditioned(positive_tone(), where=word_count(), at_least=2),
    "ensemble": lambda: ensemble([positive_tone(), distinct_words()]),
    "lexicographic": lambda: lexicographic([brevity(40), positive_tone()], margins=[0.2, 0.0]),
    "conciseness": lambda: conciseness(),
}
ANSWERED = {"exact_match": exact_match, "numeric_answer": numeric_answer, "boxed_answer": boxed_answer}
GROUPED = {"lexicographic"}
"""Their answers are ranked within a group."""
LEARNING = {"conciseness"}
"""They remember what they saw."""


def contract(name, make, **members):
    made = type(f"Test_{name}", (RewardContract,), {"make": lambda self: make(), **members})
    made.__module__ = __name__
    return made


for _name, _make in MADE.items():
    _told = {"alone": _name not in GROUPED, "deterministic": _name not in LEARNING}
    globals()[f"Test_{_name}"] = contract(_name, _make, **_told)
for _name, _make in ANSWERED.items():
    globals()[f"Test_{_name}"] = contract(_name, lambda make=_make: make(), columns=EXPECTED)


class TestAPlainFunction(RewardContract):
    def make(self):
        return lambda completions, **_: [float(len(c if isinstance(c, str) else c[-1]["content"])) for c in completions]
