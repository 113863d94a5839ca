"""Exact nearest neighbours by cosine similarity, in bounded memory.

Queries and bank are cut into tiles of a fixed size, so that memory doesn't grow with either and
the answer doesn't depend on how much there is. Among equal similarities the lower row of the bank
comes first, as in one stable sort of everything.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
        progress: told (queries done, n).

    Returns:
        Cosine similarities ``(n, min(k, m))``, float64 for float64 input and float32 for any
        other, and rows of the bank ``(n, min(k, m))`` int64, both on the CPU.
    """
    k = min(k, len(bank))
    similarity = torch.empty(len(queries), k, dtype=_dtype(bank))
    index = torch.empty(len(queries), k, dtype=torch.int64)
    for start in range(0, len(queries), QUERIES):
        rows = slice(start, start + QUERIES)
        best, where = _nearest_of_tile(_unit(queries[rows], device), bank, k)
        similarity[rows], index[rows] = best.cpu(), where.cpu()
        if progress:
            progress(min(rows.stop, len(queries)), len(queries))
    return similarity, index


def _nearest_of_tile(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), BANK):
        tile = queries @ _unit(bank[start : start + BANK], queries.device).T
        rows = torch.arange(start, start + tile.shape[1], device=queries.device)
        found, columns = _stable_top(tile, k)
        # What was found before stands first and has lower rows: ties stay in the bank's order.
        best = torch.cat([best, found], 1)
        where = torch.cat([where, rows[columns]], 1)
        best, columns = _stable_top(best, k)
        where = where.gather(1, columns)
    return best, where


def _stable_top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first ``k`` columns of a stable descending sort of each row, without sorting it all.

    ``topk`` takes any of several equal values. Rows where that matters (more values equal the
    k-th than were taken) are sorted whole; they are few.
    """
    if k >= values.shape[1]:
        return values.sort(dim=1, descending=True, stable=True)
    top, columns = values.topk(k, 1)
    columns = columns.sort(1).values
    top, order = values.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    last = top[:, -1:]
    ambiguous = (values == last).sum(1) > (top == last).sum(1)
    if ambiguous.any():
        columns[ambiguous] = (
            values[ambiguous].sort(dim=1, descending=True, stable=True).indices[:, :k]
        )
        top = values.gather(1, columns)
    return top, columns


def _unit(rows: Tensor, device: torch.device | str) -> Tensor:
    return F.normalize(rows.to(device, _dtype(rows)), dim=1)


def _dtype(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32
