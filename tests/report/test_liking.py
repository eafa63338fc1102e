"""Choosing by comparisons: the numbers of the choice, and a whole front of two tastes that are told apart."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from tiny_models import as_peft, lora, random_population, tiny_base, tiny_model

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ComparisonError, ConfigError
from pareto_align.policies.serving import Server
from pareto_align.report.liking import liked

LETTERS = "abcdefghijkl"


def test_the_posterior_is_that_of_bradley_and_terry():
    found = liked([[2.0, -1.0], [-2.0, 1.0]], [1.0, 0.0], beta=0.5)
    sure = math.exp(-math.log1p(math.exp(-1.0)) - math.log1p(math.exp(-0.5)))
    other = math.exp(-math.log1p(math.exp(1.0)) - math.log1p(math.exp(0.5)))
    assert found.posterior == pytest.approx([sure / (sure + other), other / (sure + other)])
    assert found.right.tolist() == [1.0, 0.0]
    assert found.regret == 0


def test_the_unit_of_the_gaps_does_not_matter_much_and_members_that_know_nothing_are_equal():
    rng = np.random.default_rng(0)
    taste = rng.normal(size=20)
    labels = (taste > 0).astype(float)
    gaps = np.stack([taste, -taste, rng.normal(size=20)])
    for unit in (0.1, 1.0, 30.0):
        found = liked(unit * gaps, labels)
        assert found.posterior.argmax() == 0
        assert found.posterior[0] > 0.85
    assert liked(np.zeros((3, 4)), [1, 0, 1, 1]).posterior == pytest.approx([1 / 3] * 3)
    with pytest.raises(ConfigError, match="beta"):
        liked(gaps, labels, beta=0.0)


def test_a_server_reads_as_stock_peft_does(tmp_path):
    base = tiny_base()
    population = random_population(base, 2)
    rows = population.parameters.clone()
    for k in range(2):
        population.save_adapter(rows[k], tmp_path / f"m{k}")
    population.close()
    prompts, said = [base.encode("<1>abc"), base.encode("<0>")], [[3, 4, 14], [5]]
    server = Server({"name": None}, base=base)
    before = server.logprobs(None, prompts, said)
    found = [server.logprobs(tmp_path / f"m{k}", prompts, said) for k in range(2)]
    assert server.logprobs(None, prompts, said) == pytest.approx(before, abs=1e-5)  # the adapters are off again
    server.close()

    def plain(model):
        sums = []
        for ids, tokens in zip(prompts, said, strict=True):
            logits = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            sums.append(float(logits.gather(1, torch.tensor(tokens)[:, None]).sum()))
        return sums

    with torch.no_grad():
        assert before == pytest.approx(plain(tiny_model()), abs=1e-4)
        for k in range(2):
            model = as_peft(population, rows[k], tmp_path / f"again{k}", tiny_model())
            assert found[k] == pytest.approx(plain(model), abs=1e-4)


def taste(sign, prompts, seed):
    """Pairs of answers of which the one with later letters is preferred, or the other one."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in prompts:
        first, second = ("".join(rng.choice(list(LETTERS), 3)) for _ in range(2))
        late = sum(map(LETTERS.index, first)) - sum(map(LETTERS.index, second))
        if late:
            labels = {"late": int(late < 0), "early": int(late > 0)}  # which of them is preferred
            rows.append({"prompt": prompt, "response_0": first, "response_1": second, **labels})
    return Comparisons.from_rows(rows, labels=["late", "early"] if sign is None else [sign])


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """Two policies that want the opposite."""
    prompts = [f"<{p}>{a}{b}" for p in range(4) for a in LETTERS for b in LETTERS[:4]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = ParetoAligner(
            tiny_base(), [Objective("late", prefers="late"), Objective("early", prefers="early")], learner="dpo",
            weighting="fixed", explorer="grid", population=2, steps=25, prompts_per_step=32, learning_rate=2e-2,
            max_new_tokens=3, eval_every=25, eval_prompts=24, lora=lora(), progress=False,
            output_dir=tmp_path_factory.mktemp("run") / "run",
        )  # fmt: skip
        found = aligner.fit(taste(None, prompts, 0))
    assert len(found) == 2
    return found


NEW = [f"<{p}>{a}{b}" for p in range(4) for a in LETTERS for b in LETTERS[:4]][::9]


def test_two_dozen_comparisons_find_the_member_with_that_taste(front):
    wanted = {name: front.select({name: 1.0}).member.id for name in ("late", "early")}
    assert wanted["late"] != wanted["early"]
    for name in wanted:
        choice = front.select_like(taste(name, NEW, 8))
        assert choice.member.id == wanted[name]
        assert choice.rule == "like"
        assert sum(choice.posterior.values()) == pytest.approx(1)
        assert choice.probability_best == max(choice.posterior.values()) > 0.9
        assert 0 <= choice.regret <= 0.02
        assert choice.member.id in choice.reason


def test_what_cannot_choose_is_refused(front):
    with pytest.raises(ConfigError, match="late, early"):
        front.select_like(taste(None, NEW, 7))
    assert front.select_like(taste(None, NEW, 7), column="late").posterior
    with pytest.raises(ConfigError, match="`column`"):
        front.select_like(taste("late", NEW, 7), column="tone")
    ties = [{"prompt": "<0>a", "response_0": "ab", "response_1": "ba", "late": 0.5}]
    with pytest.raises(ComparisonError, match="nothing can be chosen"):
        front.select_like(Comparisons.from_rows(ties, labels=["late"], kinds={"late": "probability"}))


def test_choices_by_a_preference_have_no_posterior(front):
    assert front.select({"late": 1.0}).posterior is None
