"""Extraction against the bare forward pass, and its memory as the data set grows.

    python benchmarks/extraction.py                  # both backbones and the memory
    python benchmarks/extraction.py mae-tiny memory  # some of: mae-tiny, vit-b, memory

Speed: images a second of ``iceprobe.extract`` (decoding queue, preprocessing of decoded images,
forward pass, cast, finiteness, writing, checksum, fsync) over those of the bare backbone on a
batch that is ready, in the same precision and batch size. Rounds of both are interleaved in one
process, and the ratio is that of the medians. Target: at least 0.90. Beside it stands the ratio of
processor seconds: on a processor, which the forward pass keeps busy, it is what is left of the
speed when nothing can be overlapped, and it doesn't suffer from what else the machine does.

Memory: peak anonymous memory (RssAnon, sampled every 5 ms; page cache doesn't count) of two fresh
processes that extract n and 10 n images. Target: flat.

A machine with a GPU is measured there; the last line says what was measured on what.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from iceprobe.backbones import load_backbone
from iceprobe.backbones.base import Backbone
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract
from iceprobe.store.pipeline import autocast

BACKBONES = {
    "mae-tiny": ("bundled:mae-tiny", 56, 512),
    "vit-b": ("timm:vit_base_patch16_224?pretrained=false", 224, 32),
}
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
    if name == "vit-b":  # random weights: nothing is downloaded
        import timm

        return load_backbone(timm.create_model("vit_base_patch16_224", pretrained=False))
    return load_backbone(BACKBONES[name][0])


def speed(
    name: str, images: int | None, rounds: int, batch_size: int, amp: str, device: torch.device
) -> None:
    """Print both speeds, their ratio, and that of processor seconds."""
    _, side, default = BACKBONES[name]
    images = max(images or default, 2 * batch_size) // batch_size * batch_size
    backbone, dataset = load(name).to(device), make_dataset(images, side)
    size = backbone.preprocessing.image_size
    batch = torch.randn(batch_size, backbone.preprocessing.channels, size, size, device=device)

    def bare() -> None:
        with torch.no_grad(), autocast(device, amp):
            for _ in range(images // batch_size):
                backbone(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def full() -> None:
        with tempfile.TemporaryDirectory(prefix="iceprobe-") as root:
            extract(backbone, dataset, root, batch_size=batch_size, amp=amp, device=device)

    seconds: dict[str, list[float]] = {"bare": [], "extract": []}
    processor: dict[str, list[float]] = {"bare": [], "extract": []}
    bare()
    for _ in range(rounds):
        for label, work in (("bare", bare), ("extract", full)):
            started, used = time.perf_counter(), time.process_time()
            work()
            seconds[label].append(time.perf_counter() - started)
            processor[label].append(time.process_time() - used)
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    ratio = medians["bare"] / medians["extract"]
    work_ratio = statistics.median(processor["bare"]) / statistics.median(processor["extract"])
    pairs = sorted(b / e for b, e in zip(seconds["bare"], seconds["extract"], strict=True))
    print(
        f"{name:9} {amp}, batch {batch_size}, {images} images x {rounds} rounds: "
        f"bare {images / medians['bare']:.1f} images/s, "
        f"extract {images / medians['extract']:.1f} images/s, ratio {ratio:.3f} "
        f"(rounds {pairs[0]:.2f} to {pairs[-1]:.2f}), processor seconds {work_ratio:.3f}",
        flush=True,
    )


def memory() -> None:
    """Print peak anonymous memory above that of the loaded process, for n and 10 n images."""
    peaks = {}
    for images in (MEMORY_IMAGES, 10 * MEMORY_IMAGES):
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", str(images)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[images] = json.loads(done.stdout)
    for images, (before, peak) in peaks.items():
        print(f"memory    {images:6} images: {before:.0f} MB before, peak {peak:.0f} MB anonymous")
    (_, small), (_, large) = peaks.values()
    print(f"memory    ten times the images: {large - small:+.0f} MB ({large / small:.3f} x)")


def memory_of(images: int) -> None:
    """In a process of its own: extract and print anonymous MB before and at the peak."""
    backbone = load("mae-tiny")
    dataset = make_dataset(1, 56)
    split = dataset.splits["train"]
    # The same image again and again, so that only what extraction takes can grow.
    split.images = np.broadcast_to(split.images, (images, 56, 56))
    split.labels, split.names = np.zeros(images, np.int64), [""] * images
    split.fingerprint = lambda: "noise"  # type: ignore[method-assign]  # hashing would copy them
    before = anonymous_bytes()
    peak, stop = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory(prefix="iceprobe-") as root:
        extract(backbone, dataset, root, shard_images=MEMORY_SHARD, device="cpu")
    stop.set()
    watcher.join()
    print(json.dumps([before / 1e6, peak / 1e6]))


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system doesn't tell anonymous memory (/proc/self/status)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*BACKBONES, "memory", []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, help="images a round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--amp", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_of(args.memory_of)
        return
    device = torch.device(args.device)
    what = args.what or [*BACKBONES, "memory"]
    for name in BACKBONES:
        if name in what:
            speed(name, args.images, args.rounds, args.batch_size, args.amp, device)
    if "memory" in what:
        memory()
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    print(f"on {where}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
