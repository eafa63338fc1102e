"""Scores on benchmarks become audited columns. The harness itself stands aside here, in the form of its own answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from front_records import estimate, paired

from pareto_align.errors import ConfigError
from pareto_align.evaluation.harness import TaskScore, check_tasks, widened
from pareto_align.front.estimates import paired_difference
from pareto_align.result import ParetoFront

HARNESS = '''
import torch


def simple_evaluate(model, tasks, limit=None, log_samples=False, bootstrap_iters=100000, num_fewshot=None):
    """As lm-evaluation-harness 0.4 answers: a sample for each question and filter, metrics of the whole beside it."""
    assert log_samples
    if tasks == ["nothing"]:
        raise KeyError("nothing")
    samples = []
    for question in range(limit or 20):
        with torch.inference_mode():
            logits = model.model(torch.tensor([[3 + question % 4, 4, 5]])).logits[0, -1]
        right = float(logits[3 + question % 2] > logits[5])
        for chosen in ("none", "strict") if num_fewshot else ("none",):
            samples.append({"doc_id": question, "filter": chosen, "metrics": ["acc", "loss", "bleu"], "acc": right,
                            "loss": float(logits[3] ** 2), "bleu": ("ref", "pred"), "doc": {}, "target": "x"})
    return {"samples": {tasks[0]: samples[::-1]}, "results": {tasks[0]: {"acc,none": 0.0, "bleu,none": 1.0}},
            "higher_is_better": {tasks[0]: {"acc": True, "loss": False, "bleu": True}}}
'''

MODEL = """
class HFLM:
    def __init__(self, pretrained, tokenizer, batch_size):
        self.model = pretrained
