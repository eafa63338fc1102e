"""Runs of the whole pipeline that take a fraction of a second: three policies on a problem of six symbols."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from peft import LoraConfig

from pareto_align import ParetoAligner, ParetoAlignWarning
from pareto_align.runs.journal import read_journal
from pareto_align.testing.problems import get_problem

PROBLEM = get_problem("arc", V=6, hidden_size=16)
SMALL = {
    "family": "independent",
    "learner": "centred",
    "population": 3,
    "steps": 4,
    "prompts_per_step": 2,
    "group_size": 6,
    "max_new_tokens": 1,
    "learning_rate": 1e-2,
    "eval_every": 2,
    "eval_group_size": 8,
    "device": "cpu",
    "progress": False,
    "use_chat_template": False,
}
STEP_CALL = 3 * 2 * 6  # completions of one training step: policies x prompts x samples


def lora(**settings):
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})


def make(objectives=None, *, model=None, tokenizer=None, **settings):
    settings = {**SMALL, "lora": lora(), **settings}
    return ParetoAligner(
        PROBLEM.model() if model is None else model,
        PROBLEM.objectives() if objectives is None else objectives,
        tokenizer=PROBLEM.tokenizer() if tokenizer is None else tokenizer,
        **settings,
    )


def fit(folder, objectives=None, *, prompts=PROBLEM.prompts, eval_prompts=None, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = make(objectives, output_dir=folder, **settings)
        return aligner.fit(list(prompts), eval_prompts=eval_prompts), aligner


def events(folder, kind=None):
    found = read_journal(folder / "journal.jsonl")
    return [event for event in found if kind in (None, event["event"])]


def contents(run: Path) -> dict[str, str]:
    """SHA-256 of front.json, the card, and every file of every adapter."""
    front = run / "front"
    return {
        str(path.relative_to(front)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(front.rglob("*"))
        if path.is_file()
    }
