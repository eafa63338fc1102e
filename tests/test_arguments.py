"""Settings are checked as the constructor's annotations say, for every kind of plug-in and for a stranger's."""

from __future__ import annotations

import inspect
import math
from typing import Annotated, Literal

import numpy as np
import pytest

from pareto_align.arguments import (
    Count,
    KeepsArguments,
    Memory,
    NotNegative,
    Positive,
    Share,
    Whole,
    Within,
    arguments_of,
)
from pareto_align.discovery.explorers import available_explorers, make_explorer
from pareto_align.errors import ConfigError
from pareto_align.learning.credit import available_credits, make_credit
from pareto_align.policies.families import available_families, make_family
from pareto_align.weighting import available, make


class Base(KeepsArguments):
    kind, name = "Thing", "mine"


class Mine(Base):
    def __init__(
        self,
        *,
        plain: float = 0.0,
        whole: int = 0,
        truth: bool = False,
        rate: Positive = 0.1,
        least: NotNegative = 0.0,
        share: Share = 0.5,
        memory: Memory = 0.5,
        count: Count = 1,
        seed: Whole = 0,
        factor: Annotated[float, Within(above=1)] = 2.0,
        pace: Annotated[float, Within(above=0, most=1)] = 0.5,
        few: Annotated[int, Within(least=2, most=4)] = 2,
        rule: Literal["a", "b"] = "a",
        maybe: Positive | None = None,
        either: float | list[float] = 0.0,
        endless: float = math.inf,
        unknown: Nowhere = None,  # noqa: F821 - as a name that only a type checker imports
    ) -> None:
        self.rate = rate


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"plain": "a"}, "`plain` must be a number. Found 'a'"),
        ({"plain": math.nan}, "`plain` must be a number. Found nan"),
        ({"plain": math.inf}, "`plain` must be a number. Found inf"),
        ({"plain": 10**400}, "`plain` must be a number. Found 1"),
        ({"plain": True}, "`plain` must be a number. Found True"),
        ({"plain": None}, "`plain` must be a number. Found None"),
        ({"whole": 1.0}, "`whole` must be a whole number. Found 1.0"),
        ({"truth": 1}, "`truth` must be true or false. Found 1"),
        ({"truth": "no"}, "`truth` must be true or false. Found 'no'"),
        ({"rate": 0}, "`rate` must be a positive number. Found 0"),
        ({"least": -1e-9}, "`least` must be a number of at least 0"),
        ({"share": 1.1}, "`share` must be a number from 0 to 1"),
        ({"memory": 1}, "`memory` must be a number of at least 0 and below 1"),
        ({"count": 0}, "`count` must be a whole number of at least 1"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"factor": 1}, "`factor` must be a number above 1"),
        ({"pace": 0}, "`pace` must be a number above 0 and of at most 1"),
        ({"few": 5}, "`few` must be a whole number from 2 to 4"),
        ({"rule": "c"}, "`rule` must be one of a, b. Found 'c'"),
        ({"rule": ["a"]}, "`rule` must be one of a, b"),
        ({"maybe": 0}, "`maybe` must be a positive number. Found 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=f"^Thing 'mine': {said}".replace(".", r"\.")):
        Mine(**settings)


@pytest.mark.parametrize(
    "settings",
    [{}, {"plain": 3}, {"plain": np.float32(0.5)}, {"whole": np.int64(3)}, {"truth": np.True_}, {"maybe": None},
     {"maybe": 2}, {"either": "anything"}, {"endless": math.inf}, {"unknown": 7}, {"rule": "b"}],
)  # fmt: skip
def test_what_fits_or_cannot_be_told_is_taken(settings):
    Mine(**settings)


def test_it_is_checked_where_a_base_class_says_so():
    class Child(Mine):
        name = "child"

        def __init__(self, rate):  # nothing said here
            super().__init__(rate=rate)

    with pytest.raises(ConfigError, match=r"^Thing 'child': `rate`"):
        Child(-1)
    assert arguments_of(Child(2)) == {"rate": 2}


def test_what_python_itself_refuses_stays_pythons():
    with pytest.raises(TypeError, match="unexpected keyword"):
        Mine(rates=1)


KINDS = [(make, available), (make_explorer, available_explorers), (make_credit, available_credits),
         (make_family, available_families)]  # fmt: skip
SCALARS = [
    pytest.param(maker, name, setting.name, id=f"{name}-{setting.name}")
    for maker, names in KINDS
    for name in names()
    if name not in ("independent", "schedule")
    for setting in inspect.signature(type(maker(name)).__init__).parameters.values()
    if isinstance(setting.default, int | float) and "Sequence" not in str(setting.annotation)
]


@pytest.mark.parametrize(("maker", "name", "setting"), SCALARS)
@pytest.mark.parametrize("value", ["a", math.nan, [1.0], -5.5])
def test_every_number_and_truth_of_every_plug_in_is_checked(maker, name, setting, value):
    with pytest.raises(ConfigError, match=f"'{name}': `{setting}` must be"):
        maker({"name": name, setting: value})
