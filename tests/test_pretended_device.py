"""The pretended accelerator refuses what CUDA refuses, and lets through what CUDA lets through."""

from __future__ import annotations

import pytest
import torch
from pretended_device import DEVICE, PretendedTensor, pretended


@pytest.fixture
def device():
    with pretended() as device:
        yield device


REFUSED = {
    "adding": lambda x, home: x + home,
    "concatenating": lambda x, home: torch.cat([x, home]),
    "multiplying": lambda x, home: home @ x.T,
    "masking": lambda x, home: x.masked_fill(home > 0, 0.0),
    "adding in place": lambda x, home: home.add_(x),
    "indexing the CPU from the device": lambda x, home: home[torch.zeros(1, dtype=torch.long, device=DEVICE)],
    "putting": lambda x, home: x.index_put_((torch.tensor([0]),), home[:1]),
    "numpy": lambda x, home: x.numpy(),
    "a generator of the CPU": lambda x, home: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "the CPU's own library": lambda x, home: torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(device, name):
    home = torch.ones(2, 3)
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](home.to(DEVICE), home)


def test_what_cuda_lets_through_gives_the_cpus_numbers(device):
    home = torch.randn(2, 3)
    x = home.to(DEVICE)
    assert x.device == DEVICE
    for made in (
        torch.tensor([1.0], device=DEVICE),
        torch.arange(3, device=DEVICE),
        x.new_zeros(2),
        torch.zeros_like(x),
    ):
        assert isinstance(made, PretendedTensor)
    assert isinstance(x.cpu(), torch.Tensor)
    assert not isinstance(x.cpu(), PretendedTensor)
    assert torch.equal((x * torch.tensor(2.0)).cpu(), home * 2)  # a number of the CPU
    assert torch.equal(x[torch.tensor([1])].cpu(), home[[1]])  # an index of the CPU
    assert x.tolist() == home.tolist()
    x[:, 1].fill_(7.0)
    assert (x.cpu()[:, 1] == 7).all(), "a view is a view"
    x.copy_(home)
    assert float(x.sum()) == float(home.sum())


def test_what_is_not_deterministic_is_refused_where_it_must_be(device):
    x = torch.ones(2, 3).to(DEVICE)
    assert x.cumsum(1).tolist() == [[1.0, 2.0, 3.0]] * 2
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            x.cumsum(1)
    finally:
        torch.use_deterministic_algorithms(False)


def test_gradients_are_the_cpus(device):
    home, weight = torch.randn(4, 3), torch.randn(2, 3)
    found, expected = weight.to(DEVICE).requires_grad_(), weight.clone().requires_grad_()
    torch.nn.functional.linear(home.to(DEVICE), found).square().sum().backward()
    torch.nn.functional.linear(home, expected).square().sum().backward()
    assert torch.equal(found.grad.cpu(), expected.grad)


def test_waiting_is_counted(device):
    x = torch.ones(3).to(DEVICE)
    assert device.waits == 0, "the host does not wait for a copy to the device"
    assert torch.equal(x.to("cpu", non_blocking=True), torch.ones(3))
    assert device.waits == 0, "nor for one to the CPU that is only queued"
    for count, wait in enumerate((lambda: float(x[0]), lambda: bool(x.all()), x.cpu, x.tolist, lambda: x[x > 0]), 1):
        wait()
        assert device.waits == count
