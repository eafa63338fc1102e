"""The micro-batch that a run takes where nobody says one: by the device and its free memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_base

from pareto_align.policies.layers import head
from pareto_align.policies.layers.head import Head
from pareto_align.policies.micro_batch import (
    DEFAULT_MICRO_BATCH_TOKENS,
    MOST_TOKENS,
    SHARE,
    default_micro_batch,
    kept_bytes,
)


def on_a_gpu(base):
    """The same model, said to be on a GPU."""
    return SimpleNamespace(model=base.model, dtype=base.dtype, device=torch.device("cuda"))


def test_a_cpu_takes_what_it_always_took():
    assert default_micro_batch(tiny_base()) == DEFAULT_MICRO_BATCH_TOKENS == 4096


def test_what_a_token_keeps_is_counted_from_the_sizes():
    # two layers of width 32 and 48, four heads and two key heads of eight, in float32
    assert kept_bytes(tiny_base()) == 2 * (6 * 32 + 4 * 48 + 2 * (4 + 2 * 2) * 8) * 4
    assert kept_bytes(tiny_base(dtype=torch.bfloat16)) * 2 == kept_bytes(tiny_base())


@pytest.mark.parametrize("tokens", [10, 5000, MOST_TOKENS, 10 * MOST_TOKENS])
def test_a_gpu_takes_what_its_free_memory_holds_up_to_a_limit(tokens, monkeypatch):
    base = tiny_base()
    free = int((tokens + 0.5) * kept_bytes(base) / SHARE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert default_micro_batch(on_a_gpu(base)) == min(tokens, MOST_TOKENS)


def test_a_model_that_does_not_say_its_sizes_gets_the_small_default(monkeypatch):
    base = tiny_base()
    monkeypatch.delattr(type(base.model.config), "intermediate_size", raising=False)
    monkeypatch.delitem(vars(base.model.config), "intermediate_size", raising=False)
    assert kept_bytes(base) is None
    assert default_micro_batch(on_a_gpu(base)) == DEFAULT_MICRO_BATCH_TOKENS


@pytest.mark.parametrize(("card", "logits"), [(24 * 2**30, 64_000_000), (80 * 2**30, 256_000_000)])
def test_a_large_card_holds_more_logits_at_once(card, logits, monkeypatch):
    made = Head(tiny_base())
    weight = SimpleNamespace(device=torch.device("cuda"), shape=(151_936, 896))
    monkeypatch.setattr(head, "_card_memory", lambda device: card)
    monkeypatch.setattr(made, "module", SimpleNamespace(weight=weight))
    assert made.chunk() == logits // 151_936
