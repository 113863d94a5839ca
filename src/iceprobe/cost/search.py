"""What a search for neighbours will cost, before it begins.

    seconds = Σ_searches n · m · seconds of one comparison        FLOPs = Σ_searches 2 n m D

A comparison is a product of two D-vectors and its part of choosing the k best; its seconds come
from searching a few real tiles of noise on this machine, or on paper from FLOPs a second.
"""

import time
from collections.abc import Sequence

import torch
from pydantic import BaseModel

from iceprobe.neighbours.search import BANK, QUERIES, nearest
from iceprobe.neighbours.voting import NEIGHBOURS

BANKS = 3  # tiles of the bank in a measurement: the first has nothing found before it


class SearchPlan(BaseModel):
    """What some searches cost.

    Attributes:
        comparisons: queries × bank, of all searches.
        flops: of all products.
        memory_bytes: of an answer and the tiles at work, in the largest search; both sets of
            vectors come on top, and are in memory before.
        seconds: that they will take.
    """

    comparisons: int
    flops: float
    memory_bytes: int
    seconds: float


def plan_search(
    searches: Sequence[tuple[int, int, int]],
    *,
    k: int = NEIGHBOURS[-1],
    device: torch.device | str = "cpu",
    flops_per_second: float | None = None,
    measure_seconds: float = 1.0,
) -> SearchPlan:
    """What ``nearest`` would cost, once for each of ``searches``.

    Args:
        searches: (vectors in the bank, queries, D) of each.
        k, device: of the searches.
        flops_per_second: that they reach on their device, in place of running any.
        measure_seconds: how long to search for, about, after a first search that isn't counted.
    """
    plans = []
    measured = {_sample(*search): 0.0 for search in searches}
    if flops_per_second is None:
        for sample in measured:
            measured[sample] = _seconds_each(sample, k, device, measure_seconds / len(measured))
    for bank, queries, dim in searches:
        comparisons = bank * queries
        flops = 2.0 * comparisons * dim
        seconds = comparisons * measured[_sample(bank, queries, dim)]
        if flops_per_second is not None:
            seconds = flops / flops_per_second
        answer = queries * min(k, bank) * (8 + 8)
        # Similarities as they are and once more while they are worked on; a tile of the bank in
        # float64, its unit vectors, and these in float32.
        tiles = min(bank, BANK) * (2 * 4 * min(queries, QUERIES) + (2 * 8 + 4) * dim)
        plans.append((comparisons, flops, answer + tiles, seconds))
    return SearchPlan(
        comparisons=sum(plan[0] for plan in plans),
        flops=sum(plan[1] for plan in plans),
        memory_bytes=max((plan[2] for plan in plans), default=0),
        seconds=sum(plan[3] for plan in plans),
    )


def _sample(bank: int, queries: int, dim: int) -> tuple[int, int, int]:
    """Sizes of a measured search, which stands for the whole."""
    return min(bank, BANKS * BANK), min(queries, 2 * QUERIES), dim


def _seconds_each(
    sample: tuple[int, int, int], k: int, device: torch.device | str, seconds: float
) -> float:
    """Of one comparison, over as many searches of the sample as fit into the time."""
    bank, queries, dim = sample
    train, asked = (torch.randn(n, dim, device=device) for n in (bank, queries))
    nearest(asked, train, k, device=device)
    searches, began = 0, time.perf_counter()
    while True:
        nearest(asked, train, k, device=device)  # its answer comes to the host: it has finished
        searches += 1
        if (taken := time.perf_counter() - began) >= seconds:
            return taken / (searches * max(1, bank * queries))
