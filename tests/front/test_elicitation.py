"""Questions find a user's member: gold values, regret against random questions, calibration, users who slip."""

from __future__ import annotations

import numpy as np
import pytest
from amount import ALL

from pareto_align.errors import ConfigError
from pareto_align.front.elicitation import Users, utilities_of
from pareto_align.testing.users import interviewed

USERS = 300 if ALL else 200


def front(n, m, rng):
    """Members [n, m] on a sphere."""
    values = np.abs(rng.normal(size=(n, m)))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def frame(values):
    m = values.shape[1]
    return {"lower": np.zeros(m), "upper": np.ones(m), "ideal": values.max(0), "span": np.ptp(values, axis=0)}


@pytest.mark.parametrize(("m", "n"), [(3, 16), (5, 24)])
def test_six_questions_leave_at_most_two_fifths_of_what_random_ones_leave(m, n):
    kinds = [("linear", "chebyshev")[user % 2] for user in range(100)]
    asked = np.array([interviewed(kind, m, n, user)[-1] for user, kind in enumerate(kinds)])
    random = np.array([interviewed(kind, m, n, user, by="chance")[-1] for user, kind in enumerate(kinds)])
    assert asked[:, 0].mean() <= 0.4 * random[:, 0].mean()
    assert asked[:, 1].mean() >= asked[:, 0].mean()  # what is stated is not too good


def test_a_user_who_slips_in_a_fifth_of_his_answers_is_still_served():
    """Of the first 100 users .066 is left, of 200 .057, of 300 .056 (standard errors .011, .007, .005)."""
    asked = {"questions": 12, "slips": 0.2, "repeat": True, "lapse": 0.2}
    regret = [interviewed(("linear", "chebyshev")[user % 2], 3, 16, user, **asked)[-1, 0] for user in range(USERS)]
    assert np.mean(regret) <= 0.06


def test_utilities_by_hand():
    values = np.array([[[1.0, 0.0], [0.6, 0.5], [0.0, 1.0]]])
    weights = np.array([[0.75, 0.25]])
    linear = utilities_of("linear", values, weights, **frame(values[0]))
    np.testing.assert_allclose(linear, [[1.0, (0.575 - 0.25) / 0.5, 0.0]])
    chebyshev = utilities_of("chebyshev", values, weights, **frame(values[0]))
    # shortfalls weighted: (0, .25), (.3, .125), (.75, 0); the worst and 1 % of the sum
    raw = -np.array([0.2525, 0.30425, 0.7575])
    np.testing.assert_allclose(chebyshev[0], (raw - raw[2]) / (raw[0] - raw[2]))
    assert (utilities_of("linear", np.ones((1, 2, 2)), weights, **frame(values[0])) == 0).all()


def test_an_answer_is_bayes_rule_over_the_particles():
    users = Users([[1.0, 0.0], [0.0, 1.0]], lower=[0, 0], upper=[1, 1], particles=500, lapse=0.2, utilities=["linear"])
    before, utility = users.probabilities.copy(), users.utility.copy()
    ahead = (utility[:, 0] - utility[:, 1]) / 0.1
    users._renew = lambda likely: None  # the particles themselves, not others near them
    users.answer(0, 1, "first")
    posterior = before * (0.8 / (1 + np.exp(-ahead)) + 0.1)
    np.testing.assert_allclose(users.probabilities, posterior / posterior.sum(), rtol=1e-9)
    assert users.preference[0][0] > 0.6
    np.testing.assert_allclose(users.expected, users.probabilities @ utility)
    assert users.regret() == pytest.approx(1 - users.expected.max())
    assert users.probability_best.sum() == pytest.approx(1)


def test_the_question_is_the_one_whose_better_answer_is_worth_most():
    rng = np.random.default_rng(3)
    values = front(9, 3, rng)
    users = Users(values, lower=[0, 0, 0], upper=[1, 1, 1], particles=300, seed=1)
    users.answer(0, 4, "second")
    askable = np.triu(rng.random((9, 9)) < 0.7, 1)
    worth = {
        (i, j): float(users.probabilities @ np.maximum(users.utility[:, i], users.utility[:, j]))
        for i, j in np.argwhere(askable)
    }
    assert users.ask(askable) == max(worth, key=worth.__getitem__)
    assert users.ask(np.zeros((9, 9), dtype=bool)) is None


