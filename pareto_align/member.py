"""A member of a front, and the choice of one.

They read the front that they belong to through `FrontView`, and know nothing of how it was loaded. Importing this
module loads neither torch nor matplotlib nor pandas.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.front.files import check_new
from pareto_align.messages import Instruction
from pareto_align.printable import one_line
from pareto_align.report.explanation import explanation
from pareto_align.report.fallen import in_words
from pareto_align.report.handover import generation_settings, write_member_files
from pareto_align.report.units import decimals, interval_texts, optimized

if TYPE_CHECKING:
    from peft import PeftModel

    from pareto_align.front.storage import FrontRecord, MemberRecord
    from pareto_align.policies.base import Base, Prompt
    from pareto_align.report.request import Answer

__all__ = ["Choice", "FrontView", "Member"]


class FrontView(Protocol):
    """What a member asks of its front; `ParetoFront` says what each means."""

    record: FrontRecord
    folder: Path
    names: tuple[str, ...]
    values: np.ndarray
    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    halfwidth: np.ndarray
    doubts: tuple[tuple[str, ...], ...]
    base: Base | None

    def server(self) -> Any:
        """The base model that answers with any member."""

    def members_html(self, members: Sequence[Member]) -> str:
        """The table of some members."""

    def __getitem__(self, key: int) -> Member: ...


class Member:
    """One adapter of a front, with what was measured of it.

    Attributes:
        id: Its name within the front.
        values: [M] means over the front's `names`, in the user's units.
        stderr: [M] standard errors, same units; NaN where fewer than two prompts were measured.
        low: [M] lower ends of the 95 % intervals, same units: for rewards with bounds ends that hold for any such
            rewards, for others by Student's t; NaN where fewer than two prompts were measured.
        high: [M] upper ends, likewise.
        halfwidth: [M] half the widths of those intervals, which need not have the mean in their middle.
        doubts: [M] why an interval is not to be trusted: "few", "rare" or "skewed"; "" where it is.
        preference: [m] weights it was trained for, or None if it was trained for none.
        provenance: Where it comes from: step, policy, parents.
        adapter_path: Its folder, a stock PEFT adapter.
    """

    def __init__(self, front: FrontView, index: int) -> None:
        self._front = front
        self._record: MemberRecord = front.record.members[index]
        self.id = self._record.id
        self.values = front.values[index]
        self.stderr = front.stderr[index]
        self.low, self.high = front.low[index], front.high[index]
        self.halfwidth = front.halfwidth[index]
        self.doubts = front.doubts[index]
        self.preference = None if self._record.preference is None else np.asarray(self._record.preference, dtype=float)
        self.provenance: dict[str, Any] = dict(self._record.provenance)
        if isinstance(doubt := self.provenance.get("report"), str):
            self.provenance["report"] = in_words(doubt, front.record.objectives)
        self.adapter_path = front.folder / self._record.adapter

    @property
    def instruction(self) -> Instruction | None:
        """What stands before every prompt; None where the adapter alone is the policy. `generate` puts it there.

        Raises:
            FrontFileError: It cannot be read.
        """
        return Instruction.read(self.adapter_path)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """A few answers of its own, each {"prompt", "completion"}."""
        return list(self._record.sample)

    def to_dict(self) -> dict[str, Any]:
        """Names to numbers: {"id", "values", "stderr", "interval", "preference", "adapter_path"}, ready for JSON."""
        front = self._front
        spanning = [front.names[i] for i in optimized(front.record)]
        weights = None if self.preference is None else dict(zip(spanning, map(float, self.preference), strict=True))
        return {
            "id": self.id,
            "values": dict(zip(front.names, map(float, self.values), strict=True)),
            "stderr": dict(zip(front.names, map(float, self.stderr), strict=True)),
            "interval": dict(zip(front.names, np.stack([self.low, self.high], axis=1).tolist(), strict=True)),
            "preference": weights,
            "adapter_path": str(self.adapter_path),
        }

    def load_model(self, base: Any = None, **load: Any) -> PeftModel:
        """The base model with this adapter on it.

        Args:
            base: A base model, its name, or a `PeftModel` that a call before returned, which then gets this adapter
                too and switches to it; a member of the same name from another front gives way on it. By default the
                base is loaded by the name the run recorded; one that was given in memory is the front's `base`, which
                `generate` answers with as well, so that the next call may switch it to another member.
            **load: Passed to `pareto_align.policies.base.load_base`, such as `device` or `dtype`.

        Raises:
            ModelError: The run was given a model in memory, neither `base` nor the front has it, or it does not fit.
            FrontFileError: The adapter's config says something that no member's does; nothing in it is run.
        """
        loaded: PeftModel = self._front.server().load_model(self.adapter_path, self.id, base, **load)
        return loaded

    def merge(self, path: str | os.PathLike[str], *, dtype: str | None = None) -> Path:
        """Merge the adapter into a copy of the base model: a whole model that plain transformers loads.

        Args:
            path: A folder that does not exist yet, or is empty.
            dtype: What the base is loaded as; by default as it was trained on. Sums that are rounded to bfloat16 are
                not quite what base and adapter say apart.

        Returns:
            The folder.

        Raises:
            ConfigError: `path` is no path.
            FrontFileError: It has something in it, or cannot be written.
            ModelError: The base model cannot be loaded, or nothing can be merged into it: it is quantised, or the
                adapter is an activated one.
        """
        from pareto_align.policies.merging import Merger

        target, record = path_of(path, "path"), self._front.record
        check_new(target)
        merger = Merger(record.base, generation_settings(record), base=self._front.base, dtype=dtype)
        merger.merge(self.adapter_path, target)
        write_member_files(record, self.id, target, merged=True)
        return target

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, batch_size: int = 8, seed: int | None = 0, **kw: Any
    ) -> list[str]:
        """Answer prompts with this adapter, by default as it answered when it was measured.

        Temperature, `top_k`, `top_p` and length are those of the run; the model's own generation config has no say.
        The base model is loaded once for a front and kept; members share it.

        Args:
            prompts: One prompt or several, each text or chat messages.
            batch_size: Prompts answered at a time.
            seed: Of what is drawn: equal calls give equal answers. None goes on with torch's own random state.
            **kw: Passed to `generate` of transformers, where it wins: `max_new_tokens`, `temperature` (0 takes the
                likeliest token), `do_sample=False`, ... A `generation_config` replaces the run's sampling altogether.

        Returns:
            One completion a prompt.

        Raises:
            ConfigError: `batch_size` or `seed` is none, or transformers does not take what is passed to it.
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base or the adapter cannot be loaded; where the run was given a model in memory, the front's
                `base` must be set first.
        """
        return self._front.server().generate(self.adapter_path, prompts, batch_size=batch_size, seed=seed, **kw)

    def __repr__(self) -> str:
        front, parts = self._front, []
        for i, name in enumerate(front.names):
            digits = decimals(front.halfwidth[:, i], front.values[:, i])
            (text,) = interval_texts(self.values[i : i + 1], self.low[i : i + 1], self.high[i : i + 1], digits)
            parts.append(f"{name} {text}")
        return one_line(f"<{type(self).__name__} {self.id}: {', '.join(parts)}>")

    def _repr_html_(self) -> str:
        return self._front.members_html([self])


class Choice:
    """The member that serves a preference best, and how sure that is.

    Attributes:
        member: The chosen member.
        regret: Expected loss against the member that is truly best, in normalised utility: what noise may cost. NaN
            where one measurement, or a few all equal, say nothing of the noise.
        runner_up: The member that comes second, or None on a front of one.
        probability_best: How likely the choice is the best on all prompts like those measured on, by Student's t; NaN
            where one measurement, or a few all equal, say nothing of the noise.
        feasible: Whether its whole 95 % intervals keep the asked limits, each by itself; its means always do. False
            where one measurement, or a few all equal, say nothing of the noise.
        rule: The rule that chose: "chebyshev", "linear", "knee", "lexicographic" or the name of a function; "elicited"
            by the answers of a user, "like" by comparisons.
        posterior: Of `select_like`, how probable it is that each member, by its id, is the one that is wanted; else
            None.
        reason: A few sentences saying why, and how the preference was read.
    """

    def __init__(self, front: FrontView, answered: Answer) -> None:
        self.member = front[answered.row]
        self.regret = answered.regret
        self.runner_up = None if answered.runner_up is None else front[answered.runner_up]
        self.probability_best = answered.probability_best
        self.feasible = answered.feasible
        self.rule = answered.rule
        self.posterior = None if answered.posterior is None else dict(answered.posterior)
        self._front, self._answered = front, answered
        self.reason = answered.reason

    def explain(self) -> str:
        """Two sentences for somebody who decides on it: its values against the untrained model's, and what the
        runner-up would change, in the user's units."""
        return explanation(self._front.record, self._answered)

    def _repr_html_(self) -> str:
        shown = [self.member, *([] if self.runner_up is None else [self.runner_up])]
        return f"<p>{html.escape(self.explain())}</p>{self._front.members_html(shown)}"

    @property
    def values(self) -> np.ndarray:
        """[M] the member's means, in the user's units."""
        return self.member.values

    @property
    def stderr(self) -> np.ndarray:
        """[M] the member's standard errors."""
        return self.member.stderr

    @property
    def adapter_path(self) -> Path:
        """The member's folder, a stock PEFT adapter."""
        return self.member.adapter_path

    def load_model(self, base: Any = None, **load: Any) -> PeftModel:
        """The base model with the chosen adapter on it; see `Member.load_model`."""
        return self.member.load_model(base, **load)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, batch_size: int = 8, seed: int | None = 0, **kw: Any
    ) -> list[str]:
        """Answer prompts with the chosen adapter; see `Member.generate`."""
        return self.member.generate(prompts, batch_size=batch_size, seed=seed, **kw)

    def __repr__(self) -> str:
        second = "" if self.runner_up is None else f", runner-up {self.runner_up.id}"
        member = repr(self.member).removeprefix("<Member ").removesuffix(">")
        if np.isnan(self.probability_best):
            return one_line(f"<Choice {member}; not known to be the best, too little was measured{second}>")
        sure = f"best with probability {self.probability_best:.2f}, regret {self.regret:.3f}"
        return one_line(f"<Choice {member}; {sure}{second}>")
