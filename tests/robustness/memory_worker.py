"""Fits under budgets, in a process of their own: what was promised, and the memory that was asked for.

    python -m tests.robustness.memory_worker FOLDER < cases > taken

Cases are JSON, ``[[probes, options of iceprobe.fit], …]``; what is taken is ``[[promised, taken], …]``.
The peak of memory in use is read after every operation of torch (`benchmarks/measuring.py`). A first fit
doesn't count: what torch's libraries take the first time, they keep.
"""

import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import iceprobe
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.backbones.readers import LayerReader
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.machine.allocator import give_back_freed_memory, keep_freed_memory
from iceprobe.probes.inputs import names_layers
from iceprobe.store import Store
from iceprobe.tokens import Tokens

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from measuring import PeakMemory

IMAGES, GRID, DIM = 2000, (8, 8), 192  # 49 MB in float16
SMALL = {"seeds": 1, "epochs": 1, "learning_rates": [1e-2], "device": "cpu", "progress": False}


class Noise(LayerReader):
    """Tokens that cost nothing to make, in two layers."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), (0, 1), norm=True, depth=2)
        self.register_buffer("patches", torch.randn(GRID[0] * GRID[1], DIM))

    def forward_layers(self, images: Tensor) -> list[Tokens]:
        patches = self.patches * images.mean((1, 2, 3))[:, None, None]
        tokens = Tokens(patches, patches[:, :1], GRID, has_class=True)
        return [tokens] * len(self.layers)


def make_stores(root: Path) -> list[Store]:
    def split(name: str, count: int) -> ArraySplit:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4), dtype=np.uint8)
        return ArraySplit(name, pixels, np.arange(count) % 4, [f"{i}" for i in range(count)])

    splits = {"train": split("train", IMAGES), "test": split("test", 64)}
    preprocessing = Preprocessing(4, (0.0,), (1.0,), crop_pct=1.0, channels=1)
    backbone = Backbone(Noise(), preprocessing, spec="test:noise", name="noise")
    data = Dataset("test:noise", "noise", list("abcd"), splits)
    return iceprobe.extract_layers(backbone, data, root)


class Said(logging.Handler):
    """Keeps the bytes that a fit says it takes."""

    least: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r"it takes ([\d,]+) MB", record.getMessage()):
            self.least = int(found[1].replace(",", "")) * 10**6


def taken(store: Store, output: Path, probes: list[str], options: dict) -> tuple[int, int]:
    said = Said()
    logging.getLogger("iceprobe").addHandler(said)
    for run in ("first", "counted"):
        with PeakMemory() as used:
            iceprobe.fit(store, probes, output=output / run, **SMALL | options)
    logging.getLogger("iceprobe").removeHandler(said)
    return said.least or options["memory"], used.peak - used.before


def main() -> None:
    keep_freed_memory()  # as the command line does, and then under --memory
    give_back_freed_memory()
    root, cases = Path(sys.argv[1]), json.load(sys.stdin)
    stores = make_stores(root / "features")
    found = []
    for i, (probes, options) in enumerate(cases):
        store = Store.joined(stores) if any(map(names_layers, probes)) else stores[1]
        found.append(taken(store, root / f"{i}", probes, options))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
