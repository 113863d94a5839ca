"""Forward + backward of one pooling: pool-first, and absorbed, against project-first.

    python benchmarks/probe_step.py [--device cuda] [--rounds 15]

B = 64, N = 196, D = 768. Both sides are the same function of the same parameters, compute the
gradients of all parameters and of no token, and are compared before they are timed. Absorbed means
pool-first without W_K.

What bounds pool-first: its FLOPs at the rate of a square product, or reading the tokens twice,
whichever takes longer. Beside it stand torch's products in its own shapes, and project-first with its
linear layers by the library that is fast on the machine (`iceprobe.machine.products`): the publications' code
has torch's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import project_first
import torch
from machine import product, yardsticks
from measuring import Figure, interleaved, run_alone
from torch import Tensor

from iceprobe.machine.products import FastLinear
from iceprobe.probes import absorb, build_pooling
from iceprobe.probes.pooling import Pooling

B, N, D = 64, 196, 768
ROUNDS = 15


@dataclass(frozen=True)
class Case:
    spec: str
    dtype: torch.dtype
    at_least: float
    aim: float | None = None
    absorbed: bool = False


CASES = [
    Case("ep32", torch.float32, 9, 12),
    Case("ep32", torch.bfloat16, 4, 6),
    *(
        Case(spec, torch.float32, 4, absorbed=absorbed)
        for spec in ("vjepa", "aim12", "siglip")
        for absorbed in (False, True)
    ),
]


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    return [one(case, device, rounds or ROUNDS) for case in CASES]


def one(case: Case, device: torch.device, rounds: int) -> Figure:
    """Raises:
    AssertionError: if the two sides don't agree on descriptors and gradients.
    """
    probe = case.spec.rstrip("0123456789")
    tokens = torch.randn(B, N, D).to(device, case.dtype)
    published = build_pooling(case.spec, D).to(device)
    plain = build_pooling(case.spec, D).to(tokens)
    plain.load_state_dict(published.state_dict())
    pooling = absorb(published) if case.absorbed else published
    slow = lambda x: project_first.FORWARD[probe](plain, x)  # noqa: E731
    check(case, published, pooling, plain, slow, tokens)

    bare = products(tokens, pooling)
    known = yardsticks(device, case.dtype)
    times = interleaved(
        {
            "project-first": lambda: step(slow, plain, tokens),
            "faster": lambda: faster(slow, plain, tokens),
            "pool-first": lambda: step(pooling, pooling, tokens),
            "products": lambda: [work.run() for work in bare],
            **{name: work.run for name, work in known.items()},
        },
        rounds,
        device,
    )
    rate = {name: work.amount / times.median(name) for name, work in known.items()}
    macs = B * project_first.pool_first_macs(pooling, N) + 3 * pooling.macs_per_step()
    plain_macs = B * project_first.step_macs(probe, published, N, D)
    limits = {
        "its FLOPs": 2 * macs / rate["square"],
        "reading the tokens twice": 2 * tokens.nbytes / rate["read"],
    }
    limit = max(limits, key=lambda name: limits[name])
    way = "absorbed" if case.absorbed else "pool-first"
    return Figure(
        name=f"{case.spec}, {way}, {str(case.dtype).removeprefix('torch.')}",
        what=f"project-first / {way}, forward + backward",
        device=device.type,
        value=times.ratio("project-first", "pool-first"),
        spread=times.spread("project-first", "pool-first"),
        at_least=case.at_least,
        aim=case.aim,
        bound=times.median("project-first") / limits[limit],
        bounded_by=limit,
        details={
            "project-first ms": 1e3 * times.median("project-first"),
            "pool-first ms": 1e3 * times.median("pool-first"),
            "project-first by the faster products, ms": 1e3 * times.median("faster"),
            "ratio to it": times.ratio("faster", "pool-first"),
            "ratio by FLOPs": plain_macs / macs,
            "GFLOP": 2 * macs / 1e9,
            "at the square product's rate, ms": 1e3 * limits["its FLOPs"],
            "torch's products in its shapes, ms": 1e3 * times.median("products"),
            "tokens twice, ms": 1e3 * limits["reading the tokens twice"],
            "square product, GFLOP/s": rate["square"] / 1e9,
            "read, GB/s": rate["read"] / 1e9,
            "copy, GB/s": rate["copy"] / 1e9,
        },
    )


def step(forward: Callable[[Tensor], Tensor], pooling: Pooling, tokens: Tensor) -> list[Tensor]:
    """Gradients of all parameters."""
    return list(torch.autograd.grad(forward(tokens).square().mean(), list(pooling.parameters())))


def faster(forward: Callable[[Tensor], Tensor], pooling: Pooling, tokens: Tensor) -> list[Tensor]:
    """The same with linear layers by the library that is fast on the machine."""
    with FastLinear():
        return step(forward, pooling, tokens)


def check(
    case: Case,
    published: Pooling,
    pooling: Pooling,
    plain: Pooling,
    slow: Callable[[Tensor], Tensor],
    tokens: Tensor,
) -> None:
    """Both sides are one function: equal descriptors, and equal gradients of the published form."""
    tolerance = 1e-3 if case.dtype == torch.float32 else 0.2
    pairs = [(pooling(tokens), slow(tokens))]
    pairs += zip(step(published, published, tokens), step(slow, plain, tokens), strict=True)
    for ours, theirs in pairs:
        gap = (ours - theirs).norm() / theirs.norm().clamp(1e-6)
        assert gap < tolerance, f"{case.spec}: the two sides differ by {gap:.1e}"


def products(tokens: Tensor, pooling: Pooling) -> list:
    """The four products over tokens, and W_V's three, alone and in the shapes that they have."""
    num_queries = pooling.num_predictors
    images, num_tokens, dim = tokens.shape
    rows = tokens.flatten(0, 1)
    queries = torch.randn(num_queries, dim, device=tokens.device).to(tokens)
    weights = torch.randn(images, num_queries, num_tokens, device=tokens.device).to(tokens)
    pooled = torch.randn(images, num_queries, dim, device=tokens.device).to(tokens)
    scores = torch.randn(len(rows), num_queries, device=tokens.device).to(tokens)
    slices = torch.randn(num_queries, dim, dim // num_queries, device=tokens.device)
    gathered = pooled.float().transpose(0, 1)
    outputs = torch.randn(num_queries, images, dim // num_queries, device=tokens.device)
    return [
        product(rows, queries.mT),
        product(weights, tokens),
        product(tokens, pooled.mT),
        product(scores.mT, rows),
        product(gathered, slices),
        product(gathered.mT, outputs),
        product(outputs, slices.mT),
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
