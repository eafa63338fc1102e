"""A family that says the preference in symbols, so that models of a few symbols can be told it."""

from __future__ import annotations

from tokenizers.normalizers import Replace

from pareto_align.policies.families import Prompted, register_family


@register_family("symbols")
class Symbols(Prompted):
    """Six symbols, as many of each objective's as it has sixths of the weight."""

    def text(self, preference):
        return "".join("abcdef"[i] * round(6 * weight) for i, weight in enumerate(preference))


def passing_lines(tokenizer):
    """A tokenizer of few symbols, which passes over the end of a line behind what is told."""
    tokenizer.backend_tokenizer.normalizer = Replace("\n", "")
    return tokenizer
