"""The page of a run that goes on, served to this machine's own browsers and to nobody else.

All that is read is on disk: front.json is replaced as a whole and the journal only grows, so whoever looks can neither
disturb a run nor has to outlive it. The server listens on the loopback address, answers GET alone, and only under a
path that nobody can guess. A page of the web whose name is made to lead to this machine (DNS rebinding) still sends
that name as `Host`, and is refused.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socketserver
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.files import stamp_of
from pareto_align.front.reading import read_front_json
from pareto_align.report.page.content import page_content
from pareto_align.report.page.document import live_html
from pareto_align.runs.folder import in_use
from pareto_align.runs.journal import JournalReader, as_json
from pareto_align.runs.status import RunStatus, run_status

__all__ = ["LivePage", "LiveRun"]

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""What a browser of this machine calls it; the port is another one where it is forwarded, as by `ssh -L`."""
NOTES = 50


class LiveRun:
    """What a run's page is told: how the run stands, and the front where it was measured since the page last asked.

    Args:
        folder: The run folder; it need not be there yet.
        every: Seconds after which a page asks again.
    """

    def __init__(self, folder: Path, every: float = 2.0) -> None:
        self.folder, self.every = folder, every
        self._journal = JournalReader(folder / "journal.jsonl")
        self._lock = Lock()  # several pages may ask at once, and reading a front takes longer than asking
        self._seen: dict[str, tuple[Any, Any]] = {}

    def told(self, have: str) -> dict[str, Any]:
        """How the run stands, as JSON's own types.

        Args:
            have: The version of the front that the page shows; "" for none.

        Returns:
            "state" and "line", "notes" of what happened, "every"; and with a front on disk its "version", how it was
            "measured" in words, and "front", the page's content, or None where the page has it.
        """
        with self._lock:
            told = {**self._stands(), "every": self.every, "version": "", "measured": "", "front": None}
            journal, front = self.folder / "journal.jsonl", self.folder / "front" / "front.json"
            if not (stamp := stamp_of(front)):
                return told
            try:
                count, measured, content = self._once("front", (stamp, stamp_of(journal)), self._front)
            except FrontFileError as error:
                return {**told, "notes": [*told["notes"], str(error)]}
            version = f"{'-'.join(map(str, stamp))}:{count}"
            return {**told, "version": version, "measured": measured, "front": None if version == have else content}

    def _once(self, name: str, stamp: Any, read: Any) -> Any:
        """What `read` gives, asked again only where the files have changed."""
        if name not in self._seen or self._seen[name][0] != stamp:
            self._seen[name] = (stamp, read())
        return self._seen[name][1]

    def _front(self) -> tuple[int, str, dict[str, Any]]:
        history, _ = self._journal.read()
        count = sum(event["event"] in ("evaluation", "further", "report") for event in history)

        def content() -> tuple[str, dict[str, Any]]:
            record = read_front_json(self.folder / "front")
            where = (
                "on report prompts, which nothing was chosen on" if record.split == "report" else "on select prompts"
            )
            measured = f"Measured at step {record.cost.get('steps', 0)} {where}."
            return measured, page_content(record, history, self.folder)

        # the front is on disk a moment before the journal tells of its measurement
        return count, *self._once("content", (stamp_of(self.folder / "front" / "front.json"), count), content)

    def _stands(self) -> dict[str, Any]:
        if not self.folder.exists():
            return {"state": "waiting", "line": f"for a run in {self.folder.name}", "notes": []}
        stamp = in_use(self.folder), *(stamp_of(self.folder / name) for name in ("run.json", "journal.jsonl"))
        try:
            status: RunStatus = self._once("status", stamp, lambda: run_status(self.folder, self._journal))
        except FrontFileError as error:
            return {"state": "damaged", "line": str(error), "notes": []}
        line = status.headline().removeprefix(f"{status.folder.name}: {status.state}").removeprefix(", ")
        if status.state == "starting":
            line = "loading the model"
        elif status.state == "running" and status.last is None:
            line = f"{line}, no policy measured yet"
        return as_json({"state": status.state, "line": line, "notes": status.notes[-NOTES:]})


class LivePage(ThreadingHTTPServer):
    """A server of one run's page on the loopback address; `serve_forever` answers until `shutdown`.

    Args:
        run: What the page is told.
        port: Where it listens; 0 for any that is free.

    Raises:
        ConfigError: The port is taken, or may not be had.

    Attributes:
        address: Where the page is; whoever has not read it cannot guess it.
    """

    daemon_threads = True

    def __init__(self, run: LiveRun, port: int = 0) -> None:
        self.run, self.token, self.page = run, secrets.token_urlsafe(24), live_html().encode()
        try:
            super().__init__((LOOPBACK, port), _Asked)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"The page cannot be served on port {port}: {reason}. Without a port one is found."
            ) from error
        self.address = f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}/"

    def server_bind(self) -> None:
        """Listen, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Asked(BaseHTTPRequestHandler):
    """One request to a `LivePage`."""

    server: LivePage
    server_version, sys_version = "pareto-align", ""
    timeout = 30

    def do_GET(self) -> None:
        """The page, or how the run stands."""
        if _host(self.headers.get("Host", "")) not in HOSTS:
            return self._reply(HTTPStatus.FORBIDDEN, b"This page is for this machine alone.\n")
        address = urlsplit(self.path)
        token, _, name = address.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._reply(HTTPStatus.NOT_FOUND, b"The address is not complete.\n")
        if name == "":
            return self._reply(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        if name == "state.json":
            told = self.server.run.told(parse_qs(address.query).get("have", [""])[0])
            data = json.dumps(told, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
            return self._reply(HTTPStatus.OK, data, "application/json; charset=utf-8")
        return self._reply(HTTPStatus.NOT_FOUND, b"There is nothing here.\n")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": "frame-ancestors 'none'",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stdout and stderr are the command's, and the address is a secret."""


def _host(header: str) -> str:
    """The name in a `Host` header."""
    return header.rpartition(":")[0] if ":" in header else header
