"""A whole fit on a problem whose front is known, and the exact truth about everything that came out of it.

from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import get_problem

fit = judged_fit(get_problem("flat"), folder, weighting="chebyshev", steps=400, learning_rate=1e-3)
fit.verdict().hypervolume_ratio        # of the policies as training left them
fit.front                              # what was published, with intervals
fit.member_values                      # what its members are really worth
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ParetoAlignWarning
from pareto_align.testing import exact
from pareto_align.testing.problems import KnownFrontProblem
from pareto_align.testing.tables import policy_table, string_probabilities

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

    from pareto_align.family_member import FamilyMember
    from pareto_align.member import Member
    from pareto_align.messages import Instruction
    from pareto_align.objectives import Objective
    from pareto_align.result import ParetoFront

__all__ = ["JudgedFit", "judged_fit", "symbol_lora"]

Array = NDArray[np.float64]

MEASURED = 64
"""Completions of a policy in one measurement."""


@dataclass(frozen=True, eq=False)
class JudgedFit:
    """What a fit published, and the exact tables of what it trained; S = V**T strings.

    Attributes:
        problem: The problem, whose reward table is the truth.
        front: What the fit published, as measured on the report split.
        preferences: [K, m] what each policy pursued in the beginning, over the *optimised* objectives of the fit.
        reference: [n_prompts, S] table of the untrained model.
        policies: [K, n_prompts, S] tables of the policies as training left them.
        members: [n, n_prompts, S] tables of the published members, in the front's order.
        kl_coef: Strength of the KL term that the policies were trained with.
        unseen: [j, m] preferences that nobody was trained for.
        unseen_policies: [j, n_prompts, S] tables of what a user gets for each of them: the family's policy, or of
            independent policies the one whose preference is nearest.
    """

    problem: KnownFrontProblem
    front: ParetoFront
    preferences: Array
    reference: Array
    policies: Array
    members: Array
    kl_coef: float = 0.0
    unseen: Array = field(default_factory=lambda: np.zeros((0, 0)))
    unseen_policies: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))

    @property
    def values(self) -> Array:
        """[K, m] exact expected rewards of the policies as training left them."""
        return self._values(self.policies)

    @property
    def member_values(self) -> Array:
        """[n, m] exact expected rewards of the published members, in the front's order."""
        return self._values(self.members)

    def verdict(self, weights: ArrayLike | None = None) -> exact.Verdict:
        """The policies as training left them, judged against the truth.

        Args:
            weights: [K, m] for regret and missed share, over the problem's rewards. Default: the preferences.
        """
        weights = self.preferences if weights is None else weights
        return exact.judge(self.problem, self.policies, self.reference, weights, beta=self.kl_coef)

    def unseen_verdict(self, weights: ArrayLike | None = None) -> exact.Verdict:
        """What users with the preferences `unseen` get, judged against the truth.

        Args:
            weights: [j, m] for regret and missed share, over the problem's rewards. Default: the preferences.
        """
        weights = self.unseen if weights is None else weights
        return exact.judge(self.problem, self.unseen_policies, self.reference, weights, beta=self.kl_coef)

    def _values(self, tables: Array) -> Array:
        found = [exact.expected_rewards(table, self.problem.rewards) for table in tables]
        return np.reshape(found, (len(found), self.problem.m))


def symbol_lora() -> LoraConfig:
    """The adapters of the tiny model: rank 8 on all its linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def judged_fit(
    problem: KnownFrontProblem,
    folder: str | Path,
    *,
    seed: int = 0,
    objectives: Sequence[Objective] | None = None,
    population: int = 8,
    kl_coef: float = 0.0,
    unseen: ArrayLike | None = None,
    **settings: Any,
) -> JudgedFit:
    """Fit a front on a problem with the real pipeline on its tiny model, and enumerate what came out.

    Every step sees all prompts of the problem with 32 samples each, every measurement 64 samples a policy, and every
    policy keeps the preference that it is judged by (explorer "grid"; of a family "everywhere"), and credit is linear
    in the rewards ("centred"), as the truth is, unless the settings say otherwise. A single prompt serves for training,
    selection and report alike. Of several, 64 repetitions stand in for held-out ones, as the truth is an average over
    just these prompts, and a handful of rows, all different, could not tell the ends of a front apart.

    Args:
        problem: The problem.
        folder: The run folder; must not hold a run yet.
        seed: Of the model, the noise in the rewards, and the run.
        objectives: What to optimise, constrain and audit; default: the problem's own.
        population: K.
        kl_coef: Strength of the KL term in training, and in missed share.
        unseen: [j, m] further preferences to judge at.
        **settings: Further arguments of `ParetoAligner`.

    Raises:
        ConfigError: The aligner refused a setting.
    """
    from pareto_align.aligner import ParetoAligner
    from pareto_align.policies import PolicyPopulation, load_base
    from pareto_align.policies.families import make_family, spoken

    count = len(problem.prompts)
    tokenizer, model = problem.tokenizer(), problem.model(seed)
    defaults: dict[str, Any] = {
        "prompts_per_step": count,
        "group_size": 32,
        "max_new_tokens": problem.T,
        "eval_group_size": MEASURED if count == 1 else 1,
        "lora": symbol_lora(),
        "learner": "centred",
        "explorer": "grid" if settings.get("family", "independent") == "independent" else "everywhere",
        "device": "cpu",
        "progress": False,
    }
    settings = defaults | settings
    held_out = None if count == 1 else problem.repeated_prompts(2 * MEASURED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)  # so few prompts, and so little time, are meant here
        aligner = ParetoAligner(
            model,
            problem.objectives(seed=seed) if objectives is None else objectives,
            tokenizer=tokenizer,
            population=population,
            kl_coef=kl_coef,
            seed=seed,
            output_dir=folder,
            **settings,
        )
        front = aligner.fit(list(problem.prompts), eval_prompts=held_out)
    reference = policy_table(problem, model)
    family = make_family(settings.get("family"))
    optimized = [list(aligner.objectives)[i] for i in aligner.objectives.axes]
    names = [spoken(objective.name, objective.maximize) for objective in optimized]
    lora = settings["lora"] if family is None else family.lora(settings["lora"], names)
    base = load_base(model, tokenizer=tokenizer)
    bench = PolicyPopulation(base, population, lora=lora)
    start = next(event for event in front.history if event["event"] == "start")
    preferences = np.array(start["preferences"])
    asked = np.zeros((0, aligner.objectives.m)) if unseen is None else np.asarray(unseen, dtype=float)

    def tables(rows: Iterable[tuple[Tensor, Instruction | None]]) -> Array:
        found = []
        for row, told in rows:
            prompts = [p if told is None else told.before(p, templated=False) for p in problem.prompts]
            ids = [base.encode(prompt) for prompt in prompts]
            with bench.serving(row[None]):
                found.append(string_probabilities(model, ids, problem.V, problem.T))
        return np.reshape(found, (len(found), *reference.shape))

    def table_of(member: Member | FamilyMember) -> tuple[Tensor, Instruction | None]:
        return bench.read_adapter(member.adapter_path), member.instruction

    try:
        told = [None if family is None else family.instruction(preference) for preference in preferences]
        policies = tables(zip(aligner.policies_, told, strict=True))
        members = tables(table_of(member) for member in front)
        if family is None:
            served = policies[((asked[:, None] - preferences) ** 2).sum(-1).argmin(1)]
        else:
            served = tables(table_of(front.at(preference)) for preference in asked)
    finally:
        bench.close()
    return JudgedFit(problem, front, preferences, reference, policies, members, kl_coef, asked, served)
