"""`front.gate` and `mixture(by="routed")`: the member that answers a prompt best, prompt by prompt."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aligner_runs import lora

from pareto_align import Objective, ParetoAligner, ParetoFront
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning, PromptError
from pareto_align.gate import Gate
from pareto_align.policies import load_base
from pareto_align.testing.tiny import LORA_TARGETS, symbol_tokenizer, tiny_llama

V, KINDS = 8, 2
PROMPTS = [f"<{kind}>{a}{b}" for a, b in itertools.product("cdefgh", repeat=2) for kind in range(KINDS)]
SEEN, FRESH = PROMPTS[:32], PROMPTS[32:]
EVEN = {"a": 0.5, "b": 0.5}


def share_of(symbol: str, kind: str):
    """The share of a symbol, worth five times as much for prompts of one kind."""

    def reward(prompts, completions, **columns):
        worth = [1.0 if prompt.startswith(f"<{kind}>") else 0.2 for prompt in prompts]
        return [w * text.count(symbol) / len(text) for w, text in zip(worth, completions, strict=True)]

    return reward


def objectives():
    return [Objective(name, share_of(name, kind), bounds=(0, 1)) for name, kind in (("a", "0"), ("b", "1"))]


def base():
    return load_base(tiny_llama(V, KINDS), tokenizer=symbol_tokenizer(V, KINDS))


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """Two members, one that says a and one that says b, each good for its kind of prompt."""
    aligner = ParetoAligner(
        base(), objectives(), population=2, family="independent", explorer="grid", weighting="fixed",
        lora=lora(r=4, target_modules=list(LORA_TARGETS)), steps=40, prompts_per_step=8, group_size=16,
        learning_rate=0.02, max_new_tokens=2, eval_prompts=8, eval_every=40, seed=0, progress=False,
        output_dir=tmp_path_factory.mktemp("gate") / "run",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        found = aligner.fit(SEEN)
    found.base = base()
    yield found
    found.close()


@pytest.fixture(scope="module")
def gate(front):
    return front.gate(SEEN, objectives())


def worth(front, answers: dict[str, list[str]], prompts: list[str]) -> dict[str, np.ndarray]:
    """Of each name's answers to the prompts the even utility."""
    rewards = [share_of("a", "0"), share_of("b", "1")]
    return {
        name: np.mean([reward(prompts, said) for reward in rewards], axis=0) for name, said in answers.items()
    }  # fmt: skip


def test_it_reaches_what_is_there_on_prompts_it_never_saw(front, gate):
    routed = front.mixture(EVEN, by="routed", gate=gate)
    assert routed.gain.worthwhile
    assert 0 < routed.gain.low <= routed.gain.value <= routed.gain.high
    assert routed.gain.value <= routed.gain.naive + 1e-9
    prompts = FRESH * 8
    answers = {member.id: member.generate(prompts) for member in front}
    single = worth(front, answers, prompts)
    oracle = np.max(list(single.values()), axis=0).mean()
    best = max(one.mean() for one in single.values())
    assert oracle - best > 0.1  # about .2 where each says nothing but its own symbol
    found = worth(front, {"routed": routed.generate(prompts)}, prompts)["routed"].mean()
    assert found - best >= 0.8 * (oracle - best)
    assert sum(routed.last.values()) == len(prompts)
    # one prompt of each kind, each to its own member, the answer that the member gives
    one, two = routed.route(FRESH[:2])
    assert {one, two} == {member.id for member in front}
    assert routed.generate(FRESH[0], seed=3) == front[[m.id for m in front].index(one)].generate(FRESH[0], seed=3)
    assert routed.generate([]) == []


def test_what_it_says_of_itself_is_measured(front, gate):
    routed = front.mixture(EVEN, by="routed", gate=gate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = routed.measure(FRESH * 4, objectives())
    assert found.held.all()
    np.testing.assert_allclose(found.predicted, routed.predicted)
    assert set(routed.experts) == {member.id for member in front}
    told = routed.to_dict()
    assert (told["by"], told["preference"]) == ("routed", EVEN)
    assert told["gain"]["value"] == routed.gain.value
    assert "in utility over" in routed.reason
    assert repr(routed).startswith("<Routed m")


def test_a_prompt_that_is_asked_again_is_no_further_prompt(front):
    """Copies are more answers of one prompt: they make no interval narrower than the prompts do."""
    once, often = front.gate(SEEN[:8], objectives()), front.gate(SEEN[:8] * 6, objectives())
    assert often.answered.shape == once.answered.shape == (2, 8, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        routed = front.mixture(EVEN, by="routed", gate=often)
    assert routed.reason.startswith("Of 8 prompts")


def test_where_one_member_is_best_for_all_it_says_so(front, gate):
    with pytest.warns(ParetoAlignWarning, match="not known to be worth anything"):
        routed = front.mixture({"a": 1.0}, by="routed", gate=gate)
    assert not routed.gain.worthwhile
    assert len(set(routed.route(FRESH))) == 1


def test_a_gate_comes_back_from_its_file(front, gate, tmp_path):
    again = Gate.load(gate.save(tmp_path / "gate.safetensors"))
    assert (again.names, again.members) == (gate.names, gate.members)
    kept, loaded = (front.mixture(EVEN, by="routed", gate=one) for one in (gate, again))
    assert kept.route(FRESH) == loaded.route(FRESH)
    assert kept.gain == loaded.gain
    np.testing.assert_array_equal(kept.predicted, loaded.predicted)


def test_what_is_no_gate(front, gate, tmp_path):
    (tmp_path / "torn").write_bytes(gate.save(tmp_path / "whole").read_bytes()[:-9])
    for path in (tmp_path / "torn", tmp_path / "none", tmp_path):
        with pytest.raises(FrontFileError, match="Cannot read the gate"):
            Gate.load(path)
    with pytest.raises(FrontFileError, match="not of its members"):
        Gate.load(replace(gate, members=("m0000",)).save(tmp_path / "other"))
    with pytest.raises(FrontFileError, match="Cannot write"):
        gate.save(tmp_path / "no" / "folder")


def test_what_cannot_be_routed(front, gate):
    with pytest.raises(ConfigError, match="takes a gate"):
        front.mixture(EVEN, by="routed")
    with pytest.raises(ConfigError, match="takes a gate"):
        front.mixture(EVEN, by="logits", gate=gate)
    with pytest.raises(ConfigError, match="no coefficients"):
        front.mixture(coefficients={front[0].id: 1}, by="routed", gate=gate)
    with pytest.raises(ConfigError, match="of another front"):
        front.mixture(EVEN, by="routed", gate=replace(gate, members=("x", "y")))
    with pytest.raises(ConfigError, match="tells prompts apart"):
        front.gate(SEEN[:1] * 4, objectives())
    with pytest.raises(ConfigError, match="`draws`"):
        front.gate(SEEN, objectives(), draws=0)
    with pytest.raises(ConfigError, match="measured in"):
        front.gate(SEEN, objectives()[:1])
    with pytest.raises(PromptError):
        front.gate(["", "<0>"], objectives())
    empty = ParetoFront(replace(front.record, members=[]), Path(front.path))
    with pytest.raises(ConfigError, match="chooses between members"):
        empty.gate(SEEN, objectives())


@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_a_missing_reward_is_said(front):
    silent = Objective("b", lambda completions, **columns: [None] * len(completions), bounds=(0, 1))
    with pytest.raises(ConfigError, match="some are missing"):
        front.gate(SEEN, [objectives()[0], silent])
