"""Reward models: tiny random classifiers, each reward against a plain forward of its one text."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import Objective, ObjectiveSet, conditioned, ensemble, reward_model, word_count

torch = pytest.importorskip("torch")

SPECIAL = ["<unk>", "<pad>", "<bos>", "<eos>", "[CLS]", "[SEP]"]
SENTENCES = "glad we like rain tea cats snow the a is it not very yes no"
WORDS = [*SPECIAL, *SENTENCES.split()]
PAD = 1
PROMPTS = ["we like rain", "is it the snow", "yes"]
COMPLETIONS = ["glad", "very very very very glad tea", "no cats"]
TEMPLATE = "<bos> {% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"


def make_tokenizer(*, chat=False, pairs=False, pad=True):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    special = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<eos>",
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if pairs else [])],
        **({"pad_token": "<pad>"} if pad else {}),
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(kind="bert", labels=1, **settings):
    """A random classifier whose weights are large enough for its scores to differ."""
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 40, "num_labels": labels, "initializer_range": 0.3}
    config_class, model_class = {
        "bert": (BertConfig, BertForSequenceClassification),
        "llama": (LlamaConfig, LlamaForSequenceClassification),
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config_class(**{**sizes, "pad_token_id": PAD, **settings})).eval()


@pytest.fixture(scope="module")
def bert():
    return make_model()


def logits_of(model, *texts, tokenizer, special=True):
    """The definition: one text, tokenized by its tokenizer, alone in the batch."""
    encoded = tokenizer(*texts, return_tensors="pt", add_special_tokens=special)
    with torch.no_grad():
        return model(**encoded).logits[0].float()


def judge(reward, prompts=PROMPTS, completions=COMPLETIONS, **columns):
    return reward(prompts=prompts, completions=completions, **columns)


# ---- what is judged --------------------------------------------------------------------------------------------------


def test_the_reward_is_the_models_one_output_for_the_pair(bert):
    tokenizer = make_tokenizer(pairs=True)
    found = judge(reward_model(bert, tokenizer))
    expected = [float(logits_of(bert, p, c, tokenizer=tokenizer)[0]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.05, "the three texts must be told apart"
    swapped = [float(logits_of(bert, c, p, tokenizer=tokenizer)[0]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert found != pytest.approx(swapped, abs=1e-3)


@pytest.mark.parametrize(("form", "text"), [("joined", "{p}{c}"), ("completion", "{c}")], ids=["joined", "completion"])
def test_the_form_says_what_is_read(bert, form, text):
    tokenizer = make_tokenizer()
    expected = [
        float(logits_of(bert, text.format(p=p, c=c), tokenizer=tokenizer)[0])
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert judge(reward_model(bert, tokenizer, form=form)) == pytest.approx(expected, abs=1e-5)


def test_a_conversation_goes_through_the_chat_template_once():
    model, tokenizer = make_model("llama"), make_tokenizer(chat=True)
    chats = [[{"role": "system", "content": "not very"}, {"role": "user", "content": p}] for p in PROMPTS]
    answers = [[{"role": "assistant", "content": c}] for c in COMPLETIONS]

    def expected(conversations):
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in conversations]
        return [float(logits_of(model, text, tokenizer=tokenizer, special=False)[0]) for text in texts]

    found = judge(reward_model(model, tokenizer), chats, answers)
    assert found == pytest.approx(expected([p + c for p, c in zip(chats, answers, strict=True)]), abs=1e-5)
    # a plain text is a user's turn
    turns = [[{"role": "user", "content": p}, *c] for p, c in zip(PROMPTS, answers, strict=True)]
    assert judge(reward_model(model, tokenizer)) == pytest.approx(expected(turns), abs=1e-5)


def test_chat_messages_are_text_to_a_model_without_a_template(bert):
    reward = reward_model(bert, make_tokenizer(pairs=True))
    chats = [[{"role": "user", "content": p}] for p in PROMPTS]
    answers = [[{"role": "assistant", "content": c}] for c in COMPLETIONS]
    assert judge(reward, chats, answers) == judge(reward)


def test_a_conversation_is_judged_as_by_trl():
    trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    model, tokenizer = make_model("llama"), make_tokenizer(chat=True)
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        state=SimpleNamespace(global_step=0),
        reward_funcs=[model, reward_model(model, tokenizer)],
        reward_processing_classes=[tokenizer, None],
        reward_func_names=["theirs", "ours"],
        environments=None,
        chat_template_kwargs={},
        _log_completion_extra=print,
        _log_metric=print,
    )
    chats = [[{"role": "user", "content": p}] for p in PROMPTS]
    answers = [[{"role": "assistant", "content": c}] for c in COMPLETIONS]

    class Trainer(trainer.GRPOTrainer):
        def __init__(self):
            vars(self).update(vars(stub))

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("transformers.Trainer._prepare_inputs", lambda self, inputs: inputs)
            theirs, ours = trainer.GRPOTrainer._calculate_rewards(
                Trainer(), [{"prompt": chat} for chat in chats], chats, answers, [[1]] * 3
            ).T
    except AttributeError as error:  # a private method: other releases may want more of the trainer
        pytest.skip(f"this TRL calculates rewards in another way: {error}")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_is_a_probability_and_its_logit_on_request():
    model = make_model(labels=3, id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})
    tokenizer = make_tokenizer()
    logits = torch.stack([logits_of(model, c, tokenizer=tokenizer) for c in COMPLETIONS])
    for label in (2, "good"):
        found = judge(reward_model(model, tokenizer, label=label, form="completion"))
        assert found == pytest.approx(logits.softmax(1)[:, 2].tolist(), abs=1e-5)
    raw = reward_model(model, tokenizer, label="bad", probability=False, form="completion")
    assert judge(raw) == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
    model.config.problem_type = "multi_label_classification"
    found = judge(reward_model(model, tokenizer, label=1, form="completion"))
    assert found == pytest.approx(logits[:, 1].sigmoid().tolist(), abs=1e-5)


def test_one_output_becomes_a_probability_by_the_sigmoid(bert):
    tokenizer = make_tokenizer()
    raw = judge(reward_model(bert, tokenizer))
    found = judge(reward_model(bert, tokenizer, probability=True))
    assert found == pytest.approx([1 / (1 + np.exp(-x)) for x in raw], abs=1e-6)


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, r"has 2 labels; say which one: 0 \(no\), 1 \(yes\)"), ("maybe", "no label 'maybe'"), (2, "no label 2")],
)
def test_an_unclear_label_is_refused_with_the_labels_there_are(label, message):
    model = make_model(labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    objectives = ObjectiveSet([Objective("judge", reward_model(model, make_tokenizer(), label=label))])
    with pytest.raises(ObjectiveError, match=message):
        objectives.check(PROMPTS, COMPLETIONS)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rewards_depend_neither_on_the_batch_size_nor_on_the_order(kind, side):
    model, tokenizer = make_model(kind), make_tokenizer(pairs=kind == "bert")
    tokenizer.padding_side = side
    alone = judge(reward_model(model, tokenizer, batch_size=1))
    assert judge(reward_model(model, tokenizer, batch_size=2)) == pytest.approx(alone, abs=1e-5)
    together = reward_model(model, tokenizer, batch_size=16)
    assert judge(together) == pytest.approx(alone, abs=1e-5)
    assert judge(together, PROMPTS[::-1], COMPLETIONS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_a_text_that_occurs_twice_is_judged_once_and_long_ones_first(bert, monkeypatch):
    shapes = []
    forward = bert.forward
    monkeypatch.setattr(bert, "forward", lambda **inputs: shapes.append(inputs["input_ids"].shape) or forward(**inputs))
    reward = reward_model(bert, make_tokenizer(), form="completion", batch_size=2)
    found = judge(reward, ["a"] * 5, ["glad", "we like tea", "glad", "glad", "yes no"])
    assert found[0] == found[2] == found[3]
    assert shapes == [(2, 5), (1, 3)]  # with [CLS] and [SEP]: 3 words and 2 words, then 1


def test_without_a_pad_token_texts_are_judged_alone():
    model, tokenizer = make_model("llama", pad_token_id=None), make_tokenizer(pad=False)
    expected = [float(logits_of(model, c, tokenizer=tokenizer)[0]) for c in COMPLETIONS]
    assert judge(reward_model(model, tokenizer, form="completion")) == pytest.approx(expected, abs=1e-5)


def test_the_tokenizer_and_the_modes_of_others_are_left_alone(bert):
    tokenizer = make_tokenizer()
    tokenizer.truncation_side = "right"
    reward = reward_model(bert, tokenizer)
    with torch.enable_grad():
        judge(reward)
        assert torch.is_grad_enabled()
    assert tokenizer.truncation_side == "right"
    assert all(parameter.grad is None for parameter in bert.parameters())


def test_a_long_text_loses_its_beginning_and_is_warned_about_once(bert):
    tokenizer = make_tokenizer()
    reward = reward_model(bert, tokenizer, form="completion", max_length=4)
    with pytest.warns(ParetoAlignWarning, match="reads 4 tokens; a text of 6 lost its beginning"):
        found = judge(reward, ["p"], ["we like rain tea"])
    expected = float(logits_of(bert, "rain tea", tokenizer=tokenizer)[0])
    assert found == pytest.approx([expected], abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(reward, ["p"], ["we like rain tea"])


def test_the_models_own_limit_is_kept(bert):
    reward = reward_model(bert, make_tokenizer(), form="completion")
    with pytest.warns(ParetoAlignWarning, match="reads 40 tokens"):
        assert np.isfinite(judge(reward, ["p"], ["tea " * 60])).all()


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "judge"
    bert.save_pretrained(path)
    make_tokenizer(pairs=True).save_pretrained(path)
    return path


def test_a_folder_is_loaded_at_the_first_call_and_once(folder, bert, monkeypatch):
    reward = reward_model(str(folder))
    assert reward.__name__ == "judge"
    assert reward._loaded is None
    expected = judge(reward_model(bert, make_tokenizer(pairs=True)))
    assert judge(reward) == pytest.approx(expected, abs=1e-6)
    model = reward._loaded.model
    assert judge(reward, PROMPTS[:1], COMPLETIONS[:1]) == pytest.approx(expected[:1], abs=1e-5)
    assert reward._loaded.model is model
    assert model.dtype == torch.float32 or model.device.type != "cpu"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_is_what_was_asked_for(folder):
    reward = reward_model(folder, device="cpu", dtype="bfloat16")
    rough = judge(reward)
    assert reward._loaded.model.dtype == torch.bfloat16
    assert rough == pytest.approx(judge(reward_model(folder, device="cpu")), abs=0.1)


def test_a_language_model_without_a_trained_head_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=PAD,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ObjectiveError, match=r"lacks score.weight.*would be random"):
        judge(reward_model(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "no/such/folder/anywhere"}, "cannot be loaded"),
        ({"form": "chat"}, "no chat template"),
        ({"dtype": "float99"}, "Unknown dtype 'float99'"),
        ({"device": "abacus"}, "Unknown device 'abacus'"),
    ],
)
def test_what_cannot_be_loaded_says_so(folder, settings, message):
    with pytest.raises(ObjectiveError, match=message):
        judge(reward_model(**{"model": str(folder), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": 3}, "Found 3"),
        ({"model": lambda **inputs: None}, "must be a hub id"),
        ({"form": "dialogue"}, "auto, chat, pair, joined, completion"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"max_length": 1}, "max_length must be a whole number of at least 2"),
        ({"label": 1.5}, "label must be"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(settings, message):
    with pytest.raises(ConfigError, match=message):
        reward_model(**{"model": "some/judge", **settings})


def test_a_loaded_model_needs_its_tokenizer(bert):
    with pytest.raises(ConfigError, match="needs its `tokenizer`"):
        reward_model(bert)


def test_torch_is_not_imported_to_define_a_reward_model():
    import subprocess

    code = (
        "import sys; from pareto_align.objectives import reward_model, ensemble; "
        "ensemble([reward_model('a/b'), reward_model('a/c')], 'uwo'); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- as a reward among others ----------------------------------------------------------------------------------------


def test_models_serve_in_ensembles_and_conditions(bert):
    tokenizer = make_tokenizer(pairs=True)
    first = reward_model(bert, tokenizer, name="first")
    second = reward_model(make_model("bert", labels=2), make_tokenizer(), label=1, name="second")
    worst = ensemble([first, second], "wco")
    longer = conditioned(worst, where=word_count(), at_least=2, otherwise=-9)
    objectives = ObjectiveSet([Objective("worst", worst), Objective("longer", longer), Objective("second", second)])
    found = objectives.score(PROMPTS, COMPLETIONS, {"unused": [1, 2, 3]}, [[1]] * 3)
    both = np.minimum(judge(first), judge(second))
    np.testing.assert_allclose(found[:, 0], both, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], [-9, both[1], both[2]], atol=1e-6)
