"""A progress bar for a run: on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar:
    """Follows the events of a run on stderr; silent where stderr is no terminal.

    Args:
        steps: Training steps of the run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bar: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind in ("start", "resumed") and self.bar is None:
            made = event.get("step", 0)  # of a resumed run
            self.bar = tqdm(total=self.steps, initial=made, desc="fitting the front", unit="step", disable=None)
        if self.bar is None:
            return
        if kind == "step":
            self.bar.update()
        elif kind == "evaluation":
            self.bar.set_postfix(hypervolume=f"{event['hypervolume']:.3f}", members=event["members"])
        elif kind == "stalled" and not self.bar.disable:
            text = f"policy {event['policy']} stalled at step {event['step']}: {event['action']}"
            self.bar.write(text, file=sys.stderr)  # stdout is for results
        elif kind in ("end", "stopped"):
            self.bar.close()
