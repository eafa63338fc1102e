"""A or B? A few questions that find the member of a front for somebody who does not know his weights.

What is asked is on real answers: two members' to the same prompt. What is learnt from it is in `front.elicitation`.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.errors import ConfigError, FrontFileError, PreferenceError
from pareto_align.front.elicitation import UTILITIES, VERDICTS, Users
from pareto_align.front.selection import drawn_errors
from pareto_align.printable import one_line, printable
from pareto_align.report.request import Answer, evidence, limits_of, place_of, rows_within
from pareto_align.report.units import axes_of, decimals, measured, number, optimized

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["SHOWN", "Interview", "Pair"]

ChoiceT = TypeVar("ChoiceT")

SHOWN = ("answers", "values", "both")
PARTICLES = 4000
ENOUGH = 0.02
"""Stated regret below which no more is asked."""
FORMAT = 1


@dataclass(frozen=True)
class Pair:
    """A question: which of two do you like better?

    Attributes:
        number: Of the question, from 1 on.
        prompt: What both were asked, text or chat messages; None where only numbers are shown.
        first: The one member's answer; "" where only numbers are shown.
        second: The other member's answer.
        first_values: The one member's means by objective, in the user's units; empty where only answers are shown.
        second_values: The other's.
        members: Names of the two members, first and second.
    """

    number: int
    prompt: Any
    first: str
    second: str
    first_values: Mapping[str, str]
    second_values: Mapping[str, str]
    members: tuple[str, str]

    def __str__(self) -> str:
        lines = [] if self.prompt is None else [f"Prompt: {one_line(_asked(self.prompt))}"]
        for name, text, values in (("1", self.first, self.first_values), ("2", self.second, self.second_values)):
            lines.append(f"({name})")
            if self.prompt is not None:
                lines += [f"  {line}" for line in printable(text.strip()).splitlines() or [""]]
            if values:
                lines.append("  " + ", ".join(f"{one_line(key)} {value}" for key, value in values.items()))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cards = []
        for text, values in ((self.first, self.first_values), (self.second, self.second_values)):
            rows = "".join(f"<li>{html.escape(one_line(k))} {html.escape(v)}</li>" for k, v in values.items())
            said = "" if self.prompt is None else f"<p style='white-space:pre-wrap'>{html.escape(printable(text))}</p>"
            cards.append(
                f"<td style='vertical-align:top;text-align:left'>{said}{f'<ul>{rows}</ul>' if rows else ''}</td>"
            )
        head = "" if self.prompt is None else f"<p>{html.escape(one_line(_asked(self.prompt)))}</p>"
        return f"{head}<table><tr><th>first</th><th>second</th></tr><tr>{''.join(cards)}</tr></table>"


class Interview(Generic[ChoiceT]):
    """Questions to a user, one after the other, and what his answers say.

    Made by `ParetoFront.elicit`. Ask `next()` for a question and give the reply to `answer()`, until there is no more.
    Equal seeds and answers give equal questions; `to_dict()` and `ParetoFront.elicit(resume=...)` go on later.

    Args:
        record: The front.
        choice: Makes a `Choice` of an `Answer`.
        questions: How many are asked at most.
        utilities: Which kinds of users there may be, of `pareto_align.front.elicitation.UTILITIES`.
        show: One of `SHOWN`: the members' answers to a prompt, their measured values, or both.
        enough: The stated regret below which no more is asked.
        lapse: Share of replies that are taken to say nothing, because people slip.
        at_least: Lower limits that members have to keep, as in `ParetoFront.select`.
        at_most: Upper limits, likewise.
        seed: Of all that is drawn.

    Raises:
        ConfigError: An argument is out of range.
        PreferenceError: No member keeps the limits, there is no member, or the answers to be shown were not kept.

    Attributes:
        history: The questions answered so far, each {"members", "prompt", "answer"}; `prompt` is its number among the
            kept ones, None where values were shown.
        questions: How many are asked at most.
    """

    def __init__(
        self,
        record: FrontRecord,
        choice: Callable[[Answer], ChoiceT],
        *,
        questions: int = 6,
        utilities: Sequence[str] = UTILITIES,
        show: str = "answers",
        enough: float = ENOUGH,
        lapse: float = 0.1,
        at_least: Mapping[str, float] | None = None,
        at_most: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        utilities = (utilities,) if isinstance(utilities, str) else tuple(utilities)
        if isinstance(questions, bool) or not isinstance(questions, int) or questions < 1:
            raise ConfigError(f"`questions` must be a whole number of at least 1. Found {questions!r:.40}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"`seed` must be a whole number of at least 0. Found {seed!r:.40}.")
        if show not in SHOWN:
            raise ConfigError(f"`show` must be one of {', '.join(SHOWN)}. Found {show!r:.40}.")
        if isinstance(enough, bool) or not isinstance(enough, float | int) or not 0 <= enough < 1:
            raise ConfigError(f"`enough` must be a share of the range of utilities, from 0 to 1. Found {enough!r:.40}.")
        if isinstance(lapse, bool) or not isinstance(lapse, float | int) or not 0 <= lapse < 1:
            raise ConfigError(f"`lapse` must be a share from 0 to below 1. Found {lapse!r:.40}.")
        if not record.members:
            raise PreferenceError("This front has no members to choose from.")
        self._record, self._choice, self.questions = record, choice, questions
        limits = limits_of(axes_of(record), at_least or {}, at_most or {})
        table = measured(record)
        axes = list(optimized(record))
        self._rows = [
            row for row in rows_within(table, limits) if np.isfinite(record.members[row].estimate.mean[axes]).all()
        ]
        if not self._rows:
            raise PreferenceError("No member was measured on all objectives, so there is nothing to choose from.")
        self._ids = [record.members[row].id for row in self._rows]
        self._settings: dict[str, Any] = {
            "questions": questions,
            "utilities": list(utilities),
            "show": show,
            "enough": float(enough),
            "lapse": float(lapse),
            "at_least": dict(at_least or {}),
            "at_most": dict(at_most or {}),
            "seed": seed,
        }
        seen = evidence(record, self._rows)
        frame = {**place_of(record, axes), "lower": seen.known["lower"], "upper": seen.known["upper"]}
        errors = drawn_errors(
            seen.means, seen.stderr, n=seen.known["n"], samples=seen.samples, bounds=seen.known["bounds"],
            draws=PARTICLES, seed=seed,
        )  # fmt: skip
        reach = np.ptp(seen.means, axis=0) + np.nan_to_num(seen.stderr).max(axis=0)
        # what is not known counts as exact, and what few measurements leave open, which has no mean, does not run away
        errors = np.clip(np.nan_to_num(errors), -reach, reach)
        self._users = Users(
            seen.means,
            **frame,
            errors=errors if errors.any() else None,
            utilities=utilities,
            particles=PARTICLES,
            lapse=lapse,
            seed=seed,
        )
        self._values = [
            {
                axis.name: number(table.values[row, i], decimals(table.halfwidth[:, i], table.values[:, i]))
                for i, axis in enumerate(axes_of(record))
            }
            for row in self._rows
        ]
        self._answers = [] if show == "values" else _answers(record, self._rows)
        self.history: list[dict[str, Any]] = []
        self._pending: tuple[int, int, int | None] | None = None

    # ---- asking --------------------------------------------------------------------------------------------------

    def next(self) -> Pair | None:
        """The next question; the same one until it is answered, and None where no more is to be asked."""
        if self._pending is None:
            self._pending = self._question()
        if self._pending is None:
            return None
        first, second, prompt = self._pending
        values = self._settings["show"] != "answers"
        asked, said = (None, ["", ""]) if prompt is None else self._answers[prompt]
        return Pair(
            number=len(self.history) + 1,
            prompt=asked,
            first=said[first] if prompt is not None else "",
            second=said[second] if prompt is not None else "",
            first_values=self._values[first] if values else {},
            second_values=self._values[second] if values else {},
            members=(self._ids[first], self._ids[second]),
        )

    def answer(self, verdict: str) -> None:
        """Take in the reply to the question that `next` gave.

        Args:
            verdict: "first", "second" or "same".

        Raises:
            ConfigError: It is none of these, or there is no question to answer.
        """
        if self._pending is None and self.next() is None:
            raise ConfigError("There is no question to answer: `next()` is None.")
        assert self._pending is not None
        first, second, prompt = self._pending
        self._users.answer(first, second, verdict)
        self.history.append({"members": [self._ids[first], self._ids[second]], "prompt": prompt, "answer": verdict})
        self._pending = None

    def _question(self) -> tuple[int, int, int | None] | None:
        if len(self.history) >= self.questions or self.stated_regret < self._settings["enough"]:
            return None
        count, left = len(self._rows), self.questions - len(self.history) - 1
        if self._settings["show"] == "values":
            askable = np.triu(np.ones((count, count), dtype=bool), 1)
            for said in self.history:
                i, j = sorted(self._ids.index(name) for name in said["members"])
                askable[i, j] = False
            left = min(left, int(askable.sum()) - 1)  # no two are compared by their numbers twice
        else:
            askable = np.zeros((count, count), dtype=bool)
            for i in range(count):
                for j in range(i + 1, count):
                    askable[i, j] = bool(self._prompts(i, j))
        pair = self._users.ask(askable, left)
        if pair is None:
            return None
        prompt = None if self._settings["show"] == "values" else self._prompts(*pair)[0]
        # who stands first must not say who is better
        turned = np.random.default_rng([self._settings["seed"], len(self.history)]).random() < 0.5
        return (*(pair[::-1] if turned else pair), prompt)

    def _prompts(self, i: int, j: int) -> list[int]:
        """Prompts on which two members differ and were not compared yet, those shown least first."""
        shown = [said["prompt"] for said in self.history]
        pair = {self._ids[i], self._ids[j]}
        done = {said["prompt"] for said in self.history if set(said["members"]) == pair}
        different = [
            number
            for number, (_, said) in enumerate(self._answers)
            if number not in done and said[i].strip() != said[j].strip()
        ]
        return sorted(different, key=shown.count)

    # ---- what is known -------------------------------------------------------------------------------------------

    @property
    def stated_regret(self) -> float:
        """What the user is expected to lose with the choice, as a share of the range of his utilities."""
        return self._users.regret()

    @property
    def preference(self) -> dict[str, float]:
        """Mean weight of each optimized objective over the users that are still likely."""
        return self._named(self._users.preference[0])

    @property
    def preference_spread(self) -> dict[str, float]:
        """Standard deviations of those weights: how much the answers leave open."""
        return self._named(self._users.preference[1])

    @property
    def kinds(self) -> dict[str, float]:
        """How likely the user is one of each kind, "linear" or "chebyshev"."""
        return {kind: self._users.likelihood_of(kind) for kind in self._users.kinds}

    @property
    def choice(self) -> ChoiceT:
        """The member that the answers so far speak for.

        Its `regret` is the stated one, its `probability_best` how likely it is this user's best.
        """
        users, best = self._users, self._users.best
        order = [int(i) for i in np.argsort(-users.expected, kind="stable") if i != best]
        likely = float(users.probability_best[best])
        count = len(self.history)
        reason = (
            f"{self._ids[best]} is best by {count} answer{'' if count == 1 else 's'}: the best for this user with "
            f"probability {likely:.2f}, and expected to lose {self.stated_regret:.3f} of the range of utilities. "
            f"Weights by the answers: {', '.join(f'{name} {weight:.2f}' for name, weight in self.preference.items())}."
        )
        limits = limits_of(axes_of(self._record), self._settings["at_least"], self._settings["at_most"])
        table = measured(self._record)
        return self._choice(
            Answer(
                row=self._rows[best],
                runner_up=self._rows[order[0]] if order else None,
                regret=self.stated_regret,
                probability_best=likely,
                feasible=all(limit.surely(table, self._rows[best]) for limit in limits),
                rule="elicited",
                reason=one_line(reason),
            )
        )

    def _named(self, weights: np.ndarray) -> dict[str, float]:
        names = [self._record.objectives[i].name for i in optimized(self._record)]
        return dict(zip(names, map(float, weights), strict=True))

    # ---- going on later ------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything that `ParetoFront.elicit(resume=...)` needs, ready for JSON."""
        state = {
            "format": FORMAT, "front": _fingerprint(self._record), "settings": dict(self._settings),
            "history": [dict(said) for said in self.history],
        }  # fmt: skip
        if self._pending is not None:  # what was shown is what a reply is about, whoever would ask what now
            first, second, prompt = self._pending
            state["asked"] = {"members": [self._ids[first], self._ids[second]], "prompt": prompt}
        return state

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict()` to a JSON file."""
        target = path_of(path, "path")
        try:
            target.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise FrontFileError(f"Cannot write {target}: {error.strerror or error}.") from error
        return target

    @classmethod
    def resumed(
        cls, record: FrontRecord, choice: Callable[[Answer], ChoiceT], state: Mapping[str, Any] | str | os.PathLike[str]
    ) -> Interview[ChoiceT]:
        """The session that `to_dict` or `save` gave, where it was left.

        Raises:
            FrontFileError: The file or the mapping is no session.
            ConfigError: The session is about another front.
        """
        found: Any = state
        if not isinstance(state, Mapping):
            path = path_of(state, "resume")
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise FrontFileError(f"{path} is no session of questions: {error}") from error
        if not isinstance(found, Mapping) or found.get("format") != FORMAT:
            raise FrontFileError(
                f"`resume` must be what a session's `to_dict()` or `save()` gave. Found {found!r:.80}."
            )
        if found.get("front") != _fingerprint(record):
            raise ConfigError("This session asked about another front, or about this one before it was measured again.")
        try:
            session = cls(record, choice, **found["settings"])
            for said in found["history"]:
                if said["answer"] not in VERDICTS:
                    raise ValueError(said)
                session._pending = session._placed(said)
                session.answer(said["answer"])
            session._pending = session._placed(found["asked"]) if "asked" in found else None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, ConfigError | PreferenceError):
                raise
            raise FrontFileError(f"`resume` is damaged: {error!r:.120}") from error
        return session

    def _placed(self, asked: Mapping[str, Any]) -> tuple[int, int, int | None]:
        """The rows and the prompt of a question that was written down."""
        first, second = map(self._ids.index, asked["members"])
        prompt = asked["prompt"]
        if not (prompt is None or self._answers[prompt]):
            raise ValueError(asked)
        return first, second, prompt

    def __repr__(self) -> str:
        return one_line(
            f"<{type(self).__name__} {len(self.history)} of {self.questions} questions answered, {len(self._ids)} "
            f"members, stated regret {self.stated_regret:.3f}>"
        )


def _answers(record: FrontRecord, rows: Sequence[int]) -> list[tuple[Any, list[str]]]:
    """Prompts that all members answered, each with the members' answers in order."""
    kept = []
    for row in rows:
        found: dict[str, Any] = {}
        for sample in record.members[row].sample:
            if isinstance(sample.get("completion"), str) and sample.get("prompt") is not None:
                found.setdefault(json.dumps(sample["prompt"], sort_keys=True), sample)
        kept.append(found)
    common = [key for key in kept[0] if all(key in found for found in kept)]
    if not common and len(rows) > 1:
        raise PreferenceError(
            "The members of this front have no answers to a common prompt, so there is nothing to show. Fit with "
            "`samples_kept` above 0 and held-out prompts to report on, let the run come to its end, or ask about "
            "numbers: elicit(show='values')."
        )
    return [(kept[0][key]["prompt"], [found[key]["completion"] for found in kept]) for key in common]


def _asked(prompt: Any) -> str:
    """The text of a prompt: of chat messages the last one's."""
    if isinstance(prompt, str):
        return prompt
    last = prompt[-1] if isinstance(prompt, list) and prompt else {}
    return str(last.get("content", "")) if isinstance(last, Mapping) else str(last)


def _fingerprint(record: FrontRecord) -> str:
    """Names and means of the members: what the questions are about."""
    told = [[member.id, member.estimate.mean.tolist(), member.sample] for member in record.members]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
