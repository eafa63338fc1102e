"""Rewards that read text: closed forms, wordless answers, chat messages, and no network."""

from __future__ import annotations

import pickle
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import (
    Objective,
    ObjectiveSet,
    TextReward,
    brevity,
    completion_text,
    distinct_words,
    keyword_coverage,
    positive_tone,
    readability,
    token_count,
    word_count,
)
from pareto_align.objectives import text as text_module
from pareto_align.objectives.text import words

WORDLESS = ["", "   ", "\n\t", "...", "!?", "🙂", "—", "_ _", "<|>"]


def assistant(content):
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("plain", "plain"),
        (assistant("said"), "said"),
        ({"role": "assistant", "content": "said"}, "said"),
        ([{"content": "no role"}], "no role"),
        (assistant(None), ""),
        (
            assistant([{"type": "text", "text": "a"}, {"type": "image", "image": 1}, {"type": "text", "text": "b"}]),
            "ab",
        ),
        ([*assistant("call"), {"role": "tool", "content": "42"}, *assistant("answer")], "call\nanswer"),
        ([], ""),
    ],
)
def test_the_text_of_a_completion(completion, expected):
    assert completion_text(completion) == expected


@pytest.mark.parametrize("completion", [None, 3, ["a", "b"], assistant(3)])
def test_what_is_no_completion_is_refused(completion):
    with pytest.raises(ObjectiveError, match="must be a string or a list"):
        completion_text(completion)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("one", 1),
        ("I don't; you don\u2019t.", 4),
        ("well-known", 2),
        ("a_b", 2),
        ("3.14", 2),
        ("naïve", 1),
        ("nai\u0308ve", 1),
        ("हिन्दी भाषा", 2),
        *[(text, 0) for text in WORDLESS],
    ],
)
def test_words(text, count):
    assert len(words(text)) == count
    assert word_count()(completions=[text]) == [count]


@pytest.mark.parametrize(("count", "expected"), [(0, 0.0), (1, 1.0), (2, 0.8), (4, 0.4), (6, 0.0), (9, 0.0)])
def test_brevity_falls_linearly_from_one_word(count, expected):
    assert brevity(max_words=6)(completions=["word " * count]) == [pytest.approx(expected)]


@given(st.integers(2, 50), st.integers(1, 60), st.integers(1, 60))
def test_fewer_words_are_never_less_brief(max_words, some, more):
    short, long = brevity(max_words)(["w " * min(some, more), "w " * max(some, more)])
    assert 0 <= long <= short <= 1


@pytest.mark.parametrize("reward", [brevity(), readability(), distinct_words()])
@pytest.mark.parametrize("text", WORDLESS)
def test_saying_nothing_earns_nothing(reward, text):
    assert reward([text]) == [0.0]


def test_positive_tone_orders_texts_and_maps_neutral_as_documented():
    texts = ["I love this, it is wonderful!", "The table has four legs.", "I hate this, it is horrible!", ""]
    shifted, clipped = positive_tone()(texts), positive_tone(clip_negative=True)(texts)
    assert 1 >= shifted[0] > 0.9
    assert shifted[1] == 0.5
    assert 0 <= shifted[2] < 0.1
    assert shifted[3] == 0.5
    assert clipped[1:] == [0.0, 0.0, 0.0]
    assert clipped[0] == pytest.approx(2 * shifted[0] - 1)


def test_the_sentiment_lexicon_is_read_once():
    positive_tone()(["good"])
    assert text_module._sentiment_analyzer() is text_module._sentiment_analyzer()


def test_readability_is_flesch_with_hyphenated_syllables():
    # 12 words in 2 sentences, every word of one syllable: 206.835 - 1.015 * 6 - 84.6 = 116.1, clipped to 100
    assert readability()(["The cat sat on the mat. The dog ran to the door."]) == [1.0]
    # 4 words, 1 sentence; syllables by the patterns: com-pre-hen-sive, gov-ern-men-tal, reg-u-la-tions, ap-ply
    expected = 206.835 - 1.015 * 4 - 84.6 * (4 + 4 + 4 + 2) / 4
    assert readability()(["Comprehensive governmental regulations apply."]) == [max(0.0, expected) / 100]
    # 6 words, 1 sentence: the, gar-den, was, full, of, flow-ers
    assert readability()(["The garden was full of flowers."]) == [
        pytest.approx((206.835 - 1.015 * 6 - 84.6 * 8 / 6) / 100)
    ]


def test_readability_never_asks_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert 0 < readability()(["Every word of this sentence is looked up nowhere, not even zyzzyva."])[0] < 1


def test_keyword_coverage_counts_whole_words_and_phrases():
    reward = keyword_coverage(("art", "New York"))
    assert reward(["ART in new\nYork!", "a party in york", "Art, new; york", ""]) == [1.0, 0.0, 1.0, 0.0]
    assert keyword_coverage("sea")(["the sea", "the seam"]) == [1.0, 0.0]


