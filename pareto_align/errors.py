"""Every error and warning this package raises on purpose, in one tree.

`except ParetoAlignError` catches all of them; anything else that escapes is a defect of ours.
"""

from __future__ import annotations

from pareto_align.printable import printable

__all__ = [
    "ComparisonError",
    "ConfigError",
    "FrontFileError",
    "ModelError",
    "ObjectiveError",
    "ParetoAlignError",
    "ParetoAlignWarning",
    "PreferenceError",
    "PromptError",
    "TrainingError",
]


class ParetoAlignError(Exception):
    """Base of all errors raised by pareto_align."""

    def __str__(self) -> str:
        # names of a stranger's front are in here, and this is printed on terminals
        return printable(super().__str__())


class ConfigError(ParetoAlignError, ValueError):
    """A setting is wrong: an unknown name, a value out of range, settings that exclude each other."""


class ObjectiveError(ParetoAlignError):
    """An objective is defined wrongly, or its reward function returned something that is no reward."""


class PromptError(ParetoAlignError, ValueError):
    """The prompts cannot be used: none, of the wrong form, or too long for the model."""


class ComparisonError(ParetoAlignError, ValueError):
    """Comparisons cannot be used: none, of a form that is not known, with labels that mean nothing, or too long."""


class PreferenceError(ParetoAlignError, ValueError):
    """A preference names an unknown objective, has a negative or all-zero weight, or cannot be served."""


class FrontFileError(ParetoAlignError):
    """A front or run folder cannot be read, or cannot be written without losing what is there."""


class ModelError(ParetoAlignError):
    """The base model or its tokenizer cannot carry a population of LoRA policies."""


class TrainingError(ParetoAlignError):
    """Training stopped; what was found so far is on disk and can be loaded."""


class ParetoAlignWarning(UserWarning):
    """Something works but is probably not what was meant."""

    def __str__(self) -> str:
        return printable(super().__str__())
