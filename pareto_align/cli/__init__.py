"""The command line: `pareto-align demo | fit | data | front | select | plot | chat | export | env`."""

from __future__ import annotations

from pareto_align.cli.entry import main

__all__ = ["main"]
