"""`front.mixture`: who takes part, what is predicted, answers, soups, folders, and what is refused."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

sys.path.insert(0, str(Path(__file__).parent / "report"))  # the builders that tests/report has, too

from front_records import estimate, objective, record

from pareto_align import Objective
from pareto_align.blend import Blend, BlendMeasured
from pareto_align.errors import ConfigError, FrontFileError, ModelError, ParetoAlignWarning, PreferenceError
from pareto_align.front.storage import write_front
from pareto_align.policies import load_base
from pareto_align.result import ParetoFront
from pareto_align.testing.exact import policy_table, policy_value
from pareto_align.testing.problems import get_problem

PROBLEM = get_problem("contexts", hidden_size=16)
WEIGHTS = [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]


def base():
    return load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The base model and five adapters, each with something of its own to say."""
    from aligner_runs import lora

    from pareto_align.policies import PolicyPopulation

    place = tmp_path_factory.mktemp("adapters")
    population = PolicyPopulation(base(), 1, lora=lora(r=2))
    rows = 0.4 * torch.randn(5, population.parameter_count, generator=torch.Generator().manual_seed(0))
    for name, row in zip("abcde", rows, strict=True):
        population.save_adapter(row, place / name)
    population.close()
    return place


@pytest.fixture
def front(folders, tmp_path):
    """Five members; tone is linear in the weights, length, minimized, too."""

    def write(name: str, folder: Path) -> None:
        for file in (folders / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    objectives = [objective("tone"), objective("length", maximize=False, bounds=(0.0, 10.0))]
    estimates = [estimate([a, -10 * a], [0.01, 0.1]) for a, _ in WEIGHTS]
    made = record(
        objectives, estimates, WEIGHTS, ids=list("abcde"),
        base={"name": "acme/tiny", "dtype": "float32", "use_chat_template": False},
        config={"max_new_tokens": PROBLEM.T, "temperature": 1.0, "kl_coef": 0.05, "learner": "centred"},
    )  # fmt: skip
    write_front(tmp_path / "front", made, write)
    loaded = ParetoFront.load(tmp_path / "front")
    loaded.base = base()
    yield loaded
    loaded.close()


def test_of_two_members_at_one_place_the_prediction_is_that_of_the_one_that_answers(front):
    members = list(front.record.members)
    members[2] = replace(members[2], preference=members[1].preference)
    blend = Blend(
        replace(front.record, members=members),
        front.folder,
        [0.75, 0.25],
        server=front.server,
        scratch=lambda: Path("x"),
    )
    assert len(blend.experts) == 1
    row = "abcde".index(blend.experts[0])
    np.testing.assert_allclose(blend.predicted, [WEIGHTS[row][0], 10 * WEIGHTS[row][0]])


def test_coefficients_serve_the_mean_of_the_preferences_of_those_that_take_part(front):
    members = list(front.record.members)
    members[4] = replace(members[4], preference=None)
    blend = Blend(
        replace(front.record, members=members), front.folder, coefficients={"a": 1, "b": 1}, server=front.server,
        scratch=lambda: Path("x"),
    )  # fmt: skip
    np.testing.assert_allclose(blend.served, [0.875, 0.125])


def test_neighbours_take_part_and_their_values_are_interpolated(front):
    blend = front.mixture({"tone": 0.6, "length": 0.4})
    assert (blend.by, blend.experts) == ("logits", ["b", "c"])
    np.testing.assert_allclose(blend.coefficients, [0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(blend.predicted, [0.6, 6.0], atol=1e-6)
    assert (blend.halfwidth > 0).all()
    assert "b 0.40, c 0.60, mixed token by token." in blend.reason
    assert blend.to_dict()["coefficients"] == {"b": pytest.approx(0.4), "c": pytest.approx(0.6)}
    assert repr(blend).startswith("<Blend 0.40 b + 0.60 c by logits: tone 0.6")
    assert front.mixture([1, 3]).experts == ["d"]
    assert front.mixture([1, 3]).reason == "d alone."


def test_answers_are_those_of_the_mixture(front):
    blend = front.mixture(coefficients={"a": 1, "e": 1})
    prompts = [PROBLEM.prompts[0]] * 1500
    answers = blend.generate(prompts, batch_size=1500)
    assert blend.generate(prompts[:40], batch_size=40) == blend.generate(prompts[:40], batch_size=40)
    assert blend.generate(prompts[:40], seed=1) != blend.generate(prompts[:40])
    assert blend.last["disagreement"] > 0.01
    assert np.isnan(blend.last["kl"])
    tables = []
    for name in "ae":
        tables.append(policy_table(PROBLEM, front[name].load_model(PROBLEM.model()))[0])
    exact = np.sqrt(tables[0] * tables[1])
    exact /= exact.sum()

    def distance(said):
        return np.abs(_shares(said) - exact).sum() / 2

    better = blend.generate(prompts, batch_size=1500, candidates=16)
    assert distance(better) <= distance(answers) + 0.02
    alone = min(np.abs(table - exact).sum() / 2 for table in tables)
    assert distance(answers) < 0.75 * alone  # no member answers by itself
    assert blend.last["kl"] <= blend.last["disagreement"]
    assert 0 < blend.last["acceptance"] < 1


def _shares(texts):
    from pareto_align.testing.tiny import symbol_text

    digit = {symbol_text(v): v for v in range(PROBLEM.V)}
    numbers = [sum(digit[c] * PROBLEM.V ** (PROBLEM.T - 1 - t) for t, c in enumerate(text)) for text in texts]
    return np.bincount(numbers, minlength=PROBLEM.V**PROBLEM.T) / len(numbers)


def test_one_member_alone_is_that_member(front):
    greedy = {"temperature": 0}
    alone = front.mixture(coefficients={"c": 2.0})
    prompts = list(PROBLEM.prompts)
    assert alone.generate(prompts, **greedy) == front["c"].generate(prompts, **greedy)
    soup = front.mixture(coefficients={"c": 2.0}, by="soup")
    assert soup.generate(prompts, **greedy) == front["c"].generate(prompts, **greedy)
    assert soup.rank_error == 0


def test_a_soup_is_the_sum_of_the_updates_and_a_stock_adapter(front, tmp_path):
    from peft import PeftModel

    blend = front.mixture([0.6, 0.4], by="soup")
    saved = blend.save(tmp_path / "soup")
    assert 0 < blend.rank_error < 1
    model = PeftModel.from_pretrained(PROBLEM.model(), saved)
    ids = torch.tensor([[PROBLEM.V + 1, 0]])
    with torch.no_grad():
        stock = model(ids).logits
        ours = blend.load_model(PROBLEM.model())(ids).logits
    torch.testing.assert_close(stock, ours, atol=1e-4, rtol=0)
    with pytest.raises(FrontFileError, match="not empty"):
        blend.save(tmp_path / "soup")
    with pytest.raises(ConfigError, match="`candidates` are for by='logits'"):
        blend.generate("<0>", candidates=2)


def test_distributions_are_saved_for_plain_transformers(front, tmp_path):
    from pareto_align.integrations.mixing import load_mixture

    blend = front.mixture([0.6, 0.4])
    saved = blend.save(tmp_path / "mixed")
    told = json.loads((saved / "mixture.json").read_text())
    assert told["members"] == ["b", "c"]
    model, processor = load_mixture(saved, PROBLEM.model(), seed=1)
    one = torch.tensor([base().encode(PROBLEM.prompts[0])])
    arguments = processor.arguments(one.repeat(1500, 1), torch.ones_like(one).repeat(1500, 1))
    out = model.generate(**arguments, max_new_tokens=PROBLEM.T, pad_token_id=PROBLEM.V)
    new = out[:, one.shape[1] :]
    assert torch.equal(new[:1500], new[1500:])  # the rows of a prompt stay in step
    theirs = np.bincount((new[:1500] @ PROBLEM.V ** torch.arange(PROBLEM.T - 1, -1, -1)).numpy(), minlength=64)
    ours = _shares(blend.generate([PROBLEM.prompts[0]] * 1500, batch_size=1500)) * 1500
    seen = ours + theirs > 10  # else chi-squared is not what the statistic follows
    counts = np.stack([[*side[seen], side[~seen].sum()] for side in (ours, theirs)])
    assert chi2_contingency(counts[:, counts.any(0)]).pvalue > 0.001
    assert float(processor.disagreement.mean()) == pytest.approx(blend.last["disagreement"], rel=0.2)
    with pytest.raises(ConfigError, match="No single adapter says"):
        blend.load_model()
    with pytest.raises(FrontFileError, match="holds no mixture"):
        load_mixture(tmp_path, model)
    (saved / "mixture.json").write_text(json.dumps({**told, "top_k": 1}))
    model, processor = load_mixture(saved, PROBLEM.model(), seed=1)
    out = model.generate(**processor.arguments(one.repeat(9, 1)), max_new_tokens=PROBLEM.T, pad_token_id=PROBLEM.V)
    assert len(torch.unique(out, dim=0)) == 1  # the likeliest token, always
    (saved / "mixture.json").write_text(json.dumps({**told, "experts": ["..", "expert-1"]}))
    with pytest.raises(FrontFileError, match="leaves the front folder"):
        load_mixture(saved, PROBLEM.model())
    (saved / "mixture.json").write_text(json.dumps(told))
    config = json.loads((saved / "expert-1" / "adapter_config.json").read_text())
    (saved / "expert-1" / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "XLORA"}))
    with pytest.raises(FrontFileError, match="XLORA"):
        load_mixture(saved, PROBLEM.model())


def test_what_is_measured_is_compared_with_the_prediction(front):
    def wordy(completions, **columns):
        return [len(set(text)) / PROBLEM.T for text in completions]

    def far(completions, **columns):
        return [9.0 + (text[0] == "a") for text in completions]

    blend = front.mixture([0.6, 0.4])
    objectives = [Objective("length", far, maximize=False, bounds=(0, 10)), Objective("tone", wordy, bounds=(0, 1))]
    with pytest.warns(ParetoAlignWarning, match=r"not what the front predicts in .*length"):
        found = blend.measure(list(PROBLEM.prompts) * 20, objectives, rival=False)
    assert found.rival is None
    assert found.names == ("tone", "length")
    assert 9 <= found.values[1] <= 10
    assert not found.held[1]
    assert found.disagreement >= 0
    with pytest.raises(ConfigError, match=r"measured in tone, length\. Found objectives tone"):
        blend.measure(["<0>"], objectives[1:])


def _known():
    """The known rewards, which framed are those of the table: tone, and length, which is minimized."""
    one, two = (objective.reward for objective in PROBLEM.objectives())

    def length(prompts, completions, **columns):
        return [10 * (1 - value) for value in two(prompts, completions)]

    return [Objective("tone", one, bounds=(0, 1)), Objective("length", length, maximize=False, bounds=(0, 10))]


@pytest.mark.parametrize("by", ["logits", "soup"])
@pytest.mark.parametrize("learner", ["centred", "grpo"])
def test_the_gain_over_the_nearest_member_is_the_enumerated_one(front, by, learner):
    """To `grpo` a nat costs so many deviations of a reward, which a record does not have: rewards alone count."""
    beta = 0.05 if learner == "centred" else 0.0
    record = replace(front.record, config={**front.record.config, "learner": learner})
    asked = np.array([0.6, 0.4])
    other = ParetoFront(record, front.folder)
    other.base = base()
    blend = other.mixture(asked.tolist(), by=by)
    prompts = [PROBLEM.prompts[0]] * 1500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        found = blend.measure(prompts, _known(), batch_size=1500)
        again = blend.measure(prompts, _known(), batch_size=1500)
    assert found.rival == "c"  # at a half, which is nearer than b at three quarters
    assert found.gain == again.gain
    other.close()
    untrained = policy_table(PROBLEM, PROBLEM.model())[0]
    tables = {name: policy_table(PROBLEM, front[name].load_model(PROBLEM.model()))[0] for name in "bc"}
    if by == "soup":
        front.close()
        front.base = base()
        policy = policy_table(PROBLEM, front.mixture(asked.tolist(), by=by).load_model(PROBLEM.model()))[0]
    else:
        policy = _token_wise(tables["b"], tables["c"], blend.coefficients)

    def worth(table):
        return policy_value(table[None], untrained[None], PROBLEM.rewards[:1], asked, beta)

    assert found.gain == pytest.approx(worth(policy) - worth(tables["c"]), abs=4 * found.gain_stderr)
    assert 0 < found.gain_stderr < 0.02


def _token_wise(one, two, weights):
    first, second = (table.reshape(PROBLEM.V, PROBLEM.V) for table in (one, two))
    start = first.sum(1) ** weights[0] * second.sum(1) ** weights[1]
    then = (first / first.sum(1, keepdims=True)) ** weights[0] * (second / second.sum(1, keepdims=True)) ** weights[1]
    return (start[:, None] / start.sum() * then / then.sum(1, keepdims=True)).ravel()


def test_the_alarm_is_raised_unless_the_blend_is_better_by_a_standard_error(front):
    def found(gain, stderr, rival="c", held=True):
        nothing = np.zeros(1)
        return BlendMeasured(("tone",), nothing, nothing, nothing, np.array([held]), 0.0, rival, gain, stderr)

    assert "better than c alone" in found(-0.1, 0.01).alarm
    assert "+0.1 more, with a standard error of 0.2. Take c instead" in found(0.1, 0.2).alarm
    assert found(np.nan, np.nan).alarm  # nothing was scored: nothing is known
    assert found(0.3, 0.2).alarm is None
    assert found(0.3, 0.2, held=False).alarm is None  # better than predicted is no reason for alarm
    assert found(np.nan, np.nan, rival=None).alarm is None
    assert "not what the front predicts in tone" in found(np.nan, np.nan, rival=None, held=False).alarm
    blend = front.mixture([0.6, 0.4])
    flat = [
        Objective("tone", lambda completions, **_: [0.5] * len(completions), bounds=(0, 1)),
        Objective("length", lambda completions, **_: [5.0] * len(completions), maximize=False, bounds=(0, 10)),
    ]
    with pytest.warns(ParetoAlignWarning, match="better than c alone"):
        told = blend.measure(list(PROBLEM.prompts) * 5, flat, temperature=0.9)  # drawn otherwise: no price of KL
    assert (told.gain, told.gain_stderr) == (0.0, 0.0)


def test_a_member_alone_has_no_rival_and_of_several_at_one_place_the_best_is_one(front):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        assert front.mixture([1, 1]).measure(list(PROBLEM.prompts), _known()).rival is None
    members = list(front.record.members)
    members[3] = replace(members[3], preference=[0.5, 0.5])  # d, which is worth .45 here, where c is worth .5
    better = replace(members[2], provenance={"ceiling": {"kl": 0.1}})
    members[2] = replace(members[2], provenance={"ceiling": {"kl": 9.0}})  # c, far from the untrained model
    near = ParetoFront(replace(front.record, members=members), front.folder)
    assert near.record.members[near.mixture([0.6, 0.4])._nearest()].id == "d"
    near = ParetoFront(replace(front.record, members=[*members[:2], better, *members[3:]]), front.folder)
    assert near.record.members[near.mixture([0.6, 0.4])._nearest()].id == "c"


def test_outside_the_hull_the_nearest_is_served_and_said(front):
    inner = ParetoFront(replace(front.record, members=front.record.members[1:4]), front.folder)
    with pytest.warns(ParetoAlignWarning, match=r"tone 1.00 / length 0.00 lies outside .* tone 0.75 / length 0.25, is"):
        blend = inner.mixture({"tone": 1})
    assert blend.experts == ["b"]
    assert "is served" in blend.reason
    np.testing.assert_allclose(blend.served, [0.75, 0.25])


def test_a_front_of_one_serves_it_and_knows_no_error(front):
    alone = ParetoFront(replace(front.record, members=front.record.members[2:3]), front.folder)
    with pytest.warns(ParetoAlignWarning, match="lies outside"):
        blend = alone.mixture([1, 0])
    assert blend.experts == ["c"]
    np.testing.assert_allclose(blend.predicted, [0.5, 5.0])
    assert np.isnan(blend.halfwidth).all()


def test_without_a_price_of_kl_it_is_a_heuristic(front):
    free = ParetoFront(replace(front.record, config={"kl_coef": 0.0}), front.folder)
    assert "no formula says that a mixture of its members is good" in free.mixture([0.6, 0.4]).reason


def test_adapters_of_different_bases_are_refused(front):
    for member, name in zip(front.record.members[1:3], ("one/model", "another/model"), strict=True):
        config = front.folder / member.adapter / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": name}))
    with pytest.raises(ModelError, match="b is one of 'one/model', c one of 'another/model'"):
        front.mixture([0.6, 0.4])
    assert front.mixture([0.1, 0.9]).experts == ["d", "e"]


def test_what_is_no_mixture(front):
    with pytest.raises(ConfigError, match=r"`by` must be one of auto, map, logits, soup, routed\. Found 'sum'"):
        front.mixture([1, 1], by="sum")
    with pytest.raises(ConfigError, match="trained as independent policies"):
        front.mixture([1, 1], by="map")
    with pytest.raises(ConfigError, match="and not both"):
        front.mixture()
    with pytest.raises(ConfigError, match="and not both"):
        front.mixture([1, 1], coefficients={"a": 1})
    with pytest.raises(PreferenceError, match="no member 'z'"):
        front.mixture(coefficients={"z": 1})
    with pytest.raises(PreferenceError, match="not negative, and one above 0"):
        front.mixture(coefficients={"a": -1})
    with pytest.raises(ConfigError, match=r"A mixture of distributions takes .* Found num_beams"):
        front.mixture([1, 1]).generate("<0>", num_beams=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParetoAlignWarning)
        front.mixture([0.3, 0.7])


def test_objectives_that_are_not_the_front_s_are_refused_before_anything_is_answered(front, monkeypatch):
    blend = front.mixture([0.6, 0.4])
    monkeypatch.setattr(type(blend._server()), "generate_blend", lambda *_, **__: pytest.fail("answered"))
    with pytest.raises(ConfigError):
        blend.measure(list(PROBLEM.prompts), _known()[:1])
