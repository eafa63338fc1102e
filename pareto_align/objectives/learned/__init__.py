"""Objectives learned from comparisons and ratings, as far as no model is needed: on features `[n, d]` of responses."""

from __future__ import annotations

from pareto_align.objectives.learned.embeddings import Embeddings, fit_embeddings, skew
from pareto_align.objectives.learned.fitting import Judged, fit_scores
from pareto_align.objectives.learned.heads import (
    HeadReport,
    Heads,
    bradley_terry,
    calibration_error,
    fit_comparisons,
    fit_ratings,
    held_out,
    ridge,
    temperature,
)
from pareto_align.objectives.learned.ideal_points import IdealPoints, fit_ideal_points
from pareto_align.objectives.learned.mixture import Mixture, choose_groups, fit_mixture
from pareto_align.objectives.learned.scores import Scores, read_scores

__all__ = [
    "Embeddings",
    "HeadReport",
    "Heads",
    "IdealPoints",
    "Judged",
    "Mixture",
    "Scores",
    "bradley_terry",
    "calibration_error",
    "choose_groups",
    "fit_comparisons",
    "fit_embeddings",
    "fit_ideal_points",
    "fit_mixture",
    "fit_ratings",
    "fit_scores",
    "held_out",
    "read_scores",
    "ridge",
    "skew",
    "temperature",
]
