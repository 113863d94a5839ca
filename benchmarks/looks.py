"""What a look during training takes: with decoded images kept between looks, with none, and in two processes.

    python benchmarks/looks.py [--looks 5]

A ViT-Ti of four blocks at 32 pixels is looked at in turns by probes that keep images and by others that don't, in one
process; the first look of each, which decodes, isn't counted. Before, two processes of one thread each look in turns,
the first alone or both together, and keep images. Printed are medians in seconds and their ratio.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import torch.distributed as dist
from PIL import Image
from torch import multiprocessing

from iceprobe.integrations.loop import Probe

HOW = {"image_size": 32, "epochs": 3, "every": "1 steps"}


def photographs(folder: Path, images: int = 100) -> str:
    """JPEG files of 640 × 480 in two classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for at in range(images):
            place = folder / split / f"class{at % 2}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((640, 480)).save(place / f"{at}.jpg")
    return f"folder:{folder}"


def model_of(channels: int, depth: int) -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=channels, num_classes=0, depth=depth
    )  # fmt: skip


def how(channels: int, limit: int) -> dict[str, object]:
    return {**HOW, "limit": limit, "mean": [0.5] * channels, "std": [0.5] * channels}


def median(side: Probe) -> float:
    return statistics.median(one.seconds for one in side.history[1:])


def in_one(data: str, probes: list[str], channels: int, limit: int, looks: int) -> str:
    model = model_of(channels, depth=4)
    sides = [Probe(model, data, probes, keep=one, **how(channels, limit)) for one in ("2GB", 0)]
    for step in range(1, looks + 2):
        for side in sides:
            side(step)
    kept, anew = map(median, sides)
    return f"kept {kept:.2f} s, keep=0 {anew:.2f} s, {kept / anew:.2f}"


def in_two(rank: int, folder: str, data: str, looks: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = model_of(3, depth=12)
    sides = [Probe(model, data, ["knn"], processes=one, **how(3, 300)) for one in ("first", "all")]
    for step in range(1, looks + 2):
        for side in sides:
            side(step)
    if rank == 0:
        alone, together = map(median, sides)
        print(
            f"300 images a split, kept, knn, twelve blocks: first {alone:.2f} s, all {together:.2f} s, "
            f"{together / alone:.2f}"
        )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--looks", type=int, default=5, help="Looks of each kind (5).")
    looks = parser.parse_args().looks
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder) / "photographs", 300)
        multiprocessing.spawn(in_two, (folder, files, looks), nprocs=2)
        for what, data, probes, channels, limit in [
            ("bundled:fashion, 200 images a split", "bundled:fashion", ["knn"], 1, 200),
            ("bundled:fashion, 200 images a split", "bundled:fashion", ["knn", "ep8"], 1, 200),
            ("JPEG 640 × 480, 100 images a split", files, ["knn"], 3, 100),
        ]:
            found = in_one(data, probes, channels, limit, looks)
            print(f"{what}, {' + '.join(probes)}: {found}")


if __name__ == "__main__":
    main()
