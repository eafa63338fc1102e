"""Preferences among a policy's own answers lead where the KL-regularised optimum is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from aligner_runs import make
from peft import LoraConfig
from tiny_models import random_population, tiny_base

from pareto_align import ParetoAligner
from pareto_align.data.prompts import PromptRow
from pareto_align.discovery.extension import FloorKeeper
from pareto_align.discovery.slots import Slots
from pareto_align.discovery.weights import Weights
from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.learning import Context, make_learner
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale, win_rate
from pareto_align.policies import SamplingParams, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions
from pareto_align.testing.comparisons import mirror_steps, regularized_equilibrium
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.learner import LearnerContract
from pareto_align.testing.problems import get_problem
from pareto_align.testing.tiny import LORA_TARGETS, symbol_tokenizer, tiny_llama
from pareto_align.weighting import make as make_weighting


class TestOnlineDpo(LearnerContract):
    def make(self):
        return make_learner("online-dpo")


class TestSppo(LearnerContract):
    def make(self):
        return make_learner({"name": "online-dpo", "loss_type": "sppo", "beta": 0.1})


class TestExtremes(LearnerContract):
    def make(self):
        return make_learner({"name": "online-dpo", "pairs": "extremes", "labels": "soft", "loss_type": "ipo"})


class TestSelfPlay(LearnerContract):
    def make(self):
        return make_learner({"name": "sppo", "beta": 0.1, "every": 2})


class TestInpo(LearnerContract):
    def make(self):
        return make_learner({"name": "inpo", "eta": 1.0, "tau": 0.5})


class TestEgpo(LearnerContract):
    def make(self):
        return make_learner("egpo")


def test_labels_are_of_each_policys_own_answers_and_each_objectives_own():
    learner = make_learner("online-dpo")
    rewards = np.array([[[1.0, 0.0], [0.0, 0.0], [np.nan, 2.0]]])
    view = learner._view(rewards, torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))
    assert view.pairs.tolist() == [[0, 0, 1], [0, 0, 2], [0, 1, 2]]
    np.testing.assert_array_equal(view.labels.numpy(), [[1.0, 0.5], [np.nan, 0.0], [np.nan, 0.0]])


@pytest.mark.parametrize("learner", ["online-dpo", {"name": "online-dpo", "loss_type": "copg", "beta": 0.1}])
def test_it_finds_the_corners_and_something_between(tmp_path, learner):
    """On `arc`, where good answers for both lie between."""
    problem = get_problem("arc", V=6, hidden_size=16)
    fit = judged_fit(
        problem, tmp_path / "run", learner=learner, weighting="fixed", explorer="grid", population=3, steps=40,
        group_size=16, learning_rate=1e-2, eval_every=20,
    )  # fmt: skip
    values, best = fit.values, problem.rewards.max(axis=(0, 1))
    assert values[0, 0] > 0.8 * best[0]
    assert values[2, 1] > 0.8 * best[1]
    assert values[1].min() > values[[0, 2]].min(axis=1).max()  # for both, neither corner is as good


def test_a_reward_that_one_prompt_does_not_have_leaves_something_to_learn_from():
    population = random_population(tiny_base(), 2)
    learner = make_learner("online-dpo")
    scale = RewardScale(np.zeros(2), np.ones(2), -np.ones(2), np.ones(2))
    missing = Objective(
        "b",
        lambda completions, prompts, **_: [
            None if p == "<1>a" else 1.0 * len(c) for p, c in zip(prompts, completions, strict=True)
        ],
        bounds=(0, 9),
    )
    objectives = ObjectiveSet(
        [Objective("a", lambda completions, **_: [1.0 * c.count("a") for c in completions], bounds=(0, 9)), missing]
    )
    prompts = [PromptRow(p, tuple(population.base.encode(p)), {}) for p in ("<1>a", "<2>b")]
    learner.setup(
        Context(
            Engine(population), scale, [0, 1], PopulationAdamW(population.parameters), objectives=objectives,
            prompts=prompts, prompts_per_step=2, group_size=6, params=SamplingParams(6),
        )
    )  # fmt: skip
    seen = learner.collect(0)
    assert np.isnan(seen.rewards).any()
    told = learner.step(seen, np.full((2, 2), 0.5), 1e-3)
    assert (told.spread > 0).all()


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="compares pairs of answers"):
        make_learner({"name": "online-dpo", "loss_type": "modpo"})
    with pytest.raises(ConfigError, match="needs group_size >= 2"):
        make(learner="online-dpo", group_size=1)._plan()
    with pytest.raises(ConfigError, match="'modo' needs cross_gramians"):
        make(learner="online-dpo", weighting="modo")._plan()


# who is preferred to whom, in part in a circle: comparisons.md's game of three answers
GAME = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.6], [0.8, 0.4, 0.5]])


class Table:
    """One policy with three answers to one prompt, all of which are seen at every step; rewards are exact win rates."""

    def __init__(self, learner, size=1, layers=1):
        model = tiny_llama(3, 1, layers=layers)
        base = load_base(model, tokenizer=symbol_tokenizer(3, 1), use_chat_template=False, device="cpu")
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(LORA_TARGETS))
        self.population = PolicyPopulation(base, size, lora=lora)
        self.engine, self.learner = Engine(self.population), make_learner(learner)
        self.optimizer = PopulationAdamW(self.population.parameters, max_norm=None)
        scale = RewardScale(np.zeros(1), np.ones(1), -np.ones(1), np.ones(1))
        self.learner.setup(Context(self.engine, scale, [0], self.optimizer))
        self.prompt = tuple(base.encode("<0>"))
        self.untrained = distribution(self.engine.reference_logprobs(self.prepared()))

    def prepared(self):
        tokens = torch.arange(3)[None, None, :, None].expand(self.population.size, -1, -1, -1)
        nothing = torch.zeros(tokens.shape)
        done = Completions([list(self.prompt)], tokens, torch.ones_like(tokens, dtype=torch.bool), nothing)
        return self.engine.prepare([list(self.prompt)], done)

    def seen(self):
        batch = self.prepared()
        done = replace(batch.done, logprobs=self.engine.logprobs(batch))
        self.policy = distribution(done.logprobs)
        wins = self.policy @ GAME.T
        return Rollouts([PromptRow("<0>", self.prompt, {})], done, [""] * len(wins) * 3, wins[:, None, :, None])

    def step(self, learning_rate=1e-2):
        self.learner.step(self.seen(), np.ones((self.population.size, 1)), learning_rate)
        return self.policy[0]

    def play(self, steps, *, decay=True):
        """The policies of all steps, `[steps, 3]`."""
        found = [self.step(1e-2 * (1 - step / steps if decay else 1)) for step in range(steps)]
        self.seen()
        return np.array(found)


def distribution(logprobs):
    return logprobs.sum(-1)[:, 0].double().softmax(-1).numpy()


@pytest.mark.parametrize(
    ("learner", "steps", "bound"),
    [
        ({"name": "online-dpo", "loss_type": "copg", "beta": 0.5}, 100, 2e-3),
        ({"name": "egpo", "beta": 0.5}, 200, 1e-4),  # 100 whole steps
        ({"name": "inpo", "eta": 1.0, "tau": 0.5, "labels": "difference", "every": 5}, 100, 1e-6),
    ],
    ids=["online-ipo", "egpo", "inpo"],
)
def test_the_last_policy_is_the_nash_equilibrium_of_the_game_that_the_untrained_model_holds(learner, steps, bound):
    """The fixed point of `pi = pi_ref exp(P pi / tau) / Z` at tau .5."""
    table = Table(learner)
    table.play(steps)
    equilibrium = regularized_equilibrium(GAME, table.untrained[0], 0.5)
    assert 0.5 * np.abs(table.policy[0] - equilibrium).sum() < bound
    assert 0.5 * np.abs(table.untrained[0] - equilibrium).sum() > 0.03


def test_an_iteration_of_inpo_ends_at_the_exact_mirror_step():
    """Against win rates of the policy that it began with, which is what the iteration regresses on."""
    table, steps = Table({"name": "inpo", "eta": 1.0, "tau": 0.5, "labels": "difference", "every": 150}), 150
    wins = table.untrained[0] @ GAME.T
    for step in range(steps):
        seen = table.seen()
        seen.rewards[:] = wins[None, None, :, None]
        table.learner.step(seen, np.ones((1, 1)), 1e-2 * (1 - step / steps))
    table.seen()
    exact = mirror_steps(GAME, table.untrained[0], 0.5, 1.0, 1)
    assert 0.5 * np.abs(table.policy[0] - exact).sum() < 1e-3
    assert 0.5 * np.abs(table.untrained[0] - exact).sum() > 0.015


def test_without_a_hold_it_is_the_mean_of_sppos_policies_that_nobody_beats():
    """The last one goes round; the gap is how much more often than not the best answer beats a policy."""
    learner = {"name": "sppo", "beta": 3.0, "labels": "difference", "every": 5}
    policies = Table(learner, layers=2).play(600, decay=False)[::5]
    gap = lambda policy: (GAME @ policy).max() - 0.5  # noqa: E731
    assert gap(policies.mean(0)) < 0.01 < 0.05 < gap(policies[-1])


@pytest.mark.parametrize("learner", ["egpo", {"name": "inpo", "every": 3}, {"name": "sppo", "every": 3}])
@pytest.mark.parametrize("made", [3, 4])
def test_taken_down_and_put_back_it_goes_on_the_same(learner, made):
    """Between the halves of a step as well."""
    table = Table(learner)
    for _ in range(made):
        table.step()
    state = {name: value.clone() for name, value in table.learner.state_dict().items()}
    parameters = table.population.parameters.clone()
    whole = [table.step().copy() for _ in range(5)]
    again = Table(learner)
    again.population.parameters.copy_(parameters)
    again.learner.load_state_dict(state)
    assert np.array_equal([again.step() for _ in range(5)], whole)


@pytest.mark.parametrize("learner", ["egpo", {"name": "inpo", "every": 3}, {"name": "sppo", "every": 3}])
@pytest.mark.parametrize("made", [3, 4])
def test_nothing_of_an_old_tenant_is_kept(learner, made):
    """A slot that changes hands goes on as one that began there, between the halves of a step too."""
    moved, undisturbed = Table(learner, 2), Table(learner, 2)
    for _ in range(made):
        moved.step()
        undisturbed.step()
    tenant = torch.randn_like(moved.population.parameters[0]) * 0.05
    moved.population.load(0, tenant)
    moved.learner.reset(0)
    fresh = Table(learner, 2)
    fresh.population.load(0, tenant)
    fresh.learner.setup(fresh.learner.context)
    for table in (moved, undisturbed, fresh):
        table.step()
        table.seen()
    assert np.array_equal(moved.policy[1], undisturbed.policy[1])
    np.testing.assert_allclose(moved.policy[0], fresh.policy[0], rtol=1e-5)


class Here:
    """A learner's policies, as the slots of a run see them."""

    def __init__(self, learner):
        self.learner, self.trained = learner, learner.optimizer.parameters
        self.put_back, self.forget = learner.optimizer.put_back, learner.reset


