"""The bundled images: what they are, to the byte, and what the clutter promises."""

import hashlib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from iceprobe import datasets
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.clutter import CANVAS, PIECE, compose

ROOT = Path(__file__).parents[2]
BUNDLED = resources.files("iceprobe.datasets") / "bundled"
IDX = Path("/usr/share/datasets/fashion-mnist")

# Whatever changes these bytes makes another data set: results on it can't be laid beside older ones.
SHA256_OF_PIXELS = {
    ("fashion", "train"): "2b17438af55637db62c122a92490b5b4275bed5719a838b5b0486ea2193a98a4",
    ("fashion", "test"): "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83",
    (
        "fashion-clutter",
        "train",
    ): "d0351e053f77bfe604d62654f9c2702081040eaad678bf958e26d835984b49d9",
    ("fashion-clutter", "test"): "6126038ff791ad8350913dc91eddc3f3d8c6ad93b4befcdb5376b0940577a1e1",
}
SHA256_OF_BOXES = {
    "train": "70c7ecaba5fdb1618eec8120f95541fb0486a5387d8caac68d3709f1852c1e4e",
    "test": "aff946997f7f808b235961deacc1a26aa1fbd9c3634cf40dce0bbfef5d46fb87",
}


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module", params=["fashion", "fashion-clutter"])
def bundled(request):
    return datasets.load_dataset(f"bundled:{request.param}")


def test_pixels_and_boxes_are_the_same_to_the_byte(bundled):
    for name, split in bundled.splits.items():
        pixels = np.stack([np.asarray(split.image(i)) for i in range(len(split))])
        assert pixels.dtype == np.uint8
        assert sha256(pixels) == SHA256_OF_PIXELS[bundled.name, name]
        if bundled.name == "fashion-clutter":
            assert split.boxes.dtype == np.float32
            assert sha256(split.boxes) == SHA256_OF_BOXES[name]
        else:
            assert split.boxes is None


def test_splits_are_balanced_named_and_share_no_image(bundled):
    train, test = bundled.splits["train"], bundled.splits["test"]
    assert np.bincount(train.labels).tolist() == [600] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    assert train.labels.dtype == test.labels.dtype == np.int64
    assert len(bundled.classes) == 10
    assert test.names[12] == f"{bundled.name}/test/00012"
    assert len({*train.names, *test.names}) == 8000
    rows = {split.name: {image.tobytes() for image in split.images} for split in (train, test)}
    assert not rows["train"] & rows["test"]


def test_fingerprints_tell_splits_labels_boxes_and_masks_apart(bundled):
    train, test = bundled.splits["train"], bundled.splits["test"]
    again = datasets.load_dataset(bundled.spec).splits["test"]
    assert again.fingerprint() == test.fingerprint() != train.fingerprint()
    again.labels = again.labels[::-1]
    assert again.fingerprint() != test.fingerprint()
    if bundled.name == "fashion-clutter":
        again = datasets.load_dataset(bundled.spec).splits["test"]
        again.objects[7, 0, 0] ^= True
        assert again.fingerprint() != test.fingerprint()


@pytest.mark.skipif(not IDX.exists(), reason="Debian's dataset-fashion-mnist isn't installed")
def test_tool_makes_the_same_arrays_again(tmp_path):
    tool = ROOT / "tools" / "make_bundled_fashion.py"
    subprocess.run([sys.executable, tool, "--output", tmp_path], check=True)
    assert (tmp_path / "fashion.json").read_text() == (BUNDLED / "fashion.json").read_text()
    assert (tmp_path / "fashion.LICENSE").read_text() == (BUNDLED / "fashion.LICENSE").read_text()
    with (BUNDLED / "fashion.npz").open("rb") as file:
        made, shipped = np.load(tmp_path / "fashion.npz"), np.load(file)
        assert made.files == shipped.files
        for name in made.files:
            np.testing.assert_array_equal(made[name], shipped[name])


def test_card_names_licence_and_hashes():
    card = json.loads((BUNDLED / "fashion.json").read_text())
    assert "MIT" in card["license"]
    assert "Zalando SE" in (BUNDLED / "fashion.LICENSE").read_text()
    assert card["splits"]["train"]["idx_part"] == "train"
    assert card["splits"]["test"]["idx_part"] == "t10k"
    for split in ("train", "test"):
        assert card["splits"][split]["sha256_of_pixels"] == SHA256_OF_PIXELS["fashion", split]


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(IceprobeError, match="Did you mean fashion"):
        datasets.load_dataset("bundled:fashon")


