"""The optimiser and schedule of the publication, against their formulas written out."""

import math

import numpy as np
import pytest
import torch

from iceprobe.fitting.optimisers import LARS, build_optimizer, warmup_cosine


def reference_lars(p, gradients, lr, decay, momentum=0.9, eta=1e-3):
    """The specification's update in numpy, one parameter."""
    mu = np.zeros_like(p)
    for g in gradients:
        if p.ndim > 1:
            g = g + decay * p
            p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
            if p_norm > 0 and g_norm > 0:
                g = g * (eta * p_norm / g_norm)
        mu = momentum * mu + g
        p = p - lr * mu
    return p


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 5), (7,), ()])
def test_lars_equals_its_formula(shape, decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=shape), [rng.normal(size=shape) for _ in range(4)]
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer = LARS([p], lr=1.6, weight_decay=decay)
    for gradient in gradients:
        p.grad = torch.tensor(gradient)
        optimizer.step()
    expected = reference_lars(np.asarray(start), gradients, 1.6, decay)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_lars_takes_factor_one_where_a_norm_is_zero():
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    still = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    still.grad = torch.zeros_like(still)
    LARS([p, still], lr=0.5).step()
    assert torch.equal(p.detach(), torch.full_like(p, -0.5))
    assert torch.equal(still.detach(), torch.ones_like(still))


def test_lars_shares_one_ratio_over_a_query_bank():
    """Rows of very different size are scaled alike: the bank is one tensor."""
    bank = torch.nn.Parameter(torch.tensor([[100.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    bank.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    LARS([bank], lr=1.0).step()
    ratio = 1e-3 * math.sqrt(100**2 + 1) / 5
    expected = torch.tensor([[100 - 3 * ratio, 0], [0, 1 - 4 * ratio]], dtype=torch.float64)
    torch.testing.assert_close(bank.detach(), expected, rtol=1e-12, atol=0)


def test_adamw_is_torchs():
    p = torch.nn.Parameter(torch.ones(2))
    assert isinstance(build_optimizer("adamw", [{"params": [p], "lr": 1e-3}]), torch.optim.AdamW)


def test_schedule_rises_and_falls():
    assert [warmup_cosine(s, 90, 10) for s in (0, 5, 10)] == [0, 0.5, 1]
    assert warmup_cosine(50, 90, 10) == pytest.approx(0.5)
    assert warmup_cosine(89, 90, 10) == pytest.approx(0.5 * (1 + math.cos(math.pi * 79 / 80)))
    assert warmup_cosine(90, 90, 10) == pytest.approx(0, abs=1e-15)
