"""What a test does in one process and in several, the same lines for both.

As a program (``python -m tests.distributed.work WHAT FOLDER``) it is one of torchrun's processes.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from iceprobe.fitting.engine import JointTrainer, predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import Member, make_groups
from iceprobe.fitting.stacked import Stacked
from iceprobe.machine.processes import join, world
from iceprobe.machine.shared_batches import learning_from
from iceprobe.neighbours import knn
from iceprobe.neighbours.search import QUERIES
from iceprobe.probes import build_pooling
from iceprobe.store import extract
from iceprobe.tasks import get_task
from iceprobe.tasks.classification import Classification
from iceprobe.tasks.task import Task
from iceprobe.tokens import TokenShape
from tests.fitting.conftest import CLASSES, DIM, GRID, planted
from tests.fitting.test_tasks import TARGETS
from tests.neighbours.test_evaluate import make_store
from tests.store.conftest import SMALL, make_backbone, make_dataset

PROBES = ["ep4", "aim4", "abmilp", "simpool", "delf", "cbam", "mhca4", "slot2",
          "linear", "linear?input=mean", "ep2?batch_norm=false",
          "ep4?complementarity=0.3&entropy=0.1", "aim4?entropy=0.1"]  # fmt: skip
IMAGES, STEP = 151, 32  # steps of 32 and, last, 23 images: uneven parts


def extraction(folder: Path) -> None:
    """Five shards of train and two of test, tokens of one layer."""
    extract(make_backbone(), make_dataset(), folder / "features", **SMALL)


def extraction_cut_short(folder: Path) -> None:
    """Process 1 dies as SIGKILL kills when its first shard is recorded."""
    from iceprobe.store import destinations

    leave_record = destinations.leave_record

    def fatal(*arguments):
        leave_record(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    destinations.leave_record = fatal
    extraction(folder)


def search(folder: Path) -> None:
    """Queries of more than one tile and of less than one for each process."""
    for name, per_class in (("many", QUERIES // 4), ("few", 1)):
        result = knn(make_store(classes=7, train=6, test=per_class))
        if world().main:
            np.save(folder / f"{name}.npy", result.predictions().predicted)


def training(folder: Path) -> None:
    """Joint training in float64; weights, statistics, losses and predictions of all its members."""
    _train(folder, "trained", TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True))


def clips(folder: Path) -> None:
    """The same of examples in three parts, whose outputs are averaged."""
    _train(folder, "clips", TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True, parts=3))


def _train(folder: Path, name: str, shape: TokenShape) -> None:
    torch.set_default_dtype(torch.float64)
    members = [Member(probe, 3e-3, 0.01, seed) for probe in PROBES for seed in (0, 1)]
    device = torch.device("cpu")
    groups = make_groups(members, shape, CLASSES, device)
    inputs = {"patches", "class", "mean"}
    split, dtype = planted(IMAGES, seed=0), torch.float64
    split.shape = shape
    feed = Feed(split, np.arange(len(split)), inputs, device, dtype)
    trainer = JointTrainer(groups, "adamw", steps=15, warmup=2)
    found = {}
    for epoch in range(3):
        for i, batch in enumerate(feed.shuffled(STEP, seed=0, epoch=epoch)):
            for group, losses in zip(groups, trainer.train_step(batch), strict=True):
                found[f"{group.members[0].probe}/loss {epoch}.{i}"] = losses
    task = Classification()
    found |= _after(groups, feed, task)
    few = Feed(split, np.arange(1), inputs, device, dtype)  # a process without any
    recorded = predict_all(groups, few, STEP, task)
    found["few"] = torch.stack([record["predicted"] for record in recorded])
    torch.set_default_dtype(torch.float32)
    _save(folder, name, found)


def tasks(folder: Path) -> None:
    """Joint training on tags and on numbers, of which half aren't known: parts of a step know different
    numbers of them, and a process that divided by its own count would go another way."""
    torch.set_default_dtype(torch.float64)
    device, found = torch.device("cpu"), {}
    shape = TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True)
    for name, targets_of in TARGETS.items():
        split, task = planted(IMAGES, seed=0), get_task(name)
        targets = targets_of(split.labels)
        targets[np.random.default_rng(0).random(targets.shape) < 0.5] = np.nan
        split.labels = task.targets(targets, "train")
        weight = "balanced" if task.weighs_classes else "none"
        learning = task.learning(split.labels, weight)
        members = [Member(probe, 3e-3, 0.01, seed) for probe in PROBES[:4] for seed in (0, 1)]
        groups = make_groups(members, shape, targets.shape[1], device, scaling=learning.scaling)
        feed = Feed(split, np.arange(IMAGES), {"patches", "class", "mean"}, device, torch.float64)
        trainer = JointTrainer(groups, "adamw", steps=10, warmup=2, task=learning)
        for epoch in range(2):
            for i, batch in enumerate(feed.shuffled(STEP, seed=0, epoch=epoch)):
                for group, losses in zip(groups, trainer.train_step(batch), strict=True):
                    found[f"{name}/{group.members[0].probe}/loss {epoch}.{i}"] = losses
        after = _after(groups, feed, task)
        found |= {f"{name}/{key}": tensor for key, tensor in after.items()}
    torch.set_default_dtype(torch.float32)
    _save(folder, "tasks", found)


def lengths(folder: Path) -> None:
    """A batch of examples of several lengths through poolings with statistics of its tokens.

    Parts have other numbers of examples, and of tokens an example; one is measured in two pieces.
    """
    torch.manual_seed(0)
    of_batch = torch.tensor([3, 9, 1, 2, 2, 1, 4])
    every, mask = torch.randn(7, 9, DIM).double() + 3, torch.arange(9) < of_batch[:, None]
    every[~mask] = torch.nan
    direction, place, found = torch.randn(7, DIM).double(), world().part(7), {}
    for name in ("aim4", "delf"):
        pooling = build_pooling(name, DIM).double().train()
        tokens, real = every[place].clone().requires_grad_(), mask[place]
        with learning_from(len(tokens), 7):
            if name == "aim4":
                pieces = [(tokens[:1], real[:1]), (tokens[1:], real[1:])]
                stats = pooling.token_stats_of(pieces)
                found["mean"], found["variance"] = stats.mean.detach(), stats.variance.detach()
                found["tokens"] = torch.tensor(stats.num_tokens)
            out = pooling(tokens, real)
            (out * direction[place]).sum().backward()
        found[f"{name}/out"] = world().assembled(out.detach(), place, 7)
        found[f"{name}/gradient"] = world().assembled(tokens.grad, place, 7)
        for key, parameter in pooling.named_parameters():
            found[f"{name}/{key}"] = world().sum_(parameter.grad.clone())
        found |= {f"{name}/{key}": buffer for key, buffer in pooling.named_buffers()}
    _save(folder, "lengths", found)


def _after(groups: Sequence[Stacked], feed: Feed, task: Task) -> dict[str, torch.Tensor]:
    """Records and weights of members."""
    found = {}
    for group, record in zip(groups, predict_all(groups, feed, STEP, task), strict=True):
        probe = group.members[0].probe
        found |= {f"{probe}/recorded {name}": t for name, t in record.items()}
        found |= {f"{probe}/{name}": t for name, t in group.state().items()}
    return found


def _save(folder: Path, name: str, found: dict[str, torch.Tensor]) -> None:
    save_file(
        {key: t.contiguous() for key, t in found.items()},
        folder / f"{name}-{world().rank}.safetensors",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join():
        for what in sys.argv[2:]:
            globals()[what](Path(sys.argv[1]))
