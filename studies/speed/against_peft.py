"""Decoding and training of K policies against stock PEFT on the same base: one after the other, or its mixed batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from subject import LEARNING_RATE, Subject, decoding, learner_for, made_up_rollouts
from timing import Reading, alternate, compare, once
from torch import Tensor

from pareto_align.policies import Base, PolicyPopulation, SamplingParams, sample

CASTS = {"adapters in float32 (PEFT's default)": True, "adapters in the model's type": False}


def generate(model: Any, base: Base, ids: Tensor, length: int, **options: Any) -> None:
    """Stock `generate` from the full distribution, every row to its full length."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length, use_cache=True,
        eos_token_id=None, pad_token_id=base.tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, **options)
    if found.shape[1] != ids.shape[1] + length:
        raise RuntimeError(f"{found.shape[1] - ids.shape[1]} of {length} tokens were generated.")


class Decoders:
    """The population and PEFT, ready to answer one prompt with the same number of rows a policy.

    Args:
        subject: The model.
        policies: K.
        dtype: Of the base.
        casts: Which kinds of PEFT adapters to build.
    """

    def __init__(self, subject: Subject, policies: int, dtype: str, casts: dict[str, bool]) -> None:
        self.policies, self.rows = policies, subject.pick(8, 2)
        self.length, self.prompt_length = subject.pick(32, 4), subject.pick(72, 6)
        self.base = subject.base(dtype, endless=True)
        self.prompt = self.base.encode(subject.prompts(self.base, self.prompt_length, 1)[0])
        self.population = subject.population(self.base, policies)
        self.bases = {name: subject.base(dtype, endless=True) for name in casts}
        self.pefts = {name: subject.peft(self.bases[name], policies, cast=cast) for name, cast in casts.items()}
        for peft in self.pefts.values():
            peft.eval()

    @property
    def setting(self) -> dict[str, Any]:
        """What the results say about it."""
        return {
            "dtype": str(self.base.dtype).removeprefix("torch."), "K": self.policies, "rows_per_policy": self.rows,
            "prompt_tokens": self.prompt_length, "new_tokens": self.length,
        }  # fmt: skip

    def ours(self, policies: int | None = None) -> Reading:
        """All policies (or the first few) in one batch."""
        count = self.policies if policies is None else policies
        rows = self.population.parameters[:count]
        params = SamplingParams(self.length)

        def run() -> None:
            sample(self.population, [self.prompt], self.rows, params, list(range(count)), policies=rows)

        return decoding(self.base.model, self.length, run) | self._tokens(count)

    def _tokens(self, policies: int) -> Reading:
        """Tokens of a call, and those of its decoding steps: the first of a row comes from the prompt's own pass."""
        rows = policies * self.rows
        return {"tokens": rows * self.length, "decoding_tokens": rows * (self.length - 1)}

    def sequential(self, name: str, policies: int | None = None) -> Reading:
        """One `generate` call a policy, one after the other."""
        peft, base = self.pefts[name], self.bases[name]
        ids = torch.tensor([self.prompt]).repeat(self.rows, 1)
        count = self.policies if policies is None else policies
        total = {"seconds": 0.0, "decoding": 0.0}
        for k in range(count):
            peft.set_adapter(f"p{k}")
            found = decoding(base.model, self.length, lambda: generate(peft, base, ids, self.length))
            total = {part: total[part] + found[part] for part in total}
        return total | self._tokens(count)

    def merged(self, name: str) -> Reading:
        """One policy, merged into the weights for its call and taken out again."""
        peft, base = self.pefts[name], self.bases[name]
        ids = torch.tensor([self.prompt]).repeat(self.rows, 1)
        peft.set_adapter("p0")

        def run() -> None:
            peft.merge_adapter()
            generate(peft, base, ids, self.length)
            peft.unmerge_adapter()

        return once(run)

    def mixed(self, name: str) -> Reading:
        """PEFT's mixed batch: every row names its adapter."""
        names = [f"p{k}" for k in range(self.policies) for _ in range(self.rows)]
        ids = torch.tensor([self.prompt]).repeat(len(names), 1)
        peft, base = self.pefts[name], self.bases[name]
        found = decoding(base.model, self.length, lambda: generate(peft, base, ids, self.length, adapter_names=names))
        return found | self._tokens(self.policies)


def _figures(theirs: tuple[str, list[Reading]], ours: tuple[str, list[Reading]]) -> dict[str, Any]:
    return {
        "decoding": compare(theirs, ours, "s", key="decoding"),
        "call": compare(theirs, ours, "s"),
    }


def decode_sequential(subject: Subject) -> dict[str, Any]:
    """K = 8 policies of 8 rows each in one batch, against 8 calls of `generate`."""
    decoders = Decoders(subject, subject.pick(8, 3), "bfloat16", CASTS)
    for name in CASTS:
        decoders.sequential(name, 1)
    candidates = {name: decoders.sequential(name, 1)["seconds"] for name in CASTS}
    best = min(candidates, key=lambda name: candidates[name])
    # as fast as the base alone, but in bfloat16 the weights do not come back as they were: no way to train with
    candidates["merged into the weights for the call (not exact)"] = decoders.merged(best)["seconds"]
    decoders.ours()
    names = ("PEFT, one call a policy", f"population, K = {decoders.policies}")
    variants = {names[0]: lambda: decoders.sequential(best), names[1]: decoders.ours}
    readings = alternate(variants, subject.rounds, warm_up=lambda: None)
    theirs, ours = ((name, readings[name]) for name in names)
    return {
        "setting": decoders.setting,
        "figures": _figures(theirs, ours),
        "baseline": best,
        "candidates": {name: round(seconds, 3) for name, seconds in candidates.items()},
    }


