"""A pretended vLLM 0.33: what the sampler uses of it, on a real small model, and whatever may go wrong with it.

Keywords, defaults, checks and habits are those of that release: adapters are read from their folder once for a number
and never again, prompts are cached under the adapter's name and path, a request's completions are seeded one after
another, and a sleeping engine answers nobody. It computes by transformers alone, on weights with the adapter added.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from safetensors.torch import load_file

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
FAULTS = {
    "ignores adapters", "forgets adapters asleep", "leaves the temperature out", "lacks a log-probability",
    "lacks all log-probabilities", "answers one less", "answers out of order", "skips a request", "uses no adapter",
    "uses another adapter", "aborts", "goes on after the end", "does not wake", "does not load", "keeps old adapters",
    "runs out of memory", "cannot start", "says nothing", "numbers twice", "invents a token",
}  # fmt: skip


@dataclass
class Machine:
    """What is pretended, and what became of it.

    Attributes:
        faults: Those of `FAULTS` that it has.
        noise: Standard deviation of what is added to every log-probability.
        engines: All that were started.
    """

    faults: set[str] = field(default_factory=set)
    noise: float = 0.0
    engines: list = field(default_factory=list)

    def install(self, monkeypatch, version="0.33.0"):
        """Put it in vLLM's place, on a machine with a GPU."""
        modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request")}
        vllm, package, request = modules.values()
        for name, module in modules.items():
            module.__spec__, module.__path__ = ModuleSpec(name, None), []
            monkeypatch.setitem(sys.modules, name, module)
        vllm.__version__, vllm.lora, package.request = version, package, request
        vllm.LLM = lambda *args, **keywords: LLM(self, *args, **keywords)
        vllm.SamplingParams, request.LoRARequest = SamplingParams, LoRARequest
        monkeypatch.setattr("pareto_align.policies.samplers.vllm._has_cuda", lambda: True)
        # its kernels have half types only; here both sides can be held to float32's rounding
        monkeypatch.setattr("pareto_align.policies.samplers.vllm.DTYPES", (torch.bfloat16, torch.float32))
        return self

    def has(self, fault):
        assert fault in FAULTS
        return fault in self.faults


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False

    def __post_init__(self):
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError("n and max_tokens must be at least 1")
        assert self.seed is None or 0 <= self.seed < 2**63 - self.n, "it is sent as 64 bits"


