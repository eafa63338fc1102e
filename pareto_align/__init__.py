"""Fit a whole Pareto front of LoRA adapters for one language model in one run.

Every public name is here and loaded at first use, so that `import pareto_align` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "Blend": "blend",
    "Choice": "result",
    "Comparison": "data.comparisons",
    "ComparisonError": "errors",
    "Comparisons": "data.comparisons",
    "ConfigError": "errors",
    "Credit": "learning",
    "Estimate": "front",
    "Explorer": "discovery",
    "FrontFileError": "errors",
    "Grid": "discovery",
    "Interview": "interview",
    "Live": "runs",
    "Member": "result",
    "ModelError": "errors",
    "Objective": "objectives",
    "ObjectiveError": "errors",
    "ParetoAlignError": "errors",
    "ParetoAlignWarning": "errors",
    "ParetoAligner": "aligner",
    "ParetoArchive": "front",
    "ParetoFront": "result",
    "Preference": "front",
    "PreferenceError": "errors",
    "PromptError": "errors",
    "Signal": "weighting",
    "TrainingError": "errors",
    "TuningResult": "tuning",
    "Weighting": "weighting",
    "fit_rewards": "learning.rewards",
    "learned_reward": "learning.rewards",
    "load_rewards": "learning.rewards",
    "tune": "tuning",
}

__all__ = [
    "Blend",
    "Choice",
    "Comparison",
    "ComparisonError",
    "Comparisons",
    "ConfigError",
    "Credit",
    "Estimate",
    "Explorer",
    "FrontFileError",
    "Grid",
    "Interview",
    "Live",
    "Member",
    "ModelError",
    "Objective",
    "ObjectiveError",
    "ParetoAlignError",
    "ParetoAlignWarning",
    "ParetoAligner",
    "ParetoArchive",
    "ParetoFront",
    "Preference",
    "PreferenceError",
    "PromptError",
    "Signal",
    "TrainingError",
    "TuningResult",
    "Weighting",
    "fit_rewards",
    "learned_reward",
    "load_rewards",
    "tune",
]

if TYPE_CHECKING:
    from pareto_align.aligner import ParetoAligner
    from pareto_align.blend import Blend
    from pareto_align.data.comparisons import Comparison, Comparisons
    from pareto_align.discovery import Explorer, Grid
    from pareto_align.errors import (
        ComparisonError,
        ConfigError,
        FrontFileError,
        ModelError,
        ObjectiveError,
        ParetoAlignError,
        ParetoAlignWarning,
        PreferenceError,
        PromptError,
        TrainingError,
    )
    from pareto_align.front import Estimate, ParetoArchive, Preference
    from pareto_align.interview import Interview
    from pareto_align.learning import Credit
    from pareto_align.learning.rewards import fit_rewards, learned_reward, load_rewards
    from pareto_align.objectives import Objective
    from pareto_align.result import Choice, Member, ParetoFront
    from pareto_align.runs import Live
    from pareto_align.tuning import TuningResult, tune
    from pareto_align.weighting import Signal, Weighting


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
