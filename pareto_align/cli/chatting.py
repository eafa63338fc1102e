"""Talking to a member of a front, and switching to another in the middle."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import Any

from pareto_align.blend import Blend
from pareto_align.cli.output import print_json, say
from pareto_align.cli.remote import RemoteServer, ServedMember, served
from pareto_align.distributions import is_asked_of_hub
from pareto_align.errors import ConfigError, ModelError, ParetoAlignError, PreferenceError, PromptError
from pareto_align.family_member import FamilyMember
from pareto_align.printable import one_line
from pareto_align.report.export import folder_names
from pareto_align.report.units import optimized
from pareto_align.result import Member, ParetoFront
from pareto_align.spelling import hint

__all__ = ["chat"]

_HELP = """Write a prompt, or
  /prefer NAME=WEIGHT ...   switch to the member that serves this preference
  /member ID                switch to a member by name
  /forget                   start a new conversation (with --remember)
  /quit                     end"""


def chat(arguments: argparse.Namespace) -> None:
    """Answer one prompt, or as many as are given line by line.

    Raises:
        PreferenceError: Both a preference and a member were given, or there is no such member.
        PromptError: A system message or a conversation is asked for, and the model has no chat template.
    """
    if arguments.member is not None and (arguments.prefer or arguments.at_least or arguments.at_most):
        raise PreferenceError("Give --member or a preference with its limits, not both.")
    others = ("member", "rule", "criterion", "at_least", "at_most")
    if arguments.by is not None and any(getattr(arguments, other) for other in others):
        raise PreferenceError(
            "--by mixes members for a preference: give it without --member, --rule, --criterion and limits."
        )
    if arguments.by is not None and arguments.server is not None:
        raise PreferenceError("A server has members and no mixtures of them: leave --by or --server out.")
    front = ParetoFront.load(arguments.run)
    talk = _Conversation(front, arguments)
    if arguments.member is not None:
        talk.take(arguments.member)
    else:
        talk.prefer(arguments.prefer)
    if arguments.server is None and is_asked_of_hub(name := front.record.base.get("name")):
        say(f"The base model is {name}, which the Hugging Face Hub is asked for.", to=sys.stderr)
    try:
        if arguments.prompt is not None:
            talk.answer(arguments.prompt)
        else:
            _loop(talk)
    finally:
        front.close()


def _loop(talk: _Conversation) -> None:
    person = sys.stdin.isatty()
    if person:
        say(f"{talk.introduction()}\n{_HELP}", to=sys.stderr)
    while True:
        try:
            line = input(f"{one_line(talk.name)}> " if person else "").strip()
        except EOFError:
            return
        if line in ("/quit", "/exit", "quit", "exit", ":q"):
            return
        try:
            talk.line(line)
        except ParetoAlignError as error:
            if not person:
                raise
            say(f"error: {error}", to=sys.stderr)  # a slip is no reason to load the model again


class _Conversation:
    """A member at hand, how it samples, and what was said so far."""

    member: Member | Blend | FamilyMember | ServedMember

    def __init__(self, front: ParetoFront, arguments: argparse.Namespace) -> None:
        self.front = front
        self.json = arguments.json
        self.limits = {
            "rule": arguments.rule,
            "criterion": arguments.criterion or "ser",
            "at_least": arguments.at_least,
            "at_most": arguments.at_most,
        }
        self.by = arguments.by
        self.served: dict[str, ServedMember] | None = None
        if arguments.server is not None:
            self.server = RemoteServer(arguments.server, arguments.api_key_env)
            self.served = served(front, self.server, folder_names({found.id: found.adapter_path for found in front}))
        self.options = _sampling(front, arguments)
        self.remember = arguments.remember
        self.system = _shared_system(front) if arguments.system is None else arguments.system
        self.said: list[dict[str, str]] = []

    @property
    def name(self) -> str:
        """Who answers."""
        return self.member.name if isinstance(self.member, FamilyMember) else self.member.id

    def take(self, name: str) -> None:
        """Switch to a member by name."""
        try:
            self.member = self._answering(self.front[name])
        except KeyError:
            ids = [member.id for member in self.front]
            near = difflib.get_close_matches(name, ids, n=1, cutoff=0.0)
            known = f"Did you mean {near[0]!r}? It has {', '.join(ids)}." if near else "It has none."
            raise PreferenceError(f"This front has no member {name!r}. {known}") from None

    def prefer(self, preference: dict[str, float] | None) -> None:
        """Switch to the member that serves a preference, or to the mixture that does."""
        if self.by is not None:
            spanning = [self.front.names[i] for i in optimized(self.front.record)]
            self.member = self.front.mixture(preference or dict.fromkeys(spanning, 1.0), by=self.by)
            return
        self.member = self._answering(self.front.select(preference, **self.limits).member)

    def _answering(self, member: Member) -> Member | ServedMember:
        """Who answers for a member: itself, or the server that has it."""
        if self.served is None:
            return member
        if member.id not in self.served:
            raise ModelError(
                f"The server at {self.server.address} does not have {member.id}; it has {', '.join(self.served)}."
            )
        return self.served[member.id]

    def introduction(self) -> str:
        """Who answers, and under which system message."""
        lines = [repr(self.member).removeprefix("<Member ").removeprefix("<").removesuffix(">")]
        if self.system:
            lines.append(f"System message: {self.system}")
        return "\n".join(lines)

    def line(self, text: str) -> None:
        """What a line asks for: a command, or an answer."""
        word, _, rest = text.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/prefer": lambda rest: self.prefer(_weights(rest)),
            "/member": lambda rest: self.take(rest.strip()),
            "/forget": lambda rest: self.said.clear(),
            "/help": lambda rest: print(_HELP, file=sys.stderr),
        }
        if word in commands:
            commands[word](rest)
            if word in ("/prefer", "/member"):
                say(self.introduction(), to=sys.stderr)
        elif word.startswith("/") and "/" not in word[1:]:  # a path is a prompt
            raise ConfigError(f"There is no command {word}.{hint(word, commands)}")
        elif text:
            self.answer(text)

    def answer(self, prompt: str) -> None:
        """Print the member's answer to a prompt."""
        turn = {"role": "user", "content": prompt}
        history = self.said if self.remember else []
        opening = [{"role": "system", "content": self.system}] if self.system else []
        asked: Any = [*opening, *history, turn] if opening or self.remember else prompt
        if not prompt.strip():
            raise PromptError("The prompt is empty.")
        completion = self.member.generate([asked], **self.options)[0]
        if self.remember:
            self.said += [turn, {"role": "assistant", "content": completion}]
        if self.json:
            print_json({"member": self.name, "prompt": prompt, "completion": completion}, indent=None)
        else:
            say(completion.strip())


def _sampling(front: ParetoFront, arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `generate`: those that the members were measured under, unless others are asked for."""
    config = front.record.config
    temperature = config.get("temperature", 1.0) if arguments.temperature is None else arguments.temperature
    options: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        options |= {
            "temperature": float(temperature),
            "top_k": config.get("top_k") or 0,
            "top_p": config.get("top_p") or 1.0,
        }
    for name in ("max_new_tokens", "seed"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    return options


def _shared_system(front: ParetoFront) -> str:
    """The system message that all recorded prompts begin with; "" where they have none or several."""
    found = set()
    for member in front:
        for sample in member.samples:
            prompt = sample.get("prompt")
            first = prompt[0] if isinstance(prompt, list) and prompt else {}
            found.add(str(first.get("content", "")) if first.get("role") == "system" else "")
    return found.pop() if len(found) == 1 else ""


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for pair in text.split():
        name, _, number = pair.rpartition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            raise PreferenceError(f"{pair!r} is not of the form name=number.") from None
    if not weights:
        raise PreferenceError("Write /prefer name=number, for one or more objectives.")
    return weights
