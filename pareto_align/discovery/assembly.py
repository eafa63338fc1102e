"""Putting a run together: what the user asked for, a model and prompts become a loop that is ready to run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pareto_align.data.prompts import Splits
from pareto_align.discovery.explorers import Explorer
from pareto_align.discovery.loop import FrontDiscovery
from pareto_align.discovery.measuring import FrontKeeper
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.evaluation.answers import ROWS_AT_ONCE, Evaluator, Measures
from pareto_align.evaluation.labels import LabelEvaluator
from pareto_align.front import Estimate
from pareto_align.learning.learner import Context, Learner
from pareto_align.learning.offline import PreferenceLearner
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.base import Base
from pareto_align.policies.engine import Engine
from pareto_align.policies.families import Family
from pareto_align.policies.lora_config import activated_lora_config, check_lora
from pareto_align.policies.micro_batch import default_micro_batch, recorded_micro_batch
from pareto_align.policies.optimizer import OPTIMIZERS, FamilyOptimizer, PopulationOptimizer
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams
from pareto_align.runs.budget import Spending
from pareto_align.runs.checkpoint import Checkpoint
from pareto_align.runs.folder import write_run_record, write_splits
from pareto_align.runs.journal import Callback, Journal, announce
from pareto_align.runs.publishing import Publisher
from pareto_align.runs.settings import Settings
from pareto_align.seeds import seed_for
from pareto_align.weighting import Weighting
from pareto_align.weighting.evidence import audited, steered_axes

__all__ = ["Plan", "assemble", "open_population"]

logger = logging.getLogger(__name__)


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
                f"`kl_coef` is the price of one nat in rewards, and the learner {name!r} has none: its beta holds on "
                f"to the untrained model. Found kl_coef={self.settings.kl_coef}."
            )

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
                    "can follow. Give one, such as family='blocks', or choose another explorer, such as 'discover'."
                )
            return
        self.family.lora(self.lora, self.objectives.m)  # says what is wrong with the ranks
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

    def preferences(self) -> np.ndarray:
        """`[K, m]` what the slots pursue at first; the explorer forgets an earlier run."""
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


@contextmanager
def open_population(plan: Plan, base: Base, splits: Splits) -> Iterator[PolicyPopulation]:
    """The population of a run; the model is given back as it was.

    Raises:
        PromptError: Activated adapters find no place to begin at in a prompt.
    """
    settings = plan.settings
    lora = activated_lora_config(base, plan.lora) if settings.activated else plan.lora
    if plan.family is not None:
        lora = plan.family.lora(lora, plan.objectives.m)
    population = PolicyPopulation(base, settings.population, lora=lora, seed=seed_for(settings.seed, "adapters"))
    population.sampler, population.deterministic = settings.sampler, settings.deterministic
    try:
        for row in (*splits.train, *splits.select, *splits.report):
            population.split(row.ids)
        yield population
    finally:
        population.close()


def assemble(
    plan: Plan,
    population: PolicyPopulation,
    splits: Splits,
    folder: Path | None,
    *,
    callbacks: Iterable[Callback] = (),
    facts: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> FrontDiscovery:
    """A run that is ready to begin, or to go on.

    Args:
        plan: What is fitted and how.
        population: On the model.
        splits: The prompts.
        folder: The run folder, which nobody else works in; None: everything stays in memory.
        callbacks: Called with every event.
        facts: What else the record of a new run holds.
        record: Of the run that goes on; None begins a new one.
        checkpoint: Where it goes on; None: it was killed before its first step.

    Raises:
        ObjectiveError: A reward function misbehaves.
        FrontFileError: The checkpoint is of another run, or the folder cannot be written.
    """
    settings, objectives, base = plan.settings, plan.objectives, population.base
    objectives.reset()  # an earlier fit is no cost of this one, and nothing to remember
    preferences = plan.preferences()
    if record is None:
        # the record holds what is used, set or not
        config = plan.names() | asdict(replace(settings, micro_batch_tokens=_micro_batch_tokens(settings, base)))
    else:
        config = plan.names() | dict(record["config"])  # the first runs did not take down how a preference is read
    params = SamplingParams(settings.max_new_tokens, settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    engine = Engine(
        population,
        # what is said about an answer is about its probability, and not about that of sampling it
        temperature=settings.temperature if plan.learner.needs == "rollouts" else 1.0,
        layout=settings.layout,
        micro_batch_tokens=config["micro_batch_tokens"],
        gradient_checkpointing=settings.gradient_checkpointing,
    )

    # bounds are of the select split; of truncated sampling the probabilities are not those that are trained
    whole = settings.top_k is None and settings.top_p is None

    def measures(split: str) -> Measures:
        rows, seed = getattr(splits, split), seed_for(settings.seed, split)
        if plan.measures_labels:
            assert isinstance(plan.learner, PreferenceLearner)
            beta, samples = plan.learner.beta, settings.samples_kept if split == "report" else 0
            group = settings.eval_group
            return LabelEvaluator(engine, rows, beta, group=group, samples=samples, params=params, seed=seed)
        return Evaluator(
            population,
            objectives,
            rows,
            settings.eval_group_size,
            params,
            seed,
            rows_at_once=max(ROWS_AT_ONCE, settings.rows_a_step),
            group=settings.eval_group,
            engine=engine if split == "select" and settings.kl_coef > 0 and whole else None,
        )

    select = measures("select")
    callbacks = list(callbacks)
    if checkpoint is None:
        announce(callbacks, "measuring the untrained model")
        untrained = select.measure_reference(check=True)
        if plan.measures_labels:
            scale = RewardScale.of_labels(objectives.M)
        else:
            scale = RewardScale.measure(untrained.rewards.reshape(-1, objectives.M), objectives)
        reference = untrained.estimate
    else:
        scale = RewardScale.from_dict(checkpoint.record["scale"])
        reference = Estimate.from_dict(checkpoint.record["reference"])
    chosen: dict[str, Any] = {"max_norm": settings.max_grad_norm, "weight_decay": settings.weight_decay}
    optimizer: PopulationOptimizer | FamilyOptimizer
    if plan.family is None:
        optimizer = OPTIMIZERS[settings.optimizer](population.parameters, **chosen)
    else:
        plan.family.setup(population, objectives.m, seed_for(settings.seed, "adapters"))
        optimizer = FamilyOptimizer(plan.family, population, kind=settings.optimizer, **chosen)
        optimizer.place(preferences)
    plan.learner.setup(
        Context(
            engine,
            scale,
            steered_axes(objectives, plan.weighting),
            optimizer,
            objectives,
            splits.train,
            settings.prompts_per_step,
            settings.group_size,
            params,
            settings.seed,
        )
    )
    plan.weighting.setup(settings.population, objectives.m)
    publisher = Publisher(
        None if folder is None else folder / "front", population, objectives, scale, config, plan.family
    )
    journal = Journal(None if folder is None else folder / "journal.jsonl", callbacks)
    spending = Spending(select, objectives)
    keeper = FrontKeeper(
        population=population,
        objectives=objectives,
        select=select,
        scale=scale,
        reference=reference,
        settings=settings,
        publisher=publisher,
        journal=journal,
        spending=spending,
    )
    loop = FrontDiscovery(
        population=population,
        objectives=objectives,
        learner=plan.learner,
        weighting=plan.weighting,
        explorer=plan.explorer,
        preferences=preferences,
        report=lambda: measures("report"),
        scale=scale,
        keeper=keeper,
        spending=spending,
        settings=settings,
        journal=journal,
        family=plan.family,
    )
    if checkpoint is not None:
        loop.load_state(checkpoint)
        journal.resume(int(checkpoint.record["events"]), step=loop.step)
        return loop
    if folder is not None and record is None:
        prompts, not_kept = write_splits(folder, splits)
        write_run_record(folder, config, base.name, objectives, prompts, facts or {}, not_kept)
    elif folder is not None:
        journal.resume(0, step=0)
    journal.write(
        "start",
        objectives=[o.name for o in objectives],
        axes=objectives.axes,
        preferences=preferences,
        scale=scale.to_dict(),
        reference=objectives.to_user(reference.mean),
        reference_stderr=reference.stderr,
        reference_hypervolume=publisher.hypervolume([reference]),
        units=reference.n,
        splits={"train": len(splits.train), "select": len(splits.select), "report": len(splits.report)},
        parameters=population.parameter_count,
        device=str(base.device),
        dtype=str(base.dtype),
    )
    return loop


def _micro_batch_tokens(settings: Settings, base: Base) -> int:
    """Tokens of one forward and backward pass: as set, as recorded for this model and machine, or the default."""
    if settings.micro_batch_tokens is not None:
        return settings.micro_batch_tokens
    recorded = recorded_micro_batch(base)
    if recorded is None:
        return default_micro_batch(base)
    logger.info("micro_batch_tokens=%d, as `pareto-align bench` recorded for this model and machine.", recorded)
    return recorded
