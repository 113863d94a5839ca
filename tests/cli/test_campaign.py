"""Campaigns: several runs in one, each an ordinary run, and a report across them."""

import json
import re

import pytest

from iceprobe.cli.campaign import cells
from iceprobe.cli.config import resolve
from iceprobe.results import read_results
from iceprobe.settings import Run
from tests.cli.conftest import BACKBONE, write_images, write_table

QUICK = ["--probe", "knn", "--probe", "linear", "--probe", "ep4", "--epochs", "2", "--seeds", "1"]
OTHER = BACKBONE.replace("image_size=16", "image_size=32")


@pytest.mark.slow
def test_two_backbones_and_three_draws_are_six_runs_and_one_report(iceprobe, images, tmp_path):
    few = ["--shots", "2,4", "--fraction", "0.5", "--replicates", "2"]
    asked = ["--backbone", BACKBONE, "--backbone", OTHER, "--data", f"folder:{images}", *few]
    ended = iceprobe("run", *asked, *QUICK, "--output", "c")
    assert (ended.code, ended.err) == (0, "")
    cells = sorted(path.name for path in (tmp_path / "c" / "cells").iterdir())
    assert len(cells) == 6
    assert sum("4-shots" in name for name in cells) == 2
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


@pytest.mark.slow
def test_a_campaign_that_was_stopped_goes_on_with_what_is_missing(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--shots", "2,4", *QUICK]
    assert iceprobe("run", *asked, "--output", "c").code == 0
    first, second = sorted((tmp_path / "c" / "cells").iterdir())
    before = (first / "results.json").read_bytes()
    for file in (tmp_path / "c" / "results.json", second / "results.json", first / "report.html"):
        file.unlink()  # the first cell was killed between its last number and its report
    ended = iceprobe("run", *asked, "--output", "c")
    assert (ended.code, ended.err) == (0, "")
    assert (first / "results.json").read_bytes() == before
    assert (first / "report.html").stat().st_size > 10_000
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


def test_a_limit_that_leaves_a_class_out_is_refused_before_anything_is_extracted(
    iceprobe, images, tmp_path
):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", *QUICK, "--output", "r"]
    ended = iceprobe("run", *asked, "--limit", "2")
    assert ended.code == 2
    assert "the limit took 2 of 36 training images: raise it" in ended.err
    assert not list(tmp_path.iterdir())


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
        (["--backbone", BACKBONE], "is given twice"),
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


@pytest.mark.slow
def test_store_and_shots_make_a_campaign_of_fits(iceprobe, images, tmp_path):
    ended = iceprobe("extract", "--backbone", BACKBONE, "--data", f"folder:{images}")
    assert ended.code == 0
    (store,) = (tmp_path / "features").iterdir()
    assert iceprobe("fit", store, *QUICK, "--shots", "1,3", "--output", "c").code == 0
    entries = json.loads((tmp_path / "c" / "results.json").read_text())["results"]
    assert {entry["shots"] for entry in entries} == {1, 3}


def test_cells_of_one_short_name_are_distinguished(tmp_path):
    """Two checkpoints of one file name in different folders."""
    spec = "timm:vit_tiny_patch16_224?checkpoint=/{}/last.pth"
    config = resolve(
        Run, {"backbone": [spec.format("a"), spec.format("b")], "data": "bundled:fashion"}
    )
    names = [cell.output.name for cell in cells(config)]
    assert len(set(names)) == 2
    assert all(name.startswith("vit_tiny_patch16_224-checkpoint-last.pth-") for name in names)


def test_a_cell_that_cannot_run_is_reported_before_any_is_begun(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", *QUICK, "--output", "c"]
    for more, says in (
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["--shots", "2,13"], "take --shots 12"),
        (["--backbone", "bundled:mae-tiny", "--probe", "ep5"], "ep5"),
    ):
        ended = iceprobe("run", *asked, *more)
        assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
        assert says in ended.err
        assert not (tmp_path / "c").exists()


def test_the_same_tokens_under_two_names_are_refused(iceprobe, tmp_path):
    twice = ["--backbone", "bundled:mae-tiny", "--backbone", "bundled:mae-tiny?layer=-1"]
    ended = iceprobe("run", *twice, "--data", "bundled:fashion", "--limit", "60", "--output", "c")
    assert ended.code == 2
    assert "the same tokens under two names" in ended.err
    assert not (tmp_path / "c").exists()


def test_a_campaign_does_not_take_up_cells_of_other_images(iceprobe, tmp_path):
    """The classes of the test images are swapped between the stop and the second call."""
    data = write_images(tmp_path / "images", {"train": 6, "test": 3})
    asked = ["--backbone", BACKBONE, "--data", f"folder:{data}", "--shots", "2,4"]
    asked += ["--probe", "knn", "--output", "c"]
    assert iceprobe("run", *asked).code == 0
    (tmp_path / "c" / "results.json").unlink()
    (data / "test" / "dark").rename(data / "test" / "other")
    (data / "test" / "light").rename(data / "test" / "dark")
    (data / "test" / "other").rename(data / "test" / "light")
    ended = iceprobe("run", *asked)
    assert ended.code == 2
    assert "features have changed" in ended.err


@pytest.mark.slow
def test_campaigns_are_compared_cell_by_cell(iceprobe, images):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", *QUICK]
    assert iceprobe("run", *asked, "--shots", "2,4", "--output", "a").code == 0
    assert iceprobe("run", *asked, "--shots", "4,2", "--output", "b").code == 0
    ended = iceprobe("compare", "a", "b")
    assert ended.code == 0
    rows = [line.split() for line in ended.out.splitlines() if line.startswith(("knn ", "ep4* "))]
    assert len(rows) == 4
    assert all("0.0" in row for row in rows)  # the same draws, the same numbers
    alone = iceprobe("compare", "a", "--against", "ep4").out
    assert "2 shots" in alone
    assert "4 shots" in alone
    exported = iceprobe("export", "a", "--probe", "ep4")
    assert exported.code == 2
    assert "a/cells/" in exported.err


def test_draws_and_columns_of_groups_are_refused_before_anything_is_extracted(
    iceprobe, images, tmp_path
):
    """Twelve images a class, of six patients."""
    columns = ("patient",)
    write_table(images, tmp_path / "test.csv", columns, "test")
    table = (
        write_table(images, tmp_path / "train.csv", columns, "train") + f"&test={tmp_path}/test.csv"
    )
    asked = ["run", "--backbone", BACKBONE, *QUICK, "--output", "r"]
    for more, says in (
        (
            ["--data", table, "--group", "patient", "--shots", "7"],
            "only 6 training groups, take --shots 6",
        ),
        (["--data", f"{table}&group=patient", "--shots", "2,7"], "only 6 training groups"),
        (["--data", f"folder:{images}", "--group", "patient"], "was read with no column"),
    ):
        ended = iceprobe(*asked, *more)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended
        assert says in ended.err
        assert not (tmp_path / "features").exists()
        assert not (tmp_path / "r").exists()
    store = tmp_path / "features"
    assert iceprobe("extract", "--backbone", BACKBONE, "--data", table + "&group=patient").code == 0
    (store,) = store.iterdir()
    fit = iceprobe("fit", store, *QUICK, "--group", "patient", "--shots", "2,7", "--output", "r")
    assert (fit.code, fit.err.count("\n")) == (2, 1)
    assert "only 6 training groups" in fit.err
    assert not (tmp_path / "r").exists()
