"""`huggingface:DIR`: parquet, saved tables and image folders through the package `datasets`."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset

datasets = pytest.importorskip("datasets", reason="needs the extra [huggingface]")

NAMES = ["zebra", "newt", "ant"]  # not sorted: the order of a ClassLabel is its own


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (number, 0, 7)).save(stream, "PNG")
    return stream.getvalue()


def table(numbers, labels, label=None, **columns):
    cells = [{"bytes": picture(number), "path": f"{number}.png"} for number in numbers]
    features = {"picture": datasets.Image(), "kind": label or datasets.ClassLabel(names=NAMES)}
    features |= {name: datasets.Value("int64") for name in columns}
    rows = {"picture": cells, "kind": labels, **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def parquet(root: Path, label=None, train=(2, 0, 1), test=(1, 2), test_name="test") -> str:
    (root / "data").mkdir(parents=True)
    for split, first, labels in (("train", 10, train), (test_name, 20, test)):
        made = table(range(first, first + len(labels)), list(labels), label)
        made.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return f"huggingface:{root}?image=picture&label=kind"


def reds(split) -> list[int]:
    return [np.asarray(split.image(i))[0, 0, 0].item() for i in range(len(split))]


def test_parquet_with_named_classes(tmp_path):
    dataset = load_dataset(parquet(tmp_path / "birds"))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.classes == NAMES
    assert dataset.name == "birds"
    assert (reds(train), train.labels.tolist()) == ([10, 11, 12], [2, 0, 1])
    assert (reds(test), test.labels.tolist()) == ([20, 21], [1, 2])
    assert train.names == ["train/0000000/10.png", "train/0000001/11.png", "train/0000002/12.png"]


@pytest.mark.parametrize(
    ("kind", "given", "classes", "labels"),
    [
        ("string", ("b", "a", "b"), ["a", "b"], [1, 0, 1]),
        ("int64", (30, 4, 30), ["4", "30"], [1, 0, 1]),
    ],
)
def test_plain_labels_are_numbered_in_their_order(tmp_path, kind, given, classes, labels):
    value = datasets.Value(kind)
    dataset = load_dataset(parquet(tmp_path / "set", value, train=given, test=given[1:]))
    assert dataset.classes == classes
    assert dataset.splits["train"].labels.tolist() == labels
    assert dataset.splits["test"].labels.tolist() == labels[1:]


def test_validation_where_there_is_no_test_and_splits_by_name(tmp_path):
    spec = parquet(tmp_path / "set", test_name="validation")
    dataset = load_dataset(spec)
    assert reds(dataset.splits["test"]) == [20, 21]
    line = f"{tmp_path}/set: train is read as train and validation as test"
    assert dataset.assumed == [line]
    assert load_dataset(spec, test="validation").assumed == []
    more = table([30], [1])
    more.to_parquet(tmp_path / "set/data/test-00000-of-00001.parquet")
    assert load_dataset(spec).assumed == [
        f"{tmp_path}/set: train is read as train and test as test; validation left unread"
    ]
    (tmp_path / "set/data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(IceprobeError, match=r"'zebra' .* missing from train"):
        load_dataset(spec, train="validation", test="train")
    with pytest.raises(IceprobeError, match=r"train and test .* are both 'train'"):
        load_dataset(spec, test="train")


def test_tables_saved_to_disk(tmp_path):
    made = {"train": table([10, 11, 12], [2, 0, 1]), "test": table([20], [1])}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    dataset = load_dataset(f"huggingface:{tmp_path}/saved?image=picture&label=kind")
    assert reds(dataset.splits["train"]) == [10, 11, 12]
    assert dataset.splits["test"].labels.tolist() == [1]


def test_image_folder(tmp_path):
    numbers = {"train/newt/a": 10, "train/ant/b": 11, "test/newt/c": 20}
    for name, number in numbers.items():
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(number))
    dataset = load_dataset(f"huggingface:{tmp_path}/images")
    train, test = dataset.splits["train"], dataset.splits["test"]
    found = dict(zip(reds(train), train.labels.tolist(), strict=True))
    assert dataset.classes == ["ant", "newt"]
    assert found == {10: 1, 11: 0}
    assert (reds(test), test.labels.tolist()) == ([20], [1])
    before = test.fingerprint()
    os.utime(tmp_path / "images/test/newt/c.png", ns=(1, 1))
    assert test.fingerprint() != before
    (tmp_path / "images/test/newt/c.png").unlink()
    with pytest.raises(BadImage, match=r"newt/c\.png' can't be read"):
        test.image(0)


def test_fingerprint_is_the_same_twice_and_follows_labels(tmp_path):
    spec = parquet(tmp_path / "set")
    one, two = (load_dataset(spec).splits["train"] for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    two.labels[0] = 1
    assert one.fingerprint() != two.fingerprint()
    other = load_dataset(parquet(tmp_path / "other", train=(2, 1, 0))).splits["train"]
    assert other.fingerprint() != one.fingerprint()


def test_many_threads_read_at_once(tmp_path):
    split = load_dataset(parquet(tmp_path / "set")).splits["train"]
    rows = np.random.default_rng(0).integers(0, 3, 100).tolist()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(split.image, rows))
    assert [np.asarray(image)[0, 0, 0] for image in images] == [10 + row for row in rows]


def test_broken_image_is_named(tmp_path):
    spec = parquet(tmp_path / "set")
    broken = table([10, 11, 12], [2, 0, 1]).to_dict()
    broken["picture"][1]["bytes"] = b"no image"
    broken["picture"][2] = None
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=NAMES))
    made = datasets.Dataset.from_dict(broken, features=features)
    made.to_parquet(tmp_path / "set/data/train-00000-of-00001.parquet")
    split = load_dataset(spec).splits["train"]
    with pytest.raises(BadImage, match=r"train/0000001/11\.png' can't be read"):
        split.image(1)
    with pytest.raises(BadImage, match="train/0000002' is empty"):
        split.image(2)


def two(root: Path, train, test, saved: bool = False) -> str:
    """A data set whose splits have features of their own: (kind of labels, labels) of each."""
    made = {
        split: table(range(first, first + len(labels)), list(labels), kind)
        for split, first, (kind, labels) in (("train", 10, train), ("test", 20, test))
    }
    if saved:
        datasets.DatasetDict(made).save_to_disk(root)
    else:
        (root / "data").mkdir(parents=True)
        for split, one in made.items():
            one.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return f"huggingface:{root}?image=picture&label=kind"


def named_of(dataset, split: str) -> list[str]:
    return [dataset.classes[label] for label in dataset.splits[split].labels]


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "saved"])
def test_names_decide_where_train_and_test_list_them_in_another_order(tmp_path, saved):
    train = datasets.ClassLabel(names=["zebra", "newt", "ant"]), [0, 1, 2, 0]
    test = datasets.ClassLabel(names=["ant", "zebra", "newt", "yak"]), [0, 1, 2]
    dataset = load_dataset(two(tmp_path / "set", train, test, saved))
    assert dataset.classes == ["zebra", "newt", "ant"]
    assert named_of(dataset, "train") == ["zebra", "newt", "ant", "zebra"]
    assert named_of(dataset, "test") == ["ant", "zebra", "newt"]
    assert dataset.splits["test"].labels.tolist() == [2, 0, 1]
    assert dataset.assumed == []


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "saved"])
def test_a_class_that_only_test_lists_is_one_line(tmp_path, saved):
    train = datasets.ClassLabel(names=["zebra", "newt"]), [0, 1]
    test = datasets.ClassLabel(names=["newt", "yak"]), [0, 1]
    with pytest.raises(
        IceprobeError, match=r"class 'yak' is in split 'test' .* missing from train"
    ):
        load_dataset(two(tmp_path / "set", train, test, saved))


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "saved"])
def test_numbers_beside_names_are_places_and_said(tmp_path, saved):
    names, numbers = datasets.ClassLabel(names=NAMES), datasets.Value("int64")
    dataset = load_dataset(two(tmp_path / "a", (names, [2, 0, 1]), (numbers, [1, 2]), saved))
    assert named_of(dataset, "test") == ["newt", "ant"]
    (line,) = dataset.assumed
    assert line.endswith("labels of test are numbers, read as indices into train's list of names")
    other = load_dataset(two(tmp_path / "b", (numbers, [2, 0, 1]), (names, [1, 2]), saved))
    assert (other.classes, other.splits["test"].labels.tolist()) == (["0", "1", "2"], [1, 2])
    assert "train names no classes" in other.assumed[0]


@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "saved"])
def test_text_beside_names_goes_by_name(tmp_path, saved):
    names, text = datasets.ClassLabel(names=NAMES), datasets.Value("string")
    dataset = load_dataset(two(tmp_path / "a", (names, [2, 0, 1]), (text, ["newt", "ant"]), saved))
    assert named_of(dataset, "test") == ["newt", "ant"]
    assert dataset.assumed == []
    with pytest.raises(IceprobeError, match="yak"):
        load_dataset(two(tmp_path / "b", (names, [2, 0, 1]), (text, ["newt", "yak"]), saved))


def test_a_label_beyond_the_names_is_one_line(tmp_path):
    names, numbers = datasets.ClassLabel(names=NAMES), datasets.Value("int64")
    for number, (train, test) in enumerate((([0, 1, 2], [1, 7]), ([0, 1, 2, 7], [1]))):
        made = (names, train), (numbers, test)
        if number:  # written as numbers, declared as names by the card
            spec = two(tmp_path / "card", (numbers, train), (numbers, test))
            (tmp_path / "card" / "README.md").write_text(CARD)
        else:
            spec = two(tmp_path / "test", *made)
        with pytest.raises(IceprobeError, match=r"[Ll]abel 7 ") as caught:
            load_dataset(spec)
        assert "\n" not in str(caught.value)


CARD = """---
dataset_info:
  features:
  - name: picture
    dtype: image
  - name: kind
    dtype:
      class_label:
        names:
          '0': zebra
          '1': newt
          '2': ant
