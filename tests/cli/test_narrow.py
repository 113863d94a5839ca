"""What is printed in a narrow terminal: the words of a wide one, each in one piece."""

import shutil

import pytest

from tests.cli.conftest import BACKBONE

PLAN = ["plan", "--backbone", BACKBONE, "--images", "1000", "--classes", "10", "--probe", "linear"]
PLAN += ["--device-images-per-second", "100", "--device-tflops", "1", "--disk-gb-per-second", "1"]
PROBES = ["--probe", "knn", "--probe", "linear?input=mean", "--probe", "ep12?value=identity"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A place for a run that all tests of this file read."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def shown(iceprobe, quick, finished, tmp_path):
    if not (finished / "r").exists():
        assert iceprobe("run", *quick, *PROBES, "--output", "r").code == 0
        shutil.copytree(tmp_path / "r", finished / "r")
    shutil.copytree(finished / "r", tmp_path / "a-run-with-a-long-name", dirs_exist_ok=True)
    return iceprobe


@pytest.mark.parametrize(
    "command",
    [
        ["ls", "backbones"],
        ["ls", "datasets"],
        ["ls", "probes", "ep"],
        ["compare", "a-run-with-a-long-name"],
        ["compare", "a-run-with-a-long-name", "a-run-with-a-long-name", "--margin", "1"],
        ["advise", "a-run-with-a-long-name"],
        PLAN,
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_word_is_broken(shown, command, monkeypatch):
    from iceprobe.cli.console import console

    words = {}
    for width in (60, 80, 120, 400):
        monkeypatch.setattr(console, "_width", width)
        ended = shown(*command)
        assert (ended.code, ended.err) == (0, "")
        words[width] = ended.out.replace("─", "")
    wide = set(words[400].split())
    for width in (60, 80, 120):
        text, *gone = words[width].split("Too narrow for: ")
        assert set(text.split()) <= wide
        assert len(set(text.split())) >= 0.8 * len(wide) or gone
        if not gone:
            assert set(text.split()) == wide
