"""`table:FILE`: images and targets by their rows, and one line with the row's number for what is wrong."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset
from iceprobe.store.memory import extract_in_memory
from tests.datasets.layouts import number_of
from tests.datasets.test_webdataset import picture
from tests.store.conftest import make_backbone

ROWS = [  # of eight images, the last two of test
    {"image": f"{n}.png", "label": "ab"[n % 2], "tags": ["x"] * (n % 2) + ["y"] * (n > 3),
     "age": n / 2, "x": n % 2, "y": int(n > 3), "who": f"p{n // 2}", "fold": n % 3,
     "split": "train" if n < 6 else "test"}
    for n in range(8)
]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for n in range(8):
        Image.new("RGB", (6, 4), (n, 0, 7)).save(tmp_path / "images" / f"{n}.png")
    return tmp_path


def line(row: dict, delimiter: str = ",") -> str:
    cells = [";".join(value) if isinstance(value, list) else str(value) for value in row.values()]
    return delimiter.join(cells)


def csv(folder: Path, rows=ROWS, name="labels.csv", delimiter=",") -> str:
    lines = [delimiter.join(rows[0]), *(line(row, delimiter) for row in rows)]
    (folder / name).write_text("".join(f"{text}\n" for text in lines))
    return f"table:{folder}/{name}?images={folder}/images"


def jsonl(folder: Path, rows=ROWS) -> str:
    (folder / "labels.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return f"table:{folder}/labels.jsonl?images={folder}/images"


def parquet(folder: Path, rows=ROWS, name="labels.parquet", **options) -> str:
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
    return f"table:{folder}/{name}?images={folder}/images"


def numbers(split) -> list[int]:
    return [number_of(split.image(i)) for i in range(len(split))]


def summary(data) -> list:
    return [
        (name, numbers(split), split.labels.tolist(), split.names,
         {key: [column.values[c] for c in column.codes] for key, column in split.columns.items()})
        for name, split in data.splits.items()
    ]  # fmt: skip


@pytest.mark.parametrize("write", [csv, jsonl, parquet])
@pytest.mark.parametrize(
    ("target", "task", "names", "labels"),
    [
        ("label", "classification", ["a", "b"], [0, 1, 0, 1, 0, 1, 0, 1]),
        ("tags&separator=;", "multilabel", ["x", "y"], [[n % 2, n > 3] for n in range(8)]),
        ("x,y", "multilabel", ["x", "y"], [[n % 2, n > 3] for n in range(8)]),
        ("age&unit=years", "regression", ["age"], [[n / 2] for n in range(8)]),
        ("age,x", "regression", ["age", "x"], [[n / 2, n % 2] for n in range(8)]),
        ("x", "classification", ["0", "1"], [0, 1, 0, 1, 0, 1, 0, 1]),
    ],
)  # fmt: skip
def test_every_format_gives_the_same(folder, write, target, task, names, labels):
    data = load_dataset(f"{write(folder)}&target={target}&split=split&group=who&slice=fold")
    labels = np.array(labels).tolist()
    assert (data.task, data.classes, data.name) == (task, names, folder.name)
    assert (data.group, data.slices, data.fold) == ("who", ["fold"], None)
    assert data.units == (["years"] if "unit" in target else [])
    further = [{"who": f"p{n // 2}", "fold": str(n % 3)} for n in range(8)]
    assert summary(data) == [
        (split, list(rows), [labels[n] for n in rows], [f"{n}.png" for n in rows],
         {key: [further[n][key] for n in rows] for key in ("who", "fold")})
        for split, rows in (("train", range(6)), ("test", range(6, 8)))
    ]  # fmt: skip
    assert (
        load_dataset(data.spec).splits["train"].fingerprint() == data.splits["train"].fingerprint()
    )


def test_the_contracts_example(folder):
    rows = [{k: row[k] for k in ("image", "tags", "split")} for row in ROWS]
    data = load_dataset(f"{csv(folder, rows)}&target=tags&separator=;")
    assert (data.task, data.classes) == ("multilabel", ["x", "y"])
    assert data.assumed == [
        "labels.csv: images are in column 'image' (image= names another)",
        "labels.csv: column 'split' says which rows are test (split= names another)",
        "target 'tags' holds lists with ';' between their items: multilabel (task= says otherwise)",
        "target 'tags': 2 of 8 rows are empty, read as no tag (? says that tags aren't known)",
    ]


def test_splits_by_words_by_values_and_by_a_table(folder):
    words = ["Training", "valid", "training", "Training", "test", "valid", "test", "Training"]
    rows = [row | {"split": word} for row, word in zip(ROWS, words, strict=True)]
    spec = csv(folder, rows) + "&target=label"
    data = load_dataset(f"{spec}&image=image")
    assert numbers(data.splits["train"]) == [0, 2, 3, 7]
    assert numbers(data.splits["test"]) == [4, 6]
    assert data.assumed[1] == (
        "column 'split': 'Training' and 'training' is read as train and 'test' as test; "
        "'valid' (2 rows) left unread"
    )
    data = load_dataset(f"{spec}&split=split&train=Training,test&test=valid")
    assert numbers(data.splits["train"]) == [0, 3, 4, 6, 7]
    assert numbers(data.splits["test"]) == [1, 5]
    csv(folder, ROWS[5:], "held.csv")
    spec = csv(folder, ROWS[:5]) + f"&target=label&test={folder}/held.csv"
    data = load_dataset(spec)
    assert (numbers(data.splits["train"]), numbers(data.splits["test"])) == (
        [0, 1, 2, 3, 4],
        [5, 6, 7],
    )
    with pytest.raises(IceprobeError, match=r"no table 'held.csv' here: pass test=.*/held.csv"):
        load_dataset(spec.replace(f"test={folder}/held.csv", "test=held.csv"))
    with pytest.raises(IceprobeError, match="no table 'train': pass split=split as well"):
        load_dataset(csv(folder) + "&target=label&test=train")


def test_folds_need_no_test_split(folder):
    data = load_dataset(csv(folder) + "&target=age&fold=fold")
    assert (list(data.splits), data.fold) == (["train"], "fold")
    assert data.splits["train"].columns["fold"].codes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert any(one.endswith("(split=split keeps its test rows apart)") for one in data.assumed)


def test_a_test_split_is_drawn_stratified_and_no_group_is_cut(folder):
    for n in range(8, 60):
        Image.new("RGB", (6, 4), (n, 0, 7)).save(folder / "images" / f"{n}.png")
    rows = [{"image": f"{n}.png", "label": "aab"[n // 4 % 3], "who": n // 4} for n in range(60)]
    spec = csv(folder, rows) + "&target=label&test_fraction=0.2"
    data = load_dataset(spec)
    assert np.bincount(data.splits["test"].labels).tolist() == [8, 4]
    assert "12 of 60 rows are the test split, drawn at random" in data.assumed[-1]
    assert load_dataset(spec).splits["test"].names == data.splits["test"].names
    assert load_dataset(spec, seed=1).splits["test"].names != data.splits["test"].names
    grouped = load_dataset(spec, group="who")
    held = {split: set(one.columns["who"].codes) for split, one in grouped.splits.items()}
    assert not held["train"] & held["test"]
    assert np.bincount(grouped.splits["test"].labels).tolist() == [8, 4]
    with pytest.raises(IceprobeError, match="no group can be taken that train doesn't need"):
        load_dataset(csv(folder, [row | {"who": 1} for row in rows]), target="label",
                     test_fraction=0.2, group="who")  # fmt: skip


@pytest.mark.parametrize("group", [None, "who"])
def test_a_drawn_test_split_has_its_share_of_every_tag(folder, group):
    for n in range(8, 120):
        Image.new("RGB", (6, 4), (n, 0, 7)).save(folder / "images" / f"{n}.png")
    rng = np.random.default_rng(0)
    rows = [
        {"image": f"{n}.png", "who": n // 3,
         "tags": [tag for tag, rate in (("a", 0.6), ("b", 0.3), ("c", 0.1)) if rng.random() < rate]}
        for n in range(120)
    ]  # fmt: skip
    spec = f"{csv(folder, rows)}&target=tags&separator=;&test_fraction=0.2"
    data = load_dataset(spec, **({} if group is None else {"group": group}))
    train, test = data.splits["train"], data.splits["test"]
    assert sorted(train.names + test.names) == sorted(f"{n}.png" for n in range(120))
    wanted = 0.2 * (train.labels.sum(0, dtype=int) + test.labels.sum(0, dtype=int))
    assert (np.abs(test.labels.sum(0) - wanted) <= (1 if group is None else 3)).all()
    if group:
        assert not np.intersect1d(train.columns["who"].codes, test.columns["who"].codes).size


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("target=age", [[25.0], [30.0], [41.5]]),
        ("target=kind", [1, 0, 1]),
        ("target=tags&separator=;", [[1, 0], [0, 0], [1, 1]]),
    ],
)
def test_a_table_is_a_test_set_alone(folder, target, expected):
    """Whatever its targets, also with a column of splits, which isn't read."""
    rows = [
        {
            "image": f"{n}.png",
            "age": age,
            "kind": kind,
            "tags": tags,
            "split": "train",
            "who": f"p{n // 2}",
        }
        for n, (age, kind, tags) in enumerate([(25, "b", "x"), (30, "a", ""), (41.5, "b", "y;x")])
    ]
    data = load_dataset(f"{csv(folder, rows)}&{target}&test_fraction=1&group=who")
    assert list(data.splits) == ["test"]
    assert data.splits["test"].labels.tolist() == expected
    assert data.splits["test"].names == ["0.png", "1.png", "2.png"]
    assert data.groups("test").tolist() == [0, 0, 1]
    assert "all 3 rows are the test split (test_fraction=1)" in data.assumed


