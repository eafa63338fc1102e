"""How much regret questions leave, of synthetic users."""

from __future__ import annotations

from typing import Any

import numpy as np

from pareto_align.testing.users import interviewed

SHOWN = (0, 2, 4, 6, 8, 12)
"""Questions."""
USERS = 300
ROWS = [
    {"m": m, "members": members, "kind": kind, "by": by, "slips": 0.0, "lapse": 0.1}
    for m, members in ((3, 16), (5, 24))
    for kind in ("linear", "chebyshev")
    for by in ("chance", "worth")
] + [
    {"m": m, "members": members, "kind": kind, "by": "worth", "slips": 0.2, "lapse": lapse}
    for m, members in ((3, 16), (5, 24))
    for kind in ("linear", "chebyshev")
    for lapse in (0.1, 0.2)
]


def questions(smoke: bool) -> list[dict[str, Any]]:
    """Mean regret after some questions, row by row, with its standard error after the last."""
    found = []
    for row in ROWS:
        regrets = np.array([
            interviewed(
                row["kind"], row["m"], row["members"], user, questions=max(SHOWN), by=row["by"], slips=row["slips"],
                repeat=row["slips"] > 0, lapse=row["lapse"],
            )[list(SHOWN), 0]
            for user in range(2 if smoke else USERS)
        ])  # fmt: skip
        errors = regrets.std(0, ddof=1) / np.sqrt(len(regrets))
        told = {"users": len(regrets), "regret": regrets.mean(0).round(4).tolist(), "stderr": errors.round(4).tolist()}
        found.append(row | told)
        print(found[-1], flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/eliciting.md."""
    lines = [
        "| objectives, members | user | replies turned round, `lapse` | asked by | "
        + " | ".join(map(str, SHOWN)) + " questions |",
        "|" + "---|" * (4 + len(SHOWN)),
    ]  # fmt: skip
    for row in rows:
        turned = f"{row['slips']:.0%}, {row['lapse']:g}"
        cells = (f"{row['m']}, {row['members']}", row["kind"], turned, row["by"], *_short(row["regret"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(values: list[float]) -> list[str]:
    return [f"{value:.3f}".lstrip("0") for value in values]
