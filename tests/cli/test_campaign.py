"""Campaigns: several runs in one, each an ordinary run, and a report across them."""

import json
import re

import pytest

from iceprobe.cli.campaign import cells
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE

QUICK = ["--probe", "knn", "--probe", "linear", "--probe", "ep4", "--epochs", "2", "--seeds", "1"]
OTHER = BACKBONE.replace("image_size=16", "image_size=32")


def test_two_backbones_and_three_draws_are_six_runs_and_one_report(iceprobe, images, tmp_path):
    few = ["--shots", "2,4", "--fraction", "0.5", "--replicates", "2"]
    asked = ["--backbone", BACKBONE, "--backbone", OTHER, "--data", f"folder:{images}", *few]
    ended = iceprobe("run", *asked, *QUICK, "--output", "c")
    assert (ended.code, ended.err) == (0, "")
    cells = sorted(path.name for path in (tmp_path / "c" / "cells").iterdir())
    assert len(cells) == 6
    assert sum(name.endswith("4-shots") for name in cells) == 2
    results = read_results(tmp_path / "c")
    assert len(results) == 6 * 3
    found = {(one.shots, one.fraction, one.train_images) for one in results}
    assert found == {(2, None, 6), (4, None, 12), (None, 0.5, 18)}
    by_cell = [r for name in cells for r in read_results(tmp_path / "c" / "cells" / name)]
    assert sorted(r.top1.mean for r in results) == sorted(r.top1.mean for r in by_cell)
    for one in results:
        assert one.predictions() is not None  # found from the campaign's own folder
        assert all((tmp_path / "c" / name).exists() for name in one.files.probes)
    page = (tmp_path / "c" / "report.html").read_text()
    charts = re.findall(r'id="chart-([a-z]+)-\d+"', page)
    assert charts.count("rank") == 3  # a draw each
    assert charts.count("images") == 2  # a backbone each
    again = iceprobe("run", *asked, *QUICK, "--output", "c")
    assert "complete already" in again.out


def test_a_campaign_that_was_stopped_goes_on_with_what_is_missing(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--shots", "2,4", *QUICK]
    assert iceprobe("run", *asked, "--output", "c").code == 0
    first, second = sorted((tmp_path / "c" / "cells").iterdir())
    before = (first / "results.json").read_bytes()
    for file in (tmp_path / "c" / "results.json", second / "results.json"):
        file.unlink()
    ended = iceprobe("run", *asked, "--output", "c")
    assert (ended.code, ended.err) == (0, "")
    assert (first / "results.json").read_bytes() == before
    assert len(read_results(tmp_path / "c")) == 6


def test_layers_come_from_one_pass_and_a_cell_is_a_run_of_its_own(iceprobe, tmp_path):
    backbone = "bundled:mae-tiny"
    asked = ["--data", "bundled:fashion", "--limit", "40", "--probe", "knn?input=mean"]
    assert (
        iceprobe("run", "--backbone", backbone, "--layers", "0,-1", *asked, "--output", "c").code
        == 0
    )
    results = read_results(tmp_path / "c")
    assert [one.layer for one in results] == [0, 5]
    assert len(list((tmp_path / "features").iterdir())) == 2
    alone = iceprobe("run", "--backbone", f"{backbone}?layer=0", *asked, "--output", "alone")
    assert alone.code == 0
    assert read_results(tmp_path / "alone")[0].top1 == results[0].top1
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Layer by layer" in page


def test_a_budget_adds_the_probes_within_it(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--probe", "linear"]
    ended = iceprobe(
        "run", *asked, "--budget", "200", "--epochs", "1", "--seeds", "1", "--output", "r"
    )
    assert (ended.code, ended.err) == (0, "")
    results = read_results(tmp_path / "r")
    assert results[0].probe == "linear"
    assert len(results) > 3
    assert all(one.probe.startswith("ep") and one.parameters.total <= 200 for one in results[1:])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--shots", "none"], "--shots"),
        (["--shots", "0"], "--shots"),
        (["--fraction", "2"], "--fraction"),
        (["--replicates", "0"], "--replicates"),
        (["--budget", "lots"], "write a number such as 200k or 1.5M"),
        (["--budget", "3"], "the least is"),
        (["--shots", "99"], "has only 12 training images, take --shots 12"),
        (["--layers", "0,1"], "layer"),
        (["--backbone", BACKBONE], "asked for twice"),
    ],
    ids=str,
)
def test_wrong_requests_are_one_line_and_leave_no_run(iceprobe, images, tmp_path, more, says):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", *QUICK, "--output", "r"]
    ended = iceprobe("run", *asked, *more)
    assert ended.code == 2
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_store_and_shots_make_a_campaign_of_fits(iceprobe, images, tmp_path):
    ended = iceprobe("extract", "--backbone", BACKBONE, "--data", f"folder:{images}")
    assert ended.code == 0
    (store,) = (tmp_path / "features").iterdir()
    assert iceprobe("fit", store, *QUICK, "--shots", "1,3", "--output", "c").code == 0
    entries = json.loads((tmp_path / "c" / "results.json").read_text())["results"]
    assert {entry["shots"] for entry in entries} == {1, 3}


def test_cells_of_one_short_name_are_told_apart(tmp_path):
    """Two checkpoints of one file name in different folders."""
    spec = "timm:vit_tiny_patch16_224?checkpoint=/{}/last.pth"
    config = resolve(
        RunConfig, {"backbone": [spec.format("a"), spec.format("b")], "data": "bundled:fashion"}
    )
    names = [cell.output.name for cell in cells(config)]
    assert len(set(names)) == 2
    assert all(name.startswith("vit_tiny_patch16_224-checkpoint-last.pth-") for name in names)