def test_boxes_and_masks(folder):
    (folder / "masks").mkdir()
    Image.fromarray(np.eye(4, 6, dtype=np.uint8) * 3).save(folder / "masks" / "m.png")
    boxes = ["1 0 5 4", "[0, 1, 2, 3]", "", "0,0,6,4", "0;0;1;1", "2 2 4 4", "1 1 2 2", "0 0 2 2"]
    rows = [
        row | {"box": f'"{box}"', "mask": "m.png" * (n % 2)}
        for n, (row, box) in enumerate(zip(ROWS, boxes, strict=True))
    ]
    spec = csv(folder, rows) + "&target=label&split=split"
    data = load_dataset(f"{spec}&box=box&mask=mask&masks={folder}/masks")
    train = data.splits["train"]
    np.testing.assert_array_equal(train.boxes[:3], [[1, 0, 5, 4], [0, 1, 2, 3], [np.nan] * 4])
    assert (
        "boxes of box are x0,y0,x1,y1 in pixels (box_format=xywh: x0,y0,width,height)"
        in data.assumed
    )
    assert train.masks
    assert train.mask(0) is None
    assert np.asarray(train.mask(1)).tolist() == (np.eye(4, 6) * 255).tolist()
    before = train.fingerprint()
    Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / "masks" / "m.png", "BMP")
    assert train.fingerprint() != before
    wide = load_dataset(f"{spec}&box=box&box_format=xywh").splits["train"]
    np.testing.assert_array_equal(wide.boxes[0], [1, 0, 6, 4])
    four = [row | {"x0": 1, "y0": 0, "x1": 5, "y1": 4} for row in ROWS]
    split = load_dataset(csv(folder, four) + "&target=label&split=split&box=x0,y0,x1,y1")
    np.testing.assert_array_equal(split.splits["test"].boxes, [[1, 0, 5, 4]] * 2)


