"""Packed rows: what a training pass keeps for its backward pass, and what it makes of its masks."""

from __future__ import annotations

import pytest
import torch
from tiny_models import lora, random_population, relative_error, tiny_base

from pareto_align.policies.layers.attention import additive_mask, attend
from pareto_align.policies.layers.packing import PackedAttention
from pareto_align.policies.logprobs import fused_loss, lay_out, predicting_states
from pareto_align.policies.transfers import moved

K, G, T, LAYERS = 8, 8, 28, 4
PROPORTIONS = {  # of Qwen2.5-0.5B at an eighth of its width: seven query heads share a key head
    "hidden_size": 112,
    "intermediate_size": 608,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
MASKS = {"once": PackedAttention.masks, "in every layer": lambda self, repeats, dtype: self._seen()}


def kept_and_gradient(monkeypatch, masks):
    """Bytes of masks that a packed pass keeps, in how many storages; all bytes that it keeps; and its gradient."""
    monkeypatch.setattr(PackedAttention, "masks", masks)
    population = random_population(tiny_base("qwen2", **PROPORTIONS), K, config=lora(targets=["q_proj", "v_proj"]))
    prompts = [list(range(12)), list(range(9))]
    tokens = torch.randint(0, 12, (K, 2, G, T), generator=torch.Generator().manual_seed(0))
    whole = torch.ones_like(tokens, dtype=torch.bool)
    rows = lay_out(population, prompts, tokens, whole, packed=True)
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), x.shape[1:2] == (1,) and x.dim() == 4 and x.shape[3] == 12 + T, x)
        return x

    with (
        population.serving(training=True),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        predicting_states(population, rows) as hidden,
    ):
        total, _ = fused_loss(hidden, population.head, tokens.flatten(), lambda logprob, _: logprob)
        total.backward()
    gradient = population.grad.clone()
    population.close()
    sizes = [size for size, is_mask, _ in kept.values() if is_mask]
    return sum(sizes), len(sizes), sum(size for size, *_ in kept.values()), gradient


def test_all_layers_keep_one_mask_and_the_gradient_is_the_same_to_the_bit(monkeypatch):
    once, storages, every, gradient = kept_and_gradient(monkeypatch, MASKS["once"])
    before, copies, every_before, expected = kept_and_gradient(monkeypatch, MASKS["in every layer"])
    assert (storages, copies) == (1, LAYERS)
    assert once * LAYERS == before
    assert every_before - every == before - once
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 8])
def test_an_additive_mask_is_stacked_like_the_queries_and_starts_rows_where_kernels_want_them(dtype, width):
    generator = torch.Generator().manual_seed(0)
    seen = (torch.rand(3, 1, 4, width, generator=generator) > 0.4) | (torch.arange(width) == 0)
    mask = additive_mask(seen, 2, dtype)
    assert mask.dtype == dtype
    assert mask.shape == (3, 1, 8, width)
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
    query, key, value = (torch.randn(3, heads, n, 16).to(dtype) for heads, n in ((4, 4), (2, width), (2, width)))
    for softcap in (None, 2.0):
        found, expected = (attend(query, key, value, m, None, softcap) for m in (mask, seen))
        assert torch.equal(found, expected)


def test_moved_tensors_keep_shapes_types_and_numbers():
    from pretended_device import DEVICE, pretended

    tensors = [torch.arange(5), torch.tensor([True, False, True]), torch.zeros(0, 2), torch.randn(2, 3).half().T]
    with pretended() as device:
        there = moved(tensors, DEVICE)
        assert device.waits == 0
        for x, y in zip(tensors, there, strict=True):
            assert y.device == DEVICE
            assert y.dtype == x.dtype
            assert torch.equal(y.cpu(), x)
    assert all(x is y for x, y in zip(tensors, moved(tensors, torch.device("cpu")), strict=True))


def test_prompts_of_one_length_share_one_mask():
    population = random_population(tiny_base(), 2)
    tokens = torch.zeros(2, 2, 3, 4, dtype=torch.long)
    for prompts, rows in (([[1, 2], [3, 4]], 1), ([[1, 2], [3]], 2 * 2 * 3)):
        laid = lay_out(population, prompts, tokens, tokens == 0, packed=True)
        prompt, completion = PackedAttention(laid).masks(2, torch.float32)
        assert prompt is None
        assert completion.shape == (rows, 1, 8, 6)
    assert relative_error(completion.exp(), (completion == 0).float()) == 0