def decode_mixed(subject: Subject) -> dict[str, Any]:
    """K = 8 policies of 8 rows each in one batch, against PEFT's own batch of mixed adapters."""
    decoders = Decoders(subject, subject.pick(8, 3), "bfloat16", CASTS)
    decoders.mixed(next(iter(CASTS)))
    candidates = {name: decoders.mixed(name)["seconds"] for name in CASTS}
    best = min(candidates, key=lambda name: candidates[name])
    decoders.ours()
    names = ("PEFT, mixed batch", f"population, K = {decoders.policies}")
    variants = {names[0]: lambda: decoders.mixed(best), names[1]: decoders.ours}
    readings = alternate(variants, subject.rounds, warm_up=lambda: None)
    theirs, ours = ((name, readings[name]) for name in names)
    return {
        "setting": decoders.setting,
        "figures": _figures(theirs, ours),
        "baseline": best,
        "candidates": {name: round(seconds, 3) for name, seconds in candidates.items()},
    }


def decode_growth(subject: Subject) -> dict[str, Any]:
    """Decoding of K = 8 policies against one, 8 rows each."""
    policies = subject.pick(8, 3)
    decoders = Decoders(subject, policies, "bfloat16", {})
    names = (f"K = {policies}", "K = 1")
    variants = {names[0]: decoders.ours, names[1]: lambda: decoders.ours(1)}
    readings = alternate(variants, max(subject.rounds, subject.pick(5, 1)))
    many, one = ((name, readings[name]) for name in names)
    return {"setting": decoders.setting, "figures": _figures(many, one)}


class _PeftTraining:
    """K sequential passes of stock PEFT: logits, log-softmax, weighted sum, backward; no checkpointing."""

    def __init__(self, subject: Subject, dtype: str, cast: bool, ids: Tensor, completion: int) -> None:
        self.ids, self.completion = ids, completion  # [K, rows, tokens]
        base = subject.base(dtype, endless=True)
        self.model = subject.peft(base, len(ids), cast=cast)
        self.model.train()
        self.weights = torch.randn(len(ids), ids.shape[1], 1, generator=torch.Generator().manual_seed(0))

    def passes(self, policies: int) -> None:
        """Forward and backward of the first few policies, one after the other."""
        for k in range(policies):
            self.model.set_adapter(f"p{k}")
            ids, length = self.ids[k], self.completion
            logits = self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=length + 1, use_cache=False
            ).logits[:, :-1]
            logprobs = logits.float().log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
            (-(self.weights[k] * logprobs).sum()).backward()
            self.model.zero_grad(set_to_none=True)


@contextmanager
def _populated(subject: Subject, policies: int, dtype: str) -> Iterator[PolicyPopulation]:
    population = subject.population(subject.base(dtype, endless=True), policies)
    try:
        yield population
    finally:
        population.close()


def _training(subject: Subject, dtype: str) -> dict[str, Any]:
    policies, rows = subject.pick(4, 2), subject.pick(8, 3)
    prompt_length, length = subject.pick(48, 6), subject.pick(64, 4)
    with _populated(subject, policies, dtype) as population:
        prompts = subject.prompts(population.base, prompt_length, 1)
        rollouts = made_up_rollouts(subject, population, prompts, rows, length, 1)
        done = rollouts.completions
        prompt = torch.tensor(done.prompt_ids).expand(policies, rows, -1)
        ids = torch.cat([prompt, done.tokens[:, 0]], -1)
        learner = learner_for(population)

        def ours() -> None:
            learner.step(rollouts, np.ones((policies, 1)), LEARNING_RATE)

        casts = CASTS if dtype != "float32" else {next(iter(CASTS)): True}  # in float32 both are the same
        pefts = {name: _PeftTraining(subject, dtype, cast, ids, length) for name, cast in casts.items()}
        candidates = {}
        for name, peft in pefts.items():
            peft.passes(1)
            candidates[name] = once(lambda peft=peft: peft.passes(1))["seconds"]  # type: ignore[misc]
        best = min(candidates, key=lambda name: candidates[name])
        ours()
        tokens = ids.numel()
        names = ("PEFT, one pass a policy", f"population, K = {policies}")
        readings = alternate(
            {names[0]: lambda: pefts[best].passes(policies), names[1]: ours}, subject.rounds, warm_up=lambda: None
        )
        for reading in (*readings[names[0]], *readings[names[1]]):
            reading["tokens"] = tokens
    return {
        "figure": compare((names[0], readings[names[0]]), (names[1], readings[names[1]]), "s"),
        "setting": {
            "K": policies, "rows_per_policy": rows, "prompt_tokens": prompt_length, "completion_tokens": length,
        },
        "baseline": best,
        "candidates": {name: round(seconds, 3) for name, seconds in candidates.items()},
    }  # fmt: skip


def train_sequential(subject: Subject) -> dict[str, Any]:
    """Forward and backward of K = 4 policies, 8 rows each; ours with credit, clipping and AdamW, PEFT's without."""
    found = {dtype: _training(subject, dtype) for dtype in ("bfloat16", "float32")}
    return {
        "setting": found["float32"]["setting"],
        "figures": {dtype: part["figure"] for dtype, part in found.items()},
        "baseline": {dtype: part["baseline"] for dtype, part in found.items()},
        "candidates": {dtype: part["candidates"] for dtype, part in found.items()},
    }
