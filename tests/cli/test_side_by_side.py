"""Probes that name layers, from images to a report, an export and a prediction."""

import json

import pytest
import torch

import iceprobe as library
from iceprobe.results import read_results

DATA = ["--data", "bundled:fashion", "--limit", "40"]
ONCE = ["--protocol", "paper", "--epochs", "1", "--seeds", "1"]
BACKBONE = ["--backbone", "bundled:mae-tiny"]
LINEAR = "linear?input=class+mean&layers=-2,-1"


def test_layers_are_extracted_once_for_all_cells(iceprobe, tmp_path, monkeypatch):
    passes = []
    forward = library.Backbone.forward_layers
    monkeypatch.setattr(
        library.Backbone,
        "forward_layers",
        lambda self, images: passes.append(len(images)) or forward(self, images),
    )
    probes = ["knn?layers=-2,-1", LINEAR, "ep4?layers=-1,-3", "linear"]
    asked = [*BACKBONE, "--layers=-2,-1", *DATA, *ONCE]
    asked += [word for one in probes for word in ("--probe", one)]
    monkeypatch.setattr("iceprobe.cli.sources.print_estimate", lambda *_: None)
    ended = iceprobe("run", *asked, "--output", "r")
    assert (ended.code, ended.err) == (0, "")
    assert sum(n for n in passes if n > 1) == 80  # train and test, once
    results = read_results(tmp_path / "r")
    found = {(one.backbone.removeprefix("bundled:"), one.label) for one in results}
    assert found == {
        ("mae-tiny?layer=4", "linear"),
        ("mae-tiny?layer=5", "linear"),
        *(("mae-tiny?layer=3,4,5", one) for one in probes[:3]),
    }
    linear = next(one for one in results if one.label == LINEAR)
    assert linear.parameters.total == 3 * 192 * 10 + 10
    assert [one.path for one in linear.store.layers] == sorted(
        (one.path for one in linear.store.layers),
        key=lambda p: library.Store.open(p).manifest.backbone.spec,
    )
    kept = {
        store.manifest.backbone.identity["layer"]: store.has_patches
        for store in map(library.Store.open, (tmp_path / "features").iterdir())
    }
    assert kept == {3: True, 4: False, 5: True}  # only ep4 reads patches
    assert "complete already" in iceprobe("run", *asked, "--output", "r").out


def test_a_run_of_named_layers_alone_is_an_ordinary_run(iceprobe, tmp_path):
    asked = [*BACKBONE, *DATA, *ONCE, "--probe", LINEAR, "--probe", "ep4?join=width&layers=-2,-1"]
    ended = iceprobe("run", *asked, "--output", "r")
    assert (ended.code, ended.err) == (0, "")
    assert not (tmp_path / "r" / "cells").exists()
    again = iceprobe("run", "r/config.yaml", "--output", "again")
    assert (again.code, again.err) == (0, "")
    one, two = (read_results(tmp_path / name) for name in ("r", "again"))
    assert [r.metrics for r in one] == [r.metrics for r in two]
    index = library.Store.open(one[0].store.layers[0].path)["test"].index[:3]
    images = library.load_dataset("bundled:fashion").splits["test"]
    pictures = [images.image(int(i)) for i in index]
    for label in (LINEAR, "ep4?layers=-2,-1&join=width"):
        folder = tmp_path / label.partition("?")[0]
        ended = iceprobe("export", "r", "--probe", label, "--output", folder)
        assert (ended.code, ended.err) == (0, "")
        model = library.load_probe(folder)
        assert model.backbone.layers == (4, 5)
        pixels = torch.stack([model.preprocessing.transform(one) for one in pictures])
        (result,) = (r for r in one if r.label == model.card.probe)
        predicted = result.predictions().predicted[0, :3].tolist()
        assert model(pixels).argmax(1).tolist() == predicted
    for i, picture in enumerate(pictures):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        picture.save(tmp_path / "pictures" / f"{i}.png")
    ended = iceprobe(
        "predict", "ep4", "--images", "pictures", "--output", "p.csv", "--maps", "maps"
    )
    assert (ended.code, ended.err) == (0, "")
    assert len(list((tmp_path / "maps").iterdir())) == 3
    ended = iceprobe("analyze", "r")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads((tmp_path / "r" / "analysis.json").read_text())
    assert "ep4?join=width&layers=-2,-1" in json.dumps(found)
    ended = iceprobe("analyze", "r", "--heads")
    assert ended.code == 2
    assert "reads several layers" in ended.err


def test_plan_counts_all_layers(iceprobe):
    sizes = {}
    for layers in ("-1", "-2,-1", "0,1,2,3"):
        ended = iceprobe("plan", *BACKBONE, *DATA, *ONCE, "--probe", f"ep4?layers={layers}")
        assert (ended.code, ended.err) == (0, "")
        (line,) = (line for line in ended.out.splitlines() if line.startswith("memory, to hold"))
        sizes[layers] = float(line.partition("tokens")[2].split()[0])  # in MB
    assert sizes["-2,-1"] == pytest.approx(2 * sizes["-1"], rel=0.05)
    assert sizes["0,1,2,3"] == pytest.approx(4 * sizes["-1"], rel=0.05)


def test_one_layer_by_option_is_that_layer(iceprobe, tmp_path):
    asked = [*BACKBONE, *DATA, "--probe", "knn", "--protocol", "paper"]
    assert iceprobe("run", *asked, "--layers", "0", "--output", "r").code == 0
    (result,) = read_results(tmp_path / "r")
    assert (result.layer, result.backbone) == (0, "bundled:mae-tiny?layer=0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--probe", "linear?layers=-9"],
            "layer -9 of 'bundled:mae-tiny' is out of range (0 to 5)",
        ),
        (["--probe", "linear?layers=5,-1"], "names layer 5 twice: keep one"),
        (["--live", "--probe", LINEAR], "layers= reads stored tokens, use --cached"),
        (
            ["--layers", "5", "--probe", "linear", "--probe", "linear?layers=-1"],
            "names the one layer that 'bundled:mae-tiny?layer=5' reads: leave layers out",
        ),
        (["--probe", "clip4?layers=-2,-1"], "write clip4?join=width&layers=-2,-1"),
        (
            ["--probe", "linear?layers=-2,-1&input=class+pooled"],
            "has no pooled output: take input=",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(iceprobe, tmp_path, words, message):
    ended = iceprobe("run", *BACKBONE, *DATA, *ONCE, *words, "--output", "r")
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "features").exists()
