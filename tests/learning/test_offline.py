"""Learning from comparisons: exact against PEFT and autograd, at its closed forms, the same after a kill."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, events, lora, make
from scipy.optimize import minimize
from tiny_models import SYMBOLS, as_peft, peft_row, random_population, relative_error, tiny_base, tiny_model

from pareto_align import Objective, ParetoAlignWarning
from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ComparisonError, ConfigError, ObjectiveError
from pareto_align.evaluation.labels import LabelEvaluator
from pareto_align.front.indicators import hypervolume
from pareto_align.learning import Context, make_learner
from pareto_align.objectives import RewardScale
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.logprobs import completion_logprobs
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.testing.exact import regularized_front

NAN = math.nan
BETA = 0.3
LABELS = [[1.0, 0.0], [0.0, 0.5], [NAN, 1.0], [0.7, NAN], [1.0, 1.0]]
LENGTHS = [(3, 5), (4, 2), (1, 1), (5, 4), (2, 5)]


def comparison_rows(base, labels=LABELS, group=2, seed=0):
    """Comparisons of random answers of different lengths, one pair each (all pairs where there are more answers)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n, values in enumerate(labels):
        prompt = "<1>" + "abcd"[: n % 4]
        lengths = [LENGTHS[n][g % 2] + g // 2 for g in range(group)]
        tokens = tuple(tuple(torch.randint(0, SYMBOLS, (size,), generator=generator).tolist()) for size in lengths)
        pairs = [(a, b) for a in range(group) for b in range(a + 1, group)]
        said = Labels(np.array(pairs), np.array([values] * len(pairs)))
        answers = tuple(str(ids) for ids in tokens)
        rows.append(
            ComparisonRow(PromptRow(prompt, tuple(base.encode(prompt)), {}), tokens, Comparison(prompt, answers, said))
        )
    return rows


def ready(population, rows, learner="dpo", *, layout="packed", prompts=5, micro_batch_tokens=4096, **settings):
    made = make_learner({"name": learner, "beta": BETA, **settings})
    scale = RewardScale(np.zeros(2), np.ones(2), -np.ones(2), np.ones(2))
    engine = Engine(population, layout=layout, micro_batch_tokens=micro_batch_tokens)
    optimizer = PopulationAdamW(population.parameters)
    made.setup(Context(engine, scale, [0, 1], optimizer, prompts=rows, prompts_per_step=prompts))
    return made


def plain_logps(model, row):
    found = []
    for ids in row.tokens:
        logits = model(torch.tensor([[*row.ids, *ids]])).logits[0, len(row.ids) - 1 : -1].float()
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
    return torch.stack(found)


def plain_gradients(population, rows, folder, family="llama"):
    """`[K, m, P]` of DPO's losses by autograd over stock PEFT, one pass a policy and objective."""
    found = []
    for k in range(population.size):
        peft = as_peft(
            population, population.parameters[k], folder / str(k), tiny_model(family), is_trainable=True
        ).eval()
        with peft.disable_adapter(), torch.no_grad():
            reference = [plain_logps(peft, row) for row in rows]
        of_objectives = []
        for j in range(2):
            peft.zero_grad()
            losses = []
            for row, ref in zip(rows, reference, strict=True):
                ratio = plain_logps(peft, row) - ref
                labels = row.comparison.labels
                for (a, b), s in zip(labels.pairs, labels.values[:, j], strict=True):
                    if not math.isnan(s):
                        x = BETA * (ratio[a] - ratio[b])
                        forward, back = torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x)
                        losses.append(-s * forward - (1 - s) * back)
            torch.stack(losses).mean().backward()
            of_objectives.append(-peft_row(population, peft, grad=True))
        found.append(torch.stack(of_objectives))
    return torch.stack(found)


@pytest.mark.parametrize(("layout", "group"), [("packed", 2), ("dense", 2), ("packed", 3)])
def test_all_objectives_gradients_of_all_policies_are_those_of_autograd(layout, group, tmp_path):
    population = random_population(tiny_base(), 3)
    rows = comparison_rows(population.base, group=group)
    learner = ready(population, rows, layout=layout)
    assert learner.rank_one is (group == 2)
    seen = learner.collect(0)
    order = seen.batch.rows
    found = learner.gradients(seen)
    population.close()
    expected = plain_gradients(population, order, tmp_path)
    for k, j in product(range(3), range(2)):
        assert relative_error(found.gradients[k, j], expected[k, j]) < 1e-5


