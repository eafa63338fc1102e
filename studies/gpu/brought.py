"""What was brought along to a machine without a network: packages, and the model in two parts."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WHEELS, PART_A, PART_B, DIGEST, TOKENIZER = "wheels", "model.a", "model.b", "model.sha256", "tokenizer"
# part a has to outlive the command that brought it: only the first one carries it
KEPT = Path(tempfile.gettempdir()) / "pareto_align_gpu"


def install(brought: Path) -> None:
    """Put the wheels that were brought behind the machine's own packages on the path."""
    wheels = sorted((brought / WHEELS).glob("*.whl"))
    if not wheels and not (KEPT / "packages").is_dir():
        return
    target = KEPT / "packages"
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target)]
        done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"the wheels cannot be installed: {done.stderr[-500:]}", flush=True)
    sys.path.append(str(target))


def join(brought: Path) -> str | None:
    """The model's folder, made of the parts that are here or were brought before; None where one is missing.

    Raises:
        RuntimeError: The parts do not give the file that was cut.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    folder = KEPT / "model"
    if folder.is_dir():
        return str(folder)
    for name in (PART_A, PART_B, DIGEST):
        if (brought / name).exists():
            (KEPT / name).write_bytes((brought / name).read_bytes())
    if (brought / TOKENIZER).is_dir():
        shutil.copytree(brought / TOKENIZER, KEPT / TOKENIZER, dirs_exist_ok=True)
    parts = [KEPT / PART_A, KEPT / PART_B]
    if not all(part.exists() for part in (*parts, KEPT / DIGEST)):
        return None
    whole = KEPT / "model.gguf"
    digest = hashlib.sha256()
    with whole.open("wb") as file:
        for part in parts:
            piece = part.read_bytes()
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != (KEPT / DIGEST).read_text(encoding="utf-8").strip():
        raise RuntimeError(f"{whole} is not the file that was cut: its SHA-256 is {digest.hexdigest()}.")
    convert(whole, KEPT / TOKENIZER, folder)
    return str(folder)


def convert(whole: Path, tokenizer: Path, folder: Path) -> None:
    """A GGUF file's weights and a tokenizer that was converted before, as a folder that transformers loads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    quantized = AutoModelForCausalLM.from_pretrained(whole.parent, gguf_file=whole.name, dtype=torch.float32)
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = quantized.generation_config
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(partial)
    partial.rename(folder)
