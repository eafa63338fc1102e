"""A language model behind an OpenAI-compatible address: many requests at a time, each repeated by itself.

What is waited for is the server's business as far as it says so. A `Retry-After` holds up all requests, since it is the
same server that would refuse the next one; refusals for haste (429) halve the number that run at a time, which grows
again by one for each quiet half minute. Everything else that may pass is tried again after a pause that doubles. What a
server that is down costs is bounded: after as many failures in a row as run at a time, the batch is given up.

httpx2 is imported when the first request is made. The key is read from the environment for each request and kept
nowhere; it is taken out of what a server says about it.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
import urllib.parse
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pareto_align.errors import ConfigError, ObjectiveError

__all__ = ["Endpoint", "RequestFailed", "Usage", "checked_address"]

OPENAI = "https://api.openai.com/v1"
QUIET_S = 30.0
"""Seconds without a refusal for haste after which one more request runs at a time."""
PATIENCE_S = 900.0
"""Seconds that one request waits in all because the server asks it to."""
FIRST_PAUSE_S = 0.5
PASSING = (408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529)
"""Statuses that may be gone at the next attempt, beside 429."""
USELESS = (401, 403, 404, 405)
"""Statuses that no request of the run will escape."""


LEAST_IN_A_ROW = 3


@dataclass(frozen=True)
class _Attempt:
    """What came of one attempt: a status, None where there was no answer; what went wrong; seconds that the server
    asks to wait; and the answer if there is one."""

    status: int | None
    told: str = ""
    pause: float | None = None
    choice: dict[str, Any] | None = None


class RequestFailed(Exception):
    """One request got no answer for good; others may."""


@dataclass
class Usage:
    """What a judge has cost so far.

    Attributes:
        requests: Requests that were sent, repeats included.
        repeats: Of those, how many were sent again.
        tokens: Tokens read and written, as far as the server says.
        known: Answers that were there already, in the cache or in the same batch.
        failed: Completions that got no answer.
        unread: Answers without a number in them.
    """

    requests: int = 0
    repeats: int = 0
    tokens: int = 0
    known: int = 0
    failed: int = 0
    unread: int = 0


class _Turns:
    """Whose turn it is: how many run at a time, and until when nobody does. Belongs to one event loop.

    Attributes:
        in_a_row: Requests that failed for good since the last answer.
        given_up: Why no request of this batch is sent any more.
    """

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self.in_a_row = 0
        self.given_up: str | None = None
        self._running = 0
        self._closed_until = 0.0
        self._changed_at = time.monotonic()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> float:
        """Wait for a turn; returns the seconds that the server's own wish held it up."""
        asked = 0.0
        try:
            while True:
                if (pause := self._closed_until - time.monotonic()) > 0:
                    await asyncio.sleep(pause)
                    asked += pause
                elif self._running < self.limit:
                    self._running += 1
                    return asked
                else:
                    turn = asyncio.get_running_loop().create_future()
                    self._waiting.append(turn)
                    await turn
        except BaseException:
            self._wake()  # it may have been called up, and another has to come in its place
            raise

    def give(self) -> None:
        """Let the next one have its turn."""
        self._running -= 1
        if self.limit < self._most and time.monotonic() - self._changed_at > QUIET_S:
            self.limit, self._changed_at = self.limit + 1, time.monotonic()
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self._running
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def too_fast(self, began: float, pause: float | None) -> None:
        """A refusal for haste of a request that began at a time: run fewer, and none before the server wants any."""
        if began >= self._changed_at:  # of those that were refused together, one counts
            self.limit, self._changed_at = max(1, self.limit // 2), time.monotonic()
        if pause is not None:
            self._closed_until = max(self._closed_until, time.monotonic() + pause)


def checked_address(base_url: Any) -> str:
    """Where an OpenAI-compatible server listens, without a slash at its end.

    Raises:
        ConfigError: It is no such address, or has something secret in it, which a run's record would hold.
    """
    if base_url is None:
        return OPENAI
    try:
        parts = urllib.parse.urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        usable = False
    if not usable:
        raise ConfigError(
            f"`base_url` must be an address such as http://localhost:8000/v1. Found {type(base_url).__name__}"
            + (f" {base_url.partition('@')[2] or base_url!r:.80}." if isinstance(base_url, str) else ".")
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "`base_url` must be without user, password and query: it is written into the run's record. Put the key "
            "into an environment variable and name it in `api_key_env`."
        )
    return str(base_url).rstrip("/")


class Endpoint:
    """One model of one server.

    Args:
        model: Its name there.
        base_url: Where the server listens, with the version, such as "http://localhost:8000/v1"; None is OpenAI's.
        api_key_env: The environment variable with the key.
        concurrency: Requests at a time, at most.
        request_retries: How often a request is sent again after an error that may pass.
        request_timeout_s: Seconds for an attempt, and for all that one request loses to errors and pauses.
        max_requests: The most requests that may be sent, repeats included; None for any number.
        extra: Further fields of each request.
        name: What errors call it.

    Raises:
        ConfigError: A setting is out of range.
        ObjectiveError: httpx2 is not installed, or OpenAI's own address is meant and there is no key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        api_key_env: str,
        concurrency: int,
        request_retries: int,
        request_timeout_s: float,
        max_requests: int | None,
        extra: Mapping[str, Any] | None,
        name: str,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise ConfigError(f"`model` must be the name of a model on the server. Found {model!r:.80}.")
        if not isinstance(api_key_env, str) or not api_key_env.replace("_", "a").isalnum() or len(api_key_env) > 64:
            # perhaps the key itself: it is not repeated
            raise ConfigError("`api_key_env` must be the name of an environment variable, not the key.")
        for setting, value, least in (
            ("concurrency", concurrency, 1), ("request_retries", request_retries, 0),
            ("max_requests", 1 if max_requests is None else max_requests, 1),
        ):  # fmt: skip
            if type(value) is not int or value < least:
                raise ConfigError(f"`{setting}` must be a whole number of at least {least}. Found {value!r:.40}.")
        seconds = request_timeout_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e6:
            raise ConfigError(f"`request_timeout_s` must be a positive number of seconds. Found {seconds!r:.40}.")
        more = dict(extra or {})
        if taken := {"model", "messages", "api_key", "authorization", "stream"} & {str(k).lower() for k in more}:
            raise ConfigError(f"`extra` must not have {', '.join(sorted(taken))}.")
        self.address, self.model, self.name = checked_address(base_url), model, name
        if find_spec("httpx2") is None:
            raise ObjectiveError(
                f"{name} needs the package httpx2; install it with: pip install 'pareto-align[judge]'."
            )
        self._key_env = api_key_env
        if self.address == OPENAI and not os.environ.get(api_key_env):
            raise ObjectiveError(
                f"{name} asks OpenAI's own server, which wants a key: set the environment variable {api_key_env}, or "
                "give the `base_url` of another one."
            )
        self.extra = more
        self._most, self._retries, self._timeout = concurrency, request_retries, float(seconds)
        self._budget = max_requests
        self.usage = Usage()
        self._turns: weakref.WeakKeyDictionary[Any, tuple[_Turns, Any]] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_turns": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_turns": weakref.WeakKeyDictionary()}

    def begin(self) -> None:
        """A new batch: what failed in the last one does not count against it."""
        turns, _ = self._here()
        turns.in_a_row, turns.given_up = 0, None

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of an answer to a chat request.

        Args:
            body: `messages` and what else the request says; the model and `extra` are added.

        Raises:
            RequestFailed: This one got no answer for good.
            ObjectiveError: No request will: the key is wrong, the budget is spent, or the server is down.
        """
        turns, client = self._here()
        lost, waited, failures, put_off, sent = 0.0, 0.0, 0, 0, 0
        while True:
            waited += await turns.take()
            began = time.monotonic()
            try:
                if turns.in_a_row >= max(self._most, LEAST_IN_A_ROW):
                    turns.given_up = (
                        f"{self.name}: {turns.in_a_row} requests in a row got no answer, so {self.address} is given up."
                    )
                if turns.given_up is not None:
                    raise ObjectiveError(turns.given_up)
                self._count(sent)
                sent += 1
                found = await self._attempt(client, {**body, "model": self.model, **self.extra})
                if found.status in USELESS or "insufficient_quota" in found.told:
                    turns.given_up = f"{self.name}: {self.address} refuses: {found.told}"
                    raise ObjectiveError(turns.given_up)
            finally:
                turns.give()
            if found.choice is not None:
                turns.in_a_row = 0
                return found.choice
            if found.status == 429 or found.pause is not None:
                turns.too_fast(began, found.pause)
                pause = _doubled(put_off) if found.pause is None else 0.05  # beside what all wait for in `take`
                put_off += 1
                waited += pause
                if waited > PATIENCE_S:
                    raise RequestFailed(f"it was put off for {waited:.0f} s: {found.told}")
                await asyncio.sleep(pause)
                continue
            failures += 1
            pause = _doubled(failures - 1)
            lost += time.monotonic() - began + pause
            final = found.status is not None and found.status not in PASSING
            if final or failures > self._retries or lost >= self._timeout:
                turns.in_a_row += not final  # a server that says what is wrong with a request is there
                raise RequestFailed(found.told)
            await asyncio.sleep(pause)

    def _here(self) -> tuple[_Turns, Any]:
        """What belongs to the event loop that runs now: connections cannot move to another."""
        import httpx2

        loop = asyncio.get_running_loop()
        if loop not in self._turns:
            client = httpx2.AsyncClient(timeout=self._timeout, limits=httpx2.Limits(max_connections=self._most))
            self._turns[loop] = (_Turns(self._most), client)
        return self._turns[loop]

    def _count(self, sent: int) -> None:
        if self._budget is not None and self.usage.requests >= self._budget:
            raise ObjectiveError(
                f"{self.name}: the budget of {self._budget} requests is spent. Raise `max_requests` to go on; what was "
                "answered so far is in the cache, if there is one."
            )
        self.usage.requests += 1
        self.usage.repeats += sent > 0

    async def _attempt(self, client: Any, body: Mapping[str, Any]) -> _Attempt:
        import httpx2

        key = os.environ.get(self._key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with asyncio.timeout(self._timeout):  # httpx2's own is for each read, and a server may drip
                answer = await client.post(f"{self.address}/chat/completions", json=body, headers=headers)
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            return _Attempt(None, self._without_key(f"{type(error).__name__} {error}".strip(), key))
        if answer.status_code == 200:
            try:
                found = answer.json()
                choice = found["choices"][0]
                choice["message"]["content"]  # what is to be read
            except (ValueError, LookupError, TypeError):
                told = f"it answered with something else than a chat completion: {answer.text[:120]!r}"
                return _Attempt(502, self._without_key(told, key))
            usage = found.get("usage")
            if isinstance(usage, Mapping):
                counts = [usage.get(part) for part in ("prompt_tokens", "completion_tokens")]
                self.usage.tokens += sum(count for count in counts if type(count) is int)
            return _Attempt(200, choice=choice)
        told = self._without_key(answer.text[:300].strip() or answer.reason_phrase, key)
        asked = answer.headers.get("retry-after") if answer.status_code in (429, 503) else None
        return _Attempt(answer.status_code, f"{answer.status_code} {told}", _retry_after(asked))

    @staticmethod
    def _without_key(text: str, key: str | None) -> str:
        return text.replace(key, "***") if key else text


def _doubled(failures: int) -> float:
    """Seconds before the next attempt, up to a quarter more or less, so that many do not come back at once."""
    return float(FIRST_PAUSE_S * 2.0 ** min(failures, 6) * random.uniform(0.75, 1.25))


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait: a number or a date."""
    if value is None:
        return None
    try:
        return min(max(float(value), 0.0), PATIENCE_S)
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError):
        return None
    return min(max(then - time.time(), 0.0), PATIENCE_S)