---
"""


def test_the_names_of_a_card_stand(tmp_path):
    numbers = datasets.Value("int64")
    spec = two(tmp_path / "card", (numbers, [0, 1, 2]), (numbers, [1, 2]))
    (tmp_path / "card" / "README.md").write_text(CARD)
    dataset = load_dataset(spec)
    assert named_of(dataset, "test") == ["newt", "ant"]
    assert dataset.assumed == []


def test_files_of_one_split_that_name_classes_differently_are_refused(tmp_path):
    first, other = datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["b", "a"])
    spec = two(tmp_path / "set", (first, [0, 1]), (first, [0, 1]))
    more = table([30, 31], [0, 1], other)
    more.to_parquet(tmp_path / "set/data/train-00001-of-00001.parquet")
    with pytest.raises(IceprobeError, match="name their classes differently") as caught:
        load_dataset(spec)
    assert "train-00001" in str(caught.value)


def test_a_class_without_an_image_is_left_out_and_said(tmp_path):
    names = datasets.ClassLabel(names=["N/A", "ant", "bee"])
    dataset = load_dataset(two(tmp_path / "set", (names, [2, 1]), (names, [1])))
    assert dataset.classes == ["ant", "bee"]
    assert dataset.splits["train"].labels.tolist() == [1, 0]
    assert dataset.assumed[0].endswith("no image is of class 'N/A': 2 of 3 named classes are read")


def test_negative_numbers_are_said_and_fractions_refused(tmp_path):
    whole, real = datasets.Value("int64"), datasets.Value("float32")
    dataset = load_dataset(two(tmp_path / "a", (whole, [-1, 0, 1]), (whole, [0, -1])))
    assert dataset.assumed[0].endswith("label -1 is read as a class of its own")
    signs = load_dataset(two(tmp_path / "b", (whole, [-1, 1]), (whole, [1])))
    assert (signs.classes, signs.assumed) == (["-1", "1"], [])
    tens = load_dataset(two(tmp_path / "c", (real, [10.0, 2.0]), (real, [10.0])))
    assert (tens.classes, tens.splits["test"].labels.tolist()) == (["2", "10"], [1])
    with pytest.raises(IceprobeError, match=r"label 0\.5 of split 'train' .* is no class"):
        load_dataset(two(tmp_path / "d", (real, [0.5, 1.0]), (real, [1.0])))


@pytest.mark.parametrize("column", ["cells", "raw", "large"])
def test_parquet_of_other_tools(tmp_path, column):
    """Bytes and path, or bytes alone, with nothing of `datasets` in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, numbers in (("train", [10, 11]), ("test", [20])):
        pixels = [picture(number) for number in numbers]
        cells = [{"bytes": b, "path": f"{n}.png"} for b, n in zip(pixels, numbers, strict=True)]
        columns = {
            "cells": cells,
            "raw": pa.array(pixels, pa.binary()),
            "large": pa.array(pixels, pa.large_binary()),
            "kind": ["ab"[number % 2] for number in numbers],
            "place": ["x.png" for _ in numbers],
        }
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / f"set/{split}.parquet")
    dataset = load_dataset(f"huggingface:{tmp_path}/set?image={column}&label=kind")
    assert [reds(split) for split in dataset.splits.values()] == [[10, 11], [20]]
    assert dataset.splits["train"].labels.tolist() == [0, 1]
    assert dataset.splits["test"].fingerprint() == dataset.splits["test"].fingerprint()
    with pytest.raises(IceprobeError, match=r"column 'place' .* holds no images"):
        load_dataset(f"huggingface:{tmp_path}/set?image=place&label=kind")


