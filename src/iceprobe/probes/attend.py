"""Attention over tokens that all queries share: ``p_q = Xᵀ softmax_N(X u_q)``.

The four products of a training step (scores and pooled tokens; the gradient of the weights and that
of the queries) are nearly all the time of a fit. Where the tokens need no gradient none is computed.
Which way they are computed depends on the device and the dtype alone: kernels of our own on a GPU
(`kernels.py`), image by image for many queries in float32 on an AMD processor (`_AttendByImage`),
products over several images elsewhere (`_Attend`).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iceprobe.machine import products

# The Triton kernels of `kernels.py` have run in Triton's interpreter only, never on a GPU: a fit must
# not be the first to try them. To be set once tests/probes/test_kernels.py has passed on one, and
# benchmarks/attend_gpu.py has shown for which numbers of queries they pay.
KERNELS_CHOSEN = False
# Bytes of attention weights that a processor works on together, 2**22 with the best of 2**18 to 2**24
# for 12 to 2,110 queries, in float32 and bfloat16, on one and two cores of a Zen 5.
AT_ONCE = 2**22


def attend(tokens: Tensor, queries: Tensor, rstd: Tensor | None = None) -> Tensor:
    """Pool tokens by the softmax of their scores, ``Xᵀ softmax_N(X u_q)`` for every query.

    Where the tokens need no gradient none is computed, and only tokens and weights are kept for
    the backward pass; with the kernels (`KERNELS_CHOSEN`, `available`) not even the weights. Products are
    in the dtype of the tokens (float32 where the processor has no fast products in it) and
    accumulate in float32; so does the softmax.

    Args:
        tokens: ``(B, N, D)``.
        queries: ``(Q, D)``, scale included.
        rstd: r, ``(B, N)``, where keys and values are the tokens times r (a LayerNorm, see
            `iceprobe.probes.layer_norm`).

    Returns:
        ``(B, Q, D)`` in the dtype of ``queries``.
    """
    return attend_together(tokens, [queries], rstd)[0]


def attend_together(
    tokens: Tensor, queries: Sequence[Tensor], rstd: Tensor | None = None
) -> tuple[Tensor, ...]:
    """`attend` for several sets of queries, ``(Q_i, D)`` → ``(B, Q_i, D)``, in shared products."""
    sizes = [len(q) for q in queries]
    total = sum(sizes)
    differentiated = tokens.requires_grad and torch.is_grad_enabled()
    if differentiated or torch.compiler.is_compiling():  # a graph can't loop over its images
        weights = attention_weights(tokens, torch.cat(list(queries)), rstd)
        pooled = _rescale(weights.mT, rstd).mT @ tokens.to(weights.dtype)
        return pooled.split(sizes, 1)
    if KERNELS_CHOSEN and available(tokens) and total:
        from iceprobe.probes import kernels

        return kernels.attend(tokens, torch.cat(list(queries)), rstd).split(sizes, 1)
    if products.each_pays(tokens, *queries, macs=tokens[:1].numel() * total):
        return _AttendByImage.apply(tokens, rstd, *queries)[:-1]
    with _plain(tokens.device.type):
        return _Attend.apply(tokens.to(_product_dtype(tokens)), rstd, *queries)[:-1]


def available(tokens: Tensor) -> bool:
    """Whether `iceprobe.probes.kernels` can pool these tokens, where they need no gradient.

    On CUDA devices of capability 8.0 on (bfloat16 products), with Triton installed; not in a graph
    that is being exported or compiled, which has to run without them.
    """
    return (
        tokens.is_cuda
        and torch.version.hip is None
        and tokens.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and tokens.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.cuda.get_device_capability(tokens.device) >= (8, 0)
        and find_spec("triton") is not None
    )


def attention_weights(tokens: Tensor, queries: Tensor, rstd: Tensor | None = None) -> Tensor:
    """``softmax_N(X u_q)``: ``(B, N, D)``, ``(Q, D)`` → ``(B, Q, N)`` in the dtype of ``queries``."""
    dtype = torch.promote_types(tokens.dtype, queries.dtype)
    scores = _rescale(tokens.to(dtype) @ queries.to(dtype).mT, rstd)
    return torch.softmax(scores, 1).mT.to(queries.dtype)


def log_attention(tokens: Tensor, queries: Tensor, rstd: Tensor | None = None) -> Tensor:
    """``ln softmax_N(X u_q)``: ``(B, N, D)``, ``(Q, D)`` → ``(B, Q, N)``, for losses that read it.

    The way by which gradients of weights themselves reach the queries; `attend` keeps them to
    itself. In the dtype of ``queries``, as what `image_sums` then pools is.
    """
    return torch.log_softmax(image_scores(tokens, queries, rstd), -1)


class _Attend(torch.autograd.Function):
    """Attention with gradients for the queries alone, in products over several images.

    Weights lie as ``(B, N, Q)``: the first and the last of the four products are then single ones
    over all tokens of the images. On a processor they are few, so that tokens, weights and the
    gradients of what was pooled stay in its cache from one product to the next; a GPU takes all.
    """

    @staticmethod
    def forward(tokens: Tensor, rstd: Tensor | None, *queries: Tensor) -> tuple[Tensor, ...]:
        sizes = [len(q) for q in queries]
        wide = torch.cat(queries).to(tokens.dtype)
        weights = tokens.new_empty(*tokens.shape[:2], len(wide))
        parts = [queries[0].new_empty(len(tokens), size, tokens.shape[2]) for size in sizes]
        for images in _few(tokens, weights):
            x, r = tokens[images], None if rstd is None else rstd[images]
            a = weights[images].copy_(torch.softmax(_scores(x, wide, r), 1))
            pooled = _rescale(a, r).mT @ x
            for part, of_images in zip(parts, pooled.split(sizes, 1), strict=True):
                part[images] = of_images
        return *parts, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tokens, rstd, *queries = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, output[-1], rstd)
        ctx.sizes, ctx.dtype = [len(q) for q in queries], queries[0].dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, weights, rstd = ctx.saved_tensors
        parts = _all(grads[:-1], ctx.sizes, tokens)
        total = torch.zeros(
            sum(ctx.sizes), tokens.shape[2], device=tokens.device,
            dtype=torch.promote_types(ctx.dtype, torch.float32),
        )  # fmt: skip
        with _plain(tokens.device.type):
            for images in _few(tokens, weights):
                x, r = tokens[images], None if rstd is None else rstd[images]
                grad = _side_by_side([part[images].to(x.dtype) for part in parts])
                grad = _softmax_backward(_rescale(x @ grad.mT, r), weights[images], 1)
                grad = _rescale(grad, r).flatten(0, 1)
                total += products.rows_by_rows(grad.mT, x.flatten(0, 1).mT)
        return None, None, *total.to(ctx.dtype).split(ctx.sizes)


def _plain(device: str) -> AbstractContextManager[Any]:
    """Without autocast, which would make weights float32 between narrow products."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _few(tokens: Tensor, weights: Tensor) -> list[slice]:
    """The images that are worked on together: on a processor as many as its cache may hold of."""
    count = max(1, len(tokens))
    if tokens.device.type == "cpu":
        count = max(1, AT_ONCE * count // max(1, weights.nbytes))
    return [slice(i, i + count) for i in range(0, len(tokens), count)]


def _all(grads: Sequence[Tensor | None], sizes: Sequence[int], tokens: Tensor) -> list[Tensor]:
    """Gradients of what was pooled, 0 where none came."""
    return [
        grad if grad is not None else tokens.new_zeros(len(tokens), size, tokens.shape[2])
        for size, grad in zip(sizes, grads, strict=True)
    ]


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """``(B, M_i, D)`` → ``(B, ΣM, D)``; one alone isn't copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _AttendByImage(torch.autograd.Function):
    """The same by `products.linear`, which multiplies two matrices and no batches of them.

    Products over all tokens are one; those with an image's own weights are one an image, and its
    tokens and weights lie in the processor's cache. Weights are kept as ``(B, Q, N)``.
    """

    @staticmethod
    def forward(tokens: Tensor, rstd: Tensor | None, *queries: Tensor) -> tuple[Tensor, ...]:
        sizes = [len(q) for q in queries]
        scores = products.linear(tokens.flatten(0, 1), torch.cat(queries))
        scores = _rescale(scores.unflatten(0, tokens.shape[:2]), rstd)
        weights = tokens.new_empty(len(tokens), sum(sizes), tokens.shape[1])
        parts = [tokens.new_empty(len(tokens), size, tokens.shape[2]) for size in sizes]
        for b, x in enumerate(tokens.unbind()):
            a = torch.softmax(scores[b].mT, 1, out=weights[b])
            pooled = products.linear(a if rstd is None else a * rstd[b], x.mT)
            for part, of_image in zip(parts, pooled.split(sizes), strict=True):
                part[b] = of_image
        return *parts, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tokens, rstd, *queries = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, output[-1], rstd)
        ctx.sizes = [len(q) for q in queries]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, weights, rstd = ctx.saved_tensors
        parts = _all(grads[:-1], ctx.sizes, tokens)
        total = tokens.new_zeros(sum(ctx.sizes), tokens.shape[2])
        for images in _few(tokens, weights):
            scores = []
            for b in range(*images.indices(len(tokens))):
                r = 1.0 if rstd is None else rstd[b]
                grad = torch.cat([part[b] for part in parts])
                grad = products.linear(grad, tokens[b]).mul_(r)
                scores.append(_softmax_backward(grad, weights[b], 1).mul_(r))
            total += products.linear(torch.cat(scores, 1), tokens[images].flatten(0, 1).mT)
        return None, None, *total.split(ctx.sizes)


def _softmax_backward(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    """A ∘ (dA − Σ A ∘ dA), the sum over ``dim``, in one pass."""
    return torch.ops.aten._softmax_backward_data(grad, weights, dim, weights.dtype)


def image_scores(tokens: Tensor, queries: Tensor, rstd: Tensor | None) -> Tensor:
    """Scores of r·x for poolings that put more keys beside the tokens or ask by image.

    Args:
        tokens: ``(B, N, D)``.
        queries: ``(Q, D)``, or ``(B, Q, D)`` where every image has its own.
        rstd: r, ``(B, N)``; without it scores are up to a constant a query.

    Returns:
        ``(B, Q, N)`` in the dtype of ``queries``. Autograd keeps the tokens themselves for the
        backward pass, whatever the number of members, and gives them a gradient only where they
        require one.
    """
    products = tokens.to(_product_dtype(tokens))
    return _scores(products, queries.to(products.dtype), rstd).mT.to(queries.dtype)


def image_sums(tokens: Tensor, weights: Tensor, rstd: Tensor | None = None) -> Tensor:
    """Σ_n a_n x_n, or of r·x: ``(B, N, D)``, ``(B, Q, N)`` → ``(B, Q, D)``."""
    products = tokens.to(_product_dtype(tokens))
    return (_rescale(weights.mT, rstd).mT.to(products.dtype) @ products).to(weights.dtype)


def _rescale(columns: Tensor, rstd: Tensor | None) -> Tensor:
    """``(B, N, Q)`` times r of its token."""
    return columns if rstd is None else columns * rstd[..., None].to(columns.dtype)


def _scores(tokens: Tensor, queries: Tensor, rstd: Tensor | None) -> Tensor:
    """``(B, N, Q)``, up to a constant a query where there is no r.

    A product of narrow numbers rounds each score to 8 or 11 bits, and a mean that all tokens share
    would use them up. The softmax doesn't see a constant, so the score of one image's mean
    token is taken off inside the product, before it rounds; times r it is no constant any more,
    and comes back in float32.
    """
    if tokens.dtype not in (torch.bfloat16, torch.float16) or not len(tokens):
        if queries.ndim == 3 or queries.requires_grad:
            return _rescale(tokens @ queries.mT, rstd)
        scores = products.rows_by_rows(tokens.flatten(0, 1), queries)
        return _rescale(scores.unflatten(0, tokens.shape[:2]), rstd)
    with torch.no_grad():
        shift = queries @ tokens[0].mean(0, dtype=torch.float32).to(tokens.dtype)
    if queries.ndim == 3:
        scores = torch.baddbmm(-shift[:, None], tokens, queries.mT)
    else:
        scores = torch.addmm(-shift, tokens.flatten(0, 1), queries.mT)
        scores = scores.unflatten(0, tokens.shape[:2])
    if rstd is None:
        return scores
    return _rescale(scores.float() + shift.float().unsqueeze(-2), rstd)


def _product_dtype(tokens: Tensor) -> torch.dtype:
    """The dtype in which products over ``tokens`` are fast on their device, never narrower."""
    if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16):
        return tokens.dtype
    # torch.cpu.get_capabilities() says it publicly, but torch 2.10 hasn't got it yet.
    fast = tokens.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
    return tokens.dtype if fast else torch.float32
