"""What a look during training takes, and what the kept images save.

    python -m benchmarks.looks [--looks N] [--images N]

A tiny ViT (timm's vit_tiny_patch16_224 at 64 pixels, patches of 8) is looked at with k-NN and EP8, of
``--images`` images a split, 5 epochs: on ``bundled:fashion``, and on JPEG files of 640 × 480 made here. Looks
with and without kept images take turns in one process; medians, and their ratio. The scores must agree.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageFilter

from iceprobe.integrations.loop import Probe

HOW = dict(epochs=5, image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def files(folder: Path, count: int) -> str:
    """So many JPEG files in each of two classes and two splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("fine", "coarse"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count // 2):
                noise = Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8))
                radius = 2 if label == "fine" else 3
                noise.filter(ImageFilter.GaussianBlur(radius)).save(
                    folder / split / label / f"{i}.jpg"
                )
    return f"folder:{folder}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--looks", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=0)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (
            ("bundled:fashion", "bundled:fashion"),
            ("JPEG files", files(Path(folder), args.images)),
        ):
            looks = {
                keep: Probe(
                    model, data, ["knn", "ep8"], every="1 step", keep=keep, limit=args.images, **HOW
                )
                for keep in ("2GB", "0")
            }
            for step in range(1, args.looks + 2):  # the first fills what is kept
                scores = [look(step) for look in looks.values()]
                accuracies = [{k: v for k, v in one.items() if "top1" in k} for one in scores]
                assert accuracies[0] == accuracies[1]
            kept, anew = (
                statistics.median(one.seconds for one in look.history[1:])
                for look in looks.values()
            )
            print(
                f"{name:16} {kept:6.2f} s a look, {anew:6.2f} s with keep=0: {anew / kept:.2f} times"
            )


if __name__ == "__main__":
    main()