@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_question_is_worth_its_answer_now_and_what_it_tells_of_the_best_for_later(left):
    values = front(7, 3, np.random.default_rng(5))
    users = Users(values, lower=[0, 0, 0], upper=[1, 1, 1], particles=400, seed=2, lapse=0.2)
    users.answer(1, 6, "first")
    likely, best = users.probabilities, users.utility.argmax(axis=1)
    first, second = np.triu_indices(7, 1)
    by_hand = []
    for i, j in zip(first, second, strict=True):
        said = 0.8 / (1 + np.exp(-(users.utility[:, i] - users.utility[:, j]) / 0.1)) + 0.1
        now = ((likely * said) @ users.utility).max() + ((likely * (1 - said)) @ users.utility).max()
        told = 0.0  # the divergence of what he says and who is his best from independence
        for says in (said, 1 - said):
            for k in range(7):
                joint = (likely * says)[best == k].sum()
                if joint > 0:
                    told += joint * np.log(joint / (likely[best == k].sum() * (likely @ says)))
        assert told > -1e-12
        by_hand.append(now + 0.3 * left * users.regret() * told)
    np.testing.assert_allclose(users.worth(first, second, left), by_hand, atol=2e-6)
    askable = np.ones((7, 7), dtype=bool)
    if left:
        assert users.ask(askable, left) == (first[np.argmax(by_hand)], second[np.argmax(by_hand)])


def test_what_tells_nothing_is_worth_nothing_more_however_much_is_left():
    users = Users([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], lower=[0, 0], upper=[1, 1])
    alike, different = np.array([0]), np.array([2])
    none = users.worth(alike, np.array([1]), 0)
    np.testing.assert_allclose(users.worth(alike, np.array([1]), 9), none, atol=1e-6)
    assert users.worth(alike, different, 9) > users.worth(alike, different, 1) > users.worth(alike, different)


def test_same_moves_two_alike_members_together_and_favours_nobody():
    users = Users([[1.0, 0.0], [0.0, 1.0]], lower=[0, 0], upper=[1, 1], utilities=["linear"])
    users.answer(0, 1, "same")
    np.testing.assert_allclose(users.preference[0], [0.5, 0.5], atol=0.02)
    assert users.preference[1][0] < 1 / np.sqrt(12)  # nearer to equal weights than the uniform it began with


def test_many_members_are_asked_about_among_the_likely_ones():
    values = front(60, 2, np.random.default_rng(0))
    users = Users(values, lower=[0, 0], upper=[1, 1])
    likely = set(np.argsort(-users.probability_best, kind="stable")[:20].tolist())
    assert set(users.ask(np.triu(np.ones((60, 60), dtype=bool), 1))) <= likely


def test_noise_leaves_regret_that_answers_about_weights_cannot_take():
    values = np.array([[0.5, 0.5], [0.52, 0.5], [0.48, 0.52]])
    errors = np.random.default_rng(0).normal(size=(4000, 3, 2)) * 0.2
    exact = Users(values, lower=[0, 0], upper=[1, 1])
    noisy = Users(values, lower=[0, 0], upper=[1, 1], errors=errors)
    for users in (exact, noisy):
        for _ in range(4):
            users.answer(1, 2, "first")
    assert exact.regret() < 0.02 < noisy.regret()


def test_it_is_the_same_again():
    values = front(24, 5, np.random.default_rng(0))

    def answered():
        users = Users(values, lower=np.zeros(5), upper=np.ones(5), seed=4)
        askable = np.triu(np.ones((24, 24), dtype=bool), 1)
        asked = []
        for _ in range(8):
            asked.append(users.ask(askable))
            users.answer(*asked[-1], "first")
        return asked, users.regret()

    assert answered() == answered()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utilities": ["liner"]}, r"some of linear, chebyshev, each once\. Found \['liner'\]"),
        ({"temperature": 0}, r"`temperature` above 0"),
        ({"lapse": 1.0}, r"`lapse` from 0 to below 1"),
        ({"errors": np.zeros((3, 2, 2))}, r"must have shape \(4000, 2, 2\)\. Found \(3, 2, 2\)"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        Users([[1.0, 0.0], [0.0, 1.0]], lower=[0, 0], upper=[1, 1], **change)
    with pytest.raises(ConfigError, match="one of first, second, same"):
        Users([[1.0, 0.0], [0.0, 1.0]], lower=[0, 0], upper=[1, 1]).answer(0, 1, "better")
