"""`python:package.module:function`: a data set of one's own code, which runs only where it is trusted."""

import json
from pathlib import Path

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset, registry
from iceprobe.datasets.base import ArraySplit, Column, Dataset
from iceprobe.store.reader import Store
from iceprobe.store.recorded import recorded_dataset
from tests.store.conftest import make_backbone

CODE = """
from pathlib import Path
import numpy as np
from iceprobe.datasets.base import ArraySplit, Column, Dataset

Path(MARK).touch()

def split(name, count, shift=0):
    images = (np.arange(count * 64, dtype=np.uint8).reshape(count, 8, 8) + shift).astype(np.uint8)
    names = [f"{name}-{i}" for i in range(count)]
    who = Column(np.arange(count) // 2, list("abcdef"))
    return ArraySplit(name, images, np.arange(count) % 2, names, columns={"who": who})

def birds(count: int = 4, shift=0, upper: bool = False, name="birds"):
    names = ["A", "B"] if upper else ["a", "b"]
    splits = {"train": split("train", count, shift), "test": split("test", 4, 100 + shift)}
    return Dataset(name, name, names, splits, group="who")

def pairs(fraction=0.0):
    items = [(np.full((4, 4), i, np.uint8), i + fraction) for i in (0, 1, 0, 1)]
    return {"train": items, "validation": items[:3]}

def annotated(root: "Path", /): ...
def needs(root, count=3): ...
def fails(): raise KeyError("no\\nlabels")
def other(): return 3
number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(registry, "_ran", set())
    file = tmp_path / "own.py"
    file.write_text(CODE.replace("MARK", repr(str(tmp_path / "it-has-run"))))
    return file


def test_a_function_gives_a_data_set(code):
    data = load_dataset(f"python:{code}:birds?trust=true&count=6&upper=true&shift=3&name=my birds")
    assert (len(data.splits["train"]), data.classes, data.name) == (6, ["A", "B"], "my birds")
    assert np.asarray(data.splits["train"].image(0))[0, 0] == 3
    assert data.spec.startswith(f"python:{code}:birds?count=6&name=my birds&shift=3&trust=true")
    assert len([line for line in data.assumed if "are in train and in test" in line]) == 1
    again = load_dataset(data.spec)
    assert again.splits["train"].fingerprint() == data.splits["train"].fingerprint()
    same = load_dataset(
        f"python:{code}:birds", trust=True, count=6, upper=True, shift=3, name="my birds"
    )
    assert same.spec == data.spec


def test_a_column_means_the_same_in_every_split():
    def split(name, values):
        images, codes = np.zeros((2, 4, 4), np.uint8), np.arange(2)
        columns = {"who": Column(codes, values)}
        return ArraySplit(name, images, codes, [f"{name}0", f"{name}1"], columns=columns)

    splits = {"train": split("train", ["ann", "bob"]), "test": split("test", ["bob", "eve"])}
    with pytest.raises(
        IceprobeError, match=r"column 'who' of 'mine' has other values in each split"
    ):
        Dataset("mine", "mine", ["a", "b"], splits, group="who")
    Dataset("mine", "mine", ["a", "b"], splits)  # not asked for


def test_a_function_gives_two_map_style_data_sets(code):
    data = load_dataset(f"python:{code}:pairs?trust=true")
    assert (data.task, data.classes) == ("classification", ["0", "1"])
    ages = load_dataset(f"python:{code}:pairs?trust=true&fraction=0.5&unit=years")
    assert (ages.task, ages.units) == ("regression", ["years"])
    assert ages.splits["test"].labels.tolist() == [[0.5], [1.5], [0.5]]
    whole = load_dataset(f"python:{code}:pairs?trust=true&task=regression")
    assert whole.splits["test"].labels.tolist() == [[0], [1], [0]]


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (":birds", "runs code of its own on this machine: read that code, then add trust=true"),
        (":birds?trust=false", "then add trust=true"),
        (":birds?trust=yes", "option trust='yes' of .*: write true or false"),
        ("?trust=true", "names no function: write python:package.module:function"),
        (":bird?trust=true", "has no function 'bird'"),
        (":number?trust=true", "has no function 'number'"),
        (":birds?trust=true&cuont=3", "unknown argument of .* 'cuont'. Did you mean count"),
        (":birds?trust=true&count=three", "option count='three' of .*: invalid literal"),
        (":birds?trust=true&upper=1", "option upper='1' of .*: write true or false"),
        (":birds?trust=true&task=regression", r"returned a Dataset: return \{.*\}, as task= is for"),
        (":needs?trust=true", "its function needs root: add root=VALUE, or give it a default"),
        (":annotated?trust=true", "needs arguments without names"),
        (":fails?trust=true", r"failed: KeyError: .*no.* \(--debug shows where\)"),
        (":other?trust=true", "returned a int: return a Dataset, or"),
        (":birds?trust=true&alpha=drop", "option 'alpha' of .* is for images in files"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(code, tail, says):
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(f"python:{code}{tail}")
    assert "\n" not in str(caught.value)
    with pytest.raises(IceprobeError, match="no module named 'nowhere'"):
        load_dataset("python:nowhere:birds?trust=true")


def test_code_that_is_not_trusted_does_not_run(code, tmp_path):
    for spec in (f"python:{code}:birds", f"python:{code}:birds?trust=false"):
        with pytest.raises(IceprobeError, match="add trust=true"):
            load_dataset(spec)
    assert not (tmp_path / "it-has-run").exists()


def test_a_store_that_names_code_runs_it_only_if_trusted(code, tmp_path, monkeypatch):
    spec = f"python:{code}:birds?trust=true"
    made = iceprobe.extract(make_backbone(), load_dataset(spec), tmp_path / "features")
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["dataset"]["spec"] == spec
    assert recorded_dataset(spec, made.path).classes == ["a", "b"]  # this process has run it itself
    with pytest.raises(IceprobeError, match="runs code of its own"):
        recorded_dataset(f"{spec}&count=6", made.path)  # and with other arguments it hasn't
    monkeypatch.setattr(registry, "_ran", set())
    (tmp_path / "it-has-run").unlink()
    store = Store.open(made.path)
    for refused in (lambda: recorded_dataset(spec, made.path), store.dataset):
        with pytest.raises(IceprobeError, match=r"which runs code of its own .* pass --trust"):
            refused()
    assert not (tmp_path / "it-has-run").exists()
    assert Store.open(made.path, trust=True).dataset().classes == ["a", "b"]
    assert (tmp_path / "it-has-run").exists()
