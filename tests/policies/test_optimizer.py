"""The stacked AdamW is torch's, row by row."""

from __future__ import annotations

import math

import pytest
import torch

from pareto_align.policies.optimizer import OPTIMIZERS, PopulationAdamW, PopulationLion
from pareto_align.runs.settings import OPTIMIZERS as NAMES

K, M, STEPS = 3, 20, 12


def gradients(seed=0):
    """[STEPS, K, M]; the rows differ by orders of magnitude, so clipping catches some of them only."""
    grads = torch.randn(STEPS, K, M, generator=torch.Generator().manual_seed(seed))
    return grads * torch.tensor([1e-3, 0.3, 50.0])[:, None]


def start():
    return torch.randn(K, M, generator=torch.Generator().manual_seed(9))


def by_torch(row, grads, rates, *, max_norm, **settings):
    """One row by torch.optim.AdamW and clip_grad_norm_; also the norms before clipping."""
    parameter = torch.nn.Parameter(row.clone())
    optimizer = torch.optim.AdamW([parameter], **settings)
    norms = []
    for grad, rate in zip(grads, rates, strict=True):
        parameter.grad = grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([parameter], math.inf if max_norm is None else max_norm))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return parameter.detach(), torch.stack(norms)


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_row_is_stepped_as_by_torch(max_norm, weight_decay):
    grads, rates = gradients(), [1e-2 * (1 - s / STEPS) for s in range(STEPS)]
    ours = start()
    optimizer = PopulationAdamW(ours, max_norm=max_norm, weight_decay=weight_decay, betas=(0.8, 0.99), eps=1e-6)
    norms = torch.stack([optimizer.step(grad, rate) for grad, rate in zip(grads, rates, strict=True)])
    for k in range(K):
        expected, expected_norms = by_torch(
            start()[k], grads[:, k], rates, max_norm=max_norm, weight_decay=weight_decay, betas=(0.8, 0.99), eps=1e-6
        )
        assert torch.allclose(ours[k], expected, rtol=1e-6, atol=1e-7)
        assert torch.allclose(norms[:, k], expected_norms, rtol=1e-5)


