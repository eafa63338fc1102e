"""Rewards learned on a frozen model's states: the states are the model's, the judges find what they were shown, and a
folder gives them back."""

from __future__ import annotations

import json
import math
import warnings
from contextlib import closing

import numpy as np
import pytest
import torch
from tiny_models import SYMBOLS, lora, random_population, tiny_base

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.learning.rewards import fit_rewards, load_rewards
from pareto_align.policies.engine import Engine
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions
from pareto_align.policies.states import end_states

LETTERS = "abcdefghijkl"[:SYMBOLS]
PROMPTS = [f"<{p}>{a}{b}" for p in range(4) for a in LETTERS for b in "abc"]  # 144


def worth(answer):
    """What is wanted in this file: letters that are late in the alphabet."""
    return float(np.mean([LETTERS.index(letter) for letter in answer])) / (SYMBOLS - 1)


def answers(rng, count, length=3):
    return ["".join(rng.choice(list(LETTERS), length)) for _ in range(count)]


def comparisons(seed=0, users=None):
    """Rated answers to all prompts; `users` maps who judges to the sign of what he wants."""
    rng = np.random.default_rng(seed)
    if users is None:
        said = [answers(rng, 3) for _ in PROMPTS]
        ratings = [[worth(one) for one in group] for group in said]
        short = [[float(LETTERS.index(one[0])) for one in group] for group in said]
        return Comparisons.from_ratings(PROMPTS, said, {"late": ratings, "first": short})
    rows = []
    for number, prompt in enumerate(PROMPTS * 2):
        first, second = answers(rng, 2)
        user = list(users)[number % len(users)]
        better = users[user] * (worth(first) - worth(second))
        rows.append(
            {"prompt": prompt, "response_0": first, "response_1": second, "late": int(better < 0), "user": user}
        )
    return Comparisons.from_rows(rows, labels=["late"], user="user")


def test_states_are_the_models_own_at_the_last_token():
    base = tiny_base()
    prompts = [base.encode(text) for text in ("<0>", "<1>abc", "<2>abcdefg")]
    completions = [[3, 4], [5], [1, 2, 3, 4]]
    found = end_states(base, prompts, completions)
    for state, prompt, completion in zip(found, prompts, completions, strict=True):
        with torch.no_grad():
            row = base.model.model(input_ids=torch.tensor([[*prompt, *completion]])).last_hidden_state[0, -1]
        np.testing.assert_allclose(state, row, atol=1e-5)
    np.testing.assert_allclose(end_states(base, prompts, completions, batch_tokens=1), found, atol=1e-5)


def test_a_population_on_the_model_changes_no_state():
    base = tiny_base()
    prompts, completions = [base.encode("<1>abc")], [[5, 6]]
    before = end_states(base, prompts, completions)
    population = random_population(base)
    try:
        np.testing.assert_allclose(end_states(base, prompts, completions), before, atol=1e-5)
    finally:
        population.close()


def test_heads_judge_new_answers_and_come_back_from_a_folder(tmp_path):
    base = tiny_base()
    rewards = fit_rewards(base, comparisons())
    assert rewards.names == ("late", "first")
    late = rewards.report[0]
    assert late.accuracy > 0.7
    assert late.cross_entropy < 0.85 * math.log(2)
    texts = answers(np.random.default_rng(5), 100)
    found = np.array(rewards["late"](prompts=["<2>ka"] * 100, completions=texts))
    assert np.corrcoef(found, [worth(text) for text in texts])[0, 1] > 0.6
    folder = rewards.save(tmp_path / "rewards")
    again = load_rewards(folder, base=base)
    assert again["late"](prompts=["<2>ka"] * 100, completions=texts) == found.tolist()
    assert again.report == rewards.report
    assert json.loads((folder / "rewards.json").read_text())["names"] == ["late", "first"]


def test_all_objectives_share_one_pass(monkeypatch):
    base = tiny_base()
    rewards = fit_rewards(base, comparisons())
    passes = []
    monkeypatch.setattr(
        "pareto_align.learning.rewards.end_states",
        lambda base, prompts, completions: passes.append(len(prompts)) or end_states(base, prompts, completions),
    )
    for objective in rewards.objectives():
        objective.reward(prompts=["<0>ab"] * 3, completions=["abc", "abd", "abc"])
    assert passes == [2]  # equal answers are read once


@pytest.mark.parametrize("kind", ["regression", "mixture", "pal", "gpm"])
def test_every_kind_judges_and_comes_back(kind, tmp_path):
    base = tiny_base()
    users = {f"u{n}": 1 if n % 3 else -1 for n in range(12)}
    data = comparisons() if kind == "regression" else comparisons(users=users)
    settings = {} if kind == "regression" else {"objective": "late"}
    if kind in ("mixture", "pal"):
        settings["groups"] = 2
    if kind in ("pal", "gpm"):
        settings["steps"] = 200
    rewards = fit_rewards(base, data, kind=kind, **settings)
    texts = ["abl", "aba", "ccg", "ckb"]
    found = rewards.judge(["<0>ab"] * 4, texts)
    assert found.shape == (4, len(rewards.names))
    assert np.isfinite(found).all()
    again = load_rewards(rewards.save(tmp_path / "rewards"), base=base)
    np.testing.assert_array_equal(again.judge(["<0>ab"] * 4, texts), found)
    if kind == "pal":
        mine = Comparisons.from_rows(
            [{"prompt": "<0>ab", "response_0": "abl", "response_1": "aba", "late": 0}] * 3, labels=["late"]
        )
        assert again.preference_of(mine).sum() == pytest.approx(1)


