"""Three features on problems whose truth is known: headroom, a family that is told the preference, elites in cells."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.normalizers import Replace

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.front.headroom import headroom
from pareto_align.policies.families import Prompted, register_family
from pareto_align.testing.exact import optimal_policy
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import KnownFrontProblem, get_problem

TRIALS = 200
PROMPTS = (8, 16, 32, 64, 128, 256)
NOISE = 0.3
"""Deviation of one answer's utility."""
TOLD_BETA = 0.02
CELLS = 8
LEAST_RUN = 0.25
"""`strings` has strings of four symbols: their longest run is a quarter of them at least."""


# ------------------------------------------------------------------------------------------------------- headroom


def worths(kind: str, prompts: int) -> np.ndarray:
    """True utilities `[n, N]` of the members' answers to each prompt."""
    if kind == "members that are alike":
        return np.full((8, prompts), 0.5)
    good = (np.arange(prompts) % 2 == 0) == np.array([True, False])[:, None]
    return np.where(good, 0.7, 0.3)


def headrooms(smoke: bool) -> dict[str, Any]:
    """What `front.headroom` says by the number of prompts, and what the mean of each prompt's best member would."""
    found: dict[str, Any] = {}
    trials = 3 if smoke else TRIALS
    for kind in ("members that are alike", "each good for half of the prompts"):
        rows = []
        for prompts in PROMPTS[: 2 if smoke else None]:
            truth = worths(kind, prompts)
            told = []
            for seed in range(trials):
                rng = np.random.default_rng([seed, prompts])
                told.append(headroom(*(truth + NOISE * rng.normal(size=(2, *truth.shape))), draws=400, seed=seed))
            row: dict[str, Any] = {"prompts": prompts, "truth": float(truth.max(0).mean() - truth.mean(1).max())}
            for name in ("value", "naive"):
                drawn = [getattr(one, name) for one in told]
                row[name] = np.quantile(drawn, [0.025, 0.5, 0.975]).round(4).tolist()
            row["worthwhile"] = sum(one.worthwhile for one in told)
            rows.append(row)
        found[kind] = {"trials": trials, "rows": rows}
        print(f"{kind}: worthwhile in {[row['worthwhile'] for row in rows]} of {trials}", flush=True)
    return found


# ----------------------------------------------------------------------------------------------------------- told


@register_family("spelled")
class Spelled(Prompted):
    """The preference before every prompt in six symbols, as many of each objective's as it has sixths of the weight."""

    def text(self, preference: np.ndarray) -> str:
        """See `Prompted.text`."""
        return "".join("abcdef"[i] * round(6 * weight) for i, weight in enumerate(preference))


class Passing(KnownFrontProblem):
    """A problem whose tokenizer passes over the end of the line behind what is told."""

    def tokenizer(self) -> Any:
        """See `KnownFrontProblem.tokenizer`."""
        found = super().tokenizer()
        found.backend_tokenizer.normalizer = Replace("\n", "")
        return found


def told(smoke: bool) -> dict[str, Any]:
    """`contexts`: each objective's real worth along the preferences, told in a text and held by a map."""
    known = get_problem("contexts")
    fields = ("name", "V", "T", "rewards", "reference", "names", "bounds")
    problem = Passing(**{name: getattr(known, name) for name in fields})
    asked = np.stack([np.linspace(0, 1, 7), np.linspace(1, 0, 7)], axis=1)
    found: dict[str, Any] = {"weights": asked[:, 0].round(4).tolist()}
    for name, family in (("told in the prompt", Spelled()), ("a map, `gates`", "gates")):
        curves = []
        for seed in range(1 if smoke else 3):
            with tempfile.TemporaryDirectory() as folder:
                fit = judged_fit(
                    problem, Path(folder) / "run", seed=seed, family=family, weighting="fixed", population=6,
                    steps=2 if smoke else 60, eval_every=60, group_size=16, learning_rate=5e-3, kl_coef=TOLD_BETA,
                    unseen=asked, explorer={"name": "everywhere", "dense": 0},
                )  # fmt: skip
            curves.append(values_of(fit.unseen_policies, problem).round(4).tolist())
            best = np.stack([optimal_policy(fit.reference, problem.rewards, row, TOLD_BETA) for row in asked])
        found[name] = curves
        print(f"{name}: {curves[0]}", flush=True)
    found["the best there is"] = [values_of(best, problem).round(4).tolist()]  # the seeds' models are nearly uniform
    return found


def values_of(policies: np.ndarray, problem: KnownFrontProblem) -> np.ndarray:
    """Expected rewards `[j, m]` of tables `[j, N, V**T]`."""
    return np.asarray(np.einsum("jps,psm->jm", policies, problem.rewards) / len(problem.rewards))


# ---------------------------------------------------------------------------------------------------------- cells


def cells(smoke: bool) -> dict[str, Any]:
    """`strings`, cells by the longest run: how many each measurement fills, and how good their elites are."""
    problem = get_problem("strings")
    share, distinct, longest = problem.objectives()
    objectives = [share, distinct, Objective("run", longest.reward, bounds=(LEAST_RUN, 1), role="audit")]
    found: dict[str, Any] = {}
    for name in ("grid", "illuminate"):
        found[name] = []
        for seed in range(1 if smoke else 3):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore", ParetoAlignWarning)
                ParetoAligner(
                    problem.model(seed), objectives, tokenizer=problem.tokenizer(), explorer=name, population=4,
                    steps=3 if smoke else 40, eval_every=1, group_size=16, prompts_per_step=2, learning_rate=1e-2,
                    max_new_tokens=problem.T, eval_prompts=2, eval_group_size=32, weighting="fixed", seed=seed,
                    family="independent", progress=False, output_dir=Path(folder) / "run", remeasure_rounds=0,
                ).fit(list(problem.prompts) * 2)  # fmt: skip
                lines = (Path(folder) / "run" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
            found[name].append(filled([json.loads(line) for line in lines]))
        print(f"{name}: {[len(run['elites']) for run in found[name]]} cells", flush=True)
    return found


def filled(events: list[dict[str, Any]]) -> dict[str, Any]:
    """By measurement how many cells hold a policy; and the `elites`, each cell's best mean of the two rewards.

    `quality` is the sum over the cells of their elites' values, with 0 for an empty one (the QD score).
    """
    elites: dict[int, float] = {}
    counts = []
    for event in events:
        if event["event"] not in ("evaluation", "mixtures"):
            continue
        for first, second, run in event["values"]:
            cell = int(min((run - LEAST_RUN) / (1 - LEAST_RUN), 0.999) * CELLS)
            elites[cell] = max(elites.get(cell, 0.0), (first + second) / 2)
        if event["event"] == "evaluation":
            counts.append(len(elites))
        else:
            counts[-1] = len(elites)
    listed = {str(cell): round(value, 4) for cell, value in sorted(elites.items())}
    return {"filled": counts, "elites": listed, "quality": round(sum(elites.values()), 4)}
