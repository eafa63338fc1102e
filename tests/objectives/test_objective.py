"""Objective and ObjectiveSet: what is accepted, how reward functions are called, and what becomes of their answers."""

from __future__ import annotations

import asyncio
import functools
import math
import pickle
import subprocess
import sys
import threading
import time
import warnings
from decimal import Decimal

import numpy as np
import pytest

from pareto_align.errors import ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import Objective, ObjectiveSet, brevity, conciseness, positive_tone

PROMPTS = ["p0", "p1", "p2"]
COMPLETIONS = ["a", "bb", "ccc"]


def lengths(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]


def returns(value):
    """A reward function that always returns `value`."""

    def reward(prompts, completions, **columns):
        return value

    return reward


def one(reward, **settings):
    return ObjectiveSet([Objective("quality", reward, **settings)])


def score(reward, columns=None, completion_ids=None, **settings):
    return one(reward, **settings).score(PROMPTS, COMPLETIONS, columns, completion_ids)[:, 0].tolist()


# --- definition --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "non-empty string"),
        ({"name": "  "}, "non-empty string"),
        ({"name": 3}, "Found 3"),
        ({"reward": "length"}, "must be a function"),
        ({"reward": None}, "must be a function"),
        ({"reward": brevity}, r"create one: brevity\(\)"),
        ({"reward": lambda text: 1.0}, "none of prompts, completions, completion_ids"),
        ({"maximize": "yes"}, "True or False"),
        ({"bounds": (1, 0)}, r"did you mean \(0, 1\)"),
        ({"bounds": (1, 1)}, "one value"),
        ({"bounds": (0, math.inf)}, "upper bound must be a finite number"),
        ({"bounds": (math.nan, 1)}, "lower bound must be a finite number"),
        ({"bounds": ("0", 1)}, "Found '0'"),
        ({"bounds": (False, True)}, "must be a finite number. Found False"),
        ({"role": "constrain", "at_least": True}, "at_least must be a finite number. Found True"),
        ({"role": "constrain", "at_most": np.True_}, "at_most must be a finite number. Found"),
        ({"bounds": 1}, "must be a pair"),
        ({"bounds": (0, 1, 2)}, "must be a pair"),
        ({"role": "maximise"}, "one of optimize, constrain, audit"),
        ({"role": "constrain"}, "needs a threshold"),
        ({"role": "constrain", "at_least": math.nan}, "at_least must be a finite number"),
        ({"role": "constrain", "at_least": 0.2, "at_most": 0.5}, "not both"),
        ({"role": "constrain", "at_least": 1.5, "bounds": (0, 1)}, "outside the bounds"),
        ({"role": "constrain", "at_most": -1, "bounds": (0, 1)}, "outside the bounds"),
        ({"role": "constrain", "at_least": 0.5, "maximize": False}, "contradicts at_least"),
        ({"at_least": 0.5}, "needs role='constrain'"),
        ({"role": "audit", "at_most": 0.5}, "needs role='constrain'"),
        ({"role": "constrain", "at_least": 0.5, "tolerance": -0.1}, "must not be negative"),
        ({"role": "constrain", "at_least": 0.5, "tolerance": math.inf}, "tolerance must be a finite number"),
        ({"tolerance": 0.1}, "tolerance needs role='constrain'"),
    ],
)
def test_a_wrong_definition_is_refused_and_says_why(settings, message):
    arguments = {"name": "quality", "reward": lengths, **settings}
    with pytest.raises(ObjectiveError, match=message):
        Objective(**arguments)


def test_settings_after_the_reward_are_keyword_only():
    with pytest.raises(TypeError):
        Objective("quality", lengths, False)


def test_a_set_refuses_nothing_to_optimize_twice_one_name_and_other_things():
    with pytest.raises(ObjectiveError, match="role 'optimize'"):
        ObjectiveSet([])
    with pytest.raises(ObjectiveError, match="role 'optimize'"):
        ObjectiveSet([Objective("watched", lengths, role="audit")])
    with pytest.raises(ObjectiveError, match="called 'quality'"):
        ObjectiveSet([Objective("quality", lengths), Objective("quality", returns([1]))])
    for names in (("a", "a_stderr"), ("a", "preference_a"), ("preference_a", "a_stderr")):
        with pytest.raises(ObjectiveError, match="Two columns of the front's table would be called"):
            ObjectiveSet([Objective(name, lengths) for name in names])
    assert ObjectiveSet([Objective("a", lengths, role="audit"), Objective("preference_a", lengths)]).M == 2
    with pytest.raises(ObjectiveError, match=r"wrap it as Objective\(name, reward_function\)"):
        ObjectiveSet([lengths])
    with pytest.raises(ObjectiveError, match="list of objectives"):
        ObjectiveSet(Objective("quality", lengths))


