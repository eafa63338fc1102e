"""Dynamic reward weightings: one file a family, one class a method. numpy, and scipy at use."""

from __future__ import annotations

from pareto_align.weighting.adaptive import SAW
from pareto_align.weighting.aggregators import IMTLG, MGDA, AlignedMTL, CAGrad, NashMTL, PCGrad, UPGrad
from pareto_align.weighting.barrier import Barrier
from pareto_align.weighting.base import Signal, Weighting, available, make, register
from pareto_align.weighting.bilevel import Bilevel
from pareto_align.weighting.chebyshev import Chebyshev
from pareto_align.weighting.covariance import CTWA
from pareto_align.weighting.fixed import Fixed
from pareto_align.weighting.gradient import GradientInfluence
from pareto_align.weighting.halves import MoDo, ParetoDA
from pareto_align.weighting.hypervolume import Hypervolume, HypervolumePaper
from pareto_align.weighting.lagrangian import Lagrangian, LagrangianAll, LagrangianEquality, LagrangianSigmoid, SafeRLHF
from pareto_align.weighting.maxmin import MaxMin
from pareto_align.weighting.rays import EPOSearch, ParetoMTL
from pareto_align.weighting.scalarizations import (
    PSA,
    STCH,
    AugmentedTchebycheff,
    HypervolumeScalarization,
    SoftMin,
    Tchebycheff,
)
from pareto_align.weighting.schedules import Schedule
from pareto_align.weighting.steady import SteadyChebyshev
from pareto_align.weighting.thresholds import NelderMeadThresholds, ProxyPoints

__all__ = [
    "CTWA",
    "IMTLG",
    "MGDA",
    "PSA",
    "SAW",
    "STCH",
    "AlignedMTL",
    "AugmentedTchebycheff",
    "Barrier",
    "Bilevel",
    "CAGrad",
    "Chebyshev",
    "EPOSearch",
    "Fixed",
    "GradientInfluence",
    "Hypervolume",
    "HypervolumePaper",
    "HypervolumeScalarization",
    "Lagrangian",
    "LagrangianAll",
    "LagrangianEquality",
    "LagrangianSigmoid",
    "MaxMin",
    "MoDo",
    "NashMTL",
    "NelderMeadThresholds",
    "PCGrad",
    "ParetoDA",
    "ParetoMTL",
    "ProxyPoints",
    "SafeRLHF",
    "Schedule",
    "Signal",
    "SoftMin",
    "SteadyChebyshev",
    "Tchebycheff",
    "UPGrad",
    "Weighting",
    "available",
    "make",
    "register",
]
