"""Arrays of tokens as tensors of a store: of one dtype, finite, with their mean and their hash."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.feature_files.arrays import as_tensor as native
from iceprobe.datasets.feature_files.content import Content
from iceprobe.store.layout import DTYPES
from iceprobe.store.split import Held

ROWS = 2**16  # of tokens whose rounding is measured
LOST = 0.01  # share of a dimension's variance that rounding may take
AT_ONCE = 512  # examples whose mean is computed at once


def as_held(given: Any, what: str) -> Held:
    """As `as_tensor`; a list of arrays of two axes, an example each, as a list of tensors."""
    listed = isinstance(given, list | tuple) and len(given) > 0
    if not listed or any(getattr(one, "ndim", 0) != 2 for one in given):
        return as_tensor(given, what)
    return [as_tensor(one, f"{what}, example {row},") for row, one in enumerate(given)]


def even(splits: Mapping[str, Held]) -> dict[str, Held]:
    """Lists of examples of one length as tensors ``(n, N, D)``; otherwise all splits as lists."""
    lists = [one for one in splits.values() if isinstance(one, list)]
    if not lists:
        return dict(splits)
    shapes = {tuple(one.shape) for held in lists for one in held}
    shapes |= {tuple(x.shape[1:]) for x in splits.values() if isinstance(x, Tensor)}
    if len(shapes) > 1:
        return {split: list(one) for split, one in splits.items()}
    return {s: torch.stack(x) if isinstance(x, list) else x for s, x in splits.items()}


def like(held: Held) -> Tensor:
    """A tensor of the dtype of ``held``, and of its dimensions: of a list one with an axis in front."""
    if isinstance(held, Tensor):
        return held
    kinds = {one.dtype for one in held}
    dtype = functools.reduce(torch.promote_types, kinds)
    return held[0].new_empty(0, *held[0].shape, dtype=dtype)


def width(held: Held) -> int:
    """D, of the last axis."""
    return (held if isinstance(held, Tensor) else held[0]).shape[-1]


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
                f"{what} is a list of something else than arrays: give (n, D), (n, N, D), or a list of "
                "arrays (N_i, D), an example each"
            )
        if array.dtype.kind not in "fiu":
            raise IceprobeError(
                f"{what} is of type {array.dtype}: give floats, (n, D) or (n, N, D)"
            )
        tensor = native(array)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise IceprobeError(f"{what} is of type {tensor.dtype}: give floats, (n, D) or (n, N, D)")
    return tensor


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype that is stored: the widest given, float32 for wider ones."""
    found = tensors[0].dtype
    for tensor in tensors[1:]:
        found = torch.promote_types(found, tensor.dtype)
    return found if found in DTYPES.values() else torch.float32


@overload
def as_stored(held: Tensor, dtype: torch.dtype, what: str, names: Sequence[str]) -> Tensor: ...
@overload
def as_stored(held: Held, dtype: torch.dtype, what: str, names: Sequence[str]) -> Held: ...
def as_stored(held: Held, dtype: torch.dtype, what: str, names: Sequence[str]) -> Held:
    """``held (n, …, D)`` in ``dtype``, contiguous; a list example by example.

    Raises:
        IceprobeError: naming the first example that isn't finite, or a dimension that float32 rounds
            too much.
    """
    if isinstance(held, Tensor) and not held.numel():
        return held.to(dtype)
    finite = finite_of(held)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise IceprobeError(
            f"{what}, example {row} ({names[row]!r}) is not finite "
            f"({int((~finite).sum())} such examples): mend them or leave them out"
        )
    stored: Held
    if isinstance(held, Tensor):
        stored = held.to(dtype).contiguous()
    else:
        stored = [one.to(dtype).contiguous() for one in held]
    if like(stored).dtype == like(held).dtype:
        return stored
    wide, kept = _some(held).double(), _some(stored).double()
    lost = ((kept - wide).var(0, correction=0) / wide.var(0, correction=0)).nan_to_num(
        0.0, 1.0, 1.0
    )
    if not finite_of(stored).all() or lost.max() > LOST:
        column = int(lost.argmax())
        raise IceprobeError(
            f"{what}: float32 is too narrow for dimension {column} (it rounds away "
            f"{float(lost.max()):.0%} of its variance): subtract its mean, or scale it"
        )
    return stored


def _some(held: Held) -> Tensor:
    """At most `ROWS` of all tokens, ``(k, D)``; of a list those of some examples."""
    if not isinstance(held, Tensor):
        held = torch.cat(held[:: -(-len(held) // AT_ONCE)])
    rows = held.flatten(0, -2)
    return rows[:: -(-len(rows) // ROWS)]


def finite_of(held: Held) -> Tensor:
    """Whether all values of each example are finite, ``(n,)``; nothing as large is made of them."""
    if isinstance(held, list):
        ends = [torch.stack(torch.aminmax(x)) if x.numel() else x.new_zeros(2) for x in held]
        return torch.stack(ends).isfinite().all(1)
    if not held.is_floating_point() or not held.numel():
        return torch.ones(len(held), dtype=torch.bool)
    low, high = torch.aminmax(held.flatten(1), dim=1)
    return low.isfinite() & high.isfinite()


def mean_of(held: Held) -> Tensor:
    """Mean of the tokens, ``(n, D)`` float32, as `Tokens.mean`; one vector an example is its own."""
    if not isinstance(held, Tensor):
        return torch.stack([one.float().mean(0) for one in held])
    if held.ndim == 2:
        return held.float()
    return torch.cat([part.float().mean(1) for part in held.split(AT_ONCE)])


def content_hash(*given: Held) -> str:
    """Of tensors; of a list, which lengths its examples have as well."""
    content = Content()
    for one in given:
        for tensor in [one] if isinstance(one, Tensor) else one:
            content.add(tensor)
    return content.hexdigest()


class Rounded:
    """Tokens in the dtype stored, block after block, and what rounding takes from each dimension.

    The shares are of the variances over all tokens added, as `as_stored` measures them.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype, self._count = dtype, 0
        self._first: tuple[Tensor, Tensor] | None = None  # from which others are counted
        self._sums = torch.zeros(())

    def add(self, block: Tensor) -> Tensor:
        """``block (…, D)`` as it is stored."""
        stored = block.to(self.dtype)
        if block.dtype in DTYPES.values():  # to a dtype as wide
            return stored
        wide = block.flatten(0, -2).double()
        lost = stored.flatten(0, -2).double() - wide
        if self._first is None:
            self._first = wide[0].clone(), lost[0].clone()
            self._sums = torch.zeros(4, wide.shape[1], dtype=torch.float64)
        wide, lost = wide - self._first[0], lost - self._first[1]  # what is constant has none
        self._sums += torch.stack(
            [wide.sum(0), wide.square().sum(0), lost.sum(0), lost.square().sum(0)]
        )
        self._count += len(wide)
        return stored

    def check(self, what: str) -> None:
        """Raise an `IceprobeError` that names a dimension which is rounded too much, if there is one."""
        if not self._count:
            return
        mean, square, lost, lost_square = self._sums / self._count
        variance, error = square - mean.square(), lost_square - lost.square()
        share = torch.where(error == 0, 0.0, error / variance).nan_to_num(1.0, 1.0, 1.0)
        if share.max() > LOST:
            column = int(share.argmax())
            raise IceprobeError(
                f"{what}: float32 is too narrow for dimension {column} (it rounds away "
                f"{float(share.max()):.0%} of its variance): subtract its mean, or scale it"
            )