def test_a_set_knows_columns_axes_and_constraints_in_the_users_order():
    objectives = ObjectiveSet(
        [
            Objective("watched", lengths, role="audit"),
            Objective("tone", lengths, bounds=(0, 1)),
            Objective("length", lengths, role="constrain", at_most=60),
            Objective("cost", lengths, maximize=False, bounds=(0, 5)),
            Objective("safety", lengths, role="constrain", at_least=0.9),
        ]
    )
    assert objectives.names == ("watched", "tone", "length", "cost", "safety")
    assert (objectives.M, objectives.m, objectives.axes) == (5, 2, (1, 3))
    assert objectives.maximize.tolist() == [True, True, False, False, True]
    assert objectives.constraints == ((2, -60.0), (4, 0.9))
    assert [o.maximized_bounds for o in objectives] == [None, (0, 1), None, (-5, 0), None]
    assert len(objectives) == 5
    assert objectives[3].name == "cost"


# --- direction ---------------------------------------------------------------------------------


def test_minimized_objectives_are_negated_at_the_door_and_flipped_on_the_way_out():
    objectives = ObjectiveSet([Objective("more", lengths), Objective("less", lengths, maximize=False)])
    rewards = objectives.score(PROMPTS, COMPLETIONS)
    assert rewards.tolist() == [[1, -1], [2, -2], [3, -3]]
    assert objectives.to_user(rewards).tolist() == [[1, 1], [2, 2], [3, 3]]
    assert objectives.to_user(rewards[None].repeat(4, 0)).shape == (4, 3, 2)
    assert objectives.to_user([0.5, np.nan])[0] == 0.5
    assert math.copysign(1, objectives.to_user([0.0, 0.0])[1]) == 1, "no -0 in the user's units"
    with pytest.raises(ObjectiveError, match="2 columns"):
        objectives.to_user([1.0, 2.0, 3.0])


# --- what a reward function may return ---------------------------------------------------------


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3]),
        [True, np.float32(2), Decimal(3)],
        [np.array(1), 2, 3],
        range(1, 4),
    ],
)
def test_any_sequence_of_numbers_will_do(returned):
    assert score(returns(returned)) == [1.0, 2.0, 3.0]


def test_tensors_will_do():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16, requires_grad=True)
    assert score(returns(tensor)) == [1.0, 2.0, 3.0]
    assert score(returns(list(tensor))) == [1.0, 2.0, 3.0]


def test_none_means_does_not_apply_and_becomes_nan():
    assert score(returns([1.0, None, 3.0]))[::2] == [1.0, 3.0]
    assert math.isnan(score(returns([1.0, None, 3.0]), maximize=False)[1])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], "returned 2 rewards for 3 completions"),
        ([], "returned 0 rewards for 3 completions"),
        ([1.0, "2.0", 3.0], r"returned '2.0' \(a str\) for completion 1 of 3"),
        ([1.0, [2.0], 3.0], r"\(a list\) for completion 1"),
        ([1.0, np.array([2.0]), 3.0], r"\(a ndarray\) for completion 1"),
        (np.ones((3, 1)), r"\(a ndarray\) for completion 0"),
        ([1.0, 2j, 3.0], r"\(a complex\) for completion 1"),
        ([1.0, 2.0, math.inf], "returned inf for completion 2"),
        ([-math.inf, 2.0, 3.0], "returned -inf for completion 0"),
        ([10**400, 2.0, 3.0], "returned inf for completion 0"),
        ("abc", "returned a str"),
        ({0: 1.0, 1: 2.0, 2: 3.0}, "returned a dict"),
        (0.5, "returned a float"),
        (np.float64(0.5), "0.5"),
        (np.array(0.5), "single number"),
        (None, "returned None; expected a list of 3"),
        (lengths, "call it once when defining"),
    ],
)
def test_anything_else_is_an_error_that_names_the_objective(returned, message):
    with pytest.raises(ObjectiveError, match=message) as caught:
        score(returns(returned))
    assert "'quality'" in str(caught.value)


