from __future__ import annotations

from front_records import estimate, objective, record, tone_and_length

from pareto_align.report.table import escape_markdown, front_table, html_table, markdown_table, text_table


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
