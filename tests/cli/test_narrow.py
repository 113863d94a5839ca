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


def test_compare_names_images_that_one_probe_reads_and_the_other_does_not(shown, images):
    """The names are of the test split's files, and the mistakes those of the predictions."""
    from iceprobe.results import read_results

    results = {one.label: one for one in read_results("a-run-with-a-long-name")}
    files = sorted(str(file.relative_to(images / "test")) for file in images.glob("test/*/*.png"))
    found = results["knn"].predictions()
    assert found is not None
    assert [name.split("test/")[-1] for name in found.names] == files
    text = shown("compare", "a-run-with-a-long-name", "--mistakes", "1").out
    for line in filter(lambda line: " reads and " in line, text.splitlines()):
        right, rest = line.split(" reads and ")
        wrong, rest = rest.split(" doesn't: ")
        name, true, _, _, read = rest.replace("(", "").rstrip(")").split(" ")
        row = list(found.names).index(name)
        names = results[right].class_names
        ours, theirs = (results[label].predictions().predicted[0, row] for label in (right, wrong))
        assert [names[ours], names[theirs]] == [true, read]
        assert names[found.labels[row]] == true
    assert " reads and " in text
    assert " reads and " not in shown("compare", "a-run-with-a-long-name", "--mistakes", "0").out