def test_an_exception_names_the_objective_and_keeps_its_cause():
    def broken(completions, **columns):
        raise KeyError("missing")

    with pytest.raises(ObjectiveError, match="Objective 'quality' raised KeyError: 'missing'") as caught:
        score(broken)
    assert isinstance(caught.value.__cause__, KeyError)


def test_interrupts_are_not_swallowed():
    def interrupted(completions, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(interrupted)


# --- how a reward function is called -----------------------------------------------------------


def test_columns_are_forwarded_by_name_and_the_replaced_ones_held_back():
    seen = {}

    def reward(**arguments):
        seen.update(arguments)
        return [0.0, 0.0, 0.0]

    columns = {"answer": ["x", "y", "z"], "level": (1, 2, 3), "prompt": PROMPTS, "completion": COMPLETIONS}
    one(reward).score(PROMPTS, COMPLETIONS, columns, [[1], [2], [3]], trainer_state="state")
    assert seen.pop("trainer_state") == "state"
    assert callable(seen.pop("log_extra"))
    assert callable(seen.pop("log_metric"))
    assert seen == {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "completion_ids": [[1], [2], [3]],
        "answer": ["x", "y", "z"],
        "level": [1, 2, 3],
    }


def test_a_function_without_kwargs_is_given_just_what_it_names():
    def reward(completions, answer, unused=None, *, level=0):
        assert unused is None
        return [float(completion == right) + n for completion, right, n in zip(completions, answer, level, strict=True)]

    columns = {"answer": ["a", "b", "ccc"], "level": [10, 20, 30], "other": [0, 0, 0]}
    assert score(reward, columns) == [11.0, 20.0, 31.0]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions, answer: [], r"needs the column 'answer'.*they have: 'solution'"),
        (lambda completions, answer, **kwargs: [], "needs the column 'answer'"),
        (lambda completion_ids: [], "needs completion_ids"),
        (lambda prompts, completions, /: [], "by position only"),
    ],
)
def test_what_a_function_requires_and_the_data_lacks_is_named(reward, message):
    with pytest.raises(ObjectiveError, match=message):
        score(reward, {"solution": ["1", "2", "3"]})


def test_callables_of_every_kind_serve():
    class Judge:
        def __call__(self, completions, **columns):
            return [0.5 for _ in completions]

        def judge(self, completions):
            return [0.25 for _ in completions]

    def shifted(completions, by):
        return [len(c) + by for c in completions]

    assert score(Judge()) == [0.5] * 3
    assert score(Judge().judge) == [0.25] * 3
    assert score(functools.partial(shifted, by=1)) == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["p"], COMPLETIONS), "1 prompts but 3 completions"),
        ((PROMPTS, COMPLETIONS, {"answer": ["x"]}), "'answer' has 1 entries for 3 completions"),
        ((PROMPTS, COMPLETIONS, {"prompts": PROMPTS}), "rename the column"),
        ((PROMPTS, COMPLETIONS, {"log_metric": PROMPTS}), "rename the column"),
        ((PROMPTS, COMPLETIONS, None, [[1]]), "1 lists of completion ids"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ObjectiveError, match=message):
        one(lengths).score(*arguments)


def test_an_empty_batch_calls_nobody():
    objectives = one(returns("not even looked at"))
    assert objectives.score([], []).shape == (0, 1)
    assert objectives.reward_calls == 0


def test_a_function_that_empties_its_lists_harms_nobody():
    def greedy(prompts, completions, **columns):
        count = len(completions)
        completions.clear()
        columns["answer"].clear()
        return [0.0] * count

    completions, answers = list(COMPLETIONS), ["x", "y", "z"]
    objectives = ObjectiveSet([Objective("greedy", greedy), Objective("length", lengths)])
    rewards = objectives.score(PROMPTS, completions, {"answer": answers})
    assert rewards[:, 1].tolist() == [1, 2, 3]
    assert completions == COMPLETIONS
    assert answers == ["x", "y", "z"]


