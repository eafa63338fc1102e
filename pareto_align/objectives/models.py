"""Reward models: a sequence-classification model of transformers as a reward function.

torch and transformers are imported when a reward model first judges, which in a run is before training.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pareto_align.distributions import refuse_nowhere
from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.objectives.text import completion_text

if TYPE_CHECKING:
    import torch

__all__ = ["reward_model"]

FORMS = ("auto", "chat", "pair", "joined", "completion")
_UNBOUNDED = 1 << 30  # tokenizers without a limit say 1e30


@dataclass(eq=False)
class reward_model:
    """A reward that a sequence-classification model gives: a trained judge, a classifier of toxicity, of tone.

    It is loaded at its first call and judges in evaluation mode without gradients. Completions are sorted by length,
    batched, and judged once where the same text occurs twice; padding is masked, so a reward does not depend on
    what else is in the batch beyond rounding.

    What a policy can exploit: whatever the model was not trained on. Use an `ensemble`, and keep another judge aside
    with role "audit".

    Args:
        model: A hub id, a folder, or a model of transformers that is already loaded (used as it is).
        tokenizer: A tokenizer, or where to load one from; by default it comes with the model. A loaded model needs one.
        label: Index or name of the output that is the reward; needed where there are several.
        probability: Whether the reward is the label's probability, in [0, 1]: softmax over the labels, or the sigmoid
            of a single output and of labels that do not exclude each other. False takes the logit as it is. By default
            True with several labels and False with one output.
        form: What the model reads. "chat": prompt and completion as a conversation in the tokenizer's chat template;
            "pair": as a pair of texts; "joined": as one text; "completion": without the prompt. "auto" is "chat"
            where the tokenizer has a template and "pair" where not.
        max_length: Tokens that the model reads, at least 2; a longer text loses its beginning and is warned about
            once. By default the smaller one of the tokenizer's and the model's own limit.
        batch_size: Texts judged at a time.
        device: "auto" takes CUDA, then MPS, then the CPU; a loaded model stays where it is.
        dtype: "auto" takes float32 on a CPU and the checkpoint's own elsewhere; a loaded model keeps its own.
        trust_remote_code: Whether code that comes with the model may run.
        name: What to call it; by default the last part of `model`.

    Raises:
        ConfigError: A setting is none of the above.
        ObjectiveError: There is no such folder, and no hub id is like it.
    """

    model: Any
    tokenizer: Any = None
    label: int | str | None = None
    probability: bool | None = None
    form: str = "auto"
    max_length: int | None = None
    batch_size: int = 16
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    name: str | None = None
    _loaded: _Loaded | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        by_name = isinstance(self.model, str | os.PathLike)
        if not by_name and not (callable(self.model) and hasattr(self.model, "config")):
            raise ConfigError(f"`model` must be a hub id, a folder or a model of transformers. Found {self.model!r}.")
        if by_name:
            refuse_nowhere(
                os.path.expanduser(self.model), f"The reward model {self.__name__} cannot be loaded", ObjectiveError
            )
        if not by_name and self.tokenizer is None:
            raise ConfigError("A reward model that is already loaded needs its `tokenizer` given too.")
        if self.form not in FORMS:
            raise ConfigError(f"form must be one of {', '.join(FORMS)}. Found {self.form!r}.")
        for setting, least in (("batch_size", 1), ("max_length", 2)):
            value = getattr(self, setting)
            if value is None and setting == "max_length":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{setting} must be a whole number of at least {least}. Found {value!r}.")
        if isinstance(self.label, bool) or not isinstance(self.label, int | str | None):
            raise ConfigError(f"label must be the index or the name of an output. Found {self.label!r}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # it is loaded anew where it is sent to

    @property
    def __name__(self) -> str:
        if self.name is not None:
            return self.name
        return os.path.basename(os.fspath(self.model).rstrip("/")) if self._is_named else "reward_model"

    @property
    def _is_named(self) -> bool:
        return isinstance(self.model, str | os.PathLike)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """The reward of each completion.

        Raises:
            ObjectiveError: The model cannot be loaded, has no such label, or was never trained to classify; or a
                prompt is neither text nor chat messages.
        """
        if self._loaded is None:
            self._loaded = self._load()
        texts = [self._encode(self._loaded, p, c) for p, c in zip(prompts, completions, strict=True)]
        judged = self._judge(self._loaded, sorted(set(texts), key=lambda text: -len(text.ids)))
        return [judged[text] for text in texts]

    def _judge(self, loaded: _Loaded, texts: Sequence[_Text]) -> dict[_Text, float]:
        import torch

        # Without a token to pad with, transformers finds the last token of a text only where it is alone.
        size = 1 if loaded.pad_id is None else self.batch_size
        found: dict[_Text, float] = {}
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            with torch.inference_mode():
                logits = loaded.model(**_padded(part, loaded.pad_id or 0, loaded.device)).logits
                rewards = self._rewards(logits.float(), loaded).tolist()
            found.update(zip(part, rewards, strict=True))
        return found

    def _rewards(self, logits: torch.Tensor, loaded: _Loaded) -> torch.Tensor:
        """`[b]` from logits `[b, labels]`."""
        if logits.ndim != 2:
            raise ObjectiveError(
                f"The reward model {self.__name__} gave logits of shape {tuple(logits.shape)}; expected "
                "one row a text, as a sequence-classification model gives."
            )
        number = logits.shape[1]
        index = self._index(number, loaded)
        if not (number > 1 if self.probability is None else self.probability):
            return logits[:, index]
        exclusive = number > 1 and getattr(loaded.model.config, "problem_type", None) != "multi_label_classification"
        return logits.softmax(dim=1)[:, index] if exclusive else logits[:, index].sigmoid()

    def _index(self, number: int, loaded: _Loaded) -> int:
        names = {int(i): str(name) for i, name in (getattr(loaded.model.config, "id2label", None) or {}).items()}
        shown = ", ".join(f"{i} ({names[i]})" if i in names else str(i) for i in range(number))
        if self.label is None:
            if number == 1:
                return 0
            raise ObjectiveError(f"The reward model {self.__name__} has {number} labels; say which one: {shown}.")
        found = [i for i in range(number) if self.label in (i, names.get(i))]
        if len(found) != 1:
            raise ObjectiveError(f"The reward model {self.__name__} has no label {self.label!r}. It has: {shown}.")
        return found[0]

    def _encode(self, loaded: _Loaded, prompt: Any, completion: Any) -> _Text:
        tokenizer, special = loaded.tokenizer, loaded.form != "chat"
        if loaded.form == "chat":
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            messages += [{"role": "assistant", "content": completion_text(completion)}]
            texts = [tokenizer.apply_chat_template(messages, tokenize=False)]  # it writes the special tokens itself
        elif loaded.form == "pair":
            texts = [_prompt_text(prompt), completion_text(completion)]
        elif loaded.form == "joined":
            texts = [_prompt_text(prompt) + completion_text(completion)]
        else:
            texts = [completion_text(completion)]
        encoded = tokenizer(*texts, add_special_tokens=special, verbose=False)
        if loaded.limit is not None and len(encoded["input_ids"]) > loaded.limit:
            self._warn_truncated(loaded, len(encoded["input_ids"]))
            encoded = tokenizer(*texts, add_special_tokens=special, truncation=True, max_length=loaded.limit)
        ids, types = encoded["input_ids"], encoded.get("token_type_ids")
        if not ids:
            raise ObjectiveError(f"The reward model {self.__name__} has nothing to read: a text has no tokens.")
        return _Text(tuple(ids), None if types is None else tuple(types))

    def _warn_truncated(self, loaded: _Loaded, length: int) -> None:
        if not loaded.warned:
            loaded.warned = True
            warnings.warn(
                f"The reward model {self.__name__} reads {loaded.limit} tokens; a text of {length} lost its beginning.",
                ParetoAlignWarning,
                stacklevel=2,
            )

    def _load(self) -> _Loaded:
        from transformers import AutoTokenizer

        tokenizer = self.tokenizer
        try:
            if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
                source = self.model if tokenizer is None else tokenizer
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=self.trust_remote_code)
            else:
                tokenizer = copy.deepcopy(tokenizer)  # it may be the policy's own, and is set up differently here
            model = self._load_model() if self._is_named else self.model
        except (OSError, ValueError, ImportError) as error:
            raise ObjectiveError(f"The reward model {self.__name__} cannot be loaded: {error}") from error
        form = self.form
        if form == "auto":
            form = "chat" if getattr(tokenizer, "chat_template", None) else "pair"
        elif form == "chat" and not getattr(tokenizer, "chat_template", None):
            raise ObjectiveError(
                f"The tokenizer of the reward model {self.__name__} has no chat template; use form='pair' or 'joined'."
            )
        tokenizer.truncation_side = "left"  # the answer is at the end
        config = model.config.get_text_config()
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id  # how transformers finds the last token of a text
        limits = (self.max_length, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        limit = min((limit for limit in limits if limit is not None and limit < _UNBOUNDED), default=None)
        model = model.eval()
        device = next(model.parameters()).device
        return _Loaded(model, tokenizer, form, device, config.pad_token_id, limit)

    def _load_model(self) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification

        device = _device(self.device)
        dtype: Any = self.dtype
        if dtype == "auto":
            dtype = torch.float32 if device.type == "cpu" else "auto"
        elif not isinstance(getattr(torch, str(dtype), None), torch.dtype):
            raise ObjectiveError(f"Unknown dtype {dtype!r}. Use 'auto', 'float32', 'bfloat16' or 'float16'.")
        model, info = AutoModelForSequenceClassification.from_pretrained(
            self.model, dtype=dtype, trust_remote_code=self.trust_remote_code, output_loading_info=True
        )
        if info["missing_keys"]:  # transformers fills them with random numbers and goes on
            raise ObjectiveError(
                f"The checkpoint of the reward model {self.__name__} lacks {', '.join(sorted(info['missing_keys']))}, "
                "so it was not trained to classify and its rewards would be random."
            )
        return model.requires_grad_(False).to(device)


@dataclass(eq=False)
class _Loaded:
    """A reward model ready to judge: `limit` in tokens, `pad_id` None where there is no token to pad with."""

    model: Any
    tokenizer: Any
    form: str
    device: torch.device
    pad_id: int | None
    limit: int | None
    warned: bool = False


@dataclass(frozen=True)
class _Text:
    """What the model reads for one completion."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None


def _padded(texts: Sequence[_Text], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The model's inputs `[b, longest]`, padded on the right: what follows a text changes nothing in it."""
    import torch

    width = max(len(text.ids) for text in texts)
    rows = {
        "input_ids": [[*text.ids, *[pad_id] * (width - len(text.ids))] for text in texts],
        "attention_mask": [[1] * len(text.ids) + [0] * (width - len(text.ids)) for text in texts],
    }
    if all(text.types is not None for text in texts):
        rows["token_type_ids"] = [[*(text.types or ()), *[0] * (width - len(text.ids))] for text in texts]
    return {key: torch.tensor(value, device=device) for key, value in rows.items()}


def _device(device: str) -> torch.device:
    import torch

    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ObjectiveError(f"Unknown device {device!r}: {error}") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _prompt_text(prompt: Any) -> str:
    """A prompt as text: itself, or what its messages say, whoever says it."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence) or not all(isinstance(message, Mapping) for message in prompt):
        raise ObjectiveError(f"A prompt must be a string or a list of chat messages. Found {prompt!r}.")
    return "\n".join(completion_text([{"content": message.get("content")}]) for message in prompt)
