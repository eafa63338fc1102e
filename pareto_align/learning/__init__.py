"""From evidence to an update of the whole population: rollouts, credit, losses, learners."""

from __future__ import annotations

from pareto_align.data.prompts import PromptRow
from pareto_align.learning.choice import available_learners, make_learner
from pareto_align.learning.credit import Credit, available_credits, make_credit, register_credit
from pareto_align.learning.decorrelated import Rdpo
from pareto_align.learning.discriminative import Disco, Drpo
from pareto_align.learning.in_context import RewardsInContext
from pareto_align.learning.kto import KtoLearner
from pareto_align.learning.learner import Context, Experience, Learner, StepReport, register_learner
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.nash import NashMd
from pareto_align.learning.offline import Dpo, Modpo
from pareto_align.learning.online import OnlineLearner
from pareto_align.learning.rollouts import Rollouts, roll_out
from pareto_align.learning.selfplay import Egpo, Inpo, OnlineDpo, Sppo

__all__ = [
    "Context",
    "Credit",
    "Disco",
    "Dpo",
    "Drpo",
    "Egpo",
    "Experience",
    "Inpo",
    "KtoLearner",
    "Learner",
    "Modpo",
    "NashMd",
    "OnlineDpo",
    "OnlineLearner",
    "PolicyLoss",
    "PromptRow",
    "Rdpo",
    "RewardsInContext",
    "Rollouts",
    "Sppo",
    "StepReport",
    "available_credits",
    "available_learners",
    "make_credit",
    "make_learner",
    "register_credit",
    "register_learner",
    "roll_out",
]
