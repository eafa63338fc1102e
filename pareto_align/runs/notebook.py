"""A run in a notebook: one output that is updated in place, with the front as it stands. No widgets are needed."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pareto_align.runs.pace import Pace, hypervolume_text, members_text, sparkline

__all__ = ["Live", "NotebookView", "notebook_display"]

WIDTH, HEIGHT, MARGIN = 360, 240, 44


def notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` where a notebook shows what it is given; None in a terminal, IPython's or not."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    found: Callable[..., Any] = display
    return found


class Live:
    """Shows runs in a notebook while they go on: `ParetoAligner(..., callbacks=[Live()])`.

    Each run has one output, which is updated in place: what the run is doing, how long it will take, and with every
    measurement the front as a picture and a table. A run in a notebook shows this by itself; with the callback the code
    says so, it is shown with `progress=False` as well, and `display` may put it elsewhere. There is never more than one
    of both. Outside of a notebook it shows nothing, and the run its usual bar or lines.

    Args:
        display: Shows an object and returns a handle whose `update` shows another one in its place, as IPython's
            `display(object, display_id=True)` does. By default IPython's, where there is a notebook.

    Attributes:
        view: What shows the last run that began; None before one, and where nothing is shown.

    Example:
        ```python
        aligner = ParetoAligner(model, objectives, callbacks=[Live()])
        ```
    """

    def __init__(self, display: Callable[..., Any] | None = None) -> None:
        self.display = display
        self.view: NotebookView | None = None

    def begin(self, steps: int, names: Sequence[str], axes: Sequence[int]) -> bool:
        """Be ready for a run, which has an output of its own; the aligner calls this.

        Args:
            steps: Training steps of the run.
            names: Of the M objectives.
            axes: The m of them that are optimized.

        Returns:
            Whether the run will be shown.
        """
        display = self.display or notebook_display()
        self.view = None if display is None else NotebookView(steps, names, axes, display)
        return self.view is not None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event of the run."""
        if self.view is not None:
            self.view(event)


class NotebookView:
    """Shows stage, hypervolume and front, as a picture where there are two objectives and as a table, in one output.

    Args:
        steps: Training steps of the run.
        names: Of the M objectives.
        axes: The m of them that are optimized.
        display: IPython's `display`.
    """

    def __init__(self, steps: int, names: Sequence[str], axes: Sequence[int], display: Callable[..., Any]) -> None:
        self.pace = Pace(steps)
        self.stage = "beginning"
        self.names, self.axes = list(names), list(axes)
        self.untrained: list[float | None] = []
        self.evaluation: Mapping[str, Any] | None = None
        self.volumes: list[float] = []
        self._display = display
        self._handle: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        self.pace.note(event)
        kind = event["event"]
        if kind == "stage":
            self.stage = event["stage"]
        elif kind in ("start", "resumed"):
            self.stage = "fitting the front"
            if kind == "start":
                self.untrained = list(event["reference"])
        elif kind in ("evaluation", "further"):
            self.evaluation = event
            value = event["hypervolume"]
            self.volumes.append(math.nan if value is None else float(value))
        elif kind in ("end", "stopped"):
            self.stage = "done" if kind == "end" else "stopped"
        elif kind != "step":
            return
        self._show()

    def close(self) -> None:
        """Leave the output as it stands."""

    def _show(self) -> None:
        shown = _Html(self.page())
        if self._handle is None:
            self._handle = self._display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def page(self) -> str:
        """The output's HTML."""
        told = f"<b>{html.escape(self.stage)}</b>, step {self.pace.step} of {self.pace.steps}, {self.pace.told()}"
        found = self.evaluation
        if found is None:
            return f"<div>{told}</div>"
        line = f"{hypervolume_text(found)}, {members_text(found['members'])}, measured at step {found['step']}"
        front = [row for row in found.get("front") or [] if all(row[i] is not None for i in self.axes)]
        picture = ""
        if front:
            picture = (self._scatter(front) if len(self.axes) == 2 else "") + self._table(front)
        grown = f'<br/><span title="hypervolume at each measurement">{sparkline(self.volumes)}</span>'
        return f"<div>{told}<br/>{html.escape(line)}{grown if len(self.volumes) > 1 else ''}</div>{picture}"

    def _scatter(self, front: Sequence[Sequence[float]]) -> str:
        """Two objectives: the members as dots, the untrained model as a cross."""
        x, y = self.axes
        points: list[Any] = [(row[x], row[y]) for row in front]
        known = self.untrained and self.untrained[x] is not None and self.untrained[y] is not None
        base: list[Any] = [(self.untrained[x], self.untrained[y])] if known else []
        across, down = (_scale([p[i] for p in [*points, *base]]) for i in (0, 1))

        def place(point: Sequence[Any]) -> tuple[float, float]:
            return (
                round(MARGIN + across(point[0]) * (WIDTH - 2 * MARGIN), 1),
                round(HEIGHT - MARGIN - down(point[1]) * (HEIGHT - 2 * MARGIN), 1),
            )

        marks = [
            f'<circle cx="{cx}" cy="{cy}" r="4" fill="#2a788e"><title>{p[0]:.4g}, {p[1]:.4g}</title></circle>'
            for p in points
            for cx, cy in [place(p)]
        ]
        for p in base:
            cx, cy = place(p)
            marks.append(
                f'<path d="M{cx - 4} {cy - 4}l8 8m0 -8l-8 8" stroke="#888" stroke-width="2">'
                "<title>untrained</title></path>"
            )
        for i, anchor in ((0, "middle"), (1, "end")):
            for p in (min(points + base, key=lambda p: p[i]), max(points + base, key=lambda p: p[i])):
                cx, cy = (place(p)[0], HEIGHT - MARGIN + 14) if i == 0 else (MARGIN - 6, place(p)[1] + 4)
                marks.append(f'<text x="{cx}" y="{cy}" text-anchor="{anchor}" fill="#555">{p[i]:.3g}</text>')
        first, second = (html.escape(self.names[i]) for i in self.axes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" role="img" '
            f'aria-label="The front: {second} against {first}" font-size="11" font-family="sans-serif">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
            f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN / 2}" fill="none" stroke="#444"/>'
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="#222">{first}</text>'
            f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" fill="#222" '
            f'transform="rotate(-90 12 {HEIGHT / 2})">{second}</text>{"".join(marks)}</svg>'
        )

    def _table(self, front: Sequence[Sequence[float | None]]) -> str:
        """The members, and the untrained model last."""

        def row(cells: Sequence[str], tag: str = "td") -> str:
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

        def numbers(values: Sequence[float | None]) -> list[str]:
            return ["" if value is None else f"{value:.4g}" for value in values]

        rows = [row(["", *map(html.escape, self.names)], "th")]
        rows += [row([str(number), *numbers(values)]) for number, values in enumerate(front, 1)]
        if self.untrained:
            rows.append(row(["untrained", *numbers(self.untrained)]))
        return f"<table>{''.join(rows)}</table>"


class _Html:
    """What IPython shows as HTML, and as nothing where it cannot."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "a front being fitted"


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    """To 0 to 1 from the least to the largest of `values`, half a step in where they are all the same."""
    low, high = min(values), max(values)
    return lambda value: (value - low) / (high - low) if high > low else 0.5
