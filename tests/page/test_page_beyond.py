"""What the page says beyond its members: a mixture between them, and what answers to questions speak for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from page_fronts import front_record, on_disk

from pareto_align.front.blending import coefficients_for
from pareto_align.front.elicitation import Users
from pareto_align.front.records import FamilyRecord
from pareto_align.front.selection import drawn_errors
from pareto_align.report.request import evidence, place_of
from pareto_align.report.units import measured, optimized, preferences_of
from pareto_align.result import ParetoFront

pytestmark = pytest.mark.usefixtures("browser")


@pytest.mark.parametrize(("n", "m"), [(14, 3), (24, 5)])
def test_who_takes_part_in_a_mixture_is_whom_python_takes(n, m, open_page, tmp_path):
    """At preferences inside and outside of those that were trained for, at the members' own and at corners."""
    front = on_disk(front_record(n, m, constraint=True), tmp_path / "run")
    page, rng = open_page(front).page, np.random.default_rng(0)
    trained = preferences_of(front.record)
    asked = [*rng.dirichlet(np.ones(m), 60), *trained[:5], *np.eye(m), *(trained[:5] + trained[1:6]) / 2]
    found = page.evaluate(
        """list => list.map(weights => { const found = between(weights); return found && {
            parts: found.parts.map(({ anchor, weight }) => [anchor.member, weight]), mean: found.mean }; })""",
        [list(map(float, weights)) for weights in asked],
    )
    inside = 0
    for weights, told in zip(asked, found, strict=True):
        expected = coefficients_for(trained, weights)
        if told is None:
            assert expected.distance > 0
            continue
        inside += 1
        assert expected.distance == 0
        mine = np.zeros(n)
        for member, weight in told["parts"]:
            mine[member] = weight
        np.testing.assert_allclose(mine, expected.weights, atol=2e-6)
        np.testing.assert_allclose(told["mean"], expected.weights @ measured(front.record).values, rtol=1e-4)
    assert inside >= 15


def test_it_says_of_a_mixture_what_python_says(open_page, tmp_path):
    front = on_disk(front_record(9, 2, constraint=True), tmp_path / "run")
    opened = open_page(front, "#prefer=70,30")
    blend = front.mixture([0.7, 0.3])
    said = opened.page.inner_text("#between")
    for expert, weight in zip(blend.experts, blend.coefficients, strict=True):
        assert f"{expert} ({weight:.2f})" in said
    digits = opened.page.evaluate("() => OBJECTIVES.map(objective => objective.digits)")
    for name, value, half, d in zip(front.names, blend.predicted, blend.halfwidth, digits, strict=True):
        assert f"{name} {value:.{d}f} ± {half:.{d}f}" in said
    assert "trained without a price of KL" in said
    assert "trained without a price of KL" in blend.reason
    assert opened.page.inner_text("#mixture .code") == "pareto-align blend run --prefer tone=70 length=30"
    own = [int(100 * w) for w in front.record.members[2].preference]
    opened.page.evaluate("w => { state.weights = w; draw(); }", own)
    assert opened.page.inner_text("#between").startswith("m0014 was trained for this very preference")
    family = front_record(5, 2)
    alone = on_disk(replace(family, members=family.members[:1]), tmp_path / "alone")
    assert open_page(alone).page.is_hidden("#mixture-section")


def test_where_a_family_does_not_hold_a_place_the_measured_member_is_named(open_page, tmp_path):
    """As `FamilyMember.better`: by what is expected of the family at most."""
    made = on_disk(front_record(5, 2), tmp_path / "run")
    best = made.select([0.5, 0.5]).member
    # a family that has the same for every preference, well below, and with an interval of nearly nothing
    poor = (best.values + [-0.3, 30.0]).tolist()
    corners = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    made.record.family = FamilyRecord(
        "gates", {}, [1, 1], 3, corners, [poor] * 3, [[1e-4, 1e-2]] * 3, n=48, adapter="family/x"
    )
    page = open_page(made, "#prefer=50,50").page
    said = page.inner_text("#between")
    assert f"The family does not hold that place yet: {best.id}, which was measured, serves it better." in said
    assert best.id in made.at([0.5, 0.5]).reason
    page.evaluate("w => { state.limits[0] = w; draw(); }", round(float(best.values[0]) - 0.01, 3))
    assert "Expected not to keep tone at least" in page.inner_text("#between")
    held = ParetoFront.load(made.path)
    held.record.family = replace(made.record.family, values=[best.values.tolist()] * 3)
    assert "does not hold" not in open_page(held, "#prefer=50,50").page.inner_text("#between")
    assert held.at([0.5, 0.5]).better is None


def test_a_family_that_is_expected_to_miss_a_limit_of_the_run_says_so(open_page, tmp_path):
    made = on_disk(front_record(5, 2, constraint=True), tmp_path / "run")
    best, column = made.select([0.5, 0.5]).member, made.names.index("harm")
    values = best.values.copy()
    values[column] = made.record.objectives[column].at_most + 0.2
    corners = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    noise = [[1e-4] * len(values)] * 3
    made.record.family = FamilyRecord(
        "gates", {}, [1, 1], 3, corners, [values.tolist()] * 3, noise, n=48, adapter="family/x"
    )
    said = open_page(made, "#prefer=50,50").page.inner_text("#between")
    assert "Expected not to keep harm at most" in said
    assert f"{best.id}, which was measured, serves it better." in said
    assert made.at([0.5, 0.5]).better == best.id
    assert "It is expected to miss harm at most" in made.at([0.5, 0.5]).reason


