"""Tuning: which learning rate, KL price and temperature give the front with the largest hypervolume.

The score of some settings is the mean over seeds of the hypervolume that their fits publish, all of it in one frame.
The winner is then compared with the settings one began with on other seeds, since those it was chosen on flatter it.

References:
    Felten et al., "Hyperparameter Optimization for Multi-Objective Reinforcement Learning", arXiv 2310.16487.
"""

from __future__ import annotations

from pareto_align.tuning.comparison import Comparison
from pareto_align.tuning.result import TuningResult
from pareto_align.tuning.sweep import tune
from pareto_align.tuning.trials import Run, Trial

__all__ = ["Comparison", "Run", "Trial", "TuningResult", "tune"]
