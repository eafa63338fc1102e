"""What the page shows, as plain data: everything that Python knows better than a browser is said here."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import ParetoAlignError
from pareto_align.front.estimates import difference, student_quantile
from pareto_align.front.interpolation import left_out_error
from pareto_align.printable import one_line, printable
from pareto_align.report.attained import front_hypervolume
from pareto_align.report.card import conversation
from pareto_align.report.fallen import in_words
from pareto_align.report.journal import fronts_of, numbers_of
from pareto_align.report.page.noise import noise_content
from pareto_align.report.request import place_of, recorded_rule
from pareto_align.report.table import front_table
from pareto_align.report.units import (
    axes_of,
    bounds_of,
    decimals,
    fallen_of,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
    shown_record,
)
from pareto_align.runs.journal import as_json

if TYPE_CHECKING:
    from pathlib import Path

    from pareto_align.front.storage import FrontRecord, ObjectiveRecord
    from pareto_align.report.journal import Event
    from pareto_align.report.units import Measured

__all__ = ["page_content"]

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""What a model is called on the hub: a name, or an owner and a name."""
TEXT = 185_000
"""Characters of completions that a page holds; where there are more, each is cut to its share."""


def page_content(record: FrontRecord, history: Sequence[Event], folder: Path) -> dict[str, Any]:
    """The content of the page, as JSON's own types; see `document.page_html`."""
    shown = shown_record(record)
    axes, table, untrained = axes_of(shown), measured(shown), reference_measured(shown)
    digits = [decimals(table.halfwidth[:, i], table.values[:, i]) for i in range(len(axes))]
    bounds, spanning = bounds_of(record), list(optimized(record))
    run = folder.resolve()
    run_name = f"{run.parent.name}/front" if run.name == "front" else run.name
    front_name = run_name if (run / "front.json").is_file() else f"{run_name}/front"
    prompts, answers = _answers(record)
    fallen, reasons = fallen_of(shown)
    places = preferences_of(record)
    place = place_of(record, spanning) if record.members else {}
    told = [
        {
            "id": table.ids[k],
            **_numbers(table, k),
            "preference": None if np.isnan(places[k]).any() else _preference(places[k]),
            "against": _against(record, k),
            "adapter": ascii(f"{front_name}/{member.adapter}"),
            "answers": answers[k],
        }
        for k, member in enumerate(record.members)
    ]
    title = _title(shown)
    return as_json(
        {
            "title": title,
            "subtitle": _subtitle(shown, run_name),
            "run": _word(run_name),
            "rule": recorded_rule(record),
            "objectives": [
                {
                    "name": axis.name,
                    "word": _word(record.objectives[i].name),
                    "role": axis.role,
                    "maximize": axis.maximize,
                    "digits": digits[i],
                    "threshold": _threshold(record.objectives[i]),
                    "lower": record.objectives[i].lower,
                    "upper": record.objectives[i].upper,
                    "bounds": bounds[i],
                }
                for i, axis in enumerate(axes)
            ],
            "members": told,
            "untrained": None if untrained is None else {**_numbers(untrained, 0), "answers": answers[-1]},
            "fallen": [
                {
                    "id": fallen.ids[k],
                    "mean": [_rounded(v, d + 2) for v, d in zip(fallen.values[k], digits, strict=True)],
                    "reason": one_line(in_words(reasons[k], shown.objectives)),
                }
                for k in range(len(fallen.ids))
            ],
            "allowed": [
                {
                    "of": pair,
                    "curve": [[_rounded(v, digits[i] + 2) for v, i in zip(at, pair, strict=True)] for at in line],
                }
                for pair, line in zip(combinations(spanning, 2), record.ceilings, strict=False)
                if len(line)
            ],
            "prompts": prompts,
            "place": {name: values.tolist() for name, values in place.items()} or None,
            "noise": noise_content(record) if record.members else None,
            "mixture": _mixture(record),
            "table": _table(shown),
            "history": _history(history),
        }
    )