@pytest.mark.parametrize("learner", ["egpo", {"name": "inpo", "every": 8}, {"name": "sppo", "every": 8}])
@pytest.mark.parametrize("made", [3, 4])
def test_a_policy_that_went_wrong_and_was_put_back_stays_there(learner, made):
    """Nothing that was kept of the wrong one comes back two steps later."""
    table = Table(learner, 2)
    weighting = make_weighting("fixed")
    weighting.setup(2, 1)
    slots = Slots(Here(table.learner), Weights(weighting, FloorKeeper(2, 1)), np.ones((2, 1)), 5)
    for _ in range(made):
        table.step()
    table.population.parameters[0] = torch.nan
    table.step()
    slots.go_back(0, [0])
    for _ in range(3):
        table.step()
    assert torch.isfinite(table.population.parameters).all()


def test_the_iterate_before_is_taken_every_so_many_steps():
    table = Table({"name": "online-dpo", "reference": "previous", "every": 2})
    begun = table.population.parameters.clone()
    table.step()
    assert torch.equal(table.learner.previous, begun)
    table.step()
    assert torch.equal(table.learner.previous, table.population.parameters)
    assert "previous" not in Table("online-dpo").learner.state_dict()


def test_a_fit_with_a_judge(tmp_path):
    """A judge of pairs and a reward side by side, from prompts to a front."""

    def warmer(prompts, completions, opponents, **_):
        return [0.5 + 0.5 * np.sign(a.count("a") - b.count("a")) for a, b in zip(completions, opponents, strict=True)]

    objectives = [
        Objective("warm", win_rate(warmer, reference="gold"), bounds=(0, 1)),
        Objective("brief", lambda completions, **_: [-len(c) for c in completions], bounds=(-3, 0)),
    ]
    problem = get_problem("arc", V=6, hidden_size=16)
    rows = [{"prompt": prompt, "gold": "ab"} for prompt in problem.prompts * 2]
    found = ParetoAligner(
        problem.model(), objectives, tokenizer=problem.tokenizer(), use_chat_template=False, learner="egpo",
        weighting="fixed", explorer="grid", population=2, steps=4, eval_every=2, group_size=4, prompts_per_step=2,
        max_new_tokens=problem.T, lora=LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"),
    ).fit(rows, eval_prompts=rows, output_dir=tmp_path / "run")  # fmt: skip
    # what is published is each answer against the reference answer, and what moved the policies was their own game
    samples = [sample for member in found for sample in member.samples]
    assert samples
    for sample in samples:
        gold = np.sign(sample["completion"].count("a") - "ab".count("a"))
        assert sample["rewards"] == pytest.approx([0.5 + 0.5 * gold, -len(sample["completion"])])
    steps = [event for event in found.history if event["event"] == "step"]
    assert any(norm > 0 for event in steps for norm in event["grad_norm"])
    # with one prompt all policies are one group, which wins as often as it loses
    assert all(np.mean([row[0] for row in event["values"]]) == pytest.approx(0.5) for event in steps)


