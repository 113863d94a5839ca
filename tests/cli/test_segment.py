"""``iceprobe segment`` from images to numbers and a picture, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iceprobe as library
from iceprobe.cli.config import read_yaml
from iceprobe.core.checksums import seal
from iceprobe.settings import SegmentRun

TINY = ["--backbone", "bundled:mae-tiny", "--limit", "60", "--epochs", "1", "--seeds", "1"]
CLUTTER = ["--data", "bundled:fashion-clutter", "--learning-rates", "1e-1"]


def test_from_images_to_table_and_picture(iceprobe):
    ended = iceprobe("segment", *TINY, *CLUTTER, "--output", "runs/s")
    assert ended.code == 0, ended.err
    assert "bundled:mae-tiny on bundled:fashion-clutter, 11 classes" in ended.out
    assert "ep8 − linear: " in ended.out
    assert str(Path("runs/s/segmentation.png").resolve()) in ended.out
    found = {path.name for path in Path("runs/s").iterdir()}
    assert found == {
        "config.yaml", "dense.csv", "dense.json", "log.txt", "probes", "report.html", "request.json",
        "segmentation.png",
    }  # fmt: skip
    linear, ep = json.loads(Path("runs/s/dense.json").read_text())["segmentations"]
    assert (linear["parameters"], ep["parameters"]) == (2123, 20555)
    assert f"{100 * ep['miou']['mean']:.1f}" in ended.out
    assert ep["command"].startswith("iceprobe segment --backbone bundled:mae-tiny")
    assert ep["miou"]["mean"] > 0.02  # more than one of eleven classes has a right pixel
    (store,) = Path("features").iterdir()
    shown = library.segment(
        library.Store.open(store), epochs=1, seeds=1, learning_rates=[0.1], output="runs/s"
    )
    assert shown[0].created == linear["created"]

    page = Path("runs/s/report.html").read_text()
    for one in (linear, ep):
        assert f'data-value="{one["miou"]["mean"]}"' in page
    assert str(Path("runs/s/report.html").resolve()) in ended.out
    again = iceprobe("report", "runs/s", "--output", "again.html")
    assert again.code == 0, again.err
    assert Path("again.html").read_text() == page
    seen = (
        "runs/s is a run of `iceprobe segment`: it has no top-1 to compare or tabulate; "
        "`iceprobe report runs/s`, of that run alone, shows its probes and their paired differences"
    )
    for command in (
        ["compare", "runs/s"],
        ["compare", "runs/s", "runs/s"],
        ["advise", "runs/s", "runs/s"],
        ["report", "runs/s", "runs/s", "--output", "both.html"],
    ):
        refused = iceprobe(*command)
        assert refused.code == 2, command
        assert seen in refused.err
        assert refused.err.count("\n") == 1
    # One step of training: said by the result, the terminal, the page and advise alike.
    advice = iceprobe("advise", "runs/s")
    assert advice.code == 0, advice.err
    said = " ".join(advice.out.split())
    for text in (said, " ".join(ended.out.split()), page):
        assert " are undertrained: that shows no order." in text
        assert "EP8: 1 training step, its best epoch is the last" in text
        assert "To compare them leave --epochs out, or raise it" in text
    assert [one["undertrained"][0] for one in (linear, ep)] == ["1 training step"] * 2
    table = iceprobe("report", "runs/s", "--output", "table.md")
    assert table.code == 2
    assert "ends in .html; its table is dense.csv in the run folder" in table.err
    assert not Path("both.html").exists()

    listed = iceprobe("ls", "runs").out
    assert "mIoU" in listed
    assert "unfinished" not in listed

    before = {p: p.read_bytes() for p in Path("runs/s").iterdir() if p.is_file()}
    once_more = iceprobe("segment", *TINY, *CLUTTER, "--output", "runs/s")
    assert once_more.code == 0, once_more.err
    assert "runs/s is complete already: nothing to do." in once_more.out
    assert f"{100 * ep['miou']['mean']:.1f}" in once_more.out
    assert {path: path.read_bytes() for path in before} == before
    Path("runs/s/report.html").unlink()  # as an earlier iceprobe left it
    assert iceprobe("segment", *TINY, *CLUTTER, "--output", "runs/s").code == 0
    assert Path("runs/s/report.html").read_text() == page
    other = iceprobe("segment", *TINY, *CLUTTER, "--seeds", "2", "--output", "runs/s")
    assert other.code == 2
    assert "holds a run of another configuration (seeds 1 → 2)" in other.err
    (store,) = {one["store"]["identity"] for one in (linear, ep)}
    changed = Path("runs/s/dense.json").read_text().replace(store, store[::-1])
    document = json.loads(changed)
    document.pop("sha256")
    Path("runs/s/dense.json").write_text(json.dumps(seal(document)))
    other = iceprobe("segment", *TINY, *CLUTTER, "--output", "runs/s")
    assert other.code == 2
    assert "its features have changed since" in other.err

    saved = read_yaml(Path("runs/s/config.yaml"))
    assert saved["learning_rates"] == [0.1]
    assert saved["batch_size"] == 64
    again = iceprobe("segment", "runs/s/config.yaml", "output=runs/again", "probe=linear")
    assert again.code == 0, again.err
    (repeated,) = json.loads(Path("runs/again/dense.json").read_text())["segmentations"]
    assert repeated["miou"] == linear["miou"]
    assert len(list(Path("features").iterdir())) == 1  # the store was read, not made again


def test_from_images_to_numbers_of_pixels(iceprobe):
    distance = ["--data", "bundled:fashion-scenes?target=distance", "--learning-rates", "1e-1"]
    ended = iceprobe("segment", *TINY, *distance, "--output", "runs/d")
    assert ended.code == 0, ended.err
    words = " ".join(ended.out.split())
    assert (
        "bundled:mae-tiny on bundled:fashion-scenes?target=distance, distance of every pixel"
        in words
    )
    document = json.loads(Path("runs/d/dense.json").read_text())
    linear, ep = document["segmentations"]
    assert (document["task"], linear["unit"], linear["parameters"]) == ("depth", "px", 193)
    assert "RMSE px" in ended.out
    assert f"{linear['rmse']['mean']:.2f}" in ended.out
    assert "ep8 − linear: " in ended.out
    assert "(paired over groups of 'pool')" in ended.out
    assert "the training mean, " in ended.out
    assert linear["group"] == "pool"
    assert ep["rmse"]["mean"] < 1.5 * ep["training_mean"]["rmse"]
    page = Path("runs/d/report.html").read_text()
    assert f'data-value="{ep["rmse"]["mean"]}"' in page
    listed = " ".join(iceprobe("ls", "runs").out.split())
    assert f"{min(one['rmse']['mean'] for one in (linear, ep)):.3g} px RMSE" in listed
    advice = iceprobe("advise", "runs/d")
    assert "px (RMSE)" in " ".join(advice.out.split())
    again = iceprobe("segment", *TINY, *distance, "--output", "runs/d")
    assert "runs/d is complete already: nothing to do." in again.out
    (store,) = Path("features").iterdir()
    for command in (
        ["fit", str(store), "--probe", "linear"],
        ["knn", str(store)],
        ["run", *TINY[:2], *distance[:2], "--probe", "linear"],
        ["adapt", *TINY[:2], *distance[:2], "--probe", "linear"],
        ["plan", *TINY[:2], *distance[:2]],
    ):
        refused = iceprobe(*command)
        assert refused.code == 2, command
        assert refused.err.endswith("task='depth' is of single patches: take iceprobe segment\n")
        assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("cell", "more", "seen"),
    [
        (
            "0.npy",
            "&fold=label",
            "has no split 'test' (it has train), and iceprobe segment has no folds",
        ),
        ("0.npy", "&target=label", "beside depth=: the numbers of pixels are the targets"),
        ("gone.npy", "", "row 2 of 't.csv': no depth 'gone.npy'"),
        ("t.csv", "", "t.csv' can't be read"),
        ("wide.npy", "", "depth map of image '0.png' has 9 x 8 pixels and the image 8 x 8"),
        ("zero.npy", "", "no pixel of train has a known number"),
        ("0.npy", "", "the numbers of train's known pixels are all the same (4)"),
    ],
)
def test_wrong_depth_maps_are_one_line(iceprobe, cell, more, seen):
    for name, size, value in (("0", 8, 4), ("wide", 9, 4), ("zero", 8, 0)):
        np.save(f"{name}.npy", np.full((8, size), value))
    lines = ["image,label,depth,split"]
    for n in range(24):
        Image.new("L", (8, 8), n).save(f"{n}.png")
        lines.append(f"{n}.png,{'ab'[n % 2]},{cell},{'train' if n < 20 else 'test'}")
    Path("t.csv").write_text("\n".join(lines))
    split = "" if "fold" in more else "&split=split"
    data = f"table:t.csv?image=image&depth=depth{split}{more}"
    ended = iceprobe("segment", *TINY, "--data", data, "--output", "runs/s")
    assert ended.code == 2
    assert seen in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--data", "bundled:fashion-scenes"], "has tags an image, and the pixels on a mask have"),
        (["--data", "bundled:fashion"], "bundled:fashion has no masks to segment by: take one"),
        ([*CLUTTER, "--probe", "aim12"], "probe 'aim12' doesn't segment: take linear or an EP"),
        ([*CLUTTER, "--probe", "ep0"], "'0'"),
        ([*CLUTTER, "--limit", "5"], "no training image of class"),
        ([*CLUTTER, "--batch-size", "1"], "--batch-size 1"),
        (["--data", "bundled:fashion-cluter"], "Did you mean fashion-clutter"),
        ([], "no data given: give --data VALUE"),
    ],
)
def test_what_cannot_be_segmented_is_one_line(iceprobe, options, seen):
    ended = iceprobe("segment", *TINY, *options, "--output", "runs/s")
    assert ended.code == 2
    assert seen in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("runs").exists()


def test_tokens_without_a_grid_are_refused_before_they_are_extracted(iceprobe, monkeypatch):
    from iceprobe.backbones.base import Backbone

    monkeypatch.setattr(Backbone, "grid", None)
    ended = iceprobe("segment", *TINY, *CLUTTER)
    assert ended.code == 2
    assert "tokens of bundled:mae-tiny lie on no grid" in ended.err
    assert not Path("features").exists()


def test_defaults_are_those_of_the_python_function():
    from iceprobe.dense import api

    assert SegmentRun(backbone="b", data="d").probe == list(api.PROBES)