@pytest.mark.parametrize(
    "loss",
    ["sigmoid", "ipo", "hinge", "sigmoid_norm", "robust", "exo_pair", "simpo", {"loss_type": "cpo", "cpo_alpha": 0.0}],
)
def test_one_copy_of_the_prompt_serves_all_objectives(loss):
    """A loss of the difference of two answers: packed with one copy is what rows of their own give."""
    population = random_population(tiny_base(), 3)
    rows = comparison_rows(population.base, [[1.0, 0.0], [0.0, 1.0], [NAN, 1.0], [1.0, NAN], [1.0, 1.0]])
    found = {}
    for rank_one in (True, False):
        learner = ready(population, rows, **(loss if isinstance(loss, dict) else {"loss_type": loss}))
        assert learner.rank_one
        learner.rank_one = rank_one
        found[rank_one] = learner.gradients(learner.collect(0)).gradients
    for k, j in product(range(3), range(2)):
        assert relative_error(found[True][k, j], found[False][k, j]) < 1e-5


def test_small_passes_change_nothing():
    population = random_population(tiny_base(), 3)
    rows = comparison_rows(population.base)
    whole, cut = (ready(population, rows, micro_batch_tokens=tokens) for tokens in (4096, 1))
    a, b = (learner.gradients(learner.collect(0)).gradients for learner in (whole, cut))
    assert relative_error(b, a) < 1e-5


def test_tokens_of_the_prompt_are_read_once_for_any_number_of_objectives(monkeypatch):
    population = random_population(tiny_base(), 2)
    rows = comparison_rows(population.base)
    learner = ready(population, rows)
    seen = learner.collect(0)
    read = []
    forward = population.head.decoder.forward

    def counted(*args, **keywords):
        read.append(keywords["input_ids"].numel())
        return forward(*args, **keywords)

    monkeypatch.setattr(population.head.decoder, "forward", counted)
    learner.gradients(seen)
    widest = max(len(row.ids) + sum(map(len, row.tokens)) for row in rows)
    assert 0 < sum(read) <= 2 * len(rows) * widest


def test_untrained_policies_explain_exactly_nothing_and_have_the_reference_read_once(monkeypatch):
    population = random_population(tiny_base(), 3)
    for k in range(3):
        population.load(k, population.fresh(k))
    calls = []
    read = Engine.reference_logprobs
    monkeypatch.setattr(
        Engine, "reference_logprobs", lambda self, batch: calls.append(len(batch.prompts)) or read(self, batch)
    )
    learner = ready(population, comparison_rows(population.base), prompts=2)
    for step in range(4):
        seen = learner.collect(step)
        learner.gradients(seen)
        known = ~np.isnan(seen.values())
        assert np.abs(seen.values()[known]).max() < 1e-6
    assert sum(calls) == len(LABELS)


def test_a_policy_alone_gets_the_gradient_that_it_gets_in_company():
    population = random_population(tiny_base(), 3)
    rows = comparison_rows(population.base)
    together = (learner := ready(population, rows)).gradients(learner.collect(0)).gradients
    kept = population.parameters.clone()
    population.close()
    alone = random_population(tiny_base(), 1)
    alone.parameters.copy_(kept[1:2])
    found = (learner := ready(alone, rows)).gradients(learner.collect(0)).gradients
    assert relative_error(found[0], together[1]) < 1e-5


def test_the_two_orders_of_a_pair_are_one():
    population = random_population(tiny_base(), 2)
    rows = comparison_rows(population.base)
    turned = []
    for row in rows:
        labels = row.comparison.labels
        turned.append(
            ComparisonRow(
                row.row,
                row.tokens[::-1],
                Comparison(row.prompt, row.comparison.responses[::-1], Labels(labels.pairs, 1 - labels.values)),
            )
        )
    a, b = ((learner := ready(population, part)).gradients(learner.collect(0)).gradients for part in (rows, turned))
    assert relative_error(b, a) < 1e-5


def test_a_tie_pulls_to_where_the_untrained_model_was():
    """Labels of one half: every step takes the policies nearer to the reference."""
    population = random_population(tiny_base(), 2)
    rows = comparison_rows(population.base, [[0.5, 0.5]] * 5)
    learner = ready(population, rows)
    explained = []
    for step in range(12):
        seen = learner.collect(step)
        learner.step(seen, np.full((2, 2), 0.5), 1e-2)
        explained.append(seen.values().mean())
    assert explained[-1] > explained[0]
    assert explained[-1] <= 1e-6, "a tie leaves nothing to explain"


