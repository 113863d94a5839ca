"""`webdataset:PATTERN`: samples by index, labels of each kind, and what is wrong with a tar."""

import io
import json
import os
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iceprobe.datasets import BadImage, load_dataset
from iceprobe.errors import IceprobeError


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (number, 0, 7)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path) -> Path:
    """Three training tars and one of test; the number of an image is in its name and its red."""
    for shard, numbers in enumerate(([10, 11], [12], [13, 14, 15])):
        members = []
        for number in numbers:
            content = json.dumps({"label": f"k{number % 3}", "species": number % 3})
            members += [
                (f"a/{number}.json", content.encode()),
                (f"a/{number}.jpg", picture(number)),
                (f"a/{number}.seg.png", picture(200)),
                (f"a/{number}.cls", f"{(number % 3) * 5}\n".encode()),
                (f"a/{number}.txt", ("zebra", "Ähre", "newt")[number % 3].encode()),
            ]
        write(tmp_path / f"train-{shard:03d}.tar", *members)
    members = [(f"b/{n}.{k}", c) for n in (20, 21) for k, c in (("PNG", picture(n)), ("cls", b"5"))]
    write(tmp_path / "test-000.tar", *members)
    return tmp_path


def spec(root: Path, **options: str) -> str:
    options = {"test": f"{root}/test-*.tar"} | options
    tail = "&".join(f"{key}={value}" for key, value in options.items())
    return f"webdataset:{root}/train-{{000..002}}.tar?{tail}"


def reds(split) -> list[int]:
    return [np.asarray(split.image(i))[0, 0, 0].item() for i in range(len(split))]


def test_images_and_labels_in_the_order_of_the_tars(tars):
    dataset = load_dataset(spec(tars))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert dataset.classes == ["0", "5", "10"]  # as numbers, not as text
    assert reds(train) == [10, 11, 12, 13, 14, 15]
    assert train.labels.tolist() == [1, 2, 0, 1, 2, 0]
    assert train.names[2] == "train-001.tar/a/12.jpg"
    assert reds(test) == [20, 21]
    assert test.labels.tolist() == [1, 1]
    assert dataset.name == tars.name
    assert load_dataset(dataset.spec).splits["train"].names == train.names


@pytest.mark.parametrize(
    ("label", "classes", "labels"),
    [
        ("txt", ["newt", "zebra", "Ähre"], [2, 0, 1, 2, 0, 1]),
        ("json", ["k0", "k1", "k2"], [1, 2, 0, 1, 2, 0]),
        ("json.species", ["0", "1", "2"], [1, 2, 0, 1, 2, 0]),
    ],
)
def test_labels_of_text_and_of_json(tars, label, classes, labels):
    dataset = load_dataset(spec(tars, test=with_all_keys(tars), label=label))
    assert dataset.classes == classes
    assert dataset.splits["train"].labels.tolist() == labels
    assert dataset.splits["test"].labels.tolist() == labels[2:3]


def with_all_keys(tars: Path) -> str:
    """Another test tar."""
    (tars / "copy-0.tar").write_bytes((tars / "train-001.tar").read_bytes())
    return f"{tars}/copy-*.tar"


def test_the_first_image_key_that_a_sample_has_is_taken(tars):
    dataset = load_dataset(spec(tars, test=with_all_keys(tars), image="webp;seg.png;jpg"))
    assert reds(dataset.splits["train"]) == [200] * 6


def test_a_star_takes_the_same_tars_as_braces(tars):
    braces = load_dataset(spec(tars)).splits["train"]
    stars = load_dataset(f"webdataset:{tars}/train-*.tar?test={tars}/test-000.tar").splits["train"]
    assert stars.names == braces.names
    assert stars.fingerprint() == braces.fingerprint()


def test_many_threads_read_at_once(tars):
    split = load_dataset(spec(tars)).splits["train"]
    rows = np.random.default_rng(0).integers(0, 6, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(split.image, rows))
    assert [np.asarray(image)[0, 0, 0] for image in images] == [10 + row for row in rows]


