"""What fitting returns: a front of adapters, its members, and the choice of one.

A thin facade. What a front is lies in `front`, its pictures in `report`, the model in `policies`; here their answers
are put in the user's units. Importing this module loads neither torch nor matplotlib nor pandas.
"""

from __future__ import annotations

import html
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.front.certificates import Bounds, bounds_at
from pareto_align.front.files import check_new
from pareto_align.front.interpolation import controllability
from pareto_align.front.origin import Origin
from pareto_align.front.preferences import Preference
from pareto_align.front.reading import inside, read_front_json
from pareto_align.front.storage import FrontRecord, read_front, write_front
from pareto_align.member import Choice, Member
from pareto_align.messages import refuse_instructions
from pareto_align.printable import one_line
from pareto_align.report import export as exporting
from pareto_align.report.attained import front_hypervolume
from pareto_align.report.card import model_card
from pareto_align.report.fallen import Fallen, fallen_entries
from pareto_align.report.handover import MEMBER_FILES, generation_settings, write_card
from pareto_align.report.request import Answer, answer
from pareto_align.report.table import front_table, html_table, policy_rows, text_table
from pareto_align.report.units import axes_of, measured, optimized
from pareto_align.runs.checkpoint import remove_checkpoint
from pareto_align.runs.folder import in_use
from pareto_align.runs.journal import scan_journal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from pareto_align.blend import Blend
    from pareto_align.calibration import Calibration
    from pareto_align.family_member import FamilyMember
    from pareto_align.front.headroom import Headroom
    from pareto_align.gate import Gate, Routed
    from pareto_align.interview import Interview, Pair
    from pareto_align.policies.base import Base, Prompt
    from pareto_align.report.comparison import FrontComparison

__all__ = ["Choice", "Member", "ParetoFront", "Shown"]

SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p")  # of the run, in the record of a front


class Shown:
    """The page of a front as a notebook shows it.

    Attributes:
        page: The HTML.
        height: Of its frame, in pixels.
    """

    def __init__(self, page: str, height: int) -> None:
        self.page = page
        self.height = height

    def _repr_html_(self) -> str:
        from pareto_align.report.page import framed

        return framed(self.page, self.height)

    def __repr__(self) -> str:
        return "<the page of a front: a notebook shows it, and front.page(path) writes it to a file>"


