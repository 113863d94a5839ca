"""Peak memory in use of a streamed fit as the data set grows ten-fold.

    python benchmarks/streamed_memory.py

Two stores of random tokens are written, of 2,000 and of 20,000 images, and the same probes are fitted
on each under the same ``memory``, in a process of its own: `ep4` on patch tokens and `linear` on
their mean. The target: within 10%.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import Figure, PeakMemory, run_alone
from torch import Tensor, nn

import iceprobe
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import Store
from iceprobe.tokens import Tokens

IMAGES, NUM_TOKENS, DIM = 2_000, 64, 192
MEMORY = 32_000_000
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


def peaks(images: int, memory: int = MEMORY) -> tuple[int, int]:
    """Bytes in use before and at the peak of a fit on ``images``, in a new process."""
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as root:
        store = make_store(images, NUM_TOKENS, DIM, root)
        done = subprocess.run(
            [sys.executable, __file__, "--fit", str(store), str(memory)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    before, peak = json.loads(done.stdout)
    return before, peak


def fit(path: Path, memory: int) -> None:
    store = Store.open(path)
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
        iceprobe.fit(
            store,
            ["ep4", "linear?input=mean"],
            seeds=1,
            epochs=2,
            batch_size=64,
            learning_rates=[1e-2],
            memory=memory,
            shuffle="blocks",
            device="cpu",
            output=Path(folder) / "run",
        )


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    """Once, whatever is asked for: bytes in use don't vary."""
    (before, small), (_, large) = peaks(IMAGES), peaks(10 * IMAGES)
    return [
        Figure(
            name="streamed fit, ten times the images",
            what="peak memory in use, 20,000 images / 2,000",
            device="cpu",
            value=large / small,
            spread=(large / small, large / small),
            at_most=1.1,
            bound=1.0,
            bounded_by="the same memory",
            details={
                "before the fit, MB": before / 1e6,
                "2,000 images, MB": small / 1e6,
                "20,000 images, MB": large / 1e6,
                "budget, MB": MEMORY / 1e6,
            },
        )
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fit"]:
        _, path, memory = sys.argv[1:]
        with PeakMemory() as used:
            fit(Path(path), int(memory))
        print(json.dumps([used.before, used.peak]))
    else:
        run_alone(measure, __doc__)
