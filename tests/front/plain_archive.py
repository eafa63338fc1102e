"""The archive's verdicts as they are defined: all entries judged anew after every offer, from themselves alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pareto_align.front.archive import _FINAL, ParetoArchive
from pareto_align.front.entries import Entry, Status, decide
from pareto_align.front.estimates import Estimate
from pareto_align.front.judging import ROUNDING, spent_on


class PlainArchive(ParetoArchive):
    """The reference for `ParetoArchive`: quadratic, and short enough to be read."""

    @property
    def comparisons(self) -> int:
        return max(1, sum(e.status is not Status.INVALID for e in self.entries.values()) - 1)

    def _judge(self, new: Entry | None = None) -> None:
        candidates = [e for e in self.entries.values() if not e.released and not self._unusable(e)]
        if candidates:
            self._judge_candidates(candidates)
        for entry in self.entries.values():
            if entry.status in _FINAL and entry.adapter is not None:
                self._release(entry)
        if self.spares is not None:
            spare = [e for e in self.entries.values() if e.adapter is not None and e.status is not Status.MEMBER]
            for entry in spare[: max(0, len(spare) - self.spares)]:
                self._release(entry)
                entry.reason += f" Given up: beside its members the archive keeps {self.spares} policies, the youngest."

    def _release(self, entry: Entry) -> None:
        entry.adapter, entry.released = None, True
        found = entry.estimate
        entry.estimate = Estimate(found.mean, found.covariance, found.n)

    def _judge_candidates(self, entries: list[Entry]) -> None:
        axes = list(self.axes)
        points = np.stack([e.estimate.mean[axes] for e in entries])
        spread = np.stack([e.estimate.stderr[axes] for e in entries])
        as_good = np.asarray((points[:, None] >= points[None]).all(axis=2), dtype=bool)
        better = as_good & ~as_good.T  # [i, j]: i dominates j in the mean
        fewest = max(2, min(int(e.estimate.counts[axes].min()) for e in entries))
        widest = self.threshold(fewest, looks=max(e.measured for e in entries))
        reach = widest * (spread[:, None] + spread[None]) + ROUNDING * np.abs(points).max(axis=0)
        close = ~np.asarray((np.abs(points[:, None] - points[None]) > reach).any(axis=2), dtype=bool)

        def same(a: Entry, b: Entry, members: int) -> bool:
            apart, n = self._distance(a, b)
            return apart <= self.threshold(n, looks=max(a.measured, b.measured), members=members)

        def twin_of(i: int, kept: Sequence[int], members: int) -> int | None:
            near = set(np.flatnonzero(close[i]).tolist())  # itself included
            return next((k for k in kept if k in near and same(entries[i], entries[k], members)), None)

        def beats(a: Entry, b: Entry) -> bool:
            error = (1 - self.confidence) / self.comparisons * spent_on(max(a.measured, b.measured))
            return 1 - self._dominates(a, b) <= error

        front = np.flatnonzero(~better.any(axis=0))
        noise = np.sqrt(np.nan_to_num(spread**2).mean(axis=0))
        unit = np.where(noise > 0, noise, self.scale_upper - self.scale_lower)
        ranked = [int(front[k]) for k in np.lexsort((front, -(points[front] / unit).sum(axis=1)))]
        twins: dict[int, int] = {}
        kept: list[int] = []
        size = allowed = 0
        while size > allowed or not allowed:
            allowed, kept, twins = max(size, 1), [], {}
            for i in ranked:
                twin = twin_of(i, kept, allowed)
                if twin is None:
                    kept.append(i)
                else:
                    twins[i] = twin
            size = len(kept)
        for i in kept:
            decide(entries[i], Status.MEMBER, "No entry is better on every axis.")
        for i, twin in twins.items():
            self._same_as(entries[i], entries[twin])
        kept = self._evict(entries, sorted(kept))
        for j in np.flatnonzero(better.any(axis=0)):
            entry, above = entries[j], np.flatnonzero(better[:, j])
            twin = twin_of(int(j), kept, allowed)
            if twin is not None:
                self._same_as(entry, entries[twin])
                continue
            margin = ((points[above] - points[j]) / np.maximum(spread[above] + spread[j], 1e-300)).min(axis=1)
            above = above[np.argsort(-margin, kind="stable")]
            beaten = next((i for i in above if beats(entries[i], entry)), None)
            rival = entries[above[0] if beaten is None else beaten].id
            sure = f"{self.confidence:.0%} confidence."
            if beaten is None:
                said = f"{rival!r} is better in the mean, but with less than {sure}"
                decide(entry, Status.CONTESTED, said, rival=rival)
            else:
                decide(entry, Status.DOMINATED, f"{rival!r} is better on every axis with {sure}", rival=rival)

    def _same_as(self, entry: Entry, twin: Entry) -> None:
        equal = (entry.estimate.mean == twin.estimate.mean)[list(self.axes)].all()
        within = f"({self.resolution:g} standard errors, corrected for {self.comparisons} comparisons)."
        said = (
            f"Equal to {twin.id!r} on every axis."
            if equal
            else f"Within the noise of {twin.id!r} on every axis {within}"
        )
        decide(entry, Status.DUPLICATE, said, rival=twin.id)
