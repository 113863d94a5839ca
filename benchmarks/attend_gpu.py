"""`attend` forward and backward on a GPU: the kernels, the plain path, and reading the tokens twice.

    python benchmarks/attend_gpu.py                                  # bfloat16, D=768, N=196
    python benchmarks/attend_gpu.py --batch-size 512 --tokens 256 --dim 1024 --json attend.json

The bound is what no implementation passes: the bytes of the tokens, read once forward and once
backward, at the bandwidth of a copy measured in the same process. Beyond some number of queries the
products take longer than the reading (``flops`` in the JSON counts the four products that both
sides need), and the ratio to the bound says less. The three take turns within every round; figures are medians.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from iceprobe.probes import attend as attention

QUERIES = (1, 12, 32, 64, 256, 630)


def plain(tokens: Tensor, queries: Tensor) -> Tensor:
    """`attend` as it is where there is no kernel."""
    return attention._Attend.apply(tokens, None, queries)[0]


def milliseconds(work: Callable[[], object]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended)


def measure(tokens: Tensor, num_queries: int, rounds: int) -> dict[str, float]:
    """Medians in ms, and the times over the bound.

    Raises:
        AssertionError: if kernel and plain path don't agree on the gradients.
    """
    from iceprobe.probes import kernels

    images, num_tokens, dim = tokens.shape
    queries = (torch.randn(num_queries, dim, device="cuda") * dim**-0.5).to(tokens.dtype)
    queries.requires_grad_()
    grad = torch.randn(images, num_queries, dim, dtype=tokens.dtype, device="cuda")
    copy = torch.empty_like(tokens)

    def step(attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(attend(tokens, queries), queries, grad)[0]

    sides: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: step(kernels.attend),
        "plain": lambda: step(plain),
        # A copy reads the tokens once and writes as much: the bytes of reading them twice.
        "bound": lambda: copy.copy_(tokens),
    }
    ours, theirs = sides["kernel"]().float(), sides["plain"]().float()
    gap = ((ours - theirs).norm() / theirs.norm()).item()
    assert gap < 0.05, f"{num_queries} queries: gradients differ by {gap:.1e}"
    times: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(rounds + 3):
        for side, work in sides.items():
            taken = milliseconds(work)
            if round_ >= 3:  # the first ones warm up
                times[side].append(taken)
    kernel, plain_, bound = (statistics.median(times[side]) for side in sides)
    return {
        "queries": num_queries,
        "kernel_ms": kernel,
        "plain_ms": plain_,
        "bound_ms": bound,
        "kernel_over_bound": kernel / bound,
        "plain_over_kernel": plain_ / kernel,
        "flops": 8.0 * images * num_tokens * dim * num_queries,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=196, help="N")
    parser.add_argument("--dim", type=int, default=768, help="D")
    parser.add_argument("--queries", type=int, action="append", help=f"repeatable; {QUERIES}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shape = (args.batch_size, args.tokens, args.dim)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not attention.available(torch.empty(1, 1, 1, dtype=torch.bfloat16, device=device)):
        raise SystemExit("attend_gpu: needs a GPU of capability 8.0 or more, and Triton: not here")

    torch.manual_seed(0)
    tokens = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    print(f"{shape} bfloat16, {torch.cuda.get_device_name()}, forward and backward, medians")
    print(f"{'queries':>7} {'kernel':>9} {'plain':>9} {'bound':>9}  kernel/bound  plain/kernel")
    rows = []
    for num_queries in args.queries or QUERIES:
        row = measure(tokens, num_queries, args.rounds)
        print(
            f"{num_queries:7} {row['kernel_ms']:6.2f} ms {row['plain_ms']:6.2f} ms "
            f"{row['bound_ms']:6.2f} ms {row['kernel_over_bound']:13.2f} "
            f"{row['plain_over_kernel']:13.2f}",
            flush=True,
        )
        rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
