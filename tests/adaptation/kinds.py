"""Tiny backbones of every kind of examples, and two classes of examples of each kind."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image

from iceprobe.backbones import Backbone, load_backbone
from iceprobe.backbones.kinds import Inputs, batched
from iceprobe.datasets import load_dataset
from iceprobe.datasets.bags import BagSplit
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.clips import ArrayClip
from tests import native
from tests.backbones import test_clip_models, test_native, test_sound_models
from tests.backbones.builders import perturbed
from tests.cli import tiny
from tests.datasets.sounds import tone, write

from .models import vit


class Noise(Split):
    """Grey noise, brighter in the second class: pictures of 20 x 24 pixels, or clips of several of them."""

    def __init__(self, name: str, labels: np.ndarray, kind: str = "image"):
        super().__init__(name, labels, [f"{name}/{row}" for row in range(len(labels))])
        self.kind = kind

    def _pixels(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((len(self.name), index))
        pixels = rng.integers(0, 120, (3 + index % 4, 20, 24)) + 120 * self.labels[index]
        return pixels.astype(np.uint8)

    def example(self, index: int) -> Any:
        return ArrayClip(self._pixels(index)) if self.kind == "clip" else self.image(index)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels(index)[0])

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.kind} {self.labels.tolist()}".encode()).hexdigest()


def _labels(count: int) -> np.ndarray:
    return np.arange(count) % 2


def _bag_split(name: str, count: int) -> BagSplit:
    counts = [1 + 2 * row % 5 for row in range(count)]
    tiles = Noise(name, np.repeat(_labels(count), counts))
    names = [f"{name}/{row}" for row in range(count)]
    return BagSplit(name, names, tiles, counts, outputs=["dim", "bright"], labels=_labels(count))


def _sounds(folder: Path, counts: dict[str, int]) -> Dataset:
    for split, count in counts.items():
        for row in range(count):
            sound = tone(700 + 333 * (row % 5), (300, 2_000)[row % 2], seed=len(split) + 10 * row)
            write(folder / split / "lh"[row % 2] / f"{row:02d}.wav", sound)
    return load_dataset(f"audio:{folder}")


def data(kind: str, folder: Path, train: int = 24, test: int = 10) -> Dataset:
    """Examples of a kind, of several lengths where it has them; ``folder`` for those that are files."""
    counts = {"train": train, "test": test}
    if kind == "image":
        return native.dataset(train, test)
    if kind == "sound":
        return _sounds(folder / "sounds", counts)
    splits: dict[str, Split] = {
        name: _bag_split(name, count) if kind == "bag" else Noise(name, _labels(count), "clip")
        for name, count in counts.items()
    }
    return Dataset(f"python:{kind}", kind, ["dim", "bright"], splits)


def _native(name: str) -> Backbone:
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, "in_chans": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = perturbed(
            timm.create_model(name, **sizes, img_size=32, patch_size=8, dynamic_img_size=True)
        )
    return load_backbone(model, image_size="native", max_tokens=12, mean=(0.4,), std=(0.3,))


def _naflex() -> Backbone:
    model = perturbed(tiny.build_naflex())
    mean, std = (0.4,) * 3, (0.3,) * 3
    return load_backbone(model, image_size="native", max_tokens=12, mean=mean, std=std)


def _siglip2(folder: Path) -> Backbone:
    """Of transformers, whose attention masks padding."""
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=12)
    sizes = {**test_native.SIZE, "num_patches": 9, "patch_size": 8}
    test_native.saved(folder, "Siglip2VisionModel", "Siglip2VisionConfig", processor, **sizes)
    return load_backbone(f"transformers:{folder}?image_size=native")


def _videos(family: str) -> Callable[[Path], Backbone]:
    def load(folder: Path) -> Backbone:
        return load_backbone(test_clip_models.made(test_clip_models.CASES[family], folder)[1])

    return load


def _waves(name: str) -> Callable[[Path], Backbone]:
    return lambda folder: load_backbone(test_sound_models.waves(folder, name)[0])


#: Name → its backbone, which may write files into a folder.
CASES: dict[str, Callable[[Path], Backbone]] = {
    "clips, VideoMAE": _videos("VideoMAE"),
    "clips, TimeSformer": _videos("TimeSformer"),
    "clips, frame by frame": lambda _: load_backbone(vit(), frames=3),
    "clips, a vector a frame": lambda _: load_backbone(vit(), frames=3, each="pooled"),
    "clips, each by itself": lambda _: load_backbone(vit(), frames=2, clips=2, averaged=True),
    "images of their own shape, NaFlex": lambda _: _naflex(),
    "images of their own shape, SigLIP 2": _siglip2,
    "images of their own shape, by shape": lambda _: _native("vit_tiny_patch16_224"),
    "images of their own shape, a module": lambda _: load_backbone(native.Patches()),
    "bags, a vector an image": lambda _: load_backbone(vit(), reads="bags"),
    "bags, all tokens": lambda _: load_backbone(vit(), reads="bags", each="patches"),
    "recordings, with a mask": _waves("wav2vec 2.0, layer norm"),
    "recordings, by length": _waves("HuBERT"),
    "recordings, Whisper": lambda folder: load_backbone(test_sound_models.whisper(folder)[0]),
}


def batch(backbone: Backbone, split: Split, count: int) -> Inputs:
    """The first examples of a split, as the backbone reads them."""
    return batched([backbone.preprocessing.transform(split.example(row)) for row in range(count)])
