"""``--views`` from images to the report, in the file, in a plan, and what is refused."""

import yaml

from iceprobe.results import read_results
from iceprobe.store import Store
from tests.cli.conftest import BACKBONE
from tests.cli.test_plan import DEVICE, table
from tests.cli.test_run import contents, the_run

PROBES = ["--probe", "knn", "--probe", "linear", "--probe", "ep2"]
VIEWS = ["--views", "2", "--augmentation", "light"]


def test_from_images_to_report(iceprobe, quick, tmp_path):
    ended = iceprobe("run", *quick, *PROBES, *VIEWS)
    assert (ended.code, ended.err) == (0, "")
    assert "48 images, those of train in 3 views" in ended.out
    run = the_run(tmp_path)
    said = [result.training_images for result in read_results(run)]
    seen = "2 stored views, light augmentation"
    assert said == ["evaluation view, without augmentation", seen, seen]
    assert seen in (run / "report.html").read_text()
    log = (run / "log.txt").read_text()
    assert "tokens of their evaluation view are in memory" in log
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["views"], config["augmentation"]) == (2, "light")
    # The same again is shown, from the same store; extract finds it as well.
    before = contents(tmp_path)
    assert "is complete already" in iceprobe("run", *quick, *PROBES, *VIEWS).out
    data = quick[quick.index("--data") + 1]
    found = iceprobe("extract", "--backbone", BACKBONE, "--data", data, *VIEWS)
    (path,) = (tmp_path / "features").iterdir()
    assert found.out.splitlines()[-1] == str(path.relative_to(tmp_path))
    assert contents(tmp_path) == before
    assert "intact: 4 shards" in iceprobe("extract", "--verify", path).out  # 3 of train, 1 of test
    assert Store.open(path)["train"].views is not None
    # Fitted again by itself, from the store.
    again = iceprobe("fit", path, "--probe", "ep2", "--seeds", 1, "--epochs", 1, "--output", "f")
    assert again.code == 0
    (result,) = read_results(tmp_path / "f")
    assert result.training_images == seen


def test_paper_says_what_it_was_trained_on(iceprobe, quick, tmp_path):
    paper = ["--probe", "ep2", "--protocol", "paper"]
    assert iceprobe("run", *quick, *paper, "--output", "plain").code == 0
    ended = iceprobe("run", *quick, *paper, "--output", "views", "--views", 1)
    assert ended.code == 0
    for name, words in (
        ("plain", "evaluation view, without augmentation"),
        ("views", "1 stored view, paper augmentation"),
    ):
        assert f"cached features: {words}" in (tmp_path / name / "report.html").read_text()
    assert "cached features: 1 stored view, paper augmentation" in " ".join(ended.out.split())
    compared = iceprobe("compare", "views", "plain")
    assert (compared.code, compared.err) == (0, "")


def test_without_views_the_configuration_is_as_it_was(iceprobe, quick, tmp_path):
    assert iceprobe("run", *quick, "--probe", "knn").code == 0
    config = yaml.safe_load((the_run(tmp_path) / "config.yaml").read_text())
    assert {"views", "augmentation"}.isdisjoint(config)


def test_a_plan_counts_the_views(iceprobe):
    """Tiny in float16: (5 · 12 · 2 + 12 · 4 + 24) = 192 bytes a view, patches 96 of them.

    5e6 · 192 B = 960.0 MB, and the headers of 5 · 977 shards of 4,096 bytes 20.0 MB.
    """
    options = ["--images", "1M", "--classes", "4", "--probe", "ep2", *DEVICE]
    disk = ["--disk-gb-per-second", "5"]
    ended = iceprobe("plan", "--backbone", BACKBONE, *options, *disk, "--views", 4)
    assert (ended.code, ended.err) == (0, "")
    rows = table(ended.out)
    assert rows["images"] == "train 1,000,000 in 5 views"
    assert rows["disk"].startswith("980.0 MB, ")
    assert rows["memory, to hold all patch tokens"].startswith("480.0 MB")
    assert rows["time, extraction"] == "about 33 min 20 s at 2,500 images/s"  # 5M forward passes


def test_what_makes_no_sense_ends_in_one_line(iceprobe, quick, tmp_path):
    for options, words in (
        (["--views", "-1"], "--views"),
        (["--views", "2", "--augmentation", "heavy"], "--augmentation 'heavy'"),
        (["--augmentation", "light"], "--views 4"),
    ):
        for command in (["run", *quick, "--probe", "ep2"], ["plan", *quick, "--probe", "ep2"]):
            ended = iceprobe(*command, *options)
            assert ended.code == 2
            assert words in ended.err
            assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
