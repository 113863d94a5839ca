"""Random batches out of the feature store's shards, against a plain gather from one file.

    python benchmarks/store_gather.py
    python benchmarks/store_gather.py --tokens int8

The same random rows are read three ways, in interleaved rounds of one process: by
``StoredSplit.patches`` from shards, from a ``numpy.memmap`` of one file that holds all patch tokens
(``map[rows]``, nothing sorted, nothing checked), and by ``StoredSplit.hold``, which keeps the tokens in
memory and takes them by ``index_select``. The ratio is that of the medians of speed, and the target
for the shards at least 0.80 of the plain gather. The page cache is warm: both files are read once
before the first round, and they fit into memory. What the disk does is not measured.

With ``--tokens int8`` the plain gather turns codes into float32 as well.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract
from iceprobe.store.reader import StoredSplit
from iceprobe.tokens import Tokens


class Noise(nn.Module):
    """Patch tokens that cost nothing to make: this is about reading them."""

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        self.register_buffer("patches", torch.randn(num_tokens, dim))

    def forward(self, images: Tensor) -> Tokens:
        patches = self.patches * images.mean((1, 2, 3))[:, None, None]
        return Tokens(patches, patches[:, :0])


def make_split(options: argparse.Namespace, root: Path) -> StoredSplit:
    """A finished store of random tokens, opened."""
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, 4, 4), dtype=np.uint8)
    names = [f"{index:06d}" for index in range(options.images)]
    data = Dataset(
        "benchmark:noise",
        "noise",
        ["one"],
        {"train": ArraySplit("train", pixels, np.zeros(options.images, np.int64), names)},
    )
    backbone = Backbone(
        Noise(options.num_tokens, options.dim),
        Preprocessing(4, (0.0,), (1.0,), crop_pct=1.0, channels=1),
        spec="benchmark:noise",
        name="noise",
    )
    return extract(backbone, data, root, tokens=options.tokens, device="cpu")["train"]


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


def measure(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="iceprobe-", dir=options.folder) as folder:
        split = make_split(options, Path(folder))
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "memmap": plain_gather(split, Path(folder) / "plain"),
            "shards": split.patches,
            "held": split.hold(split.patch_bytes).patches,
        }
        for gather in ways.values():  # warm: every page read once
            for first in range(0, len(split), options.batch_size):
                gather(np.arange(first, min(first + options.batch_size, len(split))))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            rows = rng.permutation(len(split))[: options.batch_size]
            for name, gather in ways.items():
                started = time.perf_counter()
                gather(rows)
                seconds[name].append(time.perf_counter() - started)
    size = options.batch_size * split.patch_bytes / len(split)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        f"{options.tokens}, N = {options.num_tokens}, D = {options.dim}: {options.images} images, "
        f"{split.patch_bytes / 1e9:.2f} GB; batches of {options.batch_size}, "
        f"{size / 1e6:.1f} MB each; {options.rounds} rounds"
    )
    for name in ways:
        each = sorted(a / b for a, b in zip(seconds["memmap"], seconds[name], strict=True))
        quarter = len(each) // 4
        print(
            f"{name:7} {1e3 * median[name]:7.2f} ms  {size / median[name] / 1e9:5.2f} GB/s  "
            f"{median['memmap'] / median[name]:5.2f} of memmap's speed "
            f"(quartiles of rounds {each[quarter]:.2f} to {each[-1 - quarter]:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="float16")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--num-tokens", type=int, default=196)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="on the disk to read from, by default /tmp")
    measure(parser.parse_args())
    where = platform.processor() or platform.machine()
    print(
        f"on {where}, {torch.get_num_threads()} threads, torch {torch.__version__}, page cache warm"
    )


if __name__ == "__main__":
    main()
