"""How long the steps of a population take on W workers, by discrete events. A model: its constants are assumptions.

A worker has a shard, or several, one after the other. Its step is to sample, to be judged and to train, each with a
log-normal jitter; some steps are slow, and workers fail. The driver is one process that takes a time for every message
and for every policy that the archive is offered. Workers have a core each, or share those there are: then all that work
are equally slower.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

__all__ = ["ASSUMED", "MODES", "Assumed", "efficiency", "seconds"]


@dataclass(frozen=True)
class Assumed:
    """Constants of the simulation, in seconds unless it says otherwise.

    Attributes:
        sample, judge, train: The parts of a shard's step.
        measure: Measuring a shard's policies, every `every` steps.
        jitter: Standard deviation of the logarithm of a part's time; twice that for judging.
        spread: The same of a worker's own speed.
        slow, slow_by: Share of steps that take so many times as long.
        hours: Between failures of a worker.
        restart: Until another one is there; half a step is lost as well, and what was done since the last measurement
            is gone through again.
        message: The driver's work for a step of a shard.
        offer: The driver's work for a policy that is measured.
        policies: Of a shard.
        every: Steps between measurements.
    """

    sample: float = 20.0
    judge: float = 2.0
    train: float = 8.0
    measure: float = 12.0
    jitter: float = 0.15
    spread: float = 0.03
    slow: float = 0.02
    slow_by: float = 3.0
    hours: float = 500.0
    restart: float = 90.0
    message: float = 0.005
    offer: float = 0.002
    policies: int = 4
    every: int = 10


ASSUMED = Assumed()
MODES: dict[str, tuple[int, float]] = {
    "exact": (0, 0.0),
    "exact, judging hidden": (0, 0.9),
    "one step behind": (1, 0.0),
    "four steps behind": (4, 0.0),
}
"""By name: how many steps a shard may be ahead of the slowest, and which share of judging is hidden behind others'
work. What is built is `exact`."""


def efficiency(workers: int, mode: str, assumed: Assumed = ASSUMED, *, steps: int = 60, seed: int = 0) -> float:
    """Seconds that the work takes on workers that never wait, one part after the other, over those it takes."""
    ahead, hidden = MODES[mode]
    ideal = (assumed.sample + assumed.judge + assumed.train) * steps + assumed.measure * (steps // assumed.every)
    assumed = replace(assumed, judge=assumed.judge * (1 - hidden))
    return ideal / _seconds(workers, ahead, assumed, steps, np.random.default_rng(seed))


def seconds(workers: int, assumed: Assumed, *, shards: int, cores: int, steps: int, seed: int = 0) -> float:
    """Of a step of `shards` shards in mode `exact`, on workers that have equally many and share the cores."""
    rng = np.random.default_rng(seed)
    return _seconds(workers, 0, assumed, steps, rng, shards=shards // workers, cores=cores) / steps


def _seconds(
    workers: int,
    ahead: int,
    assumed: Assumed,
    steps: int,
    rng: np.random.Generator,
    *,
    shards: int = 1,
    cores: float = math.inf,
) -> float:
    """Until all have made their steps. Nobody begins step s before everybody has ended step s - 1 - ahead."""
    speed = np.exp(rng.normal(0, assumed.spread, workers))
    ended = np.zeros(steps + 1, dtype=int)
    waiting: dict[int, list[int]] = {}
    begins: list[tuple[float, int, int, int, float]] = []  # when, order, worker, step, seconds on its own core
    ends: list[tuple[float, int, int, int]] = []  # what `had` is then, order, worker, step
    now = had = free = last = 0.0  # had: seconds of its own core that somebody has had who works all the time
    order = count()

    def begin(when: float, worker: int, step: int) -> None:
        work = sum(_step(step, speed[worker], assumed, rng) for _ in range(shards))
        heapq.heappush(begins, (when, next(order), worker, step, work))

    for worker in range(workers):
        begin(0.0, worker, 1)
    while begins or ends:
        share = min(1.0, cores / max(len(ends), 1))
        over = now + (ends[0][0] - had) / share if ends else math.inf
        if begins and begins[0][0] <= over:
            when, _, worker, step, work = heapq.heappop(begins)
            had, now = had + (when - now) * share, when
            heapq.heappush(ends, (had + work, next(order), worker, step))
            continue
        (had, _, worker, step), now = heapq.heappop(ends), over
        measured = step % assumed.every == 0
        free = max(free, now) + shards * (assumed.message + measured * assumed.offer * assumed.policies)
        last = max(last, free)
        ended[step] += 1
        if ended[step] == workers:
            for other in waiting.pop(step, []):
                begin(free, other, step + 1 + ahead)
        if step == steps:
            continue
        barrier = step - ahead
        if barrier > 0 and ended[barrier] < workers:
            waiting.setdefault(barrier, []).append(worker)
        else:
            begin(free, worker, step + 1)
    return last


def _step(step: int, speed: float, assumed: Assumed, rng: np.random.Generator) -> float:
    """Seconds of one step of a worker."""
    factor = np.exp(rng.normal(0, assumed.jitter)) * speed
    if rng.random() < assumed.slow:
        factor *= assumed.slow_by
    work = (assumed.sample + assumed.train) * factor + assumed.judge * np.exp(rng.normal(0, 2 * assumed.jitter))
    if step % assumed.every == 0:
        work += assumed.measure * factor
    if rng.random() < 1 - np.exp(-work / (3600 * assumed.hours)):
        again = (step - 1) % assumed.every * (assumed.sample + assumed.train)
        work += assumed.restart + 0.5 * work + again
    return float(work)