def test_rows_may_have_rates_of_their_own():
    ours, rates = start(), torch.tensor([1e-2, 0.0, 1e-3])
    optimizer = PopulationAdamW(ours)
    for grad in gradients():
        optimizer.step(grad, rates)
    assert torch.equal(ours[1], start()[1])
    for k in (0, 2):
        expected, _ = by_torch(start()[k], gradients()[:, k], [float(rates[k])] * STEPS, max_norm=1.0, weight_decay=0)
        assert torch.allclose(ours[k], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_whose_gradient_is_not_finite_is_skipped_and_the_others_step(bad):
    grads = gradients()
    grads[4, 1, 7] = bad
    ours = start()
    optimizer = PopulationAdamW(ours, weight_decay=0.1)
    for step, grad in enumerate(grads):
        before = ours.clone()
        norms = optimizer.step(grad, 1e-2)
        assert torch.isfinite(norms).tolist() == [True, step != 4, True]
        assert torch.equal(before[1], ours[1]) == (step == 4)
    assert optimizer.steps[:, 0].tolist() == [STEPS, STEPS - 1, STEPS]
    for k in range(K):
        given = [s for s in range(STEPS) if not (k == 1 and s == 4)]  # as if that step had never been
        expected, _ = by_torch(start()[k], grads[given, k], [1e-2] * len(given), max_norm=1.0, weight_decay=0.1)
        assert torch.allclose(ours[k], expected, rtol=1e-6, atol=1e-7)


def test_reset_makes_one_row_a_beginner():
    ours = start()
    optimizer = PopulationAdamW(ours)
    for grad in gradients():
        optimizer.step(grad, 1e-2)
    optimizer.reset(2)
    middle = ours.clone()
    for grad in gradients(1):
        optimizer.step(grad, 1e-2)
    expected, _ = by_torch(middle[2], gradients(1)[:, 2], [1e-2] * STEPS, max_norm=1.0, weight_decay=0)
    assert torch.allclose(ours[2], expected, rtol=1e-6, atol=1e-7)
    both = torch.cat([gradients(), gradients(1)])
    expected, _ = by_torch(start()[0], both[:, 0], [1e-2] * 2 * STEPS, max_norm=1.0, weight_decay=0)
    assert torch.allclose(ours[0], expected, rtol=1e-6, atol=1e-7)


def test_a_saved_state_goes_on_where_it_stopped():
    straight, first = start(), start()
    one, two = PopulationAdamW(straight), PopulationAdamW(first)
    for grad in gradients():
        one.step(grad, 1e-2)
        two.step(grad, 1e-2)
    saved = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    resumed = first.clone()
    three = PopulationAdamW(resumed)
    three.load_state_dict(saved)
    for grad in gradients(1):
        one.step(grad, 1e-2)
        three.step(grad, 1e-2)
    assert torch.equal(straight, resumed)
    assert torch.equal(saved["steps"], torch.full((K, 1), float(STEPS)))  # the saved tensors were copied, not shared


def test_a_step_has_the_bits_of_the_plain_formula_and_leaves_the_gradient_alone():
    """Written in place for the sake of memory; the order of the operations is that of the formula."""
    ours = start()
    optimizer = PopulationAdamW(ours, weight_decay=0.1)
    plain, mean, square = start(), torch.zeros(K, M), torch.zeros(K, M)
    for step, grad in enumerate(gradients(), 1):
        given, rate = grad.clone(), torch.full((K, 1), 1e-2)
        optimizer.step(grad, 1e-2)
        assert torch.equal(grad, given)
        clipped = grad * (1.0 / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        mean.lerp_(clipped, 1 - 0.9)
        square.lerp_(clipped * clipped, 1 - 0.999)
        first, second = (-torch.expm1(torch.full((K, 1), float(step)) * math.log(beta)) for beta in (0.9, 0.999))
        plain.mul_(1 - rate * 0.1)
        plain.sub_(rate * (mean / first) / ((square / second).sqrt() + 1e-8))
        assert torch.equal(ours, plain)


def test_a_step_makes_two_blocks_of_the_parameters_size_at_most():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocations(TorchDispatchMode):
        """Storages of `[K, M]` float32 that operators return, held on to so that none is used again."""

        def __init__(self):
            super().__init__()
            self.found = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.shape == (K, M) and made.dtype == torch.float32:
                self.found[made.untyped_storage().data_ptr()] = made
            return made

    ours, grad = start(), gradients()[0]
    optimizer = PopulationAdamW(ours, weight_decay=0.1)
    with Allocations() as seen:
        optimizer.step(grad, 1e-2)
    own = {x.untyped_storage().data_ptr() for x in (ours, grad, optimizer.mean, optimizer.square)}
    assert len(seen.found.keys() - own) == 2


# Lion.


def test_lion_gold():
    # .9 (-.2, 0) + .1 (.3, -.1) = (-.15, -.01): both go up by 1e-4, after a decay of 1e-5; m' = .99 m + .01 g
    ours = torch.tensor([[1.0, -2.0]])
    optimizer = PopulationLion(ours, weight_decay=0.1, max_norm=None)
    optimizer.mean.copy_(torch.tensor([[-0.2, 0.0]]))
    optimizer.step(torch.tensor([[0.3, -0.1]]), 1e-4)
    assert torch.allclose(ours, torch.tensor([[1.00009, -1.99988]]), rtol=0, atol=1e-7)
    assert torch.allclose(optimizer.mean, torch.tensor([[-0.195, -0.001]]))


def by_formula(row, grads, rates, *, betas, weight_decay, max_norm):
    """One row by the published algorithm, one number at a time."""
    p, m = row.double().tolist(), [0.0] * len(row)
    for grad, rate in zip(grads.double(), rates, strict=True):
        factor = 1.0 if max_norm is None else min(1.0, max_norm / (float(grad.norm()) + 1e-6))
        for i, g in enumerate((grad * factor).tolist()):
            u = betas[0] * m[i] + (1 - betas[0]) * g
            p[i] -= rate * (math.copysign(1.0, u) + weight_decay * p[i])
            m[i] = betas[1] * m[i] + (1 - betas[1]) * g
    return torch.tensor(p)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_every_row_of_lion_is_stepped_alone(max_norm):
    grads, rates = gradients(), [1e-2 * (1 - s / STEPS) for s in range(STEPS)]
    ours, settings = start(), {"betas": (0.9, 0.99), "weight_decay": 0.1, "max_norm": max_norm}
    optimizer = PopulationLion(ours, **settings)
    for grad, rate in zip(grads, rates, strict=True):
        optimizer.step(grad, rate)
    for k in range(K):
        assert torch.allclose(ours[k], by_formula(start()[k], grads[:, k], rates, **settings), atol=1e-6)


def test_a_row_of_lion_without_a_gradient_stays_and_one_can_start_again():
    ours = start()
    optimizer = PopulationLion(ours, weight_decay=0.1)
    for grad in gradients()[:3]:
        optimizer.step(grad, 1e-2)
    before, mean = ours.clone(), optimizer.mean.clone()
    broken = gradients()[3]
    broken[1, 0] = math.nan
    norms = optimizer.step(broken, 1e-2)
    assert not torch.isfinite(norms[1])
    assert torch.equal(ours[1], before[1])
    assert torch.equal(optimizer.mean[1], mean[1])
    assert not torch.equal(ours[0], before[0])
    resumed = PopulationLion(ours.clone(), weight_decay=0.1)
    resumed.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    optimizer.step(gradients()[4], 1e-2)
    resumed.step(gradients()[4], 1e-2)
    assert torch.equal(ours, resumed.parameters)
    optimizer.reset(0)
    assert not optimizer.mean[0].any()
    assert optimizer.mean[2].any()


def test_the_settings_know_all_optimizers():
    assert tuple(OPTIMIZERS) == NAMES


@pytest.mark.parametrize("family", ["independent", "blocks"])
def test_a_run_with_lion_learns(family, tmp_path):
    from pareto_align.testing.judging import judged_fit
    from pareto_align.testing.problems import get_problem

    settings = {"weighting": "fixed", "population": 2, "steps": 30, "eval_every": 30, "learning_rate": 2e-3}
    fit = judged_fit(get_problem("arc", V=8), tmp_path, optimizer="lion", family=family, **settings)
    gained = (fit.values * fit.preferences).sum(1) - (fit.preferences * 0.6).sum(1)
    assert (gained > 0.1).all()
