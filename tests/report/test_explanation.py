from __future__ import annotations

from pathlib import Path

import pytest
from front_records import estimate, objective, record, tone_and_length

from pareto_align import Objective, ParetoAligner
from pareto_align.front.storage import FrontRecord
from pareto_align.report.explanation import explanation
from pareto_align.report.request import answer
from pareto_align.result import ParetoFront


def explained(made: FrontRecord, preference: object, **more: object) -> str:
    return explanation(made, answer(made, preference, **more))  # type: ignore[arg-type]


def test_two_sentences_against_the_untrained_model_and_the_runner_up() -> None:
    made = tone_and_length(reference_policy=estimate([0.2, -80.0, -0.1], [0.02, 3.0, 0.004]))
    assert explained(made, {"tone": 1}) == (
        "a has tone 0.800 (untrained 0.200, so 0.600 better), length 60.0 (untrained 80.0, so 20.0 better) and "
        "toxicity 0.0200 (untrained 0.1000, so 0.0800 better). "
        "b, the runner-up, would have 0.200 less tone (worse), 30.0 less length (better) and 0.0300 more toxicity "
        "(worse); the choice is sure, with probability 1.00."
    )


def test_without_an_untrained_model_or_a_runner_up() -> None:
    made = tone_and_length()
    assert explained(made, {"tone": 1}, at_least={"tone": 0.7}) == (
        "a has tone 0.800, length 60.0 and toxicity 0.0200. No other member comes into question."
    )


@pytest.mark.parametrize(
    ("second", "noise", "said"),
    [(0.5, 0.01, "the choice is sure"), (0.59, 0.1, "a close call"), (0.5, 0.06, "likely the best")],
)
def test_how_sure_it_is_in_words(second: float, noise: float, said: str) -> None:
    made = record([objective("x")], [estimate([0.6], noise), estimate([second], noise)])
    assert said in explained(made, [1])


def test_losses_and_what_did_not_move_are_said_as_well() -> None:
    made = tone_and_length(reference_policy=estimate([0.9, -60.0, -0.1], [0.02, 3.0, 0.004]))
    text = explained(made, {"tone": 1})
    assert "tone 0.800 (untrained 0.900, so 0.100 worse), length 60.0 (untrained 60.0, the same)" in text


def test_equal_members_are_said_to_be_equal_and_names_stay_plain() -> None:
    made = record([objective("x\x1b")], [estimate([0.6]), estimate([0.6])], ids=["a\x1b", "b"])
    assert "b, the runner-up, would have the same values" in explained(made, [1])
    assert "\x1b" not in explained(made, [1])


def test_notebooks_show_a_member_and_a_choice(tmp_path: Path) -> None:
    front = ParetoFront(tone_and_length(), tmp_path)
    assert front[1]._repr_html_().count("<tr>") == 2
    assert "0.600" in front[1]._repr_html_()
    choice = front.select({"tone": 1})
    assert choice._repr_html_().count("<tr>") == 3
    assert choice.explain() in choice._repr_html_()
    hostile = ParetoFront(record([objective("<b>\x1b")], [estimate([0.5])], ids=["<i>\x1b"]), tmp_path)
    for text in (hostile[0]._repr_html_(), hostile.select([1])._repr_html_()):
        assert "<b>" not in text
        assert "<i>" not in text
        assert "\x1b" not in text


def test_an_aligner_shows_what_is_not_as_it_is_by_default() -> None:
    objectives = [Objective("short", lambda completions, **columns: [0.0], bounds=(0, 1)),
                  Objective("kind", lambda completions, **columns: [0.0], bounds=(0, 1))]  # fmt: skip
    assert repr(ParetoAligner("acme/tiny", objectives)) == "ParetoAligner('acme/tiny', [short, kind])"
    other = ParetoAligner(object(), objectives, steps=5, weighting="fixed", learner={"name": "rvpo"}, device="cpu")
    assert repr(other) == (
        "ParetoAligner(<object>, [short, kind], weighting='fixed', learner={'name': 'rvpo'}, steps=5, device='cpu')"
    )


def test_an_aligner_in_a_notebook_says_what_is_to_be_fitted_and_how() -> None:
    objectives = [
        Objective("tone <b>", lambda completions, **columns: [0.0] * len(completions), bounds=(0, 1)),
        Objective("harm", lambda completions, **columns: [0.0] * len(completions), role="constrain", at_most=0.05),
    ]
    with pytest.warns(Warning, match="constrain|only objective"):
        aligner = ParetoAligner("owner/model", objectives, weighting="fixed", steps=12, output_dir="<i>")
    shown = aligner._repr_html_()
    assert "<td>tone &lt;b&gt;</td><td>more</td><td>optimize</td><td>0 to 1</td><td></td>" in shown
    assert "<td>harm</td><td>less</td><td>constrain</td><td></td><td>at most 0.05</td>" in shown
    assert "<tr><td>steps</td><td>12</td></tr>" in shown
    assert "<td>output_dir</td><td>&#x27;&lt;i&gt;&#x27;</td>" in shown
    assert "&#x27;owner/model&#x27;" in shown
    assert "learning_rate" not in shown
    assert "<b>" not in shown
    plain = ParetoAligner("owner/model", [Objective(name, lambda completions, **columns: [0.0]) for name in "ab"])
    assert plain._repr_html_().count("<table>") == 1
