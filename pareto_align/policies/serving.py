"""Trained adapters on their base model: load one, answer prompts with any.

The base is loaded by the name the run recorded. `Server` keeps one copy and switches adapters on it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pareto_align.distributions import hub_id
from pareto_align.errors import ConfigError, ModelError, PromptError
from pareto_align.messages import Instruction
from pareto_align.policies.adapters import put_on
from pareto_align.policies.base import Base, load_base
from pareto_align.policies.blending import sample_blend, summary
from pareto_align.policies.drawing import SamplingParams
from pareto_align.policies.engine import Engine
from pareto_align.policies.experts import moved_in
from pareto_align.policies.generation import own_sampling
from pareto_align.policies.mixing import mix
from pareto_align.policies.states import end_states
from pareto_align.policies.tenancy import check_free
from pareto_align.seeds import seed_for

if TYPE_CHECKING:
    from peft import PeftModel

    from pareto_align.policies.base import Prompt

__all__ = ["BlendAnswers", "Server", "described", "load_adapter", "recorded_base", "several"]

READ_AT_ONCE = 8  # completions whose logits are held at a time


def described(base: Base) -> dict[str, Any]:
    """What is needed to load a model again, as `recorded_base` takes it, and of the Hub which commit it was."""
    commit = getattr(base.model.config, "_commit_hash", None)
    return {
        "name": base.name,
        **({"revision": commit} if isinstance(commit, str) and commit and hub_id(base.name) else {}),
        "gguf_file": base.gguf_file,
        "dtype": str(base.dtype).removeprefix("torch."),
        "use_chat_template": base.use_chat_template,
        "quantization": base.quantization,
        "chat_template_kwargs": dict(base.chat_template_kwargs),
    }


def recorded_base(
    described: Mapping[str, Any], *, instead: str = "Pass it: load_model(base=...).", **load: Any
) -> Base:
    """Load the base model that a front was trained on.

    Args:
        described: The `base` entry of the front's record.
        instead: What to do where there is no name to load by.
        **load: Overrides for `load_base`, such as `device` or `dtype`.

    Raises:
        ModelError: The run was given a model in memory, so there is no name to load by.
    """
    name = described.get("name")
    if not name:
        raise ModelError(
            f"The run was given its base model in memory, so the front does not know where to load it from. {instead}"
        )
    options: dict[str, Any] = {"dtype": described.get("dtype") or "auto"}
    for key in ("gguf_file", "quantization", "chat_template_kwargs"):
        if described.get(key):
            options[key] = described[key]
    template = described.get("use_chat_template", described.get("chat_template_used"))
    if template is not None:
        options["use_chat_template"] = bool(template)
    return load_base(name, **{**options, **load})


def load_adapter(described: Mapping[str, Any], folder: Path, name: str, base: Any = None, **load: Any) -> PeftModel:
    """The base model with one adapter on it, in eval mode.

    Args:
        described: The `base` entry of the front's record.
        folder: A PEFT folder.
        name: The member's name, which becomes the adapter's.
        base: A model, a `Base`, a name, or a `PeftModel` to add the adapter to; the recorded base if None. A member of
            the same name from another front gives way on it.
        **load: Passed to `load_base` where a base has to be loaded.

    Raises:
        ModelError: There is no base to load, the adapter does not fit it, or a population is being trained on it.
        FrontFileError: The folder cannot be read, or its config says something that no member's does.
    """
    from peft import PeftModel

    if isinstance(base, PeftModel):
        check_free(base.get_base_model())
        return put_on(base, folder, name)
    if base is None:
        model = recorded_base(described, **load).model
    elif isinstance(base, Base):
        model = base.model
    elif isinstance(base, torch.nn.Module):
        model = base
    else:
        model = recorded_base({**described, "name": base}, **load).model
    check_free(model)
    if getattr(model, "peft_config", None):
        raise ModelError(
            "This base model already carries adapters. Pass the PeftModel that the first load_model returned: it "
            "takes further members and switches between them."
        )
    return put_on(model, folder, name)


class Server:
    """One copy of a base model that answers with any adapter of a front, as the adapters were measured.

    Nothing is loaded before the first prompt.

    Args:
        described: The `base` entry of the front's record.
        max_new_tokens, temperature, top_k, top_p: How a call samples that says nothing else: as the run did.
        base: The base model where it is at hand; it carries the adapters until `close`.

    Attributes:
        base: The base model, None until it is at hand.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        base: Base | None = None,
    ) -> None:
        self._described = dict(described)
        self._params = SamplingParams(max_new_tokens, temperature, top_k=top_k, top_p=top_p)
        self.base = base
        self._model: PeftModel | None = None

    def generate(
        self,
        folder: Path,
        prompts: Prompt | Sequence[Prompt],
        *,
        batch_size: int = 8,
        seed: int | None = 0,
        **kw: Any,
    ) -> list[str]:
        """Answer prompts with the adapter in `folder`.

        The model's own generation config has no say: neither training nor measuring asked it.

        Args:
            folder: A PEFT folder; its name is the adapter's.
            prompts: One prompt or several.
            batch_size: Prompts answered at a time.
            seed: Of what is drawn; equal calls give equal answers. None goes on with torch's own random state.
            **kw: Passed to `generate` of transformers, before what the run sampled with. A `generation_config` is taken
                as it stands; `temperature=0` takes the likeliest token.

        Returns:
            One completion a prompt, without the prompt and without special tokens.

        Raises:
            ConfigError: `batch_size` or `seed` is none, or transformers does not take what is passed to it.
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base or the adapter cannot be loaded.
        """
        _check_whole(batch_size=(batch_size, 1), seed=(0 if seed is None else seed, 0))
        base, encoded = self._read(prompts, Instruction.read(folder))
        self.switched(folder)
        try:
            return self._answers(base, encoded, batch_size, seed, kw)
        except (TypeError, ValueError) as error:
            if not kw:
                raise
            raise ConfigError(f"`generate` of transformers does not take {kw!r:.200}: {error}") from error

    def load_model(self, folder: Path, name: str, base: Any = None, **load: Any) -> PeftModel:
        """A base model with an adapter on it; see `load_adapter`.

        Where nothing is asked for and the run was given its base in memory, it is the one that answers here: the next
        call may switch it to another adapter.

        Raises:
            ModelError: There is no base to load, or the adapter does not fit it.
            FrontFileError: The folder cannot be read, or its config says something that no member's does.
        """
        if base is None and not load and self.base is not None and not self._described.get("name"):
            return self.switched(folder)
        return load_adapter(self._described, folder, name, base, **load)

    def switched(self, folder: Path) -> PeftModel:
        """The base model that is at hand, switched to the adapter of a folder; the next call may switch it again.

        Raises:
            ModelError: The base or the adapter cannot be loaded.
        """
        # the adapters go on the one base model: first on it bare, then beside those it has
        self._model = load_adapter(self._described, folder, folder.name, self._model or self.at_hand())
        return self._model

    def generate_blend(
        self,
        folders: Sequence[Path],
        coefficients: Sequence[float],
        prompts: Prompt | Sequence[Prompt],
        *,
        batch_size: int = 8,
        seed: int | None = 0,
        candidates: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        do_sample: bool = True,
        ratios: bool = False,
    ) -> BlendAnswers:
        """Answer prompts with several adapters at once; see `pareto_align.policies.blending`.

        Args:
            folders: k PEFT folders.
            coefficients: k of them.
            prompts: One prompt or several.
            batch_size: Prompts answered at a time.
            seed: Of what is drawn; None draws it from torch's own random state.
            candidates: Answers drawn a prompt, of which one is kept.
            max_new_tokens, temperature, top_k, top_p: As the run sampled where nothing is said.
            do_sample: False takes the likeliest token, as temperature 0 does.
            ratios: Whether the untrained model reads the answers as well, for `BlendAnswers.ratios`; of one candidate.

        Raises:
            ConfigError: A number is out of range.
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base or an adapter cannot be loaded.
        """
        _check_whole(
            batch_size=(batch_size, 1), seed=(0 if seed is None else seed, 0), candidates=(candidates, 1),
            max_new_tokens=(1 if max_new_tokens is None else max_new_tokens, 1),
        )  # fmt: skip
        params = replace(
            self._params,
            max_new_tokens=max_new_tokens or self._params.max_new_tokens,
            temperature=(self._params.temperature if temperature is None else float(temperature)) if do_sample else 0.0,
            top_k=self._params.top_k if top_k is None else top_k or None,
            top_p=self._params.top_p if top_p is None else top_p,
        )
        if not params.temperature >= 0 or not (params.top_p is None or 0 < params.top_p <= 1):
            raise ConfigError(
                f"`temperature` must be at least 0 and `top_p` in (0, 1]. Found {temperature!r} and {top_p!r}."
            )
        base, encoded = self._read(prompts)
        self.bare()
        root = int(torch.randint(1 << 62, ()).item()) if seed is None else seed
        texts: list[str] = []
        drawn: list[Tensor] = []
        nats: list[float] = []
        with moved_in(base, folders) as (population, adapters):
            reader = Engine(population, temperature=params.temperature) if ratios else None
            for start in range(0, len(encoded), batch_size):
                batch = encoded[start : start + batch_size]
                number = seed_for(root, "blend", start)
                found = sample_blend(population, adapters, coefficients, batch, candidates, params, number)
                lists = found.completions.token_lists()
                kept = found.kept(seed_for(number, "kept")).tolist()  # of draws of its own
                texts += [base.decode(lists[i * candidates + which]) for i, which in enumerate(kept)]
                drawn.append(found.disagreement)
                if reader is not None:
                    untrained = reader.reference_logprobs(reader.prepare(batch, found.completions))
                    nats += (found.completions.logprobs - untrained).double().sum(-1).flatten().tolist()
        told = summary(torch.cat(drawn)) if drawn else (math.nan, math.nan, math.nan)
        return BlendAnswers(texts, *told, nats if ratios else None)

    def save_soup(self, folders: Sequence[Path], coefficients: Sequence[float], target: Path) -> float:
        """Write the weighted sum of adapters as one of their rank; returns what the cut in rank lost, see `mix`."""
        base = self.at_hand()
        self.bare()
        with moved_in(base, folders) as (population, adapters):
            row, lost = mix(population, adapters, coefficients)
            population.save_adapter(row, target)
        return lost

    def at_hand(self) -> Base:
        """The base model, loaded at the first call.

        Raises:
            ModelError: It cannot be loaded.
        """
        if self.base is None:
            self.base = recorded_base(
                self._described,
                instead="Set it: front.base = load_base(model, tokenizer=...), of pareto_align.policies.",
            )
        return self.base

    def _read(
        self, prompts: Prompt | Sequence[Prompt], told: Instruction | None = None
    ) -> tuple[Base, list[list[int]]]:
        """The base model, and prompts as tokens, with what an adapter is told before each."""
        asked = several(prompts)
        base = self.at_hand()
        if told is not None:
            asked = [told.before(prompt, templated=base.use_chat_template) for prompt in asked]
        return base, [_encoded(base, prompt, number) for number, prompt in enumerate(asked)]

    def bare(self) -> None:
        """Take the adapters off the base model, and keep it."""
        if self._model is not None:
            self._model.unload()
        self._model = None

    def prompt_states(self, prompts: Prompt | Sequence[Prompt]) -> tuple[NDArray[np.float32], list[tuple[int, ...]]]:
        """States `[N, d]` of the untrained model at the last token of each prompt, and the prompts' token ids.

        Raises:
            PromptError: A prompt is empty, or neither text nor chat messages.
            ModelError: The base cannot be loaded.
        """
        base, encoded = self._read(prompts)
        with nullcontext() if self._model is None else self._model.disable_adapter():
            return end_states(base, encoded, [[]] * len(encoded)), [tuple(ids) for ids in encoded]

    def logprobs(
        self, folder: Path | None, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        """Summed log-probabilities of n completions under an adapter, at temperature 1.

        Args:
            folder: A PEFT folder; None is the untrained model.
            prompts: n prompts as token ids.
            completions: n completions as token ids.

        Raises:
            ModelError: The base or the adapter cannot be loaded.
        """
        base = self.at_hand()
        if folder is not None:
            self.switched(folder)
        model: Any = base.model if self._model is None else self._model
        bare = folder is None and self._model is not None
        found = [0.0] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]) + len(completions[n]))
        with model.disable_adapter() if bare else nullcontext(), torch.inference_mode():
            for start in range(0, len(order), READ_AT_ONCE):
                places = order[start : start + READ_AT_ONCE]
                rows = [[*prompts[n], *completions[n]] for n in places]
                longest = len(rows[-1])
                pad = base.tokenizer.pad_token_id
                ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=base.device)
                mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=base.device)
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                for row, n in enumerate(places):
                    begin, size = len(prompts[n]), len(completions[n])
                    said = logits[row, begin - 1 : begin - 1 + size].float().log_softmax(-1)
                    found[n] = float(said.gather(1, ids[row, begin : begin + size, None]).sum())
        return found

    def _answers(
        self, base: Base, encoded: Sequence[list[int]], batch_size: int, seed: int | None, asked: Mapping[str, Any]
    ) -> list[str]:
        model: Any = self._model
        options = _options(base, self._params, asked)
        answers: list[str] = []
        with seeded(base, seed), own_sampling(base.model):
            for start in range(0, len(encoded), batch_size):
                batch = encoded[start : start + batch_size]
                width = max(map(len, batch))
                padded = [[base.tokenizer.pad_token_id] * (width - len(row)) + row for row in batch]
                mask = [[0] * (width - len(row)) + [1] * len(row) for row in batch]
                with torch.inference_mode():
                    out = model.generate(
                        input_ids=torch.tensor(padded, device=base.device),
                        attention_mask=torch.tensor(mask, device=base.device),
                        **options,
                    )
                answers += [base.decode(row) for row in out[:, width:].tolist()]
        return answers

    def close(self) -> None:
        """Take the adapters off the base model and let go of it."""
        self.bare()
        self.base = None


