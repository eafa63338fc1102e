"""Putting a run together: what the user asked for, a model and prompts become a loop that is ready to run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pareto_align.backends import Backend, Local
from pareto_align.data.prompts import Splits
from pareto_align.discovery.explorers import Explorer
from pareto_align.discovery.hosting import Host, Work, sampling_of
from pareto_align.discovery.loop import FrontDiscovery
from pareto_align.discovery.measuring import FrontKeeper
from pareto_align.discovery.shards import Shards
from pareto_align.errors import ConfigError, ParetoAlignWarning, PromptError
from pareto_align.evaluation.answers import ROWS_AT_ONCE, Evaluator, Measures
from pareto_align.evaluation.labels import LabelEvaluator
from pareto_align.front import Estimate
from pareto_align.learning.learner import Learner
from pareto_align.learning.offline import PreferenceLearner
from pareto_align.learning.rollouts import asked
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.base import Base
from pareto_align.policies.families import Family, spoken
from pareto_align.policies.lora_config import activated_lora_config, check_lora, default_lora_config
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.samplers import TEMPERATURES, make_engine
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

    def _check_shards(self) -> None:
        """Whether the policies can be in several shards, where they are to be."""
        if (count := len(self.settings.shards)) == 1:
            return
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
        if self.learner.needs == "comparisons":
            raise ConfigError(
                f"The policies of the family {name!r} are asked in words of their own, and the learner "
                f"{self.learner.name!r} lets all read the same comparisons. Choose a learner from rewards, such as "
                "'centred' or 'online-dpo', or another family, such as 'gates'."
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


@contextmanager
def open_population(plan: Plan, base: Base, splits: Splits, *, trusted: bool = False) -> Iterator[PolicyPopulation]:
    """The population of a run, and the engine that draws for it, if there is one; the model is given back as it was.

    Args:
        plan: What is fitted and how.
        base: The model.
        splits: The prompts.
        trusted: Whether code that comes with the model may be run by whoever loads it again.

    Raises:
        ModelError: The model cannot carry a population, or the engine cannot run the model.
        PromptError: Activated adapters find no place to begin at in a prompt, or a prompt with what a family says
            before it is refused, is too long, or reads as without.
    """
    settings = plan.settings
    lora = activated_lora_config(base, plan.lora) if settings.activated else plan.lora
    notes = 0
    if plan.family is not None:
        lora = plan.family.lora(lora, plan.spoken)
        notes = plan.objectives.m if plan.family.instructs else 0
    seed = seed_for(settings.seed, "adapters")
    population = PolicyPopulation(base, settings.population, lora=lora, notes=notes, seed=seed)
    population.sampler, population.deterministic = settings.decoding, settings.deterministic
    try:
        for row in (*splits.train, *splits.select, *splits.report):
            population.split(row.ids)
        if plan.family is not None and plan.family.instructs:
            _check_asked(plan, base, splits)
        if settings.engine is not None:
            longest = max(len(row.ids) for row in splits.train) + settings.max_new_tokens
            if plan.family is not None and plan.family.instructs:  # says something before it
                longest = base.context_length
            widest = max(map(len, settings.shards))
            population.outside = make_engine(settings.engine).open(population, widest, longest, trusted=trusted)
        yield population
    finally:
        if population.outside is not None:
            population.outside.close()
        population.close()


def _check_asked(plan: Plan, base: Base, splits: Splits) -> None:
    """Whether the prompts can be asked with what the family says before them."""
    assert plan.family is not None
    longest = max((*splits.train, *splits.select, *splits.report), key=lambda row: len(row.ids))
    hint = "" if getattr(plan.family, "place", "user") == "user" else ' Try the family with place="user".'
    told = [instruction for w in np.eye(plan.objectives.m) if (instruction := plan.family.instruction(w)) is not None]
    try:
        ids = asked(base, [longest], told)
    except PromptError as error:
        raise PromptError(f"A prompt with what the family {plan.family.name!r} says before it: {error}{hint}") from None
    if ids[0] == ids[1]:
        raise PromptError(
            f"The chat template leaves out what the family {plan.family.name!r} says before a prompt.{hint}"
        )
    if (found := max(map(len, ids)) + plan.settings.max_new_tokens) > base.context_length:
        raise PromptError(
            f"The longest prompt has, with what the family {plan.family.name!r} says before it, "
            f"{found - plan.settings.max_new_tokens} tokens; with max_new_tokens={plan.settings.max_new_tokens} it "
            f"exceeds the model's context of {base.context_length}."
        )


def assemble(
    plan: Plan,
    population: PolicyPopulation,
    splits: Splits,
    folder: Path | None,
    *,
    backend: Backend | None = None,
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
        backend: Has the policies; by default this process has. One that is remote has been opened, with hosts that have
            the model, and the population here is of a model without weights.
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
    local = None
    if backend is None or not backend.remote:
        local, backend = Host(base, population), backend or Local()
        backend.open(lambda: local, len(settings.shards))
    else:
        backend.everywhere("move_in", population.lora, settings, population.notes)
    if record is None:
        # the record holds what is used, set or not; a run of one shard is told as before there were any
        (tokens, *_) = backend.everywhere("micro_batch_tokens", settings)
        used = asdict(replace(settings, micro_batch_tokens=tokens))
        # and a sampler that needs no correction as before there was any
        usual = {name: Settings.__dataclass_fields__[name].default for name in ("rollout_correction", "rollout_cap")}
        usual = {"shard_size": None, **(usual if settings.engine is None else {})}
        config = plan.names() | {k: v for k, v in used.items() if k not in usual or v != usual[k]}
    else:
        config = plan.names() | dict(record["config"])  # the first runs did not take down how a preference is read
    params = sampling_of(settings)
    # what is said about an answer is about its probability, and not about that of sampling it
    temperature = settings.temperature if plan.learner.needs == "rollouts" else 1.0
    backend.everywhere("read_with", settings, temperature, config["micro_batch_tokens"])

    # bounds are of the select split; of truncated sampling the probabilities are not those that are trained
    whole = settings.top_k is None and settings.top_p is None
    widest = max(map(len, settings.shards))

    def measures(split: str) -> Measures:
        rows, seed = getattr(splits, split), seed_for(settings.seed, split)
        if plan.measures_labels:
            assert isinstance(plan.learner, PreferenceLearner)
            assert local is not None, "the plan was checked"
            beta, samples = plan.learner.beta, settings.samples_kept if split == "report" else 0
            group = settings.eval_group
            return LabelEvaluator(local.engine, rows, beta, group=group, samples=samples, params=params, seed=seed)
        return Evaluator(
            population,
            objectives,
            rows,
            settings.eval_group_size,
            params,
            seed,
            rows_at_once=max(ROWS_AT_ONCE, widest * settings.prompts_per_step * settings.group_size),
            group=settings.eval_group,
            ratios=split == "select" and settings.kl_coef > 0 and whole,
            policies_at_once=widest if len(settings.shards) > 1 else None,
            ask=lambda questions: backend.anywhere("answer", [(question,) for question in questions]),
        )

    select = measures("select")
    callbacks = list(callbacks)
    untrained = None
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
    work = Work(
        settings,
        plan.learner,
        plan.family,
        objectives.m,
        preferences,
        scale,
        steered_axes(objectives, plan.weighting),
        splits.train,
        objectives if local is not None and len(settings.shards) == 1 else None,
    )
    if plan.family is not None:
        plan.family.setup(population, objectives.m, seed_for(settings.seed, "adapters"))
    backend.everywhere("begin", work)
    backend.populate()
    shards = Shards(backend, settings.shards, population, objectives, plan.family)
    plan.weighting.setup(settings.population, objectives.m)
    publisher = Publisher(
        None if folder is None else folder / "front",
        population,
        objectives,
        scale,
        config,
        plan.family,
        lambda policy, prompt: backend.anywhere("parity", [(policy, prompt)])[0],
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
        untrained=untrained,
    )
    loop = FrontDiscovery(
        population=population,
        shards=shards,
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
    host, *_ = backend.everywhere("facts")
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
        parameters=population.parameter_count - population.notes,
        device=host["device"],
        dtype=f"torch.{host['base']['dtype']}",
    )
    return loop
