"""What is run: which method on which task; one run is a `Case`."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tasks import TASKS

SEEDS = (0, 1, 2, 3, 4)
RANK = 8

SETTING: dict[str, Any] = {
    "max_tokens": 40_000,
    "steps": 400,
    "prompts_per_step": 2,
    "group_size": 6,
    "learner": "grpo",
    "learning_rate": 2e-3,
    "kl_coef": 0.01,
    "eval_every": 25,
    "eval_prompts": 32,
}
"""The one setting of all runs. Five policies, eight for three objectives.

The tokens end a run, those of training and of measuring together.
"""

SMOKE = SETTING | {
    "max_tokens": 400,
    "steps": 2,
    "prompts_per_step": 1,
    "group_size": 2,
    "eval_every": 1,
    "eval_prompts": 4,
}

CENTRED = {"name": "gates", "features": "centred"}
CORNERS = {"name": "everywhere", "corners": 1.0}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GRID = {"family": "independent", "explorer": "grid"}
TOLD = {"weighting": "fixed", "rank": 24}
METHODS: dict[str, dict[str, Any]] = {
    "independent, linear": GRID | {"weighting": "fixed", "rank": 24},
    "centred, steady": {"family": CENTRED, "weighting": "steady-chebyshev", "explorer": CORNERS},
    "centred, linear": {"family": CENTRED, "weighting": "fixed"},
    "centred, linear, plain credit": {"family": CENTRED, "weighting": "fixed", "learner": "centred"},
    "independent, linear, rank 8": GRID | {"weighting": "fixed"},
    "blocks, linear": {"family": "blocks", "weighting": "fixed"},
    "independent, chebyshev": GRID | {"weighting": "chebyshev", "rank": 24},
    "centred, chebyshev": {"family": CENTRED, "weighting": "chebyshev", "explorer": CORNERS},
    "discover": {"weighting": "chebyshev", "explorer": "discover", "rank": 24},
    "soups": {"weighting": "fixed", "explorer": "soups", "rank": 24},
    "centred, steady, then alone": {
        "family": CENTRED,
        "weighting": "steady-chebyshev",
        "explorer": CORNERS,
        "alone": {"share": 1 / 3, **GRID},
    },
    "prompted, directions": {"family": "directions"} | TOLD,
    "prompted, weights": {"family": "weights"} | TOLD,
    "prompted, rewards": {"family": "rewards"} | TOLD,
    "prompted, directions, best of six": {"family": "directions", "learner": "best"} | TOLD,
}
METHODS |= {f"all linear: {name}": METHODS[name] | {"targets": LINEAR} for name in list(METHODS)[:2]}
METHODS["limited: centred, steady"] = METHODS["centred, steady"] | {"max_step_kl": 0.5}
METHODS["limited, a quarter: centred, steady"] = METHODS["centred, steady"] | {"max_step_kl": 0.25}
METHODS |= {
    name.replace("independent", "a run each"): METHODS[name] | {"each": True}
    for name in METHODS
    if name.startswith("independent, linear")
}
"""Family, weighting and explorer of each, and what differs from SETTING; the rank is RANK where no `rank` is said.

`targets`: which layers are adapted, where that is not as the task says. `limited`: a step that moves a policy by more
than half a nat, or a quarter, a completion is made shorter.
`alone`: for the last `share` of the tokens policies of their own go on from the family's adapters, with these parts.
`each`: every preference of the grid has a run of its own and each run all the tokens; their members are taken together.
"""

FIRST = ("independent, linear", "centred, steady")
REAL = ("tone", "answers", "sums", "three", "within")
TRADED = (*REAL, "adding")
PLAN: tuple[tuple[Sequence[str], Sequence[str], Sequence[int]], ...] = (
    (FIRST, TRADED, SEEDS),
    (FIRST, ("otherwise",), SEEDS[:3]),
    (FIRST, ("words",), SEEDS[:2]),
    (
        ("centred, linear", "blocks, linear", "independent, chebyshev", "centred, chebyshev", "discover", "soups"),
        TRADED,
        SEEDS[:3],
    ),
    (
        ("independent, linear, rank 8", "a run each, linear, rank 8", "a run each, linear"),
        ("adding", "tone"),
        SEEDS[:3],
    ),
    (("centred, steady, then alone", "centred, linear, plain credit"), ("adding", "tone"), SEEDS[:3]),
    ([f"all linear: {name}" for name in FIRST], REAL, (0,)),
    (("limited: centred, steady", "limited, a quarter: centred, steady"), TRADED, (0,)),
    (("limited: centred, steady",), ("answers",), (1,)),
    (("limited: centred, steady", "limited, a quarter: centred, steady"), ("adding",), SEEDS[1:]),
    (("independent, linear, rank 8",), ("adding",), SEEDS[3:]),
    ([name for name in METHODS if name.startswith("prompted")], ("tone",), (0,)),
)
"""Which methods are run on which tasks with which seeds, the most telling first. With three seeds Student's interval is
2.5 deviations to each side, with five 1.2, so the first two methods have five."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        task: Of TASKS.
        method: Of METHODS.
        seed: Of the run.
    """

    task: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.task}/{self.method}/{self.seed}"


def cases(
    seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> Iterator[Case]:
    """The runs of PLAN, or those of some methods, tasks and seeds."""
    for planned_methods, planned_tasks, planned_seeds in PLAN:
        for seed, task, method in itertools.product(planned_seeds, planned_tasks, planned_methods):
            asked = (methods is None or method in methods) and (tasks is None or task in tasks)
            if asked and seed in seeds:
                yield Case(task, method, seed)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run, see `fitted`."""
    return fitted(case.task, case.seed, setting | METHODS[case.method])


