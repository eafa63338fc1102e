"""Two fronts in one frame: which attains more, and whether that is more than noise.

Both are measured by their own runs. What a prompt does to both cancels where both were measured on it, which the
prompts that run folders keep tell; rewards of the same name are taken to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.front.bootstrap import bootstrap_difference, bootstrap_hypervolume
from pareto_align.printable import one_line
from pareto_align.report import style
from pareto_align.report.attained import Hypervolume, attained_boundary
from pareto_align.report.units import Axis, axes_of, bounds_of, decimals, measured, number, optimized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.estimates import Estimate
    from pareto_align.front.storage import FrontRecord

__all__ = ["FrontComparison", "compare_fronts", "draw_comparison"]

NAME = 28
"""Characters of a front's name that a figure has room for."""


@dataclass(frozen=True, eq=False)
class FrontComparison:
    """What two fronts attain in one frame.

    Attributes:
        names: What the two are called.
        axes: The m objectives that both span.
        values: Of each front [n, m] means in the user's units.
        hypervolumes: Of each, in the frame that holds both, with its interval.
        difference: First less second.
        low: Lower end of its 95 % interval, NaN where it is not known.
        high: Upper end.
        paired: Prompts that both were measured on; 0 where nothing is known of them.
        prompts: Prompts behind the means of each.
        splits: "select" or "report", of each.
        beaten: Of each, how many members are dominated by one of the other, in the means.
    """

    names: tuple[str, str]
    axes: tuple[Axis, ...]
    values: tuple[np.ndarray, np.ndarray]
    hypervolumes: tuple[Hypervolume, Hypervolume]
    difference: float
    low: float
    high: float
    paired: int
    prompts: tuple[int, int]
    splits: tuple[str, str]
    beaten: tuple[int, int]

    @property
    def verdict(self) -> str:
        """Which attains more, as far as the prompts can tell."""
        if math.isnan(self.low):
            return "which attains more is not known: too little was measured"
        if self.low > 0 or self.high < 0:
            return f"{self.names[0] if self.low > 0 else self.names[1]} attains more"
        return "neither is shown to attain more"

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types."""
        rows = zip(self.names, self.values, self.hypervolumes, self.prompts, self.splits, self.beaten, strict=True)
        return {
            "fronts": [
                {
                    "name": name,
                    "members": len(values),
                    "hypervolume": {"value": volume.value, "low": volume.low, "high": volume.high},
                    "best": {axis.name: best for axis, best in zip(self.axes, self._best(values), strict=True)},
                    "prompts": prompts,
                    "split": split,
                    "dominated": beaten,
                }
                for name, values, volume, prompts, split, beaten in rows
            ],
            "difference": {"value": self.difference, "low": self.low, "high": self.high, "confidence": 0.95},
            "paired_prompts": self.paired,
            "verdict": self.verdict,
        }

    def _best(self, values: np.ndarray) -> list[float | None]:
        """[m] the best mean of each objective; None on an empty front."""
        if not len(values):
            return [None] * len(self.axes)
        signs = np.array([axis.sign for axis in self.axes])
        return [float(best) for best in np.nanmax(values * signs, axis=0) * signs]

    def __str__(self) -> str:
        width = max(map(len, self.names))
        lines = []
        everything = np.vstack([values for values in self.values if len(values)] or [np.zeros((1, len(self.axes)))])
        digits = [decimals([], everything[:, i]) for i in range(len(self.axes))]
        for name, values, volume, beaten in zip(
            self.names, self.values, self.hypervolumes, self.beaten, strict=True
        ):  # fmt: skip
            best = ", ".join(
                f"{axis.name} {number(value, d)}"
                for axis, value, d in zip(self.axes, self._best(values), digits, strict=True)
                if value is not None
            )
            members = f"{len(values)} member{'' if len(values) == 1 else 's'}, {beaten} dominated by the other front"
            lines.append(f"{name:<{width}}  hypervolume {volume}, {members}; best {best or 'none'}")
        ends = "" if math.isnan(self.low) else f" (95 % interval {self.low:+.3f} to {self.high:+.3f})"
        how = (
            f"paired on {self.paired} prompts"
            if self.paired
            else "not paired: the prompts are others, or were not kept with both"
        )
        lines.append(f"difference {self.difference:+.3f}{ends}, {how}: {self.verdict}")
        if self.splits[0] != self.splits[1]:
            lines.append(
                f"{self.names[0]} is measured on {self.splits[0]} prompts and {self.names[1]} on {self.splits[1]} "
                "ones; members chosen on the very prompts flatter."
            )
        return "\n".join(one_line(line) for line in lines)


def compare_fronts(
    first: FrontRecord,
    second: FrontRecord,
    names: tuple[str, str] = ("first", "second"),
    prompts: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> FrontComparison:
    """Compare two fronts over the same objectives.

    Args:
        first: One.
        second: The other; its objectives may stand in another order.
        names: What they are called.
        prompts: Of each the prompts it was measured on, in the order of their ids; None where they are not known.

    Raises:
        ConfigError: They optimise other objectives, or in other directions, or one has no members.
    """
    records, names = (first, second), (one_line(names[0]), one_line(names[1]))
    columns = [[record.objectives[i].name for i in optimized(record)] for record in records]
    if set(columns[0]) != set(columns[1]):
        raise ConfigError(
            f"{names[0]} is a front on {', '.join(columns[0])}, {names[1]} one on {', '.join(columns[1])}: only fronts "
            "on the same objectives have a frame in common."
        )
    places = [[next(i for i, o in enumerate(record.objectives) if o.name == name) for name in columns[0]]
              for record in records]  # fmt: skip
    axes, theirs = ([axes_of(record)[i] for i in at] for record, at in zip(records, places, strict=True))
    if turned := [a.name for a, b in zip(axes, theirs, strict=True) if a.maximize != b.maximize]:
        raise ConfigError(f"{turned[0]!r} is maximized in one front and minimized in the other.")
    for record, name in zip(records, names, strict=True):
        if not record.members:
            raise ConfigError(f"{name} has no members to compare.")
    framed = [[record.objectives[i] for i in at] for record, at in zip(records, places, strict=True)]
    lower = np.min([[o.lower for o in row] for row in framed], axis=0)
    upper = np.max([[o.upper for o in row] for row in framed], axis=0)
    # the worse of both reference points, in the frame that holds both
    worst = [
        np.array([o.lower + r * (o.upper - o.lower) for o, r in zip(row, _reference(record, row), strict=True)])
        for record, row in zip(records, framed, strict=True)
    ]
    ref = (np.min(worst, axis=0) - lower) / (upper - lower)
    estimates = [[m.estimate.take(at) for m in record.members] for record, at in zip(records, places, strict=True)]
    estimates, shared = _together(estimates, prompts)
    declared = [[bounds_of(record)[i] for i in at] for record, at in zip(records, places, strict=True)]
    bounds = [a if a == b else None for a, b in zip(*declared, strict=True)]
    at = range(len(axes))
    scale: dict[str, Any] = {"scale_lower": lower, "scale_upper": upper, "bounds": bounds}
    volumes = [Hypervolume(*bootstrap_hypervolume(rows, at, ref, **scale)) for rows in estimates]
    difference, low, high = bootstrap_difference(estimates[0], estimates[1], at, ref, **scale)
    means = [np.stack([e.mean for e in rows]) for rows in estimates]
    return FrontComparison(
        names=names,
        axes=tuple(axes),
        values=(measured(first).values[:, places[0]], measured(second).values[:, places[1]]),
        hypervolumes=(volumes[0], volumes[1]),
        difference=difference,
        low=low,
        high=high,
        paired=shared,
        prompts=(first.members[0].estimate.n, second.members[0].estimate.n),
        splits=(first.split, second.split),
        beaten=(_beaten(means[0], means[1]), _beaten(means[1], means[0])),
    )


def _reference(record: FrontRecord, row: Sequence[Any]) -> list[float]:
    """[m] the reference point in the order of `row`; 0 where the record has none."""
    own = dict(zip([record.objectives[i].name for i in optimized(record)], record.reference, strict=False))
    return [float(own.get(objective.name, 0.0)) for objective in row]


def _beaten(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many rows of ours [n, m] some row of theirs [k, m] dominates."""
    gaps = theirs[None] - ours[:, None]
    return int(np.any(np.all(gaps >= 0, axis=2) & np.any(gaps > 0, axis=2), axis=1).sum())


