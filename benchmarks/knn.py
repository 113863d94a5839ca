"""k-NN's search against the bare product and top-k of the same tiles; its memory; ImageNet planned.

    python benchmarks/knn.py [--rounds 5]
    python benchmarks/knn.py --device cuda       # runs 1.28 M × 768 by 50,000 on generated features

60,000 × 768 training vectors, 5,000 queries, k = 200, float32. The bare side makes the products of
unit vectors that are ready, and `topk` of each tile, and keeps nothing. What is left to the search:
unit vectors, what survives from tile to tile, equal similarities, order.

Memory is the peak above what there was before the search, of fresh processes with a bank of 4 and of
40 tiles: the search holds its answer and a few tiles, so it is flat.
"""

import json
import subprocess
import sys

import torch
import torch.nn.functional as F
from machine import yardsticks
from measuring import Figure, PeakMemory, interleaved, run_alone, timed
from plan import off

from iceprobe.cost.search import plan_search
from iceprobe.neighbours import nearest
from iceprobe.neighbours.search import BANK, QUERIES

TRAIN, TEST, D, K = 60_000, 5_000, 768, 200
IMAGENET, VALIDATION = 1_280_000, 50_000
BANKS = (4 * BANK, 40 * BANK)
ROUNDS = 3


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    found = [speed(device, rounds or ROUNDS)]
    return [*found, imagenet(device)] if device.type == "cuda" else [*found, memory(), planned()]


def speed(device: torch.device, rounds: int) -> Figure:
    bank, queries = (torch.randn(n, D, device=device) for n in (TRAIN, TEST))
    unit, asked = F.normalize(bank, dim=1), F.normalize(queries, dim=1)

    def bare() -> None:
        for tile in unit.split(BANK):
            for some in asked.split(QUERIES):
                (some @ tile.T).topk(K, 1)

    def products() -> None:
        for tile in unit.split(BANK):
            for some in asked.split(QUERIES):
                some @ tile.T

    known = yardsticks(device)
    times = interleaved(
        {
            "search": lambda: nearest(queries, bank, K, device=device),
            "bare": bare,
            "products": products,
            "square": known["square"].run,
        },
        rounds,
        device,
    )
    flops = 2.0 * TRAIN * TEST * D
    return Figure(
        name=f"k-NN, {TRAIN:,} × {D} by {TEST:,}, k = {K}",
        what="search / bare product and top-k",
        device=device.type,
        value=times.ratio("search", "bare"),
        spread=times.spread("search", "bare"),
        at_most=1.5,
        bound=1.0,
        bounded_by="product and top-k",
        details={
            "search s": times.median("search"),
            "product and top-k s": times.median("bare"),
            "product alone s": times.median("products"),
            "GFLOP": flops / 1e9,
            "at the square product's rate, s": flops
            * times.median("square")
            / known["square"].amount,
        },
    )


def memory() -> Figure:
    """Of a bank ten times as large."""
    peaks = []
    for bank in BANKS:
        command = [sys.executable, __file__, "--memory-of", str(bank)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout))
    ratio = peaks[1] / peaks[0]
    return Figure(
        name=f"k-NN's memory, banks of {BANKS[0]:,} and {BANKS[1]:,}",
        what="peak above what there was, larger / smaller",
        device="cpu",
        value=ratio,
        spread=(ratio, ratio),
        at_most=1.1,
        details={"smaller MB": peaks[0] / 1e6, "larger MB": peaks[1] / 1e6},
    )


def memory_of(bank: int) -> None:
    """In a process of its own: print the bytes that a search adds at most."""
    train, queries = torch.randn(bank, D), torch.randn(2 * QUERIES, D)
    queries @ queries.T  # what the first product sets up isn't the search's
    with PeakMemory() as used:
        nearest(queries, train, K)
    print(used.peak - used.before)


def planned() -> Figure:
    """The plan's seconds of the search of `speed`, over what it takes; and of ImageNet, said."""
    bank, queries = torch.randn(TRAIN, D), torch.randn(TEST, D)
    small = plan_search([(TRAIN, TEST, D)])
    taken = timed(lambda: nearest(queries, bank, K), torch.device("cpu"))
    large = plan_search([(IMAGENET, VALIDATION, D)])
    miss = off(small.seconds, taken)
    return Figure(
        name="k-NN planned",
        what="planned against taken",
        device="cpu",
        value=miss,
        spread=(miss, miss),
        at_most=1.3,
        details={
            "planned s": small.seconds,
            "taken s": taken,
            f"{IMAGENET:,} by {VALIDATION:,}: planned s": large.seconds,
            "its memory, GB": large.memory_bytes / 1e9,
            "its TFLOP": large.flops / 1e12,
        },
    )


def imagenet(device: torch.device) -> Figure:
    """On generated features that wait in the host's memory."""
    bank, queries = torch.randn(IMAGENET, D), torch.randn(VALIDATION, D)
    large = plan_search([(IMAGENET, VALIDATION, D)], device=device)
    taken = timed(lambda: nearest(queries, bank, K, device=device), device)
    miss = off(large.seconds, taken)
    return Figure(
        name=f"k-NN planned, {IMAGENET:,} × {D} by {VALIDATION:,}",
        what="planned against taken",
        device=device.type,
        value=miss,
        spread=(miss, miss),
        at_most=1.3,
        details={"planned s": large.seconds, "taken s": taken, "TFLOP": large.flops / 1e12},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(int(sys.argv[2]))
    else:
        run_alone(measure, __doc__)
