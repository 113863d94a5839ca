"""What a look during training takes: with decoded images kept between looks, and with none.

    python benchmarks/looks.py [--looks 5]

A ViT-Ti of four blocks at 32 pixels is looked at in turns by probes that keep images and by others that don't, in one
process; the first look of each, which decodes, isn't counted. Printed are medians in seconds and their ratio.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import timm
from PIL import Image

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--looks", type=int, default=5, help="Looks of each kind (5).")
    looks = parser.parse_args().looks
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            ("bundled:fashion, 200 images a split", "bundled:fashion", ["knn"], 1, 200),
            ("bundled:fashion, 200 images a split", "bundled:fashion", ["knn", "ep8"], 1, 200),
            ("JPEG 640 × 480, 100 images a split", photographs(Path(folder)), ["knn"], 3, 100),
        ]
        for what, data, probes, channels, limit in cases:
            model = timm.create_model(
                "vit_tiny_patch16_224",
                img_size=32,
                patch_size=8,
                in_chans=channels,
                num_classes=0,
                depth=4,
            )
            how = {**HOW, "limit": limit, "mean": [0.5] * channels, "std": [0.5] * channels}
            sides = [Probe(model, data, probes, keep=keep, **how) for keep in ("2GB", 0)]
            for step in range(1, looks + 2):
                for side in sides:
                    side(step)
            kept, anew = (statistics.median(one.seconds for one in s.history[1:]) for s in sides)
            print(
                f"{what}, {' + '.join(probes)}: kept {kept:.2f} s, keep=0 {anew:.2f} s, {kept / anew:.2f}"
            )


if __name__ == "__main__":
    main()