def _together(
    estimates: list[list[Estimate]], prompts: tuple[Sequence[str] | None, Sequence[str] | None]
) -> tuple[list[list[Estimate]], int]:
    """Both fronts' estimates with ids under which equal prompts, and no others, are the same; and how many are."""
    ids = [{i for e in rows for i in e.prompt_ids or ()} for rows in estimates]
    ours, theirs = (None if known is None else list(known) for known in prompts)
    if ours is not None and theirs is not None and ours == theirs:
        return estimates, len(ids[0] & ids[1])
    grouped = any(e.groups is not None for rows in estimates for e in rows)
    start = max(ids[0], default=-1) + 1
    shared = 0
    moved: dict[int, int] = {}
    if ours is not None and theirs is not None and not grouped and len(set(ours)) == len(ours):
        place = {text: i for i, text in enumerate(ours) if i in ids[0]}
        taken: set[int] = set()
        for i, text in enumerate(theirs):
            if text in place and i in ids[1] and place[text] not in taken:
                moved[i] = place[text]
                taken.add(place[text])
        shared = len(moved)
    # the others are prompts, and groups of them, of their own
    groups = max((g for e in estimates[0] for g in e.groups or ()), default=-1) + 1
    second = [
        replace(
            e,
            prompt_ids=None if e.prompt_ids is None else tuple(moved.get(i, start + i) for i in e.prompt_ids),
            groups=None if e.groups is None else tuple(groups + g for g in e.groups),
        )
        for e in estimates[1]
    ]
    return [estimates[0], second], shared


