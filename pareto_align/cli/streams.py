"""How a line of text is printed: in what the terminal can show, and nothing that drives it."""

from __future__ import annotations

import sys
from typing import TextIO

from pareto_align.printable import printable

__all__ = ["say"]


def say(text: str, *, to: TextIO | None = None) -> None:
    """A line of text on stdout, in the characters that the stream can encode; control characters are shown as �."""
    stream = sys.stdout if to is None else to
    encoding = stream.encoding or "utf-8"
    print(printable(text).encode(encoding, "replace").decode(encoding), file=stream, flush=True)
