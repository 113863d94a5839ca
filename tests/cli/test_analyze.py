"""``iceprobe analyze`` from the command line: a figure for a paper, and what is refused at once."""

import os

import pytest

from iceprobe import analyze, figure, read_results
from iceprobe.core.errors import IceprobeError
from tests.cli.conftest import BACKBONE

QUICK = ["--epochs", "1", "--seeds", "1", "--learning-rates", "1e-2", "--batch-size", "16"]


def test_a_figure_is_what_python_draws_and_nothing_is_measured(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--probe", "ep2", *QUICK]
    assert iceprobe("run", *asked, "--output", "r").code == 0
    for path in (tmp_path / "r").rglob("*"):
        os.utime(path, ns=(1, 1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    ended = iceprobe("analyze", "r", "--figure", "m.svg", "--images", 2, "--column")
    drawn = tmp_path / "m.svg"
    assert (ended.code, ended.err, ended.out.strip()) == (0, "", str(drawn))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")} == before
    same = figure(read_results("r"), tmp_path / "python.svg", images=2, column=True)
    assert drawn.read_bytes() == same.read_bytes()

    refused = iceprobe("analyze", "r", "--figure", "m.gif")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "ends in .pdf, .svg, .png" in refused.err
    assert not (tmp_path / "m.gif").exists()


def test_without_boxes_the_background_is_refused_before_any_pass(iceprobe, images, tmp_path):
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--probe", "ep2", *QUICK]
    assert iceprobe("run", *asked, "--output", "r").code == 0
    passes = []
    with pytest.raises(IceprobeError, match="has no boxes"):
        analyze(read_results("r"), background=True, progress=lambda *seen: passes.append(seen))
    assert passes == []
    refused = iceprobe("analyze", "r", "--background")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert not (tmp_path / "r" / "analysis.json").exists()
