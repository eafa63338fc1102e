"""What a person sees of a front: figures, the printed table, the model card.

Every figure comes in two halves. `*_info` reads a `FrontRecord` (and the run's journal) and returns a dataclass of
numbers in the user's units; `draw_*` puts those numbers on a matplotlib `Figure` and returns it. No pyplot state is
touched, so figures can be drawn from any thread and without a display.

Only the modules that draw import matplotlib; the table and the card need numpy alone.
"""

from __future__ import annotations

from pareto_align.report.card import model_card
from pareto_align.report.handover import write_card
from pareto_align.report.table import front_table, text_table

__all__ = ["front_table", "model_card", "text_table", "write_card"]
