"""What a run says of itself: its own names, how long it trained, and whether that was enough."""

import shutil

import pytest
import torch

from iceprobe.core.specs import parse_spec
from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE
from tests.cli.tiny import build

ASKED = ["--probe", "knn", "--probe", "linear?input=mean", "--probe", "ep2", "--seeds", "1"]


def test_a_run_has_the_names_that_it_was_asked_for_and_is_exported_from_them(
    iceprobe, images, tmp_path
):
    """Equal weights and images under other paths: one store, two runs."""
    torch.save(build().state_dict(), tmp_path / "first.pth")
    shutil.copy(tmp_path / "first.pth", tmp_path / "second.pth")
    copy = tmp_path / "copy" / images.name  # a store's folder has the name of the images'
    shutil.copytree(images, copy)
    asked = {
        "first": (f"{BACKBONE}&checkpoint={tmp_path / 'first.pth'}", f"folder:{images}"),
        "second": (f"{BACKBONE}&checkpoint={tmp_path / 'second.pth'}", f"folder:{copy}"),
    }  # fmt: skip
    for name, (backbone, data) in asked.items():
        command = ["run", "--backbone", backbone, "--data", data, *ASKED, "--epochs", "1"]
        assert iceprobe(*command, "--output", name).code == 0
    assert len(list((tmp_path / "features").iterdir())) == 1
    for name, (backbone, data) in asked.items():
        for one in read_results(tmp_path / name):
            assert (one.backbone, one.dataset) == (str(parse_spec(backbone)), data)
        page = (tmp_path / name / "report.html").read_text()
        other = {"first": "second", "second": "first"}[name]
        assert f"{name}.pth" in page
        assert f"{other}.pth" not in page
    (tmp_path / "first.pth").unlink()
    ended = iceprobe("export", "second", "--probe", "ep2", "--output", "exported")
    assert (ended.code, ended.err) == (0, "")
    assert "second.pth" in (tmp_path / "exported/model.json").read_text()
    refused = iceprobe("export", "first", "--probe", "ep2", "--output", "other")
    assert refused.code == 2
    assert "first.pth" in refused.err


@pytest.mark.slow
def test_how_many_steps_and_why_and_what_is_said_of_too_few(iceprobe, images, tmp_path):
    data = ["run", "--backbone", BACKBONE, "--data", f"folder:{images}", *ASKED]
    ended = iceprobe(*data, "--min-steps", 30, "--batch-size", 18, "--output", "long")
    line = "fit: 20 epochs of 2 steps (18 images each): 40 steps"
    assert ended.code == 0
    assert line in ended.out
    ended = iceprobe(*data, "--min-steps", 30, "--output", "raised")
    line = (
        "fit: 30 epochs of 1 steps (36 images each): 30 steps; 20 epochs of 36 images would be 20, "
        "and a fit takes at least --min-steps 30"
    )
    assert line in ended.out
    assert line in (tmp_path / "raised/log.txt").read_text()
    assert "min_steps: 30" in (tmp_path / "raised/config.yaml").read_text()
    assert read_results(tmp_path / "raised")[-1].training["epochs"] == 30

    ended = iceprobe(*data, "--epochs", 1, "--output", "short")
    assert "fit: 1 epochs of 1 steps (36 images each): 1 steps" in ended.out
    *whole, ep = read_results(tmp_path / "short")
    assert [one.undertrained for one in whole] == [[], []]  # a linear probe is at its optimum
    assert ep.undertrained[0] == "1 training step"
    assert "undertrained (1 training step" in " ".join(ended.out.split())
    assert (
        "but EP2 is undertrained: that shows no order.</h1>"
        in (tmp_path / "short/report.html").read_text()
    )
    said = " ".join(iceprobe("advise", "short").out.split())
    assert "ep2 reads" in said
    assert "and is undertrained: 1 training step" in said
    for claim in ("Aggregation", "aggregation", "Report"):
        assert claim not in said
    before, table = iceprobe("compare", "short", "--margin", 50).out.split("probe", 1)
    assert "ep2: undertrained (1 training step" in before
    assert "leave --epochs out, or raise it" in before
    (row,) = [line for line in table.splitlines() if line.startswith("ep2*")]
    assert row.split()[-3:] == ["no", "not", "shown"]