# ---- known truths ----------------------------------------------------------------------------------------------------

V = 6
TRUTH = np.stack([np.linspace(0, 2, V), np.array([1.2, 0.1, 1.4, 0.2, 1.0, 0.0])], 1)  # [V, m] rewards of symbols
FIRST, SECOND = np.triu_indices(V, 1)
CHANCES = 1 / (1 + np.exp(-(TRUTH[FIRST] - TRUTH[SECOND])))  # [pairs, m] of Bradley and Terry
TEMPERATURE = 0.5  # beta
TRADES = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


def judged_pairs():
    """All pairs of symbols, labelled with the probabilities that two rewards give them."""
    return Comparisons.from_rows(
        [
            {
                "prompt": PROBLEM.prompts[0],
                "responses": ["abcdef"[a], "abcdef"[b]],
                "pairs": [[0, 1]],
                "labels": {"first": [float(said[0])], "second": [float(said[1])]},
            }
            for a, b, said in zip(FIRST, SECOND, CHANCES, strict=True)
        ]
    )


def pairs_aligner(folder, **settings):
    given = {
        "learner": {"name": "dpo", "beta": TEMPERATURE},
        "weighting": "fixed",
        "explorer": "grid",
        "steps": 120,
        "eval_every": 120,
        "learning_rate": 2e-2,
        "prompts_per_step": 15,
        **settings,
    }
    tokenizer, model = PROBLEM.tokenizer(), PROBLEM.model()
    tokenizer.eos_token = model.generation_config.eos_token_id = (
        None  # an answer is one symbol, and its end is no choice
    )
    objectives = [Objective("first", prefers="first"), Objective("second", prefers="second")]
    return make(objectives, model=model, tokenizer=tokenizer, output_dir=folder, **given)


@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def fitted(folder, **settings):
    """A front, what each policy says `[K, V]`, and what the untrained model does `[V]`."""
    aligner = pairs_aligner(folder, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        front = aligner.fit(judged_pairs(), eval_prompts=judged_pairs())
    base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer(), use_chat_template=False, device="cpu")
    population = PolicyPopulation(base, len(aligner.policies_), lora=lora())
    prompt, tokens = [base.encode(PROBLEM.prompts[0])], torch.arange(V).view(1, 1, V, 1)
    try:
        with torch.no_grad():
            population.parameters.copy_(aligner.policies_)
        every = tokens.expand(population.size, -1, -1, -1)
        with population.serving():
            said = completion_logprobs(population, prompt, every, torch.ones(every.shape, dtype=torch.bool))
        with population.reference():
            before = completion_logprobs(population, prompt, tokens, torch.ones(tokens.shape, dtype=torch.bool))
    finally:
        population.close()
    return front, said[:, 0, :, 0].exp().numpy(), before[0, 0, :, 0].exp().numpy()


def of_losses(weights, before):
    """The optimum of a weighted sum of DPO's losses, `[V]`, found without any model."""
    wanted = CHANCES @ weights

    def loss(u):
        x = TEMPERATURE * (u[FIRST] - u[SECOND])
        return np.mean(wanted * np.logaddexp(0, -x) + (1 - wanted) * np.logaddexp(0, x))

    found = before * np.exp(minimize(loss, np.zeros(V)).x)
    return found / found.sum()


def of_rewards(weights, before):
    """The optimum for a mixture of the rewards behind the labels: `pi_ref exp(w.r / beta) / Z`."""
    found = before * np.exp(TRUTH @ weights / TEMPERATURE)
    return found / found.sum()


def distance(a, b):
    return 0.5 * np.abs(a - b).sum()


def test_dpo_ends_at_the_optimum_of_the_weighted_losses(tmp_path):
    """Which in the middle is another point than the optimum of the weighted rewards."""
    front, said, before = fitted(tmp_path / "run")
    for weights, policy in zip(TRADES, said, strict=True):
        assert distance(policy, of_losses(weights, before)) < 0.005
        assert distance(policy, before) > 0.1
    middle = of_losses(TRADES[1], before)
    assert distance(middle, of_rewards(TRADES[1], before)) > 0.01
    # nothing is attained but what the labels allow
    (allowed,) = np.array(front.record.ceilings)
    assert len(front) >= 1
    for value in front.values:
        assert 0 < (allowed - value).min(1).max() < 0.1


