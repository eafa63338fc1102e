"""The package against itself: a family's step, bilevel weights, gradients of every objective, activated adapters,
memory."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from subject import (
    ALPHA,
    LEARNING_RATE,
    RANK,
    PopulationTrainer,
    Subject,
    learner_for,
    length_reward,
    made_up_rollouts,
)
from timing import Reading, alternate, compare

from pareto_align import Objective, ParetoAligner
from pareto_align.demo import SETTINGS, demo_objectives, demo_prompts
from pareto_align.learning import Learner
from pareto_align.policies import PolicyPopulation
from pareto_align.policies.families import make_family
from pareto_align.policies.optimizer import FamilyOptimizer
from pareto_align.testing.judging import symbol_lora
from pareto_align.testing.problems import get_problem

if TYPE_CHECKING:
    from pareto_align.discovery.loop import FrontDiscovery


def objective_gradients(subject: Subject) -> dict[str, Any]:
    """A step with the gradients of all objectives and their Gramians, against plain steps, dense and packed."""
    policies, rows = subject.pick(4, 2), subject.pick(8, 3)
    prompt_length, length = subject.pick(40, 6), subject.pick(32, 4)
    counts = (2, 5)
    population = subject.population(subject.base("bfloat16", endless=True), policies)
    prompts = subject.prompts(population.base, prompt_length, 1)
    rollouts = {m: made_up_rollouts(subject, population, prompts, rows, length, m) for m in counts}
    weights = {m: np.full((policies, m), 1 / m) for m in counts}
    plain = {layout: learner_for(population, counts[0], layout=layout) for layout in ("dense", "packed")}
    vector = {m: learner_for(population, m) for m in counts}
    restart = population.parameters.clone()

    def plain_step(layout: str) -> None:
        plain[layout].step(rollouts[counts[0]], weights[counts[0]], LEARNING_RATE)

    def all_objectives(m: int) -> None:
        learner: Learner = vector[m]
        found = learner.gradients(rollouts[m])  # type: ignore[attr-defined]
        if found.gramians.shape != (policies, m, m):
            raise RuntimeError(f"Gramians of shape {[policies, m, m]} were wanted. Found {list(found.gramians.shape)}.")
        learner.step(rollouts[m], weights[m], LEARNING_RATE, gradients=found)  # type: ignore[call-arg]

    names = {
        "dense": "plain step, dense rows", "packed": "plain step, packed rows",
        2: "all gradients, m = 2", 5: "all gradients, m = 5",
    }  # fmt: skip
    readings = alternate(
        {
            names["dense"]: lambda: plain_step("dense"), names[2]: lambda: all_objectives(2),
            names["packed"]: lambda: plain_step("packed"), names[5]: lambda: all_objectives(5),
        },
        max(subject.rounds, subject.pick(5, 1)),
    )  # fmt: skip
    population.parameters.copy_(restart)
    population.close()
    figures = {
        f"{layout}_{m}": compare((names[m], readings[names[m]]), (names[layout], readings[names[layout]]), "s")
        for layout in ("dense", "packed")
        for m in counts
    }
    return {
        "setting": {
            "dtype": "bfloat16", "K": policies, "rows_per_policy": rows, "prompt_tokens": prompt_length,
            "completion_tokens": length,
        },
        "figures": figures,
    }  # fmt: skip


def activated_adapters(subject: Subject) -> dict[str, Any]:
    """Adapters that act only from the assistant's turn on, against ordinary ones, with long prompts."""
    policies, prompts = subject.pick(8, 2), subject.pick(4, 2)
    group, length, prompt_length = subject.pick(4, 2), subject.pick(32, 4), subject.pick(1024, 12)
    base = subject.base("bfloat16", endless=True)
    ending = subject.pick("", "l")  # the tiny tokenizer has no chat template, its last symbol stands for the turn
    turn = base.tokenizer.encode(subject.pick("<|im_start|>assistant\n", ending), add_special_tokens=False)
    asked = subject.prompts(base, prompt_length, prompts, ending=ending)
    trainers = {
        "ordinary adapters": PopulationTrainer(subject.population(base, policies), group, length),
        "activated adapters": PopulationTrainer(
            subject.population(subject.base("bfloat16", endless=True), policies, alora_invocation_tokens=turn),
            group,
            length,
        ),
    }
    short = subject.prompts(base, subject.pick(64, 8), 1, ending=ending)

    def warm_up() -> None:  # a full step of the ordinary kind takes minutes
        for trainer in trainers.values():
            trainer.step(short)

    variants = {name: (lambda trainer=trainer: trainer.step(asked)) for name, trainer in trainers.items()}
    readings: dict[str, list[Reading]] = alternate(variants, subject.rounds, warm_up)  # type: ignore[arg-type]
    over, under = ((name, readings[name]) for name in trainers)
    share = (float(policies), float(policies))
    return {
        "setting": {
            "dtype": "bfloat16", "K": policies, "prompts": prompts, "samples": group, "prompt_tokens": prompt_length,
            "new_tokens": length,
        },
        "figures": {
            "step": compare(over, under, "s per policy-step", per=share),
            "sampling": compare(over, under, "s per policy-step", key="sampling", per=share),
            "training": compare(over, under, "s per policy-step", key="training", per=share),
        },
    }  # fmt: skip


