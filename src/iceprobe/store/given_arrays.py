"""Arrays of tokens as tensors of a store: of one dtype, finite, with their mean and their hash."""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.store.buffers import flat_bytes
from iceprobe.store.layout import DTYPES

ROWS = 2**16  # of tokens whose rounding is measured
LOST = 0.01  # share of a dimension's variance that rounding may take
AT_ONCE = 512  # examples whose mean or hash is computed at once


def as_tensor(given: Any, what: str) -> Tensor:
    """An array, a tensor or a list of equal ones as a tensor of floats or whole numbers on the host."""
    if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor):
        given = [one.detach().cpu() for one in given]
        given = torch.stack(given) if len({one.shape for one in given}) == 1 else given
    if isinstance(given, Tensor):
        tensor = given.detach().cpu()
    else:
        try:
            array = np.asarray(given)
        except (ValueError, TypeError, RuntimeError):
            array = np.empty(0, object)
        if array.dtype.kind == "O" and isinstance(given, list | tuple):
            raise IceprobeError(
                f"{what} is a list of arrays of several shapes or of something else: examples of "
                "different numbers of tokens can't be read yet; give (n, D) or (n, N, D)"
            )
        if array.dtype.kind not in "fiu":
            raise IceprobeError(
                f"{what} is of type {array.dtype}: give floats, (n, D) or (n, N, D)"
            )
        array = array.astype(np.float64) if array.dtype.itemsize > 8 else array
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        array = array.astype(np.int64) if array.dtype.kind == "u" else array
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an array that can't be written to: nothing writes
            tensor = torch.from_numpy(array)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise IceprobeError(f"{what} is of type {tensor.dtype}: give floats, (n, D) or (n, N, D)")
    return tensor


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype that is stored: the widest given, float32 for wider ones."""
    found = tensors[0].dtype
    for tensor in tensors[1:]:
        found = torch.promote_types(found, tensor.dtype)
    return found if found in DTYPES.values() else torch.float32


def as_stored(tensor: Tensor, dtype: torch.dtype, what: str, names: Sequence[str]) -> Tensor:
    """``tensor (n, …, D)`` in ``dtype``, contiguous.

    Raises:
        IceprobeError: naming the first example that isn't finite, or a dimension that float32 rounds
            too much.
    """
    if not tensor.numel():
        return tensor.to(dtype)
    if tensor.is_floating_point():
        low, high = torch.aminmax(tensor.flatten(1), dim=1)
        finite = low.isfinite() & high.isfinite()
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise IceprobeError(
                f"{what}, example {row} ({names[row]!r}) is not finite "
                f"({int((~finite).sum())} such examples): mend them or leave them out"
            )
    stored = tensor.to(dtype).contiguous()
    if stored.dtype == tensor.dtype:
        return stored
    wide = tensor.flatten(0, -2)
    step = -(-len(wide) // ROWS)
    wide, kept = wide[::step].double(), stored.flatten(0, -2)[::step].double()
    lost = ((kept - wide).var(0, correction=0) / wide.var(0, correction=0)).nan_to_num(
        0.0, 1.0, 1.0
    )
    if not stored.isfinite().all() or lost.max() > LOST:
        column = int(lost.argmax())
        raise IceprobeError(
            f"{what}: float32 is too narrow for dimension {column} (it rounds away "
            f"{float(lost.max()):.0%} of its variance): subtract its mean, or scale it"
        )
    return stored


def mean_of(patches: Tensor) -> Tensor:
    """Mean of the tokens, ``(n, D)`` float32, as `Tokens.mean`."""
    return torch.cat([part.float().mean(1) for part in patches.split(AT_ONCE)])


def content_hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.split(AT_ONCE):
            if part.numel():
                digest.update(flat_bytes(part.contiguous()))
    return digest.hexdigest()
