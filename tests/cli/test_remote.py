"""From images on object storage to a report, through a store there."""

import pytest

from iceprobe.results import read_results
from iceprobe.results.segmentation_files import read_segmentations
from tests.cli.conftest import BACKBONE
from tests.remote import BUCKET, objects, put_folder, s3_server

FEATURES = f"s3://{BUCKET}/cli-features"


@pytest.fixture
def s3(images, tmp_path, monkeypatch):
    monkeypatch.setenv("ICEPROBE_CACHE", str(tmp_path / "cache"))
    with s3_server(monkeypatch.setenv) as address:
        put_folder(images, "birds")
        yield address


@pytest.mark.slow
def test_from_images_to_report(iceprobe, s3, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--probe", "knn", "--probe", "ep4", "--seeds", "1"]
    asked += ["--epochs", "2", "--output", "r"]
    there = [*asked, "--data", f"folder:s3://{BUCKET}/birds", "--features", FEATURES]
    ended = iceprobe("run", *there)
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "r" / "report.html").exists()
    assert f"features: {FEATURES}" in (tmp_path / "r" / "config.yaml").read_text()
    assert not (tmp_path / "s3:").exists()
    results = read_results(tmp_path / "r")
    assert all(one.store.path.startswith(f"{FEATURES}/") for one in results)
    assert iceprobe("run", *asked[:-1], "here", "--data", f"folder:{images}").code == 0
    assert [one.top1 for one in results] == [one.top1 for one in read_results(tmp_path / "here")]
    assert "complete already" in iceprobe("run", *there).out

    assert iceprobe("report", "r", "--output", "again.html").code == 0
    assert "class 0" not in (tmp_path / "again.html").read_text()  # names come from the store there

    store = results[0].store.path
    ended = iceprobe("extract", "--verify", store)
    assert (ended.code, store in ended.out) == (0, True)
    ended = iceprobe("extract", "--repair", store)
    assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
    assert iceprobe("fit", store, "--probe", "knn", "--output", "f").code == 0
    assert read_results(tmp_path / "f")[0].top1 == results[0].top1
    assert iceprobe("export", "r", "--probe", "ep4", "--output", "e").code == 0
    plan = iceprobe("plan", *there[:-6], *there[-4:])
    assert plan.code == 0, plan.err
    assert "nothing to extract" in plan.out
    assert len(objects("cli-features")) == 5  # two shards with their records, and the manifest


@pytest.mark.slow
def test_segmentation_through_a_store_there(iceprobe, s3, tmp_path):
    asked = ["--backbone", "bundled:mae-tiny", "--data", "bundled:fashion-clutter", "--limit", 100]
    asked += ["--probe", "linear", "--epochs", 1, "--seeds", 1, "--learning-rates", "1e-1"]
    ended = iceprobe("segment", *asked, "--features", FEATURES, "--output", "there")
    assert (ended.code, ended.err) == (0, "")
    assert not (tmp_path / "s3:").exists()
    assert f"features: {FEATURES}" in (tmp_path / "there" / "config.yaml").read_text()
    assert iceprobe("segment", *asked, "--output", "here").code == 0
    there, here = (read_segmentations(tmp_path / name)[0] for name in ("there", "here"))
    assert there.confusion == here.confusion