def test_images_in_cells_of_parquet(folder):
    rows = [row | {"image": picture(n)} for n, row in enumerate(ROWS)]
    spec = parquet(folder, rows, "cells.parquet", row_group_size=3).partition("?")[0]
    data = load_dataset(f"{spec}?target=tags&split=split")
    train = data.splits["train"]
    assert (numbers(train), numbers(data.splits["test"])) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert train.names[5] == "cells.parquet/0000005"
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301
    assert (numbers(copy), copy.fingerprint()) == (numbers(train), train.fingerprint())
    cells = [{"bytes": picture(n), "path": None} for n in range(8)]
    cells[1]["bytes"] = None
    rows = [row | {"image": cell} for row, cell in zip(ROWS, cells, strict=True)]
    spec = parquet(folder, rows, "cells.parquet").partition("?")[0]
    other = load_dataset(f"{spec}?target=age&test_fraction=0.3")
    assert sorted(numbers_but(other, 1)) == [0, 2, 3, 4, 5, 6, 7]
    with pytest.raises(IceprobeError, match="holds the images themselves: drop images="):
        load_dataset(f"{spec}?target=age&split=split&images={folder}")


def numbers_but(data, bad: int) -> list[int]:
    found = []
    for split in data.splits.values():
        for i, name in enumerate(split.names):
            if name.endswith(f"{bad:07d}"):
                with pytest.raises(BadImage, match=r"'cells.parquet/0000001' is empty"):
                    split.image(i)
            else:
                found.append(number_of(split.image(i)))
    return found


