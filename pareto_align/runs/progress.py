"""What a run shows while it goes on: a bar on a terminal, a picture in a notebook, plain lines anywhere else.

All on stderr, or in the notebook's cell: stdout is for results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from pareto_align.runs.notebook import NotebookView, notebook_display
from pareto_align.runs.pace import Pace, hypervolume_text, members_text

__all__ = ["PlainLines", "ProgressBar", "follow"]


def follow(steps: int, names: Sequence[str], axes: Sequence[int]) -> Any:
    """The callback that shows a run in the way that fits where it runs; its `close` ends it.

    Args:
        steps: Training steps of the run.
        names: Of the M objectives.
        axes: The m of them that are optimized.
    """
    if sys.stderr is None:  # pythonw, for instance
        return Silent()
    if (display := notebook_display()) is not None:
        return NotebookView(steps, names, axes, display)
    return ProgressBar(steps) if sys.stderr.isatty() else PlainLines(steps)


class Silent:
    """Shows nothing."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Pass over one event."""

    def close(self) -> None:
        """Do nothing."""


class PlainLines:
    """A line on stderr for each stage of a run and each measurement, for logs and pipes.

    Args:
        steps: Training steps of the run.
    """

    def __init__(self, steps: int) -> None:
        self.pace = Pace(steps)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        self.pace.note(event)
        kind = event["event"]
        if kind == "stage":
            self._say(event["stage"])
        elif kind == "resumed" and event.get("step"):
            self._say(f"going on from step {event['step']} of {self.pace.steps}")
        elif kind in ("evaluation", "further"):
            further = ", further preferences" if kind == "further" else ""
            self._say(
                f"step {event['step']} of {self.pace.steps}{further}: {hypervolume_text(event)}, "
                f"{members_text(event['members'])}, {self.pace.told()}"
            )
        elif kind == "stalled":
            self._say(f"policy {event['policy']} stalled at step {event['step']}: {event['action']}")

    def close(self) -> None:
        """Nothing is left open."""

    def _say(self, text: str) -> None:
        print(f"pareto-align: {text}", file=sys.stderr, flush=True)


class ProgressBar:
    """A bar on a terminal's stderr, from the loading of the model on.

    Args:
        steps: Training steps of the run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bar: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind in ("stage", "start", "resumed") and self.bar is None:
            self.bar = tqdm(total=self.steps, unit="step", file=sys.stderr)
        if self.bar is None:
            return
        if kind == "stage":
            self.bar.set_description(event["stage"])
        elif kind in ("start", "resumed"):
            self.bar.reset(self.steps)  # loading was no step
            self.bar.initial = self.bar.n = int(event.get("step") or 0)  # of a resumed run
            self.bar.set_description("fitting the front")
        elif kind == "step":
            self.bar.update()
        elif kind in ("evaluation", "further"):
            self.bar.set_postfix_str(f"{hypervolume_text(event)}, {members_text(event['members'])}")
        elif kind == "stalled":
            text = f"policy {event['policy']} stalled at step {event['step']}: {event['action']}"
            self.bar.write(text, file=sys.stderr)  # stdout is for results
        elif kind in ("end", "stopped"):
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
