"""Comparisons as tokens: what the sampler would have produced, and nothing cut unasked."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pareto_align.data.comparison_rows import encode_comparisons
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning
from pareto_align.learning.comparisons import collate, token_weights
from pareto_align.policies.base import load_base
from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

# what an assistant says ends with <eos>, and the template puts a line break behind it, as ChatML does
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{{ 'a' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)
A, B, C, D, EOS = 0, 1, 2, 3, 6


@pytest.fixture(scope="module")
def base():
    """Symbols a to d are the tokens 0 to 3; pad, bos and eos 4 to 6; the prompts <0> and <1> 7 and 8."""
    return load_base(tiny_llama(4, 2), tokenizer=symbol_tokenizer(4, 2), device="cpu")


@pytest.fixture(scope="module")
def chat():
    tokenizer = symbol_tokenizer(4, 2)
    tokenizer.chat_template = TEMPLATE
    return load_base(tiny_llama(4, 2), tokenizer=tokenizer, device="cpu")


def read(*pairs, prompt="<0>", **more):
    return Comparisons.from_rows([{"prompt": prompt, "chosen": a, "rejected": b, **more} for a, b in pairs])


def test_a_response_ends_with_the_stop_token(base):
    (row,), counts = encode_comparisons(read(("ab", "c")), base)
    assert row.ids == tuple(base.encode("<0>"))
    assert row.tokens == ((A, B, EOS), (C, EOS))
    assert not counts
    assert (row.prompt, row.columns) == ("<0>", {})


def test_a_response_ends_at_its_first_stop_token(base):
    (row,), _ = encode_comparisons(read(("ab<eos>cd<eos>", "c")), base)
    assert row.tokens[0] == (A, B, EOS)


def test_what_a_template_puts_behind_the_stop_token_is_left_out(chat):
    for comparisons in (
        read(("ab", "c")),
        Comparisons.from_rows(
            [
                {
                    "prompt": [{"role": "user", "content": "<0>"}],
                    "chosen": [{"role": "assistant", "content": "ab"}],
                    "rejected": [{"role": "assistant", "content": "c"}],
                }
            ]
        ),
    ):
        (row,), counts = encode_comparisons(comparisons, chat)
        assert row.tokens == ((A, B, EOS), (C, EOS))
        assert not counts
        (kept,), _ = encode_comparisons(comparisons, chat, parity="trl")
        assert kept.tokens == ((A, B, EOS, A), (C, EOS, A))


def test_only_the_last_turn_is_the_response(chat):
    prompt = [
        {"role": "user", "content": "<0>"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "<1>"},
    ]
    rows = [{"prompt": prompt, "chosen": "b", "rejected": "c"}]
    (row,), _ = encode_comparisons(Comparisons.from_rows(rows), chat)
    assert row.ids == tuple(chat.encode(prompt))
    assert row.tokens == ((B, EOS), (C, EOS))


def test_a_prompt_that_is_no_beginning_is_answered_apart_and_said_once(base, monkeypatch):
    from pareto_align.data import comparison_rows

    # a tokenizer that merges the prompt's last character with the response's first
    monkeypatch.setattr(comparison_rows, "_together", lambda base, comparison, response: [8, 9, 9, 9])
    with pytest.warns(ParetoAlignWarning, match="4 responses were tokenised apart") as said:
        rows, counts = encode_comparisons(
            Comparisons.from_rows([{"prompt": f"<{i}>", "chosen": "a", "rejected": "bc"} for i in range(2)]), base
        )
    assert len(said) == 1
    assert counts["responses tokenised apart from their prompt"] == 4
    assert rows[0].tokens == ((A, EOS), (B, C, EOS))


def test_too_long_is_refused_unless_asked(base):
    comparisons = read(("abcdabcd", "ab"))
    length = len(base.encode("<0>"))
    with pytest.raises(
        ComparisonError, match=rf"Comparison 0 has {length} tokens of prompt and a response of 9.*unasked"
    ):
        encode_comparisons(comparisons, base, max_length=length + 5)
    with pytest.raises(ComparisonError, match="No comparison is left: 1 comparisons longer than the limit, dropped"):
        encode_comparisons(comparisons, base, max_length=length + 5, overflow="drop")
    both = Comparisons.from_rows(
        [
            {"prompt": "<0>", "chosen": "abcdabcd", "rejected": "ab"},
            {"prompt": "<1>", "chosen": "a", "rejected": "b"},
        ]
    )
    rows, counts = encode_comparisons(both, base, max_length=length + 5, overflow="drop")
    assert [row.prompt for row in rows] == ["<1>"]
    assert counts["comparisons longer than the limit, dropped"] == 1
    with pytest.raises(ComparisonError, match="set overflow='drop', or a larger max_length"):
        encode_comparisons(comparisons, base, max_length=length, overflow="truncate")


def test_cut_responses_have_the_same_end(base):
    """A stop token on one side only would tell the lengths apart."""
    (row,), counts = encode_comparisons(
        read(("abcdabcd", "ab")), base, max_length=len(base.encode("<0>")) + 5, overflow="truncate"
    )
    assert row.tokens == ((A, B, C, D, A), (A, B))
    assert counts["comparisons cut to the limit"] == 1


def test_empty_responses_need_a_stop_token(base, monkeypatch):
    (row,), _ = encode_comparisons(read(("", "a")), base)
    assert row.tokens[0] == (EOS,)
    monkeypatch.setattr(type(base), "stop_ids", ())
    with pytest.raises(ComparisonError, match="Comparison 0, response 0 is empty"):
        encode_comparisons(read(("", "a")), base)


def test_responses_with_equal_tokens_are_one(base):
    rows = [{"prompt": "<0>", "responses": ["a<eos>b", "a", "c"], "x": [1, 2, 3]}]
    with pytest.warns(ParetoAlignWarning, match="1 of 3 pairs are of responses with equal tokens"):
        (row,), counts = encode_comparisons(Comparisons.from_rows(rows), base)
    assert row.tokens == ((A, EOS), (C, EOS))
    assert row.comparison.responses == ("a<eos>b", "c")
    assert row.comparison.labels.pairs.tolist() == [[0, 1], [0, 1]]
    assert row.comparison.scores[:, 0].tolist() == [1, 3]
    assert counts["pairs of responses with equal tokens"] == 1


@pytest.mark.parametrize(
    ("options", "message"), [({"overflow": "cut"}, "error, drop, truncate"), ({"max_length": 1}, "at least 2")]
)
def test_options_are_checked(base, options, message):
    with pytest.raises(ConfigError, match=message):
        encode_comparisons(read(("a", "b")), base, **options)


def test_a_bad_prompt_is_named(base):
    with pytest.raises(ComparisonError, match="Comparison 0: "):
        encode_comparisons(read(("a", "b"), prompt="   "), base)


def test_no_warning_where_nothing_is_odd(base):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_comparisons(read(("ab", "c")), base)


# ------------------------------------------------------------------------------------------------ batches


def test_a_batch_holds_everything_a_loss_may_ask_for(base):
    rows = [
        {"prompt": "<0>", "responses": ["a", "bc", "dd"], "x": [1, 2, 3], "y": [2, None, 1]},
        {"prompt": "<1>", "responses": ["a", "b"], "x": [2, 1], "y": [None, None]},
    ]
    encoded, _ = encode_comparisons(Comparisons.from_rows(rows), base)
    batch = collate(encoded, base.tokenizer.pad_token_id)
    assert batch.tokens.shape == (1, 2, 3, 3)
    assert batch.lengths.tolist() == [[2, 3, 3], [2, 2, 0]]
    assert batch.prompts == [base.encode("<0>"), base.encode("<1>")]
    assert batch.pairs.tolist() == [[0, 0, 1], [0, 0, 2], [0, 1, 2], [1, 0, 1]]
    np.testing.assert_array_equal(batch.labels, [[0, np.nan], [0, 1], [0, np.nan], [1, np.nan]])
    np.testing.assert_array_equal(batch.margins[:, 0], [1, 2, 1, 1])
    assert batch.weights is None
    np.testing.assert_array_equal(batch.scores[1, :, 0], [2, 1, np.nan])
    assert batch.golds.tolist() == [-1, -1]
    view = batch.view(torch.zeros(2, 2, 3), torch.zeros(1, 2, 3))
    from pareto_align.learning.preferences import make_preference

    values, slopes = make_preference("sigmoid").coefficients(view)
    assert values.tolist() == pytest.approx(np.full((2, 2), np.log(2)))
    assert slopes.shape == (2, 2, 3, 2)


def test_tokens_beyond_the_shortest_response_count_less():
    mask = torch.tensor([[[True, True, True, True], [True, True, False, False], [False] * 4]])
    assert token_weights(mask, None).tolist() == mask.float().tolist()
    assert token_weights(mask, 0.25)[0, 0].tolist() == [1, 1, 0.25, 0.25]
    assert token_weights(mask, 0.25)[0, 1].tolist() == [1, 1, 0, 0]
