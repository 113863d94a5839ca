"""Attention of many queries over the same tokens: ``p_q = Xᵀ softmax_N(X u_q)``.

The four products of a training step (scores, pooled tokens, gradients of weights and queries) take
nearly all the time of a fit. The implementation depends on device, dtype and size: our own kernels
on a GPU (`kernels.py`), image by image for many queries in float32 on an AMD processor
(`_AttendByImage`), otherwise products over several images (`_Attend`).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from iceprobe.machine import products
from iceprobe.probes.masks import only_scores

# The Triton kernels of `kernels.py` have only run in Triton's interpreter, never on a GPU. Set this
# once tests/probes/test_kernels.py has passed on one and benchmarks/attend_gpu.py has shown for
# which numbers of queries they are faster.
KERNELS_CHOSEN = False
# Bytes of attention weights that a CPU computes at a time. Of 2**18 to 2**24 among the best for
# 12 to 2,110 queries, in float32 and bfloat16, on one and two cores of a Zen 5.
AT_ONCE = 2**22


def attend(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Pool tokens by the softmax of their scores, ``Xᵀ softmax_N(X u_q)`` for every query.

    If the tokens need no gradient, none is computed and only tokens and weights are kept for the
    backward pass; the kernels (`KERNELS_CHOSEN`, `available`) don't keep the weights either.
    Products are in the dtype of the tokens (float32 if the CPU has no fast products in it); they
    and the softmax accumulate in float32.

    Args:
        tokens: ``(B, N, D)``.
        queries: ``(Q, D)``, scale included.
        rstd: r, ``(B, N)``, if keys and values are the tokens times r (a LayerNorm, see
            `iceprobe.probes.layer_norm`).
        mask: ``(B, N)`` bool, which rows are tokens; the others have to be finite
            (`iceprobe.probes.masks.only_tokens`).

    Returns:
        ``(B, Q, D)`` in the dtype of ``queries``.
    """
    return attend_together(tokens, [queries], rstd, mask)[0]


