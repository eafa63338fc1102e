"""docs/benchmarks.md from results.json and page.md: every measured number on the page comes from the file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

TEMPLATE = Path(__file__).with_name("page.md")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure, figure: Where the number lies in the results.
        title: What is compared.
        goal, aim: What was asked for, and what was hoped for; None in a line that only explains.
        kind: `times` (more is better), `cost` (a ratio of times, less is better), `share` (of a floor, more is better)
            or `bytes` (less is better).
    """

    measure: str
    figure: str
    title: str
    goal: float | None = None
    aim: float | None = None
    kind: str = "times"


BATCH_OF_8 = "decoding K = 8 x 8 rows"
FLOOR = "share of the matrix products' floor"
SPLIT = {
    "per_token": "— the same per generated token",
    "alone": "— K = 1 of this package against TRL: no population in it",
    "call": "— the whole calls, with the prompt's pass",
}

ROWS = (
    Row(
        "trl",
        "step",
        "policy-step against TRL's `GRPOTrainer`: 4 prompts x 8 samples x 64 tokens, K = 4, float32",
        2.5,
        4,
    ),
    Row("trl", "per_token", SPLIT["per_token"]),
    Row("trl", "alone", SPLIT["alone"]),
    Row("trl", "batching", "— K = 4 against K = 1 of this package: the population alone"),
    Row("trl-small", "step", "the same with 1 prompt x 8 samples, K = 8", 3.5, 6),
    Row("trl-small", "per_token", SPLIT["per_token"]),
    Row("trl-small", "alone", SPLIT["alone"]),
    Row("trl-small", "batching", "— K = 8 against K = 1 of this package: the population alone"),
    Row(
        "dpo",
        "step",
        "policy-step against TRL's `DPOTrainer`: 4 pairs, prompts and answers of 64 tokens, K = 8, m = 2, float32",
        1.8,
        2.5,
    ),
    Row("dpo-long", "step", "the same with prompts of 256 tokens", 2.5, 3.5),
    Row("dpo-objectives", "four", "four objectives from comparisons against one, K = 8", 1.15, 1.05, "cost"),
    Row("decode", "decoding", f"{BATCH_OF_8} against 8 PEFT `generate` calls, bfloat16: the decoding steps", 5, 8),
    Row("decode", "call", SPLIT["call"]),
    Row("decode-mixed", "decoding", f"{BATCH_OF_8} against PEFT's mixed batch (`adapter_names`), bfloat16", 2.4, 4),
    Row("decode-mixed", "call", SPLIT["call"]),
    Row("train", "bfloat16", "forward and backward against K PEFT passes, K = 4, 8 rows each, bfloat16", 1.8, 3),
    Row("train", "float32", "the same in float32", 2, 3),
    Row("decode-growth", "decoding", f"{BATCH_OF_8} against K = 1, bfloat16: time", 3, 2, "cost"),
    Row("decode-growth", "call", SPLIT["call"], kind="cost"),
    Row(
        "family",
        "step",
        "a step of the default family against one of K = 8 policies of their own, r = 24",
        1.10,
        1.05,
        "cost",
    ),
    Row("family", "training", "— its training", kind="cost"),
    Row(
        "bilevel",
        "demo",
        "a step under `bilevel` against one with fixed weights, the demo's workload",
        1.02,
        1.01,
        "cost",
    ),
    Row("bilevel", "tiny", "the same on a tiny model, one policy x 64 samples x 1 token", 1.02, 1.01, "cost"),
    Row(
        "gradients", "dense_2", "all objectives' gradients and Gramians against a dense step, m = 2", 1.15, 1.05, "cost"
    ),
    Row("gradients", "dense_5", "the same, m = 5", 1.15, 1.05, "cost"),
    Row("gradients", "packed_2", "the same against a packed step, m = 2", 1.7, 1.3, "cost"),
    Row("gradients", "packed_5", "the same, m = 5", 1.7, 1.3, "cost"),
    Row(
        "activated",
        "step",
        "activated against ordinary adapters, K = 8, 4 prompts of 1024 x 4 samples x 32 tokens",
        3,
        5,
    ),
    Row("activated", "sampling", "— its sampling and rewards"),
    Row("activated", "training", "— its training"),
    Row("memory", "bfloat16", "memory of one more policy, r = 8, bfloat16, without its cache", 20, 16, "bytes"),
    Row("memory", "float32", "the same in float32", 20, 16, "bytes"),
    Row("floor-decode", "bfloat16", f"{FLOOR}: decoding at 64 rows, bfloat16", 0.40, 0.60, "share"),
    Row("floor-decode", "float32", "the same in float32", 0.40, 0.60, "share"),
    Row("floor-train", "bfloat16", f"{FLOOR}: training, packed, bfloat16", 0.42, 0.60, "share"),
    Row("floor-train", "float32", "the same in float32", 0.42, 0.60, "share"),
)
"""The page's lines, in order; a dash begins one that explains the line above it."""


