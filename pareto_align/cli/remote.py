"""Members of a front that a server answers for, by the protocol of OpenAI's API that vLLM and others speak.

Standard library only: one request at a time needs no client.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from pareto_align.errors import ConfigError, ModelError
from pareto_align.result import Member, ParetoFront

__all__ = ["RemoteServer", "ServedMember", "served"]

_WAIT_S = 600.0


class RemoteServer:
    """A server that has a front's members loaded, each under the name of its exported folder.

    Args:
        address: Where it listens, such as "http://localhost:8000", with or without "/v1".
        key_env: The environment variable with the key, if it asks for one. The key is told to this server only.

    Raises:
        ConfigError: The address is none.
    """

    def __init__(self, address: str, key_env: str = "OPENAI_API_KEY") -> None:
        parts = urllib.parse.urlsplit(address)
        try:
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            usable = False
        if not usable:
            raise ConfigError(f"--server must be an address such as http://localhost:8000. Found {address!r:.80}.")
        path = parts.path.rstrip("/") or "/v1"
        self.address = urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self._key = os.environ.get(key_env)

    def models(self) -> list[str] | None:
        """The names it answers to; None where it does not say.

        Raises:
            ModelError: It cannot be reached, or refuses.
        """
        found = self._ask("/models", None, missing_is_none=True)
        rows = found.get("data") if isinstance(found, dict) else None
        return [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None

    def complete(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of an answer.

        Raises:
            ModelError: It cannot be reached, refuses, or answers with something else.
        """
        found = self._ask(path, body)
        choices = found.get("choices") if isinstance(found, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ModelError(f"The server at {self.address} answered without `choices`: {found!r:.120}")
        return choices[0]

    def _ask(self, path: str, body: Mapping[str, Any] | None, *, missing_is_none: bool = False) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": "pareto-align"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if missing_is_none and error.code in (404, 405, 501):
                return None
            told = error.read(2000).decode("utf-8", "replace").strip()
            raise ModelError(f"The server at {self.address} refuses ({error.code}): {told or error.reason}") from error
        except ValueError as error:
            raise ModelError(f"The server at {self.address} answered with something that is no JSON.") from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise ModelError(f"No server answers at {self.address}: {reason}") from error


class ServedMember:
    """A member that a server answers for; `generate` is what `Member.generate` is.

    Args:
        front: Its front.
        member: The member.
        name: What the server calls it.
        server: The server.
    """

    def __init__(self, front: ParetoFront, member: Member, name: str, server: RemoteServer) -> None:
        self.id, self.name = member.id, name
        self._base, self._config, self._server, self._member = front.record.base, front.record.config, server, member

    def __repr__(self) -> str:
        return repr(self._member)

    def generate(self, prompts: Sequence[Any], **options: Any) -> list[str]:
        """One completion a prompt, asked for one after the other.

        Raises:
            ModelError: The server cannot be reached, or refuses.
        """
        return [self._answer(prompt, options) for prompt in prompts]

    def _answer(self, prompt: Any, options: Mapping[str, Any]) -> str:
        sampled = bool(options.get("do_sample", True))
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": int(options.get("max_new_tokens") or self._config.get("max_new_tokens") or 128),
            "temperature": float(options.get("temperature", 1.0)) if sampled else 0.0,
            "seed": int(options.get("seed", 0)),
        }
        # only where it says something: not every server knows `top_k`
        if sampled and options.get("top_k"):
            body["top_k"] = int(options["top_k"])
        if sampled and float(options.get("top_p") or 1.0) < 1:
            body["top_p"] = float(options["top_p"])
        templated = self._base.get("use_chat_template", self._base.get("chat_template_used"))
        if (told := self._member.instruction) is not None:
            prompt = told.before(prompt, templated=templated is not False)
        if isinstance(prompt, str) and templated is False:
            choice = self._server.complete("/completions", {**body, "prompt": prompt})
            text = choice.get("text")
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            if variables := self._base.get("chat_template_kwargs"):
                body["chat_template_kwargs"] = dict(variables)
            choice = self._server.complete("/chat/completions", {**body, "messages": messages})
            message = choice.get("message")
            text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise ModelError(f"The server at {self._server.address} answered without text: {choice!r:.120}")
        return text


def served(front: ParetoFront, server: RemoteServer, names: Mapping[str, str]) -> dict[str, ServedMember]:
    """The members that a server has, by id.

    Args:
        front: The front.
        server: The server.
        names: Member to the name of its exported folder.

    Raises:
        ModelError: The server cannot be reached, or has none of them.
    """
    known = server.models()
    found = {
        member.id: ServedMember(front, member, names[member.id], server)
        for member in front
        if known is None or names[member.id] in known
    }
    if not found:
        raise ModelError(
            f"The server at {server.address} has none of this front's members; it has "
            f"{', '.join(known or ['nothing'])}. Start it with serve.sh, which `pareto-align export --format vllm` "
            "writes."
        )
    return found
