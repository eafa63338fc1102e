"""What a front's measurements leave open, small enough to travel with the page, which draws from it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.front.estimates import mean_residuals
from pareto_align.report.request import evidence

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["noise_content"]

LARGEST = 32767
"""Of a signed number of 16 bits: a standard error is told to one part in 30,000."""


def noise_content(record: FrontRecord) -> dict[str, Any]:
    """How the errors of the members' means on the m optimised objectives are distributed, in maximised units.

    Returns:
        "kinds": [n][m] for each mean "normal", "alike" (all its measurements were equal, within bounds) or "unknown".
        "units": [n][m] independent units behind each. Where the members share their prompts "factor", the upper
        triangle, row by row, of [r, n * m] whose product with standard normal numbers [r] has the errors' covariance,
        as base64 of little-endian numbers of 16 bits, each column in its own unit of "scale", and "freedom", that of
        the Student's t that all errors share. Otherwise "stderr": [n][m], and the errors are independent.
    """
    seen = evidence(record, range(len(record.members)))
    bounded = np.array([ends is not None for ends in seen.known["bounds"]])
    kinds = np.where(np.isnan(seen.stderr), "unknown", np.where((seen.stderr == 0) & bounded, "alike", "normal"))
    told: dict[str, Any] = {"kinds": kinds.tolist(), "units": seen.known["n"].tolist()}
    if seen.samples is None:
        return {**told, "stderr": np.nan_to_num(seen.stderr).tolist()}
    n, prompts, m = seen.samples.shape
    residuals = mean_residuals(seen.samples.transpose(1, 0, 2).reshape(prompts, n * m))
    factor = np.linalg.qr(np.nan_to_num(residuals), mode="r")
    scale = np.abs(factor).max(axis=0) / LARGEST
    packed = np.divide(factor, scale, out=np.zeros_like(factor), where=scale > 0).round().astype("<i2")
    triangle = packed[np.triu_indices(len(packed), m=n * m)]
    return {
        **told,
        "freedom": max(int(np.isfinite(seen.samples).sum(axis=1).min()) - 1, 1),
        "rows": len(packed),
        "scale": [float(f"{unit:.6g}") for unit in scale],
        "factor": base64.b64encode(triangle.tobytes()).decode("ascii"),
    }