class LLM:
    def __init__(
        self,
        machine,
        model,
        *,
        dtype="auto",
        trust_remote_code=False,
        skip_tokenizer_init=False,
        generation_config="auto",
        max_model_len=None,
        enable_lora=False,
        max_loras=1,
        max_lora_rank=16,
        logprobs_mode="raw_logprobs",
        enable_sleep_mode=False,
        gpu_memory_utilization=0.92,
        enforce_eager=False,
        max_num_seqs=None,
    ):
        from transformers import AutoModelForCausalLM

        if machine.has("cannot start"):
            raise ValueError("Free memory on device is less than desired GPU memory utilization.")
        if max_lora_rank not in RANKS:
            raise ValueError(f"Input should be {', '.join(map(str, RANKS))}")
        assert skip_tokenizer_init, "token ids are all it is given"
        assert generation_config == "vllm", "the model's own would put thresholds in"
        self.machine, self.room, self.rank, self.longest = machine, max_loras, max_lora_rank, max_model_len
        self.enabled, self.may_sleep, self.mode = enable_lora, enable_sleep_mode, logprobs_mode
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.modules = dict(self.model.named_modules())
        self.whole = {name: m.weight.data.clone() for name, m in self.modules.items() if hasattr(m, "weight")}
        self.adapters, self.prompts, self.loaded = {}, {}, []
        self.asleep = self.ended = False
        self.sleeps = 0
        core = SimpleNamespace(shutdown=lambda: setattr(self, "ended", True))
        self.llm_engine = SimpleNamespace(
            add_lora=self.add, remove_lora=self.remove, list_loras=lambda: set(self.adapters), engine_core=core
        )
        machine.engines.append(self)

    def add(self, request):
        assert not self.asleep, "the worker has no memory to load it to"
        if self.machine.has("does not load"):
            return False
        if request.lora_int_id in self.adapters:
            return True  # known: the folder is not looked at again
        while len(self.adapters) >= self.room and not self.machine.has("keeps old adapters"):
            self.adapters.pop(next(iter(self.adapters)))
        self.adapters[request.lora_int_id] = self.read(Path(request.lora_path))
        self.loaded.append(request)
        return True

    def remove(self, number):
        if self.machine.has("keeps old adapters"):
            return False
        return self.adapters.pop(number, None) is not None

    def read(self, folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        if config["r"] > self.rank:
            raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {self.rank}.")
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {x.dtype for x in tensors.values()} == {self.model.dtype}, "in the engine's own dtype"
        scaling = config["lora_alpha"] / (config["r"] ** (0.5 if config["use_rslora"] else 1))
        found = {}
        for key in [key for key in tensors if "lora_A" in key]:
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[name] = scaling * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
        return found

    def wear(self, adapter):
        for name, weight in self.whole.items():
            self.modules[name].weight.data = weight + adapter[name] if name in adapter else weight

    def sleep(self, level=1, mode="abort"):
        assert self.may_sleep, "Sleep mode is not enabled."
        assert level == 1, "what is deeper loses the weights"
        self.asleep, self.sleeps = True, self.sleeps + 1
        self.prompts.clear()
        if self.machine.has("forgets adapters asleep"):
            self.adapters = {number: {} for number in self.adapters}

    def wake_up(self, tags=None):
        self.asleep = self.machine.has("does not wake")
        return not self.asleep

    @torch.no_grad()
    def generate(self, prompts, sampling_params, *, use_tqdm=True, lora_request=None):
        assert not self.asleep, "EngineCore is sleeping"
        assert self.enabled
        if self.machine.has("runs out of memory"):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if not len(prompts) == len(sampling_params) == len(lora_request):
            raise ValueError("The lengths of prompts and lora_request must be the same.")
        if len({request.lora_int_id for request in lora_request}) > self.room:
            raise RuntimeError("Number of requested LoRAs is greater than the number of GPU LoRA slots")
        answers, given = [], [prompt["prompt_token_ids"] for prompt in prompts]
        for ids, params, request in zip(given, sampling_params, lora_request, strict=True):
            if self.longest is not None and len(ids) + 1 > self.longest:
                raise ValueError(f"The prompt is longer than the maximum model length of {self.longest}.")
            self.add(request)
            self.wear({} if self.machine.has("ignores adapters") else self.adapters[request.lora_int_id])
            outputs = self.said(ids, params, request)
            worn = {"uses no adapter": None, "uses another adapter": LoRARequest("slot0-v0", 999, "elsewhere")}
            told = next((worn[fault] for fault in worn if self.machine.has(fault)), request)
            answers.append(SimpleNamespace(prompt_token_ids=ids, outputs=outputs, lora_request=told, finished=True))
        if self.machine.has("answers out of order"):
            answers.reverse()
        return answers[:-1] if self.machine.has("skips a request") else answers

    def said(self, ids, params, request):
        """The completions of one request."""
        start = (request.lora_name, request.lora_path, tuple(ids))
        tokens = torch.tensor([ids] * params.n)
        generators = [torch.Generator().manual_seed(params.seed + g) for g in range(params.n)]
        likely, stop = [[] for _ in range(params.n)], set(params.stop_token_ids or ())
        if not params.ignore_eos:
            stop.add(self.model.config.eos_token_id)
        alive = [True] * params.n
        room = params.max_tokens if self.longest is None else self.longest - len(ids)
        for step in range(min(params.max_tokens, room)):
            if step or start not in self.prompts:
                logits = self.model(input_ids=tokens).logits[:, -1].float()
                if step == 0:
                    self.prompts[start] = logits[:1]
            else:
                logits = self.prompts[start].expand(params.n, -1)
            drawn_from = (logits / params.temperature).log_softmax(-1)
            told = drawn_from if self.mode == "processed_logprobs" else logits.log_softmax(-1)
            if self.machine.has("leaves the temperature out"):
                told = logits.log_softmax(-1)
            pairs = zip(drawn_from.exp(), generators, strict=True)
            chosen = torch.stack([torch.multinomial(p, 1, generator=own) for p, own in pairs])
            for g in range(params.n):
                if alive[g]:
                    noise = self.machine.noise * float(torch.randn((), generator=generators[g]))
                    likely[g].append((int(chosen[g]), float(told[g, chosen[g]]) + noise))
                    alive[g] = int(chosen[g]) not in stop or self.machine.has("goes on after the end")
            tokens = torch.cat([tokens, chosen], 1)
            if not any(alive):
                break
        outputs = [self.output(g, entries, alive[g], request) for g, entries in enumerate(likely)]
        if self.machine.has("numbers twice"):
            outputs[-1].index = 0
        return outputs[:-1] if self.machine.has("answers one less") else outputs

    def output(self, index, entries, alive, request):
        reason = "length" if alive else "stop"
        if self.machine.has("aborts"):
            entries, reason = entries[:1], "abort"
        if self.machine.has("says nothing"):
            entries = []
        told = [{token: SimpleNamespace(logprob=value, rank=1, decoded_token=None)} for token, value in entries]
        if self.machine.has("invents a token"):
            entries = [(self.model.config.vocab_size, value) for _, value in entries]
            told = [{token: SimpleNamespace(logprob=value)} for token, value in entries]
        if self.machine.has("lacks a log-probability"):
            told[-1] = {10**6: SimpleNamespace(logprob=0.0)}
        return SimpleNamespace(
            index=index,
            text="",
            token_ids=[token for token, _ in entries],
            logprobs=None if self.machine.has("lacks all log-probabilities") else told,
            finish_reason=reason,
            lora_request=request,
        )
