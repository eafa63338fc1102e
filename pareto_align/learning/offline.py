"""Learning from comparisons: somebody has said which answers are better, and no answer is sampled.

A preference loss has one slope for each response and objective, so the engine's one backward pass holds the gradients
of all objectives of all policies, and every weighting acts on them as on rewards.

References:
    Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290.
    Zhou et al., "Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization", arXiv
        2310.03708 (learner "modpo").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pareto_align.arguments import Count, Positive, Share
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.ordering import ComparisonOrder
from pareto_align.errors import ConfigError
from pareto_align.learning.comparisons import ComparisonBatch, collate, token_weights
from pareto_align.learning.explained import ranked, statements
from pareto_align.learning.learner import Context, Learner, StepReport, register_learner
from pareto_align.learning.preferences import PairView, PreferenceLoss, make_losses
from pareto_align.objectives import RewardScale
from pareto_align.policies.batches import Batch, Part
from pareto_align.policies.engine import Engine, Slopes
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.policies.sampling import Completions

__all__ = [
    "Dpo",
    "Modpo",
    "PreferenceLearner",
    "Reading",
    "as_completions",
    "reference_logprobs",
]

Overflow = Literal["error", "drop", "truncate"]

REFERENCE_ROWS = 64  # comparisons that are read at a time with the adapters off


@dataclass(eq=False)
class Reading:
    """Some comparisons, as K policies read them.

    Attributes:
        batch: The N comparisons.
        completions: Their responses `[K, N, G, T]`, the same for all policies; a response that is missing is empty.
        reference: `[1, N, G]` summed log-probabilities under the untrained model.
        M: How many objectives there are.
        axes: Which of them are learned.
        found: `[K, m]` how much of the labels each policy explains; None before they were read.
        logprobs: `[K, N, G, T]` as the policies of this step read them, where that was needed beforehand.
        kl: `[K]` how far each policy is from the untrained model on responses behind prompts that are not theirs, where
            the loss needs it.
    """

    batch: ComparisonBatch
    completions: Completions
    reference: Tensor
    M: int
    axes: Sequence[int]
    found: np.ndarray | None = None
    logprobs: Tensor | None = None
    kl: Tensor | None = None
    rewards: None = field(default=None, init=False)

    @property
    def token_count(self) -> int:
        """Tokens that were read, prompts included; one reading serves all policies."""
        return int(self.batch.mask.sum()) + sum(map(len, self.batch.prompts))

    @property
    def count(self) -> int:
        """Responses that were read."""
        return int((self.batch.lengths > 0).sum())

    def values(self) -> np.ndarray:
        """How much of the labels each policy explains, `[K, M]`: see `explained`; NaN where nothing is labelled."""
        values = np.full((len(self.completions.tokens), self.M), np.nan)
        if self.found is not None:
            values[:, list(self.axes)] = self.found
        return values

    def lengths(self) -> np.ndarray:
        """Mean length of the responses, `[K]` in tokens."""
        return np.full(len(self.completions.tokens), int(self.batch.mask.sum()) / max(self.count, 1))


def as_completions(batch: ComparisonBatch, policies: int) -> Completions:
    """The responses as completions `[K, N, G, T]`: one copy, seen by all K policies."""
    tokens, mask = (x.expand(policies, -1, -1, -1) for x in (batch.tokens, batch.mask))
    return Completions(batch.prompts, tokens, mask, torch.zeros(1).expand(tokens.shape))


def reference_logprobs(engine: Engine, rows: Sequence[ComparisonRow]) -> list[Tensor]:
    """Summed log-probabilities `[G]` of each comparison's responses under the untrained model."""
    pad = int(engine.population.base.tokenizer.pad_token_id)
    found: list[Tensor] = []
    for start in range(0, len(rows), REFERENCE_ROWS):
        part = rows[start : start + REFERENCE_ROWS]
        batch = collate(part, pad)
        read = engine.prepare(batch.prompts, as_completions(batch, engine.population.size))
        sums = engine.reference_logprobs(read.of_one()).sum(-1)[0]
        found += [sums[n, : len(row.tokens)].clone() for n, row in enumerate(part)]
    return found


def _labelled(row: ComparisonRow) -> np.ndarray:
    """Under which objectives something is said of a comparison's responses, `[m]`."""
    said = [np.isfinite(row.comparison.labels.values)]
    if row.comparison.marks is not None:
        said.append(np.isfinite(row.comparison.marks))
    found: np.ndarray = np.concatenate(said).max(axis=0)
    return found


