"""docs/files.md against what runs and stores really leave."""

import csv
import json
import re

import torch
from safetensors import safe_open

from iceprobe.results import Result
from tests.guide.running import ROOT, call

PAGE = (ROOT / "docs" / "files.md").read_text()
#: First words of the lines that list files: of a store, of a run.
LISTED = set(re.findall(r"^([\w.-]+/?|[\w.]+, \.\w+)  ", PAGE, re.MULTILINE)) | {"log.txt"}
TENSORS = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))


def test_a_run_leaves_what_the_page_lists(runs):
    left = {path.name + "/" * path.is_dir() for path in (runs / "demo").iterdir()}
    assert left <= LISTED
    assert {"config.yaml", "results.json", "curves.csv", "predictions.safetensors"} <= left


def test_results_and_curves_have_the_fields_that_are_reported(runs):
    document = json.loads((runs / "demo" / "results.json").read_text())
    assert set(document) == {"sha256", "format", "results"}
    of_images = set(Result.model_fields) - {"example"}  # which is left out of them
    assert all(set(entry) == of_images for entry in document["results"])
    with (runs / "demo" / "curves.csv").open() as file:
        columns = ", ".join(next(csv.reader(file)))
    assert f"`{columns}`" in PAGE


def test_every_field_of_a_result_is_described():
    described = re.findall(r"^ {4,8}(\w+): ", Result.__doc__ or "", re.MULTILINE)
    assert set(described) == set(Result.model_fields)


def test_shards_hold_the_tensors_of_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--backbone", "bundled:mae-tiny", "--data", "bundled:fashion-clutter", "--limit", "20"]
    call(["extract", *asked, "--tokens", "int8", "--views", "1"])
    (store,) = (tmp_path / "features").iterdir()
    assert {path.name for path in store.iterdir() if path.name != ".lock"} == {
        "manifest.json", "train-00000.safetensors", "train.view1-00000.safetensors",
        "test-00000.safetensors",
    }  # fmt: skip
    with safe_open(store / "test-00000.safetensors", "pt") as shard:
        found = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    assert set(found) <= TENSORS
    assert set(found) >= {"patches", "scales", "prefix", "mean", "label", "index", "box", "mask"}
    dtypes = {name: found[name].dtype for name in ("patches", "scales", "prefix", "mask")}
    assert dtypes == {
        "patches": torch.int8, "scales": torch.float32, "prefix": torch.float16, "mask": torch.uint8,
    }  # fmt: skip