def test_games_refuse_what_they_cannot_have():
    with pytest.raises(ConfigError, match="'egpo' keeps each policy as it was"):
        make(learner="egpo", family="blocks", explorer="grid", weighting="fixed")._plan()
    with pytest.raises(ConfigError, match="which only ipo, inpo, sppo take"):
        make_learner({"name": "online-dpo", "labels": "difference"})
    with pytest.raises(ConfigError, match="reads the rewards themselves"):
        make_learner({"name": "online-dpo", "loss_type": "copg", "pairs": "extremes"})
    for setting in ({"kl_coef": 0.1}, {"updates_per_rollout": 2}, {"top_p": 0.9}):
        with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` has no part in the learner 'egpo'"):
            make(learner="egpo", **setting)._plan()
    with pytest.raises(ConfigError, match="tau of at most eta"):
        make_learner({"name": "inpo", "eta": 0.1, "tau": 0.2})
    with pytest.raises(ConfigError, match="no setting 'loss_type'"):
        make_learner({"name": "egpo", "loss_type": "sigmoid"})


class TestNashMd(LearnerContract):
    test_a_policy_that_is_not_stepped_has_not_moved = None  # it has a price of KL

    def make(self):
        return make_learner("nash-md")

    def test_no_weight_is_no_step(self):
        """The price of leaving the untrained model is paid whatever the weights are, as with any policy gradient."""
        with self.ready() as learner:
            before = learner.population.parameters.clone()
            learner.step(learner.collect(0), np.zeros((3, 2)), 1e-2)
            assert (learner.population.parameters != before).any(1).all()


@pytest.mark.parametrize("mixture", [0.0, 0.5])
def test_nash_md_rests_where_its_mixture_is_beaten_as_often_as_it_pays(mixture):
    """The fixed point of `pi = ref exp(P mix / beta) / Z` with `mix ~ pi^(1 - mixture) ref^mixture`, at beta .5."""

    class Against(Table):
        def seen(self):
            found = super().seen()
            mixed = self.policy ** (1 - mixture) * self.untrained**mixture
            wins = (mixed / mixed.sum(1, keepdims=True)) @ GAME.T
            return replace(found, rewards=wins[:, None, :, None])

    table = Against({"name": "nash-md", "mixture": mixture, "beta": 0.5})
    table.play(200)
    untrained = table.untrained[0]
    expected = untrained
    for _ in range(5000):
        mixed = expected ** (1 - mixture) * untrained**mixture
        target = untrained * np.exp(GAME @ (mixed / mixed.sum()) / 0.5)
        expected = 0.9 * expected + 0.1 * target / target.sum()
    assert 0.5 * np.abs(table.policy[0] - expected).sum() < 2e-3
    if mixture == 0:
        np.testing.assert_allclose(expected, regularized_equilibrium(GAME, untrained, 0.5), atol=1e-6)


def test_nash_mds_opponents_are_of_the_mixture_and_answers_meet_their_own(tmp_path):
    """What the judge is shown, against the exact token-wise mixture of each policy and the untrained model."""
    base = load_base(tiny_llama(4, 1), tokenizer=symbol_tokenizer(4, 1), use_chat_template=False, device="cpu")
    population = PolicyPopulation(base, 2, lora=LoraConfig(r=4, lora_alpha=8, target_modules=list(LORA_TARGETS)))
    rows = torch.randn(population.parameters.shape, generator=torch.Generator().manual_seed(0))
    population.parameters.copy_(0.4 * rows)
    met = []

    def judge(prompts, completions, opponents, **columns):
        assert "drawn_opponents" not in columns
        met.extend(zip(completions, opponents, strict=True))
        return [0.5 + 0.5 * np.sign(ord(b[0]) - ord(a[0])) for a, b in zip(completions, opponents, strict=True)]

    wins = win_rate(judge, reference="gold", against="drawn", both_orders=False)
    objectives = ObjectiveSet([Objective("early", wins, bounds=(0, 1))])
    learner, engine = make_learner({"name": "nash-md", "mixture": 0.25}), Engine(population)
    learner.check(objectives)
    scale = RewardScale(np.zeros(1), np.ones(1), -np.ones(1), np.ones(1))
    prompt = PromptRow("<0>", tuple(base.encode("<0>")), {"gold": "a"})
    learner.setup(
        Context(
            engine, scale, [0], PopulationAdamW(population.parameters), objectives=objectives, prompts=[prompt],
            prompts_per_step=1, group_size=3000, params=SamplingParams(1),
        )
    )  # fmt: skip
    seen = learner.collect(0)
    tokens = torch.arange(4)[None, None, :, None].expand(2, -1, -1, -1)
    done = Completions([list(prompt.ids)], tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape))
    batch = engine.prepare([list(prompt.ids)], done)
    own, reference = distribution(engine.logprobs(batch)), distribution(engine.reference_logprobs(batch))
    expected = own**0.75 * reference**0.25
    expected /= expected.sum(1, keepdims=True)
    shown = dict.fromkeys(range(2))
    for k in range(2):
        # equal answers are tied unasked: their opponents are told by the rewards
        texts, rewards = seen.texts[k * 3000 : (k + 1) * 3000], seen.rewards[k, 0, :, 0]
        # how often an answer a is met by an earlier, the same, or a later letter
        for letter, name in enumerate("abcd"):
            mine = [reward for text, reward in zip(texts, rewards, strict=True) if text == name]
            if len(mine) > 300:
                later, same = expected[k, letter + 1 :].sum(), expected[k, letter]
                assert np.mean(mine) == pytest.approx(later + same / 2, abs=4 * 0.5 / np.sqrt(len(mine)))
                shown[k] = True
    assert all(shown.values())
    assert met
    assert len(met) < 6000
    again = learner.collect(0)
    np.testing.assert_array_equal(again.rewards, seen.rewards)


def test_opponents_are_drawn_for_who_meets_them_only():
    judge = win_rate(lambda completions, opponents, **_: [0.5] * len(completions), reference="gold", against="drawn")
    met = Objective("wins", judge, bounds=(0, 1))
    with pytest.raises(ConfigError, match="no objective meets them"):
        make(learner="nash-md")._plan()
    with pytest.raises(ObjectiveError, match="learner='nash-md' draws"):
        ObjectiveSet([met]).score(["<0>"], ["a"], {"gold": ["b"]})
    with pytest.raises(ConfigError, match="'peers', 'reference' or 'drawn'"):
        win_rate(lambda **_: [], reference="gold", against="nobody")
    with pytest.raises(ConfigError, match="`kl_coef` has no part"):
        make([met, *get_problem("arc", V=6).objectives()], learner="nash-md", kl_coef=0.1)._plan()


@pytest.mark.parametrize("shard_size", [None, 1])
def test_a_fit_against_drawn_opponents(tmp_path, shard_size):
    """Who judges has the opponents wherever the policies are; measured is against the reference answers."""
    shown = []

    def early(prompts, completions, opponents, **_):
        shown.extend(opponents)
        return [0.5 + 0.5 * np.sign(ord(b[0]) - ord(a[0])) for a, b in zip(completions, opponents, strict=True)]

    problem = get_problem("arc", V=6, hidden_size=16)
    objectives = [
        Objective("early", win_rate(early, reference="gold", against="drawn"), bounds=(0, 1)),
        Objective("late", lambda completions, **_: [float(c > "c") for c in completions], bounds=(0, 1)),
    ]
    rows = [{"prompt": prompt, "gold": "zz"} for prompt in problem.prompts * 2]
    found = ParetoAligner(
        problem.model(), objectives, tokenizer=problem.tokenizer(), use_chat_template=False, learner="nash-md",
        weighting="fixed", explorer="grid", family="independent", population=2, steps=2, eval_every=2, group_size=4,
        prompts_per_step=2, max_new_tokens=problem.T, shard_size=shard_size,
        lora=LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"), progress=False,
    ).fit(rows, eval_prompts=rows, output_dir=tmp_path / "run")  # fmt: skip
    assert {"zz"} < set(shown)  # what was measured, and what was drawn
    assert sum(event["event"] == "step" for event in found.history) == 2
