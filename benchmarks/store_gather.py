"""Random batches out of the feature store's shards, against a plain gather from one file.

    python benchmarks/store_gather.py [--rounds 60]

The same random rows are read three ways: by ``StoredSplit.patches`` from shards, from a
``numpy.memmap`` of one file that holds all patch tokens (``map[rows]``, nothing sorted, nothing
checked), and by ``StoredSplit.hold``, which keeps the tokens in memory and takes them by
``index_select``. The page cache is warm: both files are read once before the first round, and they
fit into memory. What the disk does is not measured. With int8 tokens the plain gather turns codes
into float32 as well.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import yardsticks
from measuring import Figure, interleaved, run_alone
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract
from iceprobe.store.split import StoredSplit
from iceprobe.tokens import Tokens

IMAGES, N, D, BATCH = 4096, 196, 768, 256
ROUNDS = {"float16": 60, "int8": 10}


class Noise(nn.Module):
    """Patch tokens that cost nothing to make: this is about reading them."""

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        self.register_buffer("patches", torch.randn(num_tokens, dim))

    def forward(self, images: Tensor) -> Tokens:
        patches = self.patches * images.mean((1, 2, 3))[:, None, None]
        return Tokens(patches, patches[:, :0])


def make_split(tokens: str, root: Path) -> StoredSplit:
    """A finished store of random tokens, opened."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4), dtype=np.uint8)
    names = [f"{index:06d}" for index in range(IMAGES)]
    split = ArraySplit("train", pixels, np.zeros(IMAGES, np.int64), names)
    data = Dataset("benchmark:noise", "noise", ["one"], {"train": split})
    backbone = Backbone(
        Noise(N, D),
        Preprocessing(4, (0.0,), (1.0,), crop_pct=1.0, channels=1),
        spec="benchmark:noise",
        name="noise",
    )
    return extract(backbone, data, root, tokens=tokens, device="cpu")["train"]


def plain_gather(split: StoredSplit, file: Path) -> Callable[[np.ndarray], object]:
    """All patch tokens in one file, as stored; a gather is one expression."""
    stored = split.rows("patches", np.arange(len(split)))
    shape = tuple(stored.shape)
    if stored.dtype == torch.bfloat16:  # numpy has no such type, and nothing is computed
        stored = stored.view(torch.int16)
    whole = np.memmap(file, stored.numpy().dtype, "w+", shape=shape)
    whole[:] = stored.numpy()
    whole.flush()
    opened = np.memmap(file, whole.dtype, "r", shape=shape)
    if stored.dtype == torch.int8:
        scales = split.rows("scales", np.arange(len(split))).numpy()[..., None]
        return lambda rows: opened[rows] * scales[rows]
    return lambda rows: opened[rows]


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    return [figure for tokens in ROUNDS for figure in gathers(tokens, rounds or ROUNDS[tokens])]


def gathers(tokens: str, rounds: int) -> list[Figure]:
    rng = np.random.default_rng(1)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
        split = make_split(tokens, Path(folder))
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "memmap": plain_gather(split, Path(folder) / "plain"),
            "shards": split.patches,
            "held": split.hold(split.patch_bytes).patches,
        }
        for gather in ways.values():  # warm: every page read once
            for first in range(0, IMAGES, BATCH):
                gather(np.arange(first, first + BATCH))
        rows = np.empty(0, np.int64)

        def draw() -> None:
            nonlocal rows
            rows = rng.permutation(IMAGES)[:BATCH]

        known = yardsticks(cpu)["copy"]
        sides = {name: lambda gather=gather: gather(rows) for name, gather in ways.items()}
        times = interleaved({"draw": draw, **sides, "copy": known.run}, rounds, cpu)
    size = BATCH * split.patch_bytes / IMAGES
    copy = known.amount / times.median("copy")
    made = BATCH * N * D * (4 if tokens == "int8" else 2)
    limit = (size + made) / copy
    return [
        Figure(
            name=f"gather, {tokens}, {name}",
            what=f"speed of {name} / of a plain memmap gather",
            device="cpu",
            value=times.ratio("memmap", name),
            spread=times.spread("memmap", name),
            at_least=0.8 if name == "shards" else None,
            bound=times.median("memmap") / limit,
            bounded_by="copying the batch",
            details={
                "ms": 1e3 * times.median(name),
                "memmap ms": 1e3 * times.median("memmap"),
                "batch MB": size / 1e6,
                "copying the batch, ms": 1e3 * limit,
                "copy, GB/s": copy / 1e9,
            },
        )
        for name in ("shards", "held")
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
