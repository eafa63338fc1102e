"""Whole fits of one adapter that is told the preference: trained, measured, kept, served and resumed with its words."""

from __future__ import annotations

import hashlib
import json
import warnings

import numpy as np
import pytest
from aligner_runs import PROBLEM, events, make
from safetensors.torch import load_file
from scipy.stats import spearmanr
from symbol_family import Symbols, passing_lines

from pareto_align import ConfigError, Objective, ParetoAlignWarning, ParetoFront, PromptError
from pareto_align.cli.remote import ServedMember
from pareto_align.messages import INSTRUCTION_FILE, Instruction
from pareto_align.policies import load_base
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import KnownFrontProblem, get_problem

SHORT = {"steps": 4, "eval_every": 2, "resolution": 0.0, "family": "symbols"}


def fit(folder, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = make(output_dir=folder, tokenizer=passing_lines(PROBLEM.tokenizer()), **{**SHORT, **settings})
        return aligner.fit(list(PROBLEM.prompts))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "run"
    return fit(folder), folder


def test_the_weights_that_are_said_are_the_ones_that_are_got(tmp_path, monkeypatch):
    """On `contexts`, whose prompts differ in what is good for them: what each objective really is at nine preferences,
    enumerated, rises with its weight."""
    plain = KnownFrontProblem.tokenizer
    monkeypatch.setattr(KnownFrontProblem, "tokenizer", lambda self: passing_lines(plain(self)))
    problem = get_problem("contexts")
    unseen = np.stack([np.linspace(0, 1, 7), np.linspace(1, 0, 7)], axis=1)
    found = judged_fit(
        problem, tmp_path / "run", family=Symbols(), weighting="fixed", population=6, steps=30, eval_every=30,
        group_size=16, learning_rate=5e-3, kl_coef=0.02, unseen=unseen, explorer={"name": "everywhere", "dense": 0},
    )  # fmt: skip
    values = np.einsum("jps,psm->jm", found.unseen_policies, problem.rewards) / len(problem.rewards)
    for i in range(2):
        assert spearmanr(unseen[:, i], values[:, i]).statistic > 0.9
        assert np.ptp(values[:, i]) > 0.15, "and by more than noise"


def test_members_are_one_adapter_and_their_words(run):
    front, folder = run
    assert len(front) >= 1
    for member in front:
        assert member.instruction == Symbols().instruction(member.preference)
        listed = next(row for row in front.record.members if row.id == member.id).files
        assert INSTRUCTION_FILE in listed
        readme = (member.adapter_path / "README.md").read_text()
        assert "## Put this before every prompt" in readme
        assert f'"{member.instruction.text}\\nHello"' in readme
    config = json.loads((front[0].adapter_path / "adapter_config.json").read_text())
    assert config["r"] == 2, "the config's rank"
    (start,) = events(folder, "start")
    tensors = load_file(front[0].adapter_path / "adapter_model.safetensors")
    assert start["parameters"] == sum(tensor.numel() for tensor in tensors.values())


def test_any_preference_is_the_same_adapter_with_other_words(run, tmp_path):
    front, _ = run
    one, other = front.at([1.0, 0.0]), front.at([1.0, 2.0])
    assert (one.instruction.text, other.instruction.text) == ("aaaaaa", "aabbbb")
    files = [(found.save(tmp_path / name) / "adapter_model.safetensors") for found, name in ((one, "a"), (other, "b"))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Instruction.read(tmp_path / "b") == other.instruction
    assert front.mixture([1.0, 2.0]).instruction == other.instruction
    with pytest.raises(ConfigError, match="nothing to mix"):
        front.mixture([1.0, 2.0], by="logits")


def test_what_answers_is_asked_with_the_words(run):
    """`generate` of a member is its adapter on prompts with the text in front."""
    front, _ = run
    tokenizer = passing_lines(PROBLEM.tokenizer())
    front.base = load_base(PROBLEM.model(), tokenizer=tokenizer, use_chat_template=False)
    member, prompts = front.at([1.0, 2.0]), list(PROBLEM.prompts) * 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = member.generate(prompts)
        bare = member.adapter_path
        (bare / INSTRUCTION_FILE).unlink()  # of the scratch copy
        assert front.server().generate(bare, [f"aabbbb\n{prompt}" for prompt in prompts]) == said
        assert front.server().generate(bare, prompts) != said
        Symbols().instruction(member.preference).write(bare)
    front.close()


def test_a_server_is_asked_with_the_words(run):
    front, _ = run
    bodies = []

    class Server:
        def complete(self, path, body):
            bodies.append(body)
            return {"text": "a"}

    ServedMember(front, front[0], "m", Server()).generate(["<0>"])
    assert bodies[0]["prompt"] == f"{front[0].instruction.text}\n<0>"


def test_copies_have_the_words_and_cards_say_so(run, tmp_path):
    front, _ = run
    saved = ParetoFront.load(front.save(tmp_path / "saved"))
    out = front.export(tmp_path / "out")
    assert not saved.problems
    for member in front:
        assert saved[member.id].instruction == Instruction.read(out / member.id) == member.instruction
    for folder in (tmp_path / "saved", out):
        assert INSTRUCTION_FILE in (folder / "README.md").read_text()
    (saved[0].adapter_path / INSTRUCTION_FILE).unlink()  # an adapter without its words is not what was measured
    with pytest.warns(ParetoAlignWarning, match=f"{INSTRUCTION_FILE} is missing"):
        assert saved[0].id not in [member.id for member in ParetoFront.load(tmp_path / "saved")]


@pytest.mark.parametrize("weighting", ["mgda", "chebyshev"])
def test_weightings_work_on_it(weighting, tmp_path):
    fit(tmp_path / "run", weighting=weighting, steps=2)
    (first, _) = events(tmp_path / "run", "step")
    assert np.isfinite(first["weights"]).all()
    assert np.isfinite(first["grad_norm"]).all()


def test_it_is_the_same_after_a_resume(tmp_path):
    settings = {"kl_coef": 0.05, "steps": 6, "weighting": "chebyshev"}
    fit(tmp_path / "whole", **settings)

    def stop(event):
        if (event["event"], event.get("step")) == ("step", 3):
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(tmp_path / "run", callbacks=[stop], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(tokenizer=passing_lines(PROBLEM.tokenizer()), **{**SHORT, **settings}).resume(tmp_path / "run")
    one, other = (contents(tmp_path / name / "front") for name in ("run", "whole"))
    assert one == other
    assert any(name.endswith(INSTRUCTION_FILE) for name in one)


def contents(front):
    found = sorted(path for path in front.rglob("*") if path.is_file())
    return {str(path.relative_to(front)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_what_is_measured_is_measured_with_the_words(tmp_path, monkeypatch):
    """A question to K policies holds K times the prompts, each behind its own policy's words."""
    from pareto_align.discovery import hosting

    seen, answer = [], hosting.answer
    monkeypatch.setattr(hosting, "answer", lambda *given: seen.append(given[2]) or answer(*given))
    fit(tmp_path / "run", steps=2)
    base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer())
    assert {len(question.policies) for question in seen} >= {0, 3}
    for question in seen:
        told = [Symbols().instruction(row[-2:]).text for row in question.policies] or [""]
        assert question.prompts == [base.encode(words + prompt) for words in told for prompt in PROBLEM.prompts]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learner": "dpo"}, "lets all read the same comparisons"),
        ({"activated": True}, "Set activated=False"),
        ({"explorer": "discover"}, "Use explorer='everywhere'"),
        ({"learner": "egpo"}, "keeps each policy as it was"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(settings, words, tmp_path):
    labels = [Objective(name, prefers=name) for name in ("r1", "r2")] if settings.get("learner") == "dpo" else None
    with pytest.raises(ConfigError, match=words):
        make(labels, output_dir=tmp_path / "run", **{**SHORT, **settings}).fit(list(PROBLEM.prompts))


def test_prompts_that_become_too_long_are_refused(tmp_path):
    aligner = make(output_dir=tmp_path / "run", tokenizer=passing_lines(PROBLEM.tokenizer()), **SHORT)
    with pytest.raises(PromptError, match="257 tokens; with max_new_tokens=1 it exceeds the model's context of 256"):
        aligner.fit(["a" * 250])


def test_the_longest_that_is_said_counts_wherever_it_stands(tmp_path):
    """At equal weights these symbols are longer than at the corners."""

    class Middle(Symbols):
        def text(self, preference):
            return super().text(preference) + "a" * (4 if max(preference) < 0.9 else 0)

    settings = SHORT | {"family": Middle()}
    aligner = make(output_dir=tmp_path / "run", tokenizer=passing_lines(PROBLEM.tokenizer()), **settings)
    with pytest.raises(PromptError, match="exceeds the model's context of 256"):
        aligner.fit(["a" * 248])


def test_a_tokenizer_that_does_not_know_the_words_is_told_of_no_other_place(tmp_path):
    """Without a chat template there is none."""
    with pytest.raises(PromptError, match="the family 'weights' says before it: the tokenizer refuses it") as caught:
        make(output_dir=tmp_path / "run", **{**SHORT, "family": "weights"}).fit(list(PROBLEM.prompts))
    assert "place" not in str(caught.value)


TEMPLATES = {
    "ignores": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "refuses": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ messages[0].content }}",
}


@pytest.mark.parametrize(("template", "words"), [("ignores", "leaves out what the family"), ("refuses", "no system")])
def test_chat_templates_without_system_messages_are_said_and_have_another_place(template, words, tmp_path):
    tokenizer = passing_lines(PROBLEM.tokenizer())
    tokenizer.chat_template = TEMPLATES[template]
    settings = {**SHORT, "use_chat_template": True, "steps": 1}
    with pytest.raises(PromptError, match=f'{words}.*place="user"'):
        make(output_dir=tmp_path / "run", tokenizer=tokenizer, **settings).fit(list(PROBLEM.prompts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        made = make(output_dir=tmp_path / "other", tokenizer=tokenizer, **{**settings, "family": Symbols(place="user")})
        assert made.fit(list(PROBLEM.prompts)).at([1, 0]).instruction == Instruction("aaaaaa", "user")
