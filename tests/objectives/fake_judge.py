"""An OpenAI-compatible judge on 127.0.0.1 that can be made to misbehave in every way a real one does."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeJudge:
    """A server with settings that a test changes as it goes.

    Attributes:
        limit: Requests at a time; more are refused with 429.
        retry_after: What those are told to wait, in the header; None says nothing.
        delay_s: Seconds that an answer takes.
        dies_after: Answers after which every connection is dropped; None for never.
        script: Status or text for the first requests, in order: an int is a status, a text an answer, None a dropped
            connection, a float seconds to hang before a good answer.
        says: Makes the answer of what was asked (the whole body).
        asked: The bodies of the requests that were answered well.
        calls, refused, peak: Requests, those refused for haste, and the most at a time.
        keys: The `Authorization` headers that came.
    """

    def __init__(self) -> None:
        self.limit, self.retry_after, self.delay_s = 10_000, None, 0.0
        self.dies_after: int | None = None
        self.script: list[Any] = []
        self.says: Callable[[dict[str, Any]], Any] = lambda body: f'fine. {{"score": {1 + len(answer_of(body)) % 10}}}'
        self.asked: list[dict[str, Any]] = []
        self.refusal = "rate limit"
        self.calls = self.refused = self.peak = 0
        self.keys: list[str | None] = []
        self._live, self._lock = 0, threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                judge.answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, request: Any) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self._live += 1
            self.calls += 1
            self.keys.append(request.headers.get("Authorization"))
            self.peak = max(self.peak, self._live)
            over = self._live > self.limit
            self.refused += over
            step = self.script.pop(0) if self.script else "good"
            dead = self.dies_after is not None and len(self.asked) >= self.dies_after
        try:
            if dead or step is None:
                request.close_connection = True
                request.connection.close()
                return None
            if over or (type(step) is int):
                return self.refuse(request, 429 if over else step)
            time.sleep(step if isinstance(step, float) else self.delay_s)
            said = step if isinstance(step, str) and step != "good" else self.says(body)
            with self._lock:
                self.asked.append(body)
            choice = said if isinstance(said, dict) else {"message": {"role": "assistant", "content": said}}
            self.send(request, 200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 7}})
        finally:
            with self._lock:
                self._live -= 1

    def refuse(self, request: Any, status: int) -> None:
        headers = (
            {"Retry-After": str(self.retry_after)} if status in (429, 503) and self.retry_after is not None else {}
        )
        key = request.headers.get("Authorization", "")
        self.send(request, status, {"error": {"message": f"{self.refusal}, key {key}"}}, headers)

    def send(self, request: Any, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        request.send_response(status)
        for name, text in (headers or {}).items():
            request.send_header(name, text)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    @property
    def twice(self) -> list[str]:
        """Questions that were answered more than once."""
        counted = Counter(json.dumps(body, sort_keys=True) for body in self.asked)
        return [asked for asked, count in counted.items() if count > 1]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def answer_of(body: dict[str, Any], field: str = "completion") -> str:
    """What is judged in a request, read between the fences as a judge would."""
    text = body["messages"][-1]["content"]
    found = re.search(rf"\[{field} ([0-9a-f]{{16}})\]\n(.*?)\n\[end of {field} \1\]", text, flags=re.DOTALL)
    assert found is not None, text
    return found[2]