def fitted(task_name: str, seed: int, method: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what was published, as measured on prompts that nothing was trained or chosen on.

    Returns:
        `hypervolume` of the published members with its 95 % interval, and the untrained model's; `curve`, (training
        tokens, hypervolume on the select split) at every measurement; `linear` and `chebyshev`, mean worth of
        what users of that kind get (`worth`); `range`, the share of each axis between the members' ends; `values` and
        `stderr` [n, M]; `kl`, how far each policy is from the untrained model; the base's `dtype`; `tokens`,
        `rollouts`, `seconds`; and `samples`, the first answers of each member.
    """
    import torch
    from peft import LoraConfig

    from pareto_align import ParetoAligner
    from pareto_align.errors import ParetoAlignWarning
    from pareto_align.front.preferences import grid

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    method = dict(method)
    task = TASKS[task_name]()
    if task.weighting is not None:
        method["weighting"] = {"name": task.weighting, "objectives": method["weighting"]}
    rank, alone, each = method.pop("rank", RANK), dict(method.pop("alone", {})), method.pop("each", False)
    lora = task.lora | ({"target_modules": method.pop("targets")} if "targets" in method else {})
    objectives = task.objectives()
    traded = sum(objective.role == "optimize" for objective in objectives)
    population = 5 if traded == 2 else 8
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)

        def fit(name: str, **parts: Any) -> Any:
            aligner = ParetoAligner(
                task.model,
                objectives,
                tokenizer=task.tokenizer,
                seed=seed,
                output_dir=Path(folder) / name,
                progress=False,
                **({"population": population} | method | task.options | parts),
            )
            return aligner.fit(task.prompts())

        kept = round(method["max_tokens"] * alone.pop("share", 0))
        method["max_tokens"] -= kept
        lora_config = LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", **lora)
        if each:
            places = [{"name": "grid", "preferences": [place]} for place in grid(traded, population).tolist()]
            fronts = [fit(f"run {n}", lora=lora_config, population=1, explorer=place) for n, place in enumerate(places)]
            return together(fronts, [found(front, method) for front in fronts])
        front = fit("run", lora=lora_config)
        first = found(front, method)
        if not alone:
            return first
        second = found(fit("alone", **alone, start_from=front, max_tokens=kept), method)
        trained = front.record.cost["train_tokens"]
        curve = first["curve"] + [[trained + tokens, value] for tokens, value in second["curve"]]
        both = {name: first[name] + second[name] for name in ("tokens", "rollouts", "seconds")}
        return second | {"curve": curve} | both


def found(front: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a front; see `measure`."""
    report = next(event for event in reversed(front.history) if event["event"] == "report")
    cost = front.record.cost
    estimates = [member.estimate for member in front.record.members]
    axes = [i for i, objective in enumerate(front.record.objectives) if objective.role == "optimize"]
    values = np.array([estimate.mean for estimate in estimates]).reshape(len(estimates), len(front.names))
    return {
        "hypervolume": _rounded(report, "hypervolume"),
        "untrained": _rounded(report, "reference_hypervolume"),
        "curve": _curve(front.history, rollouts=settings["prompts_per_step"] * settings["group_size"]),
        **worth(estimates, axes),
        "range": _range(values[:, axes]),
        "preferences": [entry.preference for entry in front.record.members],
        "values": values.round(4).tolist(),
        "stderr": np.array([estimate.stderr for estimate in estimates]).round(4).tolist(),
        "kl": _distance(front.history),
        "dtype": str(front.record.base["dtype"]),
        "tokens": cost["train_tokens"] + cost["eval_tokens"],
        "rollouts": cost["rollouts"],
        "seconds": round(sum(event.get("seconds", 0.0) for event in front.history if event["event"] == "step"), 1),
        "samples": [[sample["completion"].strip() for sample in member.samples[:4]] for member in front],
    }


