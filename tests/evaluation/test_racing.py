"""Racing: what noise leaves open is measured again, together, within its budget; what is settled is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pareto_align.evaluation.answers import Measurement
from pareto_align.evaluation.racing import open_verdicts, race
from pareto_align.front import Estimate, ParetoArchive, Status

PROMPTS = 24


class Simulated:
    """An evaluator of policies whose adapters are their true means; a prompt adds the same to everyone."""

    repeatable = True

    def __init__(self, seed: int = 0, noise: float = 0.3, prompt_noise: float = 0.0, m: int = 2) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise, self.m = noise, m
        self.difficulty = prompt_noise * self.rng.normal(size=(PROMPTS, m))
        self.tokens = 0
        self.calls: list[tuple[int, int]] = []

    def measure(self, policies: torch.Tensor, *, repeat: int = 0) -> list[Measurement]:
        self.calls.append((len(policies), repeat))
        self.tokens += PROMPTS * len(policies)
        found = []
        for mean in policies.double().numpy():
            rewards = mean + self.difficulty + self.noise * self.rng.normal(size=(PROMPTS, self.m))
            found.append(Measurement(Estimate.from_samples(rewards, range(PROMPTS)), rewards[:, None], [], 1.0))
        return found

    def tokens_for(self, length: float | None) -> float:
        return PROMPTS * (5.0 if length is None else length)


def raced(means: list[tuple[float, ...]], evaluator: Simulated, **settings) -> ParetoArchive:
    m = len(means[0])
    archive = ParetoArchive(
        range(m), reference=np.zeros(m), scale_lower=np.zeros(m), scale_upper=np.ones(m), resolution=2.0, **settings
    )
    adapters = torch.tensor(means, dtype=torch.float64)
    for i, (adapter, found) in enumerate(zip(adapters, evaluator.measure(adapters), strict=True)):
        archive.offer(f"p{i}", found.estimate, {"length": 1.0}, adapter)
    evaluator.calls.clear()
    return archive


def test_what_gave_its_adapter_up_is_not_priced(monkeypatch) -> None:
    from pareto_align.evaluation import racing

    archive = raced([(0.5, 0.5)] * 12, Simulated(seed=1))
    contested = [e for e in archive.entries.values() if e.status in (Status.CONTESTED, Status.DUPLICATE)]
    assert len(contested) >= 8
    priced = []
    original = racing.hypervolume
    monkeypatch.setattr(racing, "hypervolume", lambda *given: priced.append(1) or original(*given))
    open_verdicts(archive)
    assert len(priced) == 1 + len(contested), "the front once, and once with each open entry"
    for entry in contested:
        entry.adapter = None
    priced.clear()
    assert open_verdicts(archive) == []
    assert len(priced) == 1


def test_a_lucky_member_is_found_out_by_measuring_again() -> None:
    evaluator = Simulated(seed=3)  # p1 looks better than p0 at first
    archive = raced([(0.6, 0.6), (0.5, 0.5), (0.1, 0.95)], evaluator)
    assert [e.id for e in archive.members()] == ["p1", "p2"]
    outcome = race(archive, evaluator, budget_tokens=10**6, rounds=40)
    assert [e.id for e in archive.members()] == ["p0", "p2"]
    assert archive.entries["p1"].rival == "p0"
    assert outcome.open == 0
    assert len(outcome.batches) < 40  # it stopped because it was resolved
    for id, entry in archive.entries.items():
        assert entry.measured == 1 + sum(id in batch for batch in outcome.batches)
        assert entry.estimate.n == PROMPTS
    # the standard errors are those of the pooled measurements: smaller than any single one's
    assert archive.entries["p0"].estimate.stderr.max() < 0.3 / np.sqrt(PROMPTS)


def test_an_entry_and_its_rival_are_measured_in_one_batch_under_a_number_of_their_own() -> None:
    evaluator = Simulated(seed=1)
    archive = raced([(0.6, 0.6), (0.59, 0.6), (0.6, 0.59)], evaluator)
    pairs = open_verdicts(archive)
    outcome = race(archive, evaluator, budget_tokens=10**6, rounds=4)
    assert pairs[0][0] in outcome.batches[0]
    assert pairs[0][1] in outcome.batches[0]
    assert [count for count, _ in evaluator.calls] == [len(batch) for batch in outcome.batches]
    repeats = [repeat for _, repeat in evaluator.calls]
    assert len(set(repeats)) == len(repeats) == 4
    assert min(repeats) >= 1  # 0 was the first measurement
    race(archive, evaluator, budget_tokens=10**6, rounds=1)
    assert evaluator.calls[-1][1] not in repeats  # nor does a later race repeat a number


def test_the_budget_is_kept_and_goes_to_what_is_worth_most() -> None:
    means = [(0.5 + 0.01 * i, 0.8 - 0.01 * i) for i in range(8)]
    evaluator = Simulated(seed=2)
    archive = raced(means, evaluator)
    pairs = open_verdicts(archive)
    assert len(pairs) > 2
    outcome = race(archive, evaluator, budget_tokens=3 * PROMPTS, rounds=5)
    assert 0 < outcome.tokens <= 3 * PROMPTS
    assert set(pairs[0]) <= set(outcome.batches[0])
    assert outcome.open > 0
    assert race(archive, evaluator, budget_tokens=PROMPTS, rounds=5).batches == []  # a pair costs twice that
    assert race(archive, evaluator, budget_tokens=10**6, rounds=0).tokens == 0


def test_what_is_settled_or_cannot_matter_is_left_alone() -> None:
    sure = raced([(0.9, 0.1), (0.1, 0.9), (0.3, 0.05)], Simulated(noise=0.001))
    assert open_verdicts(sure) == []
    # equal to the last bit on the same prompts: measuring again would say the same
    twins = ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 1], resolution=2.0)
    estimate = Estimate.from_samples(np.random.default_rng(0).uniform(size=(PROMPTS, 2)), range(PROMPTS))
    for name in ("a", "b"):
        twins.offer(name, estimate, {}, torch.zeros(2))
    assert twins.entries["b"].status is Status.DUPLICATE
    assert open_verdicts(twins) == []


def test_entries_without_adapters_are_past_measuring() -> None:
    evaluator = Simulated(seed=1)
    archive = raced([(0.6, 0.6), (0.59, 0.6)], evaluator)
    assert open_verdicts(archive)
    for entry in archive.entries.values():
        entry.adapter = None
    assert race(archive, evaluator, budget_tokens=10**6, rounds=3).batches == []


def test_the_choice_that_a_common_preference_makes_is_raced() -> None:
    # told apart on the second axis for certain; which is best on the first alone is open
    noise = np.random.default_rng(0).normal(size=(PROMPTS, 2)) * [0.3, 0.001]
    archive = ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 1], resolution=2.0)
    for name, mean in (("a", (0.80, 0.2)), ("b", (0.81, 0.1)), ("c", (0.2, 0.9))):
        own = np.random.default_rng(ord(name)).normal(size=(PROMPTS, 1)) * [0.1, 0.0]
        own -= own.mean(axis=0)
        archive.offer(
            name, Estimate.from_samples(mean + noise - noise.mean(0) + own, range(PROMPTS)), {}, torch.zeros(2)
        )
    assert len(archive) == 3
    assert {frozenset(pair) for pair in open_verdicts(archive)} == {frozenset("ab")}


def test_stopping_as_soon_as_it_is_resolved_does_not_make_a_front_of_equals() -> None:
    several = 0
    for seed in range(40):
        evaluator = Simulated(seed=seed)
        archive = raced([(0.6, 0.6)] * 6, evaluator)
        for _ in range(8):  # as after every evaluation of a run
            race(archive, evaluator, budget_tokens=6 * PROMPTS, rounds=1)
        several += len(archive) > 1
    assert several <= 4  # at most 2.3 % an evaluation were spent at a single look; here over all of them together


@pytest.mark.parametrize("prompt_noise", [0.0, 2.0])
def test_measuring_again_takes_off_the_noise_of_sampling_only(prompt_noise: float) -> None:
    evaluator = Simulated(seed=3, prompt_noise=prompt_noise)
    archive = raced([(0.6, 0.6), (0.6, 0.6)], evaluator)
    before = archive.entries["p0"].estimate.stderr
    for _ in range(15):
        found = evaluator.measure(torch.full((2, 2), 0.6))
        archive.remeasure_all({f"p{i}": m.estimate for i, m in enumerate(found)})
    after = archive.entries["p0"].estimate.stderr
    if prompt_noise:
        np.testing.assert_allclose(after, evaluator.difficulty.std(axis=0, ddof=1) / np.sqrt(PROMPTS), rtol=0.1)
    else:
        np.testing.assert_allclose(after, before / 4, rtol=0.35)


def test_what_was_measured_once_is_worth_another_look() -> None:
    archive = ParetoArchive([0, 1], reference=[0, 0], scale_lower=[0, 0], scale_upper=[1, 1], resolution=2.0)
    for name, value in (("x", 0.5), ("y", 0.6)):
        adapter = torch.tensor([value, value], dtype=torch.float64)
        archive.offer(name, Estimate.from_samples([[value, value]], [0]), {}, adapter)
    assert archive.entries["x"].status is Status.CONTESTED
    assert open_verdicts(archive)[0] == ("x", "y")
