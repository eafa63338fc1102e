"""First things first: the best on one objective, as far as the noise can tell, then on the next.

Members within one standard error of the difference from the best are alike on an objective, and the next one decides
among them. Without that tolerance the second objective would never have a say: no two measured means are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pareto_align.front.estimates import mean_residuals

__all__ = ["first_in_order", "tolerances"]

Floats = NDArray[np.float64]


def tolerances(stderr: Floats, samples: Floats | None = None) -> Floats:
    """Standard errors of the differences between members.

    Args:
        stderr: [n, m] standard errors of the members' means; NaN, not known, counts as 0.
        samples: [n, N, m] rewards on the same N prompts, so that what members share cancels; without them members are
            independent.

    Returns:
        [n, n, m].
    """
    if samples is None:
        squared = np.nan_to_num(stderr) ** 2
        return np.asarray(np.sqrt(squared[:, None] + squared[None]))
    n, prompts, m = samples.shape
    rows = np.nan_to_num(mean_residuals(samples.transpose(1, 0, 2).reshape(prompts, n * m))).reshape(prompts, n, m)
    return np.stack([np.sqrt(((rows - rows[:, [i]]) ** 2).sum(axis=0)) for i in range(n)])


def first_in_order(values: Floats, order: Sequence[int], tolerance: Floats) -> NDArray[np.intp]:
    """The member that is chosen, first objective first.

    Args:
        values: [..., n, m] means, maximised.
        order: Columns, the most important one first.
        tolerance: [n, n, m] differences that count as none; see `tolerances`. The last objective has none.

    Returns:
        [...] rows; of equal ones the first.
    """
    left = np.ones(values.shape[:-1], dtype=bool)
    for column in order[:-1]:
        here = np.where(left, values[..., column], -np.inf)
        best = here.argmax(axis=-1)
        top = np.take_along_axis(here, best[..., None], axis=-1)
        left &= top - here <= tolerance[best][..., column]
    return np.asarray(np.where(left, values[..., order[-1]], -np.inf).argmax(axis=-1))
