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

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset


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


def sample(number: int, label: bytes = b"0", stem: str | None = None) -> list[tuple[str, bytes]]:
    stem = f"a/{number}" if stem is None else stem
    return [(f"{stem}.jpg", picture(number)), (f"{stem}.cls", label)]


def members(*samples: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [member for one in samples for member in one]


def doubled_label(root: Path) -> None:
    write(root / "train-001.tar", *sample(1), ("a/1.CLS", b"5"))


def doubled_image(root: Path) -> None:
    write(root / "train-001.tar", *sample(1), ("a/1.jpg", picture(2)))


def doubled_sample(root: Path) -> None:
    write(root / "train-001.tar", *members(sample(1), sample(2), sample(1, b"5")))


def scattered(root: Path) -> None:
    write(root / "train-001.tar", *members(sample(1), sample(2)), ("a/1.txt", b"x"))


def cut_at_a_border(root: Path) -> None:
    """Three samples, of which the last was lost together with the end."""
    path = write(root / "train-001.tar", *members(sample(1), sample(2), sample(3)))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]
        path.write_bytes(path.read_bytes()[: third.offset])


def cut_in_a_header(root: Path) -> None:
    path = write(root / "train-001.tar", *members(sample(1), sample(2)))
    with tarfile.open(path) as tar:
        path.write_bytes(path.read_bytes()[: tar.getmembers()[2].offset + 100])


def damaged(root: Path) -> None:
    path = write(root / "train-001.tar", *members(sample(1), sample(2), sample(3)))
    with tarfile.open(path) as tar:
        start = tar.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


def followed_by_something(root: Path) -> None:
    path = write(root / "train-001.tar", *sample(1))
    path.write_bytes(path.read_bytes() + b"no tar at all" * 100)


def linked(root: Path) -> None:
    with tarfile.open(root / "train-001.tar", "w") as tar:
        for name, content in sample(1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for kind in ("jpg", "cls"):
            info = tarfile.TarInfo(f"a/2.{kind}")
            info.type, info.linkname = tarfile.LNKTYPE, f"a/1.{kind}"
            tar.addfile(info)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (doubled_label, r"sample 'a/1' of .* has two 'cls' \('a/1.cls' and 'a/1.CLS'\)"),
        (doubled_image, "sample 'a/1' of .* has two 'jpg'"),
        (doubled_sample, "sample 'a/1' is twice in .*train-001.tar'"),
        (scattered, "sample 'a/1' is twice in .* don't lie together"),
        (cut_at_a_border, r"train-001.tar' was cut after 'a/2.cls': the empty blocks"),
        (cut_in_a_header, r"train-001.tar' was cut after 'a/1.cls'"),
        (damaged, r"train-001.tar' is damaged after 'a/1.cls': byte \d+ begins no member"),
        (followed_by_something, r"train-001.tar' is damaged .* byte 10240 begins no member"),
        (linked, r"member 'a/2.jpg' of .* is a link"),
    ],
)
def test_no_sample_is_dropped_or_overwritten(tars, spoil, message):
    spoil(tars)
    with pytest.raises(IceprobeError, match=message) as caught:
        load_dataset(spec(tars))
    assert "\n" not in str(caught.value)


def test_a_whole_tar_without_its_end_is_read_once_it_has_one(tars):
    path = write(tars / "train-001.tar", *members(sample(1), sample(2)))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
        path.write_bytes(path.read_bytes()[: last.offset_data + 512])
    with pytest.raises(IceprobeError, match=r"truncate -s \+1024 FILE"):
        load_dataset(spec(tars))
    os.truncate(path, path.stat().st_size + 1024)
    assert reds(load_dataset(spec(tars)).splits["train"]) == [10, 11, 1, 2, 13, 14, 15]


def test_archives_one_after_another_are_all_read_and_said(tars):
    parts = [
        write(tars / f"part{i}.tar", *members(*(sample(3 * i + j) for j in range(3))))
        for i in range(3)
    ]
    (tars / "train-001.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    dataset = load_dataset(spec(tars))
    assert reds(dataset.splits["train"]) == [10, 11, *range(9), 13, 14, 15]
    assert dataset.assumed == [
        f"'{tars}/train-001.tar' is 3 archives one after another: all of them are read"
    ]


def test_samples_of_one_name_in_several_tars_are_counted_and_named(tars):
    write(tars / "train-001.tar", *members(sample(10), sample(11), sample(12)))
    dataset = load_dataset(spec(tars))
    assert reds(dataset.splits["train"]) == [10, 11, 10, 11, 12, 13, 14, 15]
    assert len(set(dataset.splits["train"].names)) == 8
    assert dataset.assumed == [
        "2 samples of train have the name of one in another tar ('a/10' is in "
        f"'{tars}/train-000.tar' and '{tars}/train-001.tar'): each is read as an image of its own"
    ]


def test_a_tar_without_samples_and_negative_numbers_are_said(tars):
    write(tars / "train-001.tar")
    write(tars / "test-000.tar", *sample(20, b"0"))
    write(tars / "train-000.tar", *members(sample(10, b"-1"), sample(11, b"0")))
    dataset = load_dataset(spec(tars))
    assert dataset.classes == ["-1", "0", "5", "10"]
    assert [line.split(": ")[-1] for line in dataset.assumed] == [
        f"'{tars}/train-001.tar' holds no sample",
        "label -1 is read as a class of its own",
    ]


def test_a_folder_of_tars_that_can_not_be_read_is_named(tars, monkeypatch):
    (tars / "more").mkdir()
    write(tars / "more" / "x.tar", *sample(1))
    whole, shut = os.scandir, str(tars / "more")

    def scandir(path="."):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(IceprobeError, match=r"more' can't be read \(Permission denied\)"):
        load_dataset(f"webdataset:{tars.parent}/*/*/*.tar?test={tars}/test-000.tar")


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
