"""float32 matrix products on a CPU, by the faster library.

torch multiplies float32 matrices on CPUs by MKL, which uses only AVX2 on AMD's. oneDNN, which torch
has for half precision and convolutions, uses AVX-512 there too: 2.4 times as fast for 1024 × 1024
matrices on one core of a Zen 5. It adds the same float32 products in another order.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import register_flop_formula

# Multiply–adds of a call from which oneDNN is faster, in spite of an overhead of about 20 µs; and
# of each of several calls, per thread, since all threads wait for the slowest at every call.
PAYING, EACH_PAYING = 2**20, 2**22


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rows @ weightᵀ + bias`` by oneDNN, without gradients: ``(…, K)``, ``(n, K)`` → ``(…, n)``."""
    return torch.ops.mkldnn._linear_pointwise(_dense(rows), _dense(weight), bias, "none", [], "")


def rows_by_rows(a: Tensor, b: Tensor) -> Tensor:
    """``a @ bᵀ`` by the faster library, without gradients: ``(n, K)``, ``(m, K)`` → ``(n, m)``."""
    return linear(a, b) if onednn_pays(a, b, macs=a.numel() * len(b)) else a @ b.mT


def _dense(matrix: Tensor) -> Tensor:
    """Strides that oneDNN has kernels for; others take it a thousand times as long."""
    if matrix.stride(-1) == 1 or matrix.mT.is_contiguous():
        return matrix
    if matrix.stride(-2) == 1:  # a copy of whole columns is cheaper
        return matrix.mT.contiguous().mT
    return matrix.contiguous()


def onednn_pays(*tensors: Tensor, macs: int) -> bool:
    """Whether `linear` is faster for a call of ``macs`` multiply–adds.

    That takes float32 and an AMD processor with AVX-512.
    """
    return (
        not torch.compiler.is_compiling()  # then sizes are symbols
        and macs >= PAYING
        and all(t.dtype == torch.float32 and t.device.type == "cpu" and t.numel() for t in tensors)
        and _is_amd()
    )


def each_pays(*tensors: Tensor, macs: int) -> bool:
    """The same for each of several products that torch computes in one call."""
    return onednn_pays(*tensors, macs=macs) and macs >= EACH_PAYING * torch.get_num_threads()


def linears(rows: Tensor, weights: Tensor) -> Tensor:
    """``rows @ weightsᵀ`` for K pairs, ``(K, B, D)``, ``(K, n, D)`` → ``(K, B, n)``.

    With gradients for both, also under `torch.vmap`.
    """
    device = rows.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        rows, weights = rows.to(dtype), weights.to(dtype)
    return _Linears.apply(rows, weights)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, weights: Tensor) -> Tensor:
        return _each(rows, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weights = ctx.saved_tensors
        of_rows, of_weights = ctx.needs_input_grad
        return (
            _each(grad, weights.mT) if of_rows else None,
            _each(grad.mT, rows.mT) if of_weights else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        mapped = [
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(inputs, in_dims, strict=True)
        ]
        out = _Linears.apply(*(t.flatten(0, 1) for t in mapped))
        return out.unflatten(0, mapped[0].shape[:2]), 0


def _each(rows: Tensor, weights: Tensor) -> Tensor:
    macs = rows[:1].numel() * weights.shape[1]
    if not each_pays(rows, weights, macs=macs):
        return torch.bmm(rows, weights.mT)
    out = rows.new_empty(*rows.shape[:2], weights.shape[1])
    for part, x, w in zip(out.unbind(), rows.unbind(), weights.unbind(), strict=True):
        part.copy_(linear(x, w))
    return out


class FastLinear(TorchFunctionMode):
    """A mode in which ``F.linear`` of float32 tensors uses the faster library."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs:
            rows, weight, *bias = args
            tensors = [t for t in args if t is not None]
            plain = all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
            macs = rows.numel() * len(weight)
            if plain and onednn_pays(*tensors, macs=macs) and not torch.is_autocast_enabled("cpu"):
                if not any(t.requires_grad for t in tensors) or not torch.is_grad_enabled():
                    return linear(*args)
                out = linears(rows.reshape(1, -1, rows.shape[-1]), weight[None])
                out = out.view(*rows.shape[:-1], len(weight))
                return out if not bias or bias[0] is None else out + bias[0]
        return func(*args, **(kwargs or {}))


def _flops(rows: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * rows.numel() * weight[0]


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not in every build
    # torch's own counter doesn't know oneDNN's operators
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)


@cache
def _is_amd() -> bool:
    # torch.cpu.get_capabilities came after torch 2.10
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        "AMD" in str(capabilities.get("cpu_name"))
        and bool(capabilities.get("avx512_f"))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
