"""Does a long run stay small? 500 rounds on a tiny model: memory, open files, and what lies on disk.

    python studies/soak/run.py [--rounds 500]

A round is a training step, a measurement of the population, racing, an explorer's decision, a checkpoint and a
published front. Writes results.json and prints the table of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

from peft import LoraConfig

from pareto_align import ParetoAligner, ParetoAlignWarning
from pareto_align.testing.problems import get_problem

HERE = Path(__file__).parent


def resident() -> float:
    """MiB of memory this process holds now (Linux), else the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def open_files() -> int:
    """File descriptors this process holds (Linux), else -1."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else -1


def size(path: Path) -> float:
    """KiB of the files below a path."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1024


def soak(rounds: int, run: Path) -> list[dict[str, float]]:
    """Measurements at ten moments of a run of so many rounds."""
    problem = get_problem("noisy", V=8, hidden_size=16)
    found: list[dict[str, float]] = []
    started = time.monotonic()

    def watch(event):
        if event["event"] != "evaluation" or event["step"] % max(rounds // 10, 1):
            return
        checkpoints = run / "checkpoint"
        found.append(
            {
                "round": event["step"],
                "resident_mib": resident(),
                "open_files": open_files(),
                "members": event["members"],
                "entries": 4 * event["step"],
                "journal_kib_a_round": size(run / "journal.jsonl") / event["step"],
                "front_kib": size(run / "front"),
                "checkpoint_kib": size(checkpoints) if checkpoints.exists() else 0.0,
                "seconds": time.monotonic() - started,
            }
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        ParetoAligner(
            problem.model(),
            problem.objectives(),
            tokenizer=problem.tokenizer(),
            lora=LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"),
            population=4,
            steps=rounds,
            eval_every=1,
            prompts_per_step=1,
            group_size=8,
            max_new_tokens=problem.T,
            eval_group_size=16,
            learning_rate=1e-3,
            explorer="random",
            callbacks=[watch],
            output_dir=run,
            progress=False,
            device="cpu",
        ).fit(list(problem.prompts))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(arguments.rounds, Path(folder) / "run")
    arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    columns = ("round", "resident_mib", "open_files", "members", "journal_kib_a_round", "front_kib", "checkpoint_kib")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in found:
        print("| " + " | ".join(f"{row[column]:.4g}" for column in columns) + " |")


if __name__ == "__main__":
    main()
