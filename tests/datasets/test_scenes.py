"""``bundled:fashion-scenes``: the same to the byte, and exact about what is in each scene."""

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.clutter import CANVAS, PIECE
from iceprobe.datasets.scenes import ITEMS, MOST, PIECES, POOL, SCENES, compose_scenes
from tests.datasets.test_bundled_images import sha256

# Whatever changes these bytes makes another data set: results on it can't be laid beside older ones.
SHA256 = {
    "train": {
        "images": "4efa6d5dcbb47a19205f74ea49e95cd93d84a64fa9be9335fb73e8fa8459d657",
        "tags": "cff6cd3f209d761e412f5075f4fba3e49072a96918b8a0a76ced5be26c222721",
        "boxes": "c3c173eae91933479ff95a6e72d78e9bbfc78c55c50de88932e2ccd21f087f2b",
        "masks": "dd71391e2633f16cee40190105d5f8ebdf5090e948b3239f020042a118275aa5",
        "numbers": "514787ddf8f578d410ca4742d2a6f22cbf7bdae6bd6cc99e40cf11a2912697c1",
        "pools": "99cbd22e0294c49e5ef09c4701a27c88a3896e95867e36521fd9e0c0c1c51644",
        "pieces": "b119e4812c89d7b6ebf9d9a038ae515ff6be3956cabeda36758afc80aac54fb1",
    },
    "test": {
        "images": "0633d09f65dd106df95cc2f7c6b5cf5f0adf66216396159cc0494d31164df71c",
        "tags": "083ce12ed5ac1303339d128c342889431d7eac575e80ad064753c3574a1c0d53",
        "boxes": "a6d57e332611bb1d6634f5eb4e02ef9d2c7c05bb7cd76869c0cd8eb55db233f2",
        "masks": "52bf1c217b306bee638c62360c96c2dcc9fe57db8d47c03266e2ec1d6903bbf9",
        "numbers": "9d23b40434edeb27fa174adcc6deb66b5661ec84c51c8ff3a51bac5993b9e10a",
        "pools": "e5efb7756145589198252f9b9fd233645b9c49e02eee435b1b62549c202f0efa",
        "pieces": "2b9abb3c7c15d2e363d4e4c243e52aa26ffea7df37b646c84664728537cfc217",
    },
}


@pytest.fixture(scope="module")
def tags():
    return load_dataset("bundled:fashion-scenes")


@pytest.fixture(scope="module")
def numbers():
    return load_dataset("bundled:fashion-scenes?target=count,area")


def test_images_and_targets_are_the_same_to_the_byte(tags, numbers):
    for name, split in tags.splits.items():
        found = {
            "images": split.images,
            "tags": split.targets,
            "boxes": split.boxes,
            "masks": split.objects,
            "numbers": numbers.splits[name].targets,
            "pools": split.columns["pool"].codes,
            "pieces": split.columns["pieces"].codes,
        }
        assert {key: sha256(array) for key, array in found.items()} == SHA256[name]


def test_tags_are_the_default_and_numbers_have_units(tags, numbers):
    assert (tags.task, tags.name, tags.headline) == ("multilabel", "fashion-scenes", "map")
    assert tags.classes == load_dataset("bundled:fashion").classes
    assert load_dataset("bundled:fashion-scenes?target=tags").name == tags.name
    assert (numbers.task, numbers.classes, numbers.units) == (
        "regression",
        ["count", "area"],
        ["items", "%"],
    )
    area = load_dataset("bundled:fashion-scenes?target=area")
    assert (area.name, area.classes, area.headline) == ("fashion-scenes-area", ["area"], "r2")
    for name, split in area.splits.items():
        assert np.array_equal(split.targets[:, 0], numbers.splits[name].targets[:, 1])


def test_distances_are_to_the_nearest_pixel_of_an_item(tags):
    """1 + the least distance between centres, over all pairs of pixels; unknown in a scene without items."""
    data = load_dataset("bundled:fashion-scenes?target=distance")
    assert (data.task, data.name, data.headline) == ("depth", "fashion-scenes-distance", "rmse")
    assert (data.classes, data.units, data.group) == (["distance"], ["px"], "pool")
    y, x = np.indices((CANVAS, CANVAS)).reshape(2, -1)
    for name, split in data.splits.items():
        items = tags.splits[name].objects
        assert (split.depths, split.masks) == (True, False)
        assert np.array_equal(np.isnan(split.maps).all((1, 2)), ~items.any((1, 2)))
        assert (split.maps[items] == 1).all()
        assert np.array_equal(split.images, tags.splits[name].images)
        for row in np.flatnonzero(items.any((1, 2)))[[0, 5, -1]]:
            there = items[row].ravel()
            squares = (y[:, None] - y[there]) ** 2 + (x[:, None] - x[there]) ** 2
            wanted = (1 + np.sqrt(squares.min(1))).astype(np.float32).reshape(CANVAS, CANVAS)
            assert np.array_equal(split.depth(int(row)), wanted)


