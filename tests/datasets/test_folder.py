"""`folder:DIR`: layouts, splits, fingerprints, and what is wrong with a folder or a file."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset


def save(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


@pytest.fixture
def flat(tmp_path):
    """Ten cats, five dogs."""
    for index in range(10):
        save(tmp_path / "cat" / f"{index}.png", index)
    for index in range(5):
        save(tmp_path / "dog" / f"{index}.PNG", 100 + index)
    return tmp_path


@pytest.fixture
def with_splits(tmp_path):
    for split, value in (("train", 1), ("test", 2), ("val", 3)):
        for name in ("b", "a"):
            save(tmp_path / split / name / "x.png", value)
    return tmp_path


def test_classes_labels_and_images_of_train_and_test(with_splits):
    save(with_splits / "train" / "a" / "deeper" / "y.png", 9)
    save(with_splits / "train" / "a" / ".hidden.png")
    (with_splits / "train" / "a" / "notes.txt").write_text("no image")
    dataset = load_dataset(f"folder:{with_splits}")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.classes == ["a", "b"]
    assert dataset.name == with_splits.name
    assert train.names == ["train/a/deeper/y.png", "train/a/x.png", "train/b/x.png"]
    assert train.labels.tolist() == [0, 0, 1]
    assert test.names == ["test/a/x.png", "test/b/x.png"]
    assert [np.asarray(train.image(i))[0, 0, 0] for i in range(3)] == [9, 1, 1]
    assert train.boxes is None


def test_val_is_read_where_asked_for_or_alone(with_splits):
    asked = load_dataset(f"folder:{with_splits}?split=val")
    assert asked.splits["test"].names == ["val/a/x.png", "val/b/x.png"]
    assert load_dataset(f"folder:{with_splits}", split="val").spec == asked.spec
    for name in ("a", "b"):
        os.remove(with_splits / "test" / name / "x.png")
        os.rmdir(with_splits / "test" / name)
    os.rmdir(with_splits / "test")
    assert load_dataset(f"folder:{with_splits}").splits["test"].names[0] == "val/a/x.png"


def test_flat_folder_is_split_stratified_and_seeded(flat):
    dataset = load_dataset(f"folder:{flat}")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert np.bincount(train.labels).tolist() == [8, 4]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert sorted(train.names + test.names) == sorted(
        [f"cat/{i}.png" for i in range(10)] + [f"dog/{i}.PNG" for i in range(5)]
    )
    assert load_dataset(f"folder:{flat}").splits["test"].names == test.names
    others = [load_dataset(f"folder:{flat}?seed={s}").splits["test"].names for s in range(1, 6)]
    assert any(names != test.names for names in others)
    half = load_dataset(f"folder:{flat}", test_fraction=0.5).splits["test"]
    assert np.bincount(half.labels).tolist() == [5, 2]


def test_fingerprint_follows_content_and_place_alone(flat):
    split = load_dataset(f"folder:{flat}").splits["train"]
    before = split.fingerprint()
    assert load_dataset(f"folder:{flat}").splits["train"].fingerprint() == before
    path = flat / split.names[0]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    touched = load_dataset(f"folder:{flat}").splits["train"].fingerprint()
    assert touched != before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    moved = flat.rename(flat.with_name("moved"))
    assert load_dataset(f"folder:{moved}").splits["train"].fingerprint() == before
    save(moved / "cat" / "another.png")
    grown = load_dataset(f"folder:{moved}").splits
    assert grown["train"].fingerprint() != before


def test_links_are_followed_but_not_round_in_circles(flat, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "linked.png")
    (flat / "cat" / "more").symlink_to(elsewhere)
    (flat / "cat" / "loop").symlink_to(flat / "cat")
    dataset = load_dataset(f"folder:{flat}")
    names = dataset.splits["train"].names + dataset.splits["test"].names
    assert "cat/more/linked.png" in names
    assert len(names) == 16


def test_class_names_are_taken_as_they_are(flat):
    save(flat / "<script>alert(1)" / "0.png")
    save(flat / "<script>alert(1)" / "1.png")
    assert load_dataset(f"folder:{flat}").classes == ["<script>alert(1)", "cat", "dog"]


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    pixels = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    image = load_dataset(f"folder:{tmp_path}").splits["train"].image(0)
    assert np.asarray(image).tolist() == [[0, 0, 1], [128, 254, 255]]


def bad(tmp_path: Path, content: bytes, name: str = "broken.jpg") -> Path:
    path = tmp_path / "cat" / name
    path.write_bytes(content)
    return path


def read_all(folder: Path) -> None:
    for split in load_dataset(f"folder:{folder}").splits.values():
        for index in range(len(split)):
            split.image(index)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n truncated"])
def test_unreadable_image_is_named(flat, content):
    path = bad(flat, content)
    with pytest.raises(BadImage, match="can't be read") as caught:
        read_all(flat)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_image_is_named(flat):
    whole = save(flat / "cat" / "whole.jpg", size=(64, 64)).read_bytes()
    path = bad(flat, whole[: len(whole) // 2])
    with pytest.raises(BadImage) as caught:
        read_all(flat)
    assert str(path) in str(caught.value)


def test_image_over_pillows_limit_is_a_bad_image(flat, monkeypatch):
    path = save(flat / "cat" / "huge.png", size=(30, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)  # Pillow itself raises from twice that
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(BadImage, match="limit of 1199") as caught,
    ):
        read_all(flat)
    assert str(path) in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(BadImage, match=r"huge\.png"):
        read_all(flat)


def test_vanished_image_is_named(flat):
    split = load_dataset(f"folder:{flat}").splits["train"]
    os.remove(flat / split.names[0])
    with pytest.raises(BadImage) as caught:
        split.image(0)
    assert split.names[0] in str(caught.value)
    with pytest.raises(IceprobeError, match="is gone"):
        split.fingerprint()


def remove_class(root: Path) -> None:
    os.remove(root / "train" / "b" / "x.png")


def remove_class_folder(root: Path) -> None:
    remove_class(root)
    os.rmdir(root / "train" / "b")


def empty_test(root: Path) -> None:
    for name in ("a", "b"):
        os.remove(root / "test" / name / "x.png")


def loose_train(root: Path) -> None:
    for name in ("a", "b"):
        (root / "train" / name / "x.png").rename(root / "train" / f"{name}.png")
        os.rmdir(root / "train" / name)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (remove_class, "", "class 'b' is missing from train"),
        (remove_class_folder, "", "class 'b' .* missing from train"),
        (empty_test, "", "split 'test' .* is empty"),
        (loose_train, "", "labels are missing"),
        (None, "?split=vall", "split='vall'"),
        (None, "?test_fraction=0.2", "has its own splits"),
        (None, "?fraction=0.2", "unknown option .*test_fraction"),
        (None, "?seed=x", "seed='x'"),
    ],
)
def test_what_is_wrong_with_splits_is_said(with_splits, spoil, options, message):
    if spoil:
        spoil(with_splits)
    with pytest.raises(IceprobeError, match=message):
        load_dataset(f"folder:{with_splits}{options}")


def test_what_is_wrong_with_a_flat_folder_is_said(tmp_path):
    with pytest.raises(IceprobeError, match="no folder"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(IceprobeError, match="no class folders"):
        load_dataset(f"folder:{tmp_path}")
    save(tmp_path / "loose.png")
    with pytest.raises(IceprobeError, match="labels are missing"):
        load_dataset(f"folder:{tmp_path}")
    save(tmp_path / "only" / "one.png")
    with pytest.raises(IceprobeError, match=r"class 'only' .* has 1 image"):
        load_dataset(f"folder:{tmp_path}")
    with pytest.raises(IceprobeError, match=r"test_fraction=1\.5"):
        load_dataset(f"folder:{tmp_path}?test_fraction=1.5")
    with pytest.raises(IceprobeError, match="no train/"):
        load_dataset(f"folder:{tmp_path}?split=val")
    save(tmp_path / "lone" / "train" / "a" / "x.png")
    with pytest.raises(IceprobeError, match="neither test/ nor val/"):
        load_dataset(f"folder:{tmp_path / 'lone'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("floder:x", "Did you mean folder"),
        ("fashion", "unknown data set 'fashion'.*folder:.*bundled:"),
        ("bundled:fashion?seed=1", "unknown option"),
    ],
)
def test_specs_that_name_no_data_set(spec, message):
    with pytest.raises(IceprobeError, match=message):
        load_dataset(spec)


def test_option_given_twice_is_refused(tmp_path):
    with pytest.raises(IceprobeError, match="given twice"):
        load_dataset(f"folder:{tmp_path}?seed=1", seed=2)