def test_keyword_coverage_reads_a_column_and_passes_rows_without_keywords():
    reward = keyword_coverage()
    rows = [["sun", "rain"], "snow", None, []]
    assert reward(["sun only", "snow", "x", "x"], keywords=rows) == [0.5, 1.0, None, None]
    objectives = ObjectiveSet([Objective("cover", keyword_coverage(column="must"))])
    with pytest.raises(ObjectiveError, match=r"'cover': keyword_coverage reads the column 'must'.*they have: 'answer'"):
        objectives.score(["p"], ["c"], {"answer": ["x"]})


def test_distinct_words():
    assert distinct_words()(["a b c", "a A a a", "one"]) == [1.0, 0.25, 1.0]
    assert distinct_words(ngram=2)(["a b a b", "one"]) == [pytest.approx(2 / 3), 0.0]


def test_token_count_reads_the_ids():
    objectives = ObjectiveSet([Objective("tokens", token_count(), maximize=False)])
    assert objectives.score(["p", "p"], ["a", "b"], completion_ids=[[1, 2, 3], []]).tolist() == [[-3.0], [0.0]]
    with pytest.raises(ObjectiveError, match="'tokens' needs completion_ids"):
        objectives.score(["p"], ["a"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: brevity(1),
        lambda: brevity(2.5),
        lambda: brevity(True),
        lambda: distinct_words(0),
        lambda: keyword_coverage(()),
        lambda: keyword_coverage(("fine", "...")),
        lambda: keyword_coverage((3,)),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("reward", [brevity(20), positive_tone(), readability(), distinct_words(2), word_count()])
def test_strings_and_chat_messages_are_worth_the_same(reward):
    texts = ["A short and happy answer.", "No."]
    assert reward(prompts=["p", "p"], completions=texts, extra=[1, 2]) == reward([assistant(text) for text in texts])


def test_rewards_have_a_name_a_repr_and_travel():
    reward = brevity(max_words=30)
    assert reward.__name__ == brevity.__name__ == "brevity"
    assert repr(reward) == "brevity(max_words=30)"
    assert pickle.loads(pickle.dumps(reward)) == reward


@pytest.mark.parametrize(
    ("reward", "package"), [(readability, "textstat"), (readability, "pyphen"), (positive_tone, "vaderSentiment")]
)
def test_a_missing_package_names_the_extra_before_anything_is_judged(reward, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ObjectiveError, match=rf"needs the package {package}.*pareto-align\[demo\]"):
        reward()


def test_a_reward_of_ones_own_needs_only_judge():
    class exclaims(TextReward):
        def judge(self, text):
            return float(text.endswith("!"))

    assert exclaims()([assistant("yes!"), "no"]) == [1.0, 0.0]


class TestTokenBrevity:
    """1 at one token, linear, 0 at the limit; silence earns nothing however short it is."""

    def test_is_linear_in_the_tokens(self) -> None:
        reward = text_module.token_brevity(max_tokens=5)
        ids = [[7] * n for n in (1, 2, 3, 4, 5, 9)]
        assert reward(completions=["word"] * 6, completion_ids=ids) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])

    def test_nothing_said_is_not_brevity(self) -> None:
        said = ["", "...", "\u2600"]
        assert text_module.token_brevity(8)(completions=said, completion_ids=[[], [1], [2]]) == [0, 0, 0]

    @pytest.mark.parametrize("limit", [1, 0, -3, 2.5, True, "8"])
    def test_the_limit_is_a_whole_number_of_at_least_two(self, limit: object) -> None:
        with pytest.raises(ConfigError, match="max_tokens"):
            text_module.token_brevity(limit)  # type: ignore[arg-type]

    def test_few_words_earn_in_proportion(self) -> None:
        reward = text_module.token_brevity(5, least_words=3)
        found = reward(completions=["Yes", "Oh yes", "I do so", "I do so too"], completion_ids=[[1], [1], [1], [1]])
        assert found == pytest.approx([1 / 3, 2 / 3, 1, 1])

    @pytest.mark.parametrize("least", [0, -1, 1.5, True])
    def test_least_words_must_be_a_count(self, least: object) -> None:
        with pytest.raises(ConfigError, match="least_words"):
            text_module.token_brevity(5, least_words=least)  # type: ignore[arg-type]


# ---- profanity -------------------------------------------------------------------------------------------------------


def test_profanity_tells_insults_from_greetings():
    pytest.importorskip("profanity_check", reason="alt-profanity-check (extra `safety`) is not installed")
    from pareto_align.objectives import profanity

    rude, kind, nothing = profanity()(["you are a fucking idiot", "What a lovely day, thank you!", " ... "])
    assert rude > 0.9
    assert kind < 0.2
    assert nothing == 0.0
    assert profanity()([[{"role": "assistant", "content": "you are a fucking idiot"}]]) == [rude]


def test_profanity_without_its_package_is_refused(monkeypatch):
    from pareto_align.objectives import profanity

    monkeypatch.setattr("pareto_align.objectives.text.find_spec", lambda name: None)
    with pytest.raises(
        ObjectiveError, match=r"alt-profanity-check; install it with: pip install 'pareto-align\[safety\]'"
    ):
        profanity()
