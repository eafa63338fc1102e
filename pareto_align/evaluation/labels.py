"""Measurement on held-out comparisons, where nothing judges an answer: how much of the labels a policy explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pareto_align.data.agreement import ceilings, pooled_pairs
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.prompts import groups_of
from pareto_align.evaluation.answers import Measurement
from pareto_align.front import Estimate
from pareto_align.learning.comparisons import collate
from pareto_align.learning.explained import explained_rows
from pareto_align.learning.offline import as_completions, reference_logprobs
from pareto_align.policies.engine import Engine
from pareto_align.policies.sampling import SamplingParams

__all__ = ["LabelEvaluator"]

ROWS_AT_ONCE = 32  # comparisons that are read at a time


class LabelEvaluator:
    """Measures policies on a fixed set of comparisons; it has the face of `Evaluator`.

    The same policy measured again gives the same numbers, so nothing is gained by racing (`repeatable`).

    Args:
        engine: Runs the policies, at temperature 1.
        prompts: n comparisons.
        beta: What a log-ratio is multiplied by to become the logit of a preference; the learner's.
        group: Column whose values make prompts one unit of the estimates; None: each is its own.
        samples: Prompts that each policy also answers, for people to read.
        params: How it samples those.
        seed: Of those.
    """

    repeatable = False

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[ComparisonRow],
        beta: float,
        *,
        group: str | None = None,
        samples: int = 0,
        params: SamplingParams | None = None,
        seed: int = 0,
    ) -> None:
        self.engine, self.beta, self.samples = engine, beta, samples
        self.prompts = sorted(prompts, key=lambda prompt: len(prompt.ids))
        self.groups = groups_of([row.row for row in self.prompts], group)
        self.params = params or SamplingParams(128)
        self.seed = seed
        self.tokens = 0
        self._references: list[Tensor] | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The untrained model's log-probabilities, which a run that goes on does not find again."""
        return {} if self._references is None else {"references": torch.cat(self._references)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""
        if "references" in state:
            self._references = list(state["references"].split([len(row.tokens) for row in self.prompts]))

    def measure_reference(self, *, check: bool = False) -> Measurement:
        """Measure the untrained model, which explains nothing: exactly 0 wherever there is a label.

        Args:
            check: Unused; comparisons were checked when they were read.
        """
        base = torch.zeros(1, self.engine.population.parameter_count)  # B is zero: the model itself
        return self._measure(base, untrained=True)[0]

    def measure(self, policies: Tensor, *, repeat: int = 0) -> list[Measurement]:
        """Measure any policies `[k, P]`; `repeat` changes nothing."""
        return self._measure(policies)

    def tokens_for(self, length: float | None) -> float:
        """Tokens that measuring a policy reads."""
        return float(sum(len(row.ids) + sum(map(len, row.tokens)) for row in self.prompts))

    def ceilings(self, axes: Sequence[int]) -> list[np.ndarray]:
        """What the labels allow of each two objectives, `[n, 2]` explained each; see `data.agreement.ceilings`.

        Nothing where single responses are marked: there are no pairs that say it all.
        """
        rows = [row.comparison for row in self.prompts]
        if any(row.marks is not None for row in rows):
            return []
        return ceilings(pooled_pairs(Comparisons(rows, [str(i) for i in range(rows[0].m)])), axes)

    def _measure(self, policies: Tensor, *, untrained: bool = False) -> list[Measurement]:
        if self._references is None:
            self._references = reference_logprobs(self.engine, self.prompts)
        engine, count = self.engine, len(policies)
        policies = policies.to(engine.population.base.device)
        pad = int(engine.population.base.tokenizer.pad_token_id)
        found = []
        for start in range(0, len(self.prompts), ROWS_AT_ONCE):
            part = self.prompts[start : start + ROWS_AT_ONCE]
            batch = collate(part, pad)
            reference = pad_sequence(self._references[start : start + len(part)], batch_first=True)[None]
            if untrained:  # read once more, in passes of another shape, it would differ from itself by rounding
                logps = reference
            else:
                read = engine.prepare(batch.prompts, as_completions(batch, count))
                logps = engine.logprobs(read, policies).sum(-1)
            found.append(explained_rows(batch.view(logps, reference), self.beta).double().numpy())
        scores = np.concatenate(found, 1)[:, :, None]  # [k, n, 1, M]
        self.tokens += int(self.tokens_for(None)) * count
        lengths = [len(one) for row in self.prompts for one in row.tokens]
        texts = self._answers(policies)
        return [
            Measurement(
                estimate=Estimate.from_samples(scores[k], range(len(self.prompts)), self.groups),
                rewards=scores[k],
                texts=texts[k],
                length=float(np.mean(lengths)),
                of_answers=False,
            )
            for k in range(count)
        ]

    def _answers(self, policies: Tensor) -> list[list[str]]:
        """What each policy says to the first prompts."""
        if not self.samples:
            return [[] for _ in policies]
        prompts = [list(row.ids) for row in self.prompts[: self.samples]]
        drawn = self.engine.sample(prompts, 1, self.params, [self.seed] * len(policies), policies=policies)
        lists = drawn.token_lists()
        self.tokens += sum(map(len, lists))
        texts = self.engine.population.base.decode_all(lists)
        return [texts[k * len(prompts) : (k + 1) * len(prompts)] for k in range(len(policies))]