def test_fingerprint_follows_the_tars_and_not_their_place(tars):
    def fingerprint(root: Path) -> str:
        return load_dataset(spec(root)).splits["train"].fingerprint()

    before = fingerprint(tars)
    moved = tars.rename(tars.with_name(f"{tars.name}-moved"))
    assert fingerprint(moved) == before
    os.utime(moved / "train-001.tar", ns=(1, 1))
    assert fingerprint(moved) != before


def test_an_image_that_can_not_be_read_is_named(tars):
    write(tars / "train-001.tar", ("c/1.cls", b"0"), ("c/1.jpg", b"no image"))
    split = load_dataset(spec(tars)).splits["train"]
    with pytest.raises(BadImage, match=r"train-001\.tar/c/1\.jpg' can't be read"):
        split.image(2)
    (tars / "train-000.tar").unlink()
    with pytest.raises(BadImage, match=r"train-000\.tar is gone"):
        split.image(0)


def unlabelled(root: Path) -> None:
    write(root / "train-001.tar", ("a/1.jpg", picture(1)), ("a/1.txt", b"x"))


def imageless(root: Path) -> None:
    write(root / "train-001.tar", ("a/1.cls", b"0"))


def packed(root: Path) -> None:
    write(root / "train-001.tar", ("a/1.cls", b"0"), ("a/1.jpg", picture(1)), mode="w:gz")


def cut_short(root: Path) -> None:
    path = root / "train-002.tar"
    path.write_bytes(path.read_bytes()[:3000])


def unseen(root: Path) -> None:
    write(root / "test-000.tar", ("b/1.cls", b"7"), ("b/1.jpg", picture(1)))


def empty(root: Path) -> None:
    write(root / "test-000.tar")


def gone(root: Path) -> None:
    (root / "train-001.tar").unlink()


def undecodable(root: Path) -> None:
    write(root / "train-001.tar", ("a/1.cls", b"\xff\xfe"), ("a/1.jpg", picture(1)))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (unlabelled, {}, r"sample 'a/1' of .*train-001.tar' has no 'cls', it has jpg, txt: pass label="),
        (imageless, {}, r"sample 'a/1' .* has no 'jpg;jpeg;png;webp', it has cls: pass image="),
        (None, {"image": "tiff"}, "has no 'tiff'"),
        (None, {"label": "json.genus"}, r"label 'a/10.json' .*KeyError: 'genus'.*json.FIELD"),
        (undecodable, {}, r"label 'a/1.cls' .*UnicodeDecodeError"),
        (packed, {}, r"train-001.tar' can't be read as a plain tar .*compressed"),
        (cut_short, {}, r"train-002.tar' can't be read as a plain tar"),
        (unseen, {}, "class '7' is in split 'test' .* missing from train"),
        (empty, {}, "split 'test' .* is empty"),
        (gone, {}, r"no file .*train-001.tar'"),
        (None, {"test": "nowhere/*.tar"}, r"no file 'nowhere/\*.tar'"),
        (None, {"lable": "cls"}, "unknown option .* 'lable'. Did you mean label"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tars, spoil, options, message):
    if spoil:
        spoil(tars)
    with pytest.raises(IceprobeError, match=message) as caught:
        load_dataset(spec(tars, **options))
    assert "\n" not in str(caught.value)


def test_test_tars_are_needed_and_are_others(tars):
    with pytest.raises(IceprobeError, match="no test split: add test=PATTERN"):
        load_dataset(f"webdataset:{tars}/train-000.tar")
    with pytest.raises(IceprobeError, match=r"train-000.tar' is in train and in test"):
        load_dataset(f"webdataset:{tars}/train-*.tar?test={tars}/train-000.tar")


def test_braces_without_their_package(tars, monkeypatch):
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(IceprobeError, match=r"pip install 'iceprobe\[webdataset\]'"):
        load_dataset(spec(tars))
    load_dataset(f"webdataset:{tars}/train-*.tar?test={tars}/test-000.tar")
