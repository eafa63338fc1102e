"""The study of the demo: its page says what its results say, and they are of runs that its command makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "demo"
MODULES = ("run",)
ROWS = {
    "one family": "default",
    "independent, linear weights": "linear",
    "independent, Chebyshev weights": "chebyshev",
}


@pytest.fixture(scope="module")
def page():
    return (STUDY / "README.md").read_text(encoding="utf-8")


def short(value):
    return f"{value:.3f}".removeprefix("0")


def test_what_was_run_is_what_the_command_runs(code, results):
    assert set(ROWS.values()) == set(code.run.KINDS)
    assert set(results) <= {f"{kind}-{seed}" for kind in code.run.KINDS for seed in (0, 1, 2)}


def test_the_table_has_a_row_for_every_run_and_its_numbers(page, results):
    def row(name, seed):
        found = results[f"{ROWS[name]}-{seed}"]
        volumes = (
            f"{short(value)} ({short(low)} to {short(high)})"
            for value, low, high in (found["hypervolume"], found["untrained_hypervolume"])
        )
        cells = [f"{name}, seed {seed}", found["members"], found["pairs_apart_by_two_standard_errors"]]
        return f"| {' | '.join(map(str, [*cells, *volumes]))} | {found['tokens']['train_tokens']:,} |\n"

    told = re.findall(r"^\| (.+), seed (\d) \|", page, re.MULTILINE)
    assert {f"{ROWS[name]}-{seed}" for name, seed in told} == set(results)
    for name, seed in told:
        assert row(name, seed) in page


def test_what_the_text_quotes_was_answered(page, results):
    (paragraph,) = re.findall(r"^The answers are about.*?\n\n", page, re.MULTILINE | re.DOTALL)
    quotes = [" ".join(quote.split()) for quote in re.findall(r'"([^"]+)"', paragraph)]
    assert len(quotes) >= 4
    answers = [" ".join(answer.split()) for member in results["default-0"]["samples"] for answer in member]
    for quote in quotes:
        assert any(quote.rstrip(".") in answer for answer in answers), quote


def test_the_first_page_says_what_the_figure_has(results):
    text = " ".join((STUDY.parents[1] / "README.md").read_text(encoding="utf-8").split())
    family, linear, chebyshev = (
        f"{results[f'{kind}-0']['hypervolume'][0]:.2f}"[1:] for kind in ("default", "linear", "chebyshev")
    )
    assert f"hypervolume {family} for the family, {linear} with linear and {chebyshev} with Chebyshev weights" in text
