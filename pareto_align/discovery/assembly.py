"""Putting a run together: what the user asked for, a model and prompts become a loop that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.backends import Backend, Local
from pareto_align.data.prompts import Splits
from pareto_align.discovery.hosting import Host, Work, sampling_of
from pareto_align.discovery.loop import FrontDiscovery
from pareto_align.discovery.measuring import FrontKeeper
from pareto_align.discovery.plan import Plan
from pareto_align.discovery.shards import Shards
from pareto_align.errors import ConfigError, PromptError
from pareto_align.evaluation.answers import ROWS_AT_ONCE, Evaluator, Measures
from pareto_align.evaluation.labels import LabelEvaluator
from pareto_align.front import Estimate
from pareto_align.learning.offline import PreferenceLearner
from pareto_align.learning.rewards import reads_with
from pareto_align.learning.rollouts import asked
from pareto_align.objectives import RewardScale
from pareto_align.policies.base import Base
from pareto_align.policies.lora_config import activated_lora_config
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.samplers import make_engine
from pareto_align.runs.budget import Spending
from pareto_align.runs.checkpoint import Checkpoint
from pareto_align.runs.folder import write_run_record, write_splits
from pareto_align.runs.journal import Callback, Journal, announce
from pareto_align.runs.publishing import Publisher
from pareto_align.runs.settings import Settings
from pareto_align.seeds import seed_for
from pareto_align.weighting.evidence import steered_axes

__all__ = ["assemble", "open_population", "usual_rate"]


@contextmanager
def open_population(
    plan: Plan, base: Base, splits: Splits, *, trust_remote_code: bool = False
) -> Iterator[PolicyPopulation]:
    """The population of a run, and the engine that draws for it, if there is one; the model is given back as it was.

    Args:
        plan: What is fitted and how.
        base: The model.
        splits: The prompts.
        trust_remote_code: Whether code that comes with the model may be run by whoever loads it again.

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
            population.outside = make_engine(settings.engine).open(
                population, widest, longest, trust_remote_code=trust_remote_code
            )
        yield population
    finally:
        if population.outside is not None:
            population.outside.close()
        population.close()


def _check_asked(plan: Plan, base: Base, splits: Splits) -> None:
    """Whether the prompts can be asked with what the family says before them."""
    assert plan.family is not None
    longest = max((*splits.train, *splits.select, *splits.report), key=lambda row: len(row.ids))
    movable = base.use_chat_template and getattr(plan.family, "place", "user") != "user"
    hint = ' Try the family with place="user".' if movable else ""
    m = plan.objectives.m
    weights = np.concatenate([np.eye(m), np.full((1, m), 1 / m), plan.preferences()])  # the longest may be any of them
    told = [instruction for w in weights if (instruction := plan.family.instruction(w)) is not None]
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


def _judged_apart(plan: Plan, base: Base | None) -> tuple[int, ...]:
    """Columns of the objectives that judge while shards work.

    Args:
        plan: The run.
        base: The model that works in this process; None where it works elsewhere.

    Raises:
        ConfigError: One of them reads with that very model, and overlap was asked for.
    """
    apart = plan.judged_apart
    if base is None or not apart:
        return apart
    reading = {column for column in apart if reads_with(plan.objectives[column].reward, base)}
    if reading and plan.settings.overlap != "auto":
        name = plan.objectives[min(reading)].name
        raise ConfigError(
            f"Objective {name!r} reads with the model that is trained here, so it cannot judge while that works. Leave "
            "rowwise out, set overlap='off', or give the rewards a model of their own (load_rewards without base)."
        )
    apart = tuple(column for column in apart if column not in reading)
    # the mode is one of all threads, and a reward is not called in it
    return () if plan.settings.deterministic else apart


def _rate(plan: Plan, base: Base, record: Mapping[str, Any] | None) -> float:
    """The learning rate: as set, as it was in the run that goes on, or the usual one."""
    then = None if record is None else record["config"].get("learning_rate")
    if plan.settings.learning_rate is None and then is not None:
        return float(then)
    return usual_rate(plan, base)


def usual_rate(plan: Plan, base: Base) -> float:
    """The learning rate: as set, or what is usual for a model of this width."""
    width = getattr(base.model.config.get_text_config(), "hidden_size", None)
    width = width or base.model.get_input_embeddings().weight.shape[1]
    return plan.settings.rate(width, compared=plan.learner.needs == "comparisons")


def _begun(plan: Plan, population: PolicyPopulation, folders: Sequence[Path]) -> Tensor:
    """The policies `[K, P]` of adapter folders, or the family `[1, D]` of its own."""
    if plan.family is not None:
        return torch.cat([plan.family.read(folder) for folder in folders])
    seed = seed_for(plan.settings.seed, "adapters")
    policies = [population.read_adapter(folder) for folder in folders]
    return torch.stack([population.grown(policy, seed + slot) for slot, policy in enumerate(policies)])


def _start_told(known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a front says of what its run began as; the folder, which lies on somebody's disk, is the run's to know."""
    began = (known or {}).get("start")
    if not isinstance(began, Mapping):
        return {}
    return {"start_from": {key: began[key] for key in ("kind", "digest") if key in began}}


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
    start: Callable[[np.ndarray], Sequence[Path]] | None = None,
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
        start: Says for preferences `[K, m]` which PEFT folder each policy begins as (of a family, the one that it was
            saved to); None: as the untrained model.

    Raises:
        ConfigError: A reward that is to be judged aside reads with the model that is trained.
        ObjectiveError: A reward function misbehaves.
        FrontFileError: The checkpoint is of another run, or the folder cannot be written.
    """
    objectives, base = plan.objectives, population.base
    settings = replace(plan.settings, learning_rate=_rate(plan, base, record))
    objectives.reset()  # an earlier fit is no cost of this one, and nothing to remember
    preferences = plan.preferences()
    local = None
    apart = _judged_apart(plan, base if backend is None or not backend.remote else None)
    if backend is None or not backend.remote:
        local, backend = Host(base, population), backend or Local()
        backend.open(lambda: local, len(settings.shards))
    else:
        backend.everywhere("move_in", population.lora, settings, population.notes)
        backend.take(objectives, apart)
    if record is None:
        # the record holds what is used, set or not; a run of one shard is told as before there were any
        (tokens, *_) = backend.everywhere("micro_batch_tokens", settings)
        used = asdict(replace(settings, micro_batch_tokens=tokens))
        if settings.overlap != "bounded":  # the others are one run
            del used["overlap"]
        # and a sampler that needs no correction as before there was any
        usual = {name: Settings.__dataclass_fields__[name].default for name in ("rollout_correction", "rollout_cap")}
        usual = {"shard_size": None, "max_age": None, **(usual if settings.engine is None else {})}
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

    if plan.family is not None:
        plan.family.setup(population, objectives.m, seed_for(settings.seed, "adapters"))
    # an adapter that does not fit is refused before anything is measured
    begun = None if start is None or checkpoint is not None else _begun(plan, population, start(preferences))
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
    backend.everywhere("begin", work)
    backend.populate()
    shards = Shards(backend, settings.shards, population, objectives, plan.family, settings.max_step_kl)
    plan.weighting.setup(settings.population, objectives.m)
    publisher = Publisher(
        None if folder is None else folder / "front",
        population,
        objectives,
        scale,
        config | _start_told(facts if record is None else record),
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
        apart=apart,
        measures_first=start is not None,
    )
    if checkpoint is not None:
        loop.load_state(checkpoint)
        journal.resume(int(checkpoint.record["events"]), step=loop.step)
        return loop
    if begun is not None:
        loop.begin_as(begun)
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