def test_boxes_are_tight_around_the_items_pixels():
    split = datasets.load_dataset("bundled:fashion").splits["test"]
    alone = compose(split.images, split.labels, seed=1, pieces=0)
    for image, (x0, y0, x1, y1) in zip(alone.images[:300], alone.boxes, strict=False):
        rows, columns = np.nonzero(image)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


def test_item_is_whole_inside_its_box_in_the_clutter():
    """Nothing lies over the item: inside the box its own pixels show."""
    items = datasets.load_dataset("bundled:fashion").splits["test"]
    split = datasets.load_dataset("bundled:fashion-clutter").splits["test"]
    for index in range(300):
        item = items.images[index]
        rows, columns = np.nonzero(item)
        item = item[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        x0, y0, x1, y1 = split.boxes[index].astype(int)
        window = split.images[index][y0:y1, x0:x1]
        np.testing.assert_array_equal(window[item > 0], item[item > 0])


def test_masks_are_the_pixels_that_the_items_painted():
    """Known from the items alone: their non-zero pixels, laid where the box says."""
    items = datasets.load_dataset("bundled:fashion")
    clutter = datasets.load_dataset("bundled:fashion-clutter")
    for name, split in clutter.splits.items():
        assert split.masks
        assert not items.splits[name].masks
        assert items.splits[name].mask(0) is None
        for index in range(0, len(split), 17):
            mask, item = split.mask(index), items.splits[name].images[index]
            assert mask.size == split.image(index).size
            assert set(np.unique(mask)) == {0, 255}
            on = np.asarray(mask) > 0
            x0, y0 = split.boxes[index, :2].astype(int)
            rows, columns = np.nonzero(item)
            painted = np.zeros_like(on)
            painted[rows - rows.min() + y0, columns - columns.min() + x0] = True
            assert np.array_equal(on, painted)
            seen = np.asarray(split.image(index))
            assert np.array_equal(seen[on], item[item > 0])  # both in order of rows


def test_pieces_are_no_part_of_a_mask():
    """Without pieces every bright pixel is the item's; with them the masks stay as they were."""
    split = datasets.load_dataset("bundled:fashion").splits["test"]
    images, labels = split.images[:200], split.labels[:200]
    alone, among = (compose(images, labels, 1, pieces=pieces) for pieces in (0, 6))
    assert np.array_equal(alone.masks, alone.images > 0)
    assert among.masks.sum() == alone.masks.sum() < (among.images > 0).sum()


def test_distractors_come_from_other_classes():
    """Each class has a grey value of its own, so that every pixel says which class it is from."""
    labels = np.repeat(np.arange(5), 8)
    grey = (labels + 1) * 40
    items = np.zeros((40, 28, 28), np.uint8)
    items[:, 2:26, 2:26] = grey[:, None, None]
    composed = compose(items, labels, seed=3, pieces=4)
    seen_outside = set()
    for image, own, (x0, y0, x1, y1) in zip(composed.images, grey, composed.boxes, strict=True):
        assert image.shape == (CANVAS, CANVAS)
        assert (x1 - x0, y1 - y0) == (24, 24)
        assert (image[y0:y1, x0:x1] == own).all()
        outside = image.copy()
        outside[y0:y1, x0:x1] = 0
        assert own not in outside
        seen_outside |= set(outside[outside > 0].tolist())
        assert (image > 0).sum() <= 24 * 24 + 4 * PIECE**2
    assert seen_outside == set(grey.tolist())


def test_compose_depends_on_its_arguments_alone():
    rng = np.random.default_rng(0)
    items, labels = rng.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20) % 3
    first = compose(items, labels, seed=5)
    np.random.seed(123)
    np.testing.assert_array_equal(first.images, compose(items, labels, seed=5).images)
    assert (first.images != compose(items, labels, seed=6).images).any()


def test_one_class_has_no_distractors():
    with pytest.raises(ValueError, match="one class"):
        compose(np.ones((4, 28, 28), np.uint8), np.zeros(4, int), seed=0)
