"""What a GPU has to show, in ten stages: `python studies/gpu/run.py --out FOLDER`.

Each stage has some seconds, writes its own file into the folder and prints each figure beside what was predicted. What
fails is written down and the next stage runs; what does not fit into the time that is left is skipped. `--command a` is
stages 0 to 6, `--command b` stages 7 to 9, `--smoke` all of them on tiny models on a CPU. See README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPARE = 10  # seconds of a command that no stage gets


@dataclass(frozen=True)
class Stage:
    """One of the ten: what it is called, in which command, and how many seconds it has; its module and function."""

    name: str
    command: str
    seconds: float
    module: str
    function: str

    def load(self) -> Callable[..., None]:
        import importlib

        found: Callable[..., None] = getattr(importlib.import_module(self.module), self.function)
        return found


STAGES = (
    Stage("00-machine", "a", 75, "basics", "machine_stage"),
    Stage("01-correctness", "a", 60, "basics", "correctness_stage"),
    Stage("02-decode", "a", 70, "decoding", "decode_stage"),
    Stage("03-graphs", "a", 60, "decoding", "graphs_stage"),
    Stage("04-train", "a", 90, "training", "train_stage"),
    Stage("05-seven", "a", 30, "training", "seven_stage"),
    Stage("06-peers", "a", 75, "peers", "peers_stage"),
    Stage("07-front", "b", 100, "fronts", "front_stage"),
    Stage("08-kill", "b", 45, "fronts", "kill_stage"),
    Stage("09-evaluation", "b", 30, "fronts", "evaluation_stage"),
)
LIMITS = {"a": 480.0, "b": 240.0, "both": 700.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of the results; default: $OUT")
    parser.add_argument("--command", choices=list(LIMITS), default="both", help="a: stages 0-6, b: stages 7-9")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], metavar="STAGE")
    parser.add_argument("--seconds", type=float, help="of the whole command; default: 480 for a, 240 for b")
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU, less than a minute")
    parser.add_argument("--device", default=None, help="default: cuda where there is one")
    parser.add_argument("--model", help="SmolLM2-135M-Instruct: a folder, a .gguf file or a hub id")
    parser.add_argument("--brought", type=Path, default=HERE / "brought", help="what prepare.py filled")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deterministic", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: deterministic products need it
    # a checkout is enough; nothing has to be installed
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    from brought import install, join

    if options.smoke:
        import warnings

        warnings.simplefilter("ignore", FutureWarning)
    else:
        install(options.brought)
    import torch
    from harness import Bench, run_stage, skip_stage

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() and not options.smoke else "cpu"))
    if options.child is not None:
        from fronts import child

        child(options.child, str(device), options.deterministic, resume=False)
        return 0
    if options.out is None:
        parser.error("say where the results go: --out FOLDER, or the variable OUT")
    until = start + (options.seconds or LIMITS[options.command]) - (0 if options.smoke else SPARE)
    model = options.model
    if model is None and not options.smoke:
        try:
            model = join(options.brought)
        except Exception as error:  # one stage needs it; the others run
            print(f"the model that was brought cannot be used: {type(error).__name__}: {error}", flush=True)
    bench = Bench(Path(options.out), device, options.smoke, options.brought, model)
    chosen = [stage for stage in STAGES if options.command in (stage.command, "both")]
    chosen = [stage for stage in chosen if options.only is None or stage.name in options.only]
    if device.type == "cpu" and not options.smoke:
        parser.error("there is no GPU here; --smoke tries everything on the CPU")
    records = []
    for stage in chosen:
        left = until - time.monotonic()
        if left < stage.seconds / 2:
            records.append(skip_stage(bench.out, stage.name, f"{left:.0f} s are left, it needs {stage.seconds:g}"))
            continue
        try:
            work = stage.load()
        except ImportError as error:
            records.append(skip_stage(bench.out, stage.name, f"it cannot be imported: {error}"))
            continue
        records.append(run_stage(bench, stage.name, min(stage.seconds, left), work))
    failed = [r["stage"] for r in records if r["status"] == "failed"]
    failed += [f"{r['stage']}.{name}" for r in records for name, f in r["figures"].items() if f["value"] == "failed"]
    print(f"{time.monotonic() - start:.0f} s: " + ", ".join(f"{r['stage']} {r['status']}" for r in records), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed and options.smoke else 0  # on a GPU the files say it, and what is next still runs


if __name__ == "__main__":
    raise SystemExit(main())
