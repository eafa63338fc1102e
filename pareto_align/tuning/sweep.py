"""The sweep: trials over the tuning seeds, then the winner against the default on others."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.arguments import path_of
from pareto_align.data.rows import list_prompts
from pareto_align.errors import ConfigError, FrontFileError, TrainingError
from pareto_align.tuning.comparison import Comparison
from pareto_align.tuning.fits import Fitter, with_settings
from pareto_align.tuning.folder import SweepFolder
from pareto_align.tuning.result import TuningResult
from pareto_align.tuning.search import Search, make_search, resolve_engine
from pareto_align.tuning.space import DEFAULT_SPACE, Space
from pareto_align.tuning.trials import FAILED, FINISHED, PRUNED, RUNNING, Run, Trial, spent

if TYPE_CHECKING:
    from pareto_align.aligner import ParetoAligner

__all__ = ["tune"]

SWEEPS_FOLDER = "pareto_sweeps"


def tune(
    aligner: ParetoAligner,
    prompts: Any,
    *,
    space: Mapping[str, Mapping[str, Any]] | None = None,
    trials: int = 10,
    seeds: Sequence[int] = (10, 11, 12),
    confirm_seeds: Sequence[int] = (0, 1, 2),
    eval_prompts: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    prune: bool = True,
    search_seed: int = 0,
    progress: bool = True,
) -> TuningResult:
    """Tune an aligner's settings by the hypervolume of the fronts they lead to.

    Trial 0 has the aligner's own settings, the default. A trial is fitted once for each of `seeds`; its score is the
    mean hypervolume of the published fronts, as measured on the report split, in the frame of the first fit. The best
    trial is then compared with the default on `confirm_seeds`, pair by pair: on the seeds it was chosen by it looks
    better than it is. A trial that fails counts as failed and the sweep goes on.

    Called once more with the same arguments and `output_dir`, a sweep that was killed goes on where it was, and one
    that has ended is read. With more `trials` it goes on, too; where confirm seeds had been used, it then needs new
    ones.

    Temperature is part of what is tuned and of what is shipped: a trial trains and is measured at its own. Where you
    serve at a temperature of your own, set that in the aligner and leave it out of the space.

    Args:
        aligner: What is tuned. It is not changed, and its seed is not used.
        prompts: As `ParetoAligner.fit` takes them.
        space: By setting `{"low": ..., "high": ..., "log": ...}` or `{"choices": [...]}`; by default learning
            rate, KL price and temperature. `pareto_align.tuning.space.TUNABLE` has the settings that it may name.
        trials: How many, the default included.
        seeds: Seeds of every trial.
        confirm_seeds: Seeds of the comparison, none of them in `seeds`.
        eval_prompts: As `ParetoAligner.fit` takes them.
        output_dir: The sweep's folder; by default the aligner's, else a new one under `pareto_sweeps/`.
        engine: "optuna", "sobol" (random search over Sobol points), or "auto": Optuna where it is installed.
        prune: Whether Optuna may give up on a trial whose first fits are below the median.
        search_seed: Of the proposals.
        progress: Show a progress bar on a terminal, and elsewhere a line on stderr for each trial.

    Returns:
        The best settings, all trials, the comparison and the budget.

    Raises:
        ConfigError: An argument is wrong, or the folder holds a sweep with other arguments; before anything is trained.
        FrontFileError: The folder cannot be used.
        TrainingError: Every trial failed.
        ParetoAlignError: The first fit failed before training, so that no settings would help.

    References:
        Felten et al., "Hyperparameter Optimization for Multi-Objective Reinforcement Learning", arXiv 2310.16487: the
        score, three seeds, ten trials, other seeds for the comparison. There the search is a Bayesian sweep of
        Weights & Biases.
    """
    from filelock import FileLock, Timeout

    searched = Space.read(DEFAULT_SPACE if space is None else space, aligner.settings)
    if aligner.settings.learning_rate is None and any(d.name == "learning_rate" for d in searched.dimensions):
        aligner = with_settings(aligner, {"learning_rate": aligner.usual_rate()})  # a search needs a number
    _check(trials, seeds, confirm_seeds, prune, search_seed)
    resolved = resolve_engine(engine)
    prompts = list_prompts(prompts)
    eval_prompts = None if eval_prompts is None else list_prompts(eval_prompts, "eval_prompts")
    plan: dict[str, Any] = {
        "space": searched.to_dict(),
        "trials": trials,
        "seeds": list(seeds),
        "confirm_seeds": list(confirm_seeds),
        "engine": resolved,
        "prune": prune,
        "search_seed": search_seed,
        **_problem(aligner, prompts, eval_prompts),
    }
    folder = SweepFolder(_place(output_dir if output_dir is not None else aligner.output_dir))
    lock = FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FrontFileError(f"Another process is tuning in {folder.path}.") from None
    try:
        before = folder.read_plan()
        if before is not None:
            if engine == "auto":  # Optuna may have come since
                plan["engine"] = resolve_engine(str(before.get("engine")))
            _check_same(plan, before, folder)
        frame = {name: (ends[0], ends[1]) for name, ends in ((before or {}).get("frame") or {}).items()}
        folder.write_plan(plan | {"frame": frame})
        fitter = Fitter(aligner, prompts, eval_prompts, frame or None)
        search = make_search(plan["engine"], searched, search_seed)
        return Sweep(folder, plan, searched, fitter, search, progress).run()
    finally:
        lock.release()


class Sweep:
    """A sweep that is under way; what is on disk already is not done again.

    Args:
        folder: Where it is kept.
        plan: What `tune` was asked for.
        space: What is searched.
        fitter: Makes the fits.
        search: Proposes the settings.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self, folder: SweepFolder, plan: dict[str, Any], space: Space, fitter: Fitter, search: Search, progress: bool
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.space = space
        self.fitter = fitter
        self.search = search
        self.bar: Any = None
        self.lines = progress and sys.stderr is not None and not sys.stderr.isatty()
        if progress and sys.stderr is not None and not self.lines:
            from tqdm import tqdm

            total = plan["trials"] * len(plan["seeds"]) + 2 * len(plan["confirm_seeds"])
            self.bar = tqdm(total=total, desc="tuning", unit="fit", file=sys.stderr)

    def run(self) -> TuningResult:
        """All trials, then the comparison."""
        try:
            trials: list[Trial] = []
            for number in range(self.plan["trials"]):
                trials.append(self._trial(number, trials))
                self._show(trials)
            finished = [trial for trial in trials if trial.status == FINISHED]
            if not finished:
                raise TrainingError(f"All {len(trials)} trials failed. The first: {trials[0].reason}")
            best = max(finished, key=lambda trial: trial.score or 0.0)  # of equals the first
            confirmed: list[Run] = []
            comparison = None
            if best.number != 0:
                pair = self._confirmed(best), self._confirmed(trials[0])
                comparison = Comparison.of(*pair)
                confirmed = [*pair[0], *pair[1]]
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note(f"The sweep in {self.folder.path} goes on when it is started again with this output_dir.")
            raise
        finally:
            if self.bar is not None:
                self.bar.close()
        result = TuningResult(
            best=best,
            default=trials[0],
            trials=tuple(trials),
            comparison=comparison,
            space=self.plan["space"],
            seeds=tuple(self.plan["seeds"]),
            confirm_seeds=tuple(self.plan["confirm_seeds"]),
            engine=self.plan["engine"],
            frame=dict(self.fitter.frame or {}),
            at_end=tuple(self.space.at_end(best.settings)),
            cost=spent([run for trial in trials for run in trial.runs] + confirmed),
            folder=self.folder.path,
        )
        self.folder.write_result(result.to_dict())
        return result

    def _trial(self, number: int, before: Sequence[Trial]) -> Trial:
        """A trial from disk or from the search, carried to its end."""
        trial = self.folder.read_trial(number)
        if trial is None:
            default = self.space.of(self.fitter.aligner.settings)
            trial = Trial(number, self.search.propose(before) if number else default)
            self.folder.write_trial(trial)
        seeds = self.plan["seeds"]
        while trial.status == RUNNING:
            if len(trial.runs) < len(seeds):
                trial.runs.append(self._fit(trial, seeds[len(trial.runs)], confirm=False))
            run = trial.runs[-1]
            if run.hypervolume is None:
                trial.status, trial.reason = FAILED, f"seed {run.seed}: {run.error}"
            elif len(trial.runs) == len(seeds):
                trial.status = FINISHED
            elif self.plan["prune"] and number and self.search.hopeless(before, trial.means()):
                trial.status = PRUNED
                trial.reason = f"below the median of the trials before after {_count(len(trial.runs), 'fit')}"
            self.folder.write_trial(trial)
        return trial

    def _confirmed(self, trial: Trial) -> list[Run]:
        """Fits of a trial's settings on the confirm seeds."""
        runs = {run.seed: run for run in self.folder.read_confirmed(trial.number)}
        for seed in self.plan["confirm_seeds"]:
            if seed not in runs:
                runs[seed] = self._fit(trial, seed, confirm=True)
                self.folder.write_confirmed(trial.number, list(runs.values()))
        return [runs[seed] for seed in self.plan["confirm_seeds"]]

    def _fit(self, trial: Trial, seed: int, *, confirm: bool) -> Run:
        known = self.fitter.frame is not None
        run = self.fitter.fit(trial.settings, seed, self.folder.run_of(trial.number, seed, confirm=confirm))
        if not known:
            self.folder.write_plan(self.plan | {"frame": self.fitter.frame})
        if self.bar is not None:
            self.bar.update()
        return run

    def _show(self, trials: Sequence[Trial]) -> None:
        """What there is to see after a trial; fits that were not needed count as made."""
        scores = [trial.score for trial in trials if trial.status == FINISHED and trial.score is not None]
        best = f"{max(scores):.4f}" if scores else "-"
        if self.bar is not None:
            self.bar.n = len(trials) * len(self.plan["seeds"])
            self.bar.set_postfix(best=best)
        elif self.lines:
            told = f"pareto-align: trial {len(trials)} of {self.plan['trials']}: {trials[-1].status}, best score {best}"
            print(told, file=sys.stderr, flush=True)