def test_text_as_spreadsheets_and_editors_write_it(folder):
    text = '﻿name ;"kind"; note;\r\n0.png; a ;"one; two\nlines";\r\n\r\n1.png;"b";"""q""";\r\n2.png;a;;\r\n;;;\r\n'
    (folder / "sheet.csv").write_bytes(text.encode())
    spec = f"table:{folder}/sheet.csv?images={folder}/images&image=name&delimiter=;&slice=note"
    data = load_dataset(f"{spec}&target=kind&test_fraction=0.5")
    assert data.classes == ["a", "b"]
    assert len(data.splits["train"]) + len(data.splits["test"]) == 3
    values = data.splits["train"].columns["note"].values
    assert values == ['"q"', "one; two\nlines"]
    (folder / "sheet.csv").write_bytes(text.replace("2.png", "9.png").encode())
    with pytest.raises(IceprobeError, match=r"row 6 of 'sheet.csv': no image '9.png'"):
        load_dataset(f"{spec}&target=kind&test_fraction=0.5")
    (folder / "sheet.tsv").write_text("file\tlabel\n0.png\ta\n1.png\tb\n2.png\ta\n3.png\tb\n")
    tabs = load_dataset(f"table:{folder}/sheet.tsv?images={folder}/images&test_fraction=0.5")
    assert tabs.assumed[:2] == [
        "sheet.tsv: the target is column 'label' (target= names another)",
        "sheet.tsv: images are in column 'file' (image= names another)",
    ]


def test_paths_absolute_without_suffix_and_beside_the_table(folder):
    rows = [row | {"image": str(folder / "images" / row["image"])} for row in ROWS]
    spec = f"table:{folder}/labels.csv?target=label&split=split"
    csv(folder, rows)
    assert load_dataset(spec).splits["test"].names == ["images/6.png", "images/7.png"]
    (folder / "lists").mkdir()
    csv(folder / "lists", rows)
    far = load_dataset(f"table:{folder}/lists/labels.csv?target=label&split=split").splits["test"]
    assert (numbers(far), far.names[0]) == ([6, 7], f"{folder}/images/6.png")
    far.fingerprint()
    csv(folder, [row | {"image": n} for n, row in enumerate(ROWS)])
    with pytest.raises(
        IceprobeError, match=r"no image '0' in .* pass suffix=.png, which the paths lack"
    ):
        load_dataset(f"{spec}&images={folder}/images")
    stems = load_dataset(f"{spec}&images={folder}/images&suffix=.png")
    assert numbers(stems.splits["test"]) == [6, 7]


