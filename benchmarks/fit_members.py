"""100 EP members in one fit: its whole step against the machine, and against one after another.

    python benchmarks/fit_members.py [--device cuda] [--rounds 5]

M ∈ {1, 2, 4, 8, 12, 16, 24, 32, 48, 64} × 10 learning rates, B = 64, N = 196, D = 768; whole steps,
optimiser included, tokens in memory. The step is held against the larger of

    its FLOPs at the matrix rate                its bytes at the copy bandwidth

both measured in the same rounds. The matrix rate is that of a square product or of the step's own
largest product, whichever is faster; each product counts at the rate of the dtype that it is made
in: over tokens in the tokens', classifiers in float32.
"""

from collections.abc import Callable

import torch
from machine import product, square, yardsticks
from measuring import Figure, Times, interleaved, run_alone

from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.feed import Batch
from iceprobe.fitting.members import Member, make_groups
from iceprobe.tokens import TokenShape

B, N, D = 64, 196, 768
QUERIES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
RATES = tuple(10 ** (-4 + i / 4) for i in range(10))
MEMBERS = [Member(f"ep{m}", rate, 0.0, 0) for m in QUERIES for rate in RATES]
ROUNDS = 5

#: Wanted of the whole step over its bound, and of one after another over together.
STEP_AT_MOST = {"cpu": 1.5, "cuda": 2.0}
TOGETHER_AT_LEAST = {("cpu", torch.bfloat16): 3.5, ("cuda", torch.bfloat16): 10.0}


def token_flops(queries: int) -> float:
    """Over tokens: scores and pooled tokens forward, and their two products backward."""
    return 2.0 * 4 * B * N * D * queries


def value_flops(members: int) -> float:
    """W_V: forward, by weight and by input backward."""
    return 2.0 * 3 * B * D * D * members


def classifier_flops(members: int, classes: int) -> float:
    """The same of the classifiers."""
    return 2.0 * 3 * B * D * classes * members


def num_parameters(queries: int, members: int, classes: int) -> int:
    return queries * D + members * (D * D + D * classes + classes)


def step_bytes(parameters: int, token_bytes: int) -> float:
    """What a step moves at least: tokens once forward and once backward, and of each parameter

    forward 1, backward 1 (by input), gradient written 1, and in the optimiser, AdamW: parameter 2,
    gradient 1, two moments 4; LARS: norms 2 (they must be known before anything is updated),
    parameter 2, gradient 1, momentum 2. Ten float32 numbers either way.
    """
    return 2.0 * token_bytes + 10 * 4.0 * parameters


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for classes in (1000, 10):
            for optimizer in ("adamw", "lars"):
                found += one(dtype, classes, optimizer, device, rounds or ROUNDS)
    return found


def one(
    dtype: torch.dtype, classes: int, optimizer: str, device: torch.device, rounds: int
) -> list[Figure]:
    """The step against its bound; with AdamW, one after another against together as well."""
    shape = TokenShape(D, N, 1, (14, 14), has_class=True)

    def trainer(members: list[Member]) -> JointTrainer:
        return JointTrainer(make_groups(members, shape, classes, device), optimizer, 10_000, 1)

    tokens = torch.randn(B, N, D).to(device, dtype)
    batch = Batch({"patches": tokens}, torch.randint(classes, (B,), device=device))
    queries = sum(QUERIES) * len(RATES)
    weights = torch.randn(B, queries, N, device=device).to(dtype)
    known = yardsticks(device, dtype)
    known |= {"own product": product(weights, tokens), "float32": square(device, torch.float32)}
    together = trainer(MEMBERS)
    sides: dict[str, Callable[[], object]] = {"together": lambda: together.train_step(batch)}
    if optimizer == "adamw":
        alone = [trainer([member]) for member in MEMBERS]
        sides["apart"] = lambda: [one.train_step(batch) for one in alone]
    sides |= {name: work.run for name, work in known.items()}
    times = interleaved(sides, rounds, device)

    rate = {name: work.amount / times.median(name) for name, work in known.items()}
    best = max(rate["square"], rate["own product"])
    plain = max(rate["float32"], best if dtype == torch.float32 else 0)
    flops = [
        token_flops(queries) + value_flops(len(MEMBERS)),
        classifier_flops(len(MEMBERS), classes),
    ]
    parameters = num_parameters(queries, len(MEMBERS), classes)
    moved = step_bytes(parameters, tokens.nbytes)
    limits = {"FLOPs": flops[0] / best + flops[1] / plain, "bytes": moved / rate["copy"]}
    limit = max(limits, key=lambda name: limits[name])
    name = f"100 EP members, {classes:,} classes, {optimizer}, {str(dtype).removeprefix('torch.')}"
    low, high = times.spread("together", "square")
    middle = times.ratio("together", "square")
    step = times.median("together")
    value = step / limits[limit]
    details: dict[str, float | str] = {
        "step ms": 1e3 * step,
        "GFLOP": sum(flops) / 1e9,
        "FLOPs ms": 1e3 * limits["FLOPs"],
        "GB moved": moved / 1e9,
        "bytes ms": 1e3 * limits["bytes"],
        "square product, GFLOP/s": rate["square"] / 1e9,
        "own product, GFLOP/s": rate["own product"] / 1e9,
        "float32 product, GFLOP/s": rate["float32"] / 1e9,
        "copy, GB/s": rate["copy"] / 1e9,
    }
    found = [
        Figure(
            name=f"{name}: step",
            what=f"whole step / its {limit} at the machine's rate",
            device=device.type,
            value=value,
            spread=(value * low / middle, value * high / middle),
            at_most=STEP_AT_MOST[device.type],
            bound=1.0,
            bounded_by=limit,
            details=details,
        )
    ]
    if optimizer == "adamw":
        found.append(_together(name, times, device, dtype, limits[limit]))
    return found


def _together(
    name: str, times: Times, device: torch.device, dtype: torch.dtype, limit: float
) -> Figure:
    apart = times.median("apart")
    return Figure(
        name=f"{name}: together",
        what="one after another / together",
        device=device.type,
        value=times.ratio("apart", "together"),
        spread=times.spread("apart", "together"),
        at_least=TOGETHER_AT_LEAST.get((device.type, dtype)),
        bound=apart / limit,
        bounded_by="the step's bound",
        details={"step ms": 1e3 * times.median("together"), "one after another ms": 1e3 * apart},
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
