"""The cost of a task: training steps of 100 members on tags and numbers against classes, with the same K.

    python -m benchmarks.tasks [--outputs 80] [--rounds 15]

Rounds are interleaved in one process; printed are the ratios of medians to classification.
"""

import argparse
import time

import numpy as np
import torch

from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.feed import Batch
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.stacked import Member
from iceprobe.tasks import get_task
from iceprobe.tokens import TokenShape

DIM, TOKENS, IMAGES = 192, 64, 256
PROBES = ("ep8", "linear?input=mean", "mean_value", "abmilp", "ep2")


def targets_of(task: str, outputs: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if task == "classification":
        return rng.integers(0, outputs, IMAGES)
    if task == "multilabel":
        tags = (rng.random((IMAGES, outputs)) < 0.2).astype(float)
        tags[rng.random(tags.shape) < 0.05] = np.nan
        return tags
    return rng.normal(50, 10, (IMAGES, outputs))


def trainer_of(name: str, outputs: int) -> tuple[JointTrainer, Batch]:
    task, shape = get_task(name), TokenShape(DIM, TOKENS, 0, (8, 8), has_class=False)
    targets = task.targets(targets_of(name, outputs), "train")
    learning = task.learning(targets)
    members = [
        Member(probe, 1e-3 * (1 + rate), 0.0, seed)
        for probe in PROBES
        for rate in range(5)
        for seed in range(4)
    ]
    device = torch.device("cpu")
    groups = make_groups(members, shape, outputs, device, scaling=learning.scaling)
    tokens = torch.randn(IMAGES, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    batch = Batch({"patches": tokens, "mean": tokens.mean(1)}, torch.from_numpy(targets))
    return JointTrainer(groups, "adamw", steps=10_000, warmup=10, task=learning), batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, nargs="+", default=[10, 80])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print("| K | classification | multilabel | regression |\n|---:|---:|---:|---:|")
    for outputs in args.outputs:
        names = ("classification", "multilabel", "regression")
        trainers = {name: trainer_of(name, outputs) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for trainer, batch in trainers.values():
            trainer.train_step(batch)
        for _ in range(args.rounds):
            for name, (trainer, batch) in trainers.items():
                began = time.perf_counter()
                trainer.train_step(batch)
                seconds[name].append(time.perf_counter() - began)
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        first = medians["classification"]
        cells = " | ".join(f"{medians[name] / first:.2f}" for name in names[1:])
        print(f"| {outputs} | {first * 1e3:.0f} ms | {cells} |")


if __name__ == "__main__":
    main()
