"""Why a policy is no member, in the user's words: the objective's name, its direction and its units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from front_records import estimate, objective, record

from pareto_align.errors import FrontFileError
from pareto_align.front import read_front, write_front
from pareto_align.report.card import model_card
from pareto_align.report.fallen import fallen_entries, fallen_lines, in_words
from pareto_align.result import ParetoFront

OBJECTIVES = [
    objective("quality"),
    objective("cost", maximize=False, role="constrain", at_most=0.05),
    objective("right", role="constrain", at_least=0.8),
]
# as the archive says it: columns, and everything maximised
COST, RIGHT = "Objective 1 has mean -0.689, below its bound -0.05.", "Objective 2 has mean 0.7, below its bound 0.8."


def fallen(reason: str, **more: object) -> dict[str, object]:
    return {"id": "p7", "values": [0.9, 0.689, 0.7], "stderr": [0.1, None, 0.1], "status": "infeasible", **more,
            "reason": reason}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (COST, "'cost' has mean 0.689, above its limit of at most 0.05."),
        (RIGHT, "'right' has mean 0.7, below its limit of at least 0.8."),
        (COST.replace("-0.689", "1e-05").replace("-0.05", "2e-05"), "'cost' has mean -1e-05, above its limit of at most -2e-05."),  # noqa: E501
        ("Objective 1 has mean 0, below its bound 1.", "'cost' has mean 0, above its limit of at most -1."),
        ("Objective 0 has no finite mean (nan).", "'quality' has no finite mean."),
        ("Objective 0 has no finite mean.", "'quality' has no finite mean."),
        (f"{COST} Given up.", "'cost' has mean 0.689, above its limit of at most 0.05. Given up."),
        ("'m3' is better on every axis with 95% confidence.", "'m3' is better on every axis with 95% confidence."),
        ("Objective 9 has no finite mean.", "Objective 9 has no finite mean."),
    ],
)  # fmt: skip
def test_a_reason_speaks_of_objectives_not_of_columns(reason: str, said: str) -> None:
    assert in_words(reason, OBJECTIVES) == said


def test_the_verdict_is_there_as_numbers_too_also_of_fronts_that_have_the_sentence_alone() -> None:
    told = {"objective": "cost", "value": 0.689, "bound": 0.05, "rival": None}
    for entry in fallen_entries(record(OBJECTIVES, [], fallen=[fallen(COST), fallen(COST, **told)])):
        assert (entry.id, entry.status, entry.objective, entry.value, entry.bound) == (
            "p7", "infeasible", "cost", 0.689, 0.05,
        )  # fmt: skip
        assert entry.values.tolist() == [0.9, 0.689, 0.7]
        assert np.isnan(entry.stderr[1])
        assert "above its limit of at most 0.05" in repr(entry)
    (old,) = fallen_entries(record(OBJECTIVES, [], fallen=[{"id": "x"}]))
    assert (old.reason, old.status, old.rival, old.objective) == ("", "", None, None)
    assert np.isnan(old.values).all()


def test_a_front_tells_of_its_fallen_and_the_lines_are_plain(tmp_path: Path) -> None:
    rows = [fallen(COST), fallen("'a\x1b' is better on every axis.", rival="a\x1b", status="dominated")]
    made = record(OBJECTIVES, [estimate([0.5, -0.01, 0.9])], fallen=rows)

    def adapter(name: str, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(bytes(16))

    write_front(tmp_path, made, adapter)
    front = ParetoFront.load(tmp_path)
    assert [entry.rival for entry in front.fallen] == [None, "a\x1b"]
    heading, *lines = fallen_lines(front.record)
    assert heading == "Not kept, measured on the report prompts:"
    assert lines[0].startswith("p7  quality 0.900, cost 0.689, right 0.700  ")
    assert lines[0].endswith("infeasible: 'cost' has mean 0.689, above its limit of at most 0.05.")
    assert "\x1b" not in "".join(lines)


def test_numbers_of_two_splits_do_not_stand_in_one_column() -> None:
    rows = [fallen(RIGHT, id="here", split="report"), fallen(RIGHT, id="before", split="select")]
    made = record(OBJECTIVES, [estimate([0.5, -0.01, 0.9])], fallen=rows)
    assert [line.partition("  ")[0] for line in fallen_lines(made)] == [
        "Not kept, measured on the report prompts:", "here", "Not kept, measured on the selection prompts:", "before",
    ]  # fmt: skip
    card = model_card(made)
    assert "**here**, infeasible on the report prompts: " in card
    assert "**before**, infeasible on the selection prompts: " in card


@pytest.mark.parametrize(
    "change", [{"rival": 3}, {"objective": []}, {"value": "much"}, {"bound": 1e40}, {"provenance": 1}]
)
def test_what_a_verdict_may_not_say_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    made = record(OBJECTIVES, [], fallen=[fallen(COST)])
    write_front(tmp_path, made, lambda name, folder: None)
    data = json.loads((tmp_path / "front.json").read_text())
    data["fallen"][0] |= change
    data.pop("sha256")
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(FrontFileError, match=rf"fallen\[0\]\.{next(iter(change))}"):
        read_front(tmp_path)
