"""Preferences that a language model proposes, from a table of what was found.

References:
    Liu et al., "Large Language Models to Enhance Bayesian Optimization" (LLAMBO), arXiv 2402.03921: examples in several
        orders, a target inside of what was seen, answers that cannot be read dropped. Its surrogate by sampled
        predictions is left out: a Gaussian process is one already (`bayesian`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import numpy as np

from pareto_align.arguments import Count, Within, path_of
from pareto_align.discovery.explorers.allocation import BELOW
from pareto_align.discovery.explorers.base import Exploration, Task, register_explorer
from pareto_align.discovery.explorers.bayesian import Bayesian
from pareto_align.discovery.explorers.openings import CLOSE, nearest_parent
from pareto_align.errors import ConfigError
from pareto_align.front import Entry, hypervolume

__all__ = ["Llm"]

OBJECT = re.compile(r"\{[^{}]*\}")


@register_explorer("llm")
class Llm(Bayesian):
    """A grid whose free slots get preferences that a language model proposes; where it says none, `bayesian`'s.

    Slots become free as they do there. The model is shown what each preference reached and is asked, in several orders
    of these examples, for preferences as JSON objects with a weight for each objective. What cannot be read, and what
    is near to a preference that is pursued or was proposed before, is dropped.

    A language model need not answer alike twice. `memory` keeps what it said, so that a run that goes on, or is made
    again, hears the same.

    Args:
        ask: Takes a question and gives answers, such as one call of an API that draws several; or where such a function
            is to be found, "package.module:function". There is none by itself.
        memory: A file of questions and answers, added to; what is in it is not asked again. None keeps them in the
            run's own checkpoints, and what was asked since the last one is asked again.
        orders: Questions at a time, each with the examples in another order.
        examples: Largest number of examples, the youngest.
        target: Hypervolume to ask for, as a share of the range of those seen, from the best of them; below 0 it lies
            inside, as published.
        **more: Settings of `bayesian`.

    Raises:
        ConfigError: A setting is out of range. When a run begins: `ask` is missing or is no function.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str], Sequence[str]] | str | None = None,
        memory: str | Path | None = None,
        orders: Count = 2,
        examples: Count = 16,
        target: Annotated[float, Within(-1.0, 1.0)] = -0.2,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.ask = ask
        self.memory = None if memory is None else path_of(memory, "memory")
        self.orders, self.examples, self.target = int(orders), int(examples), float(target)
        self.heard: dict[str, list[str]] = {}

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        try:
            self.call: Any = resolve_name(self.ask) if isinstance(self.ask, str) else self.ask
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"Explorer 'llm': `ask` is not to be found: {error}") from error
        if not callable(self.call):
            raise ConfigError(
                "Explorer 'llm' asks a language model: give it `ask`, a function that takes a question and gives a "
                f"list of answers. Found {self.ask!r:.60}."
            )
        self.heard = {} if self.memory is None else _read(self.memory)
        return super().preferences(names, population, seed)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks = list(super().propose(state))
        free = [slot for slot, task in enumerate(tasks) if task is not None]
        if not free:
            return tasks
        proposed = self._proposed(state)
        for slot, preference in zip(free, proposed, strict=False):
            parent = nearest_parent(state, preference)
            reason = "It added nothing; the language model proposed this preference."
            tasks[slot] = Task(preference, reason, None if parent is None else parent.id)
        return tasks

    def _proposed(self, state: Exploration) -> list[np.ndarray]:
        """Preferences `[m]` that the answers hold and that are new, in the order in which they were said."""
        seen = self._observations(state)[-self.examples :]
        rng = np.random.default_rng(state.seed)
        known = [*state.preferences]
        found: list[np.ndarray] = []
        for _ in range(self.orders):
            question = self._question(state, [seen[i] for i in rng.permutation(len(seen))])
            for answer in self._heard(question):
                for text in OBJECT.findall(answer):
                    preference = _weights(text, state.names)
                    if preference is not None and all(np.abs(preference - p).max() >= CLOSE for p in known):
                        known.append(preference)
                        found.append(preference)
        return found

    def _question(self, state: Exploration, seen: Sequence[Entry]) -> str:
        points = state.points(seen)
        reference = np.minimum(points.min(0), 0.0) - BELOW
        volumes = [hypervolume(np.delete(points, i, axis=0), reference) for i in range(len(seen))]
        total = hypervolume(points, reference)
        gains = total - np.array(volumes)
        wanted = max(float(gains.max() + self.target * np.ptp(gains)), 0.0)
        lines = [
            "Policies are trained for preferences, weights that sum to 1. Each line has a preference, what the policy "
            "reached (0 to 1 spans what was seen, more is better) and how much hypervolume it adds to the front."
        ]
        for entry, point, gain in zip(seen, points, gains, strict=True):
            asked = np.asarray(entry.origin.preference, dtype=float)
            told = {name: round(float(w), 3) for name, w in zip(state.names, asked, strict=True)}
            reached = ", ".join(f"{name} {v:.3f}" for name, v in zip(state.names, point, strict=True))
            lines.append(f"{json.dumps(told)} -> {reached}; adds {gain:.4f}")
        lines.append(
            f"Propose a preference that none of these is close to and that adds {wanted:.4f}. "
            f"Answer with one JSON object with the keys {', '.join(json.dumps(name) for name in state.names)}."
        )
        return "\n".join(lines)

    def _heard(self, question: str) -> list[str]:
        """What is answered to a question; what was heard before is not asked again."""
        if question not in self.heard:
            answers = self.call(question)
            if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
                raise ConfigError(f"Explorer 'llm': `ask` must give a list of texts. Found {answers!r:.80}.")
            self.heard[question] = list(answers)
            if self.memory is not None:
                with self.memory.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"question": question, "answers": self.heard[question]}) + "\n")
        return self.heard[question]

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return super().state_dict() | {"heard": {q: list(answers) for q, answers in self.heard.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        if "heard" not in state:
            raise ConfigError(f"This is no state of explorer {self.name!r}: missing ['heard'].")
        super().load_state_dict({name: value for name, value in state.items() if name != "heard"})
        self.heard |= {str(q): list(answers) for q, answers in state["heard"].items()}


def _weights(text: str, names: Sequence[str]) -> np.ndarray | None:
    """The preference `[m]` that a JSON object says; None for anything else."""
    try:
        told = json.loads(text)
        weights = np.array([float(told[name]) for name in names])
    except (KeyError, TypeError, ValueError):
        return None
    usable = set(told) == set(names) and np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    return weights / weights.sum() if usable else None


def _read(memory: Path) -> dict[str, list[str]]:
    """Questions and answers of a file, which need not be there yet; a line that was cut off is none."""
    heard: dict[str, list[str]] = {}
    for line in memory.read_text(encoding="utf-8").splitlines() if memory.exists() else ():
        try:
            told = json.loads(line)
            heard[str(told["question"])] = [str(answer) for answer in told["answers"]]
        except (KeyError, TypeError, ValueError):
            continue
    return heard