def test_tags_are_neither_rare_nor_usual_and_may_be_none(tags):
    assert [len(tags.splits[name]) for name in ("train", "test")] == [4200, 1400]
    for split in tags.splits.values():
        shares = split.targets.mean(0)
        assert 0.15 < shares.min() <= shares.max() < 0.25
        assert 0.04 < (split.targets.sum(1) == 0).mean() < 0.08
        assert split.targets.sum(1).max() == MOST


def test_numbers_follow_from_the_masks(tags, numbers):
    for name, split in numbers.splits.items():
        count, area = split.targets.T
        assert np.allclose(area, split.objects.mean((1, 2)) * 100)
        having = tags.splits[name].targets.sum(1)
        assert (count >= having).all()  # two items may be of one class
        assert 0.05 < (count > having).mean() < 0.3
        assert np.array_equal(count == 0, having == 0)
        assert np.array_equal(split.images, tags.splits[name].images)
        one = np.isfinite(split.boxes).all(1)
        assert np.array_equal(one, count == 1)
        for mask, box in zip(split.objects[one][:200], split.boxes[one], strict=False):
            y, x = np.nonzero(mask)
            assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == tuple(box)


def test_backgrounds_are_the_scenes_without_their_items(tags):
    split = tags.splits["test"]
    for i in range(0, len(split), 29):
        image, mask = np.asarray(split.image(i)), np.asarray(split.mask(i)) > 0
        background = np.asarray(split.background(i))
        assert np.array_equal(image[~mask], background[~mask])
        if mask.any():
            assert (image[mask] != background[mask]).any()


@pytest.fixture(scope="module")
def grey():
    """Items of one grey each: every pixel says which original it is from."""
    shapes = np.random.default_rng(0).integers(8, 27, (40, 2))
    items = np.zeros((40, 28, 28), np.uint8)
    for i, (height, width) in enumerate(shapes):
        y, x = (28 - height) // 2, (28 - width) // 2
        items[i, y : y + height, x : x + width] = 6 * (i + 1)
    return items, compose_scenes(items, seed=5)


def test_groups_share_no_original_pieces_included(grey):
    _, scenes = grey
    assert len(scenes.images) == 40 // POOL * SCENES
    of_pool = {}
    for image, pool in zip(scenes.images, scenes.pools.tolist(), strict=True):
        of_pool.setdefault(pool, set()).update(np.unique(image).tolist())
    greys = [found - {0} for found in of_pool.values()]
    assert all(len(found) <= POOL for found in greys)
    assert sum(map(len, greys)) == len(set.union(*greys)) > 30


def test_every_item_is_whole_and_pieces_are_of_others(grey):
    items, scenes = grey
    assert set(scenes.counts) <= set(ITEMS)
    for image, mask, background, originals, pieces in zip(
        scenes.images,
        scenes.masks,
        scenes.backgrounds,
        scenes.originals,
        scenes.pieces,
        strict=True,
    ):
        own = originals[originals >= 0]
        assert len(set(own)) == len(own)
        for i in own:
            assert (image == 6 * (i + 1)).sum() == (items[i] > 0).sum()
        assert np.array_equal(mask, np.isin(image, 6 * (own + 1)))
        cut = set(np.unique(background).tolist()) - {0}
        assert not cut & {6 * (int(i) + 1) for i in own}
        assert pieces in PIECES
        assert len(cut) <= pieces
        assert (background > 0).sum() <= pieces * PIECE**2
        assert image.shape == (CANVAS, CANVAS)


def test_depends_on_its_arguments_alone(grey):
    items, scenes = grey
    again, other = compose_scenes(items, seed=5), compose_scenes(items, seed=6)
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(scenes, again, strict=True))
    assert not np.array_equal(scenes.images, other.images)


def test_columns_are_groups_and_slices(tags):
    train, test = (tags.splits[name] for name in ("train", "test"))
    assert (tags.group, tags.slices) == ("pool", ["pieces"])
    for split, pools in ((train, 600), (test, 200)):
        assert (np.unique(split.columns["pool"].codes, return_counts=True)[1] == SCENES).all()
        assert len(np.unique(split.columns["pool"].codes)) == pools
        assert split.columns["pieces"].values == ["0", "3", "6"]
    assert not set(train.columns["pool"].codes) & set(test.columns["pool"].codes)
    assert not tags.assumed


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fashion-scenes?target=colour", "write tags, count, area or count,area"),
        ("fashion-scenes?target=tags,count", "write tags, count"),
        ("fashion-scenes?target=count,count", "write tags, count"),
        ("fashion-scenes?target=", "write tags, count"),
        ("fashion-clutter?target=tags", "fashion-clutter has classes"),
        ("fashion-scene", "Did you mean fashion-scenes"),
    ],
)
def test_wrong_targets_are_refused(spec, words):
    with pytest.raises(IceprobeError, match=words):
        load_dataset(f"bundled:{spec}")
