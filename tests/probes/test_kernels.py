"""`attend` by Triton kernels: values and gradients of the queries against float64.

On a GPU the kernels run as they are. Without one this file runs itself once more, in a process
where Triton interprets them on the CPU (``TRITON_INTERPRET=1`` has to be there before the first
import), in small blocks, so that every loop takes several turns.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iceprobe.probes import attend as attention
from iceprobe.probes.layer_norm import token_rstd

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)

runs_kernels = pytest.mark.skipif(
    not (INTERPRETED or GPU), reason="no GPU: test_in_the_interpreter runs it in another process"
)
needs_gpu = pytest.mark.skipif(
    INTERPRETED or not GPU, reason="needs a GPU of capability 8.0 or more"
)

# Norm of the error over the norm of what is right. Weights and dS are rounded to 24, 11 or 8 bits
# (the interpreter multiplies bfloat16 in float32).
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
# B, N, D, Q, ε of a LayerNorm in front
CASES = [
    (3, 37, 50, 7, None),
    (1, 17, 70, 33, 1e-6),
    (1, 5, 32, 1, 1e-6),
    (1, 1, 8, 1, None),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def kernels(monkeypatch):
    """`attend` goes to the kernels, wherever the tokens lie; what they were asked is counted."""
    from iceprobe.probes import kernels

    calls, attend = [], kernels.attend
    monkeypatch.setattr(attention, "available", lambda tokens: True)
    monkeypatch.setattr(attention, "KERNELS_CHOSEN", True)
    monkeypatch.setattr(kernels, "attend", lambda *args: (calls.append(args), attend(*args))[1])
    yield calls
    assert calls


def formula(tokens, queries, rstd, mask=None):
    tokens = tokens if rstd is None else tokens * rstd[..., None]
    scores = torch.einsum("bnd,qd->bqn", tokens, queries)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    weights = torch.softmax(scores, -1)
    return torch.einsum("bqn,bnd->bqd", weights, tokens)


def gap(one, other):
    return ((one.double().cpu() - other).norm() / other.norm()).item()


def check(tokens, queries, tolerance, epsilon=None, mask=None):
    """Both directions against the formula in float64 on the CPU, from the same rounded numbers."""
    tokens = tokens.to(DEVICE)
    queries = queries.to(DEVICE, tokens.dtype).float().requires_grad_()
    rstd = None if epsilon is None else token_rstd(tokens, epsilon)
    pooled = attention.attend(tokens, queries, rstd, None if mask is None else mask.to(DEVICE))
    grad = torch.randn(pooled.shape).to(DEVICE, tokens.dtype).float()
    pooled.backward(grad)

    exact = queries.detach().double().cpu().requires_grad_()
    wide_rstd = None if rstd is None else rstd.double().cpu()
    expected = formula(tokens.double().cpu(), exact, wide_rstd, mask)
    expected.backward(grad.double().cpu())
    assert pooled.dtype == queries.dtype
    assert gap(pooled, expected.detach()) < tolerance
    if tokens.shape[1] == 1:  # one weight, always 1
        assert queries.grad.abs().max() < tolerance * grad.abs().max()
    else:
        assert gap(queries.grad, exact.grad) < 4 * tolerance


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(kernels, case, dtype):
    images, num_tokens, dim, num_queries, epsilon = case
    tokens = torch.randn(images, num_tokens, dim).to(dtype)
    check(tokens, torch.randn(num_queries, dim) * 2 * dim**-0.5, TOLERANCES[dtype], epsilon)


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("epsilon", [None, 1e-6])
def test_examples_of_several_lengths(kernels, dtype, epsilon):
    """Whole blocks of padding behind the tokens, and in front of them, as between layers side by side."""
    mask = torch.zeros(5, 67, dtype=torch.bool)
    for row, real in zip(
        mask, [slice(67), slice(1), slice(20), slice(33, 50), slice(16, 48)], strict=True
    ):
        row[real] = True
    tokens = (torch.randn(5, 67, 50) + 3).to(dtype)
    tokens[~mask] = 0
    check(tokens, torch.randn(7, 50) * 0.1, TOLERANCES[dtype], epsilon, mask)


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_scores_around_40_and_a_mean_that_all_tokens_share(kernels, dtype):
    """Scores of 40 ± 1: in 8 bits they would be off by 0.1."""
    tokens = (torch.randn(2, 50, 64) + 5).to(dtype)
    queries = (torch.randn(6, 64) * 0.12 + 0.12).to(dtype).float()
    check(tokens, queries, TOLERANCES[dtype])
    mean = tokens.double().mean(1, keepdim=True)
    expected = formula(tokens.double(), queries.double(), None)
    found = attention.attend(tokens.to(DEVICE), queries.to(DEVICE)).double().cpu()
    assert gap(found - mean, expected - mean) < 3 * TOLERANCES[dtype]


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_rounded_p_costs_the_gradient_nothing(kernels, dtype):
    """As the engine asks, queries and p in the dtype of the tokens: du without Σ dS is off by 0.26
    in bfloat16, 0.04 in float16."""
    tokens = (torch.randn(2, 50, 64) + 5).to(dtype)
    queries = (torch.randn(6, 64) * 0.12 + 0.12).to(DEVICE, dtype).requires_grad_()
    grad = torch.randn(2, 6, 64).to(dtype)
    attention.attend(tokens.to(DEVICE), queries).backward(grad.to(DEVICE))
    exact = queries.detach().double().cpu().requires_grad_()
    formula(tokens.double(), exact, None).backward(grad.double())
    assert queries.grad.dtype == dtype
    assert gap(queries.grad, exact.grad) < 4 * TOLERANCES[dtype]


@runs_kernels
def test_scores_from_minus_40_to_40(kernels):
    """A new largest score in almost every block of tokens."""
    tokens = torch.randn(1, 40, 16)
    tokens[..., 0] = torch.linspace(-40, 40, 40)
    queries = torch.randn(5, 16) * 0.1
    queries[:3, 0], queries[3:, 0] = 1.0, -1.0
    check(tokens, queries, TOLERANCES[torch.float32])


@runs_kernels
@pytest.mark.parametrize("scale", [1e4, 1e-30])
def test_large_and_tiny_scores_stay_finite(kernels, scale):
    tokens, queries = torch.randn(2, 9, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    queries.requires_grad_()
    pooled = attention.attend(tokens * scale, queries)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert queries.grad.isfinite().all()


@runs_kernels
@pytest.mark.parametrize("view", ["slice", "transposed"])
def test_tokens_that_are_views(kernels, view):
    tokens = torch.randn(2, 21, 18)
    tokens = tokens[:, 2:] if view == "slice" else tokens.mT
    check(tokens, torch.randn(4, tokens.shape[-1]) * 0.3, TOLERANCES[torch.float32])


@runs_kernels
def test_a_query_that_diverged_stays_alone(kernels):
    tokens, queries = torch.randn(2, 19, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    queries[1] = float("nan")
    finite = attention.attend(tokens, queries).isfinite()
    assert finite[:, [0, 2]].all()
    assert not finite[:, 1].any()


@runs_kernels
def test_no_weights_are_kept_for_the_backward_pass(kernels):
    tokens, queries = torch.randn(2, 19, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        attention.attend(tokens, queries.requires_grad_())
    assert sorted(kept) == [(2, 3), (2, 3, 8), (2, 19, 8), (3, 8)]


@runs_kernels
def test_tokens_that_need_a_gradient_get_one(monkeypatch):
    monkeypatch.setattr(attention, "available", lambda tokens: True)
    monkeypatch.setattr(attention, "KERNELS_CHOSEN", True)
    tokens = torch.randn(2, 5, 8, device=DEVICE, requires_grad=True)
    attention.attend(tokens, torch.randn(3, 8, device=DEVICE)).square().sum().backward()
    assert tokens.grad.abs().sum() > 0


@needs_gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("dim", [768, 1024, 4096])
@pytest.mark.parametrize("num_queries", [1, 33, 256])
def test_wide_tokens_on_a_gpu(kernels, dim, num_queries, dtype):
    """Several images a program, several programs an image."""
    tokens = torch.randn(5, 197, dim).to(dtype)
    check(tokens, torch.randn(num_queries, dim) * 2 * dim**-0.5, TOLERANCES[dtype])


@needs_gpu
def test_more_images_than_programs_on_a_gpu(kernels):
    check(torch.randn(600, 7, 16), torch.randn(3, 16), TOLERANCES[torch.float32])


@needs_gpu
def test_what_is_available_on_a_gpu():
    tokens = torch.zeros(1, 2, 3, device="cuda")
    assert attention.available(tokens)
    assert not attention.available(tokens.double())
    assert not attention.available(tokens[:0])


def test_the_plain_path_elsewhere():
    assert not attention.available(torch.zeros(1, 2, 3))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-4000:]
    assert int(passed[1]) > 3 * len(CASES)