def test_the_users_of_the_page_are_those_of_python(open_page, tmp_path):
    """Before any answer and after six, with users drawn anew in between: other draws of the same crowd."""
    front = on_disk(front_record(8, 3, constraint=True), tmp_path / "run")
    page, record = open_page(front).page, front.record
    rows, axes = list(range(len(front))), list(optimized(record))
    seen = evidence(record, rows)
    frame = {**place_of(record, axes), "lower": seen.known["lower"], "upper": seen.known["upper"]}
    noise = {"n": seen.known["n"], "samples": seen.samples, "bounds": seen.known["bounds"]}
    errors = drawn_errors(seen.means, seen.stderr, **noise, draws=4000, seed=0)
    users = Users(seen.means, **frame, errors=errors, particles=4000)
    replies = []
    wish = np.array([0.2, 0.6, 0.2])
    true = ((seen.means - seen.known["lower"]) / (np.subtract(seen.known["upper"], seen.known["lower"]))) @ wish
    askable = np.triu(np.ones((len(rows), len(rows)), dtype=bool), 1)
    script = """([replies, left]) => { errors ??= drawErrors();
        const users = new Users(MEMBERS.map((_, k) => k), errors);
        for (const reply of replies) users.answer(...reply);
        return [users.expected, users.firsts, users.preference, users.regret, users.ask(() => true, left)]; }"""
    pairs = np.triu_indices(len(rows), 1)
    for left in reversed(range(7)):
        if left in (0, 3, 6):
            expected, firsts, preference, regret, pair = page.evaluate(script, [replies, left])
            np.testing.assert_allclose(expected, users.expected, atol=0.05)
            np.testing.assert_allclose(firsts, users.probability_best, atol=0.08)
            np.testing.assert_allclose(preference, users.preference[0], atol=0.05)
            assert regret == pytest.approx(users.regret(), abs=0.02)
            worth = users.worth(*np.array([pair]).T, left)
            assert worth[0] == pytest.approx(users.worth(*pairs, left).max(), abs=0.02)  # as good a question
        first, second = users.ask(askable, left)
        replies.append([first, second, "first" if true[first] > true[second] else "second"])
        users.answer(*replies[-1])
    assert users.regret() < 0.1


def test_a_keyboard_answers_the_questions_and_takes_what_they_find(open_page, tmp_path):
    front = on_disk(front_record(9, 2, constraint=True), tmp_path / "run")
    opened = open_page(front, "#limit.2=0.39")
    page = opened.page
    kept = {member.id for member, row in zip(front, front.values, strict=True) if row[2] <= 0.39}
    assert 2 < len(kept) < len(front)
    page.evaluate(
        """() => { window.left = []; const ask = Users.prototype.ask;
        Users.prototype.ask = function (askable, then) { left.push(then); return ask.call(this, askable, then); } }"""
    )
    page.focus("[data-key=ask]")
    page.keyboard.press("Enter")
    assert opened.focused() == "question"  # the button is gone, and what it asked for is read
    asked = []
    while "Question" in (said := page.inner_text("#question")):
        assert said.startswith(f"Question {len(asked) + 1} of at most 6")
        texts = [text.inner_text() for text in page.query_selector_all("#questions article")]
        asked.append([text.split()[0] for text in texts])
        liked = "first" if asked[-1][0] > asked[-1][1] else "second"  # the later one has more tone
        page.focus(f"[data-key={liked}]")
        page.keyboard.press("Enter")
    assert 2 <= len(asked) <= 6
    assert page.evaluate("left.slice(0, 6)")[: len(asked)] == [5, 4, 3, 2, 1, 0][: len(asked)]
    assert {name for pair in asked for name in pair} <= kept
    assert said.startswith(f"By {len(asked)} answers {max(kept)} is the best for you with probability ")
    page.click("[data-key=adopt]")
    assert float(page.input_value("#weight-0")) > float(page.input_value("#weight-1"))
    assert page.get_attribute(f"#table tr:has(button:text-is('{max(kept)}')) button", "aria-pressed") == "true"
    page.fill("#exact-2", "0.5")
    assert page.inner_text("#question").startswith("Up to 6 times")  # other members come into question
    assert opened.messages == []


def test_there_are_no_questions_without_answers_to_show(open_page, tmp_path):
    made = front_record(4, 2)
    silent = replace(made, members=[replace(member, sample=[]) for member in made.members])
    assert open_page(on_disk(silent, tmp_path / "silent")).page.is_hidden("#questions-section")
    same = [replace(member, sample=[{"prompt": "Tea?", "completion": "Yes."}]) for member in made.members]
    page = open_page(on_disk(replace(made, members=same), tmp_path / "same")).page
    page.click("[data-key=ask]")
    assert page.inner_text("#question").startswith("These members differ by too little to ask about")
