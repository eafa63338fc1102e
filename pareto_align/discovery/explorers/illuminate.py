"""A front that is also varied: the best policy in each cell of a grid over what its answers are like.

References:
    Mouret and Clune, "Illuminating search spaces by mapping elites", arXiv 1504.04909 (MAP-Elites).
    Vassiliades and Mouret, "Discovering the Elite Hypervolume by Leveraging Interspecies Correlation", arXiv 1804.03906
        (children on the line between two elites).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Within
from pareto_align.discovery.explorers.base import Exploration, Explorer, Mixture, register_explorer
from pareto_align.discovery.explorers.checks import require
from pareto_align.front import Entry
from pareto_align.front import preferences as simplex

__all__ = ["Illuminate"]


@register_explorer("illuminate")
class Illuminate(Explorer):
    """A grid that trains, and children of elites: MAP-Elites over audited objectives.

    What answers are like, their length, tone, variety, is said by objectives with `role="audit"` and bounds: the
    descriptors. Each is cut into `cells` equal parts, and of the policies that fall into a cell the one with the
    largest mean framed value is its elite. A child of elites i and j is

        theta_i + step xi (theta_j - theta_i) + sigma z,      xi normal, z a random step of the sum's own size

    made and measured without training. The archive stays the Pareto archive: what it gives up has no children any more,
    though its cell counts as filled. An adapter that was never trained has no size, so the slots train first.

    Args:
        descriptors: Audited objectives that span the grid; by default all that have bounds.
        cells: Parts of each descriptor.
        children: Children made and measured at a time.
        step: Deviation of the step along the line to another elite.
        sigma: Size of the random step, as a share of the adapter's.
        after: Share of the run before the first child.

    Raises:
        ConfigError: A setting is out of range.
    """

    needs_audits: ClassVar[bool] = True

    def __init__(
        self,
        *,
        descriptors: Sequence[str] | None = None,
        cells: Annotated[int, Within(least=2)] = 8,
        children: Count = 4,
        step: NotNegative = 0.2,
        sigma: NotNegative = 0.05,
        after: Share = 0.1,
    ) -> None:
        self.descriptors = None if descriptors is None else tuple(descriptors)
        self.cells, self.children = int(cells), int(children)
        self.step, self.sigma, self.after = float(step), float(sigma), float(after)

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population)
        return simplex.grid(len(names), population)

    def elites(self, state: Exploration, entries: Sequence[Entry]) -> dict[tuple[int, ...], Entry]:
        """By cell, the best of some entries."""
        columns = [i for i, name in enumerate(state.audits) if self.descriptors is None or name in self.descriptors]
        best: dict[tuple[int, ...], tuple[float, Entry]] = {}
        for entry, point in zip(entries, state.points(entries), strict=True):
            places = state.describe(entry.estimate)[columns]
            if not (len(places) and np.isfinite(places).all() and np.isfinite(point).all()):
                continue
            cell = tuple(np.clip((places * self.cells).astype(int), 0, self.cells - 1).tolist())
            if cell not in best or point.mean() > best[cell][0]:
                best[cell] = float(point.mean()), entry
        return {cell: entry for cell, (_, entry) in sorted(best.items())}

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        """See `Explorer.mixtures`."""
        elites = list(self.elites(state, state.alive()).items())
        if state.progress < self.after or not elites:
            return ()
        rng = np.random.default_rng(state.seed)
        made = []
        for _ in range(self.children):
            (cell, one), (_, other) = (elites[int(i)] for i in rng.integers(len(elites), size=2))
            xi, seed = float(self.step * rng.standard_normal()), int(rng.integers(2**31))
            parents, coefficients = ([one.id], [1.0]) if one is other else ([one.id, other.id], [1.0 - xi, xi])
            reason = f"A child of {one.id!r}, the best in cell {'/'.join(map(str, cell))}."
            made.append(Mixture(parents, coefficients, reason, None, self.sigma, seed))
        return made
