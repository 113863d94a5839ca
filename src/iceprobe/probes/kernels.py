"""`attend` on a GPU, reading the tokens from device memory once forward and once backward.

    s_qn = u_qᵀ x_n     L_q = log Σ_n exp s_qn     a_qn = exp(s_qn − L_q)     p_q = Σ_n a_qn x_n
    c_q = dP_qᵀ p_q     dS_qn = a_qn (dP_qᵀ x_n − c_q)     du_q = Σ_{b,n} dS_qn x_n

The backward pass needs p and L, ``(B, Q, D)`` and ``(B, Q)``; the weights ``(B, Q, N)`` never reach
device memory. Padding has s = −∞. The softmax is computed online (Milakov and Gimelshein,
arXiv:1805.02867; with the products around it Dao et al., arXiv:2205.14135).

Memory. A program has one image (forward) or every k-th one (backward), ``BLOCK_Q`` queries and
``BLOCK_D`` channels of the sum, which it keeps in registers. It reads each ``BLOCK_N`` tokens
twice: all channels, ``BLOCK_K`` at a time, for the scores, then its own ``BLOCK_D`` for the sum.
The second read comes from L2, and so do the reads of neighbouring programs, which have other
queries and channels of the image. With D > ``BLOCK_D`` scores are computed ⌈D / BLOCK_D⌉ times, but
no ``(B, Q, N)`` is in memory.

Numerics. Products are in the dtype of the tokens (float32 as three products in tf32) and accumulate
in float32, where scores stay until they are weights: a score of 40 is accurate to about 1e-5. Only
weights, at most 1, and dS are rounded before the products that sum tokens. A rounded p changes c by
some δ and du by δ p, which is large if all tokens share a mean. Therefore Σ_n dS_qn, zero but for
δ, is kept (``left``), and its product with p is subtracted from the sum.

This module needs Triton; it is imported if `iceprobe.probes.attend.available`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOWEST = tl.constexpr(-3.0e38)  # a finite score that no token has


@triton.jit
def _tile(base, i, j, stride, rows, columns):  # type: ignore[no-untyped-def]
    """``base[i, j]``, zero outside."""
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    return tl.load(base + i[:, None] * stride + j[None, :], mask=inside, other=0.0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    tokens, queries, rstd, mask, pooled, lse,
    N, D, Q, stride_b, stride_n,
    Q_CLASS: tl.constexpr, RESCALED: tl.constexpr, MASKED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """p and L of one image, ``BLOCK_Q`` queries, ``BLOCK_D`` channels."""
    program, parts = tl.program_id(0), tl.cdiv(D, BLOCK_D)
    blocks = tl.cdiv(Q, BLOCK_Q)
    image = (program // (parts * blocks)).to(tl.int64)
    q = program // parts % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = program % parts * BLOCK_D + tl.arange(0, BLOCK_D)
    x_image = tokens + image * stride_b

    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    sums = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        scores = tl.zeros((BLOCK_Q, BLOCK_N), tl.float32)
        for start in range(0, D, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = _tile(x_image, n, k, stride_n, N, D).to(DOT)
            u = _tile(queries, q, k, D, Q, D).to(DOT)
            scores = tl.dot(u, tl.trans(x), scores, input_precision=PRECISION)
        if RESCALED:
            r = tl.load(rstd + image * N + n, mask=n < N, other=0.0)
            scores *= r[None, :]
        real = n < N
        if MASKED:
            real = tl.load(mask + image * N + n, mask=real, other=0) != 0
        scores = tl.where(real[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        if MASKED:  # only padding yet: −∞ − (−∞) is no number
            larger = tl.where(larger == float("-inf"), LOWEST, larger)
        shrink = tl.exp(largest - larger)
        weights = tl.exp(scores - larger[:, None])
        total = total * shrink + tl.sum(weights, 1)
        if RESCALED:
            weights *= r[None, :]
        x = _tile(x_image, n, d, stride_n, N, D).to(DOT)
        sums = tl.dot(weights.to(DOT), x, sums * shrink[:, None], input_precision=PRECISION)
        largest = larger

    inside = (q < Q)[:, None] & (d < D)[None, :]
    out = pooled + image * Q * D + q[:, None] * D + d[None, :]
    tl.store(out, sums / total[:, None], mask=inside)
    # Programs of other channels store the same numbers.
    tl.store(lse + image * Q + q, largest + tl.log(total), mask=q < Q)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    tokens, queries, rstd, mask, pooled, lse, grad, left, partial,
    B, N, D, Q, chunks, stride_b, stride_n,
    Q_CLASS: tl.constexpr, RESCALED: tl.constexpr, MASKED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """du of the images ``chunk, chunk + chunks, …``, ``BLOCK_Q`` queries, ``BLOCK_D`` channels."""
    program, parts = tl.program_id(0), tl.cdiv(D, BLOCK_D)
    blocks = tl.cdiv(Q, BLOCK_Q)
    chunk = program // (parts * blocks)
    q = program // parts % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = program % parts * BLOCK_D + tl.arange(0, BLOCK_D)

    sums = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for index in range(chunk, B, chunks):
        image = tl.cast(index, tl.int64)
        x_image = tokens + image * stride_b
        p_image, g_image = pooled + image * Q * D, grad + image * Q * D
        log_total = tl.load(lse + image * Q + q, mask=q < Q, other=0.0)
        mean = tl.zeros((BLOCK_Q,), tl.float32)
        for start in range(0, D, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            p = _tile(p_image, q, k, D, Q, D).to(tl.float32)
            mean += tl.sum(p * _tile(g_image, q, k, D, Q, D).to(tl.float32), 1)

        left_over = tl.zeros((BLOCK_Q,), tl.float32)
        for first in range(0, N, BLOCK_N):
            n = first + tl.arange(0, BLOCK_N)
            scores = tl.zeros((BLOCK_Q, BLOCK_N), tl.float32)
            grad_weights = tl.zeros((BLOCK_Q, BLOCK_N), tl.float32)
            for start in range(0, D, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                x = tl.trans(_tile(x_image, n, k, stride_n, N, D).to(DOT))
                u = _tile(queries, q, k, D, Q, D).to(DOT)
                g = _tile(g_image, q, k, D, Q, D).to(DOT)
                scores = tl.dot(u, x, scores, input_precision=PRECISION)
                grad_weights = tl.dot(g, x, grad_weights, input_precision=PRECISION)
            if RESCALED:
                r = tl.load(rstd + image * N + n, mask=n < N, other=0.0)
                scores *= r[None, :]
                grad_weights *= r[None, :]
            real = n < N
            if MASKED:
                real = tl.load(mask + image * N + n, mask=real, other=0) != 0
            scores = tl.where(real[None, :], scores, float("-inf"))
            weights = tl.exp(scores - log_total[:, None])
            grad_scores = weights * (grad_weights - mean[:, None])
            left_over += tl.sum(grad_scores, 1)
            if RESCALED:
                grad_scores *= r[None, :]
            x = _tile(x_image, n, d, stride_n, N, D).to(DOT)
            sums = tl.dot(grad_scores.to(DOT), x, sums, input_precision=PRECISION)
        # Programs of other channels store the same numbers.
        tl.store(left + image * Q + q, left_over, mask=q < Q)

    inside = (q < Q)[:, None] & (d < D)[None, :]
    out = partial + chunk.to(tl.int64) * Q * D + q[:, None] * D + d[None, :]
    tl.store(out, sums, mask=inside)


INTERPRETED = not isinstance(_forward, triton.JITFunction)  # TRITON_INTERPRET=1

# BLOCK_Q, BLOCK_N, BLOCK_D, warps: shapes that ptxas compiles for sm_80 in bfloat16 with almost no
# register spills. The first two compute scores once up to D = 1,024, the last is for float32.
SHAPES = ((16, 32, 1024, 8), (32, 32, 1024, 8), (64, 32, 512, 8), (16, 32, 512, 8))
INTERPRETED_SHAPE = {"BLOCK_Q": 32, "BLOCK_N": 16, "BLOCK_D": 64, "BLOCK_K": 32}


def _tuned(kernel: Any) -> Any:
    """The kernel with the fastest of `SHAPES` for D, the dtype and the size class of Q."""
    configs = [
        triton.Config(
            {"BLOCK_Q": q, "BLOCK_N": n, "BLOCK_D": d, "BLOCK_K": 64}, num_warps=warps, num_stages=3
        )
        for q, n, d, warps in SHAPES
    ]
    return triton.autotune(configs, key=["D", "Q_CLASS"])(kernel)


_run_forward = _forward if INTERPRETED else _tuned(_forward)
_run_backward = _backward if INTERPRETED else _tuned(_backward)


def attend(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """`iceprobe.probes.attend.attend` for tokens that need no gradient.

    Args:
        tokens: ``(B, N, D)``, bfloat16, float16 or float32; copied unless their last stride is 1.
            B, N and Q are at least 1.
        queries: ``(Q, D)``, for any Q.
        rstd: ``(B, N)``.
        mask: ``(B, N)`` bool, which rows are tokens.

    Returns:
        ``(B, Q, D)`` in the dtype of ``queries``.
    """
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    return _Attend.apply(tokens, queries, rstd, mask)[0]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        tokens: Tensor, queries: Tensor, rstd: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        (images, num_tokens, dim), num_queries = tokens.shape, len(queries)
        pooled = queries.new_empty(images, num_queries, dim)
        lse = tokens.new_empty(images, num_queries, dtype=torch.float32)
        _launch(
            _run_forward,
            images,
            tokens,
            queries,
            rstd,
            mask,
            (pooled, lse),
            (num_tokens, dim, num_queries),
        )
        return pooled, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, None, None]:
        tokens, queries, rstd, mask, pooled, lse = ctx.saved_tensors
        (images, num_tokens, dim), num_queries = tokens.shape, len(queries)
        chunks = _chunks(tokens, num_queries)
        partial = tokens.new_empty(chunks, num_queries, dim, dtype=torch.float32)
        left, grad = torch.empty_like(lse), grad.to(tokens.dtype).contiguous()
        _launch(
            _run_backward, chunks, tokens, queries, rstd, mask,
            (pooled, lse, grad, left, partial), (images, num_tokens, dim, num_queries, chunks),
        )  # fmt: skip
        shared = torch.einsum("bq,bqd->qd", left.to(pooled.dtype), pooled)
        return None, (partial.sum(0) - shared).to(queries.dtype), None, None


def _launch(
    run: Any,
    outer: int,
    tokens: Tensor,
    queries: Tensor,
    rstd: Tensor | None,
    mask: Tensor | None,
    buffers: tuple[Tensor, ...],
    sizes: tuple[int, ...],
) -> None:
    """Run ``outer`` programs for each block of queries and channels."""
    num_queries, dim = queries.shape
    queries = queries.to(tokens.dtype).contiguous()
    scale = tokens if rstd is None else rstd.to(torch.float32).contiguous()
    rows = tokens if mask is None else mask.contiguous().view(torch.uint8)

    def grid(shape: dict[str, int]) -> tuple[int]:
        blocks = triton.cdiv(num_queries, shape["BLOCK_Q"]) * triton.cdiv(dim, shape["BLOCK_D"])
        return (outer * blocks,)

    # The interpreter multiplies the bits of bfloat16 as integers.
    widened = INTERPRETED and tokens.dtype == torch.bfloat16
    dot = torch.float32 if widened else tokens.dtype
    options = {
        "Q_CLASS": min(triton.next_power_of_2(num_queries), 1024),
        "RESCALED": rstd is not None,
        "MASKED": mask is not None,
        "DOT": getattr(tl, str(dot).removeprefix("torch.")),
        "PRECISION": "tf32x3",  # of float32 only
    }
    shape = INTERPRETED_SHAPE if INTERPRETED else {}
    with torch.cuda.device_of(tokens):
        run[grid](
            tokens, queries, scale, rows, *buffers, *sizes, *tokens.stride()[:2], **options, **shape
        )


def _chunks(tokens: Tensor, num_queries: int) -> int:
    """Number of partial sums of du over the batch: two programs per multiprocessor, at most B."""
    images, _, dim = tokens.shape
    if not tokens.is_cuda:
        return min(images, 2)
    processors = torch.cuda.get_device_properties(tokens.device).multi_processor_count
    return min(images, max(1, 2 * processors // (-(-num_queries // 32) * -(-dim // 1024))))