class PreferenceLearner(Learner):
    """What learners from comparisons share: the data, the reference, the passes. A subclass has a `loss`."""

    needs = "comparisons"
    provides = frozenset({"measured", "gramians", "slack", "audits"})
    values_with_gradients = True
    loss: PreferenceLoss
    drop_ties = False
    ld_alpha: float | None = None
    max_length: int | None = None
    overflow: Overflow = "error"

    @property
    def beta(self) -> float:
        """What a log-ratio is multiplied by to become the logit of a preference."""
        parts = getattr(self.loss, "parts", (self.loss,))
        return float(next((beta for part in parts if (beta := getattr(part, "beta", None))), 0.1))

    @property
    def scale(self) -> RewardScale:
        """That of labels, also where answers are measured on another."""
        return RewardScale.of_labels(len(self.context.scale.scale))

    def setup(self, context: Context) -> None:
        """Begin a run. The untrained model reads the comparisons at the first step, once for all policies.

        Raises:
            ConfigError: There are no comparisons.
        """
        super().setup(context)
        given = [row for row in context.prompts if isinstance(row, ComparisonRow)]
        if not given:
            raise ConfigError(f"The learner {self.name!r} learns from comparisons, and there are none.")
        keep = [False] * len(self.axes)
        self.data = [replace(row, comparison=row.comparison.of_columns(self.axes, keep)) for row in given]
        self.references: list[Tensor] | None = None
        labelled = np.array([_labelled(row) for row in self.data])
        self.order = ComparisonOrder(labelled, context.seed)
        # a row of one pair needs one copy of its prompt for any number of objectives
        single = all(len(row.tokens) == 2 and len(row.comparison.labels) == 1 for row in self.data)
        self.rank_one = self.loss.rank_one and single

    def collect(self, step: int) -> Reading:
        """The step's comparisons: whole passes over all of them, every batch with labels of all objectives."""
        if self.references is None:
            self.references = reference_logprobs(self.engine, self.data)
        places = self.order.batch(step, self.context.prompts_per_step).tolist()
        batch = collate([self.data[place] for place in places], int(self.population.base.tokenizer.pad_token_id))
        reference = pad_sequence([self.references[place] for place in places], batch_first=True)[None]
        done = as_completions(batch, self.population.size)
        return Reading(batch, done, reference, len(self.context.scale.scale), self.axes)

    def coefficients(self, seen: Reading) -> Tensor:
        """How steeply each objective's likelihood of its labels rises in each response's log-probability."""
        return -self.loss.coefficients(self._view(seen, self._summed(seen, self._logprobs(seen))))[1].float()

    def _read(self, seen: Reading) -> Batch:
        return self.engine.prepare(seen.batch.prompts, seen.completions)

    def _logprobs(self, seen: Reading) -> Tensor:
        return self.engine.logprobs(self._read(seen))

    def _weights(self, seen: Reading) -> Tensor:
        """`[K, N, G, T]` what each token counts in its response's log-probability."""
        return token_weights(seen.batch.mask, self.ld_alpha).expand(seen.completions.mask.shape)

    def _summed(self, seen: Reading, logprobs: Tensor) -> Tensor:
        found: Tensor = (logprobs * self._weights(seen)).sum(-1)
        return found

    def gradients(self, seen: Reading, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy; what the policies explain is known afterwards.

        Args:
            seen: What was collected.
            halves: Not offered.

        Raises:
            ConfigError: `halves` was asked for.
        """
        if halves:
            raise ConfigError(f"The learner {self.name!r} does not halve its comparisons.")
        return self._gradients(seen, None)

    def _gradients(self, seen: Reading, trade: Tensor | None) -> ObjectiveGradients:
        batch, weights = self._read(seen), self._weights(seen)
        m = len(self.axes)
        if self.loss.couples_batch or trade is not None or self.loss.unit != "pair":
            logprobs = self.engine.logprobs(batch) if seen.logprobs is None else seen.logprobs
            more = {} if trade is None else self._traded(trade)
            slopes = -self.loss.coefficients(self._view(seen, self._summed(seen, logprobs), **more))[1].float()
            if trade is not None:
                slopes = slopes.sum(-1, keepdim=True)  # the weights are in them already
            found, _ = self.engine.ascend(batch, slopes, weights)
            gradients = found[0]
        else:
            gradients, logprobs = self.engine.respond(batch, m, self._slopes(seen), weights, rank_one=self.rank_one)
        if seen.found is None:
            self._note(seen, self._summed(seen, logprobs))
        return ObjectiveGradients(gradients, None, None, logprobs, batch, True)

    def _slopes(self, seen: Reading) -> Slopes:
        """The slopes of some of the responses, in the mean over the whole batch's labels."""
        whole = self._view(seen, torch.zeros(seen.reference.shape))
        totals = self.loss.counted(whole).sum(0)
        rows = seen.batch.rows
        pad = int(self.population.base.tokenizer.pad_token_id)

        def slopes(part: Part, logps: Tensor) -> tuple[Tensor, Tensor]:
            few = collate([rows[n] for n in part.prompts], pad)
            group = few.lengths.shape[1]
            reference = seen.reference[:, part.prompts, :group]
            view = few.view(logps[..., :group], reference, totals=totals, drop_ties=self.drop_ties)
            if not self.rank_one:
                found = torch.zeros(*logps.shape, len(self.axes))
                found[:, :, :group] = -self.loss.coefficients(view)[1]
                return torch.ones(logps.shape), found
            _, of_pairs, of_scores = self.loss.slopes(view)
            row, a, b = view.pairs.unbind(1)
            own = torch.zeros(*logps.shape[:2], 1, of_pairs.shape[-1])
            own[:, row, 0] = -of_pairs.float()
            sign = torch.zeros(logps.shape[1:])
            sign[row, a], sign[row, b] = 1.0, -1.0
            return of_scores.float() * sign, own

        return slopes

    def _view(self, seen: Reading, logps: Tensor, **more: Any) -> PairView:
        """The batch as the loss sees it."""
        return seen.batch.view(logps, seen.reference, drop_ties=self.drop_ties, **more)

    def _traded(self, trade: Tensor) -> dict[str, Tensor]:
        return {"trade": trade}

    def _note(self, seen: Reading, logps: Tensor) -> None:
        """What the policies explain, and what is told of a step."""
        view = self._view(seen, logps)
        said = statements(view, self.beta)
        seen.found = said.mean(said.values).double().numpy()
        preferred, other = self._changes(view)
        self._told = {
            "accuracy": ranked(said).numpy(),
            "preferred_change": preferred.numpy(),
            "other_change": other.numpy(),
        }
        left = 2 * torch.sigmoid(-said.logits.abs())[:, said.counted.sum(1) > 0]
        self._left = left.mean(1).numpy() if left.shape[1] else np.ones(len(logps))

    def _changes(self, view: PairView) -> tuple[Tensor, Tensor]:
        """`[K, m]` by how much the preferred responses became likelier than they were, and the others."""
        preferred, other = view.winners(view.ratios)
        decided = (view.sides != 0).to(preferred)
        count = decided.sum(0).clamp(min=1)
        return (preferred * decided).sum(1) / count, (other * decided).sum(1) / count

    def step(
        self,
        seen: Reading,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy: see `Learner.step`.

        Raises:
            ConfigError: Weights are to act on rewards, and there are none.
        """
        if applies_to != "advantage":
            raise ConfigError(f"The learner {self.name!r} has no rewards for weights to act on.")
        trade = torch.from_numpy(weights).float()
        found = self.gradients(seen) if gradients is None else gradients
        self.population.grad.copy_(-found.combine(trade))
        return self._stepped(learning_rate)

    def _stepped(self, learning_rate: float) -> StepReport:
        norms = self.optimizer.step(self.population.grad, learning_rate).cpu().numpy()
        unknown = np.full(len(norms), np.nan)
        sound = np.isfinite(self._told["preferred_change"]).all(1)
        return StepReport(norms, unknown, unknown, self._left, sound, self._told)

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's state, and the untrained model's log-probabilities, which are not found again."""
        known = {} if self.references is None else {"references": torch.cat(self.references)}
        return {**super().state_dict(), **known}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        super().load_state_dict(state)
        if "references" in state:
            self.references = list(state["references"].split([len(row.tokens) for row in self.data]))


@register_learner("dpo")
class Dpo(PreferenceLearner):
    """Direct preference optimisation, and every other loss of compared answers, of all objectives at once.

    A weighting weighs the objectives' losses. With weights w and labels p_j the optimum foresees the mean label
    sum_j w_j p_j; the mixture of the rewards behind the labels, which learner "modpo" aims at, is another point.

    Args:
        loss_type: A loss by its name in TRL, or several: see `docs/preference-losses.md`.
        loss_weights: One number each.
        beta: How strongly the untrained model is held on to; by default the loss's own.
        label_smoothing: Share of the labels that is taken to be wrong, for the losses that know it.
        ld_alpha: What a token counts beyond the length that both answers have, from 0 to 1; by default as much.
        ties: "half" pulls tied answers together where the loss can; "drop" leaves them out.
        max_length: Tokens that prompt and answer may have together; by default the model's context.
        overflow: What happens to a comparison that is longer: "error", "drop", or "truncate" all its answers alike.
        f_divergence_type, f_alpha_divergence_coef, simpo_gamma, cpo_alpha, tpo_alpha, tpo_l_gamma, discopop_tau,
            odpo_alpha, desirable_weight, undesirable_weight: Of the losses that have them.
    """

    def __init__(
        self,
        *,
        loss_type: Any = "sigmoid",
        loss_weights: Any = None,
        beta: Positive | None = None,
        label_smoothing: Share | None = None,
        ld_alpha: Share | None = None,
        ties: Literal["half", "drop"] = "half",
        max_length: Count | None = None,
        overflow: Overflow = "error",
        f_divergence_type: str | None = None,
        f_alpha_divergence_coef: float | None = None,
        simpo_gamma: float | None = None,
        cpo_alpha: float | None = None,
        tpo_alpha: float | None = None,
        tpo_l_gamma: float | None = None,
        discopop_tau: float | None = None,
        odpo_alpha: float | None = None,
        desirable_weight: float | None = None,
        undesirable_weight: float | None = None,
    ) -> None:
        given = {
            "beta": beta,
            "label_smoothing": label_smoothing,
            "f_divergence_type": f_divergence_type,
            "f_alpha_divergence_coef": f_alpha_divergence_coef,
            "simpo_gamma": simpo_gamma,
            "cpo_alpha": cpo_alpha,
            "tpo_alpha": tpo_alpha,
            "tpo_l_gamma": tpo_l_gamma,
            "discopop_tau": discopop_tau,
            "odpo_alpha": odpo_alpha,
            "desirable_weight": desirable_weight,
            "undesirable_weight": undesirable_weight,
        }
        settings = {name: value for name, value in given.items() if value is not None}
        self.loss = make_losses(loss_type, loss_weights, **settings)
        if self.loss.weights_inside:
            raise ConfigError(f"{self.loss.name!r} is a learner of its own: learner={self.loss.name!r}.")
        if any(getattr(part, "needs_kl", False) for part in getattr(self.loss, "parts", (self.loss,))):
            raise ConfigError("'kto' estimates a KL divergence and is a learner of its own: learner='kto'.")
        self.drop_ties, self.ld_alpha = ties == "drop", ld_alpha
        self.max_length, self.overflow = max_length, overflow


@register_learner("modpo")
class Modpo(PreferenceLearner):
    """MODPO in one run: the population's own corner policies are the margins of all others.

    It aims at `pi_ref exp(w.r / beta) / Z`, the optimum for the mixture of the rewards behind the labels, where learner
    "dpo" weighs losses. Every objective needs a policy whose weight is on it alone; they are plain DPO.

    Args:
        beta: How strongly the untrained model is held on to.
        max_length, overflow: As of `Dpo`.
    """

    provides = frozenset({"measured", "audits"})
    values_with_gradients = False
    couples_policies = True

    def __init__(self, *, beta: Positive = 0.1, max_length: Count | None = None, overflow: Overflow = "error") -> None:
        self.loss = make_losses("modpo", beta=beta)
        self.max_length, self.overflow = max_length, overflow

    def collect(self, step: int) -> Reading:
        """The step's comparisons, read by all policies: the weights are inside the loss, so they come first."""
        seen = super().collect(step)
        seen.logprobs = self._logprobs(seen)
        self._note(seen, self._summed(seen, seen.logprobs))
        return seen

    def gradients(self, seen: Reading, *, halves: bool = False) -> ObjectiveGradients:
        """Refused: the loss is no weighted sum.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "The learner 'modpo' has the weights inside its loss, so objectives have no gradients of their own. Use "
            "learner='dpo', or a weighting that needs none."
        )

    def _traded(self, trade: Tensor) -> dict[str, Tensor]:
        """The weights, and the policies at the corners.

        Raises:
            ConfigError: An objective has none.
        """
        shares = trade / trade.sum(1, keepdim=True).clamp(min=1e-12)
        best = shares.max(0)
        if (best.values < CORNER).any():
            worst = int(best.values.argmin())
            raise ConfigError(
                f"The learner 'modpo' takes margins from policies at the corners, and none has its weight on objective "
                f"{worst} alone (the most is {float(best.values[worst]):.2f}). Use weighting='fixed' with "
                "explorer='grid', whose first and last policies stand there."
            )
        return {"trade": shares, "corners": best.indices}

    def step(
        self,
        seen: Reading,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy under its weights: see `Learner.step`."""
        trade = torch.from_numpy(weights).float()
        found = self._gradients(seen, trade)
        self.population.grad.copy_(-found.gradients[:, 0])
        return self._stepped(learning_rate)


CORNER = 0.99
"""Weight of an objective at which a policy stands at its corner."""
