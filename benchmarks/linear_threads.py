"""Linear probes by one thread against torch's own number: where `iceprobe.fitting.logistic.ALONE` should lie.

    python benchmarks/linear_threads.py [--rounds 5]

Rows of noise whose directions differ in scale a hundredfold, labels by a linear map of them; two decays are
solved for at the tolerance of the selection.
"""

import torch
from measuring import Figure, interleaved, run_alone

from iceprobe.fitting import logistic
from iceprobe.fitting.linear import SELECTING
from iceprobe.fitting.losses import SoftmaxLoss

SHAPES = ((2_700, 192, 10), (20_000, 192, 10), (5_000, 768, 100), (20_000, 768, 100))  # n, D, C
DECAYS = (1e-2, 1e-3)


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    return [figure(*shape, device, rounds or 5) for shape in SHAPES]


def figure(n: int, dim: int, classes: int, device: torch.device, rounds: int) -> Figure:
    x = torch.randn(n, dim) * torch.logspace(0, -2, dim)
    y = (x @ torch.randn(dim, classes) * 3 + torch.randn(n, classes)).argmax(1)
    loss = SoftmaxLoss(y.numpy(), classes)
    problem = logistic.Problem(lambda: [(x, y)], n, dim, loss, device)

    def solved(alone: int) -> None:
        logistic.ALONE, start = alone, None
        for decay in DECAYS:
            start = problem.solve(decay, start, SELECTING)

    times = interleaved({"one": lambda: solved(2**62), "all": lambda: solved(0)}, rounds, device)
    return Figure(
        name=f"linear-threads-{n}-{dim}-{classes}",
        what=f"one thread / {torch.get_num_threads()}, {n:,} rows of {dim}, {classes} classes",
        device=device.type,
        value=times.ratio("one", "all"),
        spread=times.spread("one", "all"),
        details={
            "multiply_adds": n * dim * classes,
            "one_s": times.median("one"),
            "all_s": times.median("all"),
        },
    )


if __name__ == "__main__":
    run_alone(measure, __doc__ or "")
