"""``iceprobe test`` and ``--test``: a run on other data sets, from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from iceprobe.results import read_results
from iceprobe.results.statistics import accuracy_interval
from tests.cli.conftest import BACKBONE, write_images, write_table

QUICK = ["--probe", "knn", "--probe", "linear", "--seeds", "1"]


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    """Two of the run's three classes; classes that it doesn't have."""
    two = write_images(tmp_path / "two", {"all": 3}, ("dark", "grey")) / "all"
    odd = write_images(tmp_path / "odd", {"all": 2}, ("dark", "Gray")) / "all"
    return {"two": f"folder:{two}?test_fraction=1", "odd": f"folder:{odd}?test_fraction=1"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


def test_bundled_sets_end_to_end(iceprobe, tmp_path):
    run = ["run", "--backbone", "bundled:mae-tiny", "--data", "bundled:fashion", *QUICK]
    run += ["--limit", "80", "--output", "runs/f"]
    ended = iceprobe(*run, "--epochs", "1")
    assert (ended.code, ended.err) == (0, "")
    ended = iceprobe("test", "runs/f", "--data", "bundled:fashion-clutter", "--limit", "40")
    assert (ended.code, ended.err) == (0, "")
    assert "Other test sets, top-1 %" in ended.out
    assert ended.out.splitlines()[-1] == "runs/f/tests/fashion-clutter"
    found = read_results(tmp_path / "runs" / "f" / "tests" / "fashion-clutter")
    assert [one.probe for one in found] == ["knn", "linear"]
    assert {(one.dataset, one.split, one.test_images) for one in found} == {
        ("bundled:fashion-clutter", "test", 40)
    }
    assert {one.test_of.dataset for one in found} == {"bundled:fashion"}
    assert found[0].command.startswith("iceprobe test runs/f --data")
    assert not (tmp_path / "runs" / "f" / "tests" / "fashion-clutter" / "masked").exists()
    table = iceprobe("compare", "runs/f/tests/fashion-clutter")
    assert (table.code, table.err) == (0, "")
    page = iceprobe("report", "runs/f/tests/fashion-clutter")
    assert (page.code, page.err) == (0, "")
    # Both stores are read by a run: neither is pruned.
    assert len(list((tmp_path / "features").iterdir())) == 2
    assert "no run" not in iceprobe("ls", "stores").out


def test_run_reads_other_sets_after_the_fit_and_adds_those_asked_for_later(
    iceprobe, quick, others, tmp_path
):
    run = ["run", *quick, "--probe", "knn", "--probe", "linear", "--output", "runs/a"]
    ended = iceprobe(*run, "--test", f"two={others['two']}")
    assert (ended.code, ended.err) == (0, "")
    assert "two, masked" in ended.out
    assert ended.out.splitlines()[-1].endswith("runs/a/report.html")
    folder = tmp_path / "runs" / "a"
    assert len(read_results(folder / "tests" / "two")) == 2
    assert [one.classes for one in read_results(folder / "tests" / "two" / "masked")] == [2, 2]
    assert "test two: results of 4 probes" in (folder / "log.txt").read_text()
    before = files(folder / "tests")
    again = iceprobe(*run, "--test", f"two={others['two']}", "--test", f"more={others['two']}")
    assert (again.code, again.err) == (0, "")
    assert "is complete already" in again.out
    after = files(folder / "tests")
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)
    # Tables show them beside the run's own split.
    assert iceprobe("report", "runs/a", "--output", "t.md").code == 0
    text = (tmp_path / "t.md").read_text()
    assert "## Other test sets, top-1 %" in text
    assert "| probe | test | more | more, masked | two | two, masked |" in text
    assert iceprobe("report", "runs/a", "--output", "t.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [(row["test"], row["masked"]) for row in rows[::2]] == [
        ("", "False"), ("more", "False"), ("more", "True"), ("two", "False"), ("two", "True"),
    ]  # fmt: skip
    assert iceprobe("compare", "runs/a/tests/two", "runs/a/tests/more").code == 0


def test_fit_reads_them_too_and_code_of_a_store_needs_trust(
    iceprobe, quick, others, tmp_path, monkeypatch
):
    assert iceprobe("extract", *quick[:4]).code == 0
    (store,) = (tmp_path / "features").iterdir()
    fit = ["fit", store, *QUICK, "--output", "runs/b", "--test", f"two={others['two']}"]
    monkeypatch.setattr("iceprobe.store.recorded.has_run", lambda _: False)  # in another process
    refused = iceprobe(*fit)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "runs code of its own" in refused.err
    assert iceprobe(*fit, "--trust").code == 0
    assert len(read_results(tmp_path / "runs" / "b" / "tests" / "two")) == 2


@pytest.mark.slow
def test_a_campaign_reads_them_in_each_of_its_runs(iceprobe, quick, others, tmp_path):
    run = ["run", *quick, "--probe", "linear", "--shots", "2,4", "--output", "runs/c"]
    ended = iceprobe(*run, "--test", f"two={others['two']}")
    assert (ended.code, ended.err) == (0, "")
    assert len(list((tmp_path / "runs" / "c").glob("cells/*/tests/two/results.json"))) == 2
    assert "two, masked" in ended.out
    again = iceprobe("test", "runs/c", "--data", others["two"], "--name", "later", "--trust")
    assert (again.code, again.err) == (0, "")
    assert len(list((tmp_path / "runs" / "c").glob("cells/*/tests/later/masked"))) == 2


def test_wrong_inputs_are_a_line_each_and_leave_nothing(
    iceprobe, quick, others, tmp_path, monkeypatch
):
    run = ["run", *quick, "--probe", "linear", "--output", "runs/d"]
    for test, words in {
        others["two"]: "write NAME=SPEC",
        "=folder:x": "write NAME=SPEC",
        f"x={others['odd']}": "'Gray' is none of the 3 that the run predicts; the nearest are 'grey'",
        "x=folder:nowhere": "no folder 'nowhere'",
        "x=imagenet-b?root=x": "Did you mean imagenet-",
    }.items():
        ended = iceprobe(*run, "--test", test)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended
        assert words in ended.err
    assert not (tmp_path / "runs").exists()
    assert iceprobe(*run).code == 0
    monkeypatch.setattr("iceprobe.store.recorded.has_run", lambda _: False)
    for arguments, words in (
        (["runs/nowhere", "--data", others["two"]], "no results at runs/nowhere"),
        (["runs/d", "--data", others["odd"], "--trust"], "'Gray' is none of the 3"),
        (["runs/d"], "give --data VALUE"),
        (["runs/d", "--data", others["two"], "--split", "val", "--trust"], "unknown split"),
        (["runs/d", "--data", others["two"], "--name", "a/b", "--trust"], "take letters"),
        (["runs/d", "--data", others["two"]], "runs code of its own"),
    ):
        ended = iceprobe("test", *arguments)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended
        assert words in ended.err
    assert not (tmp_path / "runs" / "d" / "tests").exists()


def test_nothing_is_fitted_on_a_test_set_alone(iceprobe, others):
    for command in (
        ["run", "--backbone", BACKBONE, "--data", others["two"], "--probe", "linear"],
        ["adapt", "--backbone", BACKBONE, "--data", others["two"]],
    ):
        ended = iceprobe(*command)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended
        assert "iceprobe test RUN --data folder:" in ended.err


def test_a_test_of_an_earlier_fit_is_not_shown_as_this_runs(iceprobe, quick, others, tmp_path):
    run = ["run", *quick, "--probe", "knn", "--output", "runs/e"]
    assert iceprobe(*run, "--test", f"two={others['two']}").code == 0
    path = tmp_path / "runs" / "e" / "results.json"
    document = json.loads(path.read_text())
    document["results"][0]["created"] = "2020-01-01T00:00:00+00:00"
    del document["sha256"]
    path.write_text(json.dumps(document))
    ended = iceprobe("report", "runs/e", "--output", "t.md")
    assert "is of an earlier fit" in ended.out
    assert "Other test sets" not in (tmp_path / "t.md").read_text()
    again = iceprobe("test", "runs/e", "--data", others["two"], "--name", "two", "--trust")
    assert again.code == 2
    assert "holds a test of an earlier fit" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("where", ["option", "spec"])
def test_another_set_is_read_in_the_groups_that_the_run_was_asked_for_and_once(
    iceprobe, images, tmp_path, monkeypatch, where
):
    from iceprobe.datasets import registry

    both = ("patient",)
    write_table(images, tmp_path / "test.csv", both, "test")
    data = write_table(images, tmp_path / "train.csv", both, "train") + f"&test={tmp_path}/test.csv"
    more = write_images(tmp_path / "more", {"test": 6})
    named = write_table(more, tmp_path / "named.csv", both, "test") + "&test_fraction=1"
    bare = write_table(more, tmp_path / "bare.csv", (), "test") + "&test_fraction=1"
    loaded: list[str] = []
    load = registry.load_dataset

    def counted(spec, **options):
        loaded.append(spec)
        return load(spec, **options)

    monkeypatch.setattr(registry, "load_dataset", counted)
    data += "&group=patient" if where == "spec" else ""
    run = ["run", "--backbone", BACKBONE, "--data", data, *QUICK, "--shots", "2,4", "--epochs", "2"]
    run += ["--output", "runs/g"] + (["--group", "patient"] if where == "option" else [])
    ended = iceprobe(*run, "--test", f"named={named}", "--test", f"bare={bare}")
    assert (ended.code, ended.err) == (0, "")
    assert [Path(one.partition("?")[0]).name for one in loaded if "group" in one or one == bare] == [
        "train.csv", "named.csv", "bare.csv", "bare.csv"
    ]  # fmt: skip
    (first, *_) = sorted((tmp_path / "runs" / "g" / "cells").iterdir())
    (knn, linear) = read_results(first / "tests" / "named")
    groups = linear.predictions().groups
    # Nine patients with two images each.
    counts = np.unique(groups, return_counts=True)[1]
    assert counts.tolist() == [2] * 9
    right = linear.predictions().correct
    assert linear.top1.interval == pytest.approx(accuracy_interval(right, None, groups))
    assert (knn.group, linear.group) == ("patient", "patient")
    (_, alone) = read_results(first / "tests" / "bare")
    assert alone.predictions().groups is None
    assert any("bare is read without it: each of its examples counts" in a for a in alone.assumed)
    # Later, in a process of its own.
    again = iceprobe("test", first, "--data", named, "--name", "later", "--trust")
    assert (again.code, again.err) == (0, "")
    later = read_results(first / "tests" / "later")
    assert [one.metrics for one in later] == [knn.metrics, linear.metrics]


def test_a_store_that_does_not_fit_is_refused_before_anything_is_fitted(
    iceprobe, quick, images, others, tmp_path
):
    def stored(name: str, data: str, backbone: str = BACKBONE, *more: str) -> Path:
        assert (
            iceprobe(
                "extract", "--backbone", backbone, "--data", data, "--features", name, *more
            ).code
            == 0
        )
        (path,) = (tmp_path / name).glob("*--*")
        return path

    other = stored("b", others["two"], BACKBONE.replace("std=0.5", "std=0.25"))
    odd = stored("o", others["odd"])
    vectors = stored("v", others["two"], BACKBONE, "--no-patches")
    own = stored("f", f"folder:{images}")
    ended = iceprobe("fit", own, *QUICK, "--budget", "200", "--test", f"x={vectors}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "reads patch tokens and store" in ended.err
    ask = ["--probe", "ep2", "--epochs", "1", "--seeds", "1", "--output", "runs/s"]
    for command in (["run", *quick, *ask], ["fit", own, *ask]):
        for store, words in {
            other: "which isn't the backbone of the run",
            odd: "'Gray' is none of the 3 that the run predicts",
            vectors: "ep2 reads patch tokens and store",
        }.items():
            ended = iceprobe(*command, "--test", f"x={store}")
            assert (ended.code, ended.err.count("\n")) == (2, 1), ended
            assert words in ended.err
            assert not (tmp_path / "runs").exists()
            assert not (tmp_path / "features").exists()
