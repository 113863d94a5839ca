"""Tags and numbers of a table by every command, from the plan to predictions."""

import csv

import numpy as np
import pytest
from PIL import Image

from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE, write_images

OTHER = BACKBONE.replace("image_size=16", "image_size=32")
TARGETS = {"tags": "target=tags&separator=;", "grey": "target=grey,spread&unit=levels"}
FEW = ["--epochs", "2", "--seeds", "2", "--replicates", "1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """36 and 15 images with tags, their mean and deviation as numbers, patients and sites."""
    folder = tmp_path_factory.mktemp("table")
    write_images(folder / "images", {"train": 12, "test": 5})
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "tags", "grey", "spread", "patient", "site"])
        for number, path in enumerate(sorted((folder / "images").glob("*/*/*.png"))):
            pixels = np.asarray(Image.open(path), np.float64)
            mean, spread = pixels.mean(), pixels.std()
            has = {"light": mean > 100, "wide": spread > 20, "third": number % 3 == 0}
            tags = [tag for tag, there in has.items() if there]
            row = [path.relative_to(folder), path.parts[-3], ";".join(tags), mean, spread]
            rows.writerow([*row, f"p{number // 3}", "ab"[number % 2]])
    return f"table:{folder}/labels.csv?split=split&group=patient&slice=site"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_campaign_within_a_budget_and_all_that_follows(iceprobe, table, target, tmp_path):
    data = f"{table}&{TARGETS[target]}"
    numbers = target == "grey"
    asked = ["--backbone", BACKBONE, "--backbone", OTHER, "--data", data, "--fraction", "0.5,1"]
    asked += ["--probe", "knn", "--probe", "linear", "--budget", "150", "--halving", *FEW]
    plan = iceprobe("plan", *asked)
    assert (plan.code, plan.err) == (0, "")
    ended = iceprobe("run", *asked, "--output", "c")
    assert (ended.code, ended.err) == (0, "")
    results = read_results(tmp_path / "c")
    outputs = ["grey", "spread"] if numbers else ["light", "third", "wide"]
    assert {(one.task, one.primary) for one in results} == {
        ("regression", "r2") if numbers else ("multilabel", "map")
    }
    assert {tuple(one.class_names) for one in results} == {tuple(outputs)}
    assert {one.group for one in results} == {"patient"}
    eps = [one for one in results if one.probe.startswith("ep")]
    assert eps
    assert all(one.parameters.total <= 150 for one in eps)
    assert {one.fraction for one in results} == {0.5, 1.0}
    cell = sorted((tmp_path / "c" / "cells").iterdir())[0]

    metric = "mae" if numbers else "f1_macro"
    again = iceprobe("report", cell, "--metric", metric, "--output", "again.html")
    assert (again.code, again.err) == (0, "")
    assert len((tmp_path / "again.html").read_text()) > 10_000
    for command in (["compare", cell, "--against", "linear"], ["advise", cell]):
        ended = iceprobe(*command)
        assert ended.code == 0, ended.err
        assert "accuracy" not in ended.out
    ended = iceprobe("analyze", cell, "--probe", eps[0].probe)
    assert ended.code == 0, ended.err
    assert "accuracy" not in ended.out

    ended = iceprobe("export", cell, "--probe", eps[0].probe, "--output", "probe")
    assert ended.code == 0, ended.err
    folder = data.removeprefix("table:").partition("/labels.csv")[0]
    ended = iceprobe(
        "predict", "probe", "--images", f"{folder}/images/test/light", "--output", "p.csv"
    )
    assert ended.code == 0, ended.err
    (rows,) = [list(csv.DictReader((tmp_path / "p.csv").open()))]
    assert len(rows) == 5
    if numbers:
        assert all(any("levels" in key for key in row) for row in rows)


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_images_as_another_set_read_the_same(iceprobe, table, target, tmp_path):
    data = f"{table}&{TARGETS[target]}"
    fit = ["run", "--backbone", BACKBONE, "--data", data, "--probe", "linear", "--probe", "ep2"]
    assert iceprobe(*fit, *FEW, "--output", "r", "--test", f"again={data}").code == 0
    both = (read_results(tmp_path / folder) for folder in ("r", "r/tests/again"))
    for result, again in zip(*both, strict=True):
        assert (again.label, again.group) == (result.label, "patient")
        assert again.metrics.keys() == result.metrics.keys()
        for name, score in result.metrics.items():
            np.testing.assert_allclose(
                again.metrics[name].values, score.values, rtol=1e-5, atol=1e-5
            )
            if score.interval is not None:
                np.testing.assert_allclose(
                    again.metrics[name].interval, score.interval, rtol=1e-5, atol=1e-5
                )
