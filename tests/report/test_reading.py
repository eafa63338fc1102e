"""A preference is read from a finished front as the run read it while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from front_records import estimate, objective, record

from pareto_align.errors import PreferenceError
from pareto_align.front.storage import FrontRecord
from pareto_align.report.request import answer, recorded_rule

ANGLES = np.linspace(0, np.pi / 2, 9)
ROUND = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # nine members on a quarter of a circle


def places(values: np.ndarray) -> np.ndarray:
    """The preference [n, 2] whose place each member is: weighted shortfalls from the best are equal there."""
    short = (values.max(axis=0) - values) / np.ptp(values, axis=0)
    return short[:, ::-1] / short.sum(axis=1, keepdims=True)


def rates(values: np.ndarray) -> np.ndarray:
    """The preference whose exchange rate the front has at each member of a quarter of a circle."""
    return values / values.sum(axis=1, keepdims=True)


def front(values: np.ndarray, preferences: np.ndarray, stderr: float = 1e-4, **config: str) -> FrontRecord:
    objectives = [objective("tone"), objective("calm")]
    found = [estimate(row, stderr) for row in values]
    return record(objectives, found, preferences.tolist(), ids=[f"m{k}" for k in range(len(values))], config=config)


def chosen(made: FrontRecord, **more: object) -> list[int]:
    return [answer(made, member.preference, **more).row for member in made.members]  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [{"reading": "place"}, {"weighting": "chebyshev"}, {"weighting": "stch"}])
def test_every_member_is_found_by_the_place_it_was_trained_for(place: dict[str, str]) -> None:
    made = front(ROUND, places(ROUND), **place)
    assert chosen(made) == list(range(9))
    assert chosen(made, rule="chebyshev") == list(range(9))
    assert chosen(made, rule="linear") != list(range(9))


@pytest.mark.parametrize(
    "rate", [{"reading": "rate"}, {"weighting": "fixed"}, {"reading": "rate", "weighting": "stch"}]
)
def test_every_member_is_found_by_the_rate_it_was_trained_for(rate: dict[str, str]) -> None:
    made = front(ROUND, rates(ROUND), **rate)
    assert chosen(made) == list(range(9))
    assert chosen(made, rule="chebyshev") != list(range(9))


def test_where_another_member_was_measured_better_it_is_said_who_was_trained_for_it() -> None:
    crossed = places(ROUND)[[0, 1, 2, 4, 3, 5, 6, 7, 8]]  # two members that learnt each other's task
    made = front(ROUND, crossed, reading="place")
    found = answer(made, crossed[3])
    assert found.row == 4
    assert ". m3 was trained for this very preference; by what was measured m4 serves it better." in found.reason
    rounded = [round(float(weight), 2) for weight in crossed[3]]  # as the table shows it
    assert "m3 was trained for this very preference" in answer(made, rounded).reason
    twice = front(ROUND, places(ROUND)[[0, 1, 2, 4, 3, 4, 6, 7, 8]], reading="place")
    assert "m3 and m5 were trained for this very preference" in answer(twice, crossed[3]).reason


@pytest.mark.parametrize("other", [{"rule": "linear"}, {"rule": "knee"}, {"at_least": {"calm": float(ROUND[4, 1])}}])
def test_who_was_trained_for_it_is_not_said_of_another_reading_nor_of_who_misses_a_limit(other: dict) -> None:
    crossed = places(ROUND)[[0, 1, 2, 4, 3, 5, 6, 7, 8]]
    made = front(ROUND, crossed, reading="place")
    assert "was trained for" not in answer(made, crossed[3], **other).reason
    assert "was trained for" not in answer(made, crossed[0]).reason  # who was is chosen


@pytest.mark.parametrize(("scale", "shift"), [((0.2, 0.9), (0.5, 0.05)), ((0.02, 0.9), (0.1, 0.1))])
def test_a_place_is_a_share_of_what_the_front_spans(scale: tuple[float, float], shift: tuple[float, float]) -> None:
    # as in training, where the frame moves with the population; the frozen frame is far wider on one axis
    values = ROUND * scale + shift
    assert chosen(front(values, places(ROUND), reading="place")) == list(range(9))


def test_a_place_stays_where_it_is_under_limits() -> None:
    made = front(ROUND, places(ROUND), reading="place")
    kept = answer(made, made.members[3].preference, at_least={"calm": 0.3})
    assert kept.row == 3


def test_where_members_differ_by_noise_alone_it_counts_little() -> None:
    values = np.array([[0.9, 0.500], [0.5, 0.501], [0.1, 0.502]])
    made = front(values, np.full((3, 2), 0.5), stderr=0.02, reading="place")
    assert answer(made, [1, 1]).row == 0


def test_the_reason_names_the_reading_and_what_the_other_one_would_choose() -> None:
    made = front(ROUND, places(ROUND), reading="place")
    found = answer(made, [0.7, 0.3])
    other = answer(made, [0.7, 0.3], rule="linear")
    assert (found.rule, other.rule) == ("chebyshev", "linear")
    assert found.row != other.row
    assert "best for tone 0.70 and calm 0.30, read as a place on the front like the run did" in found.reason
    assert f"Read as an exchange rate (rule 'linear') the preference would choose m{other.row}." in found.reason
    assert "read as an exchange rate, before" in other.reason
    assert f"Read as a place on the front (rule 'chebyshev') the preference would choose m{found.row}." in other.reason
    corner = answer(made, {"tone": 1})
    assert "would choose" not in corner.reason
    assert "best for tone 1.00," in corner.reason
    assert "read as" not in answer(made, [0.7, 0.3], rule="knee").reason


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({}, "linear"),
        ({"weighting": "fixed"}, "linear"),
        ({"weighting": "epo"}, "chebyshev"),
        ({"weighting": "of a stranger"}, "linear"),
        ({"weighting": "lagrangian", "reading": "place"}, "chebyshev"),
        ({"weighting": None}, "linear"),
    ],
)
def test_fronts_that_do_not_say_go_by_the_name_of_their_weighting(config: dict[str, str], rule: str) -> None:
    assert recorded_rule(front(ROUND, places(ROUND), **config)) == rule


def test_the_front_of_the_first_release_is_read_as_its_run_did() -> None:
    from pareto_align.front.storage import read_front

    first, _ = read_front(Path(__file__).parents[1] / "fixtures" / "front-v1")
    assert "reading" not in first.config
    assert recorded_rule(first) == "chebyshev"


def test_an_empty_front_serves_nobody() -> None:
    with pytest.raises(PreferenceError, match="no members"):
        answer(front(np.empty((0, 2)), np.empty((0, 2)), reading="place"), [1, 1])
