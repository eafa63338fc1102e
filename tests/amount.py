"""How much of what there is to try is tried: one of each kind, or everything."""

from __future__ import annotations

import os

ALL = bool(os.environ.get("PARETO_ALIGN_ALL_TESTS"))
