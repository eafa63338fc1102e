"""From a prompt to its tokens: raw text, or chat messages through the tokenizer's template."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pareto_align.errors import PromptError

__all__ = ["Marks", "encode_messages", "encode_text", "marks_of", "unknown_variables"]

PROBE = "7310462958"
"""A text that no template alters: it has neither case nor blanks."""


@dataclass(frozen=True)
class Marks:
    """What a chat template puts around a user's text.

    Attributes:
        tokens: The special tokens among it, as text.
        tail: What follows the text, up to where the policy goes on.
        speaks: Whether the text itself is in the rendering.
        takes_parts: Whether content in parts of text reads as their texts in a row.
    """

    tokens: tuple[str, ...]
    tail: str
    speaks: bool
    takes_parts: bool

    def rendered(self, text: str) -> bool:
        """Whether a text looks like a rendering of the template: it begins or ends as one does."""
        ends = len(self.tail) > 3 and text.rstrip().endswith(self.tail)
        return ends or text.lstrip().startswith(self.tokens)


def marks_of(tokenizer: Any, variables: Mapping[str, Any]) -> Marks:
    """What a chat template puts around a user's text; nothing where it refuses a lone user turn."""

    def render(content: Any) -> str | None:
        turn = {"role": "user", "content": content}
        try:
            rendered = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False, **variables)
        except Exception:  # a template is code of others; what it refuses is said of the prompts themselves
            return None
        return str(rendered)

    rendering = render(PROBE)
    parts = [{"type": "text", "text": PROBE[:5]}, {"type": "text", "text": PROBE[5:]}]
    if rendering is None:
        return Marks((), "", True, False)
    special = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
    found = sorted(token for token in special if token.strip() and token in rendering)
    return Marks(
        tuple(found), rendering.rpartition(PROBE)[2].strip(), PROBE in rendering, takes_parts=render(parts) == rendering
    )


def unknown_variables(tokenizer: Any, variables: Mapping[str, Any]) -> list[str]:
    """The variables that occur nowhere in the chat template, so that it passes over them."""
    template = tokenizer.chat_template or ""
    text = " ".join(map(str, template.values())) if isinstance(template, dict) else str(template)
    others = [name for name in variables if name != "chat_template"]  # which chooses one
    return [name for name in others if not re.search(rf"\b{re.escape(name)}\b", text)]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of raw text, with what the tokenizer puts in front of it, and nothing behind it.

    A tokenizer may end a text (`add_eos_token`), but the policy is to go on. One that begins texts does so once, also
    where the text has that token already.

    Raises:
        PromptError: The tokenizer refuses the text.
    """
    try:
        ids, bare = list(tokenizer(text)["input_ids"]), list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception as error:  # tokenizers raise what they like: a bare Exception where there is no unknown token
        raise PromptError(f"the tokenizer refuses it: {type(error).__name__}: {error}") from error
    for start in range(len(ids) - len(bare) + 1):
        if ids[start : start + len(bare)] == bare:
            ids = ids[: start + len(bare)]
            break
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        del ids[0]
    return ids


def encode_messages(
    tokenizer: Any, messages: list[dict[str, Any]], variables: Mapping[str, Any], *, ended: bool = False
) -> list[int]:
    """Token ids of a conversation, up to where the policy goes on.

    That is the beginning of the assistant's turn, or the end of what it says, where the last turn is the assistant's.

    Args:
        tokenizer: With a chat template.
        messages: The conversation.
        variables: Of the template.
        ended: Render the whole conversation instead, with what the template puts behind its last turn.

    Raises:
        PromptError: The template refuses the conversation.
    """
    last = messages[-1]
    goes_on = not ended and last["role"] == "assistant" and isinstance(last.get("content"), str)
    render = functools.partial(
        tokenizer.apply_chat_template,
        messages,
        add_generation_prompt=not (goes_on or ended),
        continue_final_message=goes_on,
        **variables,
    )
    try:
        ids = render(tokenize=True, return_dict=False)
    except Exception as error:  # a template is code of others, and raises what it likes
        raise PromptError(f"the chat template refuses it: {type(error).__name__}: {error}") from error
    return list(ids)