def draw_comparison(found: FrontComparison) -> Figure:
    """Draw what both attain, a panel for each pair of objectives, of up to three objectives.

    Raises:
        ConfigError: There is one objective, or there are more than three.
    """
    m = len(found.axes)
    if not 2 <= m <= 3:
        raise ConfigError(f"Fronts of two or three objectives can be drawn over each other. These have {m}.")
    pairs = [(0, 1)] if m == 2 else [(0, 1), (0, 2), (1, 2)]
    figure = style.new_figure(7.2 if m == 2 else 12.6, 5.2)
    panels = np.atleast_1d(figure.subplots(1, len(pairs)))
    told = f"hypervolume {found.hypervolumes[0].value:.3f} and {found.hypervolumes[1].value:.3f}"
    how = f"paired on {found.paired} prompts" if found.paired else "not paired"
    names = [style.short(name, NAME) for name in found.names]
    if names[0] == names[1] and found.names[0] != found.names[1]:  # runs of one series differ at their ends
        names = [name if len(name) <= NAME else f"…{name[1 - NAME :]}" for name in found.names]
    style.header(figure, f"{names[0]} and {names[1]}", (told, how, found.verdict))
    colors = style.distinct_colors(2)
    for ax, (i, j) in zip(panels, pairs, strict=True):
        style.plain_axes(ax)
        style.axis_labels(ax, found.axes[i], found.axes[j])
        pair = (found.axes[i], found.axes[j])
        for values, color, mark, name in zip(found.values, colors, "os", names, strict=True):
            points = values[:, [i, j]]
            boundary = attained_boundary(points, pair)
            ax.plot(*boundary.T, color=color, lw=1.3, alpha=0.8, zorder=2)
            ax.plot(*points.T, mark, ms=6.5, color=color, mec=style.FACE, mew=0.8, zorder=3, label=name)
        ax.margins(0.09)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=style.SMALL,
                  labelcolor=style.INK)  # fmt: skip
    return figure
