"""What a model makes of comparisons: against a plain reading of its logits, one answer after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import EOS, tiny_base

from pareto_align.data.comparisons import Comparisons
from pareto_align.data.difficulty import ches, idealised_accuracy, ranking_accuracy
from pareto_align.errors import ConfigError
from pareto_align.policies.states import read_answers
from pareto_align.report.model_report import examine_with, model_lines

ROWS = [
    {"prompt": "<0>ab", "response_0": "cde", "response_1": "f", "good": 0.8, "sure": 0},
    {"prompt": "<1>c", "response_0": "aa", "response_1": "ab", "good": 0.3, "sure": 1},
    {"prompt": "<2>abcd", "response_0": "kk", "response_1": "lll", "good": 0.9, "sure": 1},
    {"prompt": "<3>", "response_0": "abcdef", "response_1": "lkj", "good": 0.5, "sure": 0},
]


@pytest.fixture(scope="module")
def data():
    return Comparisons.from_rows(ROWS, labels=["good", "sure"], kinds={"good": "probability", "sure": "which"})


def plain(base, prompt, answer):
    """Log-probability of an answer with its stop token, and the states that predict its tokens."""
    ids = base.encode(prompt)
    tokens = [*base.tokenizer(answer, add_special_tokens=False)["input_ids"], EOS]
    with torch.no_grad():
        seen = torch.tensor([[*ids, *tokens]])
        logits = base.model(seen).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        hidden = base.model.model(seen).last_hidden_state[0, len(ids) - 1 : -1]
    return float(logits.gather(1, torch.tensor(tokens)[:, None]).sum()), hidden.numpy(), len(tokens)


def test_the_numbers_are_those_of_a_plain_reading(data):
    base = tiny_base()
    report = examine_with(base, data, beta=0.2)
    read = [[plain(base, row["prompt"], row[f"response_{side}"]) for side in (0, 1)] for row in ROWS]
    surprise = -np.mean([one[0] / one[2] for pair in read for one in pair])
    assert report.surprise == pytest.approx(surprise, abs=1e-4)
    assert report.off_policy == pytest.approx(report.surprise - report.own_surprise)
    assert 0 < report.own_surprise < np.log(base.model.config.vocab_size) + 1
    good, sure = report.objectives
    winners = [0, 1, 0]  # of "good"; the fourth is a tie
    gaps = [pair[w][0] - pair[1 - w][0] for pair, w in zip(read, winners, strict=False)]
    assert (good.pairs, good.graded) == (3, 3)
    assert good.accuracy == pytest.approx(ranking_accuracy(gaps))
    assert good.idealised == pytest.approx(idealised_accuracy(gaps, [0.8, 0.7, 0.9], 0.2))
    found = [ches(pair[w][1], pair[1 - w][1], per_token=True) for pair, w in zip(read, winners, strict=False)]
    assert good.ches == pytest.approx(np.median(found), rel=1e-4)
    assert (sure.pairs, sure.graded) == (4, 0)
    assert np.isnan(sure.idealised)


def test_reading_does_not_depend_on_the_batch():
    base = tiny_base()
    prompts = [base.encode(text) for text in ("<0>", "<1>abc", "<2>abcdefg")]
    said = [[3, 4, EOS], [5, EOS], [1, 2, 3, 4]]
    together, apart = read_answers(base, prompts, said), read_answers(base, prompts, said, batch_tokens=1)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_pairs_that_hardly_turn_are_told_of():
    rows = [{**row, "turned": 1 - row["sure"]} for row in ROWS]  # what the one ranks right, the other has wrong
    data = Comparisons.from_rows(rows, labels=["sure", "turned"], kinds=dict.fromkeys(("sure", "turned"), "which"))
    stuck = examine_with(tiny_base(), data, beta=50.0)
    wrong = {one.name: 1 - one.accuracy for one in stuck.objectives}
    for one in stuck.objectives:  # with such a beta every pair that is ranked wrong is one
        assert one.stuck == pytest.approx(wrong[one.name])
    assert sum(wrong.values()) == pytest.approx(1)
    assert any("hardly turn" in line for line in stuck.advice)
    lines = model_lines(stuck)
    assert any(line.startswith("sure: it ranks") for line in lines)
    with pytest.raises(ConfigError, match="beta"):
        examine_with(tiny_base(), data, beta=0.0)
