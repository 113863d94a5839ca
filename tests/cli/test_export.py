"""``export`` and ``predict`` as they are typed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iceprobe as package
from iceprobe.cli.app import GROUPS
from tests.cli.conftest import BACKBONE


@pytest.fixture
def run(iceprobe, quick) -> Path:
    probes = ["--probe", "knn", "--probe", "linear", "--probe", "ep4"]
    assert iceprobe("run", *quick, *probes, "--output", "runs/mine").code == 0
    return Path("runs/mine")


def test_export_and_predict_from_end_to_end(iceprobe, run, images, tmp_path):
    ended = iceprobe("export", run, "--probe", "ep4", "--seed", 1)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{tmp_path}/runs/mine/exported/ep4-seed1\n"
    other = iceprobe("export", run, "--probe", "ep?queries=4", "--output", "model")
    assert (other.code, json.loads(Path("model/model.json").read_text())["seed"]) == (0, 0)

    words = ["--images", images / "test", "--output", "out/p.csv", "--maps", "out/maps", "--top", 2]
    ended = iceprobe("predict", "runs/mine/exported/ep4-seed1", *words)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-2:] == [
        f"{tmp_path}/out/maps: the image, predictor 1, predictor 2, predictor 3, predictor 4",
        f"{tmp_path}/out/p.csv",
    ]
    rows = list(csv.DictReader(Path("out/p.csv").read_text().splitlines()))
    accuracy = np.mean([row["file"].startswith(row["class"] + "/") for row in rows])
    result = {one.probe: one for one in package.results.read_results(run)}["ep4"]
    assert accuracy == pytest.approx(result.top1.values[1], abs=1 / 12)
    assert len(list(Path("out/maps").rglob("*.png"))) == len(rows) == 12

    (images_here := tmp_path / "more").mkdir()
    Image.new("RGB", (20, 20)).save(images_here / "good.png")
    (images_here / "bad.png").write_bytes(b"no image")
    ended = iceprobe("predict", "model", "--images", "more", "--on-bad-image", "skip")
    assert ended.code == 0
    assert "left out 1 image that could not be read: 'bad.png'" in ended.out
    assert Path("predictions.csv").read_text().count("\n") == 2


def test_one_trained_probe_needs_no_name(iceprobe, quick):
    probes = ["--probe", "knn", "--probe", "linear"]
    iceprobe("run", *quick, *probes, "--output", "runs/one")
    ended = iceprobe("export", "runs/one", "--no-backbone-weights")
    assert ended.code == 0
    folder = Path("runs/one/exported/linear-seed0")
    assert {f.name for f in folder.iterdir()} == {"probe.safetensors", "model.json"}


def files(folder: Path) -> dict[Path, bytes]:
    """Everything below ``folder``; folders have no bytes."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def damaged(folder: Path) -> None:
    file = folder / "model" / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


WRONG = {
    "no such run": (["export", "runs/none", "--probe", "ep4"], ["runs/none", "ls runs"]),
    "a probe that the run lacks": (["export", "RUN", "--probe", "ep6"], ["ep6", "ep4"]),
    "no probe": (["export", "RUN", "--probe", "epp"], ["epp", "ep"]),
    "none named": (["export", "RUN"], ["linear, ep4", "--probe"]),
    "knn": (["export", "RUN", "--probe", "knn"], ["knn", "training images", "linear"]),
    "seed": (["export", "RUN", "--probe", "ep4", "--seed", "2"], ["seed 2", "0, 1"]),
    "format": (["export", "RUN", "--probe", "ep4", "--format", "onx"], ["onx", "onnx"]),
    "onnx without weights": (
        ["export", "RUN", "--probe", "ep4", "--format", "onnx", "--no-backbone-weights"],
        ["holds its backbone"],
    ),
    "output isn't empty": (
        ["export", "RUN", "--probe", "ep4", "--output", "model"],
        ["model", "not empty", "--output"],
    ),
    "output is a file": (
        ["export", "RUN", "--probe", "ep4", "--output", "file"],
        ["'file'", "--output"],
    ),
    "no such folder": (["predict", "none", "--images", "images"], ["none", "iceprobe export"]),
    "no images": (["predict", "model", "--images", "empty"], ["empty", "no image"]),
    "no such images": (["predict", "model", "--images", "none"], ["none"]),
    "images not said": (["predict", "model"], ["--examples"]),
    "damaged": (["predict", "model", "--images", "images"], ["backbone.safetensors", "damaged"]),
    "maps aren't empty": (
        ["predict", "model", "--images", "images", "--maps", "images"],
        ["--maps", "not empty"],
    ),
    "output is a folder": (
        ["predict", "model", "--images", "images", "--output", "images"],
        ["--output", "folder"],
    ),
    "top": (["predict", "model", "--images", "images", "--top", "0"], ["--top", "0"]),
    "workers": (["predict", "model", "--images", "images", "--workers", "-1"], ["--workers"]),
    "amp": (
        ["predict", "model", "--images", "images", "--amp", "int8"],
        ["--forward-dtype", "int8"],
    ),
    "skip": (["predict", "model", "--images", "images", "--on-bad-image", "no"], ["'no'", "skip"]),
}


@pytest.fixture(scope="module")
def desk(images, tmp_path_factory) -> Path:
    """A run and an exported probe, made once; no case may change them."""
    folder = tmp_path_factory.mktemp("desk")
    store = package.extract(
        package.load_backbone(BACKBONE), package.load_dataset(f"folder:{images}"), folder / "f"
    )
    results = package.fit(
        store,
        ["knn", "linear", "ep4"],
        seeds=2,
        epochs=1,
        learning_rates=[0.1],
        output=folder / "run",
    )
    package.export(results[2], folder / "model")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_in_one_line_and_leaves_nothing(iceprobe, desk, tmp_path, name):
    arguments, words = WRONG[name]
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "a.png")
    (tmp_path / "model").mkdir()
    for file in (desk / "model").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    if name == "damaged":
        damaged(tmp_path)
    before = files(tmp_path) | files(desk)
    ended = iceprobe(*[desk / "run" if word == "RUN" else word for word in arguments])
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    for word in words:
        assert word in ended.err
    assert files(tmp_path) | files(desk) == before


def test_a_store_that_is_gone_is_named(iceprobe, run):
    (store,) = Path("features").iterdir()
    store.rename("aside")
    ended = iceprobe("export", run, "--probe", "ep4")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert store.name in ended.err
    assert not (run / "exported").exists()


def test_help_shows_them_in_a_group_of_their_own(iceprobe):
    assert list(GROUPS["Use a probe"]) == ["export", "predict", "publish"]
    assert "Use a probe" in iceprobe("--help").out
