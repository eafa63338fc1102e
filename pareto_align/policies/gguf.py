"""Models in GGUF files: where an installed distribution ships one, and as a folder that transformers loads."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path

import torch

from pareto_align.errors import ModelError
from pareto_align.policies.records import cache_folder

__all__ = ["convert_gguf"]

logger = logging.getLogger(__name__)


def convert_gguf(path: Path) -> Path:
    """Dequantise a GGUF file into a Hugging Face folder in the user's cache; the second call only looks it up.

    transformers can read a GGUF file but not save the model that comes out (its config says it is quantised), so the
    weights are copied into a fresh model. The folder appears under its final name only when it is complete.

    Returns:
        The folder, holding float32 safetensors and the tokenizer.

    Raises:
        ModelError: There is no such file, or transformers cannot read it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not path.is_file():
        raise ModelError(f"There is no GGUF file at {path}.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{path.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    logger.info("Converting %s (once, about half a minute) ...", path.name)
    try:
        quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"Cannot read {path}: {error}") from error
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = quantized.generation_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # lost to another process that converted the same file: theirs is as good
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