def family_step(subject: Subject) -> dict[str, Any]:
    """A step of the default family, of two objectives, against one of policies of their own with as many ranks."""
    policies, prompts, group = subject.pick(8, 2), subject.pick(2, 1), subject.pick(6, 2)
    length, prompt_length = subject.pick(32, 4), subject.pick(72, 6)
    base = subject.base("bfloat16", endless=True)
    asked = subject.prompts(base, prompt_length, prompts)
    own = subject.population(base, policies, r=3 * RANK, lora_alpha=3 * ALPHA)
    family = make_family({"name": "gates", "features": "centred"})
    lora = family.lora(subject.lora(), ["first", "second"])
    shared = PolicyPopulation(subject.base("bfloat16", endless=True), policies, lora=lora)
    family.setup(shared, 2, 0)
    family.parameters.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    optimizer = FamilyOptimizer(family, shared)
    weights = np.linspace(0, 1, policies)
    optimizer.place(np.stack([weights, 1 - weights], 1))
    if own.parameter_count != shared.parameter_count:
        raise RuntimeError(f"Equal adapters were wanted. Found {own.parameter_count} and {shared.parameter_count}.")
    trainers = {
        "a family": PopulationTrainer(shared, group, length, optimizer),
        "independent policies": PopulationTrainer(own, group, length),
    }
    variants = {name: (lambda trainer=trainer: trainer.step(asked)) for name, trainer in trainers.items()}
    readings: dict[str, list[Reading]] = alternate(variants, max(subject.rounds, subject.pick(5, 1)))  # type: ignore[arg-type]
    over, under = ((name, readings[name]) for name in trainers)
    return {
        "setting": {
            "dtype": "bfloat16", "K": policies, "prompts": prompts, "samples": group, "prompt_tokens": prompt_length,
            "new_tokens": length, "r": 3 * RANK,
        },
        "figures": {
            "step": compare(over, under, "s"),
            "training": compare(over, under, "s", key="training"),
        },
    }  # fmt: skip


def bilevel_step(subject: Subject) -> dict[str, Any]:
    """A step of the whole loop whose weights an audited objective steers, against one with fixed weights.

    Both sides score the audits, and no completion of theirs ends early. The weights move at every step, which is the
    most that they can cost.
    """
    sides = {"bilevel weights": {"name": "bilevel", "after": 0.0, "period": 1}, "fixed weights": {"name": "fixed"}}
    turns = {
        "demo": (_tiny_problem if subject.smoke else _demo, max(subject.rounds, subject.pick(15, 1)), 1),
        "tiny": (_tiny_problem, max(subject.rounds, subject.pick(51, 1)), subject.pick(20, 2)),
    }
    figures = {}
    for figure, (fit, rounds, steps) in turns.items():
        with ExitStack() as stack:
            loops = {side: stack.enter_context(fit(subject, weighting)) for side, weighting in sides.items()}

            def many(loop: FrontDiscovery, steps: int = steps) -> None:
                for _ in range(steps):
                    loop.tell(loop.ask())

            readings = alternate({side: lambda loop=loop: many(loop) for side, loop in loops.items()}, rounds)  # type: ignore[misc]
        over, under = ((side, readings[side]) for side in sides)
        figures[figure] = compare(over, under, "s", per=(float(steps), float(steps)))
    return {"setting": {"dtype": "bfloat16", **WORKLOAD, "r": 3 * RANK}, "figures": figures}


