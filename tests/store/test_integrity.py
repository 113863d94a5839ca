"""A store that was damaged says so, names the shard, and is mended shard by shard."""

import json
import os

import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.store import Store, extract, repair
from tests.store.conftest import SMALL, content, make_backbone, make_dataset


@pytest.fixture(params=["float16", "int8"])
def store(request, tmp_path, backbone, dataset) -> Store:
    return extract(backbone, dataset, tmp_path, tokens=request.param, **SMALL)


def flip(file, position):
    damaged = bytearray(file.read_bytes())
    damaged[position] ^= 0x10
    file.write_bytes(damaged)


@pytest.mark.parametrize("position", [0, 9, 3000, 4096, 6000, -1])
def test_one_flipped_bit_is_found_named_and_mended(store, dataset, position):
    whole = content(store.path)
    shard = store.path / "train-00002.safetensors"
    flip(shard, position)
    with pytest.raises(IceprobeError, match=r"train-00002\.safetensors.*iceprobe extract --repair"):
        Store.open(store.path, verify=True)
    with pytest.raises(IceprobeError, match=r"train-00002\.safetensors"):
        store.verify()
    for path in store.path.glob("*.safetensors"):
        os.utime(path, ns=(1, 1))  # of what is written from now on, the time is another
    backbone = make_backbone()
    assert repair(store.path, backbone, dataset) == ["train-00002.safetensors"]
    assert backbone.reader.images == 10
    assert content(store.path) == whole
    shards = store.path.glob("*.safetensors")
    changed = {path.name for path in shards if path.stat().st_mtime_ns != 1}
    assert changed == {"train-00002.safetensors"}


def test_a_whole_store_needs_no_repair(store):
    backbone = make_backbone()
    assert repair(store.path, backbone, make_dataset()) == []
    assert backbone.reader.images == 0


def test_cut_short_or_missing_is_reported_without_reading(store, backbone, dataset):
    whole = content(store.path)
    cut, missing = (store.path / f"train-0000{number}.safetensors" for number in (1, 3))
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(IceprobeError, match=r"train-00001.*bytes instead of"):
        Store.open(store.path)
    with pytest.raises(IceprobeError, match=r"train-00001.*ends too early"):
        _ = store["train"].mean
    missing.unlink()
    assert repair(store.path, backbone, dataset) == [cut.name, missing.name]
    assert content(store.path) == whole


def test_repair_takes_only_the_same_backbone_and_images(store, backbone, dataset):
    flip(store.path / "train-00000.safetensors", 5000)
    before = content(store.path)
    with pytest.raises(IceprobeError, match="is not the one of store"):
        repair(store.path, make_backbone(seed=1), dataset)
    with pytest.raises(IceprobeError, match="split 'train' of test:images has changed"):
        repair(store.path, backbone, make_dataset(seed=3))
    assert content(store.path) == before


def test_repair_keeps_bad_images_out(tmp_path, backbone):
    dataset = make_dataset(bad=(12,))
    store = extract(backbone, dataset, tmp_path, on_bad_image="skip", **SMALL)
    whole = content(store.path)
    flip(store.path / "train-00001.safetensors", 5000)
    repair(store.path, backbone, dataset)
    assert content(store.path) == whole


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: text.replace('"amp": "float32"', '"amp": "bfloat16"'), "changed by hand"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 99'), "format 99"),
    ],
)
def test_damaged_manifest(store, damage, message):
    file = store.path / "manifest.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(IceprobeError, match=message):
        Store.open(store.path)


def test_manifest_says_what_it_was_made_from(store):
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["backbone"]["spec"] == "test:small"
    assert manifest["dataset"]["spec"] == "test:images"
    assert manifest["identity"].startswith(store.path.name.rpartition("-")[2])
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert [shard["images"] for shard in manifest["splits"]["train"]["shards"]] == [10] * 5
