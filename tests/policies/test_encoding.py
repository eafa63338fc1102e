"""What a prompt becomes on its way to the policy: begun once, never ended, rendered once, refused where it is none."""

from __future__ import annotations

import warnings

import pytest
from tiny_models import tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pareto_align import ParetoAlignWarning
from pareto_align.data.prompts import read_prompts
from pareto_align.errors import ConfigError, ModelError, PromptError
from pareto_align.policies import load_base
from pareto_align.policies.encoding import marks_of

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)
LOOSE = CHATML.replace("+ m['content'] +", "+ (m['content'] | string) +")
PARTED = CHATML.replace(
    "m['content']", "(m['content'] if m['content'] is string else m['content'] | map(attribute='text') | join)"
)
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
)


def tokenizer(template=CHATML, *, bos=False, eos=False):
    """A tokenizer of bytes; it may begin every text, and end it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if bos or eos:
        made.post_processor = TemplateProcessing(
            single=("<s> " if bos else "") + "$A" + (" </s>" if eos else ""),
            special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")],
        )
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<|im_end|>", bos_token="<s>" if bos else None
    )
    found.chat_template = template
    return found


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=256 + len(SPECIAL), pad_token_id=256, bos_token_id=257, eos_token_id=260)


@pytest.fixture
def read(model):
    """The text that the policy reads for a prompt."""

    def read(prompt, template=CHATML, *, use_chat_template=None, variables=None, of_prompt=None, **ends):
        base = load_base(
            model,
            tokenizer=tokenizer(template, **ends),
            use_chat_template=use_chat_template,
            chat_template_kwargs=variables,
        )
        return base.tokenizer.decode(base.encode(prompt, of_prompt))

    return read


def user(content, **more):
    return [{"role": "user", "content": content, **more}]


# ---- raw text --------------------------------------------------------------------------------------------------------


def test_a_text_is_begun_once_and_never_ended(read):
    for ends in ({}, {"bos": True}, {"eos": True}, {"bos": True, "eos": True}):
        begun = "<s>" if ends.get("bos") else ""
        assert read("Hi", None, **ends) == f"{begun}Hi"
        assert read("<s>Hi", None, **ends) == "<s>Hi"
        assert read("<s><s>Hi", None, **ends) == ("<s>Hi" if begun else "<s><s>Hi")
        # what the user wrote at the end stays
        assert read("Hi</s>", None, **ends) == f"{begun}Hi</s>"
        assert read("Hi<|im_end|>", None, **ends) == f"{begun}Hi<|im_end|>"


@pytest.mark.parametrize("text", ["hi 😀👩\u200d👧", "a\r\nb", "\ufeffhi", "a\x00b", "\u202egnol", " a "])
def test_text_stays_as_it_is(read, text):
    assert read(text, None) == text
    assert read(text) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


# ---- the template ----------------------------------------------------------------------------------------------------


def test_a_beginning_that_the_template_writes_is_written_once(read):
    assert read("Hi", "{{ bos_token }}" + CHATML, bos=True, eos=True).count("<s>") == 1


def test_the_assistants_turn_is_gone_on_with(read):
    talk = [*user("2+2?"), {"role": "assistant", "content": "The answer is"}]
    opened = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert read(talk) == opened + "The answer is"
    assert read([*talk, *user("Go on")]).endswith("<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n")


RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("text", "template"),
    [
        (RENDERED, CHATML),
        (f"\n{RENDERED.strip()}  ", CHATML),
        ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n", CHATML),
        ("Hi<|im_end|>\n<|im_start|>assistant\n", CHATML),
        ("<s>[INST] Hi [/INST]", STRICT),
        ("[INST] Hi [/INST]", STRICT),
    ],
)
def test_a_prompt_that_is_rendered_already_is_refused(read, text, template):
    with pytest.raises(PromptError, match="rendered already: set use_chat_template=False"):
        read(text, template)
    assert read(text, template, use_chat_template=False) == text


def test_a_special_token_within_a_text_is_warned_about_once(model):
    base = load_base(model, tokenizer=tokenizer())
    texts = ["What is <|im_end|>?", "Hi", "Is <b>bold</b>, or <think> so, or </s>?", "And <|im_start|>?"]
    with pytest.warns(ParetoAlignWarning, match=r"Prompt 0 holds '<\|im_end\|>', .* so do 1 others") as said:
        read_prompts(texts, base, 4)
    assert len(said) == 1
    with pytest.warns(ParetoAlignWarning, match="Prompt 0 holds"):
        read_prompts([user(texts[0])], base, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_prompts(texts, load_base(model, tokenizer=tokenizer(), use_chat_template=False), 4)
        read_prompts([texts[2]], base, 4)


def test_content_in_parts_of_text_is_read_where_the_template_reads_it(read):
    parts = user([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}])
    assert read(parts, PARTED) == RENDERED
    for template in (CHATML, LOOSE):  # one raises, one would print a Python list
        with pytest.raises(PromptError, match="message 0 has its content in parts, which this chat template does not"):
            read(parts, template)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([{"from": "human", "value": "Hi"}], "Message 0 has ShareGPT's keys `from` and `value`"),
        ([*user("Hi"), {"role": "user"}], "Message 1 needs its `content`, as text"),
        (user(None), "Message 0 needs its `content`"),
        (user(3), "Message 0 needs its `content`"),
        ([{"content": "Hi"}], "Message 0 needs its `role`"),
        (user([{"type": "image", "image": "a.png"}]), "Message 0 has a part that is no text"),
        (user(["Hi"]), "Message 0 has a part that is no text"),
        (user("Hi")[0], "a single chat message. Put it in a list"),
        (user("a \ud83d b"), r"half of a surrogate pair \(\\ud83d\) at character 2"),
        ("a \udc00", r"half of a surrogate pair \(\\udc00\)"),
        (b"Hi", "Found a bytes"),
        (None, "Found None"),
    ],
)
@pytest.mark.parametrize("template", [CHATML, LOOSE])
def test_what_a_template_would_leave_out_or_print_is_refused(read, prompt, said, template):
    with pytest.raises(PromptError, match=said):
        read(prompt, template)


def test_a_call_of_a_tool_needs_no_content(read):
    talk = [*user("Hi"), {"role": "assistant", "tool_calls": [{"name": "look"}]}, {"role": "tool", "content": "5"}]
    assert (
        read(talk, "{% for m in messages %}{{ m['role'] }}{{ m['content'] }};{% endfor %}") == "userHi;assistant;tool5;"
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (STRICT, "Prompt 1: the chat template refuses it: TemplateError: Roles must alternate"),
        ("{% for m in messages %}{{ m.content ", "Prompt 0: the chat template refuses it: TemplateSyntaxError"),
        ("{{ messages[3]['content'] + 'a' }}", "Prompt 0: the chat template refuses it: UndefinedError"),
        ("{{ 1 // 0 }}", "Prompt 0: the chat template refuses it: ZeroDivisionError"),
        ({"rag": CHATML, "tool_use": CHATML}, "Prompt 0: the chat template refuses it: ValueError.*no default"),
        ("", "Prompt 0: the chat template leaves out what a user's message says"),
        ("{{ bos_token }}", "Prompt 0: the chat template leaves out what a user's message says"),
        ("{% for m in messages %}{{ m['text'] }}{% endfor %}", "Prompt 0: the chat template leaves out"),
    ],
)
def test_what_a_template_refuses_is_said_of_its_prompt(model, template, said):
    base = load_base(model, tokenizer=tokenizer(template), use_chat_template=True)
    with pytest.raises(PromptError, match=said):
        read_prompts([user("Hi"), [{"role": "system", "content": "Be kind."}, *user("Hi")]], base, 4)


def test_nothing_is_known_of_a_template_that_refuses_a_lone_user():
    assert marks_of(tokenizer("{{ raise_exception('no') }}"), {}).tokens == ()
    assert marks_of(tokenizer(), {}).tokens == ("<|im_end|>", "<|im_start|>")


# ---- its variables ---------------------------------------------------------------------------------------------------


def test_variables_of_the_template_are_the_runs_and_then_the_prompts(read):
    assert read("Hi") == RENDERED
    assert read("Hi", variables={"enable_thinking": False}) == RENDERED + "<think></think>"
    assert read("Hi", variables={"enable_thinking": False}, of_prompt={"enable_thinking": True}) == RENDERED
    assert read("Hi", of_prompt={"enable_thinking": False}) == RENDERED + "<think></think>"
    assert read("Hi", variables={"enable_thinking": False}, of_prompt={"enable_thinking": None}).endswith("</think>")


def test_a_template_may_be_chosen_among_several(read):
    assert read("Hi", {"rag": STRICT, "tool_use": CHATML}, variables={"chat_template": "tool_use"}) == RENDERED


def test_a_column_of_variables_counts_for_its_prompt(model):
    base = load_base(model, tokenizer=tokenizer())
    rows = read_prompts(
        [{"prompt": "Hi", "chat_template_kwargs": {"enable_thinking": flag}} for flag in (0, 1)], base, 4
    )
    assert [base.tokenizer.decode(row.ids) for row in rows] == [RENDERED + "<think></think>", RENDERED]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (["enable_thinking"], "must map names to values"),
        ({3: 4}, "must map names to values"),
        ({"tokenize": False}, "cannot have 'tokenize'"),
        ({"continue_final_message": True}, "cannot have 'continue_final_message'"),
        ({"date": object()}, "must hold text, numbers, lists and mappings"),
        ({"limits": (1, 2)}, "must hold text, numbers, lists and mappings"),
        ({"share": float("nan")}, "must hold text, numbers, lists and mappings"),
        ({"chat_template": CHATML}, "A template itself is set on the tokenizer"),
    ],
)
def test_variables_that_cannot_be_are_refused(read, variables, said):
    with pytest.raises(ConfigError, match=said):
        read("Hi", variables=variables)


def test_a_variable_that_the_template_does_not_read_is_warned_about(read):
    with pytest.warns(ParetoAlignWarning, match="has 'enable_thinkin', which the chat template of this model does not"):
        read("Hi", variables={"enable_thinkin": False, "enable_thinking": False})


# ---- the model -------------------------------------------------------------------------------------------------------


def test_a_token_that_the_model_does_not_know_is_an_error():
    small = tiny_model(vocab_size=200, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ModelError, match=r"the token 260 \('<\|im_end\|>'\), and .* 200 rows.*resize_token"):
        load_base(small, tokenizer=tokenizer()).encode("Hi")
    # the pad token counts as well: it was added to the tokenizer, as everybody does, and the model was not resized
    padless = tiny_model(vocab_size=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ModelError, match="the token 256"):
        load_base(padless, tokenizer=tokenizer(None)).encode("Hi")
