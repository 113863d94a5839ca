"""Images of their own shape from the command to the page, the exported folder and its maps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe as package

BACKBONE = "python:tests.cli.tiny:build_naflex?image_size=native&max_tokens=20"
SIZES = [(30, 60), (60, 30), (41, 44), (80, 24)]


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Two colours of noise in four shapes: 12 train and 4 test images each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for channel, name in ((0, "red"), (2, "blue")):
            (place := tmp_path / "shapes" / split / name).mkdir(parents=True)
            for i in range(count):
                width, height = SIZES[i % 4]
                pixels = rng.integers(0, 100, (height, width, 3))
                pixels[..., channel] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return tmp_path / "shapes"


@pytest.mark.slow
def test_from_images_to_predictions(iceprobe, shapes, tmp_path):
    words = [
        "--backbone",
        BACKBONE,
        "--data",
        f"folder:{shapes}",
        "--device",
        "cpu",
        "--seeds",
        1,
        "--epochs",
        40,
    ]
    probes = ["--probe", "knn", "--probe", "linear", "--probe", "ep4"]
    planned = iceprobe("plan", *words[:4], *probes)
    assert (planned.code, "an epoch cached" in planned.out) == (0, True)
    assert "live" not in planned.out  # which such tokens can't be
    ended = iceprobe("run", *words, *probes, "--output", "run")
    assert ended.code == 0, ended.err
    page = Path("run/report.html").read_text()
    assert "predictor 4" in page
    results = {one.probe: one for one in package.read_results("run")}
    assert results["knn"].top1.mean > 0.9
    store = package.Store.open(results["ep4"].store.path)
    grids = [
        grid
        for name in ("train", "test")
        for grid in store[name].tokens(np.arange(len(store[name]))).grids
    ]
    assert len(set(grids)) == 4

    ended = iceprobe("analyze", "run")
    assert ended.code == 0, ended.err
    assert {
        one["probe"] for one in json.loads(Path("run/analysis.json").read_text())["analyses"]
    } == {"ep4"}

    assert iceprobe("export", "run", "--probe", "ep4", "--output", "model").code == 0
    ended = iceprobe(
        "predict",
        "model",
        "--images",
        shapes / "test",
        "--output",
        "p.csv",
        "--maps",
        "maps",
        "--trust",
    )
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    accuracy = np.mean([row["file"].startswith(row["class"] + "/") for row in rows])
    assert accuracy == pytest.approx(results["ep4"].top1.mean)
    sizes = {Image.open(path).size for path in Path("maps").rglob("*.png")}
    assert len(sizes) > 2

    model = package.load_probe("model", trust=True)
    files = [shapes / "test" / row["file"] for row in rows]
    together, alone = model.predict(files), [model.predict(file)[0] for file in files]
    for a, b, row in zip(together, alone, rows, strict=True):
        assert a[0][0] == b[0][0] == row["class"]
        assert a[0][1] == pytest.approx(b[0][1], abs=1e-5)
        assert a[0][1] == pytest.approx(float(row["probability"]), abs=1e-3)
    assert isinstance(model.preprocessing, package.backbones.NativePreprocessing)
    assert torch.isfinite(model(model.preprocessing.blank())).all()

    ended = iceprobe("export", "run", "--probe", "ep4", "--output", "onnx", "--format", "onnx")
    assert (ended.code, "an ONNX file is of images of one size" in ended.err) == (2, True)
    quick = ["--adapt", "bitfit", "--probe", "ep4", "--learning-rates", "1e-2", "--batch-size", 8]
    ended = iceprobe("adapt", *words[:-1], 2, *quick, "--output", "adapted")
    assert ended.code == 0, ended.err
    (adapted,) = package.read_results("adapted")
    assert (adapted.flops, adapted.lengths) == (results["ep4"].flops, results["ep4"].lengths)
    ended = iceprobe("adapt", *words, *quick, "--augmentation", "light", "--output", "augmented")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "reads images of their own shape: leave it out" in ended.err
    ended = iceprobe(
        "segment", "--backbone", BACKBONE, "--data", "bundled:fashion-clutter", "--output", "seg"
    )
    assert (ended.code, "keeps the shape of images" in ended.err) == (2, True)
    ended = iceprobe("run", *words, "--probe", "linear", "--live", "--output", "live")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_bundled_images_have_boxes_and_masks(iceprobe):
    words = [
        "--backbone",
        BACKBONE,
        "--data",
        "bundled:fashion-clutter",
        "--device",
        "cpu",
        "--limit",
        60,
    ]
    ended = iceprobe(
        "run", *words, "--seeds", 1, "--epochs", 2, "--probe", "ep4", "--output", "run"
    )
    assert ended.code == 0, ended.err
    ended = iceprobe("analyze", "run")
    assert ended.code == 0, ended.err
    (found,) = json.loads(Path("run/analysis.json").read_text())["analyses"]
    assert 0 < found["uniform"]["mass_in_box"] < 1
