"""60 EP members in one fit against the same 60 one after another.

    python benchmarks/fit_members.py [--dtype bfloat16] [--rounds 5] [--json FILE]

M ∈ {1, 2, 4, 8, 16, 32} × 10 learning rates; B = 64, N = 196, D = 768, 1,000 classes; whole steps,
optimiser included, tokens in memory. A round times one step of the crowd and one step of each of
the 60 alone, interleaved; the figure is the ratio of the medians. Beside it: the step's FLOPs at
the rate of a bare matrix product of the same shape, measured in the same process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from iceprobe.fitting.engine import Crowd
from iceprobe.fitting.feed import Batch
from iceprobe.fitting.members import Member, Shape, make_groups
from iceprobe.malloc import keep_freed_memory

B, N, D, C = 64, 196, 768, 1000
QUERIES = (1, 2, 4, 8, 16, 32)
RATES = tuple(10 ** (-4 + i / 4) for i in range(10))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def step_flops(members: list[Member]) -> int:
    """FLOPs of one step: scores and pooled tokens forward, and their two products backward;
    values and classifiers forward, by weight and by input backward."""
    queries = sum(int(member.probe.removeprefix("ep")) for member in members)
    attention = 4 * B * N * D * queries
    rest = 3 * B * (D * D + D * C) * len(members)
    return 2 * (attention + rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, default=C)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    keep_freed_memory()  # as the command line does; both sides gain

    members = [Member(f"ep{m}", rate, 0.0, 0) for m in QUERIES for rate in RATES]
    shape = Shape(D, args.classes, (14, 14), has_class=True)
    cpu = torch.device("cpu")
    crowd = Crowd(make_groups(members, shape, cpu), "adamw", 10_000, 1)
    alone = [Crowd(make_groups([member], shape, cpu), "adamw", 10_000, 1) for member in members]
    tokens, labels = torch.randn(B, N, D).to(dtype), torch.randint(args.classes, (B,))
    batch = Batch({"patches": tokens}, labels)

    queries = sum(QUERIES) * len(RATES)
    left, right = torch.randn(B, queries, D).to(dtype), tokens.mT
    together, apart, product = [], [], []
    for round_ in range(args.rounds + 1):
        t = seconds(lambda: crowd.train_step(batch))
        a = sum(seconds(lambda c=c: c.train_step(batch)) for c in alone)  # type: ignore[misc]
        p = seconds(lambda: left @ right)
        if round_:  # the first one warms up
            together.append(t)
            apart.append(a)
            product.append(p)
        print(f"round {round_}: together {t:.3f} s, apart {a:.3f} s, ratio {a / t:.2f}", flush=True)

    t, a, p = map(statistics.median, (together, apart, product))
    rate = 2 * B * N * D * queries / p
    figures = {
        "dtype": args.dtype,
        "members": len(members),
        "queries": queries,
        "classes": args.classes,
        "threads": torch.get_num_threads(),
        "together_seconds": t,
        "apart_seconds": a,
        "ratio": a / t,
        "spread": [min(x / y for x, y in zip(apart, together, strict=True)),
                   max(x / y for x, y in zip(apart, together, strict=True))],
        "step_gflops_per_second": step_flops(members) / t / 1e9,
        "bare_product_gflops_per_second": rate / 1e9,
        "over_flops_bound": t / (step_flops(members) / rate),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
