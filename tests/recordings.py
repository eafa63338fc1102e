"""What ten configurations do on tiny problems, so that a change of structure can be seen to change nothing.

    python tests/recordings.py FILE          # of the checkout it stands in
    python tests/recordings.py FILE OTHER    # compares two files of one machine: processors round differently

A run is told by its front folder, its journal and its last checkpoint, times left out.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear grid, kl": {"weighting": "fixed", "explorer": "grid", "kl_coef": 0.05},
    "k3, updates": {"kl": "k3", "kl_coef": 0.1, "updates_per_rollout": 2, "aggregation": "token"},
    "grpo, dense": {"learner": "grpo", "layout": "dense", "aggregation": "sequence"},
    "gradients": {"weighting": "mgda"},
    "halves": {"weighting": "modo"},
    "soups": {"explorer": "soups", "steps": 6},
    "evolution": {"explorer": "evolution", "steps": 6},
    "family": {"family": {"name": "gates", "shared": 2, "each": 2}},
    "tokens": {"max_tokens": 4000, "eval_every": 1, "weighting": "stch", "learner": "rloo"},
}
TIMES = ("seconds", "reward_seconds", "time", "crc")  # a line is sealed with its times


def record(folder: Path) -> dict[str, dict[str, str]]:
    """Digests of every configuration's front, journal and checkpoint."""
    from aligner_runs import fit

    found = {}
    for name, settings in CONFIGURATIONS.items():
        run = folder / name
        try:
            with patch("pareto_align.discovery.loop.remove_checkpoint"):  # of a run that has ended, too
                fit(run, **settings)
        except Exception as error:  # a configuration that this checkout does not have is told, too
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        found[name] = {
            "front": _digest_front(run / "front"),
            "journal": _digest([_timeless(json.loads(line)) for line in (run / "journal.jsonl").open()]),
            "checkpoint": _digest_tensors(run / "checkpoint"),
        }
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in sorted(value.items()) if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_front(folder: Path) -> str:
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    told = {}
    for name, path in files.items():
        if path.suffix == ".json":
            told[name] = _timeless(json.loads(path.read_text()))
        else:
            told[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digest(told)


def _digest_tensors(folder: Path) -> str:
    from safetensors.numpy import load_file

    paths = sorted(folder.rglob("*.safetensors"))
    return _digest(
        {
            path.name: {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in sorted(load_file(path).items())}
            for path in paths
        }
    )


def main(target: str, other: str | None = None) -> int:
    if other is None:
        with tempfile.TemporaryDirectory() as folder:
            Path(target).write_text(json.dumps(record(Path(folder)), indent=1) + "\n")
        return 0
    first, second = (json.loads(Path(file).read_text()) for file in (target, other))
    if failed := [name for name, told in first.items() if "error" in told]:
        print(f"Not recorded: {', '.join(failed)}.")
    differing = [
        f"{name}: {part}"
        for name in sorted(first.keys() | second.keys())
        for part in sorted(first.get(name, {}).keys() | second.get(name, {}).keys())
        if first.get(name, {}).get(part) != second.get(name, {}).get(part)
    ]
    print("\n".join(differing) or f"All {len(first)} are the same.")
    return bool(differing) or len(failed) == len(first)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
