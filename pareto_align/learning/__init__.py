"""From vector rewards to an update of the whole population: rollouts, credit, losses, the learner."""

from __future__ import annotations

from pareto_align.data.prompts import PromptRow
from pareto_align.learning.credit import Credit, available_credits, make_credit, register_credit
from pareto_align.learning.learner import Learner, StepReport
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.rollouts import Rollouts, roll_out

__all__ = [
    "Credit",
    "Learner",
    "PolicyLoss",
    "PromptRow",
    "Rollouts",
    "StepReport",
    "available_credits",
    "make_credit",
    "register_credit",
    "roll_out",
]
