"""``advise``, from images to the paragraph."""

import subprocess
import sys

import pytest

from iceprobe.results import advise, read_results
from tests.cli.conftest import BACKBONE

QUICK = ["--epochs", "1", "--seeds", "1"]
OTHER = BACKBONE.replace("image_size=16", "image_size=32")
#: With terms in the loss, to the report as well.
PROBES = ["knn", "linear?input=mean", "ep4?complementarity=0.1&entropy=0.01"]


def asked(*probes: str) -> list[str]:
    return [part for probe in probes for part in ("--probe", probe)]


def test_of_a_run(iceprobe, images, tmp_path):
    data = ["--backbone", BACKBONE, "--data", f"folder:{images}"]
    assert iceprobe("run", *data, *QUICK, *asked(*PROBES), "--output", "r").code == 0
    results = read_results(tmp_path / "r")
    assert results[-1].probe == PROBES[-1]
    assert "EP4 (complementarity=0.1, entropy=0.01)" in (tmp_path / "r/report.html").read_text()
    ended = iceprobe("advise", "r")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split() == str(advise(results)).split()
    wide = iceprobe("advise", "r", "--margin", 100).out
    assert "A cheaper probe may lose less than 100 points." in " ".join(wide.split())
    refused = iceprobe("advise", "r", "--margin", -1)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--margin -1" in refused.err
    loaded = "import sys, iceprobe; iceprobe.advise(iceprobe.read_results('r')); "
    subprocess.run(
        [sys.executable, "-c", loaded + "assert 'torch' not in sys.modules"],
        cwd=tmp_path, check=True,
    )  # fmt: skip


@pytest.mark.slow
def test_of_a_campaign_and_of_runs_of_their_own(iceprobe, images, tmp_path):
    data = ["--data", f"folder:{images}", *QUICK, *asked("linear?input=mean", "ep2")]
    both = ["--backbone", BACKBONE, "--backbone", OTHER]
    assert iceprobe("run", *both, *data, "--output", "c").code == 0
    together = iceprobe("advise", "c").out
    assert "Ranked under linear?input=mean" in " ".join(together.split())
    assert "2 encoders on" in together
    for name, backbone in (("a", BACKBONE), ("b", OTHER)):
        assert iceprobe("run", "--backbone", backbone, *data, "--output", name).code == 0
    assert iceprobe("advise", "a", "b").out == together
    twice = iceprobe("advise", "a", "a")
    assert twice.code == 2
    assert "appears twice" in twice.err
