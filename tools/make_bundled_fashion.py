"""Make the images that ship with the package from Fashion-MNIST's original IDX files.

    python tools/make_bundled_fashion.py --output src/iceprobe/datasets/bundled

Takes the first 600 images of each class of the IDX training part and the first 200 of each class
of the test part (t10k), in file order, and writes them with their licence and provenance. The
bytes depend on the IDX files and the zlib that compresses them, on nothing else.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from fashion_idx import DEBIAN, read_idx

from iceprobe.core.checksums import list_files

PER_CLASS = {"train": ("train", 600), "test": ("t10k", 200)}  # split: (IDX part, images a class)
CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
LICENSE = """\
The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows of the first ``count`` images of each class, in file order."""
    rows = [np.flatnonzero(labels == label)[:count] for label in range(len(CLASSES))]
    return np.sort(np.concatenate(rows))


def make(idx: Path, output: Path) -> None:
    """Write ``fashion.npz``, ``fashion.json`` (provenance) and ``fashion.LICENSE``."""
    arrays: dict[str, np.ndarray] = {}
    splits: dict[str, dict[str, str | int]] = {}
    card = {
        "name": "Fashion-MNIST, first images of each class",
        "source": "Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; Debian's dataset-fashion-mnist",
        "license": "MIT, Copyright 2017 Zalando SE (fashion.LICENSE)",
        "command": "python tools/make_bundled_fashion.py",
        "classes": CLASSES,
        "splits": splits,
    }
    for split, (part, count) in PER_CLASS.items():
        images, labels = read_idx(idx, part)
        rows = first_of_each_class(labels, count)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[rows], labels[rows]
        splits[split] = {
            "idx_part": part,
            "images": len(rows),
            "idx_rows_up_to": int(rows[-1]),
            "sha256_of_pixels": hashlib.sha256(images[rows].tobytes()).hexdigest(),
            "sha256_of_labels": hashlib.sha256(labels[rows].tobytes()).hexdigest(),
        }
    output.mkdir(parents=True, exist_ok=True)
    # numpy gives every member the same fixed time stamp; no array holds objects: no pickle.
    np.savez_compressed(output / "fashion.npz", **arrays)  # type: ignore[arg-type]
    (output / "fashion.json").write_text(json.dumps(card, indent=1) + "\n")
    (output / "fashion.LICENSE").write_text(LICENSE)
    list_files(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idx", type=Path, default=DEBIAN, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    make(args.idx, args.output)


if __name__ == "__main__":
    main()
