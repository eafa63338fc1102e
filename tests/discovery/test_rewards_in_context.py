"""One adapter that imitates rated answers behind their ratings: what is asked for is what is got."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from aligner_runs import make
from scipy.stats import norm, spearmanr
from symbol_family import passing_lines
from tiny_models import as_peft, lora, peft_row, relative_error, tiny_base, tiny_model

from pareto_align import Comparisons, Objective, ParetoAlignWarning
from pareto_align.data.comparison_rows import encode_comparisons
from pareto_align.errors import ComparisonError, ConfigError
from pareto_align.learning import Context, make_learner
from pareto_align.learning.in_context import said_rewards
from pareto_align.objectives import RewardScale
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.families import Rewards, register_family
from pareto_align.policies.optimizer import FamilyOptimizer
from pareto_align.testing.exact import expected_rewards
from pareto_align.testing.judging import symbol_lora
from pareto_align.testing.problems import get_problem
from pareto_align.testing.tables import string_probabilities
from pareto_align.testing.tiny import symbol_strings, symbol_text


@register_family("letters")
class Letters(Rewards):
    """Rewards in five letters, from -1.6 to 1.6, for a model of few symbols."""

    def words(self, rewards):
        return "".join("abcde"[int(np.clip(round(2 + x / 0.8), 0, 4))] for x in rewards if np.isfinite(x))


CONTEXTS = get_problem("contexts", V=6)
STRINGS = ["".join(symbol_text(i) for i in string) for string in symbol_strings(CONTEXTS.V, CONTEXTS.T)]


def rated(rewards=CONTEXTS.rewards):
    """Everything that can be said to every prompt, and what it is worth."""
    columns = {name: rewards[:, :, i].tolist() for i, name in enumerate(CONTEXTS.names)}
    return Comparisons.from_ratings(CONTEXTS.prompts, [STRINGS] * len(CONTEXTS.prompts), columns, pairs="adjacent")


def parts():
    """A model whose answers have no end to be chosen, and its tokenizer."""
    model, tokenizer = CONTEXTS.model(0), passing_lines(CONTEXTS.tokenizer())
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    return model, tokenizer


def aligner(folder, **settings):
    model, tokenizer = parts()
    objectives = [Objective(o.name, o.reward, bounds=o.bounds, prefers=o.name) for o in CONTEXTS.objectives()]
    given = {
        "learner": "ric", "family": Letters(target="linear"), "explorer": None, "population": 2, "steps": 4,
        "prompts_per_step": 8, "eval_every": 2, "max_new_tokens": 2, "eval_group_size": 4, **settings,
    }  # fmt: skip
    return make(given.pop("objectives", objectives), model=model, tokenizer=tokenizer, output_dir=folder, **given)


def fit(made, data=None, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        return made.fit(rated() if data is None else data, eval_prompts=rated(), **more)


def worth(front, told):
    """`[n, m]` exact expected rewards behind n instructions."""
    model, tokenizer = parts()
    base = load_base(model, tokenizer=tokenizer, use_chat_template=False, device="cpu")
    population = PolicyPopulation(base, 1, lora=symbol_lora())
    try:
        row = population.read_adapter(front.at([0.5, 0.5]).adapter_path)
        found = []
        with population.serving(row[None]):
            for instruction in told:
                ids = [base.encode(instruction.before(prompt, templated=False)) for prompt in CONTEXTS.prompts]
                found.append(
                    expected_rewards(string_probabilities(model, ids, CONTEXTS.V, CONTEXTS.T), CONTEXTS.rewards)
                )
    finally:
        population.close()
    return np.array(found)


def said(rewards):
    family = Letters()
    family.names = list(CONTEXTS.names)
    return family.said(rewards)


def test_the_rewards_that_are_asked_for_are_the_ones_that_are_got(tmp_path):
    """Exactly, enumerated: each objective rises with what is asked of it, and a front of preferences asks for that."""
    front = fit(aligner(tmp_path / "run", steps=100, eval_every=100, prompts_per_step=32, lora=symbol_lora()))
    levels = np.array([-1.6, -0.8, 0.0, 0.8, 1.6])
    for i in range(2):
        found = worth(front, [said(np.where(np.arange(2) == i, level, 0.0)) for level in levels])[:, i]
        assert spearmanr(levels, found).statistic >= 0.9
        assert found[-1] - found[0] > 0.2
    one, other = worth(front, [front.at(w).instruction for w in ([0.75, 0.25], [0.25, 0.75])])
    assert one[0] - other[0] > 0.15
    assert other[1] - one[1] > 0.15


def test_ratings_are_said_by_their_quantiles_or_in_standard_deviations():
    ratings = np.array([[1.0, 10.0], [2.0, 30.0], [2.0, np.nan], [9.0, 20.0]])
    found = said_rewards(ratings, "quantile")
    np.testing.assert_allclose(found[:, 0], norm.ppf([0.125, 0.5, 0.5, 0.875]))
    np.testing.assert_allclose(found[[0, 3, 1], 1], norm.ppf([1 / 6, 0.5, 5 / 6]), atol=1e-12)
    assert np.isnan(found[2, 1])
    np.testing.assert_allclose(said_rewards(np.exp(ratings), "quantile"), found)  # whatever their distribution
    scores = said_rewards(ratings, "score")
    np.testing.assert_allclose(np.nanmean(scores, 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scores, 0), 1)
    np.testing.assert_array_equal(said_rewards(np.full((3, 1), 2.0), "score"), np.zeros((3, 1)))


def test_what_is_said_is_said_alike_in_training_and_in_asking():
    family = Rewards(target="linear", low=-1, high=1)
    family.lora(None, ["friendly", "short"])
    assert family.said([0.74, -1.23]).text == "<friendly> 0.7 <short> -1.2"
    assert family.said([-0.04, np.nan]).text == "<friendly> 0.0"
    assert family.said([1.0, -1.0]) == family.instruction([1.0, 0.0])


def test_the_gradient_is_that_of_the_likelihood_by_autograd_over_peft(tmp_path):
    base = load_base(tiny_model(), tokenizer=passing_lines(tiny_base().tokenizer))
    data = Comparisons.from_ratings(
        ["<0>a", "<1>bc", "<2>", "<3>abcd"], [["ab", "c"], ["d", "eee"], ["f"], ["ghij", "k"]],
        {"x": [[1, 2], [3, None], [5], [6, 7]], "y": [[4, 3], [2, 1], [None], [0, 5]]}, pairs="adjacent",
    )  # fmt: skip
    objectives = [Objective(name, prefers=name) for name in ("x", "y")]
    rows, _ = encode_comparisons(data.for_objectives(objectives, rated=True), base)
    family = Letters()
    population = PolicyPopulation(base, 2, lora=family.lora(lora(), ["x", "y"]), notes=2)
    family.setup(population, 2, 0)
    family.parameters.copy_(0.2 * torch.randn(family.parameters.shape, generator=torch.Generator().manual_seed(0)))
    optimizer = FamilyOptimizer(family, population)
    optimizer.place(np.eye(2))
    learner = make_learner("ric")
    scale = RewardScale(np.zeros(2), np.ones(2), -np.ones(2), np.ones(2))
    learner.setup(Context(Engine(population), scale, [0, 1], optimizer, prompts=rows, prompts_per_step=3))
    assert len(learner.answers) == 7
    seen = learner.collect(1)
    found = learner.gradients(seen).gradients[:, 0].clone()
    start = population.parameters.clone()
    learner.step(seen, np.full((2, 2), 0.5), 0.0)
    assert relative_error(-population.grad[:, : found.shape[1]], found) < 1e-5  # weights have no part in it
    population.close()
    done = seen.completions
    for k in range(2):
        model = as_peft(population, start[k], tmp_path / str(k), tiny_model(), is_trainable=True)
        total, count = 0.0, 0
        for n in range(3):
            prompt = done.prompt_ids[3 * k + n]
            answer = done.tokens[k, n, 0][done.mask[k, n, 0]].tolist()
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            total = total + logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
            count += len(answer)
        (total / count).backward()
        expected = peft_row(population, model, grad=True)
        assert relative_error(found[k, : expected.shape[0] - 2], expected[:-2]) < 1e-5


def test_answers_surprise_less_and_nothing_else_has_to_be_said(tmp_path):
    told = []
    made = aligner(tmp_path / "run", steps=9, prompts_per_step=16, callbacks=[told.append])
    fit(made)
    steps = [event for event in told if event["event"] == "step"]
    surprise = np.array([event["surprise"] for event in steps])
    assert surprise.shape == (9, 2)
    assert surprise[-1].mean() < surprise[0].mean() == pytest.approx(np.log(6), abs=0.1)  # nearly uniform at first
    assert made.weighting.name == "fixed"
    assert made.explorer.name == "everywhere"


def test_the_adapter_goes_on_with_rewards_and_better_answers_get_likelier(tmp_path):
    """Rated answers first, then its own with rewards: both preferences are served better."""
    first = fit(aligner(tmp_path / "rated", steps=40, eval_every=40, prompts_per_step=32, lora=symbol_lora()))
    model, tokenizer = parts()
    second = make(
        CONTEXTS.objectives(), model=model, tokenizer=tokenizer, output_dir=tmp_path / "own", start_from=first,
        family=None, lora=None, weighting="fixed", population=2, steps=30, eval_every=30, prompts_per_step=8,
        group_size=16, max_new_tokens=2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        front = second.fit(list(CONTEXTS.prompts))
    assert front.record.family.name == "letters"
    preferences = np.array([[0.75, 0.25], [0.25, 0.75]])
    before, after = (worth(f, [f.at(w).instruction for w in preferences]) for f in (first, front))
    assert ((preferences * after).sum(1) > (preferences * before).sum(1) + 0.02).all()


def test_single_rated_answers_are_enough(tmp_path):
    rows = [
        {"prompt": prompt, "response": STRINGS[7 * n], **{name: CONTEXTS.rewards[n, 7 * n, i]
         for i, name in enumerate(CONTEXTS.names)}}
        for n, prompt in enumerate(CONTEXTS.prompts)
    ]  # fmt: skip
    data = Comparisons.from_rows(rows, labels=list(CONTEXTS.names))
    assert data.pair_count == 0
    assert len(fit(aligner(tmp_path / "run"), data)) >= 1


def test_it_is_the_same_after_a_resume(tmp_path):
    settings = {"steps": 6}

    def stop(event):
        if (event["event"], event.get("step")) == ("step", 3):
            raise RuntimeError("enough")

    whole = fit(aligner(tmp_path / "whole", **settings))
    with pytest.raises(RuntimeError, match="enough"):
        fit(aligner(tmp_path / "cut", callbacks=[stop], **settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        again = aligner(tmp_path / "cut", **settings).resume(tmp_path / "cut")
    np.testing.assert_array_equal(again.values, whole.values)
    for file in (tmp_path / "whole" / "front").rglob("*"):
        if file.is_file():
            assert (tmp_path / "cut" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes(), file


def test_shards_come_to_the_same_adapter(tmp_path):
    one, two = (fit(aligner(tmp_path / str(size), shard_size=size)) for size in (2, 1))
    np.testing.assert_allclose(one.values, two.values, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "weights"}, "asked in the same words: family='rewards'. Found 'weights'"),
        ({"family": "independent"}, "Found 'independent'"),
        ({"weighting": "chebyshev"}, "leave `weighting` out. Found 'chebyshev'"),
        ({"kl_coef": 0.1}, "the learner 'ric' has none. Found kl_coef=0.1"),
        ({"activated": True}, "Set activated=False"),
        ({"learner": {"name": "ric", "unit": "rank"}}, "`unit`"),
        ({"objectives": [Objective(n, prefers=n) for n in CONTEXTS.names]}, "has ratings and no reward"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        fit(aligner(tmp_path / "run", **settings))


def test_pairs_without_ratings_are_refused(tmp_path):
    first, second = CONTEXTS.names
    rows = [{"prompt": p, "response_0": "ab", "response_1": "ba", first: 0, second: 1} for p in CONTEXTS.prompts]
    with pytest.raises(ComparisonError, match=f"'{first}' has no ratings in the column '{first}'"):
        fit(aligner(tmp_path / "run"), Comparisons.from_rows(rows, labels=[first, second]))
    long = Comparisons.from_ratings(["a" * 250], [["abcd"]], {first: [[1]], second: [[2]]})
    with pytest.raises(ComparisonError, match=r"have 257 tokens.*context is 256.*overflow='drop'"):
        fit(aligner(tmp_path / "long"), long)


def test_rewards_that_no_answer_was_said_to_have_are_warned_of(tmp_path):
    """Half of the answers good and half bad: -.7 and .7, and the family asks for -1.6 to 1.6."""
    halves = (CONTEXTS.rewards > np.median(CONTEXTS.rewards, axis=(0, 1))).astype(float)
    with pytest.warns(ParetoAlignWarning, match=r"said to have 'r1' from -0\.[67] to 0\.[67].* ask for -1\.6 to 1\.6"):
        aligner(tmp_path / "run", steps=1, eval_every=1).fit(rated(halves), eval_prompts=rated())
