from __future__ import annotations

import numpy as np
import pytest
from front_records import estimate, objective, record, tone_and_length

from pareto_align.front import Estimate
from pareto_align.report.card import model_card
from pareto_align.report.table import escape_markdown, front_table, html_table, markdown_table, text_table
from pareto_align.report.units import bounds_of, measured


def test_text_table_word_for_word():
    found = tone_and_length(reference_policy=estimate([0.25, -71.5, -0.1], [0.02, 2.0, 0.01]))
    assert text_table(front_table(found)) == "\n".join(
        [
            "member        preference           tone      length         toxicity",
            "           tone / length              ↑           ↓          ↓ audit",
            "────────────────────────────────────────────────────────────────────",
            "a            1.00 / 0.00  0.800 ± 0.040  60.0 ± 6.0  0.0200 ± 0.0080",
            "b            0.50 / 0.50  0.600 ± 0.040  30.0 ± 4.0  0.0500 ± 0.0080",
            "c            0.00 / 1.00  0.300 ± 0.040  10.0 ± 2.0  0.0100 ± 0.0080",
            "────────────────────────────────────────────────────────────────────",
            "untrained              -  0.250 ± 0.040  71.5 ± 4.0  0.1000 ± 0.0200",
        ]
    )


def test_ascii_table_is_ascii_and_aligned():
    text = text_table(front_table(tone_and_length()), unicode=False)
    assert text.isascii()
    signs = [line.index("+/-") for line in text.splitlines()[3:]]
    assert len(set(signs)) == 1


def test_no_preference_column_where_nobody_has_one():
    found = record([objective("a"), objective("b")], [estimate([0.1, 0.2])], [None])
    assert front_table(found).header == ("member", "a", "b")


def test_unknown_spread_leaves_the_mean_alone():
    found = record([objective("a")], [estimate([0.5], 0.0, n=1), estimate([0.4], 0.01)], ids=["x", "y"])
    rows = text_table(front_table(found)).splitlines()[3:]
    assert rows[0] == "x       0.500"
    assert rows[1] == "y       0.400 ± 0.020"


def test_an_empty_front_is_a_header():
    assert "member" in text_table(front_table(record([objective("a"), objective("b")], [])))


def test_names_cannot_drive_the_terminal():
    found = record([objective("a\x1b[31m\nb")], [estimate([0.5])])
    text = text_table(front_table(found))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4


def test_markdown_and_html_cells_are_escaped():
    found = record([objective("<b>|x|</b>")], [estimate([0.5])], ids=["`m`"])
    table = front_table(found)
    lines = markdown_table(table).splitlines()
    assert lines[0] == r"| member | &lt;b&gt;\|x\|&lt;/b&gt; (↑) |"
    assert lines[2].startswith(r"| \`m\` |")
    assert "<b>" not in html_table(table, caption="<i>")
    assert "&lt;i&gt;" in html_table(table, caption="<i>")


def test_escaped_text_stays_on_its_line():
    assert "\n" not in escape_markdown("a\n\n# b")
    assert escape_markdown("*x* [y](z)") == r"\*x\* \[y\](z)"


def rewarded(rows, names=("passed",), **more):
    """A front of members with these rewards, [members][prompts][objectives], in maximised units."""
    made = [objective(name, bounds=more.pop("bounds", None), **more) for name in names]
    return record(made, [Estimate.from_samples(np.array(x, dtype=float), range(len(x))) for x in rows])


def test_an_interval_of_rewards_with_bounds_need_not_be_even():
    rows = text_table(front_table(rewarded([[[0.0]] * 63 + [[1.0]], [[0.0]] * 32 + [[1.0]] * 32]))).splitlines()
    assert rows[3] == "p0-s40  0.016 (0.000 to 0.084)"
    assert rows[4] == "p1-s40  0.500 (0.372 to 0.628)"
    assert len(rows) == 5  # nothing to doubt


def test_the_ends_of_a_minimised_reward_are_in_the_users_units():
    found = rewarded([[[0.0]] * 63 + [[-1.0]]], maximize=False)
    assert bounds_of(found) == ((-1.0, 0.0),)
    table = measured(found)
    assert table.low[0, 0] == pytest.approx(0.0004, abs=1e-4)
    assert table.high[0, 0] == pytest.approx(0.0840, abs=1e-4)
    assert table.halfwidth[0, 0] == pytest.approx((0.0840 - 0.0004) / 2, abs=1e-4)


def test_bounds_are_what_was_declared_unless_a_reward_leaves_them():
    inside, outside = [[[0.2], [0.4]]], [[[0.2], [1.4]]]
    assert bounds_of(rewarded(inside, bounds=(0.0, 1.0))) == ((0.0, 1.0),)
    assert bounds_of(rewarded(outside, bounds=(0.0, 1.0))) == (None,)
    assert bounds_of(rewarded(inside)) == (None,)
    assert bounds_of(rewarded([[[0.0], [0.0]]], maximize=False)) == ((-1.0, 0.0),)


def test_an_interval_that_is_not_to_be_trusted_is_marked_and_says_why():
    rng = np.random.default_rng(0)
    found = rewarded([np.exp(1.5 * rng.normal(size=(64, 1))), rng.normal(size=(64, 1))], names=("words",))
    table = front_table(found)
    assert [row[1].endswith(" †") for row in table.rows] == [True, False]
    (remark,) = table.remarks
    assert remark.startswith("words: do not trust the intervals marked † (skewed: ")
    assert text_table(table).splitlines()[-1] == remark
    assert "marked * (skewed" in text_table(table, unicode=False)
    assert text_table(table, unicode=False).isascii()
    assert "(skewed: " in html_table(table)
    assert "\n- words: do not trust" in markdown_table(table)
    assert "do not trust the intervals" in model_card(found)
    few = front_table(rewarded([[[0.3], [0.4], [0.9]]])).remarks[0]
    assert "(few: " in few
    constant = front_table(rewarded([[[3.0]] * 20])).remarks[0]
    assert "(rare: " in constant
