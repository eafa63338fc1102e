"""What a prompt may be: text, or chat messages, and what may stand before it. Files, `fit` and serving read prompts
alike, so this is said once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pareto_align.errors import ConfigError, FrontFileError, PromptError
from pareto_align.printable import kind_of

__all__ = [
    "INSTRUCTION_FILE",
    "Instruction",
    "Prompt",
    "messages_in_parts",
    "read_prompt",
    "refuse_instructions",
    "template_variables",
]

_SET_ELSEWHERE = frozenset(
    {
        "conversation", "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation",
        "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip

INSTRUCTION_FILE = "instruction.json"
"""In the folder of an adapter that is only right behind its instruction."""

Prompt = str | list[dict[str, Any]]
"""A prompt: plain text, or chat messages as `[{"role": ..., "content": ...}, ...]`."""


@dataclass(frozen=True)
class Instruction:
    """What stands before every prompt of a policy.

    Attributes:
        text: It.
        place: "system" for a system message, in front of the one that a conversation has; "user" for the beginning of
            the first user turn. Without a chat template the text stands on a line of its own before the prompt.
    """

    text: str
    place: str = "system"

    def before(self, prompt: Any, *, templated: bool) -> Prompt:
        """A prompt with it.

        Args:
            prompt: As `read_prompt` takes it.
            templated: Whether a text is sent as a user turn of the chat template.

        Raises:
            PromptError: The prompt cannot be read.
        """
        read = read_prompt(prompt)
        if isinstance(read, str):
            if not templated:
                return f"{self.text}\n{read}"
            read = [{"role": "user", "content": read}]
        for number, turn in enumerate(read):
            if turn["role"] == self.place:
                return [*read[:number], {**turn, "content": f"{self.text}\n\n{turn['content']}"}, *read[number + 1 :]]
        return [{"role": self.place, "content": self.text}, *read]

    def write(self, folder: Path) -> None:
        """Put it beside an adapter."""
        (folder / INSTRUCTION_FILE).write_text(
            json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def read(cls, folder: Path) -> Instruction | None:
        """That of an adapter's folder; None where it has none.

        Raises:
            FrontFileError: The file cannot be read.
        """
        file = folder / INSTRUCTION_FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found["text"], str) or found["place"] not in ("system", "user"):
                raise ValueError("it has no text, or no place for it")
            return cls(found["text"], found["place"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise FrontFileError(f"The instruction in {file} cannot be read: {error}") from error


def refuse_instructions(folders: Iterable[Path], why: str) -> None:
    """Refuse adapters that are told something before every prompt, for what asks without it.

    Args:
        folders: Of adapters.
        why: What would be wrong, as the end of a sentence.

    Raises:
        ConfigError: One of them is.
    """
    if any(Instruction.read(folder) is not None for folder in folders):
        raise ConfigError(f"The members of this front are told what to prefer before every prompt, and {why}.")


def read_prompt(found: Any) -> Prompt:
    """A prompt as chat templates take it: messages are dicts, and content that comes in parts of text is one text.

    Args:
        found: Text, or a list of chat messages; arrays and tuples, as tables hold them, are lists.

    Raises:
        PromptError: It is neither, is empty, or holds what a template would leave out or print as Python does.
    """
    if isinstance(found, str):
        if not found.strip():
            raise PromptError("A prompt is empty. Remove it or write something to answer.")
        _check_encodes(found)
        return found
    if isinstance(found, Mapping) and ("role" in found or "from" in found):
        raise PromptError("A prompt is a single chat message. Put it in a list: a conversation is a list of messages.")
    if not isinstance(found, list | tuple) and hasattr(found, "tolist"):
        found = found.tolist()  # an array, as frames and Parquet files have them
    if not (isinstance(found, list | tuple) and found and all(isinstance(turn, Mapping) for turn in found)):
        shown = "" if found is None else f": {found!r:.80}"
        raise PromptError(f"A prompt must be a string or a list of chat messages. Found {kind_of(found)}{shown}.")
    return [_message(turn, number) for number, turn in enumerate(found)]


def template_variables(given: Any) -> dict[str, Any]:
    """Variables for a chat template, checked; None has none. Those that are None are left out, as tables fill rows up.

    Raises:
        ConfigError: They are no mapping of names to what JSON can hold, or one of them is not the user's to decide.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"`chat_template_kwargs` must map names to values. Found {given!r:.80}.")
    if ours := sorted(_SET_ELSEWHERE & given.keys()):
        raise ConfigError(f"`chat_template_kwargs` cannot have {ours[0]!r}: it is decided by what the prompts are.")
    found = {name: value for name, value in given.items() if value is not None}
    if "{" in str(found.get("chat_template", "")):
        raise ConfigError(
            "`chat_template_kwargs` may choose one of the tokenizer's templates by its name. A template itself is set "
            "on the tokenizer: `tokenizer.chat_template = ...`."
        )
    try:
        kept = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        kept = None
    if kept != found:  # a run and its front keep them as JSON
        raise ConfigError(f"`chat_template_kwargs` must hold text, numbers, lists and mappings. Found {found!r:.200}.")
    return found


def _message(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    where = f"Message {number}"
    if {"from", "value"} <= turn.keys() and "role" not in turn:
        raise PromptError(
            f"{where} has ShareGPT's keys `from` and `value`. Chat templates read `role` (user, assistant, system) and "
            "`content`: rename them."
        )
    if not isinstance(turn.get("role"), str):
        raise PromptError(f"{where} needs its `role`, as text. Found {dict(turn)!r:.80}.")
    _check_encodes(turn["role"])
    content: Any = turn.get("content")
    if content is None and turn.get("tool_calls"):
        return dict(turn)
    if not isinstance(content, str) and hasattr(content, "tolist"):
        content = content.tolist()
    if isinstance(content, list | tuple):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise PromptError(f"{where} needs its `content`, as text. Found {dict(turn)!r:.80}.")
    _check_encodes(content)
    return {**turn, "content": content}


def messages_in_parts(conversation: Any) -> list[int]:
    """The numbers of the messages whose content comes in parts, as those of models that see images do."""
    return [number for number, turn in enumerate(conversation) if not isinstance(turn.get("content"), str | None)]


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str) or part.get("type", "text") != "text":
        raise PromptError(f"{where} has a part that is no text, and only text can be read. Found {part!r:.80}.")
    return text


def _check_encodes(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        raise PromptError(
            f"The text holds half of a surrogate pair ({code}) at character {error.start}, which is no character. "
            "Repair or remove it."
        ) from None
