"""The GPU table of docs/benchmarks.md, from the files in studies/gpu/results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

TITLES = {
    "machine.copy_bandwidth": "copying within the card's memory, TB/s",
    "machine.product_8192": "a product of 8192 x 8192, bfloat16, TFLOP/s",
    "decode.smollm2_64_rows": "decoding step at 64 rows, eager, SmolLM2-135M's shape, ms",
    "decode.qwen-0.5b_64_rows": "the same, Qwen2.5-0.5B's shape, ms",
    "decode.qwen-0.5b_512_rows": "the same at 512 rows, ms",
    "decode.qwen-1.5b_64_rows": "the same at 64 rows, Qwen2.5-1.5B's shape, ms",
    "decode.kernels_a_step": "kernels of a decoding step, 0.5B",
    "decode.busy_share": "share of a step that the GPU is busy, 64 rows, 0.5B",
    "graphs.qwen-0.5b_64_rows": "CUDA graphs against eager, 0.5B, 64 rows, x",
    "graphs.qwen-0.5b_512_rows": "the same at 512 rows, x",
    "train.qwen-0.5b_16384_tokens": "training, passes of 16k tokens, 0.5B, tokens/s",
    "train.qwen-1.5b_roofline_share": "training, passes of 16k tokens, 1.5B: share of the products' peak",
    "train.decode_32_over_1": "decoding K = 32 x 8 rows against K = 1, 0.5B: time, x",
    "train.masks_saved_gib": "memory that one mask for all layers saves, 0.5B, GiB",
    "seven.peak_gib": "peak memory of a training step of 8 policies, 7B's shape, GiB",
    "peers.trl_generate": "policy-step against TRL's GRPOTrainer with generate, 0.5B, K = 8, 8 rows, x",
    "peers.trl_continuous_batching": "the same with continuous batching, x",
    "peers.peft_mixed": "decoding against PEFT's mixed batch, 0.5B, K = 8, 8 rows, x",
    "front.minutes": "the demo's front on SmolLM2-135M, minutes",
    "kill.same_bytes": "killed and resumed in the deterministic mode: the same bytes",
    "correctness.deterministic_cost": "time of a step in the deterministic mode, x the default's",
    "evaluation.chunks_over_one": "64 prompts in four batches against one: time, x",
}


def read(folder: Path = RESULTS) -> dict[str, Any]:
    """The stages' files by name; empty where nothing was run."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def gpu(stages: dict[str, Any]) -> str:
    """The table, a line a figure, each beside its prediction and what was asked for; it says what was not run."""
    known = _predictions()
    figures = {
        f"{name.partition('-')[2]}.{figure}": found
        for name, stage in stages.items()
        for figure, found in stage["figures"].items()
    }
    machines = sorted({f"{s['machine']['device']}, torch {s['machine']['torch']}, transformers "
                       f"{s['machine']['transformers']}" for s in stages.values() if "machine" in s})  # fmt: skip
    lines = [f"Measured on {'; '.join(machines)}." if machines else "No GPU was at hand: none of this was run yet.", ""]
    lines += ["| figure | predicted | asked for | measured: median (least–greatest) |", "|---|---|---|---|"]
    for name, title in TITLES.items():
        goal = known.GOALS.get(name)
        asked = "" if goal is None else f"{'≥' if goal[1] == 'at least' else '≤'} {goal[0]:g}"
        lines.append(f"| {title} | {_text(known.PREDICTED.get(name))} | {asked} | {_measured(figures.get(name))} |")
    broken = [f"`{name}` ({stage['status']})" for name, stage in stages.items() if stage["status"] != "done"]
    if broken:
        lines += ["", f"Stages that did not run through: {', '.join(broken)}."]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(
        value, int | float) else str(value)  # fmt: skip


def _measured(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    text = _text(found["value"])
    return f"{text} ({_text(found['least'])}–{_text(found['greatest'])})" if "least" in found else text


def _predictions() -> Any:
    """predictions.py, which is also imported from other folders' commands."""
    spec = importlib.util.spec_from_file_location("gpu_predictions", HERE / "predictions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
