"""Which folders `folder:DIR` reads as splits, what it says of them, and what it refuses to guess."""

import os
from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.folder import unlabelled
from iceprobe.datasets.layout import role_of
from tests.datasets.test_folder import save


def lay(root: Path, *folders: str, images: int = 2) -> Path:
    """Images in each folder; an image's red is the number of its folder."""
    for number, folder in enumerate(folders):
        for index in range(images):
            save(root / folder / f"{index}.png", number)
    return root


def reds(split) -> list[int]:
    return [np.asarray(split.image(i))[0, 0, 0].item() for i in range(len(split))]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("train", "validation"),
        ("train", "dev"),
        ("train", "eval"),
        ("Train", "Val"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
    ],
)
def test_the_usual_words_are_splits_in_any_case_and_said(tmp_path, caplog, train, test):
    lay(tmp_path, f"{train}/wren", f"{train}/robin", f"{test}/robin", f"{test}/wren")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ["robin", "wren"]
    assert reds(dataset.splits["train"]) == [1, 1, 0, 0]
    assert reds(dataset.splits["test"]) == [2, 2, 3, 3]
    assert dataset.splits["test"].names[0] == f"{test}/robin/0.png"
    line = f"folder '{tmp_path}': {train}/ is read as train and {test}/ as test"
    assert dataset.assumed == [line]
    assert f"assumed: {line}" in caplog.text


def test_a_class_without_a_folder_in_test_has_no_test_images(tmp_path):
    lay(tmp_path, "train/a", "train/b", "train/c", "test/b")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ["a", "b", "c"]
    assert dataset.splits["test"].labels.tolist() == [1, 1]


def test_plain_names_need_no_word(tmp_path):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b")
    assert load_dataset(f"folder:{tmp_path}").assumed == []


@pytest.mark.parametrize(
    ("folders", "train", "test", "unread"),
    [
        (["train", "val", "test", "dev"], "train", "test", "dev/, val/"),
        (["train", "val", "valid"], "train", "val", "valid/"),
        (["train", "train2", "test"], "train", "test", "train2/"),
        (["train", "training", "Test"], "train", "Test", "training/"),
        (["train", "test", "extra"], "train", "test", "extra/"),
    ],
)
def test_of_several_candidates_one_is_chosen_and_the_others_named(
    tmp_path, folders, train, test, unread
):
    lay(tmp_path, *(f"{folder}/{name}" for folder in folders for name in "ab"))
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.splits["train"].names[0] == f"{train}/a/0.png"
    assert dataset.splits["test"].names[0] == f"{test}/a/0.png"
    assert dataset.assumed == [
        f"folder '{tmp_path}': {train}/ is read as train and {test}/ as test; {unread} left unread"
    ]
    asked = load_dataset(f"folder:{tmp_path}?train={train}&test={folders[1]}")
    assert asked.assumed == []
    assert asked.splits["test"].names[0] == f"{folders[1]}/a/0.png"


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["train/a", "train/b"], "has train/ but neither test/ nor val/"),
        (["Training/a", "Training/b"], "has Training/ but neither test/ nor val/"),
        (["train/a", "train/b", "train2/a", "train2/b"], r"neither .* \(train/, train2/\)"),
        (["train/a", "train/b", "bird/a"], r"has train/ but neither .* \(bird/, train/\)"),
        (["train/a", "train/b", "holdout/a"], "has train/ but neither"),
        (["train2017/a", "val2017/a"], r"looks like splits \(train2017/, val2017/\)"),
        (["images_train/a", "images_test/a"], "looks like splits"),
        (["test/a", "val/b"], r"looks like splits \(test/, val/\)"),
        (["fold1/a", "fold2/a", "fold3/a"], "looks like splits"),
        (["train", "train2"], r"looks like splits \(train/, train2/\).*labels are missing"),
        (["train2017", "val2017"], "labels are missing"),
        (["train"], "labels are missing"),
        (["train", "valid"], "labels are missing"),
        (["Training/a", "training/a", "test/a"], "several folders for train: Training/, training/"),
        (["train/a", "valid/a", "dev/a"], "several folders for test: dev/, valid/.*test=dev"),
        (["images/train/a", "images/test/a"], r"splits below images/ \(test/, train/\)"),
        (["cat/Train", "cat/Valid", "dog/Train", "dog/Valid"], "splits below cat/"),
        (["images/robin", "images/wren"], "one class folder, images/, with folders in it"),
        (["train/images/a", "train/images/b", "test/images/a"], "one class folder, images/"),
    ],
)
def test_what_looks_like_splits_and_is_not_readable_is_refused(tmp_path, folders, says):
    lay(tmp_path, *folders)
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_the_remedies_work(tmp_path):
    lay(tmp_path, "train/a", "train/b", "train2/a", "train2/b")
    named = load_dataset(f"folder:{tmp_path}?train=train&test=train2")
    assert [s.names[0] for s in named.splits.values()] == ["train/a/0.png", "train2/a/0.png"]
    flat = load_dataset(f"folder:{tmp_path}?flat=true&test_fraction=0.25")
    assert flat.classes == ["train", "train2"]
    assert flat.assumed == []
    assert load_dataset(f"folder:{tmp_path / 'train'}").classes == ["a", "b"]
    lay(
        tmp_path / "deep",
        *(f"{split}/images/{name}" for split in ("train", "test") for name in "ab"),
    )
    deep = load_dataset(f"folder:{tmp_path}/deep?train=train/images&test=test/images")
    assert (deep.classes, deep.splits["test"].names[-1]) == (["a", "b"], "test/images/b/1.png")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("test=holdout", "option test='holdout': no such folder .* it has test/, train/"),
        ("train=../elsewhere", "no such folder"),
        ("test=train", "train and test .* are both 'train'"),
        ("flat=true&split=test", "exclude each other"),
        ("split=val", "has no val/: drop split=val"),
    ],
)
def test_folders_asked_for_that_are_not_there(tmp_path, options, says):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b")
    with pytest.raises(IceprobeError, match=says):
        load_dataset(f"folder:{tmp_path}?{options}")


