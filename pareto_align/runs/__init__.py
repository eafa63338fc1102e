"""What survives a kill: settings, budget, folder, journal, checkpoint, front, stopping, progress. It knows no loop."""

from __future__ import annotations

from pareto_align.runs.notebook import Live
from pareto_align.runs.settings import Settings

__all__ = ["Live", "Settings"]
