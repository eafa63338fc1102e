"""How long does an offer into a full archive take? `python studies/noise/archive_speed.py` writes archive_speed.json.

200 members for m objectives on a sphere, capacity 200, 64 prompts, default resolution; the times are those of 60
further offers of points as good as the members, so that nearly every one evicts somebody. CPU time, one thread.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import numpy as np

from pareto_align.front import Estimate, ParetoArchive

HERE = Path(__file__).parent


def offers(m: int, noise: float, *, full: int = 200, more: int = 60) -> dict[str, float]:
    """Milliseconds of an offer.

    Args:
        m: Number of objectives.
        noise: Standard deviation of a score. With little every pair is told apart by a glance; with much each needs a
            paired test.
        full: Capacity.
        more: Offers that are timed.
    """
    rng = np.random.default_rng(m)
    archive = ParetoArchive(
        range(m),
        reference=np.zeros(m),
        scale_lower=np.zeros(m),
        scale_upper=np.ones(m),
        capacity=full,
        resolution=2.0,
    )
    times, offered = [], 0
    while len(times) < more and offered < 5000:
        point = np.abs(rng.normal(size=m))
        samples = point / np.linalg.norm(point) + noise * rng.normal(size=(64, m))
        estimate = Estimate.from_samples(samples, range(64))
        was_full = len(archive) == full
        start = time.process_time()
        archive.offer(str(offered), estimate, {}, adapter=offered)
        if was_full:
            times.append(1000 * (time.process_time() - start))
        offered += 1
    return {
        "m": m,
        "noise": noise,
        "members": len(archive),
        "entries": len(archive.entries),
        "median ms": round(float(np.median(times)), 1),
        "95 % ms": round(float(np.percentile(times, 95)), 1),
    }


def main() -> None:
    """Time the offers."""
    rows = [offers(m, noise) for m, noise in ((3, 0.002), (5, 0.002), (5, 0.05))]
    result = {"machine": f"{platform.machine()}, python {platform.python_version()}, one thread", "offers": rows}
    (HERE / "archive_speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
