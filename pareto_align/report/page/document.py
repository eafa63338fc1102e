"""One HTML file from the page's content: template, style sheet, scripts, and a policy that allows no others."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.files import beside, write_whole
from pareto_align.report.page.content import page_content

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord
    from pareto_align.report.journal import Event

__all__ = ["framed", "live_html", "page_html", "write_page"]

SCRIPTS = ("choice.js", "between.js", "words.js", "pictures.js", "questions.js", "page.js")
"""In this order: what chooses knows no page, and what draws knows no controls."""


def page_html(record: FrontRecord, history: Iterable[Event], folder: Path) -> str:
    """The page of a front; equal fronts give equal bytes.

    Args:
        record: The front.
        history: The journal's events; none where the front was loaded without it.
        folder: Where the front lies. Only its last names are shown.
    """
    content = page_content(record, list(history), folder)
    return _filled(content["title"], content, SCRIPTS)


def live_html() -> str:
    """The page of a run that goes on, which holds no front: it asks the server that sent it, and nobody else."""
    return _filled("A Pareto front, live", None, (*SCRIPTS, "live.js"), " connect-src 'self';")


def _filled(title: str, content: Any, scripts: Iterable[str], more: str = "") -> str:
    """The template with its parts; `more` is what the policy lets in beside them."""
    script = "\n".join(_part(name) for name in scripts)
    style = _part("page.css")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}';{more} img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {
        "POLICY": html.escape(policy, quote=False),
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": _embedded(content),
        "SCRIPT": script,
    }
    # what is filled in is never looked through again, whatever stands in it
    pieces = _part("page.html").split("@")
    return "".join(filled[piece] if at % 2 else piece for at, piece in enumerate(pieces))


def write_page(page: str, path: Path) -> None:
    """Write a page; who reads meanwhile finds the old file or the new one.

    Raises:
        ConfigError: The path is a folder.
        FrontFileError: The file cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Name a file in it, such as {path / 'front.html'}.")
    try:
        write_whole(path, page.encode("utf-8"))
    except OSError as error:
        beside(path).unlink(missing_ok=True)
        raise FrontFileError(f"Cannot write the page {path}: {error.strerror or error}.") from error


def framed(page: str, height: int) -> str:
    """The page in a frame of its own, for a notebook: a fragment whose scripts cannot reach the notebook.

    Args:
        page: What `page_html` made.
        height: Of the frame, in pixels.
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" title="Pareto front" width="100%" height="{height}" '
        'sandbox="allow-scripts" style="border: 0"></iframe>'
    )


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _embedded(content: Any) -> str:
    """JSON in which nothing can end a script element or begin a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
