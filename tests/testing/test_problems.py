"""Each problem separates what it says it separates, and its objectives are its table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from pareto_align.errors import ConfigError
from pareto_align.objectives import ObjectiveSet
from pareto_align.testing import exact
from pareto_align.testing.problems import PROBLEMS, KnownFrontProblem, get_problem

SHAPES = {
    "arc": (32, 1, 1, 2),
    "flat": (16, 1, 1, 2),
    "dent": (16, 1, 1, 2),
    "scales": (32, 1, 1, 2),
    "contexts": (8, 2, 4, 2),
    "strings": (6, 4, 2, 3),
    "many": (24, 1, 1, 5),
    "noisy": (32, 1, 1, 2),
    "misleading": (24, 1, 1, 3),
    "hacked": (16, 1, 1, 2),
    "groups": (16, 1, 1, 2),
    "tilt": (24, 1, 1, 2),
    "bow": (30, 1, 1, 2),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_family_is_as_designed(name):
    problem = get_problem(name)
    assert (problem.V, problem.T, len(problem.prompts), problem.m) == SHAPES[name]
    assert problem.name == name
    assert problem.description
    assert (problem.reference <= problem.rewards.min(axis=(0, 1))).all()
    assert len({*problem.strings()}) == problem.V**problem.T
    for i, bounds in enumerate(problem.bounds):
        if bounds is not None:
            assert bounds[0] <= problem.rewards[..., i].min()
            assert problem.rewards[..., i].max() <= bounds[1]


@pytest.mark.parametrize("name", [n for n in PROBLEMS if n != "noisy"])
def test_objectives_score_exactly_the_table(name):
    problem = get_problem(name)
    objectives = ObjectiveSet(problem.objectives())
    strings = problem.strings()
    for prompt, rows in zip(problem.prompts, problem.rewards, strict=True):
        scores = objectives.score([prompt] * len(strings), strings)
        assert scores[:, : problem.m] == pytest.approx(rows)
    assert objectives.m == problem.m
    assert tuple(objectives.names) == (*problem.names, *problem.audits)


def test_a_new_problem_in_five_lines():
    table = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])
    problem = KnownFrontProblem("mine", V=3, T=1, rewards=table[None])
    model, tokenizer, objectives = problem.model(), problem.tokenizer(), problem.objectives()
    reference = exact.policy_table(problem, model)
    assert reference.shape == (1, 3)
    assert tokenizer.decode([0, 1, 2]) == "abc"
    assert [o.reward(prompts=["<0>"], completions=["c"]) for o in objectives] == [[0.7], [0.7]]
    assert problem.names == ("r1", "r2")
    assert problem.reference == pytest.approx([0.0, 0.0])


def test_a_problem_from_a_function_sees_strings_in_table_order():
    problem = KnownFrontProblem.from_function(
        "digits", lambda prompt, s: (100 * prompt + 10 * s[0] + s[1], 0.0), V=3, T=2, n_prompts=2
    )
    assert problem.strings()[:4] == ["aa", "ab", "ac", "ba"]
    assert problem.rewards[1, :4, 0] == pytest.approx([100, 101, 102, 110])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"V": 4, "T": 7}, "V\\*\\*T"),
        ({"V": 1}, "V >= 2"),
        ({"rewards": np.zeros((1, 5, 2))}, r"\(n_prompts, 3, m\).*\(1, 5, 2\)"),
        ({"rewards": np.full((1, 3, 2), np.nan)}, "finite"),
        ({"reference": np.zeros(3)}, "`reference`"),
        ({"names": ("one",)}, "`names`"),
        ({"bounds": (None,)}, "`bounds`"),
        ({"audits": {"gold": np.zeros(3)}}, "'gold'"),
    ],
)
def test_a_wrong_table_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        KnownFrontProblem(**{"name": "x", "V": 3, "T": 1, "rewards": np.zeros((1, 3, 2)), **fields})


def test_overrides_reach_the_function_or_the_problem():
    assert get_problem("arc", V=5).rewards.shape == (1, 5, 2)
    assert get_problem("contexts", n_prompts=2, m=3, seed=1).rewards.shape == (2, 64, 3)
    assert get_problem("arc", bounds=(None, None), hidden_size=32).bounds == (None, None)
    assert get_problem("noisy", noise=0.1).noise == 0.1
    with pytest.raises(ConfigError, match="Did you mean 'contexts'"):
        get_problem("context")
    with pytest.raises(ConfigError, match="no parameter 'colour'"):
        get_problem("arc", colour=1)
    with pytest.raises(ConfigError, match="no parameter 'T'"):
        get_problem("arc", T=2)
    with pytest.raises(ConfigError, match="at least V=15"):
        get_problem("many", V=10)


def test_a_foreign_prompt_or_completion_is_named():
    reward = get_problem("strings").objectives()[0].reward
    with pytest.raises(ValueError, match="no prompt '<7>'"):
        reward(prompts=["<7>"], completions=["aaaa"])
    with pytest.raises(ValueError, match=r"found 'aaa'.*max_new_tokens=4"):
        reward(prompts=["<0>"], completions=["aaa"])
    with pytest.raises(ValueError, match="found 'aaaz'"):
        reward(prompts=["<0>"], completions=["aaaz"])


def test_repeated_prompts_go_round():
    assert get_problem("strings").repeated_prompts(5) == ["<0>", "<1>", "<0>", "<1>", "<0>"]


# ---------------------------------------------------------------------------------- what each one separates


def test_flat_and_dent_linear_weights_end_in_a_corner():
    for name in ("flat", "dent"):
        table = get_problem(name).rewards[0]
        for w in np.linspace(0.0, 1.0, 20):  # 0.5 itself is a tie of the two corners
            assert table[np.argmax(table @ [w, 1 - w])].max() == pytest.approx(1.0)
        others = table[table.max(axis=1) < 1.0]
        assert (others.sum(axis=1) < 1.0).all()  # some mixture of the corners is better in both


def test_contexts_need_a_different_answer_for_each_prompt():
    problem = get_problem("contexts")
    for w in ([0.5, 0.5], [0.9, 0.1]):
        utility = problem.rewards @ w
        untrained, best, one_for_all = utility.mean(), utility.max(axis=1).mean(), utility.mean(axis=0).max()
        assert len(set(utility.argmax(axis=1).tolist())) == 4
        assert one_for_all - untrained < 0.65 * (best - untrained)


def test_strings_count_over_the_whole_string():
    problem = get_problem("strings")
    index = {text: i for i, text in enumerate(problem.strings())}
    assert problem.rewards[0, index["abca"]] == pytest.approx([0.5, 0.75, 0.25])
    assert problem.rewards[1, index["baaa"]] == pytest.approx([0.75, 0.5, 0.75])
    assert problem.rewards[1, index["bbbb"]] == pytest.approx([0.0, 0.25, 1.0])


def test_many_pairs_beat_mixed_corners():
    table = get_problem("many").rewards[0]
    assert table[:5] == pytest.approx(np.eye(5))
    for symbol in table[5:15]:
        w = symbol / symbol.sum()
        assert symbol @ w == pytest.approx((table @ w).max())
        assert symbol @ w > (table[:5] @ w).max()
    assert all((table[:15].sum(axis=1) > row.sum() * 0.6).all() for row in table[15:])
    assert (table[15:] < 0.3).all()


def test_noise_is_new_in_each_call_and_centred_on_the_table():
    problem = get_problem("noisy")
    objectives = ObjectiveSet(problem.objectives(seed=3))
    prompts, completions = ["<0>"] * 4000, ["q"] * 4000
    first, second = objectives.score(prompts, completions), objectives.score(prompts, completions)
    truth = problem.rewards[0, problem.strings().index("q")]
    assert np.abs(first.mean(axis=0) - truth).max() < 5 * 0.3 / 4000**0.5
    assert first.std(axis=0) == pytest.approx([0.3, 0.3], rel=0.06)
    assert np.abs(np.corrcoef(first.T)[0, 1]) < 0.06
    assert not np.allclose(first, second)
    again = ObjectiveSet(problem.objectives(seed=3)).score(prompts, completions)
    assert np.array_equal(first, again)


def test_hacked_sum_overshoots_and_equality_at_the_proxy_points_does_not():
    problem = get_problem("hacked")
    table, gold = problem.rewards[0], problem.audits["gold"][0]
    targets = np.array(problem.targets)
    reference = np.full(16, 1 / 16)

    # The equality constrained policy nearest to the reference tilts it: minimise the dual over two multipliers.
    def dual(multipliers):
        return np.log(reference @ np.exp((table - targets) @ multipliers))

    tilt = reference * np.exp((table - targets) @ minimize(dual, np.zeros(2), tol=1e-12).x)
    constrained = tilt / tilt.sum()
    summed = exact.optimal_policy(reference[None], problem.rewards, [0.5, 0.5], 0.02)[0]
    assert constrained @ table == pytest.approx(targets, abs=1e-4)

    def gold_of_means(policy):
        return -((policy @ table - targets) ** 2).sum()

    assert gold_of_means(constrained) > gold_of_means(reference) > gold_of_means(summed)
    assert summed @ gold < reference @ gold - 0.3  # summing is worse than no training at all
    assert constrained @ gold > summed @ gold + 0.3
    assert gold.argmax() == 10
    assert (reference @ table < targets).all()  # training starts below both proxy points


def test_groups_the_mean_forgets_the_minority_and_maxmin_does_not():
    problem = get_problem("groups")
    table = problem.rewards[0]
    assert problem.group_shares == pytest.approx((10 / 11, 1 / 11))
    chosen = table[np.argmax(table @ problem.group_shares)]
    assert chosen[1] < 0.1 < 0.9 < chosen[0]
    # MaxMin as a linear programme over policies: maximise t with every group's E[r] >= t.
    size = len(table)
    answer = linprog(
        np.r_[np.zeros(size), -1.0],
        A_ub=np.c_[-table.T, np.ones(2)],
        b_ub=np.zeros(2),
        A_eq=[np.r_[np.ones(size), 0.0]],
        b_eq=[1.0],
    )
    shared = int(np.argmax(table.min(axis=1)))
    assert table[shared] == pytest.approx([0.7, 0.7])
    assert answer.x[shared] == pytest.approx(1.0)


@pytest.mark.parametrize("m", [2, 3])
def test_tilt_is_a_straight_front_that_only_a_trade_keeps_clear_of_poor_symbols(m):
    problem = get_problem("tilt", m=m)
    table = problem.rewards[0]
    good, poor = table[:m], table[m:]
    if m == 2:
        assert good.tolist() == [[0.9, 0.2], [0.2, 0.7]]
    assert len(poor) == 24 - m
    assert (poor <= 0.3).all()
    # In closed form: the front is what the good symbols' mixtures are, all on one plane, and no poor symbol is near it.
    normal = np.linalg.solve(good, np.ones(m))
    assert (normal > 0).all()
    assert exact.convex_front(problem.rewards) @ normal == pytest.approx(1.0)
    assert (poor @ normal).max() < 0.75
    for i in range(m):  # one objective alone: several poor symbols before the other good ones
        assert (poor[:, i] > 0.2).sum() >= 3
    level = normal / normal.sum()  # the front's own normal: none
    assert (poor @ level).max() < (good @ level).min()


def test_bow_is_the_same_beside_a_round_front():
    problem, tilt = get_problem("bow"), get_problem("tilt")
    good, poor = problem.rewards[0, :8], problem.rewards[0, 8:]
    assert poor == pytest.approx(tilt.rewards[0, 2:])
    assert good[[0, -1]] == pytest.approx(tilt.rewards[0, :2])
    for angle, symbol in zip(np.linspace(0, np.pi / 2, 8), good, strict=True):  # each is best for its own normal
        assert (problem.rewards[0] @ [np.cos(angle) / 0.7, np.sin(angle) / 0.5]).argmax() == (good == symbol).all(
            axis=1
        ).argmax()
    front = exact.convex_front(problem.rewards)
    assert front[:, 0].max() == pytest.approx(0.9)
    assert ((((front - 0.2) / [0.7, 0.5]) ** 2).sum(axis=1) <= 1 + 1e-9).all()
    with pytest.raises(ConfigError, match="at least V=8"):
        get_problem("bow", V=7)
