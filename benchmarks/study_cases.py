"""Token sets for the study of selection and rates: none of them is one that a claim uses.

Claims read `bundled:fashion-clutter` with its own seeds. Here the clutter is drawn from other seeds,
items stand alone, images are scikit-learn's digits, or tokens are synthetic and their truth is known.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import iceprobe
from iceprobe.core.checksums import listed
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.datasets.clutter import compose
from iceprobe.store.split import StoredSplit, memory_split
from iceprobe.tokens import TokenShape

SEED = 100  # of the training clutter, one more of the test clutter; the bundled set has 0 and 1
TEST = 2000
#: (Data, backbone) → images extracted of each split, where it isn't all of them.
FEWER = {
    ("clutter", "dino-tiny"): (2000, 1500),
    ("fashion", "mae-tiny"): (1500, 1500),
    ("clutter", "supervised-tiny"): (1000, 1500),
    ("clutter", "lite0"): (1000, 1500),
}
#: Backbones that aren't bundled.
LITE0 = f"python:{Path(__file__).parent / 'published_weights.py'}:lite0"
SPECS = {"lite0": f"{LITE0}?image_size=224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"}


@dataclass(frozen=True)
class Tokens:
    """A training and a test split in memory, and the number of their classes."""

    train: StoredSplit
    test: StoredSplit
    num_classes: int

    @property
    def shape(self) -> TokenShape:
        return self.train.shape


def images(name: str, fewer: tuple[int, int] | None = None, *, seed: int = SEED) -> Dataset:
    """``fashion``, ``clutter`` (from another seed than the bundled set's) or ``digits``.

    ``fewer`` images of train and test, chosen at random.
    """
    seeds = {"train": seed, "test": seed + 1}
    if name == "digits":
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        pictures = np.round(digits.images * 255 / 16).astype(np.uint8).repeat(4, 1).repeat(4, 2)
        rows = {"train": order[:1000], "test": order[1000:]}
        arrays = {split: (pictures[r], digits.target[r]) for split, r in rows.items()}
        classes = [str(digit) for digit in range(10)]
    else:
        folder = resources.files("iceprobe.datasets") / "bundled"
        classes = json.loads(listed(folder, "fashion.json"))["classes"]
        with io.BytesIO(listed(folder, "fashion.npz")) as file:
            found = np.load(file, allow_pickle=False)
            arrays = {s: (found[f"{s}_images"], found[f"{s}_labels"]) for s in seeds}
        if name == "clutter":
            arrays = {s: (compose(x, y, seeds[s]).images, y) for s, (x, y) in arrays.items()}
    for split, count in zip(seeds, fewer or (), strict=False):
        rows = np.random.default_rng(0).permutation(len(arrays[split][1]))[:count]
        arrays[split] = tuple(array[rows] for array in arrays[split])
    splits: dict[str, ArraySplit] = {}
    for split, (pictures, labels) in arrays.items():
        names = [f"{name}/{split}/{i:05d}" for i in range(len(labels))]
        splits[split] = ArraySplit(split, pictures, labels, names)
    label = name if seed == SEED else f"{name}-{seed}"
    return Dataset(f"study:{label}", label, classes, splits)


@cache
def tokens(data: str, backbone: str, root: Path, pooled: int = 2) -> Tokens:
    """The tokens of a case, float32, neighbours averaged ``pooled`` × ``pooled``.

    Args:
        data: as for :func:`images`, or ``synthetic``, which has no backbone.
        backbone: name of a bundled one, or in `SPECS`.
        root: folder of stores.
        pooled: 1 leaves all 196 patches; 2 makes 49 of them and a fit four times as fast.
    """
    if data == "synthetic":
        return _synthetic()
    spec = SPECS.get(backbone, f"bundled:{backbone}")
    store = iceprobe.extract(spec, images(data, FEWER.get((data, backbone))), root, progress=False)
    assert store.grid is not None
    side = store.grid[0] // pooled
    found = {}
    for split in ("train", "test"):
        stored = store[split]
        patches = stored.patches(np.arange(len(stored)), dtype=torch.float32)
        cells = patches.view(len(stored), side, pooled, side, pooled, store.dim)
        found[split] = _split(
            cells.mean((2, 4)).flatten(1, 2), stored.labels, stored.prefix.float()
        )
    return Tokens(found["train"], found["test"], len(store.classes))


def _synthetic(classes: int = 5, dim: int = 48, count: int = 16, signal: float = 2.6) -> Tokens:
    """One informative token at a random place among noise; the class is which of five directions.

    A sixth direction marks the token. Bayes' rule with the place known reads about 90%.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][: classes + 1]
    found = {}
    for split, n in (("train", 1000), ("test", TEST)):
        labels = rng.integers(0, classes, n)
        x = rng.normal(size=(n, count, dim))
        x[np.arange(n), rng.integers(0, count, n)] += signal * (basis[labels] + 1.5 * basis[-1])
        patches = torch.from_numpy(x).float()
        found[split] = _split(patches, labels, patches.mean(1, keepdim=True))
    return Tokens(found["train"], found["test"], classes)


def _split(patches: Tensor, labels: np.ndarray, prefix: Tensor) -> StoredSplit:
    n, count, dim = patches.shape
    side = int(count**0.5)
    tensors = {
        "patches": patches.contiguous(),
        "prefix": prefix.contiguous(),
        "mean": patches.mean(1),
        "label": torch.from_numpy(np.asarray(labels, np.int64)),
        "index": torch.arange(n),
    }
    shape = TokenShape(
        dim=dim,
        num_tokens=count,
        num_prefix=prefix.shape[1],
        grid=(side, side),
        has_class=prefix.shape[1] > 0,
    )
    return memory_split(tensors, shape)