def _title(record: FrontRecord) -> str:
    names = " / ".join(o.name for o in record.objectives if o.role == "optimize")
    count, base = len(record.members), record.base.get("name")
    # where a model lay on the machine that trained is nobody's business
    named = _model_name(str(base)) if base else ""
    return f"{count} adapter{'' if count == 1 else 's'}{f' for {named}' if named else ''}: {names}"


def _model_name(base: str) -> str:
    """A hub's id as it is; of a folder or a file its own name alone."""
    return base if HUB_ID.fullmatch(base) else PureWindowsPath(base).name


def _subtitle(record: FrontRecord, run: str) -> str:
    prompts = "report prompts, read once" if record.split == "report" else "selection prompts: the run has not ended"
    parts = [f"run {printable(run)}", f"measured on {prompts}"]
    if record.members:
        with suppress(ParetoAlignError):
            parts.append(f"hypervolume {front_hypervolume(record)}")
    if weighting := record.config.get("weighting"):
        parts.append(f"weighting {one_line(str(weighting))}")
    return " · ".join(parts)


def _numbers(table: Measured, row: int) -> dict[str, Any]:
    """Means and intervals [M] in the user's units."""
    return {"mean": table.values[row], "low": table.low[row], "high": table.high[row]}


def _against(record: FrontRecord, row: int) -> list[int | None] | None:
    """[M] whether a member is better (1) or worse (-1) than the untrained model with 95 % confidence, prompt by prompt;
    0 where that cannot be told, None where the noise is not known."""
    reference = record.reference_policy
    if reference is None:
        return None
    estimate = record.members[row].estimate
    gain, covariance = difference(estimate, reference)
    reach = student_quantile(0.025, np.minimum(estimate.counts, reference.counts)) * np.sqrt(np.diag(covariance))
    # a few equal measurements have no variance, and say nothing of what was not among them
    bounds = bounds_of(record)
    reach = np.where(np.isnan(estimate.noise(bounds) + reference.noise(bounds)), np.nan, reach)
    return [
        None if math.isnan(g) or math.isnan(r) else int(np.sign(g)) if abs(g) > r else 0
        for g, r in zip(gain, reach, strict=True)
    ]


def _mixture(record: FrontRecord) -> dict[str, Any] | None:
    """What a preference between those that were trained for is read off: a family's own, else the members'.

    None where fewer than two were trained for, or one objective is optimized. "anchors" have the "member" there, or
    else a "preference" [m] and the "mean" [M] in the user's units, and the mean's "stderr" [M]; "error" [M] is what
    reading off misses, "reach" how many standard errors an interval has on either side.
    """
    family, table = record.family, measured(record)
    owners: list[int | None]
    if family is not None and family.preferences:
        places, means, noise = map(np.asarray, (family.preferences, family.values, family.stderr))
        owners, n = [None] * len(places), family.n
    else:
        all_places = preferences_of(record)
        rows = np.flatnonzero(np.isfinite(all_places).all(axis=1)).tolist()
        places, means = all_places[rows], table.values[rows]
        noise = np.array([record.members[row].estimate.stderr for row in rows])
        owners, n = [*rows], int(min((table.n[row] for row in rows), default=0))
    if len(places) < 2 or len(optimized(record)) < 2:
        return None
    return {
        "family": family is not None,
        "kl": bool(record.config.get("kl_coef")),
        "anchors": [
            {
                **({"mean": mean, "preference": _preference(place)} if member is None else {"member": member}),
                "stderr": [float(f"{v:.4g}") for v in error],
            }
            for place, mean, error, member in zip(places, means, noise, owners, strict=True)
        ],
        "error": left_out_error(places, means),
        "reach": student_quantile(0.025, n) if n > 1 else math.nan,
    }


def _preference(weights: np.ndarray) -> list[float]:
    return [round(float(w), 12) for w in weights]


def _threshold(objective: ObjectiveRecord) -> float | None:
    """The limit that the run held an objective to, in the user's units."""
    return objective.at_least if objective.maximize else objective.at_most


def _table(record: FrontRecord) -> dict[str, Any]:
    table = front_table(record)
    return {
        "header": [f"{name} {note}".strip() for name, note in zip(table.header, table.notes, strict=True)],
        "rows": table.rows,
        "remarks": table.remarks,
    }