def test_vehicles_called_train_are_a_class_and_said(tmp_path):
    lay(tmp_path, "bus", "train", "bullet train", images=3)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ["bullet train", "bus", "train"]
    assert dataset.assumed == [
        f"train/ of folder '{tmp_path}' may be named after a split and has no class folders: "
        "it is read as a class"
    ]


def test_one_class_alone_is_said(tmp_path):
    dataset = load_dataset(f"folder:{lay(tmp_path, 'wren')}")
    assert dataset.assumed == [
        f"wren/ is the one folder in '{tmp_path}': every image is of this class"
    ]


def test_names_that_only_contain_a_word_for_a_split_have_no_role():
    assert [role_of(name) for name in ("train", "Valid", "DEV", "tst")] == [
        "train", "val", "val", "test"
    ]  # fmt: skip
    assert [role_of(name) for name in ("trainer", "value", "devil", "latest")] == [None] * 4


def test_files_of_other_formats_are_counted(tmp_path, caplog):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b")
    for index in range(3):
        save(tmp_path / "train" / "b" / f"{index}.gif")
    (tmp_path / "test" / "a" / "notes.TXT").write_text("no image")
    (tmp_path / "test" / "a" / ".DS_Store").write_text("hidden")
    dataset = load_dataset(f"folder:{tmp_path}")
    (line,) = dataset.assumed
    assert line.startswith(f"folder '{tmp_path}': 4 of 12 files are no images that folder: reads")
    assert "3 .gif, 1 .txt; 'test/a/notes.TXT' first" in line
    caplog.clear()
    split = unlabelled(tmp_path)
    assert len(split) == 8
    assert caplog.messages == [f"assumed: {line}"]


def test_images_outside_class_folders_are_counted(tmp_path):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b")
    save(tmp_path / "train" / "loose.png")
    save(tmp_path / "test" / "loose.png")
    assert load_dataset(f"folder:{tmp_path}").assumed == [
        f"folder '{tmp_path}': 2 image(s) outside class folders are left out "
        "('train/loose.png' first)"
    ]


@pytest.mark.parametrize("closed", ["train/b", "test/a/deeper", "."])
def test_a_folder_that_can_not_be_read_is_named(tmp_path, monkeypatch, closed):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b", "test/a/deeper")
    whole, shut = os.scandir, str(tmp_path / closed)

    def scandir(path="."):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root reads everything
    for read in (lambda: load_dataset(f"folder:{tmp_path}"), lambda: unlabelled(tmp_path)):
        with pytest.raises(IceprobeError, match=r"can't be read \(Permission denied\)") as caught:
            read()
        assert shut in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_link_to_a_class_that_leads_nowhere_is_named(tmp_path):
    lay(tmp_path, "train/a", "train/b", "test/a", "test/b")
    (tmp_path / "train" / "c").symlink_to(tmp_path / "gone")
    with pytest.raises(IceprobeError, match=r"train/c' is a link that leads nowhere"):
        load_dataset(f"folder:{tmp_path}")
