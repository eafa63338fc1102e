"""The command line, `pareto-align`; the commands are those of `parser`."""

from __future__ import annotations

from pareto_align.cli.entry import main

__all__ = ["main"]
