"""float32 products by oneDNN against the same in float64, on any processor whose torch has it."""

import copy

import pytest
import torch
from torch.func import vmap
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.machine import products
from iceprobe.probes.attend import attend_together
from iceprobe.probes.layer_norm import token_rstd
from tests.reference.probes import softmax

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """oneDNN is taken for the smallest product, and what it is asked is kept."""
    calls, linear = [], products.linear
    torch.manual_seed(0)
    monkeypatch.setattr(products, "_is_amd", lambda: True)
    monkeypatch.setattr(products, "PAYING", 0)
    monkeypatch.setattr(products, "EACH_PAYING", 0)
    monkeypatch.setattr(products, "linear", lambda *a: (calls.append(a), linear(*a))[1])
    return calls


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def pooled(tokens, queries, rstd):
    """Σ_n softmax_n(r_n x_n·u) r_n x_n, float64."""
    tokens = tokens.double() if rstd is None else tokens.double() * rstd.double()[..., None]
    weights = softmax(torch.einsum("qd,bnd->bqn", queries.double(), tokens))
    return torch.einsum("bqn,bnd->bqd", weights, tokens)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_attend_for_several_sets_of_queries(batch, normed, asked):
    tokens = torch.randn(batch, 11, 8)[:, 2:]
    rstd = token_rstd(tokens, 1e-6) if normed else None
    queries = [torch.randn(count, 8, requires_grad=True) for count in (3, 1, 5)]
    grads = [torch.randn(batch, len(q), 8) for q in queries]
    parts = attend_together(tokens, queries, rstd)
    for part, q in zip(parts, queries, strict=True):
        close(part, pooled(tokens, q, rstd))
    found = torch.autograd.grad(parts, queries, grads)
    wide = [q.detach().double().requires_grad_() for q in queries]
    outputs = [pooled(tokens, q, rstd) for q in wide]
    expected = torch.autograd.grad(outputs, wide, [g.double() for g in grads])
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)
    assert asked


def test_queries_that_no_loss_reads_get_no_gradient():
    tokens, queries = torch.randn(3, 5, 4), [torch.randn(2, 4, requires_grad=True) for _ in "ab"]
    attend_together(tokens, queries)[0].sum().backward()
    alone = queries[0].detach().clone().requires_grad_()
    attend_together(tokens, [alone])[0].sum().backward()
    torch.testing.assert_close(queries[0].grad, alone.grad)
    assert not queries[1].grad.any()


@pytest.mark.parametrize("turned", [False, True])
def test_linears_and_their_gradients(turned, asked):
    rows = torch.randn(3, 7, 5).mT if turned else torch.randn(3, 5, 7)
    rows, weights = rows.requires_grad_(), torch.randn(3, 4, 7, requires_grad=True)
    grad = torch.randn(3, 4, 5).mT
    out = products.linears(rows, weights)
    close(out, rows.double() @ weights.double().mT)
    of_rows, of_weights = torch.autograd.grad(out, (rows, weights), grad)
    close(of_rows, grad.double() @ weights.double())
    close(of_weights, grad.double().mT @ rows.double())
    assert len(asked) == 9


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (None, 0), (0, None)])
def test_linears_under_vmap(in_dims):
    rows, weights = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 4, 7)
    inputs = [
        t[0] if d is None else t.movedim(0, d)
        for t, d in zip((rows, weights), in_dims, strict=True)
    ]
    found = vmap(products.linears, in_dims)(*inputs)
    rows, weights = (
        t[:1] if d is None else t for t, d in zip((rows, weights), in_dims, strict=True)
    )
    close(found, (rows.double() @ weights.double().mT).expand(2, -1, -1, -1))


def test_linears_in_float64_by_finite_differences(asked):
    rows, weights = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    inputs = (rows.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(products.linears, inputs)
    assert not asked


def test_linears_under_autocast_are_narrow_in_both_directions():
    rows, weights = (torch.randn(2, 3, 4, requires_grad=True) for _ in "ab")
    with torch.autocast("cpu", torch.bfloat16):
        out = products.linears(rows, weights)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    expected = weights.detach().double().sum(1, keepdim=True).expand_as(rows)
    torch.testing.assert_close(rows.grad.double(), expected, rtol=0.05, atol=0.05)


def test_a_backbones_linear_layers(asked):
    layer, images = torch.nn.Linear(6, 4), torch.randn(2, 3, 6)
    expected = F.linear(images.double(), layer.weight.double(), layer.bias.double())
    with torch.no_grad(), products.FastLinear():
        close(layer(images), expected)
        assert len(asked) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(images).dtype == torch.bfloat16
        close(layer.double()(images.double()), expected)
    assert len(asked) == 1


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_that_learns(bias, asked):
    layer, images = torch.nn.Linear(6, 4, bias=bias), torch.randn(2, 3, 6, requires_grad=True)
    with products.FastLinear():
        found = torch.autograd.grad(layer(images).square().sum(), [images, *layer.parameters()])
    assert len(asked) == 3
    wide, images = copy.deepcopy(layer).double(), images.detach().double().requires_grad_()
    expected = torch.autograd.grad(wide(images).square().sum(), [images, *wide.parameters()])
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_rows_by_rows(asked):
    a, b = torch.randn(4, 6), torch.randn(5, 6)
    close(products.rows_by_rows(a, b), a.double() @ b.double().T)
    assert len(asked) == 1
    assert torch.equal(products.rows_by_rows(a.double(), b.double()), a.double() @ b.double().T)


def test_torchs_counter_counts_them():
    with FlopCounterMode(display=False) as counter:
        products.linear(torch.randn(2, 3, 6), torch.randn(4, 6))
    assert counter.get_total_flops() == 2 * 2 * 3 * 6 * 4
