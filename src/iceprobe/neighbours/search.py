"""Exact nearest neighbours by cosine similarity, in bounded memory.

Queries and bank are cut into tiles of a fixed size, so that memory beside the answer doesn't grow
with either and the answer doesn't depend on how much there is. Among equal similarities the lower
row of the bank comes first, as in one stable sort of everything.

Vectors x of some encoders all have nearly the same direction: the class tokens of a masked autoencoder
have cosines of 0.9997 on average. float32 keeps seven digits of those, of which four are the same for
all. With m, the mean of the unit vectors of the bank's first tile,

    cos(x, y) = (⟨x, y/|y| − m⟩ + ⟨x, m⟩)/|x|

and the second product, one number a query, changes no order: only the first is computed in float32,
with an error in proportion to |y/|y| − m| instead of 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from iceprobe.machine.products import rows_by_rows

QUERIES, BANK = 512, 8192  # rows of a tile: 16 MiB of float32 similarities


def nearest(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k rows of ``bank`` that are most similar to each query, best first.

    Args:
        queries: ``(n, D)``, any length of vector; a vector of zeros is similar to nothing.
        bank: ``(m, D)``.
        k: neighbours, at most m of them are found.
        device: where the products are made; both arguments may live elsewhere.
        progress: called with (queries done, n); a query compared with half of the bank is half done.

    Returns:
        Cosine similarities ``(n, min(k, m))`` float64, of products made in float64 for a bank of
        float64 and in float32 for any other, and rows of the bank ``(n, min(k, m))`` int64, both
        on the CPU.
    """
    n, m, k = len(queries), len(bank), min(k, len(bank))
    made_in = torch.float64 if bank.dtype == torch.float64 else torch.float32
    common = torch.zeros(bank.shape[1], dtype=torch.float64, device=device)
    best = torch.empty(n, k, dtype=torch.float64, device=device)
    where = torch.empty(n, k, dtype=torch.int64, device=device)
    tiles = [slice(start, start + QUERIES) for start in range(0, n, QUERIES)]
    compared = 0
    for first in range(0, m, BANK):  # outside: a tile of the bank is moved and normalised once
        unit = F.normalize(bank[first : first + BANK].to(device).double(), dim=1)
        if first == 0:
            common = _common(unit)
        unit = unit.sub_(common).to(made_in)
        known = min(first, k)
        for rows in tiles:
            # A query's own length changes no order: it is divided out at the end.
            tile = rows_by_rows(queries[rows].to(device, made_in), unit)
            columns = _top(tile, k)
            # Earlier neighbours come first and have lower rows: ties stay in the bank's order.
            kept = best[rows, :known].to(made_in)  # as it was made: nothing is rounded
            values = torch.cat([kept, tile.gather(1, columns)], 1)
            numbers = torch.cat([where[rows, :known], columns + first], 1)
            columns = _top(values, k, numbers)
            best[rows, : columns.shape[1]] = values.gather(1, columns)
            where[rows, : columns.shape[1]] = numbers.gather(1, columns)
            compared += len(tile) * len(unit)
            if progress:
                progress(compared // m, n)
    for rows in tiles:
        order = _in_order(best[rows], where[rows])
        best[rows], where[rows] = best[rows].gather(1, order), where[rows].gather(1, order)
        asked = queries[rows].to(device).double()
        best[rows] += (asked @ common)[:, None]
        best[rows] /= asked.norm(dim=1, keepdim=True).clamp(1e-12)
    return best.cpu(), where.cpu()


def _common(unit: Tensor) -> Tensor:
    """The mean of unit vectors ``(n, D)``, or 0 if that is shorter than √½.

    A shorter one would save float32 less than half a bit, and equal similarities of unlike vectors would
    no longer be equal.
    """
    mean = unit.mean(0)
    return mean if mean.square().sum() > 0.5 else torch.zeros_like(mean)


def _top(values: Tensor, k: int, numbers: Tensor | None = None) -> Tensor:
    """Columns of the ``k`` greatest of each row, in any order.

    Among equal values those of the lowest ``numbers`` are taken (the columns, by default). ``topk``
    takes any of them, so rows whose best value left out equals the last one taken, which are few, are
    sorted whole.
    """
    if k >= values.shape[1]:
        return torch.arange(values.shape[1], device=values.device).expand_as(values)
    top, columns = values.topk(k + 1, 1)
    ambiguous = top[:, k - 1] == top[:, k]
    if ambiguous.any():
        own = None if numbers is None else numbers[ambiguous]
        columns[ambiguous] = _in_order(values[ambiguous], own)[:, : k + 1]
    return columns[:, :k]


def _in_order(values: Tensor, numbers: Tensor | None = None) -> Tensor:
    """Columns of each row, best first, and of equal values the lower number first."""
    if numbers is None:
        return values.argsort(dim=1, descending=True, stable=True)
    columns = numbers.argsort(1)
    order = values.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)
