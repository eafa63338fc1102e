"""The site: every page is in its side bar, once, and nothing in it is fetched from elsewhere. `make site` builds it."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("site_conf", ROOT / "docs/site/conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_side_bar_once(conf):
    shown = [re.sub(r"^.*<(.+)>$", r"\1", page) for group in conf.NAVIGATION.values() for page in group]
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/*/README.md"), ROOT / "CHANGELOG.md"]
    assert Counter(shown) == Counter(page.relative_to(ROOT).with_suffix("").as_posix() for page in pages)
    assert all(page in conf.navigation() for group in conf.NAVIGATION.values() for page in group)


@pytest.mark.parametrize(
    "text",
    [
        '<script async src="https://cdn.example/x.js"></script>',
        "<img alt='a' src='//example.org/a.png'>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example/css" rel="preconnect">',
        "<style>@import url(https://fonts.example/css);</style>",
        '<style>a { src: url("http://example.org/a.woff2") }</style>',
    ],
)
def test_what_a_browser_would_fetch_is_found(conf, tmp_path, text):
    (tmp_path / "page.html").write_text(text)
    assert len(list(conf.from_elsewhere(tmp_path))) == 1


def test_links_to_follow_and_files_beside_are_no_fetching(conf, tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">there</a> <link rel="canonical" href="https://example.org/a">'
        '<script src="_static/a.js"></script> <img src="a.png"> <code>url(x)</code>'
    )
    assert list(conf.from_elsewhere(tmp_path)) == []
