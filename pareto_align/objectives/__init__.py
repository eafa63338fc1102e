"""What is being optimized: objectives, their scoring and scale, and ready-made reward functions."""

from __future__ import annotations

from pareto_align.objectives.calling import StatefulReward
from pareto_align.objectives.objective import Objective, ObjectiveSet
from pareto_align.objectives.scaling import RewardScale
from pareto_align.objectives.text import (
    TextReward,
    brevity,
    completion_text,
    distinct_words,
    keyword_coverage,
    positive_tone,
    readability,
    token_brevity,
    token_count,
    word_count,
)
from pareto_align.objectives.verifiable import (
    boxed_answer,
    clarity,
    conciseness,
    exact_match,
    json_valid,
    numeric_answer,
    regex_match,
)

__all__ = [
    "Objective",
    "ObjectiveSet",
    "RewardScale",
    "StatefulReward",
    "TextReward",
    "boxed_answer",
    "brevity",
    "clarity",
    "completion_text",
    "conciseness",
    "distinct_words",
    "exact_match",
    "json_valid",
    "keyword_coverage",
    "numeric_answer",
    "positive_tone",
    "readability",
    "regex_match",
    "token_brevity",
    "token_count",
    "word_count",
]
