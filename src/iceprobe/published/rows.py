"""The published figures as data: ``encoders.csv`` and ``figures.csv``, facts with their source.

An encoder is named as its publication names it, with the spec strings that load its released weights. A figure is one
accuracy of one probe on it, as its source prints it. Imports no torch.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from iceprobe.core.specs import Spec, parse_spec

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Data:
    """A data set that figures are of: its classes, and the images of its usual splits, where they have a number."""

    classes: int
    train: int | None = None
    reported: int | None = None


DATA = {
    "imagenet1k": Data(1000, 1_281_167, 50_000),
    "kinetics400": Data(400),
    "ssv2": Data(174),
    "places205": Data(205),
    "inat21": Data(10_000),
}


@dataclass(frozen=True)
class Encoder:
    """A pre-trained encoder.

    Attributes:
        name: ``"MAE ViT-B/16"``.
        pretraining: what it was pre-trained on.
        patch: pixels of an image, along one side, that a token stands for.
        specs: that load its released weights; empty where no source of backbones has them.
    """

    name: str
    pretraining: str
    patch: int
    specs: tuple[Spec, ...]


@dataclass(frozen=True)
class Figure:
    """A published accuracy.

    Attributes:
        source: key of `iceprobe.published.SOURCES`.
        encoder: name of an `Encoder`.
        data: key of `DATA`.
        image_size: pixels along one side, at evaluation.
        probe: ``"knn"``, ``"linear"``, ``"ep32"``; ``"ep"`` and the like where the source doesn't state a number.
        reads: what the probe read; empty where the source doesn't say.
        top1: a fraction.
        note: what else the source says of it.
    """

    source: str
    encoder: str
    data: str
    image_size: int
    probe: str
    reads: str
    top1: float
    note: str


@cache
def encoders() -> dict[str, Encoder]:
    """All encoders by name."""
    return {
        row["encoder"]: Encoder(
            row["encoder"],
            row["pretraining"],
            int(row["patch"]),
            tuple(parse_spec(one) for one in row["specs"].split()),
        )
        for row in _read("encoders.csv")
    }


@cache
def figures() -> tuple[Figure, ...]:
    """All figures, in the order of their sources."""
    return tuple(
        Figure(
            source=row["source"],
            encoder=row["encoder"],
            data=row["data"],
            image_size=int(row["image_size"]),
            probe=row["probe"],
            reads=row["reads"],
            top1=float(row["top1"]) / 100,
            note=row["note"],
        )
        for row in _read("figures.csv")
    )


def _read(name: str) -> list[dict[str, str]]:
    with (_HERE / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
