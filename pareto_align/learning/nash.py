"""Games against a mixture: each policy meets answers that are half its own and half the untrained model's.

References:
    Munos et al., "Nash Learning from Human Feedback", arXiv 2312.00886 (Nash-MD-PG). The mixture is taken token by
        token, as in TRL's `NashMDTrainer`; of whole answers it cannot be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from pareto_align.arguments import Positive, Share, arguments_of
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ConfigError
from pareto_align.learning.credit import Centred
from pareto_align.learning.learner import register_learner
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.online import OnlineLearner
from pareto_align.learning.rollouts import asked
from pareto_align.objectives import ObjectiveSet
from pareto_align.objectives.judges import DRAWN
from pareto_align.policies.blending import sample_blend
from pareto_align.seeds import seed_for

__all__ = ["NashMd"]


@register_learner("nash-md")
class NashMd(OnlineLearner):
    """Nash-MD-PG: policy gradients of how often an answer beats the mixture's, less a price of leaving the untrained
    model.

    A token of an opponent is drawn in proportion to `pi^(1 - mixture) ref^mixture`. With opponents of its own
    (`mixture=0`) a policy at rest is the Nash equilibrium of the game that the price holds, as for `egpo`; otherwise it
    is `ref exp(P(better than the mixture) / beta)`, nearer to what beats the untrained model, and the way there is
    steadier.

    It needs an objective with `win_rate(..., against="drawn")`; other objectives are judged as always. Each step draws
    as many opponents as answers, one policy after the other, at about the cost of one more sampling of two policies.

    Args:
        mixture: The untrained model's share in the opponents, TRL's `mixture_coef`.
        beta: The price of one nat from the untrained model, in units of the reward.
    """

    own_loss: ClassVar[bool] = True

    def __init__(self, *, mixture: Share = 0.5, beta: Positive = 0.1) -> None:
        super().__init__(Centred(), PolicyLoss(kl_coef=beta))
        self.name = "nash-md"  # type: ignore[misc]
        self.mixture = mixture

    def facts(self) -> dict[str, Any]:
        """See `Learner.facts`."""
        return arguments_of(self)

    def check(self, objectives: ObjectiveSet) -> None:
        """See `Learner.check`.

        Raises:
            ConfigError: Nothing meets the opponents that it draws.
        """
        super().check(objectives)
        rewards = [objective.reward for objective in objectives]
        if not any(getattr(reward, "against", None) == "drawn" for reward in rewards):
            raise ConfigError(
                "The learner 'nash-md' draws opponents, and no objective meets them. Give one the reward "
                "win_rate(judge, reference=..., against='drawn'), or choose learner='egpo'."
            )

    def _columns(self, step: int, prompts: Sequence[PromptRow]) -> dict[str, list[Any]]:
        """As many opponents as answers, each policy's own from its mixture."""
        context, population = self.context, self.population
        mixed = [1 - self.mixture, self.mixture]
        opponents: list[str] = []
        for k, row in enumerate(population.parameters.detach(), context.first):
            pair = torch.stack([row, torch.zeros_like(row)])
            seed = seed_for(context.seed, "opponents", step, k)
            ids = asked(population.base, prompts, population.instructions(row[None]))
            drawn = sample_blend(population, pair, mixed, ids, context.group_size, context.params, seed)
            opponents += population.base.decode_all(drawn.completions.token_lists())
        return {DRAWN: opponents}