def test_one_image_of_train_and_test_is_seen_however_its_path_is_written(folder, monkeypatch):
    written = ["0.png", "1.png", f"{folder}/images/../images/0.png"]
    rows = [ROWS[k] | {"image": path} for k, path in zip((0, 1, 6), written, strict=True)]
    csv(folder, rows)
    monkeypatch.chdir(folder)
    for images in ("images", f"{folder}/images"):
        with pytest.raises(IceprobeError, match=r"image '0\.png' is in test and in train"):
            load_dataset(f"table:labels.csv?images={images}&target=label&split=split")


def test_fingerprints_follow_targets_names_and_files(folder):
    def prints(tail: str, rows=ROWS) -> str:
        return load_dataset(f"{csv(folder, rows)}&split=split&{tail}").splits["train"].fingerprint()

    renamed = [{("z" if key == "y" else key): value for key, value in row.items()} for row in ROWS]
    tags = [row | {"tags": [tag.upper() for tag in row["tags"]]} for row in ROWS]
    found = [
        prints("target=x"), prints("target=label"), prints("target=x,y"), prints("target=x,z", renamed),
        prints("target=tags&separator=;", tags), prints("target=x,age"),
        prints("target=x&task=regression"), prints("target=age"),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert prints("target=x") == found[0]
    assert prints("target=tags&separator=;") == found[2]  # the same tags, written otherwise


def test_repeated_rows_are_left_out_and_said(folder):
    data = load_dataset(
        csv(folder, [*ROWS[:6], ROWS[2], ROWS[1], *ROWS[6:]]) + "&target=age&group=who"
    )
    assert numbers(data.splits["train"]) == [0, 1, 2, 3, 4, 5]
    assert data.splits["train"].labels.ravel().tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert any(
        one
        == "2 rows repeat an image and all of its values, and are left out (row 8 of 'labels.csv' "
        "first, as row 4 of 'labels.csv')"
        for one in data.assumed
    )


def test_a_store_holds_targets_and_columns(folder):
    spec = csv(folder) + "&split=split&group=who&slice=label"
    backbone = make_backbone()
    for target in ("target=tags&separator=;", "target=age,x&unit=years,1", "target=label"):
        data = load_dataset(f"{spec}&{target}")
        store = extract_in_memory(backbone, data)
        for name, split in data.splits.items():
            np.testing.assert_array_equal(store[name].labels, split.labels)
            for key, column in split.columns.items():
                held = store[name].columns[key]
                np.testing.assert_array_equal(held, column.codes)
        record = store.manifest.dataset
        assert (record.task, record.classes, record.units) == (data.task, data.classes, data.units)
        assert (record.group, record.slices) == ("who", ["label"])
        assert record.values["who"] == ["p0", "p1", "p2", "p3"]


def test_parquet_asks_for_its_extra_and_other_formats_do_not(folder, monkeypatch):
    spec = parquet(folder) + "&target=label&split=split"
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        IceprobeError, match=r"needs the package pyarrow: pip install 'iceprobe\[parquet\]'"
    ):
        load_dataset(spec)
    load_dataset(csv(folder) + "&target=label&split=split")


HEAD = "image,label,split\n"
GOOD = "0.png,a,train\n1.png,b,train\n2.png,a,test\n"