def number(value: float) -> str:
    """Three significant digits, none lost to an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def asked(row: Row) -> str:
    """Goal and aim in the line's own unit."""
    if row.goal is None or row.aim is None:
        return ""
    if row.kind == "share":
        return f"{100 * row.goal:.0f} % / {100 * row.aim:.0f} %"
    bound = {"times": "≥ ", "cost": "≤ ", "bytes": "≤ "}[row.kind]
    unit = " bytes" if row.kind == "bytes" else "x"
    return f"{bound}{row.goal:g}{unit} / {row.aim:g}{unit}"


def reached(row: Row, value: float) -> str:
    """Which of the two was reached, by the median."""
    if row.goal is None or row.aim is None:
        return ""
    less = row.kind in ("cost", "bytes")

    def met(bound: float) -> bool:
        return value <= bound if less else value >= bound

    return "aim" if met(row.aim) else "goal" if met(row.goal) else "no"


def measured(row: Row, found: dict[str, Any]) -> str:
    """The median with its range."""
    if row.kind == "bytes":
        return f"{number(found['value'])} bytes a parameter"
    ratio = found["ratio"]
    if row.kind == "share":
        return f"{100 * ratio['median']:.0f} % ({100 * ratio['min']:.0f}–{100 * ratio['max']:.0f})"
    return f"{ratio['median']:.2f}x ({ratio['min']:.2f}–{ratio['max']:.2f})"


def both_sides(row: Row, found: dict[str, Any]) -> str:
    """The absolute medians."""
    if row.kind == "bytes":
        return f"{number(found['mebibytes'])} MiB for {found['parameters']:,} parameters"

    def one(side: dict[str, Any]) -> str:
        rate = f", {number(side['tokens_per_second'])} tok/s" if "tokens_per_second" in side else ""
        return f"{side['label']}: {number(side['median'])} {side['unit']}{rate}"

    return f"{one(found['over'])}; {one(found['under'])}"


