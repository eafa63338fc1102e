"""Runs of a tiny model that is loaded by name, so that workers can load it too; and what is compared of them."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from tiny_models import PROMPTS, SYMBOLS, lora, tiny_model
from tiny_rewards import first, second

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.runs.journal import read_journal
from pareto_align.testing.tiny import symbol_tokenizer

TEXTS = [f"<{n % PROMPTS}>{'abc'[: n % 3]}{'de'[: n % 2]}" for n in range(12)]
SMALL = {
    "population": 4,
    "shard_size": 2,
    "steps": 4,
    "prompts_per_step": 2,
    "group_size": 4,
    "max_new_tokens": 4,
    "learning_rate": 3e-2,
    "eval_every": 2,
    "eval_prompts": 4,
    "eval_group_size": 2,
    "resolution": 0.0,
    "device": "cpu",
    "dtype": "float32",
    "family": "independent",
    "learner": "centred",
    "progress": False,
    "use_chat_template": False,
}
FAMILY = {"family": {"name": "gates", "shared": 2, "each": 2}}
CLOCK = ("time", "seconds", "reward_seconds")


def saved_model(folder: Path) -> str:
    """A model with its tokenizer in a folder."""
    tiny_model("llama").save_pretrained(folder)
    symbol_tokenizer(SYMBOLS, PROMPTS).save_pretrained(folder)
    return str(folder)


def make(model: str, **settings) -> ParetoAligner:
    objectives = [Objective("first", first, bounds=(0, 1)), Objective("second", second, bounds=(0, 1))]
    return ParetoAligner(model, objectives, **{**SMALL, "lora": lora(2), **settings})


def fit(model: str, run: Path, **settings) -> ParetoAligner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = make(model, output_dir=run, **settings)
        aligner.fit(TEXTS)
    return aligner


def bytes_of(run: Path) -> dict[str, str]:
    """SHA-256 of every file of the front, and of the journal without its clocks."""
    front = run / "front"
    found = {
        str(path.relative_to(front)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(front.rglob("*"))
        if path.is_file()
    }
    events = [{k: v for k, v in event.items() if k not in CLOCK} for event in read_journal(run / "journal.jsonl")]
    return found | {"journal": hashlib.sha256(json.dumps(events).encode()).hexdigest()}
