"""A browser of this machine, and pages in it. Nothing is downloaded: where there is none, these tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pareto_align.result import ParetoFront

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@pytest.fixture(scope="module")  # its event loop runs as long as it lives, which other files do not expect
def browser():
    """Chromium without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="the extra page-test is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    with api.sync_playwright() as running:
        # a container's root has no user namespaces for the sandbox to use
        found = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


class Opened:
    """A page in the browser, with everything that it did."""

    def __init__(self, context: Any, file: Path, address: str) -> None:
        self.file, self.page = file, context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.messages.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri() + address)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    @property
    def chosen(self) -> str:
        return str(self.page.evaluate("() => MEMBERS[Number(document.documentElement.dataset.chosen)].id"))

    def focused(self) -> str:
        return str(self.page.evaluate("() => document.activeElement.id || document.activeElement.dataset.key || ''"))


@pytest.fixture(scope="session")
def written() -> dict[int, tuple[ParetoFront, str]]:
    """Pages that were made already."""
    return {}


@pytest.fixture
def open_page(browser, written, tmp_path) -> Any:
    """Write a front's page, and open it without a network."""
    contexts: list[Any] = []

    def opened(front: ParetoFront, address: str = "", *, width: int = 1400, height: int = 1000, **how: Any) -> Opened:
        file = tmp_path / f"page-{len(contexts)}.html"
        if id(front) not in written:
            written[id(front)] = (front, front.page())  # the front is kept, so that its id stays its own
        file.write_text(written[id(front)][1], encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, offline=True, **how))
        return Opened(contexts[-1], file, address)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe() -> Callable[[], str]:
    """The source of axe-core."""
    package = pytest.importorskip("axe_playwright_python", reason="the extra page-test is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
