"""How `make site` makes one static site of README, docs and studies: the settings of Sphinx.

The pages stay where they are and as a repository shows them: the navigation is added while they are read, and every
link from one to another works in both places. Nothing here imports the package: a writer needs no torch.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

NAVIGATION: dict[str, tuple[str, ...]] = {
    "Start": ("docs/quickstart", "docs/concepts", "docs/limits", "Every page in one table <docs/index>"),
    "Choosing": ("docs/choosing-a-family", "docs/choosing-a-weighting", "docs/explorers", "docs/tuning"),
    "Guides": (
        "docs/page", "Figures <docs/gallery>", "docs/eliciting", "docs/mixtures",
        "Unseen preferences <docs/unseen-preferences>", "docs/handing-over", "docs/trackers", "docs/reliability",
        "docs/scaling", "Drawing by vLLM <docs/samplers>", "docs/trl",
    ),
    "Rewards and judges": (
        "docs/rewards", "docs/judges", "Right answers first <docs/right-answers>", "docs/comparisons",
        "docs/preference-losses", "docs/nash", "docs/learned-rewards",
    ),
    "Weightings": (
        "steady-chebyshev (default) <docs/weightings/steady-chebyshev>", "chebyshev <docs/weightings/chebyshev>",
        "fixed <docs/weightings/fixed>", "hypervolume <docs/weightings/hypervolume>",
        "gradient <docs/weightings/gradient>", "mgda, upgrad and others <docs/weightings/aggregators>",
        "epo, pareto-mtl <docs/weightings/rays>", "tchebycheff and its kin <docs/weightings/tchebycheff>",
        "maxmin <docs/weightings/maxmin>", "lagrangian, barrier <docs/weightings/lagrangian>",
        "pama, rvpo <docs/weightings/pama>", "modo <docs/weightings/modo>", "pareto-da <docs/weightings/pareto-da>",
        "ctwa <docs/weightings/ctwa>", "bilevel <docs/weightings/bilevel>",
        "proxy-points <docs/weightings/proxy-points>",
        "nelder-mead-thresholds <docs/weightings/nelder-mead-thresholds>", "schedule <docs/weightings/schedule>",
        "saw <docs/weightings/saw>",
    ),
    "Reference": (
        "docs/cli", "docs/configuration", "Folders and files <docs/front-folder>", "docs/api", "docs/benchmarks",
        "docs/papers", "CHANGELOG", "docs/contributing",
    ),
    "Studies": (
        "The demo <studies/demo/README>", "Real models <studies/real/README>", "Families <studies/families/README>",
        "Known fronts <studies/known_fronts/README>", "Between adapters <studies/between/README>",
        "Arithmetic <studies/arithmetic/README>", "Comparisons <studies/comparisons/README>",
        "Right answers <studies/right_answers/README>", "Bilevel <studies/bilevel/README>",
        "Discovery <studies/discovery/README>", "Tuning <studies/tuning/README>", "Peers <studies/peers/README>",
        "Noise <studies/noise/README>", "Intervals <studies/intervals/README>", "Scale <studies/scale/README>",
        "Soak <studies/soak/README>", "Bookkeeping <studies/bookkeeping/README>", "Speed <studies/speed/README>",
        "GPU <studies/gpu/README>",
    ),
}  # fmt: skip
"""The side bar, by group: a page under its own heading, or `TITLE <page>`. A page in no group fails the build."""

_described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "pareto_align"
release = version = _described["version"]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "studies/*/README.md"]
exclude_patterns = ["docs/site/**"]

myst_heading_anchors = 6  # the anchors that a repository's web page gives headings: links name those

smartquotes = False  # what is quoted is often what somebody has to type

html_theme = "furo"
html_title = f"pareto_align {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "to_readme.html"}  # who opens the folder gets the first page, which is README.html
html_copy_source = False
html_show_copyright = False
html_use_index = False
html_last_updated_fmt = None  # no clock: the same sources give the same site

ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'>\s]+
      | <link\b(?=[^>]*\srel=["']?(?:stylesheet|preload|prefetch|preconnect|icon))
        [^>]*\shref=["']?(?:https?:)?//[^"'>\s]+
      | @import\s+(?:url\()?["']?(?:https?:)?//[^"')\s]+
      | \burl\(["']?(?:https?:)?//[^"')\s]+""",
    re.VERBOSE | re.IGNORECASE,
)
"""What a browser would fetch from another machine by itself; links that somebody has to follow are none."""


def navigation() -> str:
    """The side bar, as what Sphinx reads at the end of the first page."""
    return "".join(
        "\n\n```{toctree}\n" + "\n".join([":hidden:", f":caption: {caption}", "", *pages]) + "\n```\n"
        for caption, pages in NAVIGATION.items()
    )


def from_elsewhere(folder: Path) -> Iterator[str]:
    """Everything in a built site that a browser would fetch over the network."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".css"):
            for found in ELSEWHERE.findall(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(folder)}: {found}"


def setup(app: Any) -> None:
    """Add the navigation while pages are read, and look through what was built."""
    from sphinx.util import logging

    def read(_: Any, name: str, text: list[str]) -> None:
        if name == root_doc:
            text[0] += navigation()

    def built(app: Any, trouble: Exception | None) -> None:
        for found in from_elsewhere(Path(app.outdir)) if trouble is None else ():
            logging.getLogger(__name__).warning("fetched from elsewhere: %s", found)  # with -W an error, as all are

    app.connect("source-read", read)
    app.connect("build-finished", built)
