"""What lies between adapters: how fast three answer together, how good that is, and how many questions find one.

python studies/between/run.py speed      # SmolLM2-135M-Instruct; adds to results.json
python studies/between/run.py quality    # known fronts, trained here; adds to results.json
python studies/between/run.py alarm      # known fronts, trained here; adds to results.json
python studies/between/run.py questions  # synthetic users, a few minutes; adds to results.json
python studies/between/run.py bounds     # known fronts, trained here; adds to results.json
python studies/between/run.py pairwise   # the same users, asked by a Gaussian process; adds to results.json
python studies/between/run.py headroom   # simulated answers; adds to results.json
python studies/between/run.py told       # a known front, trained here; adds to results.json
python studies/between/run.py cells      # a known front, trained here; adds to results.json
python studies/between/run.py figures    # measure nothing, draw the figures from the results
python studies/between/run.py speed --smoke   # a tiny random model: whether it runs, in seconds; writes nothing
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "speed"))  # the model, and taking turns at the clock

import features  # noqa: E402
import figures  # noqa: E402
from pairwise import pairwise  # noqa: E402
from questions import questions  # noqa: E402
from subject import Subject  # noqa: E402
from timing import alternate, compare, environment, spread  # noqa: E402

from pareto_align import ParetoAligner, ParetoAlignWarning  # noqa: E402
from pareto_align.front.blending import coefficients_for  # noqa: E402
from pareto_align.policies import PolicyPopulation, SamplingParams, load_base, sample  # noqa: E402
from pareto_align.policies.blending import sample_blend  # noqa: E402
from pareto_align.policies.mixing import mix  # noqa: E402
from pareto_align.result import ParetoFront  # noqa: E402
from pareto_align.testing.exact import best_value, missed_share, policy_table  # noqa: E402
from pareto_align.testing.judging import judged_fit  # noqa: E402
from pareto_align.testing.problems import KnownFrontProblem, get_problem  # noqa: E402

EXPERTS = 3
FRONTS = (("contexts", 2), ("contexts", 3), ("strings", 3))
UNSEEN = 20
EQUAL = 1e-6
"""Missed shares that differ by no more are the same: rounding."""
BETA = 0.05
ARC_BETA = 0.1
STEPS = 300
MEASURED = 512
"""Held-out rows of the select split, and as many of the report split."""


# ---------------------------------------------------------------------------------------------------------- speed


def speed(smoke: bool) -> dict[str, Any]:
    """Three mixed adapters against one of them, and against a loop over three PEFT models with a cache each."""
    subject = Subject(smoke=smoke, rounds=1 if smoke else 5)
    rows, length, prompt_length = 8, subject.pick(64, 4), subject.pick(64, 6)
    found: dict[str, Any] = {}
    for dtype in subject.pick(("float32", "bfloat16"), ("float32",)):
        base = subject.base(dtype, endless=True)
        population = subject.population(base, EXPERTS)
        adapters = population.parameters.clone()
        prompt = base.encode(subject.prompts(base, prompt_length, 1)[0])
        params = SamplingParams(length)
        weights = [1 / EXPERTS] * EXPERTS
        models = [subject.peft(subject.base(dtype, endless=True), 1, cast=False).eval() for _ in range(EXPERTS)]
        names = ("three adapters, mixed in one batch", "one adapter", "three PEFT models in a loop")

        def together(population=population, adapters=adapters, prompt=prompt, params=params, weights=weights) -> None:
            sample_blend(population, adapters, weights, [prompt], rows, params, 0)

        def alone(population=population, adapters=adapters, prompt=prompt, params=params) -> None:
            sample(population, [prompt], rows, params, [0], policies=adapters[:1])

        def loop(models=models, prompt=prompt) -> None:
            one_after_the_other(models, prompt, rows, length)

        readings = alternate(dict(zip(names, (together, alone, loop), strict=True)), subject.rounds)
        population.close()
        mixed, one, others = ((name, readings[name]) for name in names)
        found[dtype] = {
            "against_one": compare(mixed, one, "s"), "against_loop": compare(others, mixed, "s"),
            "rows": rows, "prompt_tokens": prompt_length, "new_tokens": length,
        }  # fmt: skip
        print(
            f"{dtype}: {found[dtype]['against_one']['ratio']['median']:.2f} times one adapter, "
            f"{found[dtype]['against_loop']['ratio']['median']:.2f} times as fast as the loop"
        )
    return {"model": subject.name, "environment": environment(), **found}


@torch.no_grad()
def one_after_the_other(models: list[Any], prompt: list[int], rows: int, length: int) -> torch.Tensor:
    """Mixed decoding as it is published: each model reads each token, with a cache of its own."""
    ids = torch.tensor([prompt]).repeat(rows, 1)
    caches: list[Any] = [None] * len(models)
    said = []
    generator = torch.Generator().manual_seed(0)
    token = ids
    for _ in range(length):
        mixed = torch.zeros(())
        for k, model in enumerate(models):
            out = model(input_ids=token, past_key_values=caches[k], use_cache=True, logits_to_keep=1)
            caches[k] = out.past_key_values
            mixed = mixed + out.logits[:, -1].float().log_softmax(-1) / len(models)
        token = torch.multinomial(mixed.softmax(-1), 1, generator=generator)
        said.append(token)
    return torch.cat(said, 1)


# -------------------------------------------------------------------------------------------------------- quality


def conditionals(table: np.ndarray, V: int, T: int) -> list[np.ndarray]:
    """Log-probabilities [V**t, V] of each next symbol, from those [V**T] of strings."""
    left, found = table.reshape((V,) * T), []
    for _ in range(T):
        shorter = np.logaddexp.reduce(left, axis=-1)
        found.append((left - shorter[..., None]).reshape(-1, V))
        left = shorter
    return found[::-1]


def token_wise(tables: np.ndarray, weights: np.ndarray, problem: KnownFrontProblem) -> np.ndarray:
    """Token-wise mixture [N, V**T] of policies given as log tables [k, N, V**T]."""
    found = []
    for x in range(tables.shape[1]):
        parts = [conditionals(table[x], problem.V, problem.T) for table in tables]
        logp = np.zeros(1)
        for t in range(problem.T):
            raw = sum(w * part[t] for w, part in zip(weights, parts, strict=True))
            logp = (logp[:, None] + raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)).ravel()
        found.append(np.exp(logp))
    return np.stack(found)


@dataclass(frozen=True, eq=False)
class Trained:
    """A front that was trained on a known problem, with what each of its n policies says, by enumeration.

    Attributes:
        front: As a user has it.
        reference: `[N, V**T]` of the untrained model.
        tables: `[n, N, V**T]` of the members.
        soup: The table of the sum of the members' updates, weighted by `[n]`.
    """

    front: ParetoFront
    reference: np.ndarray
    tables: np.ndarray
    soup: Callable[[np.ndarray], np.ndarray]

    @property
    def anchors(self) -> np.ndarray:
        """`[n, m]` preferences that the members were trained for."""
        return np.stack([member.preference for member in self.front])

    @property
    def logs(self) -> np.ndarray:
        """Log tables, as `token_wise` takes them."""
        return np.log(np.maximum(self.tables, 1e-300))


@contextmanager
def trained(problem: KnownFrontProblem, seed: int, smoke: bool) -> Iterator[Trained]:
    """One front, for as long as it is judged."""
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        front = ParetoAligner(
            problem.model(), problem.objectives(), tokenizer=problem.tokenizer(), weighting="fixed", explorer="grid",
            population=8, steps=4 if smoke else STEPS, group_size=32, prompts_per_step=len(problem.prompts),
            resolution=0, max_new_tokens=problem.T, kl_coef=BETA, learner="centred", learning_rate=2e-3, lora=lora,
            seed=seed, eval_every=4 if smoke else STEPS // 4,
            eval_group_size=1, progress=False, output_dir=Path(folder) / "run",
        ).fit(list(problem.prompts), eval_prompts=problem.repeated_prompts(2 * MEASURED))  # fmt: skip
        base = load_base(problem.model(), tokenizer=problem.tokenizer())
        population = PolicyPopulation(base, 1, lora=lora)
        rows = torch.stack([population.read_adapter(member.adapter_path) for member in front])

        def table(row: torch.Tensor) -> np.ndarray:
            with population.serving(row[None]):
                return policy_table(problem, base.model)

        with population.reference():
            reference = policy_table(problem, base.model)
        tables = np.stack([table(row) for row in rows])
        yield Trained(front, reference, tables, lambda weights: table(mix(population, rows, weights.tolist())[0]))
        population.close()


def one_front(problem: KnownFrontProblem, seed: int, smoke: bool) -> dict[str, list[float]]:
    """Missed shares of the possible gain at unseen preferences, of each way to serve them from one trained front."""
    shares: dict[str, list[float]] = {
        "nearest member": [],
        "soup": [],
        "logits, token by token": [],
        "logits, exact": [],
    }
    with trained(problem, seed, smoke) as found:
        anchors, logs = found.anchors, found.logs
        for asked in np.random.default_rng(seed).dirichlet(np.ones(problem.m), size=UNSEEN):
            weights = coefficients_for(anchors, asked).weights
            nearest = int(np.linalg.norm(anchors - asked, axis=1).argmin())
            exact = np.tensordot(weights, logs, 1)
            exact = np.exp(exact - np.logaddexp.reduce(exact, axis=1, keepdims=True))
            policies = {
                "nearest member": found.tables[nearest],
                "soup": found.soup(weights),
                "logits, token by token": token_wise(logs, weights, problem),
                "logits, exact": exact,
            }
            for name, policy in policies.items():
                shares[name].append(missed_share(policy, found.reference, problem.rewards, asked, BETA))
    return shares


def alarms(problem: KnownFrontProblem, seed: int, smoke: bool) -> dict[str, list[tuple[float, float, bool, bool]]]:
    """Mixtures of one front at unseen preferences, as `Blend.measure` judges them and as enumeration does.

    Returns:
        By way a row a preference: the share of the possible gain by which the mixture is worse than the nearest member,
        the better one where several were trained for that preference; the share that the mixture misses; whether the
        alarm was raised; whether the prediction was found to be off.
    """
    rows: dict[str, list[tuple[float, float, bool, bool]]] = {"logits": [], "soup": []}
    prompts = problem.repeated_prompts(8 if smoke else MEASURED)
    with trained(problem, seed, smoke) as found:
        names = [member.id for member in found.front]
        for asked in np.random.default_rng(seed).dirichlet(np.ones(problem.m), size=2 if smoke else UNSEEN):
            apart = np.linalg.norm(found.anchors - asked, axis=1)

            def missed(policy: np.ndarray, asked: np.ndarray = asked) -> float:
                return missed_share(policy, found.reference, problem.rewards, asked, BETA)

            nearest = min(missed(found.tables[i]) for i in np.flatnonzero(apart <= apart.min() + 1e-9))
            for by, told in rows.items():
                blend = found.front.mixture(asked.tolist(), by=by)
                weights = np.zeros(len(names))
                weights[[names.index(expert) for expert in blend.experts]] = blend.coefficients
                policy = token_wise(found.logs, weights, problem) if by == "logits" else found.soup(weights)
                measured = blend.measure(prompts, problem.objectives(), seed=seed, batch_size=MEASURED)
                told.append(
                    (missed(policy) - nearest, missed(policy), measured.alarm is not None, not measured.held.all())
                )
    return rows


def alarm(smoke: bool, seeds: int = 3) -> dict[str, Any]:
    """Known fronts: of mixtures that are worse than the nearest member, and of the others, how many raise the alarm."""
    found: dict[str, Any] = {}
    for name, m in FRONTS:
        problem = get_problem(name, m=m) if name == "contexts" else get_problem(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            each = [alarms(problem, seed, smoke) for seed in range(1 if smoke else seeds)]
        told = {by: counted([row for rows in each for row in rows[by]]) for by in each[0]}
        found[f"{name}, m = {problem.m}"] = {"seeds": len(each), "unseen": UNSEEN, "ways": told}
        print(f"{name}, m = {problem.m}: {told}", flush=True)
    return found


def counted(rows: list[tuple[float, float, bool, bool]]) -> dict[str, Any]:
    """How many mixtures are worse than the nearest member, how many are not, and of how many of each it was said."""
    groups = {
        "worse": [row for row in rows if row[0] > EQUAL],
        "others": [row for row in rows if row[0] <= EQUAL],
        "worse than the untrained model": [row for row in rows if row[1] > 1],
    }
    told: dict[str, Any] = {
        name: {
            "cases": len(group),
            "alarmed": sum(row[2] for row in group),
            "prediction off": sum(row[3] for row in group),
        }
        for name, group in groups.items()
    }
    told["unnoticed"] = sorted(round(row[0], 5) for row in groups["worse"] if not row[2])
    return told


def quality(smoke: bool, seeds: int = 3) -> dict[str, Any]:
    """Known fronts: what each way to serve an unseen preference misses of what training for it could gain."""
    found: dict[str, Any] = {}
    for name, m in FRONTS:
        problem = get_problem(name, m=m) if name == "contexts" else get_problem(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            each = [one_front(problem, seed, smoke) for seed in range(1 if smoke else seeds)]
        told = {way: spread([float(np.mean(shares[way])) for shares in each]) for way in each[0]}
        found[f"{name}, m = {problem.m}"] = {"seeds": len(each), "unseen": UNSEEN, "missed": told}
        listed = ", ".join(f"{way} {share['median']:.3f}" for way, share in told.items())
        print(f"{name}, m = {problem.m}: {listed}", flush=True)
    return found


def bounds(smoke: bool) -> dict[str, Any]:
    """`front.bounds` of a known front of two and of five policies, with what it is about, along the preferences."""
    problem = get_problem("arc", V=8)
    found: dict[str, Any] = {}
    for policies in (2, 5):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            fit = judged_fit(
                problem, Path(folder) / "run", weighting="fixed", population=policies, kl_coef=ARC_BETA,
                steps=4 if smoke else 120, eval_every=4 if smoke else 120, learning_rate=1e-2, eval_group_size=256,
            )  # fmt: skip
            weights = np.linspace(0, 1, 5 if smoke else 41)
            told = [fit.front.bounds([w, 1 - w]) for w in weights]
            truth = [best_value(fit.reference, problem.rewards, [w, 1 - w], ARC_BETA) for w in weights]
        row = {"weights": weights, "lower": [b.lower for b in told], "upper": [b.upper for b in told], "truth": truth}
        found[f"{policies} policies"] = {name: np.round(values, 5).tolist() for name, values in row.items()}
        print(f"{policies} policies: gain {max(b.gain for b in told):.3f} at most", flush=True)
    return found


PARTS: dict[str, Callable[..., Any]] = {
    "speed": speed,
    "quality": quality,
    "alarm": alarm,
    "questions": questions,
    "pairwise": pairwise,
    "bounds": bounds,
    "headroom": features.headrooms,
    "told": features.told,
    "cells": features.cells,
}


def main() -> None:
    """Run one part, and keep the others' results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "figures"))
    parser.add_argument("--smoke", action="store_true", help="small and short; writes nothing")
    parser.add_argument("--seeds", type=int, default=3, help="fronts a problem, for quality and alarm")
    arguments = parser.parse_args()
    several = {"seeds": arguments.seeds} if arguments.part in ("quality", "alarm") else {}
    found = PARTS[arguments.part](arguments.smoke, **several) if arguments.part in PARTS else None
    if arguments.smoke:
        return
    file = HERE / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if found is not None:
        results[arguments.part] = found
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    figures.write(results)


if __name__ == "__main__":
    main()
