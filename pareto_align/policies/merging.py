"""An adapter merged into its base model: a whole model, written as transformers writes one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pareto_align.errors import FrontFileError, ModelError
from pareto_align.messages import Instruction
from pareto_align.policies.adapters import put_on
from pareto_align.policies.base import Base
from pareto_align.policies.lora_config import read_lora_config
from pareto_align.policies.serving import recorded_base

__all__ = ["Merger"]


class Merger:
    """Merges adapters of one front, each into a copy of the base model of its own.

    The base is loaded at the first merge. The sum of base and adapter is taken in the dtype that the base is held in.

    Args:
        described: The `base` entry of the front's record.
        sampling: What the members were measured under, names of `GenerationConfig`; it is laid over the base model's
            own settings, whose end tokens stay.
        base: The base model where it is at hand; it stays as it is.
        dtype: What the base is loaded as, where it has to be.

    Raises:
        ModelError: The base is held in 4 or 8 bits.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        sampling: Mapping[str, Any],
        *,
        base: Base | None = None,
        dtype: str | None = None,
    ) -> None:
        bits = described.get("quantization") if dtype is None else None
        if bits is not None and base is None:
            raise ModelError(
                f"The base model was held in {bits}, and a sum with it would be rounded to that. Give "
                "dtype='bfloat16' or 'float32': the adapters are then merged into the unquantised model, which is not "
                "quite the one that they were measured on."
            )
        if base is not None and getattr(base.model, "is_quantized", False):
            raise ModelError("The base model at hand is quantised, and a sum with it would be rounded to that.")
        self._described = {**described, "quantization": None}
        self._sampling = dict(sampling)
        self._base = base
        self._load = {} if dtype is None else {"dtype": dtype}

    def merge(self, adapter: Path, target: Path) -> None:
        """Write base and adapter as one model, with tokenizer and generation settings.

        Args:
            adapter: A PEFT folder.
            target: An empty folder.

        Raises:
            ModelError: The adapter does not fit the base, or is an activated one: it acts on what follows its
                invocation only, which no weights can say.
            FrontFileError: The adapter cannot be read, or the disk does not take the model.
        """
        if read_lora_config(adapter).alora_invocation_tokens:
            raise ModelError(
                f"The adapter in {adapter} is an activated one: it acts on what follows its invocation tokens only, "
                "which merged weights cannot do."
            )
        if self._base is None:
            self._base = recorded_base(
                self._described, instead="Set it: front.base = load_base(...), of pareto_align.policies.", **self._load
            )
        model: Any = put_on(copy.deepcopy(self._base.model), adapter, "merged").merge_and_unload()
        settings = copy.deepcopy(model.generation_config)
        settings.update(**{"temperature": None, "top_k": None, "top_p": None, "max_length": None, **self._sampling})
        model.generation_config = settings
        try:
            model.save_pretrained(target)
            self._base.tokenizer.save_pretrained(target)
            if (told := Instruction.read(adapter)) is not None:
                told.write(target)
        except OSError as error:
            raise FrontFileError(f"Cannot write the merged model to {target}: {error}") from error