def test_modpo_ends_at_the_optimum_of_the_weighted_rewards_in_one_run(tmp_path):
    """Five policies; the two corners are the margins of the others. Weighing losses leads elsewhere."""
    _, said, before = fitted(tmp_path / "run", population=5, learner={"name": "modpo", "beta": TEMPERATURE})
    trades = np.column_stack([np.linspace(1, 0, 5), np.linspace(0, 1, 5)])
    for weights, policy in zip(trades, said, strict=True):
        optimum = of_rewards(weights, before)
        assert distance(policy, optimum) < 0.005
        if weights.all():
            assert distance(of_losses(weights, before), optimum) > 3 * distance(policy, optimum)
    ideal = regularized_front(before[None], TRUTH[None], trades, TEMPERATURE)
    untrained = before @ TRUTH
    assert hypervolume(said @ TRUTH, ref=untrained) > 0.99 * hypervolume(ideal, ref=untrained) > 0


def test_maxmin_serves_the_worst_objective_as_well_as_one_policy_can(tmp_path):
    """Objectives may be groups of users: what the better of the two explains more does not pay for the other."""
    front, _, before = fitted(tmp_path / "run", weighting="maxmin")

    def worst(policy):
        x = TEMPERATURE * np.log(policy / before)
        gaps = (x[FIRST] - x[SECOND])[:, None]
        losses = CHANCES * np.logaddexp(0, -gaps) + (1 - CHANCES) * np.logaddexp(0, gaps)
        return (1 - losses.mean(0) / np.log(2)).min()

    attainable = [worst(of_losses(np.array([share, 1 - share]), before)) for share in np.linspace(0, 1, 41)]
    assert front.values.min(1).max() > 0.9 * max(attainable)
    assert max(attainable) > attainable[20] + 0.01  # equal weights leave one of them behind


def test_chebyshev_stands_where_the_shortfalls_from_certainty_balance(tmp_path):
    """The default weighting: ideal 1 and nadir 0 explained, which nobody has to look for."""
    aligner = pairs_aligner(tmp_path / "other", weighting=None)
    assert aligner.weighting.name == "chebyshev"
    np.testing.assert_allclose(aligner.weighting.ideal, [1.0, 1.0])
    np.testing.assert_allclose(aligner.weighting.nadir, [0.0, 0.0])
    front, _, _ = fitted(tmp_path / "run", weighting=None)
    assert np.isfinite(front.values).all()
    # what is explained of a label is no reward of an answer
    assert all(set(row) == {"prompt", "completion", "prompt_id"} for row in front.record.reference_sample)
    assert len(front.record.reference_sample) == len(front[0].samples) > 0
    steps = events(tmp_path / "run", "step")
    middle = np.array(steps[-1]["values"])[1]
    assert abs(middle[0] - middle[1]) < 0.02


@pytest.mark.parametrize("weighting", ["mgda", "epo", "stch", "hypervolume", "maxmin"])
def test_weightings_act_on_labels_as_on_rewards(tmp_path, weighting):
    front, said, before = fitted(tmp_path / "run", weighting=weighting, steps=30, eval_every=30)
    assert all(distance(policy, before) > 0.02 for policy in said)
    assert np.isfinite(front.values).all()


@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_a_family_learns_from_comparisons(tmp_path):
    family = {"name": "gates", "shared": 2, "each": 2}
    aligner = pairs_aligner(tmp_path / "run", family=family, explorer=None, weighting=None, steps=60, eval_every=30)
    front = aligner.fit(judged_pairs(), eval_prompts=judged_pairs())
    first, last = (front.at({"first": share, "second": 1 - share}).predicted for share in (0.9, 0.1))
    assert first[0] > last[0] + 0.1
    assert last[1] > first[1] + 0.1


