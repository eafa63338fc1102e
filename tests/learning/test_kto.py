"""KTO from marks: gradients are those of autograd, a run learns what was marked, and what it needs is said."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from tiny_models import as_peft, lora, peft_row, random_population, relative_error, tiny_base, tiny_model

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.data.comparison_rows import encode_comparisons
from pareto_align.data.comparisons import Comparison, Comparisons, Labels
from pareto_align.errors import ConfigError
from pareto_align.learning import Context, make_learner
from pareto_align.objectives import RewardScale
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW

BETA, HEAVY = 0.3, 1.5
ROWS = [
    ("<0>ab", "cde", 1, 0),
    ("<1>c", "f", 0, 1),
    ("<2>abc", "gh", 1, math.nan),
    ("<3>", "abcde", 0, 0),
]


def marked(rows):
    """Answers, one a prompt, marked as good and as kind."""
    nothing = Labels(np.empty((0, 2), dtype=int), np.empty((0, 2)))
    return Comparisons(
        [Comparison(prompt, (said,), nothing, marks=np.array([marks])) for prompt, said, *marks in rows],
        ("good", "kind"),
    )


def ready(population, rows):
    made = make_learner({"name": "kto", "beta": BETA, "undesirable_weight": HEAVY})
    scale = RewardScale(np.zeros(2), np.ones(2), -np.ones(2), np.ones(2))
    optimizer = PopulationAdamW(population.parameters)
    made.setup(Context(Engine(population), scale, [0, 1], optimizer, prompts=rows, prompts_per_step=len(rows)))
    return made


def logp(model, ids, tokens):
    logits = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
    return logits.gather(1, torch.tensor(tokens)[:, None]).sum()


def test_gradients_are_those_of_autograd_over_stock_peft(tmp_path):
    population = random_population(tiny_base(), 2)
    rows, _ = encode_comparisons(marked(ROWS), population.base)
    learner = ready(population, rows)
    seen = learner.collect(0)
    found = learner.gradients(seen).gradients
    order, foreign = seen.batch.rows, {row.ids: row.tokens[0] for row in learner.mismatched}
    assert all(foreign[row.ids] != row.tokens[0] for row in order)
    population.close()
    for k in range(2):
        model = as_peft(population, population.parameters[k], tmp_path / str(k), tiny_model(), is_trainable=True)
        model.eval()
        with torch.no_grad():
            apart = [logp(model, row.ids, foreign[row.ids]) for row in order]
            with model.disable_adapter():
                before = [logp(model, row.ids, row.tokens[0]) for row in order]
                z = [now - logp(model, row.ids, foreign[row.ids]) for row, now in zip(order, apart, strict=True)]
        z = torch.stack(z).mean().clamp(min=0)
        assert float(seen.kl[k]) == pytest.approx(float(z), abs=1e-4)
        for j in range(2):
            model.zero_grad()
            losses = []
            for row, old in zip(order, before, strict=True):
                mark = row.comparison.marks[0, j]
                x = BETA * (logp(model, row.ids, row.tokens[0]) - old - z)
                if not math.isnan(mark):
                    losses.append(torch.sigmoid(-x) if mark else HEAVY * torch.sigmoid(x))
            torch.stack(losses).mean().backward()
            assert relative_error(found[k, j], -peft_row(population, model, grad=True)) < 1e-5


LETTERS = "abcdefghijkl"


def many(seed=0):
    """Answers with late letters are good, those with early ones kind."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in [f"<{p}>{a}{b}" for p in range(4) for a in LETTERS for b in "abcd"]:
        answer = "".join(rng.choice(list(LETTERS), 3))
        late = sum(map(LETTERS.index, answer)) > 16
        rows.append((prompt, answer, int(late), int(not late)))
    return marked(rows)


def aligner(folder, **settings):
    return ParetoAligner(
        tiny_base(), [Objective("good", prefers="good"), Objective("kind", prefers="kind")], learner="kto",
        weighting="fixed", explorer="grid", population=2, learning_rate=1e-2, max_new_tokens=3,
        eval_prompts=24, lora=lora(), progress=False, output_dir=folder, steps=30, eval_every=30,
        **{"prompts_per_step": 32, **settings},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_a_run_on_marks_learns_what_was_marked(tmp_path):
    front = aligner(tmp_path / "run").fit(many())
    assert front.record.reference_policy.mean.tolist() == [0.0, 0.0]  # nothing is explained before training
    steps = [event for event in front.history if event["event"] == "step"]
    first, last = (np.mean([event["values"] for event in part], 0) for part in (steps[:5], steps[-5:]))
    assert last[0, 0] > first[0, 0] + 0.05  # the policy whose weight is on "good"
    assert last[1, 1] > first[1, 1] + 0.05
    told = steps[-1]
    assert told["preferred_change"][0][0] > told["other_change"][0][0]


def test_what_it_needs_is_said(tmp_path):
    prompts = [f"<{p}>{a}" for p in range(4) for a in "abc"]
    pairs = Comparisons.from_rows([{"prompt": prompt, "chosen": "ab", "rejected": "c"} for prompt in prompts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        made = ParetoAligner(
            tiny_base(), [Objective("chosen", prefers="chosen")], learner="kto", population=1, weighting="fixed",
            explorer="grid", lora=lora(), output_dir=tmp_path / "run", eval_prompts=2, progress=False,
        )  # fmt: skip
        with pytest.raises(ConfigError, match="unpaired"):
            made.fit(pairs)
        with pytest.raises(ConfigError, match="at least 2 prompts a step"):
            aligner(tmp_path / "one", prompts_per_step=1).fit(many())
    with pytest.raises(ConfigError, match="learner='kto'"):
        make_learner({"name": "dpo", "loss_type": "kto"})


def test_what_the_untrained_model_read_is_kept(monkeypatch):
    population = random_population(tiny_base(), 2)
    rows, _ = encode_comparisons(marked(ROWS), population.base)
    first = ready(population, rows)
    kl = first.collect(3).kl
    again = ready(population, rows)
    again.load_state_dict(first.state_dict())
    monkeypatch.setattr("pareto_align.learning.kto.reference_logprobs", None)
    monkeypatch.setattr("pareto_align.learning.offline.reference_logprobs", None)
    assert again.collect(3).kl.tolist() == kl.tolist()
    population.close()
