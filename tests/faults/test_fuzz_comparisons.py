"""Whatever stands in a file of comparisons, reading it succeeds or is refused in our own words."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ParetoAlignError
from pareto_align.report.data_report import examine, report_lines

COLUMNS = (
    "prompt", "chosen", "rejected", "response_0", "response_1", "response_2", "response1", "response2", "response",
    "completion", "label", "is_safe", "instruction", "completions", "answers", "responses", "messages", "context",
    "margin",
    "better_response_id", "preference_strength", "overall_preference", "score_chosen", "score_rejected", "reference",
    "tone", "tone_0", "tone_1", "user", "labels", "pairs", "ref_chosen_logps", "is_response_0_safe", "rank",
    "annotations",
    "chat_template_kwargs",
)  # fmt: skip
TEXTS = st.sampled_from(
    ["", " ", "a", "b", "\n\nHuman: x\n\nAssistant: y", "N/A", "1", "0.5", "chosen", "\ud83d", "é" * 3]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 7), st.just(10**400), st.floats(width=16), st.just(math.nan), TEXTS
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", 3]), "content": st.one_of(TEXTS, st.none())}
    ),
    max_size=3,
)
VALUES = st.one_of(
    TEXTS,
    SCALARS,
    MESSAGES,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["x", "Rating", "helpfulness", "response"]), SCALARS, max_size=2),
    st.lists(
        st.dictionaries(
            st.sampled_from(["response", "answer", "rank", "annotations", "overall_score"]), SCALARS, max_size=3
        ),
        max_size=3,
    ),
)
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=7), min_size=1, max_size=4)
SHAPES = st.sampled_from(
    [
        ("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("prompt", "response_0", "response_1", "tone"),
        ("prompt", "response1", "response2", "overall_preference"), ("instruction", "completions"),
        ("prompt", "answers"), ("prompt", "responses", "tone"), ("prompt", "response", "tone"),
        ("prompt", "completion", "label"),
        ("prompt", "responses", "labels", "pairs"), ("messages", "tone"),
    ]
)  # fmt: skip

WORDS = st.sampled_from(["a", "b", "c d", "1"])
NUMBERS = st.sampled_from([0, 1, 0.5, 2, -1])
MEANT = {
    "tone": st.sampled_from([0, 1, [1, 2]]),
    "overall_preference": NUMBERS,
    "label": st.booleans(),
    "responses": st.just(["a", "b"]),
    "labels": st.fixed_dictionaries({"x": st.lists(st.sampled_from([0, 0.3, 1]), min_size=1, max_size=1)}),
    "pairs": st.just([[0, 1]]),
    "completions": st.just(
        [{"response": x, "annotations": {"helpfulness": {"Rating": y}}} for x, y in (("a", "3"), ("b", "4"))]
    ),
    "answers": st.just([{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]),
}  # what stands in a column where nothing is wrong; in all others, words


def read(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = Comparisons.from_rows(rows)
        except ParetoAlignError:
            return False
        values = found.table().values
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()
        assert found.to_rows() == Comparisons.from_rows(json.loads(json.dumps(found.to_rows(), default=str))).to_rows()
        assert "\n".join(report_lines(examine(found)))
        found.unpaired()
        return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_any_columns(rows):
    read(rows)


def test_the_columns_of_a_format_with_anything_in_them():
    taken = []

    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def check(data):
        columns = data.draw(SHAPES)
        anything = data.draw(st.integers(0, 2))  # how many of six cells hold it
        rows = [
            {
                name: data.draw(VALUES if data.draw(st.integers(0, 5)) < anything else MEANT.get(name, WORDS))
                for name in columns
            }
            for _ in range(data.draw(st.integers(1, 3)))
        ]
        taken.append(read(rows))

    check()
    assert sum(taken) >= 40  # not all is refused