def _check(trials: Any, seeds: Any, confirm_seeds: Any, prune: Any, search_seed: Any) -> None:
    if not _is_whole(trials) or trials < 2:
        raise ConfigError(
            f"`trials` must be a whole number of at least 2: the default and one other. Found {trials!r}."
        )
    for name, found in (("seeds", seeds), ("confirm_seeds", confirm_seeds)):
        plain = isinstance(found, Sequence) and not isinstance(found, str) and all(_is_whole(seed) for seed in found)
        if not plain or not found or len(set(found)) < len(found):
            raise ConfigError(f"`{name}` must be one or more different whole numbers. Found {found!r}.")
    if both := sorted(set(seeds) & set(confirm_seeds)):
        raise ConfigError(
            f"`seeds` and `confirm_seeds` must have none in common: what was chosen by a seed looks better on it than "
            f"it is. Found {', '.join(map(str, both))} in both."
        )
    if not isinstance(prune, bool):
        raise ConfigError(f"`prune` must be True or False. Found {prune!r}.")
    if not _is_whole(search_seed) or search_seed < 0:
        raise ConfigError(f"`search_seed` must be a whole number of at least 0. Found {search_seed!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _problem(aligner: ParetoAligner, prompts: Any, eval_prompts: Any) -> dict[str, Any]:
    """What must be the same for a sweep to go on, in JSON's own types."""
    from pareto_align.learning import make_learner
    from pareto_align.runs.folder import objective_records

    settings = asdict(aligner.settings)
    del settings["seed"]  # a sweep has its own
    return {
        "model": aligner.loading.model if isinstance(aligner.loading.model, str) else None,
        "objectives": objective_records(aligner.objectives),
        "weighting": aligner.weighting.name,
        "learner": make_learner(aligner.learner).name,
        "explorer": aligner.explorer.name,
        "settings": settings,
        "prompts": _digest([prompts, eval_prompts]),
    }


def _digest(prompts: Any) -> str | None:
    """SHA-256 of the prompts; None where JSON cannot hold them, so that they are not compared."""
    with suppress(TypeError, ValueError):
        return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()
    return None


def _check_same(plan: Mapping[str, Any], before: Mapping[str, Any], folder: SweepFolder) -> None:
    """Refuse to go on with a sweep that other arguments began, but for more trials and other confirm seeds."""
    keys = sorted((plan.keys() | before.keys()) - {"trials", "confirm_seeds", "frame"})
    if differing := [key for key in keys if plan.get(key) != before.get(key)]:
        told = "; ".join(f"{key} was {before.get(key)!r}, is {plan.get(key)!r}" for key in differing)
        raise ConfigError(f"{folder.path} holds a sweep that was begun with other arguments: {told}.")
    had = before.get("trials", 0)
    if plan["trials"] < had:
        raise ConfigError(
            f"{folder.path} holds a sweep of {had} trials, which can grow. Found trials={plan['trials']}."
        )
    seen = folder.confirmed_on() & set(plan["confirm_seeds"])
    if seen and (plan["trials"] > had or plan["confirm_seeds"] != before.get("confirm_seeds")):
        raise ConfigError(
            f"The sweep in {folder.path} has been looked at on the seeds {', '.join(map(str, sorted(seen)))}. To go on "
            "with more trials or other confirm_seeds, give confirm_seeds that are all new."
        )


def _place(output_dir: Any) -> Path:
    if output_dir is not None:
        return path_of(output_dir, "output_dir")
    root = Path(SWEEPS_FOLDER)
    return root / f"{1 + max((int(p.name) for p in root.glob('[0-9]*') if p.name.isdigit()), default=0):03d}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