WORKLOAD = {name: SETTINGS[name] for name in ("population", "prompts_per_step", "group_size", "max_new_tokens")}
"""Of a step of the demo."""
UNMEASURED: dict[str, Any] = {
    "family": "independent",
    "explorer": "grid",
    "learner": "centred",
    "kl_coef": 0.01,
    "steps": 10_000,
    "eval_every": 10_000,
    "eval_prompts": 32,
    "eval_group_size": 1,
    "device": "cpu",
    "progress": False,
}
"""Of a loop that is only timed: nothing is measured between two steps."""


def _demo(subject: Subject, weighting: dict[str, Any]) -> AbstractContextManager[FrontDiscovery]:
    """The demo's loop with policies of their own. No answer ends early, so another reward stands for its brevity."""
    base = subject.base("bfloat16", endless=True)
    lora = subject.lora(r=3 * RANK, lora_alpha=3 * ALPHA, layers_to_transform=list(range(15, 30)))
    settings = UNMEASURED | WORKLOAD | {"tokenizer": base.tokenizer, "lora": lora, "weighting": weighting}
    rest = [objective for objective in demo_objectives() if objective.name != "brevity"]
    return ParetoAligner(base.model, [*rest, Objective("length", length_reward)], **settings).by_hand(demo_prompts())


def _tiny_problem(subject: Subject, weighting: dict[str, Any]) -> AbstractContextManager[FrontDiscovery]:
    """The loop of studies/bilevel: one policy of a tiny model, 64 samples of one token."""
    problem = get_problem("misleading")
    settings = UNMEASURED | {"tokenizer": problem.tokenizer(), "lora": symbol_lora(), "weighting": weighting}
    settings |= {"population": 1, "prompts_per_step": 1, "group_size": 64, "max_new_tokens": 1}
    return ParetoAligner(problem.model(0), problem.objectives(), **settings).by_hand(problem.repeated_prompts(64))


def held_bytes() -> int:
    """Bytes of all tensors that live now, each storage once."""
    gc.collect()
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):  # a gradient nobody asked for has no object
                if tensor is not None and tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    with suppress(RuntimeError):  # a compiler's stand-ins have no numbers and take no memory
                        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _population_bytes(subject: Subject, policies: int, dtype: str) -> tuple[int, int]:
    """Bytes held by a base and a population that has taken a step and is ready for the next, and M."""
    population = subject.population(subject.base(dtype), policies)
    trainer = PopulationTrainer(population, 2, 2)
    trainer.step(subject.prompts(population.base, subject.pick(40, 6), 1))
    with population.serving(training=True):
        found = held_bytes()
    count = population.parameter_count
    population.close()
    return found, count


def memory(subject: Subject) -> dict[str, Any]:
    """What one more policy holds, from populations of 4 and of 8, and what a row's token costs in the cache."""
    few, many = 4, 8
    figures: dict[str, Any] = {}
    for dtype in ("bfloat16", "float32"):
        held = {}
        for policies in (few, many):
            held[policies], parameters = _population_bytes(subject, policies, dtype)
        figures[dtype] = {
            "value": (held[many] - held[few]) / (many - few) / parameters,
            "unit": "bytes per adapter parameter",
            "parameters": parameters,
            "mebibytes": (held[many] - held[few]) / (many - few) / 2**20,
        }
    base = subject.base("bfloat16")
    config = base.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return {
        "setting": {"K": f"{few} and {many}", "r": 8},
        "figures": figures,
        "cache_bytes_per_token": {"bfloat16": 2 * numbers, "float32": 4 * numbers},
    }