"""


@pytest.fixture
def harness(tmp_path, monkeypatch) -> None:
    package = tmp_path / "site" / "lm_eval"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text(HARNESS)
    (package / "models" / "__init__.py").write_text("")
    (package / "models" / "huggingface.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(package.parent))
    for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"):
        sys.modules.pop(name, None)


def test_scores_are_audited_columns_and_nothing_else_moves(front, harness, tmp_path):
    found = front.evaluate(["toy"])
    assert found.names == ("tone", "length", "toxicity", "toy acc", "toy loss")
    assert [o.role for o in found.record.objectives[3:]] == ["audit", "audit"]
    assert [o.maximize for o in found.record.objectives[3:]] == [True, False]
    np.testing.assert_array_equal(found.values[:, :3], front.values)
    np.testing.assert_array_equal(found.stderr[:, :3], front.stderr)
    assert found.hypervolume(confidence=0.95) == front.hypervolume(confidence=0.95)
    assert np.isfinite(found.values).all()
    assert found.record.objectives[3].bounds == (0.0, 1.0)  # right or wrong
    assert found.record.objectives[4].bounds is None
    assert "toy acc" in found.card()
    untrained = found.record.reference_policy
    assert untrained is not None
    assert np.isfinite(untrained.mean).all()
    assert not np.allclose(found.values[:, 4], found.values[0, 4])  # members differ, so each was on the model
    assert found.select({"tone": 1}).member.id == front.select({"tone": 1}).member.id
    back = ParetoFront.load(found.save(tmp_path / "saved"))
    np.testing.assert_allclose(back.values, found.values)
    back.plot().draw_without_rendering()
    assert "toy acc" in back.page()
    (low, high) = (float(x) for x in np.sort(found.values[:, 3])[[0, -1]])
    if low < high:
        assert found.select({"tone": 1}, at_least={"toy acc": high}).member.values[3] == high


def test_the_base_is_bare_again_and_the_front_answers_as_before(front, harness):
    before = front["a"].generate("<0>")
    front.evaluate("toy", limit=4, untrained=False)
    assert front["a"].generate("<0>") == before


def test_filters_are_told_apart_and_the_untrained_model_may_be_left_out(front, harness):
    found = front.evaluate("toy", limit=5, num_fewshot=2, untrained=False)
    assert found.names[3:] == ("toy acc (none)", "toy loss (none)", "toy acc (strict)", "toy loss (strict)")
    assert np.isnan(found.record.reference_policy.mean[3:]).all()
    assert found.record.objectives[3].description == "lm-evaluation-harness, 5 questions"


def test_what_the_harness_does_not_know_is_our_error(front, harness):
    with pytest.raises(ConfigError, match="does not take"):
        front.evaluate("nothing")
    with pytest.raises(ConfigError, match="does not take"):
        front.evaluate("toy", no_such_argument=1)
    with pytest.raises(ConfigError, match="has an objective 'toy acc' already"):
        front.evaluate("toy").evaluate("toy")


def test_without_the_harness_it_is_said_before_a_model_is_loaded(front, monkeypatch):
    monkeypatch.setattr("pareto_align.evaluation.harness.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pareto-align\[benchmarks\]"):
        front.evaluate("arc_easy")
    assert front._server is None
    for wrong in ([], [3], ""):
        with pytest.raises(ConfigError, match="must name tasks"):
            check_tasks(wrong)


def test_questions_stand_beside_the_prompts_and_pair_with_each_other():
    rng = np.random.default_rng(0)
    a, b = paired([[0.5, 0.4], [0.6, 0.2]], prompts=40)
    hard = rng.normal(size=200)
    scores = [[TaskScore("t acc", True, hard + 0.1 * rng.normal(size=200) + shift)] for shift in (0.0, 0.2)]
    wide = [widened(one, found) for one, found in zip((a, b), scores, strict=True)]
    for one, before in zip(wide, (a, b), strict=True):
        np.testing.assert_allclose(one.mean[:2], before.mean)
        np.testing.assert_allclose(one.stderr[:2], before.stderr)
        np.testing.assert_array_equal(one.counts, [40, 40, 200])
        np.testing.assert_allclose(one.interval()[0][:2], before.interval()[0])
    gap, noise = paired_difference(*wide)
    np.testing.assert_allclose(gap[:2], paired_difference(a, b)[0])
    np.testing.assert_allclose(noise[:2], paired_difference(a, b)[1])
    assert abs(gap[2] + 0.2) < 0.05
    assert noise[2] < 0.02  # questions that are hard for both do not count
    assert wide[0].stderr[2] > 0.05


def test_what_was_measured_without_single_prompts_stays_so():
    wide = widened(estimate([0.5, 0.4], 0.02), [TaskScore("t acc", False, np.array([1.0, 2.0, 3.0]))])
    np.testing.assert_allclose(wide.mean, [0.5, 0.4, -2.0])
    assert wide.samples is None
    assert wide.stderr[2] == pytest.approx(1 / np.sqrt(3))


def test_lm_eval_is_imported_where_it_is_used_and_nowhere_else():
    package = Path(sys.modules["pareto_align"].__file__).parent
    users = [p.name for p in package.rglob("*.py") if "import lm_eval" in p.read_text()]
    assert users == ["harness.py"]


def test_a_family_keeps_its_predictions_and_has_none_of_benchmarks(front):
    from dataclasses import replace

    from pareto_align.family_member import FamilyMember
    from pareto_align.front.records import FamilyRecord
    from pareto_align.report.audits import with_audits

    preferences = [[w, 1 - w] for w in np.linspace(0, 1, 7).tolist()]
    family = FamilyRecord(
        "blocks", {}, [2, 2], 4, preferences, [[w, 50.0, 0.1] for w, _ in preferences], [[0.01] * 3] * 7, 32, "family/x"
    )
    record = replace(front.record, family=family)
    scores = [[TaskScore("t acc", True, np.array([0.0, 1.0, 1.0]))] for _ in range(3)]
    found = with_audits(record, scores, None)
    here, before = (
        FamilyMember(made, front.folder, [0.3, 0.7], server=lambda: None, scratch=lambda: front.folder)
        for made in (found, record)
    )
    np.testing.assert_allclose(here.predicted[:3], before.predicted)
    np.testing.assert_allclose(here.halfwidth[:3], before.halfwidth)
    assert np.isfinite(before.halfwidth).all()
    assert np.isnan([here.predicted[3], here.halfwidth[3]]).all()
