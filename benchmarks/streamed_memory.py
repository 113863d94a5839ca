"""Peak anonymous memory of a streamed fit as the data set grows ten-fold.

    python benchmarks/streamed_memory.py
    python benchmarks/streamed_memory.py --shuffle rows --memory 64000000 --images 4000

Two stores of random tokens are written, of n and of 10 n images, and the same probes are fitted on
each under the same ``memory``, in a process of its own: `ep4` on patch tokens and `linear` on their
mean. What is printed is the peak of RssAnon, sampled every 5 ms; the page cache doesn't count. The
target: within 10%. What grows whatever the budget is told beside it: labels and places in the data
set, orders of an epoch, and predictions.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import iceprobe
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import Store
from iceprobe.tokens import Tokens

CLASSES, TEST_IMAGES = 4, 64


class Noise(nn.Module):
    """Patch tokens that cost nothing to make."""

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        self.register_buffer("patches", torch.randn(num_tokens, dim))

    def forward(self, images: Tensor) -> Tokens:
        patches = self.patches * images.mean((1, 2, 3))[:, None, None]
        return Tokens(patches, patches[:, :0])


def make_store(images: int, num_tokens: int, dim: int, root: str) -> Path:
    rng = np.random.default_rng(0)

    def split(name: str, count: int) -> ArraySplit:
        pixels = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        return ArraySplit(name, pixels, np.arange(count) % CLASSES, [f"{i}" for i in range(count)])

    data = Dataset(
        "benchmark:noise",
        "noise",
        [f"{c}" for c in range(CLASSES)],
        {"train": split("train", images), "test": split("test", TEST_IMAGES)},
    )
    backbone = Backbone(
        Noise(num_tokens, dim),
        Preprocessing(4, (0.0,), (1.0,), crop_pct=1.0, channels=1),
        spec="benchmark:noise",
        name="noise",
    )
    return iceprobe.extract(backbone, data, root, device="cpu").path


def peaks(images: int, memory: int, shuffle: str, num_tokens: int, dim: int) -> tuple[int, int]:
    """Anonymous bytes before and at the peak of a fit on ``images``, in a new process."""
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as root:
        store = make_store(images, num_tokens, dim, root)
        done = subprocess.run(
            [sys.executable, __file__, "--fit", str(store), str(memory), shuffle],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    before, peak = json.loads(done.stdout)
    return before, peak


def fit(path: Path, memory: int, shuffle: str) -> None:
    """In a process of its own: fit, and print anonymous bytes before and at the peak."""
    store = Store.open(path)
    before = peak = anonymous_bytes()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
        iceprobe.fit(
            store,
            ["ep4", "linear?input=mean"],
            seeds=1,
            epochs=2,
            batch_size=64,
            learning_rates=[1e-2],
            memory=memory,
            shuffle=shuffle,
            device="cpu",
            output=Path(folder) / "run",
        )
    stop.set()
    watcher.join()
    print(json.dumps([before, peak]))


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system doesn't tell anonymous memory (/proc/self/status)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="n")
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--memory", type=int, default=32_000_000)
    parser.add_argument("--shuffle", default="blocks")
    parser.add_argument("--fit", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        path, memory, shuffle = options.fit
        fit(Path(path), int(memory), shuffle)
        return
    found = []
    for images in (options.images, 10 * options.images):
        before, peak = peaks(
            images, options.memory, options.shuffle, options.num_tokens, options.dim
        )
        tokens = 2 * images * options.num_tokens * options.dim
        print(
            f"{images:6} images, {tokens / 1e6:7.1f} MB of tokens, {options.shuffle}, memory "
            f"{options.memory / 1e6:g} MB: {before / 1e6:.1f} MB before, peak {peak / 1e6:.1f} MB",
            flush=True,
        )
        found.append(peak)
    small, large = found
    print(f"ten times the images: {(large - small) / 1e6:+.1f} MB, {large / small:.3f} times")


if __name__ == "__main__":
    main()
