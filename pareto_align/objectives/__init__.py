"""What is being optimized: objectives, their scoring and scale, ready-made rewards, and rewards made of rewards."""

from __future__ import annotations

from pareto_align.objectives.calling import StatefulReward
from pareto_align.objectives.composed import ComposedReward
from pareto_align.objectives.conditions import conditioned
from pareto_align.objectives.ensembles import Ensemble, ensemble
from pareto_align.objectives.forms import as_objectives
from pareto_align.objectives.groups import of_group
from pareto_align.objectives.judges import win_rate
from pareto_align.objectives.llm_judges import llm_judge, llm_preference
from pareto_align.objectives.models import reward_model
from pareto_align.objectives.objective import Objective
from pareto_align.objectives.objective_set import ObjectiveSet
from pareto_align.objectives.ranking import lexicographic
from pareto_align.objectives.scaling import RewardScale
from pareto_align.objectives.sharing import shared
from pareto_align.objectives.similarity import relevance
from pareto_align.objectives.text import (
    TextReward,
    brevity,
    completion_text,
    distinct_words,
    keyword_coverage,
    positive_tone,
    profanity,
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
    "ComposedReward",
    "Ensemble",
    "Objective",
    "ObjectiveSet",
    "RewardScale",
    "StatefulReward",
    "TextReward",
    "as_objectives",
    "boxed_answer",
    "brevity",
    "clarity",
    "completion_text",
    "conciseness",
    "conditioned",
    "distinct_words",
    "ensemble",
    "exact_match",
    "json_valid",
    "keyword_coverage",
    "lexicographic",
    "llm_judge",
    "llm_preference",
    "numeric_answer",
    "of_group",
    "positive_tone",
    "profanity",
    "readability",
    "regex_match",
    "relevance",
    "reward_model",
    "shared",
    "token_brevity",
    "token_count",
    "win_rate",
    "word_count",
]