def test_what_a_kind_needs_is_said():
    base = tiny_base()
    for kind, words in (("mixture", "objective='late'"), ("nothing", "bt, regression")):
        with pytest.raises(ConfigError, match=words):
            fit_rewards(base, comparisons(), kind=kind)
    with pytest.raises(ConfigError, match="user='COLUMN'"):
        fit_rewards(base, comparisons(), kind="pal", objective="late")
    with pytest.raises(ConfigError, match="late, first"):
        fit_rewards(base, comparisons(), objective="early")


def test_damaged_folders_and_models_of_another_width_are_refused(tmp_path):
    rewards = fit_rewards(tiny_base(), comparisons(), objective="late", penalty=1.0)
    folder = rewards.save(tmp_path / "rewards")
    with pytest.raises(FrontFileError, match="32 numbers"):
        load_rewards(folder, base=tiny_base(hidden_size=16))
    (folder / "rewards.json").write_text("{}")
    with pytest.raises(FrontFileError, match="no learned rewards"):
        load_rewards(folder)
    with pytest.raises(FrontFileError, match="no learned rewards"):
        load_rewards(tmp_path)


def test_a_run_is_measured_by_a_learned_reward_on_the_same_model(tmp_path):
    """Labels train, the head on the same frozen model measures what is said, adapters or not."""
    base, data = tiny_base(), comparisons()
    rewards = fit_rewards(base, data)
    objectives = [Objective(name, rewards[name], prefers=name) for name in rewards.names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = ParetoAligner(
            base, objectives, learner="dpo", weighting="fixed", explorer="grid", population=2, steps=12,
            prompts_per_step=16, learning_rate=2e-2, max_new_tokens=3, eval_every=12, eval_prompts=16, lora=lora(),
            progress=False, output_dir=tmp_path / "run",
        )  # fmt: skip
        front = aligner.fit(data)
    for member in front:
        prompts, said = ([sample[name] for sample in member.samples] for name in ("prompt", "completion"))
        assert np.isfinite(rewards.judge(prompts, said)).all()
    assert np.isfinite(front.values).all()
    assert front.record.members[0].estimate.samples is not None


def two_kinds_of_users():
    """Twelve users, two thirds of whom want late letters and one third early ones."""
    users = {f"u{n}": 1 if n % 3 else -1 for n in range(12)}
    return users, comparisons(users=users)


def test_groups_of_users_are_found_and_each_gets_an_expert_of_its_own(tmp_path):
    """From comparisons that contradict each other to a front between what the groups want; one policy for all of them
    follows the majority."""
    base = tiny_base()
    users, data = two_kinds_of_users()
    rewards = fit_rewards(base, data, kind="mixture", objective="late", groups=2)
    groups = rewards.groups
    found = np.array([np.argmax(groups[user]) for user in users])
    wants = np.array(list(users.values()))
    assert len(set(found[wants > 0])) == len(set(found[wants < 0])) == 1
    assert found[wants > 0][0] != found[wants < 0][0]

    parted = data.by_group(groups, rewards.names)
    assert parted.names == rewards.names
    settings = {
        "learner": {"name": "dpo", "beta": 0.5}, "weighting": "fixed", "explorer": "grid", "family": "independent",
        "steps": 60, "prompts_per_step": 16, "learning_rate": 1e-2, "eval_every": 60, "progress": False, "lora": lora(),
    }  # fmt: skip
    objectives = [Objective(name, prefers=name) for name in parted.names]

    def leaning(asked, rows, population, folder):
        """`[K]` how much likelier late answers have become than early ones, in nats an answer."""
        aligner = ParetoAligner(base, asked, population=population, output_dir=folder, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            aligner.fit(rows)
        with closing(PolicyPopulation(base, population, lora=lora())) as trained:
            trained.parameters.copy_(aligner.policies_)
            ids = [base.tokenizer.encode(text, add_special_tokens=False) for text in ("lkj", "klk", "abc", "bac")]
            tokens = torch.tensor(ids)[None, None].expand(population, -1, -1, -1)
            whole = torch.ones_like(tokens, dtype=torch.bool)
            done = Completions([base.encode("<0>ab")], tokens, whole, torch.zeros(tokens.shape))
            engine = Engine(trained)
            batch = engine.prepare([base.encode("<0>ab")], done)
            gain = (engine.logprobs(batch) - engine.reference_logprobs(batch)).sum(-1)[:, 0].numpy()
        return gain[:, :2].mean(1) - gain[:, 2:].mean(1)

    experts = leaning(objectives, parted, 2, tmp_path / "two")
    majority = found[wants > 0][0]
    assert experts[majority] > 1
    assert experts[1 - majority] < -1
    (alone,) = leaning([Objective("late", prefers="late")], data, 1, tmp_path / "one")
    assert 0 < alone < 0.6 * experts[majority]
    with pytest.raises(ConfigError, match="kind 'mixture'"):
        _ = fit_rewards(base, comparisons(), kind="regression", objective="late").groups
