"""Families of one adapter: the preference is said in a text before the prompt.

All policies share A and B. What differs is the text, which is the same in training, in measuring and in serving, so a
member is a stock LoRA adapter and its text. Numbers are rounded before they are said: preferences that are said alike
are one policy.

Every learner from rewards trains the adapter, at the weights that the text says. The papers train by other means. DPA
keeps the best of several answers and fine-tunes on them, which is the credit "best" here; RiC fine-tunes on answers
that are tagged with the rewards they had, which is the learner "ric".

References:
    Wang et al., "Arithmetic Control of LLMs for Diverse User Preferences: Directional Preference Alignment with
        Multi-Objective Rewards", arXiv 2402.18571 (directions; the wording is that of the authors' model card).
    Gupta et al., "Robust Multi-Objective Preference Alignment with Online DPO", arXiv 2503.00295 (weights in the
        prompt; the wording is ours).
    Yang et al., "Rewards-in-Context: Multi-objective Alignment of Foundation Models with Dynamic Preference
        Adjustment", arXiv 2402.10207 (rewards in the prompt, and from a preference to the rewards to ask for).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.messages import Instruction
from pareto_align.policies.families.base import Family, register_family

__all__ = ["Directions", "Prompted", "Rewards", "Weights"]

Place = Literal["system", "user"]
Target = Literal["linf", "l2", "linear"]


class Prompted(Family):
    """A family of one adapter of the LoRA config's rank, which is told the preference. A subclass says how: `text`.

    Args:
        place: Where a chat template has the text: in a "system" message, in front of the one that a conversation has,
            or at the beginning of the first "user" turn, for templates without system messages. Without a chat template
            it stands in front of the prompt.

    Raises:
        ConfigError: A setting is out of range.
    """

    instructs: ClassVar[bool] = True

    def __init__(self, *, place: Place = "system") -> None:
        super().__init__()
        self.place = place

    @abstractmethod
    def text(self, preference: NDArray[np.float64]) -> str:
        """What is said for a preference `[m]`; `names` has the objectives."""

    def instruction(self, preference: Any) -> Instruction:
        """See `Family.instruction`."""
        # of a preference as a row holds it: one that was written down with more digits is to be said alike
        held = np.asarray(preference, dtype=np.float32)
        return Instruction(self.text(held.astype(float)), self.place)

    def rank(self, m: int) -> int:
        """See `Family.rank`: the config's."""
        return self.ranks[0]

    def cores(self, preferences: Tensor, extras: Tensor) -> Tensor:
        """See `Family.cores`: the identity."""
        return preferences.new_ones(len(preferences), 1, self.ranks[0])


@register_family("directions")
class Directions(Prompted):
    """DPA: the preference as a direction of length 100, and what to maximize.

    Args:
        place: Where a chat template has the text: in a "system" message, or at the beginning of the first "user" turn.

    Raises:
        ConfigError: A setting is out of range.
    """

    def text(self, preference: NDArray[np.float64]) -> str:
        """See `Prompted.text`."""
        parts = np.round(100 * preference / np.linalg.norm(preference)).astype(int)
        told = " + ".join(f"{name}*{part}" for name, part in zip(self.names, parts, strict=True))
        return f"Your response should maximize weighted rating = {told}"


@register_family("weights")
class Weights(Prompted):
    """The weights of the objectives in percent.

    Args:
        place: Where a chat template has the text: in a "system" message, or at the beginning of the first "user" turn.

    Raises:
        ConfigError: A setting is out of range.
    """

    def text(self, preference: NDArray[np.float64]) -> str:
        """See `Prompted.text`."""
        shares = np.round(100 * preference).astype(int)
        told = ", ".join(f"{name} {share} %" for name, share in zip(self.names, shares, strict=True))
        return f"Priorities: {told}."


@register_family("rewards")
class Rewards(Prompted):
    """RiC: the rewards to reach, on the run's frozen scale, on which the untrained model's have mean 0 and deviation 1.

    Args:
        target: From weights w to rewards between `low` and `high`. "linf": the heaviest objective at `high`, the others
            at min(m w, 1) of the way; "l2": at w / ||w||; "linear": at w.
        low, high: Rewards of an objective without weight and with all of it; one number, or one an objective. By
            default where the untrained model has its lowest and its highest twentieth, if its rewards are normal.
        place: Where a chat template has the text: in a "system" message, or at the beginning of the first "user" turn.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        target: Target = "linf",
        low: float | Sequence[float] = -1.6,
        high: float | Sequence[float] = 1.6,
        place: Place = "system",
    ) -> None:
        super().__init__(place=place)
        self.target = target
        try:
            self.low, self.high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
            sound = bool((self.low < self.high).all()) and all(np.isfinite(x).all() for x in (self.low, self.high))
        except (TypeError, ValueError):
            sound = False
        if not sound or max(self.low.ndim, self.high.ndim) > 1:
            raise ConfigError(
                "Family 'rewards': `low` and `high` must be numbers, or one an objective, `low` below `high`. Found "
                f"{low!r:.40} and {high!r:.40}."
            )

    def lora(self, config: Any, names: Sequence[str]) -> Any:
        """See `Family.lora`.

        Raises:
            ConfigError: There is only one objective, or another number of them than of `low` or `high`.
        """
        for setting in ("low", "high"):
            found: NDArray[np.float64] = getattr(self, setting)
            if found.ndim and len(found) != len(names):
                raise ConfigError(
                    f"Family 'rewards': `{setting}` must be one number, or one for each of the {len(names)} objectives "
                    f"to optimize. Found {len(found)}."
                )
        return super().lora(config, names)

    def targets(self, preference: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rewards `[m]` to ask for at a preference `[m]`, to one digit after the point."""
        if self.target == "linf":
            share = np.minimum(len(preference) * preference, 1.0)
            share[preference.argmax()] = 1.0
        else:
            share = preference if self.target == "linear" else preference / np.linalg.norm(preference)
        return np.round(share * (self.high - self.low) + self.low, 1) + 0.0  # no -0

    def text(self, preference: NDArray[np.float64]) -> str:
        """See `Prompted.text`."""
        return self.words(self.targets(preference))

    def said(self, rewards: Any) -> Instruction:
        """What stands before a prompt whose answer had rewards `[m]`, as before one that asks for them."""
        return Instruction(self.words(np.round(np.asarray(rewards, dtype=float), 1) + 0.0), self.place)

    def words(self, rewards: NDArray[np.float64]) -> str:
        """Rewards `[m]`, to one digit after the point, in words; nothing is said of one that is NaN."""
        return " ".join(f"<{n}> {x:.1f}" for n, x in zip(self.names, rewards, strict=True) if np.isfinite(x))