def test_a_folder_that_can_not_be_read_is_named(tmp_path, monkeypatch):
    spec = parquet(tmp_path / "set")
    whole, shut = os.scandir, str(tmp_path / "set/data")

    def scandir(path="."):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(IceprobeError, match=r"set/data' can't be read \(Permission denied\)"):
        load_dataset(spec)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({}, dict(image="pictures"), "unknown column of .* 'pictures'. Did you mean picture.*Pass image="),
        ({}, dict(label="label"), "unknown column of .* 'label'.*There are: kind, picture"),
        ({}, dict(image="kind"), "column 'kind' .* holds no images"),
        ({}, dict(label="picture"), "column 'picture' .* holds no single labels"),
        ({}, dict(train="trian"), "unknown split of .* 'trian'. Did you mean train"),
        ({}, dict(test="tset"), "unknown split of .* 'tset'. Did you mean test"),
        (dict(test_name="extra"), {}, "unknown split of .* 'test'.*extra, train. Pass test=SPLIT"),
        (dict(test=(1, -1)), {}, "labels of split 'test' .* are missing"),
        (dict(train=(2, 0, 2)), {}, "class 'newt' .* missing from train"),
        (dict(label=datasets.Value("string"), train="ab", test="ac"), {}, "class 'c' is in split 'test'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, made, options, message):
    spec = parquet(tmp_path / "set", **made).split("?")[0]
    with pytest.raises(IceprobeError, match=message) as caught:
        load_dataset(spec, **{"image": "picture", "label": "kind", **options})
    assert "\n" not in str(caught.value)


def test_one_split_alone_is_refused_and_the_remedy_works(tmp_path):
    spec = parquet(tmp_path / "set", train=(2, 0, 1, 2, 0, 1))
    (tmp_path / "set/data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(IceprobeError, match="has one split, 'train', and nothing to test on"):
        load_dataset(spec)
    whole = datasets.load_dataset(f"{tmp_path}/set", split="train")
    halves = whole.train_test_split(3, stratify_by_column="kind", seed=0)
    halves.save_to_disk(tmp_path / "two")
    dataset = load_dataset(f"huggingface:{tmp_path}/two?image=picture&label=kind")
    assert sorted(dataset.splits["test"].labels) == [0, 1, 2]


def test_folders_that_hold_no_data_set(tmp_path):
    with pytest.raises(IceprobeError, match=r"no folder .*nowhere"):
        load_dataset(f"huggingface:{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IceprobeError, match="can't be loaded") as caught:
        load_dataset(f"huggingface:{tmp_path}/empty")
    assert "\n" not in str(caught.value)


def test_without_network(monkeypatch):
    def refused(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(IceprobeError, match=r"'owner/name' can't be loaded .Couldn't reach"):
        load_dataset("huggingface:owner/name")


def test_names_in_files_of_the_hub_are_read_there_or_their_absence_is_reported(
    tmp_path, monkeypatch
):
    """The hub's files by way of fsspec, each split's first; nothing can be asked without network."""
    import fsspec

    train, test = datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["b", "a"])
    files = {}
    for split, kind, numbers in (("train", train, [10, 11]), ("test", test, [20, 21])):
        table(numbers, [0, 1], kind).to_parquet(tmp_path / f"{split}.parquet")
        files[split] = [f"memory://names/{split}.parquet"]
        with fsspec.open(files[split][0], "wb") as file:
            file.write((tmp_path / f"{split}.parquet").read_bytes())
    merged = {"train": table([10, 11], [0, 1], train), "test": table([20, 21], [0, 1], train)}
    made = SimpleNamespace(config=SimpleNamespace(data_files=files))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict(merged))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: made)
    spec = "huggingface:owner/name?image=picture&label=kind"
    dataset = load_dataset(spec)
    assert [named_of(dataset, split) for split in files] == [["a", "b"], ["b", "a"]]
    assert dataset.assumed == []

    def refused(*arguments, **options):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset_builder", refused)
    assert load_dataset(spec).assumed == [
        "owner/name: whether train and test list their classes in one order can't be seen "
        "(offline): train's list is taken for both"
    ]


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(IceprobeError, match=r"pip install 'iceprobe\[huggingface\]'"):
        load_dataset(f"huggingface:{tmp_path}")
