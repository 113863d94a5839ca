"""What `iceprobe plan` says against what then happens.

    python benchmarks/plan.py [--rounds 1]

Three cases on ``bundled:mae-tiny`` and ``bundled:fashion``, 1,500 images a split: extraction; a fit
of linear, ep12 and aim12 (5 learning rates × 3 seeds, 3 epochs); the same of ep32 alone. Each is
planned, then done at once, in one process and on one machine as loaded at that moment: the wall
time of the public function, its files and intervals included.

The figure is the larger of planned / taken and taken / planned, so 1.3 is 30% either way (the
details tell which). Of a machine whose load changes in between it says as much as of the plan.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from measuring import Figure, quartiles, run_alone, timed

import iceprobe

FITS = {"linear, ep12, aim12": ["linear", "ep12", "aim12"], "ep32": ["ep32"]}
IMAGES, EPOCHS, ROUNDS = 1500, 3, 1
CPU = torch.device("cpu")


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    seconds = [once() for _ in range(rounds or ROUNDS)]
    found = []
    for case in seconds[0]:
        misses = [off(*round_[case]) for round_ in seconds]
        planned, taken = (statistics.median(r[case][i] for r in seconds) for i in (0, 1))
        found.append(
            Figure(
                name=f"plan, {case}",
                what="planned against taken",
                device="cpu",
                value=statistics.median(misses),
                spread=quartiles(misses),
                at_most=1.3,
                details={"planned s": planned, "taken s": taken, "ratio": planned / taken},
            )
        )
    return found


def off(planned: float, taken: float) -> float:
    """By what factor a plan is off, either way; at least 1."""
    return max(planned / taken, taken / planned)


def once() -> dict[str, tuple[float, float]]:
    """Planned and taken seconds of every case."""
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    dataset = iceprobe.load_dataset("bundled:fashion")
    found = {}
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
        root = Path(folder)
        planned = iceprobe.plan(backbone, dataset, root, limit=IMAGES).seconds
        taken = timed(lambda: iceprobe.extract(backbone, dataset, root, limit=IMAGES), CPU)
        found["extraction"] = planned, taken
        store = iceprobe.extract(backbone, dataset, root, limit=IMAGES)  # finished: only opened
        for case, probes in FITS.items():
            fit = iceprobe.plan_fit(backbone, dataset, probes, epochs=EPOCHS, limit=IMAGES)
            run = root / f"run-{case}"
            taken = timed(
                lambda p=probes, r=run: iceprobe.fit(store, p, epochs=EPOCHS, output=r), CPU
            )
            found[f"fit of {case}"] = fit.seconds, taken
    return found


if __name__ == "__main__":
    run_alone(measure, __doc__)