def _answers(record: FrontRecord) -> tuple[list[dict[str, str]], list[dict[int, dict[str, Any]]]]:
    """The prompts that were answered, and for each member, and last for the untrained model, its answers by prompt."""
    samples = [*(member.sample for member in record.members), record.reference_sample]
    texts = [conversation(row.get("completion")) for rows in samples for row in rows]
    longest = _share([len(text) for text in texts], TEXT)
    numbers: dict[str, int] = {}
    prompts: list[dict[str, str]] = []
    found: list[dict[int, dict[str, Any]]] = []
    for rows in samples:
        found.append({})
        for row in rows:
            key = json.dumps(row.get("prompt"), sort_keys=True)
            if key not in numbers:
                numbers[key] = len(prompts)
                prompts.append(_asked(row.get("prompt")))
            text = printable(conversation(row.get("completion")))
            cut = text if len(text) <= longest else f"{text[:longest]}… (cut; the whole of it is in front.json)"
            found[-1].setdefault(numbers[key], {"text": cut, "rewards": row.get("rewards")})
    return prompts, found


def _asked(prompt: Any) -> dict[str, str]:
    """A prompt, and for a list of prompts its last turn: what many share, such as a system message, tells none."""
    last = prompt[-1] if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping) else None
    name = conversation(prompt) if last is None else conversation(last.get("content"))
    return {"name": one_line(name), "text": printable(conversation(prompt))}


def _share(lengths: Sequence[int], room: int) -> int:
    """The length to which texts are cut so that together they take no more than the room."""
    left = sorted(lengths)
    for at, length in enumerate(left):
        rest = len(left) - at
        if length * rest > room:
            return room // rest
        room -= length
    return left[-1] if left else 0


def _history(history: Sequence[Event]) -> dict[str, Any] | None:
    """Hypervolume [e] over the steps at which the front was measured, with what it says in a sentence."""
    events = fronts_of(history)
    if not history:
        return None
    if not events:
        return {"steps": [], "said": "The run has measured none of its policies yet."}
    value, low, high = (numbers_of(events, f"hypervolume{end}") for end in ("", "_low", "_high"))
    members = [event.get("members") for event in events]
    steps = [int(event["step"]) for event in events]
    trained = sum(event.get("event") == "evaluation" for event in events)  # what comes after took no training
    said = [_movement(value[:trained], low[:trained], high[:trained])]
    if trained and len(events) > trained:
        said.append(f"With the family's further preferences it came to {number(value[-1], 3)}.")
    if isinstance(left := events[-1].get("open_verdicts"), int) and left:
        said.append(f"{left} verdict{' was' if left == 1 else 's were'} left open: more prompts would settle them.")
    if any(event.get("event") == "settled" for event in history):
        said.append("The run ended because it stood still.")
    return {"steps": steps, "value": value, "low": low, "high": high, "members": members, "said": " ".join(said)}


def _movement(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """How long the hypervolume has not left the interval of its last move; see `runs.budget.PlateauMonitor`."""
    interval, still = (math.nan, math.nan), 0
    for v, a, b in zip(value, low, high, strict=True):
        interval, still = (interval, still + 1) if interval[0] <= v <= interval[1] else ((a, b), 0)
    last = "the only measurement" if len(value) == 1 else f"the last of {len(value)} measurements"
    now = f"Hypervolume {number(value[-1], 3)} on the selection prompts at {last}."
    if len(value) < 2:
        return f"{now} One measurement says nothing of convergence."
    if still == 0:
        return f"{now} The last measurement still moved it: longer training may find more."
    times = "the last measurement" if still == 1 else f"the last {still} measurements"
    return f"{now} It has stood within its 95 % interval for {times}."


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}f}")


def _word(text: str) -> str:
    """A word that a shell reads as this very text, and that shows what is in it."""
    if printable(text) == text and "\n" not in text and "\t" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if printable(c) == c and c not in "\n\t" else _escape(c) for c in escaped) + "'"


def _escape(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
