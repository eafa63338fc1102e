"""Frozen RMS norms against the models' own, and which norms are left as they are."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_base, tiny_model
from torch import nn

from pareto_align.policies import PolicyPopulation
from pareto_align.policies.layers.norms import FrozenNorm


def norm_of(family, dtype=torch.float32):
    norm = next(m for m in tiny_model(family).modules() if "RMSNorm" in type(m).__name__)
    torch.manual_seed(0)
    nn.init.uniform_(norm.weight, -1, 2)
    return norm.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "granite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_the_models_own(family, dtype):
    plain = norm_of(family, dtype)
    frozen = FrozenNorm.of(plain)
    assert frozen is not None
    states = torch.randn(2, 7, len(plain.weight)) * torch.logspace(-3, 2, 7)[:, None]
    slope = torch.randn(states.shape).to(dtype)
    found = []
    for norm in (frozen, plain):
        x = states.to(dtype).requires_grad_()
        y = norm(x)
        y.backward(slope)
        found.append((y.detach(), x.grad))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    (y, ours), (expected, theirs) = found
    assert torch.equal(y, expected)
    assert ours.dtype == theirs.dtype
    assert ((ours - theirs).abs() <= tolerance * theirs.abs().amax(-1, keepdim=True)).all()


def test_a_norm_that_computes_something_else_is_left_alone():
    class MeanRMSNorm(type(norm_of("llama"))):
        def forward(self, x):
            return super().forward(x - x.mean(-1, keepdim=True))

    class DetachedRMSNorm(type(norm_of("llama"))):
        def forward(self, x):
            return super().forward(x.detach()) + 0 * x

    class GatedRMSNorm(type(norm_of("llama"))):
        def forward(self, x, gate=None):
            return super().forward(x if gate is None else x * gate)

    assert FrozenNorm.of(MeanRMSNorm(8)) is None
    assert FrozenNorm.of(GatedRMSNorm(8)) is None  # whoever gives it a gate would be refused
    assert FrozenNorm.of(DetachedRMSNorm(8)) is None  # right numbers, another gradient
    assert FrozenNorm.of(nn.LayerNorm(8)) is None


def test_a_population_puts_the_models_norms_back():
    base = tiny_base()
    before = [type(m) for m in base.model.modules()]
    population = PolicyPopulation(base, 1)
    frozen = [m for m in base.model.modules() if isinstance(m, FrozenNorm)]
    assert len(frozen) == 1 + 2 * base.model.config.num_hidden_layers
    population.close()
    assert [type(m) for m in base.model.modules()] == before