def test_log_extra_and_log_metric_reach_the_caller():
    def reward(completions, log_extra, log_metric, **columns):
        log_extra("note", list(completions))
        log_metric("mean", 2.0)
        return [0.0] * len(completions)

    logged = []
    one(reward).score(
        PROMPTS, COMPLETIONS, log_extra=lambda *a: logged.append(a), log_metric=lambda *a: logged.append(a)
    )
    assert logged == [("note", COMPLETIONS), ("mean", 2.0)]
    assert score(reward) == [0.0] * 3, "without a logger, logging does nothing"


def test_calls_and_seconds_are_counted():
    def slow(completions, **columns):
        time.sleep(0.02)
        return [0.0] * len(completions)

    objectives = ObjectiveSet([Objective("slow", slow), Objective("length", lengths)])
    objectives.score(PROMPTS, COMPLETIONS)
    objectives.score(PROMPTS, COMPLETIONS)
    assert objectives.reward_calls == 12
    assert 0.04 <= objectives.reward_seconds < 5


# --- async -------------------------------------------------------------------------------------


def meeting(parties):
    """Async rewards that only return once all of them, and a sync one, are under way: they must overlap."""
    started = threading.Barrier(parties, timeout=10)

    async def reward(completions, **columns):
        await asyncio.get_running_loop().run_in_executor(None, started.wait)
        return [1.0] * len(completions)

    def sync(completions, **columns):
        started.wait()
        return [2.0] * len(completions)

    return reward, sync


def test_async_rewards_run_at_once_and_beside_the_sync_ones():
    reward, sync = meeting(4)

    class Judge:
        async def __call__(self, completions, **columns):
            return await reward(completions)

    objectives = ObjectiveSet(
        [
            Objective("sync", sync),
            Objective("function", reward),
            Objective("object", Judge()),
            Objective("partial", functools.partial(reward, unused=1)),
        ]
    )
    assert objectives.score(PROMPTS, COMPLETIONS).tolist() == [[2.0, 1.0, 1.0, 1.0]] * 3


def test_a_plain_function_may_hand_on_a_coroutine():
    async def ask(completions):
        await asyncio.sleep(0)
        return [float(len(c)) for c in completions]

    assert score(lambda completions: ask(completions)) == [1.0, 2.0, 3.0]


def test_async_rewards_work_where_a_loop_is_running_already():
    async def reward(completions, **columns):
        await asyncio.sleep(0.001)
        return [1.0] * len(completions)

    async def notebook_cell():
        return score(reward)

    assert asyncio.run(notebook_cell()) == [1.0] * 3


def test_async_rewards_keep_one_loop_from_call_to_call():
    loops = []

    async def reward(completions, **columns):
        loops.append(asyncio.get_running_loop())
        return [1.0] * len(completions)

    score(reward)
    score(reward)
    assert loops[0] is loops[1]


def test_an_async_failure_names_its_objective_and_stops_the_others():
    stopped = threading.Event()

    async def endless(completions, **columns):
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    async def failing(completions, **columns):
        await asyncio.sleep(0.01)
        raise ConnectionError("judge is down")

    objectives = ObjectiveSet([Objective("endless", endless), Objective("failing", failing)])
    with pytest.raises(ObjectiveError, match="'failing' raised ConnectionError: judge is down") as caught:
        objectives.score(PROMPTS, COMPLETIONS)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert stopped.wait(5)


def test_sync_rewards_run_in_the_calling_thread():
    threads = []

    def reward(completions, **columns):
        threads.append(threading.current_thread())
        return [1.0] * len(completions)

    score(reward)
    assert threads == [threading.current_thread()]


# --- check and bounds --------------------------------------------------------------------------


def test_check_returns_the_rewards_and_is_quiet_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(lengths).check(PROMPTS, COMPLETIONS)[:, 0].tolist() == [1, 2, 3]


def test_check_refuses_an_objective_that_never_applies():
    with pytest.raises(ObjectiveError, match="'quality' returned None for all 3 completions"):
        one(returns([None, None, None])).check(PROMPTS, COMPLETIONS)
    with pytest.raises(ObjectiveError, match="no completions to check"):
        one(lengths).check([], [])


def test_check_warns_of_a_constant_objective_in_the_users_units():
    with pytest.warns(ParetoAlignWarning, match="'quality' is 0.5 for all 2 completions.*cannot be traded"):
        one(returns([0.5, None, 0.5]), maximize=False).check(PROMPTS, COMPLETIONS)


