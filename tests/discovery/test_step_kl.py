"""`max_step_kl`: a step that goes too far is made shorter, by the divergence of the exact distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, contents, events, fit, make

from pareto_align import ConfigError, Objective
from pareto_align.policies.optimizer import PopulationAdamW, keep_within

FAR = {"steps": 1, "eval_every": 1, "learning_rate": 0.3, "group_size": 64, "resolution": 0.0, "remeasure_rounds": 0}
"""One step whose length is far beyond any limit; an answer is one of six symbols, so what it did can be summed up."""
PROMPTS = torch.tensor(PROBLEM.prompts_ids())


def divergence(front) -> np.ndarray:
    """KL of each member's answers from those of the untrained model, in nats; all of it is one step's."""

    def answers(model):
        with torch.no_grad():
            return model(PROMPTS).logits[:, -1].log_softmax(-1)

    before = answers(PROBLEM.model())
    after = [answers(member.load_model(base=PROBLEM.model())) for member in front]
    return np.array([(before.exp() * (before - one)).sum(1).mean().item() for one in after])


@pytest.mark.parametrize("family", ["independent", "blocks"])
@pytest.mark.parametrize("limit", [0.03, 0.003])
def test_a_long_step_is_made_as_long_as_it_may_be(tmp_path, family, limit):
    """Where the whole step would have gone many times as far; in 128 answers a policy."""
    more = {"family": family, "weighting": "fixed"}
    front, _ = fit(tmp_path / "limited", max_step_kl=limit, **FAR, **more)
    free, _ = fit(tmp_path / "free", max_step_kl=None, **FAR, **more)
    found = divergence(front)
    reached = found.mean() if family == "blocks" else found
    assert np.all((reached > limit / 3) & (reached < 1.5 * limit)), found
    assert divergence(free).max() > 0.3
    (step,) = events(tmp_path / "limited", "step")
    assert len(step["step_kl"]) == 3
    assert min(step["step_kl"]) > 5 * limit
    assert "step_kl" not in events(tmp_path / "free", "step")[0]


def test_a_step_that_is_short_enough_is_made_as_it_is(tmp_path):
    more = {"steps": 2, "learning_rate": 1e-3, "family": "blocks"}
    fit(tmp_path / "limited", max_step_kl=5.0, **more)
    fit(tmp_path / "free", max_step_kl=None, **more)
    with_limit, without = contents(tmp_path / "limited"), contents(tmp_path / "free")
    adapters = [name for name in with_limit if name.endswith("safetensors")]
    assert adapters
    assert {name: with_limit[name] for name in adapters} == {name: without[name] for name in adapters}


def test_shards_of_a_family_keep_one_share(tmp_path):
    """Two hosts' worth of policies: all go the same share of the way, by the mean over all of them."""
    front, _ = fit(tmp_path / "run", max_step_kl=0.01, family="blocks", weighting="fixed", shard_size=2, **FAR)
    assert 0.01 / 3 < divergence(front).mean() < 0.015


def moving(nats):
    """Steps whose divergence is exactly quadratic: what `keep_within` asks for is carried out and taken down."""
    nats, asked = np.array(nats, dtype=float), []

    def scale(factors, again):
        asked.append(factors)
        nats[:] = nats * np.array(factors) ** 2
        return nats.copy() if again else None

    return nats, scale, asked


def test_the_share_is_the_root_of_what_is_allowed():
    nats, scale, asked = moving([2.0, 0.5, 0.1, 0.0])
    keep_within(0.5, nats.copy(), scale)
    assert asked == [[0.5, 1.0, 1.0, 1.0]]
    nats, scale, asked = moving([1.0, 3.0])
    keep_within(0.5, nats.copy(), scale, together=True)
    assert asked == [[0.5]]
    keep_within(0.5, np.array([0.9, 0.1]), scale, together=True)
    assert len(asked) == 1


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_step_that_is_cut_by_more_than_half_is_measured_again(power):
    """Far away the divergence is no square: the root takes back too little or too much, and the next try does not."""
    way, found = np.ones(1), []

    def rescale(factors, again):
        way[:] *= factors
        found.append(100 * way**power)
        return found[-1] if again else None

    keep_within(1.0, np.array([100.0]), rescale)
    assert len(found) == 2
    assert found[1] == pytest.approx(1.0)


def test_a_step_that_is_cut_by_less_is_not_measured_again():
    asked = []
    keep_within(1.0, np.array([1.5]), lambda factors, again: asked.append((factors, again)))
    assert asked == [([pytest.approx(1.5**-0.5)], False)]


def test_a_step_after_which_nothing_is_a_number_is_taken_back():
    asked = []
    keep_within(1.0, np.array([np.nan, 0.1, np.inf]), lambda factors, again: asked.append((factors, again)))
    keep_within(1.0, np.array([np.nan, 0.1]), lambda factors, again: asked.append((factors, again)), together=True)
    assert asked == [([0.0, 1.0, 0.0], False), ([0.0], False)]


def test_a_share_of_the_way_is_kept_and_what_is_whole_is_not_touched():
    start = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    end = start + torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    optimizer = PopulationAdamW(end.clone())
    optimizer.step(torch.ones(3, 7), 0.0)
    optimizer.rescale(start, [0.25, 1.0, 0.0])
    torch.testing.assert_close(optimizer.parameters[0], start[0] + 0.25 * (end[0] - start[0]))
    assert torch.equal(optimizer.parameters[1], end[1])
    assert torch.equal(optimizer.parameters[2], start[2])
    torch.testing.assert_close(optimizer.mean, torch.full((3, 7), 0.1) / 7**0.5)  # clipped to norm 1; moments stay


@pytest.mark.parametrize("wrong", [0.0, -1.0, "far", float("nan")])
def test_a_limit_is_a_positive_number(tmp_path, wrong):
    with pytest.raises(ConfigError, match="`max_step_kl`"):
        fit(tmp_path / "run", max_step_kl=wrong)


@pytest.mark.parametrize("learner", ["dpo", "kto", "egpo", "inpo"])
def test_learners_whose_steps_are_not_measured_have_no_such_limit(tmp_path, learner):
    """Of comparisons because others said them; of self-play because it keeps where steps began and ended."""
    objectives = [Objective(name, PROBLEM.objectives()[0].reward, prefers=name) for name in ("x", "y")]
    with pytest.raises(ConfigError, match=f"`max_step_kl` is for .* learner '{learner}'"):
        make(objectives, learner=learner, max_step_kl=0.5, output_dir=tmp_path / "run").fit([])