class ParetoFront:
    """A front of adapters: read it, look at it, choose from it, ship it.

    Attributes:
        record: The front as stored; maximised inside.
        path: The folder it was loaded from.
        folder: The front folder itself, which holds front.json.
        history: The run's journal, a list of events; empty where there is none.
        problems: What was wrong with the folder: members and lines of the journal that could not be loaded.
        names: The M objectives in the user's order, audited ones included.
        values: [n, M] means in the user's units, a row a member.
        stderr: [n, M] standard errors of those means.
        low: [n, M] lower ends of their 95 % intervals; see `Member`.
        high: [n, M] upper ends.
        halfwidth: [n, M] half the widths of those intervals.
        doubts: [n][M] why an interval is not to be trusted, "" where it is.
        base: The base model in memory, as `pareto_align.policies.load_base` gives it, if `generate` should use that
            one; by default it is loaded by its name.
    """

    def __init__(
        self,
        record: FrontRecord,
        path: str | os.PathLike[str],
        *,
        history: Sequence[Mapping[str, Any]] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self.record = record
        self.path = Path(path)
        self.folder = exporting.front_folder(self.path)
        self.history = [dict(event) for event in history]
        self.problems = list(problems)
        self.names = tuple(axis.name for axis in axes_of(record))
        table = measured(record)
        self.values = table.values
        self.low, self.high, self.halfwidth = table.low, table.high, table.halfwidth
        self.doubts = table.doubts
        self.stderr = np.array([m.estimate.stderr for m in record.members]).reshape(-1, len(self.names))
        self._members = [Member(self, i) for i in range(len(record.members))]
        self.base: Base | None = None
        self._server: Any = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> ParetoFront:
        """Load a front from a run folder or a front folder.

        Nothing that is read is run or imported. A damaged member, or a damaged line of the journal, is left out with
        a warning and named in `problems`.

        Args:
            path: The folder, or the front.json in it.
            verify: Whether front.json and the adapter files are compared with their checksums.

        Raises:
            ConfigError: `path` is no path.
            FrontFileError: There is no front, its front.json is damaged, or a path or link in it leaves the folder.
        """
        folder = path_of(path, "path")
        if folder.name == "front.json":
            folder = folder.parent
        if not exporting.front_folder(folder).joinpath("front.json").exists() and in_use(folder):
            raise FrontFileError(
                f"The run in {folder} goes on, and has measured nothing yet: it loads the model, or measures it "
                "untrained. There is a front after that."
            )
        record, problems = read_front(folder, verify=verify)
        journal = exporting.journal_path(folder)
        # `save` copies the journal: one that is a link would publish what it leads to
        history, damage = scan_journal(inside(journal.parent, journal.name))
        if record.disparity is not None:
            damage = [record.disparity, *damage]
        for problem in damage:
            warnings.warn(problem, ParetoAlignWarning, stacklevel=2)
        if any(event.get("event") == "end" for event in history):
            remove_checkpoint(journal.parent)  # a run killed right after its end leaves one, which nothing needs
        return cls(record, folder, history=history, problems=[*problems, *damage])

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __getitem__(self, key: int | str) -> Member:
        if isinstance(key, str):
            for member in self._members:
                if member.id == key:
                    return member
            raise KeyError(f"This front has no member {key!r}. It has {', '.join(m.id for m in self._members)}.")
        try:
            return self._members[key]
        except IndexError:
            raise IndexError(f"This front has {len(self)} members, counted from 0. There is no {key!r}.") from None

    def at(self, preference: Any) -> FamilyMember:
        """The adapter of a family for any preference, trained for it or not.

        Args:
            preference: By objective, {"tone": 0.6, "brevity": 0.4}, or one weight an optimized objective in order.

        Raises:
            ConfigError: The front is one of independent policies; `select` chooses among those.
            PreferenceError: The preference cannot be read.
        """
        from pareto_align.family_member import FamilyMember

        return FamilyMember(self.record, self.folder, preference, server=self.server, scratch=self._scratch_folder)

    @property
    def controllability(self) -> dict[str, float] | None:
        """How well the family does as it is told; None of independent policies.

        Of each optimized objective, Spearman's correlation of its weight with its value over the preferences that were
        measured once the family was trained: 1 where more weight always means more of it, 0 where it means nothing.
        """
        family = self.record.family
        if family is None or not family.preferences:
            return None
        axes = optimized(self.record)
        signs = [1.0 if self.record.objectives[i].maximize else -1.0 for i in axes]
        found = controllability(family.preferences, np.asarray(family.values, dtype=float)[:, list(axes)] * signs)
        return {self.names[i]: float(share) for i, share in zip(axes, found, strict=True)}

    def _scratch_folder(self) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="pareto-align-")
        return Path(self._scratch.name)

    @property
    def fallen(self) -> list[Fallen]:
        """What was measured and did not stay: numbers, verdict, and why, in the user's words and units."""
        return list(fallen_entries(self.record))

    # ---- looking -------------------------------------------------------------------------------------------------

    def to_pandas(self, *, long: bool = False, fallen: bool = False) -> DataFrame:
        """A row a member: each objective, its standard error, and the preference it was trained for.

        Args:
            long: A row for each policy and objective instead, the untrained model among them: `id`, `status` ("member",
                "untrained", or why it fell), `step`, `split`, `objective`, `role`, `value`, `stderr`, the ends of the
                95 % interval `low` and `high`, and the `preference` for it.
            fallen: With `long`: also what was measured and did not stay.

        Raises:
            ConfigError: pandas is not installed, an objective is called like the column of another one, or `fallen` is
                asked for without `long`.
        """
        if fallen and not long:
            raise ConfigError("What did not stay is told in the long table: give long=True as well.")
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("to_pandas needs pandas. Install it with `pip install pareto-align[pandas]`.") from error
        if long:
            return pandas.DataFrame(policy_rows(self.record, fallen=fallen))
        columns: list[tuple[str, Any]] = []
        for i, name in enumerate(self.names):
            columns += [(name, self.values[:, i]), (f"{name}_stderr", self.stderr[:, i])]
        for j, i in enumerate(optimized(self.record)):
            preferences = [np.nan if m.preference is None else float(m.preference[j]) for m in self._members]
            columns.append((f"preference_{self.names[i]}", preferences))
        names = [name for name, _ in columns]
        if twice := [name for name in names if names.count(name) > 1]:  # in a front of an earlier release, or by hand
            raise ConfigError(f"Two columns would be called {twice[0]!r}. `values` and `stderr` have the numbers.")
        return pandas.DataFrame(dict(columns), index=pandas.Index([m.id for m in self._members], name="member"))

    @overload
    def hypervolume(
        self, reference: Sequence[float] | Mapping[str, float] | None = None, confidence: None = None
    ) -> float: ...
    @overload
    def hypervolume(
        self, reference: Sequence[float] | Mapping[str, float] | None = None, *, confidence: float
    ) -> tuple[float, float, float]: ...
    def hypervolume(
        self, reference: Sequence[float] | Mapping[str, float] | None = None, confidence: float | None = None
    ) -> float | tuple[float, float, float]:
        """Hypervolume on the frozen [0, 1] frame of the optimized objectives.

        Args:
            reference: The worst point that still counts, one number an optimized objective in the user's units, in
                order or by name; by default the point that the run fixed before training.
            confidence: Ask for an interval, 0.95 for example.

        Returns:
            The hypervolume, or (hypervolume, low, high) where an interval is asked for.

        Warns:
            ParetoAlignWarning: No member is better than the reference given in every objective.
        """
        found = front_hypervolume(self.record, reference, confidence=0.95 if confidence is None else confidence)
        if reference is not None and found.value == 0 and len(self):
            warnings.warn(
                f"No member is better than the reference {reference!r} in every objective, so nothing lies above it: "
                "the hypervolume is 0.",
                ParetoAlignWarning,
                stacklevel=2,
            )
        return found.value if confidence is None else (found.value, found.low, found.high)

    def plot(
        self, *, labels: bool = True, highlight: Sequence[str] | None = None, style: Literal["light", "dark"] = "light"
    ) -> Figure:
        """The front: members with 95 % intervals, what fell, the untrained model, and constraints with their limits.

        Args:
            labels: Whether members are named.
            highlight: With four objectives or more: the ids of up to eight members that are drawn in colour; by default
                all of up to eight, else the best one of each objective and the one whose worst objective is best.
            style: "light", or "dark" for dark backgrounds.

        Raises:
            ConfigError: A member to highlight, or the style, is none.
        """
        from pareto_align.report.front_plot import draw_front, front_info
        from pareto_align.report.style import drawn_in

        with drawn_in(style):
            return draw_front(front_info(self.record), labels=labels, highlight=highlight)

    def plot_history(self, *, style: Literal["light", "dark"] = "light") -> Figure:
        """Hypervolume and each policy's objectives over the run, with limits where there are some.

        Raises:
            ConfigError: The style is none.
            FrontFileError: The front was loaded without its run's journal.
        """
        from pareto_align.report.history_plot import draw_history, history_info
        from pareto_align.report.style import drawn_in

        with drawn_in(style):
            return draw_history(history_info(self.record, self.history))

    def plot_weights(self, *, style: Literal["light", "dark"] = "light") -> Figure:
        """The weights each policy trained under, and the multipliers on constraints.

        Raises:
            ConfigError: The style is none.
            FrontFileError: The front was loaded without its run's journal.
        """
        from pareto_align.report.style import drawn_in
        from pareto_align.report.weights_plot import draw_weights, weights_info

        with drawn_in(style):
            return draw_weights(weights_info(self.record, self.history))

    def plot_tradeoff(
        self, gain: str | None = None, cost: str | None = None, *, style: Literal["light", "dark"] = "light"
    ) -> Figure:
        """What one more point of `gain` costs in `cost`, along the front; every pair of up to three by default.

        Raises:
            ConfigError: An objective or the style is none, or the front has one objective.
        """
        from pareto_align.report.style import drawn_in
        from pareto_align.report.tradeoff_plot import draw_tradeoff, tradeoff_info

        with drawn_in(style):
            return draw_tradeoff(tradeoff_info(self.record, gain, cost))

    def plot_prices(self, *, style: Literal["light", "dark"] = "light") -> Figure:
        """What each objective costs in each other one, a matrix; for three objectives or more.

        Raises:
            ConfigError: The front has fewer objectives, or the style is none.
        """
        from pareto_align.report.prices_plot import draw_prices, prices_info
        from pareto_align.report.style import drawn_in

        with drawn_in(style):
            return draw_prices(prices_info(self.record))

    def plot_audit(self, *, style: Literal["light", "dark"] = "light") -> Figure:
        """Audited objectives against optimised ones over the run: whether what was not trained on follows, or falls.

        Raises:
            ConfigError: Nothing was audited, or the style is none.
            FrontFileError: The front was loaded without its run's journal.
        """
        from pareto_align.report.audit_plot import audit_info, draw_audit
        from pareto_align.report.style import drawn_in

        with drawn_in(style):
            return draw_audit(audit_info(self.record, self.history))

    def plot_data(
        self,
        kind: Literal["front", "history", "weights", "tradeoff", "prices", "audit"] = "front",
        *,
        gain: str | None = None,
        cost: str | None = None,
    ) -> list[dict[str, Any]]:
        """The numbers of a figure, one mapping a mark, in your units; `pandas.DataFrame(front.plot_data())` is a table.

        Args:
            kind: Which figure.
            gain: With "tradeoff": as in `plot_tradeoff`.
            cost: Likewise.

        Raises:
            ConfigError: There is no such figure, or the front has nothing for it.
            FrontFileError: The run's journal is needed and not there.
        """
        from pareto_align.report.figure_data import figure_rows

        return figure_rows(self.record, self.history, kind, gain, cost)

    def page(self, path: str | os.PathLike[str] | None = None) -> str:
        """The page of the front: one HTML file in which somebody without Python chooses a member.

        It holds everything it shows, loads nothing and needs no network. Equal fronts give equal bytes.

        Args:
            path: Where it is also written; a file that is there is replaced.

        Returns:
            The HTML.

        Raises:
            ConfigError: `path` is no path, or a folder.
            FrontFileError: The file cannot be written.
        """
        from pareto_align.report.page import page_html, write_page

        html_text = page_html(self.record, self.history, self.path)
        if path is not None:
            write_page(html_text, path_of(path, "path"))
        return html_text

    def show(self, height: int = 900) -> Shown:
        """The page in a notebook, in a frame of its own; the last line of a cell shows what is returned.

        Args:
            height: Of the frame, in pixels.

        Raises:
            ConfigError: `height` is no whole number of at least 100.
        """
        if type(height) is not int or height < 100:
            raise ConfigError(f"`height` must be a whole number of pixels, at least 100. Found {height!r:.40}.")
        return Shown(self.page(), height)

    def summary(self, *, unicode: bool = True) -> str:
        """The heading and the table, as text; `unicode=False` for terminals that print ASCII alone."""
        text = f"{self._heading()}\n\n{text_table(front_table(self.record), unicode=unicode)}"
        return text if unicode else text.encode("ascii", "replace").decode()

    def _heading(self) -> str:
        count = len(self)
        base = self.record.base.get("name")
        on = f" for {base}" if base else ""
        volume = f", hypervolume {front_hypervolume(self.record)}" if count else ""
        prompts = "report" if self.record.split == "report" else "selection"
        return one_line(f"Pareto front of {count} adapter{'' if count == 1 else 's'}{on}, {prompts} prompts{volume}")

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._heading())}</p>{html_table(front_table(self.record))}"

    def members_html(self, members: Sequence[Member]) -> str:
        """The table of some of its members and the untrained model, as an HTML fragment for notebooks."""
        kept = [self.record.members[self._members.index(member)] for member in members]
        return html_table(front_table(replace(self.record, members=kept)))

    # ---- choosing ------------------------------------------------------------------------------------------------

    def select(
        self,
        preference: Mapping[str, float] | Sequence[float] | Preference | None = None,
        *,
        rule: Literal["linear", "chebyshev", "knee", "lexicographic"] | Callable[[np.ndarray], float] | None = None,
        criterion: Literal["ser", "esr"] = "ser",
        at_least: Mapping[str, float] | None = None,
        at_most: Mapping[str, float] | None = None,
    ) -> Choice:
        """The member that serves a preference best.

        Args:
            preference: How much each optimized objective matters: a dict by name (what is left out counts nothing) or
                a sequence in the order of the optimized objectives. It is scaled to sum 1; all count the same where
                it is left out.
            rule: How the preference is read. "chebyshev": as a place on the front, by the worst weighted shortfall
                from the best, as a share of what the members span; it reaches members in a dent of the front.
                "linear": as an exchange rate, by the sum of weighted values. "knee" takes the member whose neighbours
                gain least by moving. "lexicographic": the objective with the largest weight decides, and those that
                the noise cannot tell from the best leave it to the next. A function of your own gets values [m],
                better is larger, scaled so that 0 to 1 is the frame of the run, and returns a number; there is no
                preference then. None reads it as the weighting of the run did; `Choice.reason` says how that was.
            criterion: "ser" applies the rule to a member's means: it is good on average. "esr" applies it to the
                rewards of each prompt and takes the mean: every answer has to be good in everything. Where a prompt was
                answered several times it is to the mean of its answers.
            at_least: Lower limits for maximised objectives by name, in the user's units; audited ones too.
            at_most: Upper limits for minimised objectives by name, in the user's units; audited ones too.

        Raises:
            ConfigError: The rule or the criterion is none, or they do not go together.
            PreferenceError: An unknown objective, a limit on the wrong side, or limits that no member meets.
        """
        answered = answer(self.record, preference, rule=rule, criterion=criterion, at_least=at_least, at_most=at_most)
        return Choice(self, answered)

    def elicit(
        self,
        *,
        questions: int = 6,
        utilities: Sequence[str] = ("linear", "chebyshev"),
        show: Literal["answers", "values", "both"] = "answers",
        enough: float = 0.02,
        lapse: float = 0.1,
        at_least: Mapping[str, float] | None = None,
        at_most: Mapping[str, float] | None = None,
        seed: int = 0,
        ask: Callable[[Pair], str] | None = None,
        resume: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> Interview[Choice]:
        """Find the member for somebody who does not know his weights: he says which of two answers he likes better.

            session = front.elicit(questions=6)
            while (pair := session.next()) is not None:
                session.answer("first")  # or "second", or "same"
            session.choice

        Args:
            questions: How many are asked at most.
            utilities: Which kinds of users there may be: "linear", "chebyshev".
            show: Two members' answers to one prompt, their measured values, or both.
            enough: The stated regret, a share of the user's range of utilities, below which no more is asked.
            lapse: Share of replies that are taken to say nothing; 0.2 or more for somebody in a hurry.
            at_least: Lower limits that members have to keep, as in `select`.
            at_most: Upper limits, likewise.
            seed: Of all that is drawn: equal answers lead to equal questions.
            ask: Gets each question and returns "first", "second" or "same"; all questions are then asked here.
            resume: A session's `to_dict()`, or the file that its `save` wrote, to go on with; its own settings hold.

        Raises:
            ConfigError: A setting is out of range, or the session to be resumed is about another front.
            PreferenceError: The members' answers were not kept, or no member keeps the limits.
            FrontFileError: What is to be resumed cannot be read.
        """
        from pareto_align.interview import Interview

        def chosen(answered: Answer) -> Choice:
            return Choice(self, answered)

        if resume is not None:
            session = Interview.resumed(self.record, chosen, resume)
        else:
            session = Interview(
                self.record, chosen, questions=questions, utilities=utilities, show=show, enough=enough, lapse=lapse,
                at_least=at_least, at_most=at_most, seed=seed,
            )  # fmt: skip
        while ask is not None and (pair := session.next()) is not None:
            session.answer(ask(pair))
        return session

    def bounds(self, preference: Mapping[str, float] | Sequence[float] | Preference) -> Bounds:
        """What the best policy for a preference is worth, trained or not, in scaled reward less the price of its KL.

        At least what the best measured policy is, and at most what convexity leaves: `bounds.gain` is what training for
        the preference could still add. Each end holds in 95 of 100 cases, on the select split's prompts, however many
        policies it is chosen from. The price is `kl_coef` in rewards; credits that divide rewards by their spread
        ("grpo", "gdpo") train for another one, so that their policies need not come near the upper end.

        Args:
            preference: As in `select`; weights of the objectives on the frozen scale that they are trained on.

        Raises:
            ConfigError: The run took down no ceilings: it had no price of KL, or its sampling was cut.
            PreferenceError: The preference cannot be read.

        References:
            `pareto_align.front.certificates`.
        """
        spanning = [objective.name for objective in self.record.objectives if objective.role == "optimize"]
        asked = Preference.of(preference, spanning).weights
        told = [row.provenance for row in self.record.members]
        told += [dict(row.get("provenance") or {}) for row in self.record.fallen]
        origins = [Origin.of(row) for row in told if row.get("ceiling") is not None]
        if not origins:
            raise ConfigError(
                "Nothing is known of the best policies: bounds need a run with kl_coef above 0, without top_k and "
                "top_p, whose rewards are never missing."
            )
        anchors = np.array([origin.preference for origin in origins], dtype=float)
        ceilings = [origin.ceiling for origin in origins if origin.ceiling is not None]
        return bounds_at(asked, anchors, ceilings, float(self.record.config["kl_coef"]))

    def calibrate(
        self,
        prompts: Sequence[Prompt],
        objectives: Sequence[Any],
        *,
        by: Literal["logits", "soup"] = "logits",
        count: int = 19,
        confidence: float = 0.9,
        seed: int = 0,
        **kw: Any,
    ) -> Calibration:
        """Try what is predicted at preferences that nothing was fitted to: intervals with a promised coverage.

        A quadratic in the preference is fitted to the members; the mixtures at `count` preferences, drawn evenly from
        the simplex, answer the prompts and are scored. Costs `count` times as many answers as there are prompts.

        Args:
            prompts: Held-out ones.
            objectives: The run's.
            by: How members are mixed.
            count: Held-out preferences; 9 at the least for a confidence of .9, 19 for .95.
            confidence: Of the intervals.
            seed: Of preferences and answers.
            **kw: Passed to `Blend.measure`.

        Raises:
            ConfigError: Too few preferences for the confidence, or objectives that are not the front's.
            PreferenceError: No member was trained for a preference.
        """
        from pareto_align.blend import WAYS, Blend
        from pareto_align.calibration import calibrate

        if by not in WAYS:
            raise ConfigError(f"`by` must be one of {', '.join(WAYS)}. Found {by!r:.40}.")

        def mixture(asked: list[float]) -> Blend:
            found = self.mixture(asked, by=by)
            assert isinstance(found, Blend)
            return found

        options = {"count": count, "confidence": confidence, "seed": seed}
        return calibrate(self.record, mixture, prompts, objectives, **options, **kw)  # type: ignore[arg-type]

    def headroom(
        self,
        preference: Mapping[str, float] | Sequence[float] | Preference,
        prompts: Sequence[Prompt],
        objectives: Sequence[Any],
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
        **kw: Any,
    ) -> Headroom:
        """What choosing a member for each prompt could gain over the best single one, for a preference.

        Every member answers the prompts twice: once to be chosen by, once to be scored by. The utility is the weighted
        sum of framed rewards, of which 0 to 1 is what was seen before training.

        Args:
            preference: As in `select`.
            prompts: Held-out ones.
            objectives: The run's.
            columns: Further columns that the rewards ask for.
            seed: Of the answers.
            **kw: Passed to `Member.generate`.

        Raises:
            ConfigError: The objectives are not the front's, or a reward is missing for some answer.
            PreferenceError: The preference cannot be read.
        """
        from pareto_align.blend import run_objectives, scored
        from pareto_align.front.headroom import headroom

        axes = list(optimized(self.record))
        weights = Preference.of(preference, [self.names[i] for i in axes]).weights
        rewards, asked = run_objectives(objectives, self.names), list(prompts)
        frames = [(objective.lower, objective.upper) for objective in self.record.objectives]
        lower, upper = np.array(frames)[axes].T

        def utilities(member: Member, draw: int) -> np.ndarray:
            found = scored(rewards, self.names, asked, member.generate(asked, seed=draw, **kw), columns)
            return np.asarray((found[:, axes] - lower) / (upper - lower) @ weights)

        tables = [np.stack([utilities(member, draw) for member in self]) for draw in (seed, seed + 1)]
        return headroom(*tables, seed=seed)

    def compare(self, other: ParetoFront) -> FrontComparison:
        """This front and another one on the same objectives in one frame: hypervolumes, and their difference with an
        interval, paired where both were measured on the same prompts.

        Which prompts those are is read from the run folders; a front without one is compared as if the prompts were
        others. Rewards of the same name are taken to be the same. `print` it, or draw it with `plot_comparison`.

        Raises:
            ConfigError: The fronts have other objectives, or one has no members.
        """
        from pareto_align.report.comparison import compare_fronts
        from pareto_align.runs.folder import kept_prompts

        fronts = (self, other)
        prompts = [kept_prompts(exporting.journal_path(f.path).parent, f.record.split) for f in fronts]
        where = [f.path.resolve() for f in fronts]
        parts = [(path.parent if path.name == "front" else path).parts for path in where]
        # as much of the paths as tells them apart
        shared = next((k for k in range(1, min(map(len, parts)) + 1) if parts[0][-k] != parts[1][-k]), 1)
        names = ["/".join(part[-shared:]) for part in parts]
        return compare_fronts(self.record, other.record, (names[0], names[1]), (prompts[0], prompts[1]))

    def plot_comparison(self, other: ParetoFront, *, style: Literal["light", "dark"] = "light") -> Figure:
        """What this front and another one attain, over each other; for two or three objectives.

        Raises:
            ConfigError: The fronts have other objectives, too many, or no members, or the style is none.
        """
        from pareto_align.report.comparison import draw_comparison
        from pareto_align.report.style import drawn_in

        with drawn_in(style):
            return draw_comparison(self.compare(other))

    def evaluate(
        self,
        tasks: Sequence[Any] | str,
        *,
        limit: int | None = None,
        batch_size: int = 8,
        untrained: bool = True,
        **kw: Any,
    ) -> ParetoFront:
        """Put every member through public benchmarks, and return the front with the scores as audited objectives.

        The tasks are those of lm-evaluation-harness, which has to be installed. Nothing on disk changes: `save` writes
        what is returned, and its table, card, limits (`select(..., at_least={"arc_easy acc": 0.4})`) and page have the
        new columns.

        Args:
            tasks: Names of tasks, or configs of one's own.
            limit: The first so many questions of each task; by default all.
            batch_size: Questions answered at a time.
            untrained: Whether the untrained model is put through them as well.
            **kw: Passed to `lm_eval.simple_evaluate`, such as `num_fewshot`, `apply_chat_template` or `task_manager`.

        Raises:
            ConfigError: lm_eval is not installed, does not know a task or takes no such argument; there are no
                members; or a score is called like an objective.
            ModelError: The base or an adapter cannot be loaded, or no task has a number for each question.
        """
        from pareto_align.evaluation.harness import check_tasks, harness_scores
        from pareto_align.report.audits import with_audits

        asked = check_tasks(tasks)
        if not self._members:
            raise ConfigError("This front has no members to put through benchmarks.")
        refuse_instructions([m.adapter_path for m in self._members], "benchmarks ask without that")
        server = self.server()
        base = server.at_hand()
        options = {"limit": limit, "batch_size": batch_size, **kw}
        server.bare()
        before = harness_scores(base.model, base.tokenizer, asked, **options) if untrained else None
        found = []
        for member in self._members:
            model = member.load_model(base)
            try:
                found.append(harness_scores(model, base.tokenizer, asked, **options))
            finally:
                model.unload()
        return ParetoFront(
            with_audits(self.record, found, before), self.path, history=self.history, problems=self.problems
        )

    def gate(
        self,
        prompts: Sequence[Prompt],
        objectives: Sequence[Any],
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        draws: int = 1,
        seed: int = 0,
        **kw: Any,
    ) -> Gate:
        """Fit what says which member answers which prompt best: `mixture(preference, by="routed", gate=gate)` uses it.

        Every member answers the prompts, and each reward is regressed on the untrained model's state at a prompt's end,
        shrunk to the member's mean as far as prompts say nothing.

        Args:
            prompts: Held-out ones, many and different: what is not in them cannot be told apart.
            objectives: The run's.
            columns: Further columns that the rewards ask for.
            draws: Answers of each member to each prompt.
            seed: Of the answers.
            **kw: Passed to `Member.generate`.

        Raises:
            ConfigError: No members, one prompt only, objectives that are not the front's, or a missing reward.
        """
        from pareto_align.gate import fit_gate

        answers = [
            lambda asked, draw, member=member: member.generate(asked, seed=draw, **kw) for member in self._members
        ]
        return fit_gate(
            self.record, answers, lambda asked: self.server().prompt_states(asked), prompts, objectives, columns,
            draws, seed,
        )  # fmt: skip

    @overload
    def mixture(
        self,
        preference: Mapping[str, float] | Sequence[float] | Preference | None = None,
        *,
        by: Literal["auto", "map", "logits", "soup"] = "auto",
        coefficients: Mapping[str, float] | None = None,
        gate: None = None,
    ) -> Blend | FamilyMember: ...

    @overload
    def mixture(
        self, preference: Mapping[str, float] | Sequence[float] | Preference, *, by: Literal["routed"], gate: Gate
    ) -> Routed: ...

    def mixture(
        self,
        preference: Mapping[str, float] | Sequence[float] | Preference | None = None,
        *,
        by: Literal["auto", "map", "logits", "soup", "routed"] = "auto",
        coefficients: Mapping[str, float] | None = None,
        gate: Gate | None = None,
    ) -> Blend | FamilyMember | Routed:
        """What serves a preference that no member was trained for, made of the members around it.

        Args:
            preference: As in `select`. At most m members take part, those at the corners of the cell that holds it;
                where it lies outside of what they were trained for, the nearest one inside is served, with a warning.
            by: "logits": the members' next-token distributions are multiplied, each to the power of its coefficient, in
                one batched pass; the answers say how far they are from the exact mixture. "soup": their weight
                updates are added up, one stock PEFT adapter. "map": the family's own adapter, as `at` gives it.
                "routed": each prompt is answered by the member of which the `gate` expects most. "auto": "map" where
                the run trained a family, else "logits".
            coefficients: Weights by member, instead of a preference.
            gate: For "routed", what `front.gate` gave.

        Raises:
            ConfigError: `by` is no way, or the front has no family for "map"; preference and coefficients are both
                given or both missing; "routed" lacks its gate, or the gate is of another front.
            PreferenceError: The preference or the coefficients cannot be read.
            ModelError: The adapters are of different base models.

        Warns:
            ParetoAlignWarning: The preference lies outside of those that members were trained for.
        """
        from pareto_align.blend import WAYS, Blend

        if by not in ("auto", "map", *WAYS, "routed"):
            raise ConfigError(f"`by` must be one of auto, map, {', '.join(WAYS)}, routed. Found {by!r:.40}.")
        if (by == "routed") != (gate is not None):
            raise ConfigError("by='routed' takes a gate, and nothing else does: `front.gate(prompts, objectives)`.")
        if gate is not None:
            from pareto_align.gate import Routed

            if coefficients is not None:
                raise ConfigError("A gate serves preferences: by='routed' takes no coefficients.")
            return Routed(self.record, self.folder, preference, gate, server=self.server)
        if by == "map" or (by == "auto" and self.record.family is not None and coefficients is None):
            if coefficients is not None:
                raise ConfigError("A family serves preferences: by='map' takes no coefficients.")
            return self.at(preference)
        return Blend(
            self.record, self.folder, preference, coefficients=coefficients, by="logits" if by == "auto" else by,
            server=self.server, scratch=self._scratch_folder,
        )  # fmt: skip

    def select_like(self, comparisons: Any, *, column: str | None = None, beta: float | None = None) -> Choice:
        """The member that agrees best with some comparisons: five to twenty pairs instead of a preference in numbers.

        A member prefers an answer where it finds it likelier than the untrained model does, by more than the other one.
        The base model is loaded as `generate` loads it, and every member reads the comparisons once.

        Args:
            comparisons: `Comparisons`, or rows that they can be read from.
            column: The labels that count, where there are several; by default the only ones.
            beta: What such a difference of log-probabilities is multiplied by to become log odds; by default what makes
                the comparisons likeliest on the whole.

        Returns:
            The choice; its `posterior` says how probable each member is, `probability_best` how probable the chosen one
            is, and `regret` what it is expected to explain less of other such comparisons than the best member, in bits
            a comparison.

        Raises:
            PreferenceError: The front has no members.
            ComparisonError: The comparisons cannot be read, or say nothing.
            ConfigError: There are several columns of labels and none is named, or `beta` is not positive.
            ModelError: The base or an adapter cannot be loaded.
        """
        from pareto_align.report.liking import answer_like

        folders = [member.adapter_path for member in self._members]
        return Choice(self, answer_like(self.record, folders, self.server(), comparisons, column=column, beta=beta))

    # ---- shipping ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the front folder: front.json, a PEFT folder a member, the journal and a model card.

        Args:
            path: A folder that does not exist yet, or is empty, or this front's own.

        Raises:
            FrontFileError: The folder has something in it or cannot be written, or an adapter is missing here; or it is
                this front's own, and holds members that were left out.
        """
        target = path_of(path, "path")
        own = target.resolve() == self.folder.resolve()
        if not own:
            check_new(target)
        elif lost := {found.id for found in read_front_json(self.folder, verify=False).members} - {
            found.id for found in self.record.members
        }:
            raise FrontFileError(
                f"{target} holds {', '.join(sorted(lost))} as well, which this front does not: left out as damaged, or "
                "published since. Saved there, it would delete what is left of them. Save to a new folder."
            )
        sources = {member.id: member.adapter_path for member in self._members}

        def copy(member: str, folder: Path) -> None:
            exporting.copy_adapter(sources[member], folder, without=MEMBER_FILES)

        journal = exporting.journal_path(self.path)
        family = None if self.record.family is None else self.folder / self.record.family.adapter
        written = write_front(
            target,
            self.record,
            copy,
            None if family is None else lambda folder: exporting.copy_adapter(family, folder),
        )
        write_card(written, target)
        if journal.is_file() and not own:  # there it is the run's, which may go on
            shutil.copyfile(journal, target / "journal.jsonl")
        return target

    def export(
        self,
        path: str | os.PathLike[str],
        format: Literal["peft", "vllm"] = "peft",
        *,
        members: Sequence[str] | None = None,
        merge: bool = False,
        dtype: str | None = None,
    ) -> Path:
        """Copy the adapters, or whole models made of them, to a new folder for use without this package.

        Each member's folder carries a README of its own and the sampling it was measured under.

        Args:
            path: A folder that does not exist yet, or is empty.
            format: "peft": a stock PEFT folder a member and a model card. "vllm": the same, `serve.sh`, which starts
                vLLM with all of them, and `lora_modules.json`, what `--lora-modules` takes.
            members: The ids of those wanted; by default all.
            merge: Merge each adapter into a copy of the base model, and write whole models that plain transformers
                loads: as large as the base, each.
            dtype: With `merge`: what the base is loaded as; by default as it was trained on. Sums that are rounded to
                bfloat16 are not quite what base and adapter say apart.

        Raises:
            ConfigError: An unknown format or member, or a setting that goes with `merge` only, or not with it.
            FrontFileError: The folder has something in it, or an adapter is missing.
            ModelError: The base model cannot be loaded, or an adapter cannot be merged into it: a quantised base, or an
                activated adapter.
        """
        wanted = list(self._members) if members is None else [self._named(member) for member in members]
        if not wanted:
            raise ConfigError("There is no member to export.")
        adapters = {member.id: member.adapter_path for member in wanted}
        target = path_of(path, "path")
        if not merge:
            if dtype is not None:
                raise ConfigError("`dtype` is for merged models: give merge=True as well.")
            return exporting.export_adapters(self.record, adapters, target, format)
        if format != "peft":
            raise ConfigError(f"Merged models are whole ones: format={format!r} is for adapters.")
        check_new(target)
        from pareto_align.policies.merging import Merger

        merger = Merger(self.record.base, generation_settings(self.record), base=self.base, dtype=dtype)
        return exporting.export_merged(
            self.record, adapters, target, lambda member, folder: merger.merge(adapters[member], folder)
        )

    def _named(self, member: str) -> Member:
        try:
            return self[member]
        except KeyError as error:
            raise ConfigError(str(error.args[0])) from None

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        message: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
        datasets: Sequence[str] | None = None,
        journal: bool = False,
    ) -> str:
        """Put the front into one repository on the Hugging Face Hub, a member in each folder of `members/`.

        Stock PEFT loads one of them by `PeftModel.from_pretrained(base, repo, subfolder="members/m0005")`, and
        `ParetoFront.from_hub` all. The card has each member's means as evaluation results.

        Args:
            repo: Its name, owner/name; it is made if need be. Members that are there and not here are removed.
            private: Whether a repository that is made is private; by default as your account has it.
            token: By default the one that the machine is logged in with. It is written nowhere.
            revision: The branch to commit to.
            message: Of the commit.
            create_pr: Open a pull request instead of committing.
            license: Of the adapters, as the Hub calls it, such as "apache-2.0".
            datasets: Data sets on the Hub that they were trained on.
            journal: Whether the run's journal goes along, with which the history can be drawn.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ConfigError: The name is none, or there is no token.
            FrontFileError: An adapter is missing, or the Hub refuses or cannot be reached.
        """
        from pareto_align.report.hub import card_header, check_repo, send_folder

        name = check_repo(repo)
        with tempfile.TemporaryDirectory(prefix="pareto-align-") as scratch:
            folder = self.save(Path(scratch) / "front")
            record, _ = read_front(folder)
            header = card_header(
                record, results=name.rpartition("/")[2], license=license, datasets=list(datasets or ())
            )
            (folder / "README.md").write_text(model_card(record, header=header, repo=name), encoding="utf-8")
            if not journal:
                (folder / "journal.jsonl").unlink(missing_ok=True)
            return send_folder(
                folder, name, private=private, token=token, revision=revision, message=message, create_pr=create_pr
            )

    @classmethod
    def from_hub(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> ParetoFront:
        """Load a front that `push_to_hub` put on the Hugging Face Hub.

        Nothing that is fetched is run or imported, and every file is compared with its checksum in front.json.

        Args:
            repo: Its name, owner/name.
            revision: A branch, tag or commit; by default the main branch.
            token: For a private one; by default the one that the machine is logged in with.
            path: A new folder to keep it in; by default one in the cache, which the next call finds again.

        Raises:
            ConfigError: The name is none, or there is no token.
            FrontFileError: There is no such repository, no front in it, or the Hub cannot be reached.
        """
        from pareto_align.policies.records import cache_folder
        from pareto_align.report.hub import check_repo, fetch_front

        keep = None if path is None else path_of(path, "path")
        if keep is not None:
            check_new(keep)
        name = check_repo(repo)
        return cls.load(fetch_front(name, cache_folder() / "fronts", revision=revision, token=token, keep=keep))

    def card(self) -> str:
        """The model card of the front folder, README.md for the Hugging Face Hub."""
        return model_card(self.record)

    def server(self) -> Any:
        """The base model with this front's adapters, loaded at the first call and kept; `generate` uses it."""
        if self._server is None:
            from pareto_align.policies.serving import Server

            said = {name: self.record.config.get(name) for name in SAMPLING}
            self._server = Server(self.record.base, **{name: v for name, v in said.items() if v is not None})
        if self._server.base is None:
            self._server.base = self.base
        return self._server

    def close(self) -> None:
        """Let go of the base model that `generate` uses, and take the adapters off it."""
        if self._server is not None:
            self._server.close()
        self._server = None
