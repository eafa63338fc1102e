"""Questions in the terminal: which of two answers is better, until a member is found."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pareto_align.cli.output import print_json, say
from pareto_align.errors import ConfigError
from pareto_align.result import ParetoFront

if TYPE_CHECKING:
    from pareto_align.interview import Interview, Pair

__all__ = ["elicit"]

_SETTINGS = ("questions", "show", "seed", "at_least", "at_most")
_REPLIES = {"1": "first", "2": "second", "=": "same", "first": "first", "second": "second", "same": "same"}


def elicit(arguments: argparse.Namespace) -> None:
    """Ask which of two answers is better, and print the member that the replies speak for.

    Replies are read line by line, so that they can be piped; an end of the input ends the questions.

    Raises:
        ConfigError: A reply that was piped in is none, or a session that exists is to be gone on with in another way.
    """
    front = ParetoFront.load(arguments.run)
    kept = arguments.session
    given = {name: value for name in _SETTINGS if (value := getattr(arguments, name)) not in (None, {})}
    if kept is not None and kept.exists():
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"The session in {kept} goes on with its own settings. Leave out {options}.")
        session = front.elicit(resume=kept)
    else:
        session = front.elicit(**given)
    while (pair := session.next()) is not None:
        verdict = _asked(pair, session, json=arguments.json)
        if verdict is None:
            break
        session.answer(verdict)
        if kept is not None:
            session.save(kept)
    choice = session.choice
    if arguments.json:
        found = choice.member.to_dict()
        found["member"] = found.pop("id")
        found |= {
            "stated_regret": session.stated_regret,
            "probability_best": choice.probability_best,
            "weights": session.preference,
            "weights_spread": session.preference_spread,
            "kinds": session.kinds,
            "reason": choice.reason,
        }
        print_json(found, indent=None)
        return
    say(repr(choice.member).removeprefix("<Member ").removesuffix(">"))
    say(choice.reason)
    say(f"Adapter: {choice.adapter_path}")


def _asked(pair: Pair, session: Interview, *, json: bool) -> str | None:
    """The reply to a question; None where no more are given."""
    person = sys.stdin.isatty()
    if json:
        shown = {"question": pair.number, "prompt": pair.prompt, "first": pair.first, "second": pair.second}
        print_json({**shown, "first_values": pair.first_values, "second_values": pair.second_values}, indent=None)
    else:
        say(f"Question {pair.number} of at most {session.questions}\n{pair}\n", to=sys.stderr)
    while True:
        try:
            reply = input("1, 2, = or q> " if person else "").strip().lower()
        except EOFError:
            return None
        if reply in ("q", "quit"):
            return None
        if reply in _REPLIES:
            return _REPLIES[reply]
        if not person:
            raise ConfigError(f"A reply is 1, 2 or =, and q to end. Found {reply!r:.40}.")
        say("Reply 1 or 2 for the better one, = where they are the same to you, q to end.", to=sys.stderr)