@dataclass(frozen=True)
class BlendAnswers:
    """Answers of several adapters at once.

    Attributes:
        texts: One a prompt.
        disagreement: Mean S of all that was drawn, in nats; see `pareto_align.policies.blending`.
        kl: Nats to the exact mixture; NaN with one answer a prompt.
        acceptance: Share of answers that a rejection sampler of the exact mixture would keep.
        ratios: Nats by which each answer is likelier than under the untrained model; None where nobody asked.
    """

    texts: list[str]
    disagreement: float
    kl: float
    acceptance: float
    ratios: list[float] | None = None


def _check_whole(**numbers: tuple[Any, int]) -> None:
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 1 << 63:
            raise ConfigError(f"`{name}` must be a whole number of at least {least}. Found {value!r:.40}.")


def _options(base: Base, params: SamplingParams, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' `generate` is told: what the caller asks for, and the run's sampling where nothing is said."""
    ends = {"pad_token_id": base.tokenizer.pad_token_id, "eos_token_id": list(base.stop_ids) or None}
    given = asked.get("generation_config")
    if given is not None:
        given = copy.deepcopy(given)
        given.update(**{**ends, "max_new_tokens": params.max_new_tokens}, defaults_only=True)
        return {**asked, "generation_config": given}
    options = {**ends, "max_new_tokens": params.max_new_tokens, **asked}
    if "max_length" in asked:
        del options["max_new_tokens"]
    temperature = options.pop("temperature", params.temperature)
    if not options.setdefault("do_sample", bool(temperature)):
        return options
    drawn = {"temperature": float(temperature or 1.0), "top_k": params.top_k or 0, "top_p": params.top_p or 1.0}
    return {**drawn, **options}


@contextmanager
def seeded(base: Base, seed: int | None) -> Iterator[None]:
    """Within this context torch draws from a seed, and afterwards from where it stood; None leaves it alone."""
    if seed is None:
        yield
        return
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def several(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts, where one prompt may be given bare: a string, or one conversation.

    Raises:
        PromptError: It is neither.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping | bytes) or not isinstance(prompts, Iterable):
        raise PromptError(f"`prompts` must be a prompt or a list of prompts. Found {prompts!r:.80}.")
    listed: list[Any] = list(prompts)
    return [listed] if listed and isinstance(listed[0], dict) else listed


def _encoded(base: Base, prompt: Prompt, number: int) -> list[int]:
    try:
        return base.encode(prompt)
    except PromptError as error:
        raise PromptError(f"Prompt {number}: {error}") from error
