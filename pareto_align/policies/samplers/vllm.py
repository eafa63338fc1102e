"""Drawing by vLLM, on the GPU that trains: one engine with room for the adapters of all K policies.

The engine has a second copy of the frozen base. What a step changes are the adapters: they go through files that lie in
memory, under a name and a number that no adapter had before. So neither its cache of prompts nor one of its adapter
slots can hold anything of an older policy. All requests of all policies are one call.

Its kernels, its batches and its random numbers are its own. The completions are drawn from policies that differ a
little from those that are trained, which `correction` weighs; and the same seeds draw others in another batch.

Written against vLLM 0.33, of whose source it uses `LLM` (`generate`, `sleep`, `wake_up`), `SamplingParams`,
`LoRARequest`, and of the engine `add_lora`, `remove_lora` and `list_loras`. It is imported here only.

References:
    Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv 2309.06180.
    Chen et al., "Punica: Multi-Tenant LoRA Serving", arXiv 2310.18547.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from pareto_align.arguments import Count, KeepsArguments, Within
from pareto_align.errors import ConfigError, ModelError, ParetoAlignWarning, TrainingError
from pareto_align.policies.drawing import Completions, SamplingParams
from pareto_align.policies.population import PolicyPopulation
from pareto_align.seeds import seed_for

__all__ = ["RANKS", "TEMPERATURES", "Vllm", "VllmSampler", "legal_rank"]

WRITTEN_AGAINST = "0.33."
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""
TEMPERATURES = (0.01, 2.0)
"""A lower one is raised to the first by vLLM, a higher one than the last refused."""
DTYPES = (torch.bfloat16, torch.float16)
"""What its adapters are computed in."""
IN_MEMORY = Path("/dev/shm")


class Vllm(KeepsArguments):
    """What `sampler={"name": "vllm", ...}` says.

    Args:
        gpu_memory_utilization: Share of the GPU's memory that the engine may take, its copy of the base included.
        sleep: Whether the engine leaves that memory to the trainer between two drawings: its weights go to the host's
            memory, its cache is dropped. Without it a step is faster, and both have to fit at once.
        max_num_seqs: Completions that are decoded at once; by default as vLLM has it.
        enforce_eager: Launch kernel by kernel instead of capturing graphs: a faster start, slower drawing.

    Raises:
        ConfigError: A setting is out of range.
    """

    kind = "Sampler"
    name = "vllm"

    def __init__(
        self,
        *,
        gpu_memory_utilization: Annotated[float, Within(above=0, most=1)] = 0.35,
        sleep: bool = True,
        max_num_seqs: Count | None = None,
        enforce_eager: bool = False,
    ) -> None:
        self.gpu_memory_utilization, self.sleep = gpu_memory_utilization, sleep
        self.max_num_seqs, self.enforce_eager = max_num_seqs, enforce_eager

    def check(self, rank: int) -> None:
        """See, before a model is loaded, whether it can be used here.

        Args:
            rank: Of the adapters.

        Raises:
            ConfigError: vLLM is not installed, there is no CUDA, or vLLM has no room for such a rank.
        """
        if not _installed():
            raise ConfigError("sampler='vllm' needs vLLM: pip install 'pareto-align[vllm]', or leave `sampler` out.")
        if not _has_cuda():
            raise ConfigError("sampler='vllm' needs a GPU with CUDA, and torch finds none here. Leave `sampler` out.")
        legal_rank(rank)

    def open(
        self, population: PolicyPopulation, policies: int, longest: int, *, trust_remote_code: bool = False
    ) -> VllmSampler:
        """Start the engine.

        Args:
            population: Whose adapters it draws from; its model was loaded by name.
            policies: The most that are drawn from at once.
            longest: Tokens of the longest prompt with its completion.
            trust_remote_code: Whether code that comes with the model is run.

        Raises:
            ConfigError: The model is in a dtype in which vLLM has no adapters.
            ModelError: vLLM cannot run the model.
        """
        if population.base.dtype not in DTYPES:
            found = str(population.base.dtype).removeprefix("torch.")
            raise ConfigError(f"vLLM has adapters in bfloat16 and float16. Found dtype={found}; set dtype='bfloat16'.")
        return VllmSampler(population, policies, longest, self, trust_remote_code=trust_remote_code)


class VllmSampler:
    """See `Vllm.open`."""

    name = "vllm"
    exact = False

    def __init__(
        self,
        population: PolicyPopulation,
        policies: int,
        longest: int,
        settings: Vllm,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        base, rank = population.base, legal_rank(int(population.lora.r))
        self.population, self.policies, self.settings = population, policies, settings
        self._llm: Any = None
        self._requests: list[Any] = []
        self._awake = True
        self._numbers = 0
        self._folder = Path(tempfile.mkdtemp(prefix="pareto-align-", dir=IN_MEMORY if _usable(IN_MEMORY) else None))
        try:
            import vllm

            if not str(vllm.__version__).startswith(WRITTEN_AGAINST):
                warnings.warn(
                    f"The sampler 'vllm' is written against vLLM {WRITTEN_AGAINST}x; installed is {vllm.__version__}.",
                    ParetoAlignWarning,
                    stacklevel=4,
                )
            self._vllm = vllm
            _let_go_of_memory()
            more = {} if settings.max_num_seqs is None else {"max_num_seqs": settings.max_num_seqs}
            self._llm = vllm.LLM(
                base.name,
                dtype=str(base.dtype).removeprefix("torch."),
                trust_remote_code=trust_remote_code,
                skip_tokenizer_init=True,  # prompts and completions are token ids
                generation_config="vllm",  # no penalties or thresholds of the model's own
                max_model_len=min(longest, base.context_length),
                enable_lora=True,
                max_loras=policies,
                max_lora_rank=rank,
                logprobs_mode="processed_logprobs",  # at the temperature that is drawn at
                enable_sleep_mode=settings.sleep,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                enforce_eager=settings.enforce_eager,
                **more,
            )
            self.rest()
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):
                raise
            raise ModelError(f"vLLM cannot run the model {base.name!r}: {type(error).__name__}: {error}") from error

    def wake(self) -> None:
        """See `Sampler.wake`."""
        if self._awake:
            return
        _let_go_of_memory()
        with _told("it does not wake up"):
            if self._llm.wake_up() is False:
                raise RuntimeError("the engine is not fully awake")
        self._awake = True

    def push(self, rows: Tensor, version: int) -> None:
        """See `Sampler.push`."""
        if not self._awake:
            raise RuntimeError("Adapters that are pushed to a sleeping engine are lost: `wake` comes first.")
        if not 0 < len(rows) <= self.policies:
            raise ValueError(f"{len(rows)} policies, and the engine has room for {self.policies}.")
        engine = self._llm.llm_engine
        with _told("it does not take the adapters"):
            for old in self._requests:
                engine.remove_lora(old.lora_int_id)
            self._requests = []
            self._remove_adapters()
            for slot, row in enumerate(rows):
                self._numbers += 1
                name = f"slot{slot}-v{version}-{self._numbers}"
                folder = self._folder / name
                self.population.save_adapter(row, folder, dtype=self.population.base.dtype)
                request = _lora_request()(name, self._numbers, str(folder))
                self._requests.append(request)
                if engine.add_lora(request) is False:
                    raise RuntimeError(f"{name} was not loaded")
            if strangers := set(engine.list_loras()) ^ {request.lora_int_id for request in self._requests}:
                raise RuntimeError(f"it holds other adapters than those that were pushed: {sorted(strangers)}")

    def draw(
        self,
        prompt_ids: Sequence[Sequence[int]],
        group: int,
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        own: bool = False,
    ) -> Completions:
        """See `Sampler.draw`.

        Raises:
            TrainingError: vLLM failed, or answered something that cannot be an answer to what it was asked.
        """
        if not self._requests or not self._awake:
            raise RuntimeError("Nothing was pushed: `wake` and `push` come before `draw`.")
        policies = len(self._requests)
        if len(seeds) != policies:
            raise ValueError(f"{len(seeds)} seeds for {policies} policies.")
        prompts = [list(ids) for ids in prompt_ids] * (1 if own else policies)
        count, stop = len(prompts) // policies, self.population.base.stop_ids
        asked = [
            self._vllm.SamplingParams(
                n=group,
                temperature=params.temperature,
                max_tokens=params.max_new_tokens,
                # the G completions of a request are seeded one after another from here on
                seed=seed_for(seed, "request", n) >> 1,
                stop_token_ids=list(stop),
                ignore_eos=True,  # of the stop tokens above there is nothing more to know
                logprobs=0,
                detokenize=False,
            )
            for seed in seeds
            for n in range(count)
        ]
        loras = [request for request in self._requests for _ in range(count)]
        with _told("drawing failed"):
            answers = self._llm.generate(
                [{"prompt_token_ids": ids} for ids in prompts], asked, lora_request=loras, use_tqdm=False
            )
        return self._read(prompts, prompt_ids, loras, answers, group, params.max_new_tokens)

    def rest(self) -> None:
        """See `Sampler.rest`. What was pushed does not outlast it."""
        if not self.settings.sleep or not self._awake:
            return
        self._awake = False
        with _told("it does not go to sleep"):
            engine = self._llm.llm_engine
            for request in self._requests:
                engine.remove_lora(request.lora_int_id)
            self._requests = []
            self._llm.sleep(level=1)

    def close(self) -> None:
        """See `Sampler.close`."""
        with suppress(Exception):  # it is given up, whatever state it is in
            self._llm.llm_engine.engine_core.shutdown()
        self._llm, self._requests = None, []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(
        self,
        prompts: list[list[int]],
        prompt_ids: Sequence[Sequence[int]],
        loras: Sequence[Any],
        answers: Sequence[Any],
        group: int,
        length: int,
    ) -> Completions:
        """Answers as completions `[K, N, G, T]`.

        Raises:
            TrainingError: There are too few, they are not in the order of the requests, or a completion is none.
        """
        base, policies = self.population.base, len(self._requests)
        known = range(base.model.get_input_embeddings().num_embeddings)
        if len(answers) != len(prompts):
            raise _bad(f"it gave {len(answers)} answers to {len(prompts)} requests")
        pad, count = int(base.tokenizer.pad_token_id), len(prompts) // policies
        tokens = torch.full((len(prompts), group, length), pad, dtype=torch.long)
        logprobs, mask = torch.zeros(tokens.shape), torch.zeros(tokens.shape, dtype=torch.bool)
        for number, (ids, lora, answer) in enumerate(zip(prompts, loras, answers, strict=True)):
            where = f"of policy {number // count} to prompt {number % count}"
            if list(answer.prompt_token_ids or ()) != ids:
                raise _bad(f"the answer {where} is one to another prompt")
            used = getattr(answer, "lora_request", None)
            if used is None or (used.lora_name, used.lora_int_id) != (lora.lora_name, lora.lora_int_id):
                raise _bad(
                    f"the answer {where} is one {'without an adapter' if used is None else 'of another adapter'}"
                )
            if sorted(one.index for one in answer.outputs) != list(range(group)):
                raise _bad(f"the answer {where} has {len(answer.outputs)} completions instead of {group}")
            for one in answer.outputs:
                said, likely = list(one.token_ids), _logprobs_of(one)
                if wrong := _wrong_with(said, likely, one.finish_reason, base.stop_ids, length, known):
                    raise _bad(f"a completion {where} {wrong}")
                place = (number, one.index, slice(len(said)))
                tokens[place], logprobs[place], mask[place] = torch.tensor(said), torch.tensor(likely), True
        shape = (policies, count, group, length)
        return Completions(
            [list(ids) for ids in prompt_ids],
            tokens.view(shape),
            mask.view(shape),
            logprobs.view(shape),
            base.stop_ids,
        )

    def _remove_adapters(self) -> None:
        for folder in self._folder.iterdir():
            shutil.rmtree(folder)


def legal_rank(rank: int) -> int:
    """The smallest `max_lora_rank` that holds adapters of a rank.

    Raises:
        ConfigError: There is none.
    """
    for legal in RANKS:
        if rank <= legal:
            return legal
    raise ConfigError(f"vLLM has adapters of rank {RANKS[-1]} at most. Found lora.r={rank}.")


def _logprobs_of(completion: Any) -> list[float | None]:
    """The log-probability of each token, None where it was not told."""
    told = completion.logprobs or ()
    found: list[float | None] = []
    for token, entry in zip(completion.token_ids, told, strict=False):
        known = entry.get(token)
        found.append(None if known is None else float(known.logprob))
    return found


def _wrong_with(
    said: Sequence[int],
    likely: Sequence[float | None],
    reason: str | None,
    stop: Sequence[int],
    length: int,
    known: range,
) -> str | None:
    """What is wrong with a completion; None where nothing is. A number that is none tells of a lost policy."""
    if not 0 < len(said) <= length:
        return f"has {len(said)} tokens instead of 1 to {length}"
    if len(likely) != len(said) or any(number is None for number in likely):
        return "lacks the log-probability of a token that was drawn"
    if not all(token in known for token in said):
        return "has a token that the model has not"
    if any(token in stop for token in said[:-1]):
        return "goes on after a stop token"
    if len(said) < length and said[-1] not in stop:
        return f"ends before its end (finish_reason={reason!r})"
    return None


def _bad(what: str) -> TrainingError:
    return TrainingError(f"vLLM answered something that cannot be: {what}. The steps before it are not touched by it.")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever vLLM raises is told as a `TrainingError` that names what was asked of it."""
    try:
        yield
    except Exception as error:
        raise TrainingError(f"vLLM: {what}: {type(error).__name__}: {error}") from error


def _let_go_of_memory() -> None:
    """What torch holds on the GPU and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _lora_request() -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest


def _installed() -> bool:
    try:
        return importlib.util.find_spec("vllm") is not None
    except ValueError:  # it is imported and has no spec
        return True


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _usable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
