"""Reward functions of fit.yaml: TRL's signature, one number for each completion."""

from __future__ import annotations

from typing import Any

GLAD = ("glad", "happy", "love", "enjoy", "wonderful", "great", "thank", "welcome")


def friendly(completions: list[Any], **columns: Any) -> list[float]:
    """Share of four friendly words that a completion has, at most 1."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [min(1.0, sum(word in text.lower() for word in GLAD) / 4) for text in texts]
