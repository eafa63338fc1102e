"""No text of a figure touches another or leaves the figure, however long names are and however many objectives."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

sys.path.insert(0, str(Path(__file__).parents[1] / "page"))  # rounder fronts than those of this folder

from page_fronts import front_record

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.result import ParetoFront

WORDS = ("helpful", "words an answer", "factual", "well styled", "careful", "polite")
LONG = [f"{word} as a careful reader of sixty characters would find it"[:60].ljust(60, "m") for word in WORDS]
SHORT = ["tone", "words", "facts", "style", "care", "wit"]


def journal(record: Any, policies: int = 5, steps: int = 40) -> list[dict[str, Any]]:
    """What a run over these objectives writes down: an audit that falls as the first reward rises, multipliers."""
    rng = np.random.default_rng(0)
    M = len(record.objectives)
    m, c = (sum(o.role == role for o in record.objectives) for role in ("optimize", "constrain"))
    events: list[dict[str, Any]] = [
        {"event": "start", "preferences": rng.dirichlet(np.ones(m), policies).tolist(), "splits": {"select": 48},
         "reference": [0.2] * M, "reference_hypervolume": [0.1, 0.05, 0.15]}
    ]  # fmt: skip
    for step in range(1, steps + 1):
        values = 0.2 + 0.5 * step / steps * rng.random((policies, M))
        weights = rng.dirichlet(np.ones(m) * 3, policies)
        steering = np.abs(np.sin(step / 9 + np.arange(policies)))[:, None] * np.ones((policies, c))
        events.append(
            {"event": "step", "step": step, "values": values.tolist(), "weights": weights.tolist(),
             "steering": steering.tolist()}
        )  # fmt: skip
        if step % 8 == 0:
            for i, objective in enumerate(record.objectives):
                if objective.role == "audit":
                    values[:, i] = 0.7 - 0.6 * values[:, 0]
            volume = 0.6 - 0.5 / (step / 8 + 1)
            events.append(
                {"event": "evaluation", "step": step, "values": values.tolist(), "hypervolume": volume, "members": 3,
                 "stderr": np.full((policies, M), 0.02).tolist(), "hypervolume_low": volume - 0.05,
                 "hypervolume_high": volume + 0.05}
            )  # fmt: skip
    return events


def front(n: int, m: int, names: list[str], policies: int = 5, **more: Any) -> ParetoFront:
    record = front_record(n, m, names=names[:m], constraint=True, **more)
    return ParetoFront(record, "/nowhere", history=journal(record, policies))


def figures(found: ParetoFront) -> dict[str, Figure]:
    m = sum(o.role == "optimize" for o in found.record.objectives)
    drawn = {"front": found.plot(), "history": found.plot_history(), "weights": found.plot_weights(),
             "audit": found.plot_audit()}  # fmt: skip
    if m > 1:
        drawn["tradeoff"] = found.plot_tradeoff()
    if m > 2:
        drawn["prices"] = found.plot_prices()
    if 1 < m < 4:
        drawn["comparison"] = found.plot_comparison(ParetoFront(found.record, Path(f"/{'another-place-' * 5}")))
    return drawn


def texts(figure: Figure) -> list[Text]:
    """What is drawn: without panels that are hidden, and without ticks beyond the limits of their axis."""
    figure.draw_without_rendering()
    hidden: set[Text] = set()
    for ax in figure.axes:
        everything = set(ax.findobj(Text))
        if not ax.get_visible():
            hidden |= everything
        for axis in (ax.xaxis, ax.yaxis):
            ticking = axis._update_ticks() if ax.axison else []
            drawn = {label for tick in ticking for label in (tick.label1, tick.label2)}
            ticks = {label for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)}
            hidden |= ticks - drawn
    found = [text for text in figure.findobj(Text) if text not in hidden and text.get_visible()]
    return [text for text in found if text.get_text().strip()]


def faults(figure: Figure) -> list[str]:
    """Texts that leave the figure, and pairs that share more than a pixel."""
    shown = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    frame = figure.bbox
    found = [
        f"{told!r} leaves the figure"
        for told, box in shown
        if box.x0 < frame.x0 - 1 or box.y0 < frame.y0 - 1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1
    ]
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1 and high > 1:
            found.append(f"{one!r} touches {other!r}")
    return found


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_names_of_sixty_characters_find_room(m):
    assert all(len(name) == 60 for name in LONG)
    told = {kind: faults(figure) for kind, figure in figures(front(6, m, LONG)).items()}
    assert {kind: found for kind, found in told.items() if found} == {}


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_short_names_and_many_members_and_policies(m):
    told = {kind: faults(figure) for kind, figure in figures(front(24, m, SHORT, policies=14)).items()}
    assert {kind: found for kind, found in told.items() if found} == {}


def test_one_objective_has_no_scale_of_preferences():
    """Everybody has the same one, so a scale would say nothing, and its far end is hard to see."""
    from pareto_align.report.style import STYLES, preference_colors

    found = front(4, 1, SHORT)
    for figure in (found.plot_history(), found.plot_weights()):
        assert "<colorbar>" not in {ax.get_label() for ax in figure.axes}
    assert "<colorbar>" in {ax.get_label() for ax in front(4, 2, SHORT).plot_weights().axes}
    assert preference_colors(np.ones((3, 1))) == [STYLES["light"].accent] * 3


# ---- limits ----------------------------------------------------------------------------------------------------------


def heights(figure: Figure) -> list[float]:
    """Where limits are drawn."""
    return [
        float((line.get_ydata() if np.ptp(line.get_ydata()) == 0 else line.get_xdata())[0])
        for ax in figure.axes
        for line in ax.lines
        if line.get_label() == "limit"
    ]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_limit_is_a_line_at_its_height_in_front_and_history(m):
    found = front(6, m, SHORT)
    assert heights(found.plot()) == [0.3]
    assert heights(found.plot_history()) == [0.3]


def test_a_limit_is_a_mark_on_a_scale_of_its_own_with_many_objectives():
    (ax,) = front(6, 5, SHORT).plot().axes
    marks = [line for line in ax.lines if line.get_label() == "limit"]
    assert len(marks) == 1
    assert np.mean(marks[0].get_xdata()) == 5  # behind the five objectives
    assert any(patch.get_hatch() for patch in ax.patches)


def test_members_that_do_not_keep_a_limit_beyond_noise_are_hollow():
    from pareto_align.report.front_plot import front_info

    found = front(6, 2, SHORT)
    info = front_info(found.record)
    (limit,) = info.limits
    assert (limit.axis.name, limit.bound, limit.told) == ("harm", 0.3, "at most 0.3")
    np.testing.assert_array_equal(info.unsure, limit.high > 0.3)
    assert info.unsure.any()
    assert not info.unsure.all()
    assert "hollow: a limit is not kept beyond noise" in info.remarks


def test_multipliers_are_drawn_by_the_name_of_their_constraint():
    from pareto_align.report.weights_plot import weights_info

    found = front(6, 2, SHORT)
    info = weights_info(found.record, found.history)
    assert info.steered == ("harm",)
    assert info.steering.shape == (40, 5, 1)
    titles = [ax.get_title(loc="left") for ax in found.plot_weights().axes]
    assert "multiplier on harm" in titles


@pytest.mark.parametrize("m", [2, 3, 6])
def test_of_a_family_each_weight_and_multiplier_has_a_panel_and_names_find_room(m):
    found = front(6, m, LONG)
    rng = np.random.default_rng(1)
    for event in found.history:
        if event["event"] == "step":
            event["preferences"] = rng.dirichlet(np.ones(m), 5).tolist()
    figure = found.plot_weights()
    titles = [title for ax in figure.axes if (title := ax.get_title(loc="left"))]
    assert len(titles) == (1 if m == 2 else m) + 1
    assert titles[-1] == "multiplier on harm"
    assert all(title.startswith("weight on ") for title in titles[:-1])
    assert faults(figure) == []
    assert faults(found.plot_history()) == []


# ---- prices and audits -----------------------------------------------------------------------------------------------


def test_the_matrix_of_prices_is_that_of_the_steps():
    from pareto_align.report.prices_plot import prices_info
    from pareto_align.report.tradeoff_plot import tradeoff_info

    found = front(8, 3, SHORT)
    info = prices_info(found.record)
    assert np.isnan(np.diag(info.prices)).all()
    (steps,) = tradeoff_info(found.record, "tone", "words")
    told = [step for step in steps.exchanges if step.resolved]
    assert told
    unit = float(info.quoted[0].split()[0])
    bought = [abs(step.gained[1] - step.gained[0]) for step in told]
    mean = sum(step.rate * size for step, size in zip(told, bought, strict=True)) / sum(bought)
    assert info.prices[0, 1] == pytest.approx(unit * mean)
    assert info.cheapest[0, 1] == pytest.approx(unit * min(step.rate for step in told))
    assert (info.cheapest <= info.dearest)[np.isfinite(info.prices)].all()
    with pytest.raises(ConfigError, match="three objectives or more"):
        front(4, 2, SHORT).plot_prices()


def test_an_audit_that_falls_as_the_reward_rises_is_said_so():
    from pareto_align.report.audit_plot import audit_info

    found = front(6, 2, SHORT)
    info = audit_info(found.record, found.history)
    assert [(pair.audit.name, pair.optimized.name) for pair in info.pairs] == [
        ("variety", "tone"),
        ("variety", "words"),
    ]
    assert info.pairs[0].together < -0.9
    assert "gets worse as the reward rises" in info.pairs[0].verdict
    assert len(found.plot_audit().axes) == 3  # and the key
    with pytest.raises(ConfigError, match="no audited objective"):
        ParetoFront(front_record(4, 2), "/nowhere").plot_audit()
    with pytest.raises(FrontFileError, match="journal"):
        ParetoFront(found.record, "/nowhere").plot_audit()


# ---- colours, styles, data -------------------------------------------------------------------------------------------


def test_with_many_objectives_some_members_are_in_colour():
    from pareto_align.report.front_plot import front_info
    from pareto_align.report.parallel_plot import highlighted

    found = front(24, 5, SHORT)
    info = front_info(found.record)
    rows = highlighted(info, None)
    better = info.values * [axis.sign for axis in info.axes]
    assert set(better.argmax(axis=0)) <= set(rows)
    assert len(rows) <= 8
    assert highlighted(info, ["m0007", "m0000", "m0007"]) == [1, 0]
    named = {text.get_text() for text in found.plot(highlight=["m0007"]).axes[0].texts}
    assert "m0007" in named
    assert "m0000" not in named
    with pytest.raises(ConfigError, match="no member 'nobody'"):
        found.plot(highlight=["nobody"])


def test_a_band_stands_for_the_intervals_of_many():
    few, many = front(6, 2, SHORT).plot(), front(24, 2, SHORT).plot()
    assert len(few.axes[0].containers) > 6
    assert len(many.axes[0].containers) == 1  # the untrained model's
    assert len(many.axes[0].patches) > len(few.axes[0].patches)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_dark_figures_have_no_light_paper_and_no_dark_ink(m):
    from matplotlib.colors import to_rgb

    found = front(6, m, SHORT)
    for figure in (found.plot(style="dark"), found.plot_history(style="dark"), found.plot_weights(style="dark"),
                   found.plot_audit(style="dark")):  # fmt: skip
        assert sum(to_rgb(figure.get_facecolor())) < 0.5
        assert min(sum(to_rgb(text.get_color())) for text in texts(figure)) > 0.9
    assert to_rgb(found.plot().get_facecolor()) == (1, 1, 1)  # the style is gone with the call
    with pytest.raises(ConfigError, match="light, dark"):
        found.plot(style="sepia")


@pytest.mark.parametrize("kind", ["front", "history", "weights", "tradeoff", "prices", "audit"])
def test_every_figure_has_its_numbers_as_rows(kind):
    from pareto_align.report.figure_data import as_csv

    found = front(6, 3, SHORT)
    rows = found.plot_data(kind)
    assert rows
    assert len({tuple(row) for row in rows}) == 1
    assert as_csv(rows).count("\n") >= len(rows)
    assert "nan" not in as_csv(rows)


def test_the_rows_of_the_front_are_its_values():
    found = front(6, 2, SHORT)
    rows = [row for row in found.plot_data("front") if row["what"] == "member" and row["objective"] == "words"]
    np.testing.assert_allclose([row["mean"] for row in rows], found.values[:, 1])
    with pytest.raises(ConfigError, match="no figure 'pie'"):
        found.plot_data("pie")
