"""One fit of a sweep: an aligner with other settings, and the hypervolume of what it published in the sweep's frame."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import FrontFileError, ParetoAlignError
from pareto_align.front import hypervolume
from pareto_align.front.storage import read_front
from pareto_align.runs.journal import read_journal
from pareto_align.tuning.trials import COUNTED, Run

if TYPE_CHECKING:
    from pareto_align.aligner import ParetoAligner
    from pareto_align.front import FrontRecord

__all__ = ["Fitter", "Frame"]

Frame = dict[str, tuple[float, float]]
"""By optimized objective the maximized values that become 0, the reference point, and 1."""


class Fitter:
    """Fits an aligner again and again with other settings, and values every front in one frame.

    A run draws its front in the frame of its own untrained model: where an objective has no bounds, that depends on the
    seed and on the temperature. Here all fronts are valued in the frame of the first fit, that of the default settings.

    Args:
        aligner: What is fitted; it is not changed.
        prompts: As `ParetoAligner.fit` takes them.
        eval_prompts: As `ParetoAligner.fit` takes them.
        frame: Of a sweep that goes on; by default that of the first fit.
    """

    def __init__(self, aligner: ParetoAligner, prompts: Any, eval_prompts: Any, frame: Frame | None = None) -> None:
        self.aligner = aligner
        self.prompts = prompts
        self.eval_prompts = eval_prompts
        self.frame = frame

    def fit(self, settings: Mapping[str, Any], seed: int, folder: Path) -> Run:
        """Fit in a folder, or go on with the fit in it that was stopped.

        Returns:
            The fit; one that failed for its settings says why.

        Raises:
            ParetoAlignError: It failed before the first fit of the sweep had measured the untrained model: then it is
                not for the settings.
            FrontFileError: The folder cannot be read or written.
        """
        aligner = with_settings(self.aligner, {**settings, "seed": seed})
        try:
            if (folder / "run.json").exists():
                front = aligner.resume(folder)
            else:
                front = aligner.fit(self.prompts, eval_prompts=self.eval_prompts, output_dir=folder)
        except FrontFileError as error:
            error.add_note(f"Delete {folder} to have this fit made again.")
            raise
        except ParetoAlignError as error:
            self.frame = self.frame or self._frame_of_failed(folder)
            if self.frame is None:
                raise
            return Run(seed, None, 0, _cost_of_failed(folder), f"{type(error).__name__}: {error}")
        record = front.record
        self.frame = self.frame or _frame(record)
        cost = {name: int(record.cost.get(name, 0)) for name in COUNTED}
        return Run(seed, framed_hypervolume(record, self.frame), len(record.members), cost)

    def _frame_of_failed(self, folder: Path) -> Frame | None:
        """The frame that a fit took before it failed."""
        starts = [event for event in read_journal(folder / "journal.jsonl") if event["event"] == "start"]
        if not starts:
            return None
        objectives, scale = self.aligner.objectives, starts[0]["scale"]
        return {objectives.names[i]: (float(scale["lower"][i]), float(scale["upper"][i])) for i in objectives.axes}


def with_settings(aligner: ParetoAligner, settings: Mapping[str, Any]) -> ParetoAligner:
    """An aligner of its own with other settings; it shares the model and the reward functions."""
    clone = copy.copy(aligner)
    clone.settings = replace(aligner.settings, **settings)
    for name in ("weighting", "learner", "explorer"):
        setattr(clone, name, copy.deepcopy(getattr(aligner, name)))
    clone.callbacks = list(aligner.callbacks)
    clone.progress = False  # a sweep has its own
    if aligner.origin is not None and isinstance(config := aligner.origin.get("config"), Mapping):
        clone.origin = {**aligner.origin, "config": {**config, **settings}}
    return clone


def framed_hypervolume(record: FrontRecord, frame: Frame) -> float:
    """Hypervolume of a front's members in a frame; 0 without members."""
    if not record.members:
        return 0.0
    places = {objective.name: i for i, objective in enumerate(record.objectives)}
    axes = [places[name] for name in frame]
    lower, upper = np.array(list(frame.values())).T
    means = np.stack([member.estimate.mean[axes] for member in record.members])
    return float(hypervolume((means - lower) / (upper - lower), np.zeros(len(frame))))


def _frame(record: FrontRecord) -> Frame:
    return {o.name: (float(o.lower), float(o.upper)) for o in record.objectives if o.role == "optimize"}


def _cost_of_failed(folder: Path) -> dict[str, int]:
    """What a fit had spent when it last published; 0 where it never did."""
    try:
        cost = read_front(folder / "front")[0].cost
    except FrontFileError:
        cost = {}
    return {name: int(cost.get(name, 0)) for name in COUNTED}
