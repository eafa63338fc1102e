"""How much regret questions leave, of synthetic users."""

from __future__ import annotations

from typing import Any

import numpy as np

from pareto_align.testing.users import interviewed

SHOWN = (0, 2, 4, 6, 8, 12)
"""Questions."""
AGREED = (6, 12)
"""Questions that sessions are agreed to have: what is shown of up to six is of sessions of six."""
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
        found.append(measured(row, 2 if smoke else USERS))
        print(found[-1], flush=True)
    return found


def measured(row: dict[str, Any], users: int) -> dict[str, Any]:
    """One of `ROWS`, with what so many users lose."""
    regrets = np.array([
        np.concatenate([_session(row, user, agreed)[list(shown), 0] for agreed, shown in _shown()])
        for user in range(users)
    ])  # fmt: skip
    errors = regrets.std(0, ddof=1) / np.sqrt(len(regrets))
    return row | {"users": users, "regret": regrets.mean(0).round(4).tolist(), "stderr": errors.round(4).tolist()}


def _shown() -> list[tuple[int, list[int]]]:
    """What is shown of sessions that are agreed to have so many questions."""
    least = (-1, *AGREED)
    return [(most, [x for x in SHOWN if low < x <= most]) for low, most in zip(least, AGREED, strict=False)]


def _session(row: dict[str, Any], user: int, agreed: int) -> np.ndarray:
    return interviewed(
        row["kind"], row["m"], row["members"], user, questions=agreed, by=row["by"], slips=row["slips"],
        repeat=row["slips"] > 0, lapse=row["lapse"],
    )  # fmt: skip


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
