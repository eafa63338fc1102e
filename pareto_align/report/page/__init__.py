"""The page: a front as one HTML file, in which somebody who reads no Python chooses a member.

`content` gathers what is shown as plain data, `noise` what the measurements leave open, `document` puts both into one
file with the style sheet and the scripts beside it. The browser chooses by the arithmetic of `front.selection`, written
again in `choice.js`; the tests hold the two together. `live` serves the page of a run that goes on.

Names, prompts, completions and reasons are other people's text: they travel as JSON, become text nodes and nothing
else, and the page's own content security policy lets no other script run and nothing be loaded.
"""

from __future__ import annotations

from pareto_align.report.page.document import framed, page_html, write_page

__all__ = ["framed", "page_html", "write_page"]