@pytest.mark.parametrize(
    ("text", "tail", "says"),
    [
        ("", "", "table '.*/t.csv' is empty: it needs a header and rows"),
        (HEAD, "", "has a header and no row"),
        (GOOD, "", "has no header, its first row holds '0.png'"),
        ("image;label\n0.png;a\n", "", "has one column by ',', 'image;label': pass delimiter=;"),
        ("image\tlabel\n0.png\ta\n", "", "has one column by .* pass delimiter=tab"),
        ("image,label,image\n0.png,a,b\n", "", "row 1 of 't.csv' names column 'image' twice"),
        (HEAD + "0.png,a\n", "", "row 2 of 't.csv' has 2 cells and the header 3"),
        (HEAD + "\n0.png,a,train,b\n", "", "row 3 of 't.csv' has 4 cells and the header 3: .* quotes"),
        ("image,label,\n0.png,a,train\n", "", "row 2 of 't.csv' has 'train' in a last column without a"),
        (HEAD + '0.png,"a,train\n1.png,b,test\n', "", "row 2 of 't.csv' can't be read .* close its quotes"),
        (HEAD.encode() + b"0.png,\xe4,train\n", "", "row 2 of 't.csv' has the byte 0xe4, no UTF-8: .*iconv"),
        ((HEAD + GOOD).encode("utf-16"), "", "row 1 of 't.csv' has UTF-16: .*iconv -f UTF-16"),
        (HEAD + "0.png,a\0,train\n", "", "row 2 of 't.csv' has a zero byte"),
        (HEAD + GOOD, "&target=lable", "unknown column of t.csv 'lable'. Did you mean label"),
        (HEAD + GOOD, "&target=label,label", "names 'label' twice"),
        (HEAD + GOOD, "&target=,", "option target=',' names no column of t.csv"),
        (HEAD + GOOD, "&group=label,split", "names 2 columns: name one"),
        (HEAD + GOOD, "&imgae=image", "unknown option of .* 'imgae'. Did you mean image"),
        ("a,label\n0,x\n", "", "t.csv: no column seems to be the images: pass image=COLUMN"),
        ("image,img,label\n0.png,1.png,x\n", "", r"columns 'image', 'img' may be the images"),
        ("image,kind\n0.png,x\n", "", "no column seems to be the target: pass target=COLUMN"),
        ("image,label\n0.png,x\n", "", "has no test split: name a column of splits as split=COLUMN, .*"),
        (HEAD + GOOD, "&test_fraction=2&split=split", "test_fraction= is for a table without a split"),
        (HEAD + GOOD, "&test_fraction=2", "option test_fraction=2.0 of .* inside"),
        (HEAD + GOOD, "&seed=2", "option seed=2 of .* is of test_fraction=: add it"),
        (HEAD + GOOD, "&train=train", "is a value of a column: name that as split=split"),
        (HEAD + GOOD + "3.png,a,extra\n", "&split=split", "row 5 of 't.csv': 'extra' in column 'split' is no w"),
        (HEAD + GOOD + "3.png,a,\n", "&split=split", "row 5 of 't.csv': '' in column 'split' is no split"),
        (HEAD + "0.png,a,train\n", "&split=split", "column 'split' .* has no row of test"),
        (HEAD + GOOD, "&split=split&test=held", "unknown value of test= of the split column 'held'"),
        (HEAD + GOOD, "&split=split&test=train", "train and test of .* are both 'train'"),
        (HEAD + GOOD + "3.png,c,test\n", "", "class 'c' is in split 'test' of .* but missing from train"),
        (HEAD + GOOD + "3.png,,test\n", "", "row 5 of 't.csv': '' of target 'label' says no class"),
        (HEAD + GOOD + ",a,test\n", "", "row 5 of 't.csv' has no image in column 'image'"),
        (HEAD + GOOD + "9.png,a,test\n", "", r"row 5 of 't.csv': no image '9.png' in '.*images': pass images=DIR"),
        (HEAD + GOOD + "8.png,a,test\n9.png,a,test\n", "", "2 of 5 aren't there, next '9.png'"),
        (HEAD + GOOD + "../t.csv,a,test\n", "", "row 5 of 't.csv': image '../t.csv' leads out of"),
        (HEAD + GOOD + "s3://b/3.png,a,test\n", "", "row 5 of 't.csv': image 's3://b/3.png' is a URL"),
        (HEAD + GOOD + "0.png,b,train\n", "", "row 5 .* and row 2 .*: image '0.png' is there twice, with 'a' and 'b'"),
        (HEAD + GOOD + "./0.png,a,test\n", "", "image '0.png' is in test and in train: keep it in one"),
        ("image,age,split\n0.png,1.5,train\n1.png,x,train\n2.png,2,test\n", "&target=age",
         "row 3 of 't.csv': 'x' of target 'age' is no number, and 2 of 3 rows hold one"),
        ('image,age,split\n0.png,"1,5",train\n1.png,"2,5",train\n2.png,"2,0",test\n', "&target=age",
         "row 2 of 't.csv': '1,5' of target 'age' has a decimal comma: write 3.5"),
        ("image,label,split,fold\n0.png,a,train,1\n1.png,b,train,\n", "&fold=fold",
         "row 3 of 't.csv' has no fold in column 'fold'"),
        ("image,label,split,box\n0.png,a,train,1 2 3\n1.png,a,test,\n", "&box=box",
         "row 2 of 't.csv': box .* is not four numbers"),
        ("image,label,split,box\n0.png,a,train,2 2 1 1\n1.png,a,test,\n", "&box=box",
         "row 2 of 't.csv': box 2, 2, 1, 1 has no area.* box_format=xywh"),
        ("image,label,split,box\n0.png,a,train,0 0 .5 1\n1.png,a,test,\n", "&box=box",
         "all boxes in box lie within 0 and 1: write them in pixels"),
        ("image,label,split,mask\n0.png,a,train,m.png\n1.png,a,test,\n", "&mask=mask",
         "row 2 of 't.csv': no mask 'm.png' in '.*': pass masks=DIR"),
        (HEAD + GOOD, "&images=nowhere", "option images='nowhere': no such folder"),
        (HEAD + GOOD, "&delimiter=ab", "option delimiter='ab': write one character, or comma"),
        (HEAD + GOOD, "&box=label,split&target=split", "option box= names 2 columns"),
        (HEAD + GOOD, "&task=segmentation", "write classification or multilabel or regression"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, text, tail, says):
    (folder / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    images = "" if "images=" in tail else f"&images={folder}/images"
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(f"table:{folder}/t.csv?{(images + tail)[1:]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.jsonl", "", "is empty: it needs one JSON object a line"),
        ("t.jsonl", '{"image": "0.png"}\n\n{"image": \n', "row 3 of 't.jsonl' is no JSON"),
        ("t.jsonl", '[{"image": "0.png"}]', r"row 1 of 't.jsonl' is \[.*\], no object"),
        ("t.jsonl", '{"image": ["0.png"], "label": 1, "split": "train"}\n{"split": "test"}', "row 1 .* is no path: pass image="),
        ("t.parquet", "no table", "can't be read as Parquet"),
        ("t.xlsx", "PK", "ends in none of .csv, .tsv, .tab, .jsonl, .ndjson, .parquet, .pq: rename it"),
    ],
)  # fmt: skip
def test_other_formats_that_are_wrong_are_one_line(folder, name, text, says):
    (folder / name).write_text(text)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(f"table:{folder}/{name}")
    assert "\n" not in str(caught.value)


def test_a_folder_around_or_below_is_named(folder):
    spec = csv(folder).partition("?")[0] + "?target=label&split=split"
    with pytest.raises(
        IceprobeError, match=rf"8 of 8 .*: pass images={folder}/images, where it is"
    ):
        load_dataset(spec)
    rows = [row | {"image": f"images/{row['image']}"} for row in ROWS]
    with pytest.raises(IceprobeError, match=rf"pass images={folder}, where it is"):
        load_dataset(csv(folder, rows) + "&target=label&split=split")
    load_dataset(spec)
    rows = [row | {"image": f"images\\{row['image']}"} for row in ROWS]
    csv(folder, rows)
    with pytest.raises(IceprobeError, match=r"write / in place of"):
        load_dataset(spec)
