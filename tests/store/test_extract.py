"""What is stored is what the backbone gave, and a bad image or number is reported."""

import errno
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Column
from iceprobe.fitting import fit
from iceprobe.results import read_results
from iceprobe.results.stores import stored_for
from iceprobe.store import Store, extract, extract_in_memory
from tests.store.conftest import GRID, PREPROCESSING, SMALL, content, make_backbone, make_dataset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def expected(backbone, split, rows, tokens):
    """The plain loop: decode, forward, cast."""
    images = torch.stack([PREPROCESSING.transform(split.image(row)) for row in rows])
    made = backbone(images)
    if tokens == "int8":
        return in_127ths(made.patches), made.prefix.half(), made.patches.mean(1)
    dtype = DTYPES[tokens]
    return made.patches.to(dtype), made.prefix.to(dtype), made.patches.mean(1)


def in_127ths(patches):
    """Each token to the nearest of 255 steps between minus and plus its largest value."""
    values = patches.double().numpy()
    step = np.abs(values).max(-1, keepdims=True) / 127
    return torch.from_numpy(np.rint(values / step) * step).float()


@pytest.mark.parametrize("tokens", [*DTYPES, "int8"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_equals_the_plain_loop(tmp_path, backbone, dataset, tokens, where):
    if where == "disk":
        store = extract(backbone, dataset, tmp_path, tokens=tokens, **SMALL)
    else:
        store = extract_in_memory(backbone, dataset, tokens=tokens, batch_size=4)
        assert store.path is None
    assert (store.dim, store.num_tokens, store.num_prefix, store.grid) == (8, 16, 2, GRID)
    assert store.has_class
    assert store.splits == ["train", "test"]
    assert store.classes == ["a", "b", "<script>"]
    for name, source in dataset.splits.items():
        split = store[name]
        rows = np.arange(len(source))
        patches, prefix, mean = expected(backbone, source, rows, tokens)
        got = split.patches(rows)
        assert got.dtype == split.dtype == patches.dtype
        torch.testing.assert_close(got, patches)
        torch.testing.assert_close(split.prefix, prefix)
        torch.testing.assert_close(split.mean, mean)
        torch.testing.assert_close(split.class_token, prefix[:, 0])
        assert (split.labels == source.labels).all()
        assert (split.index == rows).all()
        boxes = PREPROCESSING.transform_boxes(source.boxes, (20, 20))
        np.testing.assert_allclose(split.boxes, boxes, rtol=0, atol=1e-5)


def test_shards_are_plain_safetensors(tmp_path, backbone, dataset):
    store = extract(backbone, dataset, tmp_path, **SMALL)
    tensors = load_file(store.path / "train-00004.safetensors")
    assert tensors["patches"].shape == (10, 16, 8)
    assert tensors["patches"].dtype == torch.float16
    assert tensors["index"].tolist() == list(range(40, 50))
    torch.testing.assert_close(tensors["patches"], store["train"].patches(range(40, 50)))


def test_int8_halves_float16(tmp_path, backbone, dataset):
    store = extract(backbone, dataset, tmp_path, tokens="int8", **SMALL)
    tensors = load_file(store.path / "train-00004.safetensors")
    codes, scales = tensors["patches"], tensors["scales"]
    assert (codes.dtype, codes.shape) == (torch.int8, (10, 16, 8))
    assert (scales.dtype, scales.shape) == (torch.float32, (10, 16))
    assert (codes.abs().amax(-1) == 127).all()  # of every token the largest value
    patches, *_ = expected(backbone, dataset.splits["train"], range(40, 50), "float32")
    torch.testing.assert_close(scales * 127, patches.abs().amax(-1))
    assert ((codes.double() * scales[..., None] - patches).abs() < 0.501 * scales[..., None]).all()
    wide = extract(backbone, dataset, tmp_path, **SMALL)
    assert store["train"].patch_bytes == wide["train"].patch_bytes / 2 + 50 * 16 * 4


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_int8_of_a_token_that_is_zero(tmp_path, backbone, dataset, where):
    forward = backbone.reader.forward

    def partly_zero(images):
        tokens = forward(images)
        tokens.patches[:, 3] = 0
        tokens.patches[:, 4] = torch.tensor([1e-45, 0, 0, 0, 0, 0, 0, -1e-45])
        return tokens

    backbone.reader.forward = partly_zero
    if where == "disk":
        store = extract(backbone, dataset, tmp_path, tokens="int8", **SMALL)
    else:
        store = extract_in_memory(backbone, dataset, tokens="int8", batch_size=4)
    patches = store["train"].patches(range(50))
    assert (patches[:, 3:5] == 0).all()
    assert (patches[:, [2, 5]] != 0).any(-1).all()


def test_processes_and_threads_agree_to_the_byte(tmp_path, backbone, dataset):
    extract(backbone, dataset, tmp_path / "threads", **SMALL)
    extract(backbone, dataset, tmp_path / "processes", workers=2, **SMALL)
    assert content(tmp_path / "threads") == content(tmp_path / "processes")


def test_amp_runs_the_forward_pass_in_that_dtype(tmp_path, backbone, dataset):
    store = extract(backbone, dataset, tmp_path, amp="bfloat16", tokens="float32", **SMALL)
    exact = extract(backbone, dataset, tmp_path, tokens="float32", **SMALL)
    low, full = store["train"].patches([0]), exact["train"].patches([0])
    assert torch.equal(low, low.bfloat16().float())
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0.02, atol=0.02)


def test_limit_is_a_seeded_choice_in_listing_order(tmp_path, backbone, dataset):
    store = extract(backbone, dataset, tmp_path, limit=20, **SMALL)
    index = store["train"].index
    assert len(index) == 20
    assert (np.diff(index) > 0).all()
    assert index.max() > 25
    assert len(store["test"]) == 12  # fewer than the limit: all of them
    patches, *_ = expected(backbone, dataset.splits["train"], index, "float16")
    torch.testing.assert_close(store["train"].patches(range(20)), patches)
    assert store.names("train", [3]) == [f"train/{index[3]:05d}.png"]


def test_store_with_patches_serves_a_request_without(tmp_path, dataset):
    full = extract(make_backbone(), dataset, tmp_path, **SMALL)
    idle = make_backbone()
    assert extract(idle, dataset, tmp_path, patches=False, **SMALL).path == full.path
    assert idle.reader.images == 0
    shutil.rmtree(full.path)
    pooled = extract(make_backbone(), dataset, tmp_path, patches=False, **SMALL)
    assert torch.equal(
        pooled["train"].mean, extract_in_memory(idle, dataset, batch_size=4)["train"].mean
    )
    with pytest.raises(IceprobeError, match="no patch tokens"):
        pooled["train"].patches([0])
    assert extract(make_backbone(), dataset, tmp_path, **SMALL).path != pooled.path


def test_images_are_what_the_backbone_saw(tmp_path, backbone, dataset):
    store = extract(backbone, dataset, tmp_path, **SMALL)
    (picture,) = store.images("train", [7])
    pixels = torch.from_numpy(np.array(picture))[None].float() / 255
    seen = PREPROCESSING.transform(dataset.splits["train"].image(7))
    torch.testing.assert_close((pixels - 0.4) / 0.3, seen)


# --- what can go wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_fails_by_default(tmp_path, backbone, where, workers):
    dataset = make_dataset(bad=(2,))
    run = partial(extract, root=tmp_path / "new") if where == "disk" else extract_in_memory
    with pytest.raises(BadImage, match=r"train/00002\.png.*--on-bad-image skip"):
        run(backbone, dataset, workers=workers)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_bad_images_are_skipped_and_counted(tmp_path, backbone, where):
    bad = (2, *range(10, 20), 24, 25, 26, 27)  # one image, a whole shard, a whole batch
    dataset = make_dataset(bad=bad)
    if where == "disk":
        store = extract(backbone, dataset, tmp_path, on_bad_image="skip", **SMALL)
        store.verify()
    else:
        store = extract_in_memory(backbone, dataset, on_bad_image="skip", batch_size=4)
    good = np.setdiff1d(np.arange(50), bad)
    assert store.manifest.skipped == [f"train/{row:05d}.png" for row in bad]
    assert (store["train"].index == good).all()
    patches, *_ = expected(backbone, dataset.splits["train"], good, "float16")
    torch.testing.assert_close(store["train"].patches(range(len(good))), patches)
    assert store["train"].boxes.shape == (len(good), 4)


def test_skipped_images_are_named_to_who_does_not_skip(tmp_path, backbone):
    dataset = make_dataset(bad=(2,))
    extract(backbone, dataset, tmp_path, on_bad_image="skip", **SMALL)
    with pytest.raises(IceprobeError, match=r"train/00002\.png"):
        extract(backbone, dataset, tmp_path, **SMALL)


def test_too_large_for_float16(tmp_path, dataset):
    backbone = make_backbone(scale=1e5)
    with pytest.raises(IceprobeError, match=r"'train/000\d\d\.png'.*float16.*tokens=bfloat16"):
        extract(backbone, dataset, tmp_path / "new", **SMALL)
    assert not (tmp_path / "new").exists()
    store = extract(backbone, dataset, tmp_path, tokens="bfloat16", **SMALL)
    assert store["train"].patches([0]).abs().max() > 65504
    with pytest.raises(IceprobeError, match=r"too large for float16: .*tokens=bfloat16"):
        extract(backbone, dataset, tmp_path, tokens="int8", **SMALL)  # the prefix tokens


@pytest.mark.parametrize("tokens", ["float16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_names_the_image(tmp_path, backbone, dataset, tokens, value):
    forward = backbone.reader.forward

    def broken(images):
        tokens = forward(images)
        if backbone.reader.images > 24:  # the seventh batch: two of 4 + 4 + 2, then its first
            tokens.patches[1, 5, 3] = value
        return tokens

    backbone.reader.forward = broken
    backbone.reader.images = 0
    with pytest.raises(IceprobeError, match=r"image 'train/00025\.png' are not finite"):
        extract(backbone, dataset, tmp_path, tokens=tokens, **SMALL)
    names = {path.name for path in tmp_path.glob("*/*")}
    assert names <= {"manifest.json", "train-00000.safetensors", "train-00001.safetensors"}


def test_full_disk_is_reported_before_the_first_byte(tmp_path, backbone, dataset, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    with pytest.raises(IceprobeError, match=r"needs .* GB and 0\.00 GB are free"):
        extract(backbone, dataset, tmp_path / "new", **SMALL)
    assert not (tmp_path / "new").exists()
    assert backbone.reader.images == 0


def test_disk_that_fills_up_meanwhile(tmp_path, backbone, dataset, monkeypatch):
    calls, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IceprobeError, match="no space left"):
        extract(backbone, dataset, tmp_path, **SMALL)
    assert not list(tmp_path.glob("*/*.tmp"))
    assert list(tmp_path.glob("*/*.safetensors"))
    monkeypatch.undo()
    extract(backbone, dataset, tmp_path, **SMALL).verify()


def test_memory_that_does_not_suffice(backbone, dataset, monkeypatch):
    monkeypatch.setattr("iceprobe.store.memory.available_memory", lambda: 10_000)
    with pytest.raises(IceprobeError, match=r"0\.00 GB are available: take a limit"):
        extract_in_memory(backbone, dataset)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(amp="fp16"), "unknown forward_dtype 'fp16'"),
        (dict(forward_dtype="int8"), "unknown forward_dtype"),
        (dict(tokens="int4"), "unknown tokens 'int4'"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(limit=0), "limit=0"),
        (dict(splits=["val"]), "unknown split of images 'val'"),
        (dict(on_bad_image="ignore"), "unknown on_bad_image 'ignore'"),
        (dict(device="gpu"), "unknown device 'gpu'"),
    ],
)
def test_wrong_arguments(tmp_path, backbone, dataset, wrong, message):
    with pytest.raises(IceprobeError, match=message):
        extract(backbone, dataset, tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_empty_split(tmp_path, backbone):
    with pytest.raises(IceprobeError, match="'test' of test:images is empty"):
        extract(backbone, make_dataset(test=0), tmp_path / "new")


def test_no_store_here(tmp_path):
    with pytest.raises(IceprobeError, match="no feature store at"):
        Store.open(tmp_path)


def test_a_store_serves_what_each_request_calls_its_columns(tmp_path):
    """One content, whose columns two requests use otherwise; the file has the roles of the first."""

    def asked(**roles):
        made = make_dataset()
        for split in made.splits.values():
            codes = np.arange(len(split))
            split.columns = {
                "patient": Column(codes // 4, [f"p{i}" for i in range(13)]),
                "site": Column(codes % 2, ["a", "b"]),
            }
        return extract(make_backbone(), replace(made, **roles), tmp_path, **SMALL)

    first = asked(group="site", slices=["patient"])
    second = asked(group="patient", slices=["site"], fold="site")
    assert first.path == second.path
    assert first.groups("test").tolist() == [0, 1] * 6
    assert second.groups("test").tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert list(second.slices("test")) == ["site"]
    assert second.manifest.dataset.fold == "site"
    results = fit(second, ["knn"], output=tmp_path / "run", shots=2, replicates=2)
    assert fit(first, ["knn"], output=tmp_path / "other")[0].group == "site"
    (result,) = read_results(tmp_path / "run")
    assert result.group == "patient"
    again = stored_for(result)
    np.testing.assert_array_equal(again.groups("test"), second.groups("test"))
    np.testing.assert_array_equal(again.groups("train"), second.groups("train"))
    with pytest.raises(IceprobeError, match="holds a finished run with other settings"):
        fit(asked(group="patient"), ["knn"], output=tmp_path / "run", shots=2, replicates=2)
    assert results[0].predictions().groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
