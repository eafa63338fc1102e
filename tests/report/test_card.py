from __future__ import annotations

import re

import pytest
import yaml
from front_records import objective, record, tone_and_length

from pareto_align.distributions import hub_id
from pareto_align.errors import FrontFileError
from pareto_align.report import model_card, write_card
from pareto_align.report.card import fenced


def header_of(card: str) -> dict:
    match = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
    assert match
    return yaml.safe_load(match.group(1))


def test_header_for_the_hub():
    header = header_of(model_card(tone_and_length()))
    assert header["library_name"] == "peft"
    assert header["base_model"] == "acme/tiny-llama"
    assert {"lora", "pareto-align"} <= set(header["tags"])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("acme/tiny-llama", "acme/tiny-llama"),
        ("gpt2", "gpt2"),
        ("/home/me/model", None),
        ("./model", None),
        ("../model", None),
        ("pypi:tiny", None),
        ("a/b/c", None),
        ("models/x.gguf", None),
        ("x\nlicense: mit", None),
        (None, None),
    ],
)
def test_only_hub_ids_go_into_the_header(name, found):
    assert hub_id(name) == found
    assert header_of(model_card(tone_and_length(base={"name": name}))).get("base_model") == found


def test_loading_takes_four_lines_of_peft():
    card = model_card(tone_and_length(base={"name": "acme/tiny", "revision": "abc"}))
    code = re.search(r"```python\n(.*?)\n```", card, flags=re.DOTALL)
    assert code
    lines = code.group(1).splitlines()
    assert len(lines) == 4
    assert lines[2] == 'base = AutoModelForCausalLM.from_pretrained("acme/tiny", revision="abc")'
    assert lines[3] == 'model = PeftModel.from_pretrained(base, "members/a")'
    compile(code.group(1), "card", "exec")


def test_the_card_says_how_prompts_were_sent():
    base = {"name": "acme/tiny", "use_chat_template": True}
    assert "as user turns of its chat template; do the same." in model_card(tone_and_length(base=base))
    base["chat_template_kwargs"] = {"enable_thinking": False, "|": "<b>"}
    card = model_card(tone_and_length(base=base))
    assert (
        r'chat template, with \{"enable\_thinking": false, "\|": "&lt;b&gt;"\} as its variables; do the same.' in card
    )


def test_objectives_and_their_roles():
    card = model_card(tone_and_length())
    assert "- **tone**: maximized, between 0 and 1" in card
    assert "- **length**: minimized, between 0 and 100" in card
    assert "- **toxicity**: audited, less is better; measured, never optimized" in card
    assert "nothing here tells progress from reward hacking" not in card


def test_what_a_reader_must_know_is_said():
    card = model_card(record([objective("tone")], tone_and_length().members[0:0], split="select"))
    assert "nothing here tells progress from reward hacking" in card
    assert "Members were chosen on the very prompts" in card


def test_other_peoples_text_cannot_leave_its_block():
    found = tone_and_length()
    found.members[0].sample = [{"prompt": "```\n<script>x</script>", "completion": "````\n# Title\x1b"}]
    card = model_card(found)
    assert "````text\n```\n<script>x</script>\n````" in card
    assert "`````text\n````\n# Title�\n`````" in card
    # outside code blocks nothing of it is left
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card)
    assert "<script>" not in outside
    assert "# Title" not in outside


def test_chat_prompts_are_shown_as_turns():
    found = tone_and_length()
    found.members[0].sample = [{"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello"}]
    assert "user: Hi" in model_card(found)


def test_fences_outgrow_what_they_hold():
    assert fenced("a") == "```text\na\n```"
    assert fenced("````").startswith("`````text")


def test_write_card(tmp_path):
    path = write_card(tone_and_length(), tmp_path)
    assert path.read_text(encoding="utf-8") == model_card(tone_and_length())
    with pytest.raises(FrontFileError, match=r"Cannot write .*missing"):
        write_card(tone_and_length(), tmp_path / "missing")


def test_the_card_says_what_was_not_kept_and_why():
    rows = [
        {"id": f"x{i}", "values": [0.1, 1.0], "stderr": [0.0, 0.0], "status": "dominated", "reason": "'a' is *better*."}
        for i in range(14)
    ]
    rows.append({"id": "late", "values": [None, 1.0], "stderr": [None, 0.0], "status": "invalid", "reason": "No mean."})
    card = model_card(tone_and_length(fallen=rows))
    section = card.split("## Measured and not kept\n\n")[1].split("\n\n## ")[0]
    assert section.startswith("15 more policies were measured: 14 dominated, 1 invalid. The last 12:")
    assert section.count("\n- **") == 12
    assert "- **x13**, dominated on the report prompts: 'a' is \\*better\\*." in section
    assert section.endswith("- **late**, invalid on the report prompts: No mean.")


def test_a_card_of_a_front_that_kept_everything_has_no_such_section():
    assert "not kept" not in model_card(tone_and_length())