def attend_together(
    tokens: Tensor,
    queries: Sequence[Tensor],
    rstd: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """`attend` for several sets of queries, ``(Q_i, D)`` → ``(B, Q_i, D)``, in shared products."""
    sizes = [len(q) for q in queries]
    total = sum(sizes)
    if rstd is not None and mask is not None:
        rstd = rstd.masked_fill(~mask, 0)  # 1/√ε may be too large for a narrow dtype
    differentiated = tokens.requires_grad and torch.is_grad_enabled()
    if differentiated or torch.compiler.is_compiling():  # a graph can't loop over a variable batch
        weights = attention_weights(tokens, torch.cat(list(queries)), rstd, mask)
        pooled = _rescale(weights.mT, rstd).mT @ tokens.to(weights.dtype)
        return pooled.split(sizes, 1)
    if KERNELS_CHOSEN and available(tokens) and total:
        from iceprobe.probes import kernels

        return kernels.attend(tokens, torch.cat(list(queries)), rstd, mask).split(sizes, 1)
    if products.each_pays(tokens, *queries, macs=tokens[:1].numel() * total):
        return _AttendByImage.apply(tokens, rstd, mask, *queries)[:-1]
    with _plain(tokens.device.type):
        return _Attend.apply(tokens.to(_product_dtype(tokens)), rstd, mask, *queries)[:-1]


def available(tokens: Tensor) -> bool:
    """Whether `iceprobe.probes.kernels` can pool these tokens, if they need no gradient.

    This takes a CUDA device of capability 8.0 or more (bfloat16 products) and Triton. A graph that
    is exported or compiled must run without the kernels.
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


def attention_weights(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """``softmax_N(X u_q)``: ``(B, N, D)``, ``(Q, D)`` → ``(B, Q, N)`` in the dtype of ``queries``."""
    dtype = torch.promote_types(tokens.dtype, queries.dtype)
    scores = _rescale(tokens.to(dtype) @ queries.to(dtype).mT, rstd)
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None], -torch.inf)
    return torch.softmax(scores, 1).mT.to(queries.dtype)


def log_attention(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """``ln softmax_N(X u_q)``: ``(B, N, D)``, ``(Q, D)`` → ``(B, Q, N)`` in the dtype of ``queries``.

    −∞ in padding. For losses that read the attention: gradients of the weights reach the queries, which `attend`
    doesn't allow.
    """
    return torch.log_softmax(image_scores(tokens, queries, rstd, mask), -1)


class _Attend(torch.autograd.Function):
    """Attention with gradients for the queries only, in products over several images.

    Weights are stored as ``(B, N, Q)``, so that the first and the last of the four products are
    single products over all tokens of the images. A CPU takes a few images at a time, so that their
    tokens, weights and gradients stay in its cache; a GPU takes all.
    """

    @staticmethod
    def forward(
        tokens: Tensor, rstd: Tensor | None, mask: Tensor | None, *queries: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = [len(q) for q in queries]
        wide = torch.cat(queries).to(tokens.dtype)
        weights = tokens.new_empty(*tokens.shape[:2], len(wide))
        parts = [queries[0].new_empty(len(tokens), size, tokens.shape[2]) for size in sizes]
        for images in _few(tokens, weights):
            x, r, real = tokens[images], _some(rstd, images), _some(mask, images)
            scores = _scores(x, wide, r, real)
            if real is not None:
                scores.masked_fill_(~real[..., None], -torch.inf)
            a = weights[images].copy_(torch.softmax(scores, 1))
            pooled = _rescale(a, r).mT @ x
            for part, of_images in zip(parts, pooled.split(sizes, 1), strict=True):
                part[images] = of_images
        return *parts, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tokens, rstd, _, *queries = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tokens, output[-1], rstd)
        ctx.sizes, ctx.dtype = [len(q) for q in queries], queries[0].dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tokens, weights, rstd = ctx.saved_tensors
        parts = _all(grads[:-1], ctx.sizes, tokens)
        wide = torch.promote_types(ctx.dtype, torch.float32)
        total = tokens.new_zeros(sum(ctx.sizes), tokens.shape[2], dtype=wide)
        with _plain(tokens.device.type):
            for images in _few(tokens, weights):
                x, r = tokens[images], _some(rstd, images)
                grad = _side_by_side([part[images].to(x.dtype) for part in parts])
                grad = _softmax_backward(_rescale(x @ grad.mT, r), weights[images], 1)
                grad = _rescale(grad, r).flatten(0, 1)
                total += products.rows_by_rows(grad.mT, x.flatten(0, 1).mT)
        return None, None, None, *total.to(ctx.dtype).split(ctx.sizes)


def _plain(device: str) -> AbstractContextManager[Any]:
    """Disable autocast, which would make weights float32 between half-precision products."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _few(tokens: Tensor, weights: Tensor) -> list[slice]:
    """Slices of images to compute at a time; on a CPU, those that fit into its cache."""
    count = max(1, len(tokens))
    if tokens.device.type == "cpu":
        count = max(1, AT_ONCE * count // max(1, weights.nbytes))
    return [slice(i, i + count) for i in range(0, len(tokens), count)]


def _some(of_batch: Tensor | None, images: slice) -> Tensor | None:
    """What is given for each image, of some of them."""
    return None if of_batch is None else of_batch[images]


def _all(grads: Sequence[Tensor | None], sizes: Sequence[int], tokens: Tensor) -> list[Tensor]:
    """Gradients of the pooled tokens; zeros in place of ``None``."""
    return [
        grad if grad is not None else tokens.new_zeros(len(tokens), size, tokens.shape[2])
        for size, grad in zip(sizes, grads, strict=True)
    ]


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """``(B, M_i, D)`` → ``(B, ΣM, D)``; a single one isn't copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _AttendByImage(_Attend):
    """The same by `products.linear`, which has no batches of matrices.

    Products over all tokens are single ones; those with an image's weights are one per image, whose
    tokens and weights stay in the CPU's cache. Weights are stored as ``(B, Q, N)``.
    """

    @staticmethod
    def forward(
        tokens: Tensor, rstd: Tensor | None, mask: Tensor | None, *queries: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = [len(q) for q in queries]
        scores = products.linear(tokens.flatten(0, 1), torch.cat(queries))
        scores = _rescale(scores.unflatten(0, tokens.shape[:2]), rstd)
        if mask is not None:
            scores.masked_fill_(~mask[..., None], -torch.inf)
        weights = tokens.new_empty(len(tokens), sum(sizes), tokens.shape[1])
        parts = [tokens.new_empty(len(tokens), size, tokens.shape[2]) for size in sizes]
        for b, x in enumerate(tokens.unbind()):
            a = torch.softmax(scores[b].mT, 1, out=weights[b])
            pooled = products.linear(a if rstd is None else a * rstd[b], x.mT)
            for part, of_image in zip(parts, pooled.split(sizes), strict=True):
                part[b] = of_image
        return *parts, weights

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
        return None, None, None, *total.split(ctx.sizes)


def _softmax_backward(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    """A ∘ (dA − Σ A ∘ dA), the sum over ``dim``, in one pass."""
    return torch.ops.aten._softmax_backward_data(grad, weights, dim, weights.dtype)


def image_scores(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """Scores ``(B, Q, N)`` of r·x, for poolings with additional keys or queries for each image.

    Queries are ``(Q, D)``, or ``(B, Q, D)`` for each image. Without r ``(B, N)``, scores are up to
    a constant per query. Autograd keeps only the tokens ``(B, N, D)`` for the backward pass, for
    any number of members, and gives them a gradient only if they require one. Scores of padding are
    −∞.
    """
    products = tokens.to(_product_dtype(tokens))
    scores = _scores(products, queries.to(products.dtype), rstd, mask).mT.to(queries.dtype)
    return only_scores(scores, mask)


def image_sums(tokens: Tensor, weights: Tensor, rstd: Tensor | None = None) -> Tensor:
    """Σ_n a_n x_n, or of r·x: ``(B, N, D)``, ``(B, Q, N)`` → ``(B, Q, D)``; padding has a_n = 0."""
    products = tokens.to(_product_dtype(tokens))
    return (_rescale(weights.mT, rstd).mT.to(products.dtype) @ products).to(weights.dtype)


def _rescale(columns: Tensor, rstd: Tensor | None) -> Tensor:
    """``(B, N, Q)`` times r of each token."""
    return columns if rstd is None else columns * rstd[..., None].to(columns.dtype)


def _scores(
    tokens: Tensor, queries: Tensor, rstd: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """``(B, N, Q)``, up to a constant per query if there is no r.

    A half-precision product rounds each score to 8 or 11 bits, which a mean that all tokens share
    would use up. So the score of one image's mean token is subtracted inside the product, before it
    rounds. The softmax ignores this constant; times r it is none, and is added again in float32.
    """
    if tokens.dtype not in (torch.bfloat16, torch.float16) or not len(tokens):
        if queries.ndim == 3 or queries.requires_grad:
            return _rescale(tokens @ queries.mT, rstd)
        scores = products.rows_by_rows(tokens.flatten(0, 1), queries)
        return _rescale(scores.unflatten(0, tokens.shape[:2]), rstd)
    with torch.no_grad():
        first, real = tokens[0], None if mask is None else mask[0]
        mean = first.mean(0, dtype=torch.float32)
        if real is not None:  # of any example, one without tokens too
            total = first.masked_fill(~real[:, None], 0).sum(0, dtype=torch.float32)
            mean = total / real.sum().clamp_min(1)
        shift = queries @ mean.to(tokens.dtype)
    if queries.ndim == 3:
        scores = torch.baddbmm(-shift[:, None], tokens, queries.mT)
    else:
        scores = torch.addmm(-shift, tokens.flatten(0, 1), queries.mT)
        scores = scores.unflatten(0, tokens.shape[:2])
    if rstd is None:
        return scores
    return _rescale(scores.float() + shift.float().unsqueeze(-2), rstd)


def _product_dtype(tokens: Tensor) -> torch.dtype:
    """The dtype for fast products over ``tokens`` on their device, never narrower than theirs."""
    if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16):
        return tokens.dtype
    # The public torch.cpu.get_capabilities() came after torch 2.10.
    fast = tokens.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
    return tokens.dtype if fast else torch.float32
