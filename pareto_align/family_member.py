"""The adapter that a family has for one preference."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.blend import Predicted
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.files import check_new
from pareto_align.front.interpolation import predict
from pareto_align.front.preferences import Preference
from pareto_align.messages import Instruction
from pareto_align.printable import one_line
from pareto_align.report.handover import write_predicted_files
from pareto_align.report.request import answer, run_limits, serves_better
from pareto_align.report.units import axes_of, decimals, interval_text, listed, optimized

if TYPE_CHECKING:
    from peft import PeftModel

    from pareto_align.front.storage import FrontRecord
    from pareto_align.policies.base import Prompt

__all__ = ["FamilyMember"]


class FamilyMember(Predicted):
    """One adapter of a family, for a preference that need not have been trained or measured.

    Args:
        record: The front that the family was trained for.
        folder: Its folder.
        preference: Whatever `Preference.of` reads.
        server: Gives the base model that `generate` answers with.
        scratch: Gives a folder for adapters that nobody asked to keep.

    Attributes:
        preference: `[m]` weights over the optimized objectives.
        predicted: `[M]` means over the front's `names`, in the user's units, read off between the preferences that were
            measured on the select split once the family was trained.
        halfwidth: `[M]` half the widths of their 95 % intervals: what the prompts leave open, and what leaving out a
            measured preference has missed. NaN where too few were measured to know.
    """

    def __init__(
        self,
        record: FrontRecord,
        folder: Path,
        preference: Any,
        *,
        server: Callable[[], Any],
        scratch: Callable[[], Path],
    ) -> None:
        family = record.family
        if family is None:
            raise ConfigError(
                "This front was trained as independent policies, which have an adapter for the preferences that they "
                "were trained for and for no others. Choose one with `front.select(preference)`, or fit with "
                "family='gates', the default where rewards of two objectives or more are learned from, to have an "
                "adapter for any preference."
            )
        self._record, self._family, self._server, self._scratch = record, family, server, scratch
        self._source = folder / family.adapter
        self._names = [objective.name for objective in record.objectives]
        self.preference = Preference.of(preference, self._spanning).weights
        if family.preferences:
            self.predicted, self.halfwidth = predict(
                family.preferences, family.values, family.stderr, family.n, self.preference
            )
        else:
            self.predicted = self.halfwidth = np.full(len(self._names), np.nan)

    def save(self, path: str | Path) -> Path:
        """Write the adapter to a new folder, a stock PEFT adapter that loads without this package.

        A README that says what is expected of it and how to load it, and the run's sampling, go with it.

        Raises:
            FrontFileError: The folder has something in it, or the family cannot be read.
        """
        target = path_of(path, "path")
        check_new(target)
        self._write(target)
        write_predicted_files(self._record, self.preference.tolist(), self._expected(), target, missed=self._missed())
        return target

    @property
    def _spanning(self) -> list[str]:
        return [self._names[i] for i in optimized(self._record)]

    def _write(self, target: Path) -> None:
        from pareto_align.policies.families import make_family, spoken, write_policy

        family = make_family({**self._family.settings, "name": self._family.name})
        if family is None:
            raise FrontFileError(f"The front's family is called {self._family.name!r}, which is no family.")
        family.ranks = (self._family.ranks[0], self._family.ranks[1])
        every = self._record.objectives
        family.names = [spoken(every[i].name, every[i].maximize) for i in optimized(self._record)]
        write_policy(family, self._source, self.preference, target)

    @property
    def instruction(self) -> Instruction | None:
        """What stands before every prompt; None where the adapter alone is the policy. `generate` puts it there."""
        return Instruction.read(self.adapter_path)

    @property
    def name(self) -> str:
        """A name for the adapter, the same for the same preference of the same family."""
        asked = f"{self._family.adapter} {self.preference.tolist()}"
        return f"at-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"

    @property
    def adapter_path(self) -> Path:
        """A stock PEFT folder of the adapter; a temporary one, which goes with the front. `save` writes one to keep."""
        folder = self._scratch() / self.name
        if not folder.is_dir():
            # a folder that was written in part, by a full disk or a Ctrl-C, must not pass for the adapter
            with tempfile.TemporaryDirectory(dir=self._scratch()) as partial:
                self._write(Path(partial) / self.name)
                (Path(partial) / self.name).rename(folder)
        return folder

    def load_model(self, base: Any = None, **load: Any) -> PeftModel:
        """The base model with this adapter on it; see `Member.load_model`."""
        loaded: PeftModel = self._server().load_model(self.adapter_path, self.name, base, **load)
        return loaded

    def generate(self, prompts: Prompt | Sequence[Prompt], *, batch_size: int = 8, **kw: Any) -> list[str]:
        """Answer prompts with this adapter; see `Member.generate`."""
        return self._server().generate(self.adapter_path, prompts, batch_size=batch_size, **kw)

    def _expected(self) -> list[str]:
        """[M] predicted values with their intervals."""
        return [
            interval_text(value, half, decimals(np.array([half]), np.array([value])))
            for value, half in zip(self.predicted, self.halfwidth, strict=True)
        ]

    @property
    def reason(self) -> str:
        """In a sentence: what answers, and what is known of it."""
        known = "Its values were read off between measured preferences."
        if not self._family.preferences:
            known = "No preference was measured after training, so nothing is predicted."
        told = f"The family {self._family.name!r} has an adapter of its own for this preference. {known}"
        if missed := self._missed():
            told += f" It is expected to miss {listed(missed)}."
        if (better := self.better) is not None:
            told += f" It does not hold that place yet: {better}, which was measured, serves the preference better."
        return told

    def _missed(self, means: np.ndarray | None = None) -> list[str]:
        """The run's limits that means [M], maximised, do not keep, in words; by default those that are predicted."""
        found = self._signs * self.predicted if means is None else means
        allowed = [objective.tolerance for objective in self._record.objectives]
        return [str(x) for x in run_limits(self._record) if x.maximized.missed_by(found) > allowed[x.column]]

    @property
    def _signs(self) -> np.ndarray:
        return np.array([axis.sign for axis in axes_of(self._record)])

    @property
    def better(self) -> str | None:
        """The member that serves the preference better than what is expected of this adapter at most, if there is one.

        Preferences are read as `front.select` reads them. Where the adapter is expected to miss a limit of the run, a
        member that keeps them all is better.
        """
        if not self._record.members or not np.isfinite(self.predicted).all():
            return None
        preference = Preference(self.preference)
        row = answer(self._record, preference).row
        hoped = self._signs * self.predicted + np.nan_to_num(self.halfwidth)
        safer = self._missed() and not self._missed(self._record.members[row].estimate.mean)
        better = safer or serves_better(self._record, row, hoped, preference)
        return self._record.members[row].id if better else None

    def to_dict(self) -> dict[str, Any]:
        """Names to numbers: {"preference", "predicted", "halfwidth"}, ready for JSON; None where nothing is known."""

        def named(numbers: np.ndarray) -> dict[str, float | None]:
            return {k: float(v) if np.isfinite(v) else None for k, v in zip(self._names, numbers, strict=True)}

        return {
            "preference": dict(zip(self._spanning, map(float, self.preference), strict=True)),
            "predicted": named(self.predicted),
            "halfwidth": named(self.halfwidth),
        }

    def __repr__(self) -> str:
        weights = " / ".join(f"{weight:.2f}" for weight in self.preference)
        parts = [f"{name} {text}" for name, text in zip(self._names, self._expected(), strict=True)]
        return one_line(f"<{type(self).__name__} {weights}: {', '.join(parts)}>")