def test_check_lets_a_constant_audit_pass():
    objectives = ObjectiveSet([Objective("length", lengths), Objective("flag", returns([0, 0, 0]), role="audit")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objectives.check(PROMPTS, COMPLETIONS)


def test_rewards_outside_the_bounds_are_warned_of_once_and_not_clipped():
    objectives = one(lengths, bounds=(0, 2))
    with pytest.warns(ParetoAlignWarning, match=r"'quality' returned 3, outside its bounds \(0, 2\)"):
        assert objectives.score(PROMPTS, COMPLETIONS)[:, 0].tolist() == [1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objectives.score(PROMPTS, COMPLETIONS)
        one(returns([1.00000001, 0.0, None]), bounds=(0, 1)).score(PROMPTS, COMPLETIONS)


# --- rewards with a memory ---------------------------------------------------------------------


def test_measuring_does_not_move_a_reward_with_a_memory():
    reward = conciseness(memory=None)
    objectives = one(reward)
    ids = [[0] * 2, [0] * 4, [0] * 6]
    assert objectives.score(PROMPTS, COMPLETIONS, completion_ids=ids)[:, 0].tolist() == [1, 0, 0]
    longer = [[0] * 3, [0] * 5, [0] * 100]
    assert objectives.score(PROMPTS, COMPLETIONS, completion_ids=longer, training=False)[:, 0].tolist() == [1, 0, 0]
    objectives.check(PROMPTS, COMPLETIONS, completion_ids=longer)
    assert (reward.mean, reward.seen, reward.learning) == (4.0, 3, True)


def test_a_memory_is_part_of_the_state_and_comes_back():
    trained, fresh = conciseness(), conciseness()
    before = one(trained)
    before.score(PROMPTS, COMPLETIONS, completion_ids=[[0]] * 3)
    after = one(fresh)
    after.load_state_dict(before.state_dict())
    assert (fresh.mean, fresh.seen) == (1.0, 3)
    with pytest.raises(ObjectiveError, match=r"\['other'\]"):
        after.load_state_dict({"other": {}})
    assert one(lengths).state_dict() == {}


def test_a_module_used_as_a_reward_keeps_its_mode():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def forward(self, completions, **columns):
            return [float(self.training)] * len(completions)

    assert score(Model().eval()) == [0.0] * 3


# --- the package -------------------------------------------------------------------------------


def test_objectives_travel_to_other_processes():
    objective = Objective("tone", positive_tone(clip_negative=True), bounds=(0, 1))
    assert pickle.loads(pickle.dumps(objective)) == objective


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, pareto_align.objectives;"
        "print([m for m in ('torch', 'transformers', 'trl', 'textstat', 'vaderSentiment', 'nltk') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_tolerance_moves_what_is_admitted_not_what_is_aimed_at():
    objectives = ObjectiveSet(
        [
            Objective("quality", lengths),
            Objective("right", lengths, role="constrain", at_least=0.5, tolerance=0.1),
            Objective("cost", lengths, role="constrain", at_most=3, tolerance=0.5),
            Objective("safe", lengths, role="constrain", at_least=0.9),
        ]
    )
    assert objectives.constraints == ((1, 0.5), (2, -3.0), (3, 0.9))
    assert objectives.admitted == ((1, 0.4), (2, -3.5), (3, 0.9))


# ------------------------------------------------------------------------------------------------ labels


def test_labels_may_stand_in_for_a_reward():
    labelled = Objective("safe", prefers="safer_response_id")
    assert (labelled.reward, labelled.prefers) == (None, "safer_response_id")
    both = Objective("safe", lengths, prefers="safer_response_id", maximize=False)
    assert both.reward is lengths
    assert ObjectiveSet([labelled, Objective("length", lengths)]).names == ("safe", "length")


def test_neither_reward_nor_labels_is_refused():
    with pytest.raises(ObjectiveError, match=r"must be a function .* or `prefers` must name the column.*Found neither"):
        Objective("safe")
    for prefers in ("", 3):
        with pytest.raises(ObjectiveError, match="prefers must be the name of a column"):
            Objective("safe", lengths, prefers=prefers)


def test_an_objective_of_labels_judges_no_answer():
    with pytest.raises(ObjectiveError, match=r"'safe' has no reward function.*labels only \(prefers='safer'\)"):
        ObjectiveSet([Objective("safe", prefers="safer")]).score(["p"], ["a"])
