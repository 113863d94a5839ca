"""A depth map goes where its image goes: through resize and crop, into the shard and out again."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.cost import plan
from iceprobe.datasets.base import BadImage, Dataset, DepthSplit
from iceprobe.store import Store, extract, extract_in_memory
from tests.store.conftest import PREPROCESSING, SIDE, SMALL, make_backbone

TALL, WIDE = 20, 26


def made(count: int = 6, maps=None) -> Dataset:
    """Images of 20 x 26 pixels with numbers of four decimals; some pixels aren't known."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ("train", "test"):
        images = rng.integers(0, 255, (count, TALL, WIDE), dtype=np.uint8)
        numbers = rng.uniform(0.5, 80, (count, TALL, WIDE)).round(4)
        for garbage in (0, -1, np.nan, np.inf):
            numbers[rng.random(numbers.shape) < 0.05] = garbage
        names = [f"{name}/{row}" for row in range(count)]
        splits[name] = DepthSplit(name, images, numbers, names)
    return Dataset("test:maps", "maps", ["depth"], splits, headline="rmse")


def resampled(numbers: np.ndarray) -> np.ndarray:
    """The known number under each pixel's centre, by the image's resize to S and centre crop."""
    scale = SIDE / TALL
    wide = int(WIDE * scale)
    rows = ((np.arange(SIDE) + 0.5) / scale).astype(int)
    columns = ((np.arange(wide) + 0.5) * WIDE / wide).astype(int)
    left = round((wide - SIDE) / 2)
    found = numbers[rows][:, columns][:, left : left + SIDE].astype(np.float32)
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_numbers_come_back_as_resized(tmp_path, where):
    backbone, dataset = make_backbone(), made()
    if where == "disk":
        store = Store.open(extract(backbone, dataset, tmp_path, **SMALL).path, verify=True)
    else:
        store = extract_in_memory(backbone, dataset, batch_size=4)
    split = store["train"]
    assert (split.has_depths, split.has_masks, store.task) == (True, False, "depth")
    rows = np.array([4, 0, 5])
    for part in (split, split.hold(10**9, ["depth", "patches"])):
        found = part.depths(rows).numpy()
        wanted = np.stack([resampled(dataset.splits["train"].maps[row]) for row in rows])
        assert np.array_equal(found, wanted, equal_nan=True)
    assert 0.1 < np.isnan(wanted).mean() < 0.3


def test_pixels_land_where_the_image_puts_them():
    backbone, dataset = make_backbone(), made()
    backbone.preprocessing = replace(PREPROCESSING, crop_pct=0.8, interpolation="nearest")
    for split in dataset.splits.values():
        split.maps = split.images + 1.0
    store = extract_in_memory(backbone, dataset, batch_size=4)
    seen = np.asarray(next(iter(store.images("test", [2])))).astype(np.float32)
    assert np.array_equal(store["test"].depths([2])[0].numpy(), seen + 1)


def test_a_map_of_another_size_than_its_image_is_a_bad_image(backbone):
    dataset = made()
    dataset.splits["train"].maps = np.ones((6, TALL, WIDE + 1))
    with pytest.raises(BadImage, match=r"depth map of image 'train/0' has 27 x 20 pixels and the"):
        extract_in_memory(backbone, dataset)


def test_a_store_with_maps_is_another_one_and_changes_with_them(tmp_path, backbone):
    first = extract(backbone, made(), tmp_path, **SMALL)
    assert extract(backbone, made(), tmp_path, **SMALL).path == first.path
    other = made()
    other.splits["train"].maps[0, 3, 3] += 1
    assert extract(backbone, other, tmp_path, **SMALL).path != first.path


def test_stores_without_maps_are_as_they_were(tmp_path, backbone, dataset):
    """No field of their manifest says anything of maps, so neither does their identity."""
    store = extract(backbone, dataset, tmp_path, **SMALL)
    assert "depth" not in (store.path / "manifest.json").read_text()
    with pytest.raises(IceprobeError, match="this store has no depth maps"):
        store["train"].depths([0])


def test_planned_bytes_count_maps(tmp_path, backbone):
    with_maps = plan(backbone, made(), tmp_path, measure_seconds=0, **SMALL)
    without = made()
    for split in without.splits.values():
        split.depths = False
    bare = plan(backbone, without, tmp_path, measure_seconds=0, **SMALL)
    assert with_maps.store_bytes - bare.store_bytes == 12 * 4 * SIDE**2
    assert with_maps.memory_bytes > bare.memory_bytes


def test_masks_and_maps_together_are_refused():
    dataset = made()
    split = dataset.splits["train"]
    objects = np.ones(split.maps.shape, bool)
    with pytest.raises(IceprobeError, match="'train' has masks and depth maps"):
        DepthSplit("train", split.images, split.maps, split.names, objects=objects)
    with pytest.raises(IceprobeError, match="depth maps"):
        DepthSplit("train", split.images, split.maps[:2], split.names)


def test_an_image_without_a_map_has_no_known_pixel(backbone):
    dataset = made()
    whole = dataset.splits["train"].depth
    dataset.splits["train"].depth = lambda index: None if index == 2 else whole(index)
    found = extract_in_memory(backbone, dataset, batch_size=4)["train"].depths(range(6))
    assert found.isnan().flatten(1).all(1).tolist() == [False, False, True, False, False, False]


def test_a_strip_too_long_to_resize_whole_is_placed():
    strip = Image.fromarray(np.zeros((3, 40_000_000), np.uint8))
    assert PREPROCESSING.placed(strip, "nearest").size == (SIDE, SIDE)
    assert PREPROCESSING.crop(strip).size == (SIDE, SIDE)


def test_live_tokens_are_refused_with_what_to_do():
    store = iceprobe.live(make_backbone(), made(), augmentation=None)
    with pytest.raises(IceprobeError, match="extract a store"):
        iceprobe.segment(store, ["linear"])
