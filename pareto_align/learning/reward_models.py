"""Rewards that read with adapters of their own: one slot of a population an objective, trained beside its head.

All m objectives are learned in one run over the comparisons, on one copy of the model. What a head on the frozen
model's states cannot express, an adapter can.

References:
    Ouyang et al., "Training language models to follow instructions with human feedback", arXiv 2203.02155: reward
        models trained by the loss of pairs.
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pareto_align.data.comparison_rows import ComparisonRow, laid_out
from pareto_align.data.ordering import ComparisonOrder
from pareto_align.errors import ConfigError
from pareto_align.learning.comparisons import ComparisonBatch, collate
from pareto_align.learning.offline import as_completions
from pareto_align.objectives.learned import HeadReport, Heads, Judged, Scores, fit_scores, held_out
from pareto_align.objectives.learned.heads import report_of, temperature
from pareto_align.policies.base import Base
from pareto_align.policies.batches import Part
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.policies.readers import Readers

__all__ = ["ADAPTED_KINDS", "fit_adapters"]

FloatArray = NDArray[np.float64]

ADAPTED_KINDS = ("bt", "regression")
"""Kinds of learned rewards whose heads can read with adapters of their own."""


def fit_adapters(
    base: Base,
    rows: Sequence[ComparisonRow],
    judged: Judged,
    kind: str = "bt",
    *,
    lora: Any = None,
    penalty: float | None = None,
    passes: int = 3,
    learning_rate: float = 1e-3,
    prompts_per_step: int = 16,
    micro_batch_tokens: int = 4096,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> tuple[Readers, Scores]:
    """An adapter and a head for each objective.

    Each begins as the head on the frozen model's states that `fit_scores` finds. After every pass over the comparisons
    it is measured on the prompts that were held out, and what explains those labels best is kept: an objective that an
    adapter does not help keeps its head, and an adapter that does nothing.

    Args:
        base: The model.
        rows: The comparisons.
        judged: The same with the frozen model's states as features.
        kind: One of `ADAPTED_KINDS`: "bt", trained by the pair loss, or "regression", by the squared error of ratings.
        lora: A `peft.LoraConfig`; by default `default_lora_config()`.
        penalty: Of the heads at the beginning, see `fit_scores`.
        passes: Over the comparisons that are not held out.
        learning_rate: Of AdamW, falling to 0.
        prompts_per_step: Comparisons a step.
        micro_batch_tokens, gradient_checkpointing: See `Engine`.
        seed: Of what is held out, of the initial adapters, and of the order.

    Raises:
        ConfigError: A setting is out of range, or there is too little to learn from.
        ModelError: A population lives on the model, or adapters are on it.
    """
    for name, value in {"passes": passes, "prompts_per_step": prompts_per_step}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number of at least 1. Found {value!r}.")
    if not learning_rate > 0:
        raise ConfigError(f"`learning_rate` must be above 0. Found {learning_rate!r}.")
    begin = fit_scores(judged, kind, penalty=penalty, seed=seed)
    test = _Test(rows, judged, begin, seed)
    learned = [n for n in range(len(rows)) if test.labelled[n].any() and not test.apart[n]]
    width = len(begin.center) + 1
    readers = Readers(base, len(begin.names), lora=lora, notes=width, seed=seed)
    population = readers.population
    assert isinstance(begin.model, Heads)
    heads = np.column_stack([begin.model.weights, begin.model.bias])
    population.parameters[:, -width:] = torch.from_numpy(heads).float()
    engine = Engine(population, micro_batch_tokens=micro_batch_tokens, gradient_checkpointing=gradient_checkpointing)
    optimizer = PopulationAdamW(population.parameters)
    order = ComparisonOrder(test.labelled[learned], seed, "reward models")
    size = min(prompts_per_step, len(learned))
    steps = -(-len(learned) // size)
    best = test.measured(readers)
    for step in range(passes * steps):
        batch = [rows[learned[place]] for place in order.batch(step, size)]
        _learn(engine, batch, begin)
        optimizer.step(population.grad, learning_rate * (1 - step / (passes * steps)))
        if (step + 1) % steps == 0:
            found = test.measured(readers)
            best = [min(pair, key=lambda one: one.loss) for pair in zip(best, found, strict=True)]
    for slot, one in enumerate(best):
        population.load(slot, one.row)
    report = tuple(one.report for one in best)
    heads = np.stack([one.report.temperature * one.row[-width:].double().numpy() for one in best])
    model = Heads(begin.names, heads[:, :-1], heads[:, -1], report)
    return readers, replace(begin, model=model, report=report, adapted=True)


def _learn(engine: Engine, rows: Sequence[ComparisonRow], scores: Scores) -> None:
    """Put the gradient of every objective's loss on some comparisons into the population's buffer."""
    population = engine.population
    device, pad = population.base.device, int(population.base.tokenizer.pad_token_id)
    width = len(scores.center) + 1
    center, scale = (torch.from_numpy(x).float().to(device) for x in (scores.center, scores.scale))
    losses = _squared_errors if scores.kind == "regression" else _pair_losses
    whole = collate(rows, pad)
    # labels of the whole batch divide, however it is cut
    totals = losses(torch.zeros(population.size, *whole.lengths.shape), whole)[1].sum(1)

    def slopes(part: Part, states: Tensor) -> Tensor:
        features = ((states - center) / scale).requires_grad_()
        heads = population.parameters[part.policies, -width:].clone().requires_grad_()
        found = torch.einsum("kngd,kd->kng", features, heads[:, :-1]) + heads[:, -1, None, None]
        loss, counts = losses(found, collate([rows[n] for n in part.prompts], pad), part.policies)
        shares = counts / totals[part.policies, None].clamp(min=1e-12)
        of_features, of_heads = torch.autograd.grad((loss * shares.to(device)).sum(), (features, heads))
        population.grad[part.policies, -width:] += of_heads
        return of_features / scale

    engine.descend_states(engine.prepare(whole.prompts, as_completions(whole, population.size)), slopes)


def _pair_losses(scores: Tensor, batch: ComparisonBatch, which: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Cross-entropies `[k, pairs]` of k objectives' labels under scores `[k, n, g]`, and what each counts."""
    row, a, b = batch.pairs.unbind(1)
    labels = batch.labels[:, which].T
    counts = torch.ones_like(labels) if batch.weights is None else batch.weights[:, which].T
    counts = torch.where(labels.isnan(), 0.0, counts)
    gaps = scores[:, row, a] - scores[:, row, b]
    target = labels.nan_to_num(0.5).to(scores.device)
    return binary_cross_entropy_with_logits(gaps, target, reduction="none"), counts