def table(results: dict[str, Any]) -> str:
    """The lines of all measures that were taken."""
    lines = ["| measure | goal / aim | measured: median (least–greatest) | reached | both sides, medians |"]
    lines.append("|---|---|---|---|---|")
    for row in ROWS:
        if row.measure not in results:
            lines.append(f"| {row.title} | {asked(row)} | not measured | | |")
            continue
        found = results[row.measure]["figures"][row.figure]
        value = found["value"] if row.kind == "bytes" else found["ratio"]["median"]
        cells = (row.title, asked(row), measured(row, found), reached(row, value), both_sides(row, found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings(results: dict[str, Any]) -> str:
    """One line a measure: model, sizes, rounds, how long it took and on what."""
    lines = ["| measure | setting | rounds | took | date |", "|---|---|---|---|---|"]
    for name, found in results.items():
        sizes = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["setting"].items())
        rounds = {len(f["rounds"]) for f in found["figures"].values() if "rounds" in f}
        counted = "/".join(str(n) for n in sorted(rounds)) or "—"
        lines.append(
            f"| `{name}` | {sizes} | {counted} | {found['seconds'] / 60:.1f} min | {found['environment']['date']} |"
        )
    return "\n".join(lines)


def machines(results: dict[str, Any]) -> str:
    """What the figures were taken on; one line where all measures agree."""
    kinds: dict[str, list[str]] = {}
    for name, found in results.items():
        at = found["environment"]
        versions = ", ".join(f"{package} {version}" for package, version in at["versions"].items() if version)
        instructions = ", ".join(at["bfloat16_instructions"]) or "no bfloat16 instructions"
        text = (
            f"{found['model']} on {at['processor']} ({instructions}), {at['processors']} processors, "
            f"threads taken: {at['threads']}, {at['memory_gib']} GiB, {at['system']}, Python {at['python']}; {versions}"
        )
        kinds.setdefault(text, []).append(name)
    if len(kinds) == 1:
        return f"- {next(iter(kinds))}."
    return "\n".join(f"- {', '.join(f'`{name}`' for name in names)}: {text}." for text, names in kinds.items())


def duration(results: dict[str, Any]) -> str:
    """Of all measures."""
    return f"{sum(found['seconds'] for found in results.values()) / 60:.0f} minutes"


def candidates(results: dict[str, Any]) -> str:
    """The settings that each peer was tried with, seconds of one run each; the fastest is the baseline."""
    lines = ["| measure | setting of the peer | one run |", "|---|---|---|"]
    for name, found in results.items():
        if "candidates" not in found:
            continue
        tried: dict[str, Any] = found["candidates"]
        nested = tried if all(isinstance(v, dict) for v in tried.values()) else {"": tried}
        for part, runs in nested.items():
            best = found["baseline"][part] if part else found["baseline"]
            for setting, seconds in runs.items():
                what = f"{number(seconds)} s" if isinstance(seconds, float | int) else f"does not run: {_cell(seconds)}"
                mark = " **(baseline)**" if setting == best else ""
                lines.append(f"| `{name}`{f', {part}' if part else ''} | {setting}{mark} | {what} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def lengths(results: dict[str, Any]) -> str:
    """Mean completion lengths of both sides: a shorter text is cheaper."""
    parts = []
    for name in ("trl", "trl-small"):
        if name in results:
            sides = "; ".join(f"{side}: {number(length)}" for side, length in results[name]["mean_length"].items())
            parts.append(f"`{name}` ({sides})")
    return ", ".join(parts) or "not measured"


def halves(results: dict[str, Any]) -> str:
    """Where the seconds of our own step go."""
    parts = []
    for name in ("trl", "trl-small"):
        for side, found in results.get(name, {}).get("halves", {}).items():
            parts.append(
                f"`{name}`, {side}: sampling and rewards {number(found['sampling'])} s, training "
                f"{number(found['training'])} s per policy-step"
            )
    return "\n".join(f"- {part}." for part in parts) or "- Not measured."


def cache(results: dict[str, Any]) -> str:
    """What the keys and values of one token of one row take."""
    found = results.get("memory", {}).get("cache_bytes_per_token")
    if found is None:
        return "not measured"
    return " and ".join(f"{size:,} bytes in {dtype}" for dtype, size in found.items())


# ------------------------------------------------------------------------------------------------ the estimate

# An H100 as in data sheets and reports: what is achieved, not the peak
BANDWIDTH, FLOPS, LAUNCH = 3.0e12, 600e12, 25e-3  # bytes a second, operations a second, seconds a step without graphs
CONTEXT = 512
MODELS = {  # weights, adapter parameters (r = 8 on q, k, v, o), bytes of keys and values a token, all in bfloat16
    "Qwen2.5-0.5B": (0.49e9, 1.08e6, 12_288),
    "Qwen2.5-1.5B": (1.54e9, 2.18e6, 28_672),
    "Qwen3-4B": (4.0e9, 5.0e6, 147_456),
    "Llama-3.1-8B": (8.0e9, 6.8e6, 131_072),
}


def decoding_seconds(model: str, policies: int, rows: int, *, launch: float) -> float:
    """`t(B) = max(launch, (W + K a + B L kv) / BW, 2 N B / F)` for B = K rows."""
    parameters, adapter, cache_token = MODELS[model]
    batch = policies * rows
    moved = 2 * parameters + 2 * policies * adapter + batch * CONTEXT * cache_token
    return max(launch, moved / BANDWIDTH, 2 * parameters * batch / FLOPS)


def estimate() -> str:
    """`K t(b) / t(K b)`: what decoding together should gain on an H100, by arithmetic."""
    lines = ["| model | rows a policy | K = 4 | K = 8 | K = 16 | K = 8, launch-bound |", "|---|---|---|---|---|---|"]
    for model in MODELS:
        for rows in (8, 32):

            def gain(policies: int, launch: float = 0.0, model: str = model, rows: int = rows) -> str:
                alone = decoding_seconds(model, 1, rows, launch=launch)
                return number(policies * alone / decoding_seconds(model, policies, rows, launch=launch))

            lines.append(f"| {model} | {rows} | {gain(4)} | {gain(8)} | {gain(16)} | {gain(8, LAUNCH)} |")
    return "\n".join(lines)


def gpu_table() -> str:
    """The table of the GPU study, which has a folder of its own."""
    file = Path(__file__).resolve().parents[1] / "gpu" / "page.py"
    spec = importlib.util.spec_from_file_location("gpu_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.gpu(module.read())
    return found


def render(results: dict[str, Any]) -> str:
    """The whole page.

    Args:
        results: results.json.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        table=table(results),
        settings=settings(results),
        machines=machines(results),
        candidates=candidates(results),
        lengths=lengths(results),
        halves=halves(results),
        cache=cache(results),
        estimate=estimate(),
        gpu=gpu_table(),
        duration=duration(results),
        context=CONTEXT,
        bandwidth=number(BANDWIDTH / 1e12),
        flops=number(FLOPS / 1e12),
        launch=number(LAUNCH * 1e3),
    )
