"""`python -m pareto_align` is `pareto-align`."""

from __future__ import annotations

from pareto_align.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
