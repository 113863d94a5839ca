"""``--live`` from images to the report, without a store."""

import pytest

from iceprobe.results import read_results

PROBES = ["--probe", "knn", "--probe", "linear", "--probe", "ep2"]


@pytest.mark.parametrize("command", ["run", "fit"])
def test_from_images_to_report(iceprobe, quick, tmp_path, command):
    asked = [command, *quick, *PROBES, "--live", "--output", "runs/live"]
    ended = iceprobe(*asked)
    assert (ended.code, ended.err) == (0, "")
    assert "members live, " in ended.out
    assert not (tmp_path / "features").exists()
    seen = [result.training_images for result in read_results("runs/live")]
    assert seen == ["evaluation view, without augmentation", *["live, paper augmentation"] * 2]
    assert "live, paper augmentation" in (tmp_path / "runs/live/report.html").read_text()
    shown = iceprobe(*asked)
    assert (shown.code, "is complete already" in shown.out) == (0, True)
    again = iceprobe("run", "runs/live/config.yaml", "augmentation=none", "output=runs/plain")
    assert again.code == 0
    plain = read_results("runs/plain")[1]
    assert plain.training_images == "live, evaluation view, without augmentation"


def test_a_store_of_the_same_images_does_not_matter(iceprobe, quick):
    """Nothing is left to extract there, and yet the backbone's pace has to be measured."""
    assert iceprobe("run", *quick, *PROBES).code == 0
    ended = iceprobe("run", *quick, *PROBES, "--live")
    assert (ended.code, ended.err) == (0, "")
    assert "members live, " in ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "--live", "features/x"], "--live reads no store: leave features/x out"),
        (["fit"], "name a feature store"),
        (["fit", "features/x", "--data", "bundled:fashion"], "is for --live"),
        (["run", "QUICK", "--live", "--views", "2"], "live images are new every epoch"),
        (["run", "QUICK", "--augmentation", "none"], "leave it out"),
    ],
)
def test_what_does_not_go_together(iceprobe, quick, arguments, says):
    given = [part for a in arguments for part in (quick if a == "QUICK" else [a])]
    ended = iceprobe(*given)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert says in ended.err
