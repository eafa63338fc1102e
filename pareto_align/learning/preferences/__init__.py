"""Preference losses: from log-probabilities and labels to coefficients, one file a kind, one class a loss."""

from __future__ import annotations

from pareto_align.learning.preferences.base import (
    Combined,
    PreferenceLoss,
    available_preferences,
    make_losses,
    make_preference,
    register_preference,
)
from pareto_align.learning.preferences.margins import DivergenceLoss, MarginLoss, Side, SidedLoss
from pareto_align.learning.preferences.mixtures import random_assignment, responsibilities, updated_shares
from pareto_align.learning.preferences.pairs import (
    ConservativeSigmoid,
    ContrastivePolicyGradient,
    DiscoPop,
    Exo,
    Hinge,
    Ipo,
    IterativeNash,
    OffsetSigmoid,
    Robust,
    Sigmoid,
    SigmoidNorm,
)
from pareto_align.learning.preferences.rankings import PlackettLuce
from pareto_align.learning.preferences.reference_free import Cpo, Orpo, SimPo, Tpo, TpoLength
from pareto_align.learning.preferences.scalarized import LogitPool, Modpo
from pareto_align.learning.preferences.sided import Aot, AotUnpaired, ApoDown, ApoZero, Bco, Nca, Sft, SppoHard
from pareto_align.learning.preferences.trl_names import is_trl_config, learner_of_trl, losses_of_trl
from pareto_align.learning.preferences.unpaired import ApoZeroUnpaired, Kto, Sppo, mismatched_kl, win_rates
from pareto_align.learning.preferences.view import PairView

__all__ = [
    "Aot",
    "AotUnpaired",
    "ApoDown",
    "ApoZero",
    "ApoZeroUnpaired",
    "Bco",
    "Combined",
    "ConservativeSigmoid",
    "ContrastivePolicyGradient",
    "Cpo",
    "DiscoPop",
    "DivergenceLoss",
    "Exo",
    "Hinge",
    "Ipo",
    "IterativeNash",
    "Kto",
    "LogitPool",
    "MarginLoss",
    "Modpo",
    "Nca",
    "OffsetSigmoid",
    "Orpo",
    "PairView",
    "PlackettLuce",
    "PreferenceLoss",
    "Robust",
    "Sft",
    "Side",
    "SidedLoss",
    "Sigmoid",
    "SigmoidNorm",
    "SimPo",
    "Sppo",
    "SppoHard",
    "Tpo",
    "TpoLength",
    "available_preferences",
    "is_trl_config",
    "learner_of_trl",
    "losses_of_trl",
    "make_losses",
    "make_preference",
    "mismatched_kl",
    "random_assignment",
    "register_preference",
    "responsibilities",
    "updated_shares",
    "win_rates",
]
