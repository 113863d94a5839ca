"""`predict` reads files by the rules, and the options, of the images that the probe was fitted on."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iceprobe
from iceprobe.datasets import load_dataset
from iceprobe.datasets.folder import unlabelled
from iceprobe.datasets.pixels import Reading
from iceprobe.exporting import predict
from tests.exporting.conftest import BRIGHT, untrained
from tests.exporting.test_prediction import CLASSES, picture

DEEP = np.random.default_rng(0).integers(0, 4096, (32, 32), np.uint16)


@pytest.fixture(scope="module")
def model():
    return untrained(BRIGHT, "ep4", CLASSES)


def rows(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row[0]: row[1:] for row in csv.reader(file)}


def test_a_turned_photo_is_the_upright_one(tmp_path):
    model = untrained("bundled:mae-tiny", "ep4", list("abcdef"))  # it tells places apart
    upright = Image.fromarray(picture(1))
    exif = Image.Exif()
    exif[0x0112] = 8  # stored a quarter turn to the right of how it is shown
    folder = tmp_path / "images"
    folder.mkdir()
    upright.save(folder / "a.png")
    upright.transpose(Image.Transpose.ROTATE_270).save(folder / "b.png", exif=exif)
    paths = [folder / "a.png", folder / "b.png"]
    split = unlabelled(folder)
    again = split.image(split.names.index("b.png"))
    as_stored = upright.transpose(Image.Transpose.ROTATE_270)
    seen = [dict(best) for best in model.predict([upright, *paths, *map(Image.open, paths), again])]
    (unturned,) = map(dict, model.predict([as_stored]))
    upright_one = pytest.approx(seen[0], abs=1e-5)  # the places of a batch are rounded differently
    assert seen == [upright_one] * 6  # turned once, however often it is handed on
    assert unturned != upright_one
    predict(model, folder, tmp_path / "p.csv")
    table = rows(tmp_path / "p.csv")
    for best in (table["a.png"], table["b.png"]):
        assert dict(zip(best[::2], map(float, best[1::2]), strict=True)) == upright_one


def test_the_scale_is_that_of_the_training_images(model, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(DEEP).save(folder / "deep.png")
    Image.fromarray((DEEP >> 4).astype(np.uint8)).save(folder / "flat.png")
    model.reading = Reading(scale=4095)
    predict(model, folder, tmp_path / "p.csv")
    model.reading = Reading()
    table = rows(tmp_path / "p.csv")
    assert table["deep.png"] == table["flat.png"]


def test_an_exported_probe_takes_the_options_along(tmp_path):
    for split in ("train", "test"):
        for name, shift in (("dark", 3), ("light", 0)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(8 if split == "train" else 3):
                Image.fromarray(np.roll(DEEP >> shift, number)).save(folder / f"{number}.png")
    dataset = load_dataset(f"folder:{tmp_path}/images?scale=4095")
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    store = iceprobe.extract(backbone, dataset, tmp_path / "features")
    (result,) = iceprobe.fit(
        store, ["linear"], output=tmp_path / "run", epochs=1, learning_rates=[0.01]
    )
    iceprobe.export(result, tmp_path / "model")
    loaded = iceprobe.load_probe(tmp_path / "model")
    assert loaded.reading == Reading(scale=4095)
    path = tmp_path / "images" / "test" / "light" / "0.png"
    eight = Image.fromarray((DEEP >> 4).astype(np.uint8))
    assert loaded.predict([path]) == loaded.predict([eight])