def together(fronts: Sequence[Any], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the members of several fronts are worth together, on the report prompts that all of them were measured on.

    What was spent is the sum of all; a curve they do not have.
    """
    from pareto_align.front.bootstrap import bootstrap_hypervolume

    record = fronts[0].record
    axes = [i for i, objective in enumerate(record.objectives) if objective.role == "optimize"]
    estimates = [member.estimate for front in fronts for member in front.record.members]
    values = np.array([estimate.mean for estimate in estimates]).reshape(len(estimates), len(record.objectives))
    zeros, ones = np.zeros(len(axes)), np.ones(len(axes))
    volume = bootstrap_hypervolume(
        estimates, axes, zeros, scale_lower=zeros, scale_upper=ones, bounds=[(0, 1)] * len(axes)
    )
    joined = {
        name: [one for run in runs for one in run[name]]
        for name in ("preferences", "values", "stderr", "samples", "kl")
    }
    return (
        runs[0]
        | joined
        | {name: round(sum(run[name] for run in runs), 1) for name in ("tokens", "rollouts", "seconds")}
        | worth(estimates, axes)
        | {
            "hypervolume": [round(value, 4) for value in volume],
            "curve": [],
            "range": _range(values[:, axes]),
        }
    )


def _range(values: np.ndarray) -> list[float]:
    """The share of each axis [m] between the ends of members' values [n, m]; all rewards lie in [0, 1]."""
    return np.ptp(values, axis=0).round(3).tolist() if len(values) else [0.0] * values.shape[1]


def _distance(history: Sequence[dict[str, Any]], steps: int = 5) -> list[float]:
    """Nats a completion between each policy and the untrained model, in the mean over the last steps."""
    last = [event["kl"] for event in history if event["event"] == "step" and event.get("kl")][-steps:]
    return np.mean(last, axis=0).round(2).tolist() if last else []


def _curve(history: Sequence[dict[str, Any]], rollouts: int) -> list[list[float]]:
    """(tokens sampled in training, hypervolume on the select split) at every measurement."""
    tokens, curve = 0.0, []
    for event in history:
        if event["event"] == "step":
            tokens += rollouts * float(np.sum(event["length"]))
        elif event["event"] in ("evaluation", "further"):
            curve.append([round(tokens), round(event["hypervolume"], 4)])
    return curve


def worth(estimates: Sequence[Any], axes: Sequence[int]) -> dict[str, float]:
    """What users get who choose among the members: mean over users of `linear` and of `chebyshev` worth.

    Rewards lie in [0, 1]. A linear user's worth is the mean weighted by his preference, a Chebyshev user's is
    1 - max over objectives of (weight times what lacks to 1). One half of the prompts chooses the member, the other
    says what it is worth, and the other way round: the best of many measurements is no measurement of the best.
    """
    from pareto_align.front.preferences import lattice

    if not estimates:  # where nothing keeps the constraint nobody gets anything
        return {"linear": 0.0, "chebyshev": 0.0}
    users = lattice(len(axes), 20 if len(axes) == 2 else 8)
    ids = sorted(set(estimates[0].prompt_ids))
    halves = []
    for half in (ids[::2], ids[1::2]):
        rows = [estimate.samples[np.isin(estimate.prompt_ids, half)][:, axes] for estimate in estimates]
        halves.append(np.stack([np.nanmean(row, axis=0) for row in rows]))
    kinds = {
        "linear": lambda v: users @ v.T,
        "chebyshev": lambda v: 1 - (users[:, None] * (1 - v[None])).max(-1),
    }
    found = {}
    for name, kind in kinds.items():
        chooses, judges = kind(halves[0]), kind(halves[1])
        rows = np.arange(len(users))
        found[name] = round(
            float((judges[rows, chooses.argmax(1)].mean() + chooses[rows, judges.argmax(1)].mean()) / 2), 4
        )
    return found


def _rounded(event: dict[str, Any], name: str) -> list[float]:
    return [round(float(event[key]), 4) for key in (name, f"{name}_low", f"{name}_high")]
