"""`attend`: values, gradients by finite differences, and what it promises to leave out."""

import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.attend import attend, attention_weights
from iceprobe.probes.pooling import check_divides, slice_values
from tests.reference.probes import softmax


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain(tokens, queries):
    weights = softmax(torch.einsum("qd,bnd->bqn", queries, tokens))
    return torch.einsum("bqn,bnd->bqd", weights, tokens)


def inputs(batch=2, num_tokens=5, dim=6, num_queries=3, **kwargs):
    tokens = torch.randn(batch, num_tokens, dim, dtype=torch.float64, **kwargs)
    return tokens, torch.randn(num_queries, dim, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (1, 1, 4, 1), (3, 7, 8, 20)])
def test_attend_is_the_plain_formula(shape):
    tokens, queries = inputs(*shape)
    torch.testing.assert_close(attend(tokens, queries), plain(tokens, queries))


def test_gradients_without_token_gradients():
    tokens, queries = inputs()
    assert torch.autograd.gradcheck(lambda u: attend(tokens, u), (queries,))


def test_gradients_with_token_gradients():
    tokens, queries = inputs(requires_grad=True)
    assert torch.autograd.gradcheck(attend, (tokens, queries))
    assert torch.autograd.gradcheck(attention_weights, (tokens, queries))
    assert torch.autograd.gradgradcheck(attend, (tokens, queries))


def test_cached_tokens_keep_only_tokens_and_weights_for_the_backward_pass():
    tokens, queries = inputs(3, 7, 8, 20)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        attend(tokens, queries)
    assert sorted(kept) == [(3, 7, 8), (3, 7, 20)]


def test_tokens_that_are_slices_of_a_larger_tensor():
    tokens = torch.randn(3, 9, 8, dtype=torch.float64)[:, 2:]
    queries = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    (attend(tokens, queries) ** 2).sum().backward()
    expected = torch.autograd.grad((plain(tokens, queries) ** 2).sum(), queries)[0]
    torch.testing.assert_close(queries.grad, expected)


@pytest.mark.parametrize("scale", [1e4, 1e-30])
def test_large_and_tiny_scores_stay_finite(scale):
    tokens, queries = inputs()
    pooled = attend(tokens * scale, queries)
    assert pooled.isfinite().all()
    pooled.sum().backward()
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_mean_shared_by_all_tokens_costs_no_precision(narrow):
    """Scores around 40 with differences around 1: rounded to 8 bits they would be off by 0.1."""
    tokens = (torch.randn(4, 50, 64) + 5).to(narrow)
    queries = (torch.randn(6, 64) * 0.12 + 0.12).to(narrow).float()
    weights = softmax(torch.einsum("qd,bnd->bqn", queries.double(), tokens.double()))
    expected = torch.einsum("bqn,bnd->bqd", weights, tokens.double())
    spread = (expected - tokens.double().mean(1, keepdim=True)).abs().max()
    assert (attend(tokens, queries).double() - expected).abs().max() < 0.03 * spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    tokens, queries = inputs(4, 12, 16, 5)
    expected = torch.autograd.grad((plain(tokens, queries) ** 2).sum(), queries)[0]
    u = queries.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (attend(tokens.to(dtype), u).float() ** 2).sum().backward()
    assert u.grad.dtype == torch.float32
    assert (u.grad - expected).abs().max() < 0.05 * expected.abs().max()


def test_slice_values_takes_one_slice_a_predictor():
    weight, pooled = torch.randn(6, 4).double(), torch.randn(2, 3, 4).double()
    expected = [[weight[2 * j : 2 * j + 2] @ row[j] for j in range(3)] for row in pooled]
    torch.testing.assert_close(
        slice_values(weight, pooled), torch.stack([torch.cat(row) for row in expected])
    )


@pytest.mark.parametrize(
    ("number", "widths", "nearest"),
    [
        (10, {"out_dim": 768}, "ep12"),  # 8 is as far as 12: the larger loses no predictor
        (500, {"out_dim": 768}, "ep384"),
        (48, {"out_dim": 24}, "ep24"),
        (5, {"attn_dim": 8, "out_dim": 12}, "ep4"),
    ],
)
def test_a_number_that_does_not_divide(number, widths, nearest):
    with pytest.raises(IceprobeError, match=rf"the nearest that does is {nearest}$"):
        check_divides("ep", number, **widths)