def _squared_errors(scores: Tensor, batch: ComparisonBatch, which: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Squared errors `[k, ratings]` of scores `[k, n, g]` as k objectives' ratings, and 1 where there is a rating."""
    if batch.scores is None:
        return scores[:, :, :0].flatten(1), torch.zeros(len(scores), 0)
    ratings = batch.scores[..., which].permute(2, 0, 1)
    found = scores[:, :, : ratings.shape[2]] - ratings.nan_to_num().to(scores.device)
    return found.square().flatten(1), ratings.isfinite().float().flatten(1)


@dataclass(frozen=True)
class _Measured:
    """One slot as it stands: the loss on what was held out, its head's report, its row `[P]`."""

    loss: float
    report: HeadReport
    row: Tensor


class _Test:
    """What was held out, as `fit_scores` holds it out.

    Attributes:
        apart: `[N]` which comparisons.
        labelled: `[N, m]` which comparisons say something of an objective.
    """

    def __init__(self, rows: Sequence[ComparisonRow], judged: Judged, scores: Scores, seed: int) -> None:
        self.judged, self.scores = judged, scores
        rated = scores.kind == "regression"
        said = judged.ratings if rated else judged.labels
        assert said is not None
        units = judged.units if rated else judged.pair_units
        self.apart = np.isin(np.arange(len(rows)), units[held_out(units, seed)])
        self.labelled = np.zeros((len(rows), len(judged.names)), dtype=bool)
        np.logical_or.at(self.labelled, units, np.isfinite(said))
        prompts, completions, _ = laid_out(rows)
        self.places = np.flatnonzero(self.apart[judged.units])
        self.prompts, self.completions = ([x[n] for n in self.places] for x in (prompts, completions))

    def measured(self, readers: Readers) -> list[_Measured]:
        """Every slot as it stands."""
        population, judged = readers.population, self.judged
        rows = [population.snapshot(slot) for slot in range(population.size)]
        heads = torch.stack(rows)[:, -len(self.scores.center) - 1 :].double().numpy()
        model = Heads(judged.names, heads[:, :-1], heads[:, -1], ())
        found = np.full((len(judged.units), len(judged.names)), np.nan)
        found[self.places] = model.own_scores(self.scores.standardised(readers.states(self.prompts, self.completions)))
        of = self._rated if self.scores.kind == "regression" else self._compared
        return [_Measured(*told, row) for told, row in zip(map(of, found.T, range(len(rows))), rows, strict=True)]

    def _compared(self, found: FloatArray, j: int) -> tuple[float, HeadReport]:
        judged = self.judged
        test = np.isfinite(judged.labels[:, j]) & self.apart[judged.pair_units]
        first, second = judged.pairs[test].T
        gaps, truth = found[first] - found[second], judged.labels[test, j]
        t = temperature(gaps, truth, judged.weights[test, j])
        report = report_of(judged.names[j], t * gaps, truth, t)
        return report.cross_entropy, report

    def _rated(self, found: FloatArray, j: int) -> tuple[float, HeadReport]:
        assert self.judged.ratings is not None
        truth = self.judged.ratings[:, j]
        test = np.isfinite(truth) & self.apart[self.judged.units]
        error, spread = float(np.square(found[test] - truth[test]).mean()), float(truth[test].var())
        share = 1 - error / spread if spread > 0 else np.nan
        return error, HeadReport(self.judged.names[j], int(test.sum()), share, np.nan, 1.0, np.nan)
