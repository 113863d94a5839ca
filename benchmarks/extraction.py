"""Extraction against the bare forward pass, and its memory as the data set grows.

    python benchmarks/extraction.py [--device cuda] [--rounds 5]

Speed: images a second of ``iceprobe.extract`` (decoding queue, preprocessing of decoded images,
forward pass, cast, finiteness, writing, checksum, fsync) over those of the bare backbone on a
batch that is ready, in the same precision and batch size. Beside it stands the ratio of processor
seconds: on a processor, which the forward pass keeps busy, it is what is left of the speed when
nothing can be overlapped, and it doesn't suffer from what else the machine does.

Memory: peak memory in use (`measuring.PeakMemory`; page cache doesn't count) of two fresh processes that
extract n and 10 n images.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import Figure, PeakMemory, interleaved, run_alone, synchronise

from iceprobe.backbones import load_backbone
from iceprobe.backbones.base import Backbone
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract
from iceprobe.store.forward import autocast

#: Side of an image, images of a round, images of a batch, rounds.
BACKBONES = {"mae-tiny": (56, 512, 64, 5), "ViT-B/16": (224, 32, 16, 3)}
MEMORY_IMAGES, MEMORY_SHARD = 256, 128


def make_dataset(images: int, side: int) -> Dataset:
    """Decoded grey images of the size the backbone takes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, side, side), dtype=np.uint8)
    names = [f"{index:06d}" for index in range(images)]
    split = ArraySplit("train", pixels, np.arange(images) % 10, names)
    return Dataset(
        "benchmark:noise", "noise", [str(label) for label in range(10)], {"train": split}
    )


def load(name: str) -> Backbone:
    if name == "mae-tiny":
        return load_backbone("bundled:mae-tiny")
    import timm  # random weights: nothing is downloaded

    return load_backbone(timm.create_model("vit_base_patch16_224", pretrained=False))


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    found = [speed(name, device, rounds) for name in BACKBONES]
    return found if device.type == "cuda" else [*found, memory()]


def speed(name: str, device: torch.device, rounds: int | None) -> Figure:
    side, images, batch_size, own_rounds = BACKBONES[name]
    backbone, dataset = load(name).to(device), make_dataset(images, side)
    size = backbone.preprocessing.image_size
    batch = torch.randn(batch_size, backbone.preprocessing.channels, size, size, device=device)
    amp = "bfloat16" if device.type == "cuda" else "float32"
    processor: dict[str, list[float]] = {"bare": [], "extract": []}

    def counted(side: str, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            used = time.process_time()
            work()
            synchronise(device)
            processor[side].append(time.process_time() - used)

        return run

    def bare() -> None:
        with torch.no_grad(), autocast(device, amp):
            for _ in range(images // batch_size):
                backbone(batch)

    def full() -> None:
        with tempfile.TemporaryDirectory(prefix="iceprobe-") as root:
            extract(backbone, dataset, root, batch_size=batch_size, amp=amp, device=device)

    sides = {"bare": counted("bare", bare), "extract": counted("extract", full)}
    times = interleaved(sides, rounds or own_rounds, device)
    work = {side: statistics.median(used[1:]) for side, used in processor.items()}
    return Figure(
        name=f"extraction, {name}, {amp}, batch of {batch_size}",
        what="images/s of extract / of the bare forward",
        device=device.type,
        value=times.ratio("bare", "extract"),
        spread=times.spread("bare", "extract"),
        at_least=0.9,
        bound=1.0,
        bounded_by="the forward pass",
        details={
            "bare, images/s": images / times.median("bare"),
            "extract, images/s": images / times.median("extract"),
            "ratio of processor seconds": work["bare"] / work["extract"],
        },
    )


def memory() -> Figure:
    """Peak memory in use above that of the loaded process, for n and 10 n images."""
    peaks = []
    for images in (MEMORY_IMAGES, 10 * MEMORY_IMAGES):
        command = [sys.executable, __file__, "--memory-of", str(images)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout)[1])
    ratio = peaks[1] / peaks[0]
    return Figure(
        name=f"extraction's memory, {MEMORY_IMAGES:,} and {10 * MEMORY_IMAGES:,} images",
        what="peak of ten times the images / peak",
        device="cpu",
        value=ratio,
        spread=(ratio, ratio),
        at_most=1.1,
        details={"smaller MB": peaks[0], "larger MB": peaks[1]},
    )


def memory_of(images: int) -> None:
    """In a process of its own: extract and print MB in use before and at the peak."""
    backbone = load("mae-tiny")
    dataset = make_dataset(1, 56)
    split = dataset.splits["train"]
    # The same image again and again, so that only what extraction takes can grow.
    split.images = np.broadcast_to(split.images, (images, 56, 56))
    split.labels, split.names = np.zeros(images, np.int64), [""] * images
    split.fingerprint = lambda: "noise"  # type: ignore[method-assign]  # hashing would copy them

    with tempfile.TemporaryDirectory(prefix="iceprobe-") as root, PeakMemory() as used:
        extract(backbone, dataset, root, shard_images=MEMORY_SHARD, device="cpu")
    print(json.dumps([used.before / 1e6, used.peak / 1e6]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(int(sys.argv[2]))
    else:
        run_alone(measure, __doc__)
