"""Random records of every task, with ties, absent classes, unknown cells and weights of draws."""

from types import SimpleNamespace

import numpy as np

from iceprobe.tasks.classification import METRICS as CLASSES
from iceprobe.tasks.number_metrics import METRICS as NUMBERS
from iceprobe.tasks.segmentation import METRICS as PIXELS
from iceprobe.tasks.tag_metrics import METRICS as TAGS

SEEDS = 2
METRICS = {
    kind: {metric.name: metric for metric in table}
    for kind, table in (
        ("classes", CLASSES), ("tags", TAGS), ("numbers", NUMBERS), ("pixels", PIXELS),
    )
}  # fmt: skip
EVERY = [(kind, name) for kind, table in METRICS.items() for name in table]


class Record(SimpleNamespace):
    """Fields as attributes, None for a missing one, as `tasks.records.Arrays`."""

    def __getattr__(self, name):
        return None


def classes(rng, n=None, coarse=True):
    """Logits on a coarse grid tie; a class may be absent, and so may be any second one."""
    n, count = n or int(rng.integers(4, 50)), int(rng.integers(2, 7))
    targets = rng.choice(count, n, p=rng.dirichlet(np.full(count, 0.7)))
    logits = rng.normal(size=(SEEDS, n, count))
    logits[:, np.arange(n), targets] += 1
    if coarse:
        logits = np.round(logits, int(rng.integers(0, 3)))
    logits = logits.astype(np.float16)
    top5 = rng.random((SEEDS, n)) < 0.9
    predicted = logits.argmax(-1).astype(np.int32)
    return Record(logits=logits, predicted=predicted, top5=top5), targets


def tags(rng, n=None, coarse=True):
    n, count = n or int(rng.integers(6, 50)), int(rng.integers(1, 6))
    targets = (rng.random((n, count)) < rng.uniform(0, 0.6, count)).astype(np.uint8)
    logits = rng.normal(size=(SEEDS, n, count)) + targets
    if coarse:
        logits = np.round(logits, int(rng.integers(0, 3)))
    targets[rng.random((n, count)) < rng.choice([0, 0.2])] = 255
    thresholds = rng.choice([0.3, 0.5, 0.7], (SEEDS, count))
    return Record(logits=logits.astype(np.float32), thresholds=thresholds), targets


def numbers(rng, n=None, coarse=True):
    n, count = n or int(rng.integers(5, 50)), int(rng.integers(1, 4))
    targets = rng.normal(size=(n, count)) * 10 ** rng.uniform(-2, 2) + rng.normal() * 100
    predicted = targets + targets.std() * rng.normal(size=(SEEDS, n, count))
    if coarse:
        targets, predicted = (np.round(of, int(rng.integers(-1, 3))) for of in (targets, predicted))
    targets[rng.random((n, count)) < rng.choice([0, 0.2])] = np.nan
    return Record(predicted=predicted.astype(np.float32)), targets


def pixels(rng, n=None, coarse=True):
    n, count = n or int(rng.integers(3, 12)), int(rng.integers(2, 6))
    confusion = rng.poisson(rng.uniform(0, 4, (count, count)), (SEEDS, n, count, count))
    confusion[1] = confusion[0].transpose(0, 2, 1)
    confusion += 3 * np.eye(count, dtype=int)
    confusion[..., -1, :] = 0
    confusion[1, ..., -1] = 0
    return (
        Record(
            hits=np.einsum("sncc->snc", confusion), truth=confusion.sum(3), called=confusion.sum(2)
        ),
        np.zeros(n, int),
    )


MAKERS = {"classes": classes, "tags": tags, "numbers": numbers, "pixels": pixels}


def taken(record, targets, index):
    """The record and targets of some examples, in that order; per-seed fields stay."""
    fields = {n: v if n == "thresholds" else v[:, index] for n, v in vars(record).items()}
    return Record(**fields), targets[index]


def drawn(rng, n, draws):
    """Counts of bootstrap draws, ``(draws, n)``."""
    return rng.multinomial(n, np.full(n, 1 / n), draws)


def weights(rng, n):
    """Ones, the counts of a draw, and fractions, ``(3, n)``."""
    return np.stack([np.ones(n), drawn(rng, n, 1)[0], rng.random(n)])
