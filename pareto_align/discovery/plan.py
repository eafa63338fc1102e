"""What is fitted and how, and whether its parts work with each other; said before a model is loaded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from pareto_align.discovery.explorers import Explorer
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.learning.learner import Learner
from pareto_align.objectives import ObjectiveSet
from pareto_align.objectives.composed import remembers
from pareto_align.policies.families import Family, spoken
from pareto_align.policies.families.prompted import Rewards
from pareto_align.policies.lora_config import check_lora, default_lora_config
from pareto_align.policies.samplers import TEMPERATURES, make_engine
from pareto_align.runs.settings import Settings
from pareto_align.weighting import Weighting
from pareto_align.weighting.evidence import audited, steered_axes

__all__ = ["Plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is fitted and how: all of a run but its model, its prompts and its folder.

    Raises:
        ConfigError: The parts do not work with each other; said before a model is loaded.
        PreferenceError: Preferences that the explorer was given are none.
    """

    objectives: ObjectiveSet
    weighting: Weighting
    learner: Learner
    explorer: Explorer
    settings: Settings
    lora: Any = None
    family: Family | None = None

    def __post_init__(self) -> None:
        if self.learner.needs_group and self.settings.group_size < 2:
            raise ConfigError(
                f"The learner {self.learner.name!r} compares the completions of one prompt and needs group_size >= 2. "
                f"Found group_size={self.settings.group_size}."
            )
        if self.lora is not None:
            check_lora(self.lora)
        self.learner.check(self.objectives)
        self._check_needs()
        self._check_credit()
        self._check_family()
        self._check_shards()
        self._check_sampler()
        self.preferences()
        self.weighting.setup(self.settings.population, self.objectives.m)

    @property
    def measures_labels(self) -> bool:
        """Whether policies are measured on comparisons: not every objective has a reward to judge answers by."""
        return any(objective.reward is None for objective in self.objectives)

    def _check_needs(self) -> None:
        """Whether objectives and weighting have what the learner can give them."""
        name = self.learner.name
        if unmet := sorted(self.weighting.requires - self.learner.provides):
            raise ConfigError(
                f"The weighting {self.weighting.name!r} needs {', '.join(unmet)}, which there is not with the learner "
                f"{name!r}. Choose another weighting, such as 'fixed' or 'chebyshev'."
            )
        if self.settings.max_step_kl is not None and type(self.learner).moved is Learner.moved:
            raise ConfigError(
                "`max_step_kl` is for learners that follow rewards of their own answers, as the credits do; how far a "
                f"step of the learner {self.learner.name!r} goes is not measured. Leave it out."
            )
        if self.weighting.needs_kl and self.settings.kl_coef == 0:
            raise ConfigError(
                f"The weighting {self.weighting.name!r} may take all weight away, and only a price of KL leads a "
                "policy back then. Set kl_coef above 0, or see its page for the form that always trades."
            )
        if self.weighting.compares_slots and (self.explorer.moves_slots or self.settings.population < 2):
            found = f"the explorer {self.explorer.name!r} and population={self.settings.population}"
            raise ConfigError(
                f"The weighting {self.weighting.name!r} compares neighbouring slots (estimate='paired'), which takes "
                f"two that no explorer moves elsewhere. Found {found}. Choose explorer='grid' with population=2 or "
                "more, or another estimate."
            )
        if self.explorer.needs_kl and self.settings.kl_coef == 0:
            raise ConfigError(
                f"The explorer {self.explorer.name!r} goes by the price of KL, without which no policy is the best one "
                "for a preference. Set kl_coef above 0."
            )
        if self.explorer.needs_audits:
            known = [o.name for o in self.objectives if o.role == "audit" and o.bounds is not None]
            asked = known if self.explorer.descriptors is None else list(self.explorer.descriptors)
            if not asked or (strange := [name for name in asked if name not in known]):
                raise ConfigError(
                    f"The explorer {self.explorer.name!r} goes by audited objectives with bounds, what answers are "
                    f"like. Found {', '.join(known) or 'none'}"
                    + (f", and no {', '.join(strange)} among them" if asked else "")
                    + '. Give objectives role="audit" and bounds.'
                )
        if self.learner.needs != "comparisons":
            for objective in self.objectives:
                if objective.reward is None:
                    raise ConfigError(
                        f"Objective {objective.name!r} has labels (prefers={objective.prefers!r}) and no reward, which "
                        f"the learner {name!r} learns from. Give it a reward, or choose learner='dpo'."
                    )
            if self.learner.own_loss:
                self._check_own_loss(name)
            return
        steered = steered_axes(self.objectives, self.weighting)
        for column, objective in enumerate(self.objectives):
            if objective.prefers is None and (column in steered or self.measures_labels):
                told = "is learned" if column in steered else "is measured"
                raise ConfigError(
                    f"Objective {objective.name!r} {told} on comparisons, and does not say which column of them has "
                    "its labels: prefers='column'."
                )
        if self.weighting.applies_to != "advantage":
            raise ConfigError(
                f"The weighting {self.weighting.name!r} acts on rewards, and the learner {name!r} has none. Choose "
                "applies_to='advantage'."
            )
        if self.settings.kl_coef > 0:
            raise ConfigError(
                f"`kl_coef` is the price of one nat in rewards, and the learner {name!r} has none"
                f"{'' if self.learner.tells_rewards else ': its beta holds on to the untrained model'}. "
                f"Found kl_coef={self.settings.kl_coef}."
            )
        if self.learner.tells_rewards:
            self._check_telling(name)

    def _check_telling(self, name: str) -> None:
        """Whether the rest can work with a learner that teaches what rewards before a prompt mean."""
        if not isinstance(self.family, Rewards):
            found = "independent" if self.family is None else self.family.name
            raise ConfigError(
                f"The learner {name!r} imitates answers behind the rewards that they had, and the policies have to be "
                f"asked in the same words: family='rewards'. Found {found!r}."
            )
        if self.weighting.name != "fixed":
            raise ConfigError(
                f"The learner {name!r} trains one adapter for all preferences, without weights: leave `weighting` out. "
                f"Found {self.weighting.name!r}."
            )
        for objective in self.objectives:
            if objective.reward is None:
                raise ConfigError(
                    f"Objective {objective.name!r} has ratings and no reward, and whether a policy does what it is "
                    f"asked for is measured on answers. Give it one; `fit_rewards` learns one from ratings."
                )

    def _check_shards(self) -> None:
        """Whether the policies can be in several shards, where they are to be."""
        if (count := len(self.settings.shards)) == 1:
            self._check_overlap(1)
            return
        self._check_overlap(count)
        if self.learner.couples_policies:
            raise ConfigError(
                f"The learner {self.learner.name!r} lets policies learn from each other, so all have to be in one "
                f"shard. Leave `shard_size` out. Found {count} shards."
            )
        if self.family is not None and self.settings.updates_per_rollout > 1:
            raise ConfigError(
                "The shards of a family make their update together, once for what they sampled: set "
                "updates_per_rollout=1, leave `shard_size` out, or use family='independent'. Found "
                f"{self.settings.updates_per_rollout} updates."
            )

    @property
    def judged_apart(self) -> tuple[int, ...]:
        """Columns of the objectives that judge shard by shard while other shards work; none where nothing overlaps."""
        if len(self.settings.shards) == 1 or self.settings.overlap == "off" or self.learner.needs == "comparisons":
            return ()
        return tuple(column for column, objective in enumerate(self.objectives) if objective.rowwise)

    def _check_overlap(self, shards: int) -> None:
        """Whether sampling and training can go on while answers are judged, where they are to."""
        overlap = self.settings.overlap
        for objective in self.objectives:
            if objective.rowwise and remembers(objective.reward):
                raise ConfigError(
                    f"Objective {objective.name!r} remembers earlier answers, so it does not judge a row by itself. "
                    "Leave rowwise out."
                )
        if overlap in ("auto", "off"):
            return
        told = f"overlap={overlap!r} lets shards work while the answers of others are judged"
        if shards == 1:
            raise ConfigError(
                f"{told}, and there is one shard. Set `shard_size` below the population, {self.settings.population}, "
                "or leave `overlap` out."
            )
        if self.learner.needs == "comparisons":
            raise ConfigError(f"{told}, and the learner {self.learner.name!r} has none judged. Leave `overlap` out.")
        waiting = [objective.name for objective in self.objectives if not objective.rowwise]
        if len(waiting) == len(self.objectives) or (overlap == "bounded" and waiting):
            raise ConfigError(
                f"{told}, and {', '.join(map(repr, waiting))} may judge a population as a whole. Where a reward "
                "depends on its own answer alone, and may be called in a thread, say so: Objective(..., rowwise=True). "
                "Otherwise leave `overlap` out."
            )
        if overlap == "bounded" and (self.weighting.compares_slots or self.weighting.tries_policies):
            raise ConfigError(
                f"The weighting {self.weighting.name!r} compares slots with each other, whose numbers then have to be "
                "of one step. Use overlap='exact', or another weighting."
            )

    def _check_sampler(self) -> None:
        """Whether the rest can work with an engine that draws in the population's place, and with a correction."""
        settings, learner = self.settings, self.learner
        truncated = settings.top_k is not None or settings.top_p is not None
        if (correction := settings.rollout_correction) not in ("auto", "none"):
            if not learner.corrects:
                raise ConfigError(
                    f"`rollout_correction` weighs the tokens of a policy gradient, and {learner.name!r} has "
                    f"another loss. Leave it out. Found rollout_correction={correction!r}."
                )
            if truncated:
                raise ConfigError(
                    "`rollout_correction` compares the probabilities of whole distributions; of truncated sampling "
                    "the kept tokens would have to be known. Leave top_k and top_p, or rollout_correction, out."
                )
        if settings.engine is None:
            return
        told = f"The sampler {settings.engine['name']!r}"
        lowest, highest = TEMPERATURES
        for wrong, why in (
            (learner.needs == "comparisons", f"draws nothing for the learner {learner.name!r}, which learns from "
             "comparisons"),
            (truncated, "tells the probabilities of what top_k and top_p keep, which cannot be compared with the "
             "trainer's. Leave top_k and top_p out"),
            (settings.activated or bool(getattr(self.lora, "alora_invocation_tokens", None)),
             "has no activated adapters. Set activated=False"),
            (settings.deterministic, "does not draw the same bits again. Set deterministic=False"),
            (not lowest <= settings.temperature <= highest,
             f"draws at temperatures from {lowest} to {highest:g}. Found temperature={settings.temperature:g}"),
        ):  # fmt: skip
            if wrong:
                raise ConfigError(f"{told} {why}; or choose another sampler.")
        lora = self.lora if self.family is None else self.family.lora(self.lora, self.spoken)
        make_engine(settings.engine).check(int((default_lora_config() if lora is None else lora).r))

    def _check_own_loss(self, name: str) -> None:
        settings = self.settings
        for key, plain, instead in (
            ("kl_coef", 0.0, "its beta (or tau) is the price of one nat"),
            ("updates_per_rollout", 1, "it makes one step from what was sampled"),
            ("top_k", None, "it compares the probabilities of whole distributions"),
            ("top_p", None, "it compares the probabilities of whole distributions"),
        ):
            if (found := getattr(settings, key)) != plain:
                raise ConfigError(f"`{key}` has no part in the learner {name!r}: {instead}. Found {key}={found}.")

    def _check_credit(self) -> None:
        """Warn where a weight does not mean the same from step to step."""
        credit = getattr(self.learner, "credit", None)
        if self.weighting.goes_by_covariance and credit is not None and not credit.linear:
            warnings.warn(
                f"The weighting {self.weighting.name!r} is derived for a learner that is linear in the rewards, and "
                f"{self.learner.name!r} is not: a weight means another thing from step to step. Choose learner="
                "'centred', 'dr_grpo' or 'rloo'.",
                ParetoAlignWarning,
                stacklevel=5,
            )

    def _check_family(self) -> None:
        """Whether the explorer and the weighting can work with the family, or without one."""
        if self.family is None:
            if self.explorer.for_families:
                raise ConfigError(
                    f"The explorer {self.explorer.name!r} draws other preferences at every step, which only a family "
                    "can follow. Give one, such as family='gates', or choose another explorer, such as 'discover'."
                )
            return
        self.family.lora(self.lora, self.spoken)  # says what is wrong with the ranks
        if self.family.instructs:
            self._check_instructions(self.family.name)
        if self.learner.needs_own_policies:
            raise ConfigError(
                f"The learner {self.learner.name!r} keeps each policy as it was some steps ago, and the policies of a "
                "family have no parameters of their own. Use family='independent', or learner='online-dpo' with "
                "reference='base'."
            )
        if self.explorer.moves_slots:
            raise ConfigError(
                f"The explorer {self.explorer.name!r} gives slots policies and tasks of their own, and the slots of "
                f"the family {self.family.name!r} have none. Use explorer='everywhere' (or 'grid'), or "
                "family='independent'."
            )
        if self.weighting.tries_policies:
            raise ConfigError(
                f"The weighting {self.weighting.name!r} compares slots that train under thresholds of their own, and a "
                f"family has one policy a preference. Use a Lagrangian weighting, or family='independent'."
            )
        if self.weighting.follows_slots:
            raise ConfigError(
                f"The weighting {self.weighting.name!r} goes from a slot's preference and learns for the slot from "
                "then on, and a family is trained on other preferences at every step. Choose another weighting, such "
                "as 'fixed', or family='independent'."
            )

    def _check_instructions(self, name: str) -> None:
        """Whether the rest can work with policies that are told their preference in the prompts."""
        if self.learner.needs == "comparisons" and not self.learner.tells_rewards:
            raise ConfigError(
                f"The policies of the family {name!r} are asked in words of their own, and the learner "
                f"{self.learner.name!r} lets all read the same comparisons. Choose a learner from rewards, such as "
                "'centred' or 'online-dpo', or 'ric', or another family, such as 'gates'."
            )
        if self.settings.activated or getattr(self.lora, "alora_invocation_tokens", None):
            raise ConfigError(
                f"The family {name!r} says the preference before the prompt, which activated adapters leave to the "
                "untrained model. Set activated=False, or choose another family, such as 'gates'."
            )

    @property
    def spoken(self) -> list[str]:
        """What the m optimized objectives are called where a preference is said."""
        every = list(self.objectives)
        return [spoken(every[i].name, every[i].maximize) for i in self.objectives.axes]

    def preferences(self) -> np.ndarray:
        """`[K, m]` what the slots pursue at first; the explorer forgets an earlier run."""
        self.explorer.read_as(self.weighting.reading)
        names = [self.objectives.names[i] for i in self.objectives.axes]
        return self.explorer.preferences(names, self.settings.population, self.settings.seed)

    def names(self) -> dict[str, Any]:
        """Of the parts that go by one, how the weighting reads a preference, and the audited objectives it goes by."""
        names: dict[str, Any] = {
            "weighting": self.weighting.name,
            "reading": self.weighting.reading,
            "learner": self.learner.name,
            "explorer": self.explorer.name,
        }
        if self.measures_labels:
            names["measured"] = "labels"
        columns = audited(self.objectives)
        if followed := [self.objectives.names[columns[i]] for i in self.weighting.goes_by(len(columns))]:
            names["followed"] = followed
        return names if self.family is None else names | {"family": self.family.name}
