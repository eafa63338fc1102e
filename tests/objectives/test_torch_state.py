"""A reward that leaves torch's global state changed does not change what comes after it."""

from __future__ import annotations

import warnings

import pytest
import torch

from pareto_align.errors import ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.objectives.torch_state import put_back, read

modes = []


def enter_inference_mode():
    modes.append(torch.inference_mode())  # one that is collected as garbage takes itself back
    modes[-1].__enter__()


CHANGES = {
    "gradients": lambda: torch.set_grad_enabled(False),
    "inference mode": enter_inference_mode,
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "autocast": lambda: torch.autocast("cpu").__enter__(),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "deterministic cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "the number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.fixture(autouse=True)
def restored():
    before = read()
    yield
    put_back(before)


def judge(change, kind):
    def sync(completions, **columns):
        change()
        return [1.0] * len(completions)

    async def asynchronous(completions, **columns):
        return sync(completions)

    return asynchronous if kind == "async" else sync


@pytest.mark.parametrize("setting", CHANGES)
def test_what_a_reward_leaves_changed_is_put_back_and_told_once(setting):
    before, seen = read(), []

    def looks(completions, **columns):
        seen.append(read())
        return [0.0] * len(completions)

    objectives = ObjectiveSet([Objective("vandal", judge(CHANGES[setting], "sync")), Objective("looks", looks)])
    with pytest.warns(ParetoAlignWarning, match=f"'vandal' left torch's state changed: {setting}") as told:
        scored = [(objectives.score(["p"], ["c"]), read()) for _ in range(3)]
    assert [after for _, after in scored] == [before] * 3
    assert seen == [before] * 3  # neither does the next reward see it
    assert len(told) == 1
    product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
    assert (product.dtype, product.device.type, product.requires_grad) == (torch.float32, "cpu", True)
    assert not product.is_inference()


@pytest.mark.parametrize("kind", ["async", "with a time limit"])
def test_what_all_threads_share_is_put_back_after_the_others_too(kind):
    limit = None if kind == "async" else 60
    objectives = ObjectiveSet([Objective("vandal", judge(CHANGES["the default dtype"], kind), timeout_s=limit)])
    with pytest.warns(ParetoAlignWarning, match="the default dtype was torch.float32, is torch.float64"):
        objectives.score(["p"], ["c"])
    assert torch.get_default_dtype() == torch.float32


def test_one_that_fails_leaves_nothing_either():
    def fails():
        torch.set_default_dtype(torch.float64)
        raise TypeError

    with pytest.raises(ObjectiveError):
        ObjectiveSet([Objective("vandal", judge(fails, "sync"))]).score(["p"], ["c"])
    assert torch.get_default_dtype() == torch.float32


def test_what_the_caller_has_set_stays():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    objectives = ObjectiveSet([Objective("good", judge(torch.manual_seed(0).get_state, "sync"))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objectives.score(["p"], ["c"])
    assert torch.get_default_dtype() == torch.float64
    assert not torch.is_grad_enabled()


def test_random_numbers_of_a_reward_go_on():
    drawn = []
    objectives = ObjectiveSet([Objective("noise", judge(lambda: drawn.append(torch.rand(1).item()), "sync"))])
    for _ in range(2):
        objectives.score(["p"], ["c"])
    assert drawn[0] != drawn[1]
