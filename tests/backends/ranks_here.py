"""What is tried within ranks, and one pair of them for many runs: each takes seconds to import what it needs."""

from __future__ import annotations

import gc
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from tiny_models import PROMPTS, RAGGED, SYMBOLS, lora, random_population, symbol_tokenizer

from pareto_align import ModelError
from pareto_align.backends.ranks import Ranks
from pareto_align.policies import SamplingParams, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.sharding import tensor
from pareto_align.policies.sharding.loading import load_share

GROUP, SUMS = 3, 2


def loading(folder):
    return {
        "model": str(folder),
        "tokenizer": symbol_tokenizer(SYMBOLS, PROMPTS),
        "device": "cpu",
        "dtype": "float32",
        "use_chat_template": False,
    }


def computed(base, *, checkpointing=False, config=None):
    """Logits of a prompt, what two policies say, and the gradients of two sums of it."""
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([base.encode(RAGGED[1])])).logits
    population = random_population(base, 2, config=config or lora(2))
    engine = Engine(population, gradient_checkpointing=checkpointing)
    prompts = [base.encode(prompt) for prompt in RAGGED]
    done = engine.sample(prompts, GROUP, SamplingParams(4), [5, 6])
    shares = torch.randn(2, len(prompts), GROUP, SUMS, generator=torch.Generator().manual_seed(0))
    gradients, logprobs = engine.ascend(engine.prepare(prompts, done), shares, done.mask.float())
    population.close()
    return {"logits": logits, "tokens": done.tokens, "gradients": gradients, "logprobs": logprobs}


def whole(folder, **how):
    """The same where the model is whole, in products that no rank packs in another way."""
    return computed(load_base(**loading(folder)), **how)


class Tried:
    """Stands in the place of a host."""

    def __init__(self):
        self.sharding = None

    def attend(self):
        if self.sharding is not None:
            self.sharding.attend()

    def share(self, folder, way):
        base = load_share(loading(folder), way)
        self.sharding = base.sharding
        return base

    def computed(self, folder, way, how):
        """What `computed` finds, and how much of the model each rank has of it."""
        base = self.share(folder, way)
        own = torch.tensor(sum(local(parameter).numel() for parameter in base.model.parameters()))
        held = [torch.zeros_like(own) for _ in range(2)]
        dist.all_gather(held, own)
        return {**computed(base, **how), "held": [int(number) for number in held]}

    def fails(self):
        """One rank does, while the other waits for it."""
        if dist.get_rank() == 1:
            raise ValueError("not today")
        dist.barrier()

    def wrong(self, folder):
        """What is said where a cut goes wrong: here nobody sums the shares."""
        with patch.object(tensor, "_leave", lambda *_: None), pytest.raises(ModelError) as told:
            load_share(loading(folder), "tensor")
        return str(told.value)

    def memory(self, folder):
        """Bytes of all tensors: before a pass forth and back, within the last layer but one, and after it."""
        base = self.share(folder, "fsdp")
        population = random_population(base, 1, config=lora(1, ["q_proj"]))
        within = []
        layer = base.model.model.layers[-2]
        hook = layer.mlp.register_forward_hook(lambda *_: within.append(bytes_alive()))
        before = bytes_alive()
        with population.serving(training=True):
            states = base.model.model(input_ids=torch.tensor([[1, 2]]), use_cache=False).last_hidden_state
            states.sum().backward()
        del states
        after = bytes_alive()
        hook.remove()
        population.close()
        return {"before": before, "within": within[0], "after": after}


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def bytes_alive():
    gc.collect()
    tensors = [local(x) for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors if x.device.type == "cpu"}
    return sum(storages.values())


class Reused(Ranks):
    """Ranks that outlive the run that they were made for, for the next one of as many."""

    pair: Reused | None = None

    def __init__(self, make, count, *, apart, threads):
        if Reused.pair is None or not Reused.pair._lines:
            super().__init__(make, count, apart=apart, threads=threads)
            Reused.pair = self
            return
        self.__dict__.update(Reused.pair.__dict__)
        self.apart = apart
        self._exchange([make] * count)

    def close(self):
        """Not now."""

    def _exchange(self, told):
        try:
            return super()._exchange(told)
        except BaseException:
            self.end()
            raise

    @classmethod
    def end(cls):
        if cls.pair is not None:
            Ranks.close(cls.pair)
            cls.pair = None


tried = partial(Reused, Tried, 2, apart=False, threads=1)
