"""What every reward must do, as tests that its author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.objective import RewardContract


    class TestMyReward(RewardContract):
        def make(self):
            return my_reward
    ```
    pytest then collects every check below for `my_reward`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pareto_align.objectives import Objective, ObjectiveSet

__all__ = ["RewardContract"]

ANSWERS = (
    "It was a lovely day, and I am glad.",
    "No.",
    "",
    "I hate the rain. I hate it so much that I could cry all day long, every day of the week.",
    "42",
    "<reasoning>6 times 7</reasoning><answer>42</answer>",
    "  spaces  and\nlines\n",
    "日本語と émojis 🙂",
)


class RewardContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        answers: What is judged; one that needs a special form gives its own.
        columns: Further columns of the prompts that it reads, as long as the answers.
        deterministic: It says the same of the same answer.
        alone: What it says of an answer does not depend on what else it judges in the same call.
    """

    answers: Sequence[str] = ANSWERS
    columns: Mapping[str, Sequence[Any]] = {}
    deterministic: bool = True
    alone: bool = True

    def make(self) -> Callable[..., Any]:
        """A new reward function."""
        raise NotImplementedError

    def judged(self, reward: Callable[..., Any], answers: Sequence[Any], columns: Mapping[str, Sequence[Any]]) -> Any:
        """Scores `[n]` of answers, as a run asks for them: through an `Objective`."""
        objectives = ObjectiveSet([Objective("reward", reward)])
        prompts: list[Any] = ["How was your day?"] * len(answers)
        if answers and not isinstance(answers[0], str):
            prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        ids = [[1, 2, 3]] * len(answers)
        return objectives.score(prompts, list(answers), columns, completion_ids=ids)[:, 0]

    def test_every_answer_gets_one_number_or_none(self) -> None:
        """Also an empty one, and one in letters that it does not know."""
        found = self.judged(self.make(), self.answers, self.columns)
        assert found.shape == (len(self.answers),)
        assert not np.isinf(found).any()

    def test_chat_messages_are_judged_as_their_text(self) -> None:
        """A chat prompt's answer comes as messages, as in TRL."""
        messages = [[{"role": "assistant", "content": answer}] for answer in self.answers]
        plain, chat = (self.judged(self.make(), given, self.columns) for given in (self.answers, messages))
        np.testing.assert_allclose(chat, plain, rtol=1e-6, atol=1e-9)

    def test_the_same_answer_gets_the_same_number(self) -> None:
        """In another call, and whatever else is judged with it."""
        if not self.deterministic:
            return
        reward = self.make()
        first = self.judged(reward, self.answers, self.columns)
        np.testing.assert_array_equal(self.judged(reward, self.answers, self.columns), first)
        if self.alone:
            for n, answer in enumerate(self.answers):
                own = {name: [column[n]] for name, column in self.columns.items()}
                np.testing.assert_allclose(self.judged(reward, [answer], own), first[n : n + 1], rtol=1e-5, atol=1e-7)

    def test_the_order_of_the_answers_does_not_matter(self) -> None:
        """Every answer keeps its number."""
        if not self.deterministic:
            return
        order = list(range(len(self.answers)))[::-1]
        reward = self.make()
        first = self.judged(reward, self.answers, self.columns)
        turned = {name: [column[n] for n in order] for name, column in self.columns.items()}
        found = self.judged(reward, [self.answers[n] for n in order], turned)
        np.testing.assert_allclose(found, first[order], rtol=1e-5, atol=1e-7)

    def test_columns_that_it_does_not_know_do_not_disturb_it(self) -> None:
        """Other rewards of the same run may need them."""
        more = {**self.columns, "some_other_rewards_column": list(range(len(self.answers)))}
        found = self.judged(self.make(), self.answers, more)
        if self.deterministic:
            np.testing.assert_array_equal(found, self.judged(self.make(), self.answers, self.columns))

    def test_what_it_is_given_is_left_alone(self) -> None:
        """Answers and columns are as before."""
        answers, columns = list(self.answers), {name: list(column) for name, column in self.columns.items()}
        before = copy.deepcopy((answers, columns))
        self.make()(
            prompts=["How was your day?"] * len(answers),
            completions=answers,
            completion_ids=[[1, 2, 3]] * len(answers),
            **columns,
        )
        assert (answers, columns) == before