@pytest.mark.parametrize("learner", ["dpo", "modpo"])
def test_a_run_that_was_stopped_goes_on_to_the_same_front(tmp_path, learner, monkeypatch):
    """The untrained model's log-probabilities come out of the checkpoint, and are not found again."""
    settings = {"steps": 8, "eval_every": 2, "learner": {"name": learner, "beta": TEMPERATURE}}
    whole, *_ = fitted(tmp_path / "whole", **settings)

    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["step"] == 5:
            raise Stop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(Stop):
            pairs_aligner(tmp_path / "cut", callbacks=[stop], **settings).fit(
                judged_pairs(), eval_prompts=judged_pairs()
            )
        read, read_again = Engine.reference_logprobs, []

        def counted(self, batch):
            read_again.append(len(batch.prompts))
            return read(self, batch)

        monkeypatch.setattr(Engine, "reference_logprobs", counted)
        again = pairs_aligner(tmp_path / "cut", **settings).resume(tmp_path / "cut")
    assert sum(read_again) == 7, "what is reported on is read at the end of a run, stopped or not; nothing else is"
    for file in sorted((tmp_path / "whole" / "front").rglob("*")):
        if file.is_file():
            twin = tmp_path / "cut" / file.relative_to(tmp_path / "whole")
            assert file.read_bytes() == twin.read_bytes(), file.name
    np.testing.assert_array_equal(again.values, whole.values)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "ctwa"}, "'ctwa' needs covariances"),
        ({"weighting": "modo"}, "'modo' needs cross_gramians"),
        ({"kl_coef": 0.1}, "its beta holds on to the untrained model"),
        ({"learner": "grpo"}, "has labels .* and no reward"),
        ({"learner": {"name": "dpo", "loss_type": "modpo"}}, "learner='modpo'"),
        ({"learner": {"name": "dpo", "loss_type": "sigmod"}}, "Did you mean 'sigmoid'"),
        ({"learner": {"name": "dpo", "beta": -1}}, "`beta` must be a positive number"),
        ({"learner": "modpo", "weighting": "mgda"}, "needs gramians"),
        ({"learner": "modpo", "explorer": {"name": "grid", "margin": 0.1}}, "policies at the corners"),
    ],
)
@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_what_does_not_go_together_is_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        pairs_aligner(tmp_path / "run", **settings).fit(judged_pairs(), eval_prompts=judged_pairs())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("pairs.jsonl", "Comparisons.read"),
        ([{"prompt": "<0>", "chosen": "a", "rejected": "b"}], "no comparison has the column 'first'"),
        ([], "no comparisons|There are no"),
        (7, "Found a?n? ?int"),
    ],
)
def test_what_is_no_comparison_is_refused(tmp_path, data, message):
    with pytest.raises((ComparisonError, ConfigError), match=message):
        pairs_aligner(tmp_path / "run").fit(data)
    assert not (tmp_path / "run").exists()


def test_comparisons_for_a_learner_of_answers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="these are comparisons"):
        make(output_dir=tmp_path / "run").fit(judged_pairs())


def test_labels_train_and_rewards_measure_where_there_are_both(tmp_path):

    def lifted(reward):  # to where no share of labels is
        return lambda completions, **more: [10 + value for value in reward(completions=completions, **more)]

    rewards = PROBLEM.objectives()
    objectives = [
        Objective(own.name, lifted(own.reward), bounds=(own.bounds[0] + 10, own.bounds[1] + 10), prefers=column)
        for own, column in zip(rewards, ("first", "second"), strict=True)
    ]
    aligner = make(objectives, learner="dpo", weighting="fixed", explorer="grid", output_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        front = aligner.fit(judged_pairs())
    lower, upper = zip(*(own.bounds for own in rewards), strict=True)
    assert len(front)
    assert (front.values >= np.array(lower) + 10 - 1e-9).all()
    assert (front.values <= np.array(upper) + 10 + 1e-9).all()


def test_a_sum_of_losses_measures_with_the_beta_of_the_one_that_has_it():
    learner = make_learner({"name": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.1], "beta": 0.5})
    assert learner.beta == 0.5


def test_the_untrained_model_explains_exactly_nothing_and_is_read_once(monkeypatch):
    population = random_population(tiny_base(), 2)
    engine = Engine(population)
    evaluator = LabelEvaluator(engine, comparison_rows(population.base), BETA)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "logprobs", None)
        found = evaluator.measure_reference()
    assert set(found.rewards[np.isfinite(found.rewards)]) == {0.0}
    trained = evaluator.measure(population.parameters)
    assert all((one.estimate.mean != 0).all() for one in trained)


def test_an_upper_limit_of_what_labels_explain_is_refused():
    goals = [Objective("a", prefers="first", role="constrain", at_most=0.3), Objective("b", prefers="second")]
    with pytest.raises(ObjectiveError, match=r"Objective 'a': a run without all rewards .* Limit it with at_least"):
        make(goals, learner="dpo", weighting="lagrangian")
