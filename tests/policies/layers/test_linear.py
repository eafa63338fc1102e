"""Frozen linear layers: both ways of multiplying against the plain layer, and the switch between them."""

from __future__ import annotations

import pytest
import torch

from pareto_align.policies.layers import linear as linear_module
from pareto_align.policies.layers.linear import FrozenLinear, FrozenProduct, onednn_works, room_for_packed

WAYS = [False, pytest.param(True, marks=pytest.mark.skipif(not onednn_works(torch.float32), reason="no oneDNN here"))]


@pytest.mark.parametrize("packed", WAYS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_and_its_gradient_are_the_layers(packed, bias, dtype):
    if packed and not onednn_works(dtype):
        pytest.skip("not in this type")
    layer = torch.nn.Linear(48, 33, bias=bias).to(dtype).requires_grad_(False)
    strided = torch.randn(5, 2, 48).to(dtype).transpose(0, 1)  # not contiguous: the case that folding is for
    for x in (strided, strided[0], strided[:, :1]):
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        found, expected = FrozenProduct(layer, packed=packed)(ours), layer(theirs)
        assert found.shape == expected.shape
        slope = torch.randn(expected.shape).to(dtype)
        (found * slope).sum().backward()
        (expected * slope).sum().backward()
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        assert torch.allclose(found, expected, **tolerance)
        assert torch.allclose(ours.grad, theirs.grad, **tolerance)


def test_a_frozen_layer_shows_its_weight():
    layer = torch.nn.Linear(5, 3)
    wrapped = FrozenLinear(layer)
    assert wrapped.weight is layer.weight
    assert wrapped.bias is layer.bias


@pytest.mark.parametrize("word", ["0", "false", "OFF"])
def test_the_switch_turns_packed_weights_off(word, monkeypatch):
    monkeypatch.setenv(linear_module.SWITCH, word)
    assert not onednn_works.__wrapped__(torch.float32)


def test_operators_that_are_missing_or_wrong_are_not_used(monkeypatch):
    right = linear_module._pointwise

    def missing(*arguments):
        raise AttributeError("no such operator")

    for broken in (missing, lambda x, weight, bias: right(x, weight, bias) * 1.01):
        monkeypatch.setattr(linear_module, "_pointwise", broken)
        assert not onednn_works.__wrapped__(torch.float32)


def test_other_types_are_left_to_torch():
    assert not onednn_works.__wrapped__(torch.float64)
    assert not onednn_works.__wrapped__(torch.float16)


def test_second_copies_are_only_taken_where_they_fit(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Embedding(1000, 64))
    bytes_of_linear = 64 * 64 * 4
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 4 * bytes_of_linear}
    monkeypatch.setattr(linear_module.os, "sysconf", pages.__getitem__)
    assert room_for_packed(model)
    pages["SC_PHYS_PAGES"] -= 1
    assert not room_for_packed(model)
