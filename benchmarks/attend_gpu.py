"""`attend` forward and backward on a GPU: the kernels and plain torch, against reading the tokens twice.

    python benchmarks/attend_gpu.py --device cuda [--rounds 20]

B = 1,024, N = 196, D = 768, bfloat16. The bound is what no implementation passes: the bytes of the
tokens, read once forward and once backward, at the bandwidth of a copy. Beyond some number of
queries the four products that both need take longer than the reading, and the ratio says less: the
details have their time at the square product's rate.
"""

import sys
from collections.abc import Callable

import torch
from machine import yardsticks
from measuring import Figure, interleaved, run_alone
from torch import Tensor

from iceprobe.probes import attend as attention

B, N, D = 1024, 196, 768
QUERIES = (1, 12, 32, 64, 256, 630)
ROUNDS = 20


def plain(tokens: Tensor, queries: Tensor) -> Tensor:
    """`attend` as it is where there is no kernel."""
    return attention._Attend.apply(tokens, None, queries)[0]


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    if not attention.available(torch.empty(1, 1, 1, dtype=torch.bfloat16, device=device)):
        sys.exit("attend_gpu: needs a GPU of capability 8.0 or more, and Triton: not here")
    tokens = torch.randn(B, N, D, dtype=torch.bfloat16, device=device)
    return [figure for queries in QUERIES for figure in one(tokens, queries, rounds or ROUNDS)]


def one(tokens: Tensor, num_queries: int, rounds: int) -> list[Figure]:
    """Raises:
    AssertionError: if kernel and plain path don't agree on the gradients.
    """
    from iceprobe.probes import kernels

    device = tokens.device
    queries = (torch.randn(num_queries, D, device=device) * D**-0.5).to(tokens.dtype)
    queries.requires_grad_()
    grad = torch.randn(B, num_queries, D, dtype=tokens.dtype, device=device)

    def step(attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(attend(tokens, queries), queries, grad)[0]

    ours, theirs = step(kernels.attend).float(), step(plain).float()
    gap = ((ours - theirs).norm() / theirs.norm()).item()
    assert gap < 0.05, f"{num_queries} queries: gradients differ by {gap:.1e}"
    known = yardsticks(device, tokens.dtype)
    times = interleaved(
        {
            "kernel": lambda: step(kernels.attend),
            "plain torch": lambda: step(plain),
            **{name: work.run for name, work in known.items()},
        },
        rounds,
        device,
        warmup=3,
    )
    rate = {name: work.amount / times.median(name) for name, work in known.items()}
    limit = 2 * tokens.nbytes / rate["copy"]
    flops = 2.0 * 4 * B * N * D * num_queries
    found = []
    for side in ("kernel", "plain torch"):
        low, high = (spread / times.ratio(side, "copy") for spread in times.spread(side, "copy"))
        value = times.median(side) / limit
        found.append(
            Figure(
                name=f"EP{num_queries}, {side}, bfloat16",
                what="forward + backward / reading the tokens twice",
                device=device.type,
                value=value,
                spread=(value * low, value * high),
                at_most=1.5 if num_queries == 32 and side == "kernel" else None,
                bound=1.0,
                bounded_by="copy bandwidth",
                details={
                    "ms": 1e3 * times.median(side),
                    "tokens twice, ms": 1e3 * limit,
                    "products at the square's rate, ms": 1e3 * flops / rate["square"],
                    "copy, GB/s": rate["copy"] / 1e9,
                    "square product, TFLOP/s": rate["square"] / 1e12,
                },
            )
        )
    return found


if __name__ == "__main__":
    run_alone(measure, __doc__)
