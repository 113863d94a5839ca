"""The command line in this process, and a data set and a backbone so small that a run takes a second."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iceprobe.cli import main

BACKBONE = "python:tests.cli.tiny:build?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def iceprobe(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    no_signs: None,
) -> Callable[..., Ended]:
    """Run ``iceprobe ARGUMENTS`` in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        texts = [str(argument) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["iceprobe", *texts])
        with pytest.raises(SystemExit) as stop:
            main(texts)
        captured = capsys.readouterr()
        return Ended(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise around a grey of their own: 12 train and 4 test images each."""
    return write_images(tmp_path_factory.mktemp("images"), {"train": 12, "test": 4})


def write_images(
    folder: Path, counts: dict[str, int], classes: Sequence[str] = ("dark", "grey", "light")
) -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for level, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.normal(60 + 60 * level, 20, (20, 24, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i:02d}.png")
    return folder


def write_table(images: Path, path: Path, columns: tuple[str, ...], split: str) -> str:
    """A table of the images of one split, of which pairs have a patient: its spec."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, ["image", "class", *columns])
        rows.writeheader()
        for number, one in enumerate(sorted(images.glob(f"{split}/*/*.png"))):
            given = {"image": one, "class": one.parent.name, "patient": f"{split}{number // 2}"}
            rows.writerow({name: given[name] for name in rows.fieldnames})
    return f"table:{path}?image=image&target=class"


@pytest.fixture
def quick(images: Path) -> list[str]:
    """Options of a run that takes a second."""
    return options(images)


def options(images: Path) -> list[str]:
    """Of a run on ``images``: two seeds of two epochs."""
    chosen = {"backbone": BACKBONE, "data": f"folder:{images}", "seeds": "2", "epochs": "2"}
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]
