"""What is on the figures, as far as a program can tell; that they look right was checked by eye."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from front_records import estimate, objective, record, tone_and_length
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import t
from test_history import journal, moved, of_a_family

from pareto_align.report.figure_data import figure_rows
from pareto_align.report.front_plot import draw_front, front_info
from pareto_align.report.history_plot import draw_history, history_info
from pareto_align.report.tradeoff_plot import draw_tradeoff, tradeoff_info
from pareto_align.report.weights_plot import draw_weights, weights_info


def texts(figure: Figure) -> list[str]:
    """Every text that is drawn."""
    figure.draw_without_rendering()
    found = [artist.get_text() for artist in figure.findobj(Text) if isinstance(artist, Text)]
    return [text for text in found if text]


def many(m: int, n: int = 4, **more):
    rng = np.random.default_rng(m)
    objectives = [objective(f"o{j}", maximize=j % 2 == 0) for j in range(m)]
    estimates = [estimate(row * [o.maximize * 2 - 1 for o in objectives], 0.02) for row in rng.random((n, m))]
    return record(objectives, estimates, rng.dirichlet(np.ones(m), size=n).tolist(), **more)


def test_front_numbers():
    found = tone_and_length(
        reference_policy=estimate([0.2, -80.0, -0.1], 0.01),
        fallen=[{"id": "z", "values": [0.1, 90.0, 0.0], "stderr": [0.01, 1.0, 0.0], "reason": "beaten"}],
    )
    info = front_info(found)
    assert [axis.name for axis in info.axes] == ["tone", "length"]
    np.testing.assert_allclose(info.values, [[0.8, 60], [0.6, 30], [0.3, 10]])
    np.testing.assert_allclose(info.halfwidth[0], t.ppf(0.975, 63) * np.array([0.02, 3.0]))
    np.testing.assert_allclose(info.fallen, [[0.1, 90.0]])
    assert info.untrained is not None
    np.testing.assert_allclose(info.untrained, [0.2, 80.0])
    assert info.boundary is not None
    np.testing.assert_allclose(info.boundary, [[0.3, 10], [0.3, 30], [0.6, 30], [0.6, 60], [0.8, 60]])
    assert info.remarks[1:] == ("64 report prompts, 95 % intervals", "grey: not kept")


def test_what_labels_allow_is_a_dashed_line_beside_what_is_attained():
    curve = [[0.1, 0.9], [0.7, 0.7], [0.95, 0.1]]
    found = record([objective("kind"), objective("short")], [estimate([0.5, 0.4])], ceilings=[curve])
    info = front_info(found)
    assert info.remarks[-1] == "dashed: the most that the labels allow"
    (ax, *_) = draw_front(info).axes
    (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_xydata(), curve)
    assert ax.get_xlim()[1] > 0.95, "the panel has room for it"
    rows = [row for row in figure_rows(found, (), "front") if row["what"] == "allowed by the labels"]
    assert [row["mean"] for row in rows] == [value for point in curve for value in point]
    assert not front_info(record([objective("kind"), objective("short")], [estimate([0.5, 0.4])])).ceilings


def test_the_front_names_members_directions_and_hypervolume():
    drawn = texts(draw_front(front_info(tone_and_length(reference_policy=estimate([0.2, -80.0, -0.1])))))
    assert {"a", "b", "c", "untrained", "tone   (better →)", "length   (← better)"} <= set(drawn)
    assert any(text.startswith("hypervolume 0.560 (") for text in drawn)
    assert "a" not in texts(draw_front(front_info(tone_and_length()), labels=False))


def test_points_and_bars_are_where_the_numbers_are():
    figure = draw_front(front_info(tone_and_length()))
    (points,) = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 3]
    np.testing.assert_allclose(points.get_offsets(), [[0.8, 60], [0.6, 30], [0.3, 10]])
    low, high = figure.axes[0].get_ylim()
    assert low < 10 - 1.96
    assert high > 60 + 1.96 * 3


@pytest.mark.parametrize(("m", "panels"), [(1, 1), (2, 1), (3, 3), (4, 1), (6, 1)])
def test_every_number_of_objectives_has_its_picture(m, panels):
    figure = draw_front(front_info(many(m, reference_policy=estimate([0.1] * m))))
    figure.draw_without_rendering()
    assert sum(ax.get_label() not in ("<colorbar>", "<key>") for ax in figure.axes) == panels


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_few_members(m, n):
    draw_front(front_info(many(m, n))).draw_without_rendering()


def test_labels_do_not_touch():
    found = many(2, 30)
    figure = draw_front(front_info(found))
    figure.draw_without_rendering()
    names = {member.id for member in found.members}
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in names]
    assert len(boxes) >= 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_are_not_read_as_mathematics():
    estimates = [estimate([0.5, 0.5]), estimate([0.6, 0.4])]
    found = record([objective("$x^{"), objective("b_$")], estimates, ids=["$1", "$2"])
    assert "$x^{   (better →)" in texts(draw_front(front_info(found)))
    draw_tradeoff(tradeoff_info(found)).draw_without_rendering()


def test_history_has_a_panel_an_objective():
    drawn = texts(draw_history(history_info(tone_and_length(), journal())))
    assert "hypervolume" in drawn
    assert "tone   (↑ better)" in drawn
    assert "length   (↓ better)" in drawn
    assert "toxicity   (↓ better, audit only)" in drawn


def test_weights_show_the_strength_only_where_it_varies():
    assert "sum of weights: strength of the step" in texts(draw_weights(weights_info(tone_and_length(), journal())))
    steady = [{"event": "step", "step": s, "weights": [[0.3, 0.7]]} for s in (1, 2)]
    drawn = texts(draw_weights(weights_info(tone_and_length(), steady)))
    assert "sum of weights: strength of the step" not in drawn
    assert "weight on tone (the rest on length)" in drawn


def test_a_slot_that_was_moved_goes_on_in_the_color_of_its_new_preference():
    figure = draw_weights(weights_info(tone_and_length(), moved()))
    lines = [line for line in figure.axes[0].lines if line.get_marker() != "<"]
    assert [line.get_xdata().tolist() for line in lines] == [[1, 2, 3], [1, 2], [3]]
    assert len({line.get_color() for line in lines}) == 3
    wanted = {float(line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "<"}
    assert wanted == {1.0, 0.2, 0.9}
    assert any("cut where a policy went on to another" in text for text in texts(figure))
    figure = draw_history(history_info(tone_and_length(), moved()))
    assert len({tuple(bars.lines[0].get_color()) for bars in figure.axes[1].containers}) == 3
    assert any("went on to another preference" in text for text in texts(figure))
    for draw, gather in ((draw_weights, weights_info), (draw_history, history_info)):
        drawn = texts(draw(gather(tone_and_length(), journal())))
        assert not any("went on to another" in text for text in drawn)


def test_the_weights_of_a_family_stand_above_the_preferences_that_they_were_made_of():
    figure = draw_weights(weights_info(tone_and_length(), of_a_family()))
    (dots,) = figure.axes[0].collections
    # weights (.6, .2) and (.1, .3) are shares of .75 and .25
    expected = [[0.1, 0.75], [0.9, 0.25], [0.2, 0.75], [0.9, 0.25], [0.3, 0.75], [0.9, 0.25]]
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), expected)
    assert "preference for tone" in texts(figure)
    assert not any("policy" in text for text in texts(figure))
    assert any("each dot of its own preference" in text for text in texts(draw_history(history_info(
        tone_and_length(), of_a_family()))))  # fmt: skip


def test_tradeoff_is_priced_in_words():
    drawn = texts(draw_tradeoff(tradeoff_info(tone_and_length())))
    assert "What +0.1 tone costs in length" in drawn
    assert "more length  per +0.1 tone" in drawn
    assert {"7", "15"} <= set(drawn)  # 20 / 0.3 and 30 / 0.2 words for a unit, a tenth of it quoted


def test_a_front_of_one_member_has_nothing_to_exchange():
    drawn = texts(draw_tradeoff(tradeoff_info(record([objective("a"), objective("b")], [estimate([0.1, 0.2])]))))
    assert "one member: nothing to exchange" in drawn


def test_where_one_member_dominates_the_figure_says_so_and_shows_no_scale():
    estimates = [estimate([0.1, 0.2]), estimate([0.3, 0.4])]
    figure = draw_tradeoff(tradeoff_info(record([objective("a"), objective("b")], estimates)))
    assert any("of 2 members only p1-s40 is undominated" in text for text in texts(figure))
    (ax,) = figure.axes
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_a_band_that_goes_on_beyond_the_panel_is_marked():
    estimates = [estimate(v, 0.005) for v in ([0.1, 0.9], [0.13, 0.6], [0.3, 0.5])]
    (found,) = tradeoff_info(record([objective("x"), objective("y")], [replace(e, n=4) for e in estimates]))
    drawn = texts(draw_tradeoff([found]))
    assert any(text.startswith("↑ ") for text in drawn)
    assert any("arrows: the band goes on beyond the panel" in text for text in drawn)
    assert not any("arrows" in text for text in texts(draw_tradeoff(tradeoff_info(tone_and_length()))))


def test_bars_of_two_policies_do_not_stand_on_each_other():
    start, *rest = journal()
    measured = next(event for event in rest if event["event"] == "evaluation")
    figure = draw_history(history_info(tone_and_length(), [start, *rest, {**measured, "step": 9}]))
    figure.draw_without_rendering()
    first, second = (bars.lines[0].get_xdata() for bars in figure.axes[1].containers)
    assert (np.asarray(first) < np.asarray(second)).all()


def test_no_pyplot_state_and_a_picture_for_notebooks():
    before = "matplotlib.pyplot" in sys.modules
    figure = draw_front(front_info(tone_and_length()))
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_drawing_leaves_its_numbers_alone():
    info = front_info(tone_and_length())
    before = info.values.copy(), info.halfwidth.copy(), info.preferences.copy()
    draw_front(info)
    for array, kept in zip((info.values, info.halfwidth, info.preferences), before, strict=True):
        np.testing.assert_array_equal(array, kept)
