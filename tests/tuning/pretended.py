"""An aligner whose fits take no time: what a front is worth is a formula of the settings, and noise of the seed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pareto_align import Estimate, Objective, ParetoAligner, TrainingError
from pareto_align.front import FrontRecord
from pareto_align.front.records import MemberRecord, ObjectiveRecord
from pareto_align.runs.journal import Journal

BEST = {"learning_rate": 1e-3, "temperature": 0.9}
NOISE = 0.01


def quadratic(settings):
    """The largest value, 0.7, is at BEST."""
    decades = np.log10(settings.learning_rate / BEST["learning_rate"])
    return 0.7 - 0.25 * decades**2 - 0.5 * (settings.temperature - BEST["temperature"]) ** 2 - 2 * settings.kl_coef


class Pretended(ParetoAligner):
    """Fits by formula.

    Attributes:
        response: Settings to the true hypervolume.
        noise: Standard deviation of what a seed, and settings on it, add.
        fails: Settings to whether a fit fails, after it has measured the untrained model.
        stop: After so many fits the next one is interrupted.
        fitted: (settings, seed) of every fit that was begun, shared by all copies.
    """

    def __init__(self, response=quadratic, noise=NOISE, fails=lambda settings: False, stop=None, **settings):
        names = ("first", "second")
        objectives = [Objective(name, lambda completions, **_: [0.0] * len(completions)) for name in names]
        super().__init__("no/model", objectives, progress=False, **{"learning_rate": 2e-4, **settings})
        self.response, self.noise, self.fails, self.stop, self.fitted = response, noise, fails, stop, []
        self.frame = lambda seed: (0.0, 1.0)

    def fit(self, prompts, *, eval_prompts=None, output_dir=None):
        settings, folder = self.settings, Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        assert not (folder / "run.json").exists(), "this would be refused"
        (folder / "run.json").write_text("{}")
        return self._go(settings, folder)

    def resume(self, output_dir):
        return self._go(self.settings, Path(output_dir))

    def _go(self, settings, folder):
        if self.stop is not None and len(self.fitted) >= self.stop:
            raise KeyboardInterrupt
        self.fitted.append((settings, settings.seed))
        low, high = self.frame(settings.seed)
        Journal(folder / "journal.jsonl").write("start", scale={"lower": [low, low], "upper": [high, high]})
        if self.fails(settings):
            raise TrainingError("At step 3 no policy had a finite gradient. Lower the learning rate.")
        # what a seed does to all settings alike, which pairs take out, and what it does to these
        shared = np.random.default_rng(settings.seed).normal(0, 5 * self.noise)
        own = np.random.default_rng(
            [settings.seed, *json.dumps([settings.learning_rate, settings.temperature]).encode()]
        )
        value = self.response(settings) + shared + own.normal(0, self.noise)
        member = MemberRecord("m0000", Estimate(np.array([value, 1.0]), np.zeros((2, 2)), 1))
        objectives = [ObjectiveRecord(name, "optimize", True, low, high) for name in self.objectives.names]
        cost = {"train_tokens": 100, "eval_tokens": 10, "rollouts": 20, "reward_calls": 60}
        return SimpleNamespace(record=FrontRecord(objectives, [member], cost=cost))


def seeds_of(aligner):
    """Seeds of all fits that were begun, in order."""
    return [seed for _, seed in aligner.fitted]
