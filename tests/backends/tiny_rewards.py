"""Rewards of a module that imports nothing: whoever judges need not load what trains."""

from __future__ import annotations


def first(completions, **_):
    return [sum(symbol in "abcd" for symbol in text) / 4 for text in completions]


def second(completions, **_):
    return [sum(symbol in "cdef" for symbol in text) / 4 for text in completions]
