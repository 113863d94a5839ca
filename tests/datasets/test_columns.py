"""Columns of values → task and targets, by hand; what is wrong or unclear is one line with its row."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.cells import Rows
from iceprobe.datasets.columns import Asked, read_further, read_targets
from tests.datasets.test_webdataset import picture, write
from tests.datasets.test_wrapping import Pairs

NAN = float("nan")


def read(values, test=None, **asked):
    """Targets of columns of train, or of one column, and of the same rows as test."""
    columns = values if isinstance(values, dict) else {"t": values}
    given = {"train": columns, "test": test or columns}
    rows = {split: Rows(one, f"row {{0}} of {split}".format) for split, one in given.items()}
    return read_targets(rows, list(columns), Asked(**asked), "spec")


@pytest.mark.parametrize(
    ("values", "asked", "task", "names", "labels"),
    [
        (["b", "a", " b "], {}, "classification", ["a", "b"], [1, 0, 1]),
        (["10", "9", "10"], {}, "classification", ["9", "10"], [1, 0, 1]),
        ([10, 9, 10], {}, "classification", ["9", "10"], [1, 0, 1]),
        ([0, 1, 1], {}, "classification", ["0", "1"], [0, 1, 1]),
        (["1.0", "0.0", "1"], {}, "classification", ["0", "1"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], {}, "classification", ["0", "1"], [1, 0, 1]),
        ([True, False, True], {}, "classification", ["False", "True"], [1, 0, 1]),
        (["a", "3", "b"], {}, "classification", ["3", "a", "b"], [1, 0, 2]),
        ([3.0, 5.0], {"task": "classification"}, "classification", ["3", "5"], [0, 1]),
        (["0.5", "2", "-1e1"], {}, "regression", ["t"], [[0.5], [2], [-10]]),
        ([0.5, None, 3], {}, "regression", ["t"], [[0.5], [NAN], [3]]),
        (["0.5", "", "NA", "?"], {}, "regression", ["t"], [[0.5], [NAN], [NAN], [NAN]]),
        ([45.0, 30.0], {}, "regression", ["t"], [[45], [30]]),
        ([4, 3], {"task": "regression"}, "regression", ["t"], [[4], [3]]),
        (["a;b", "", "b; a;", "?"], {"separator": ";"}, "multilabel", ["a", "b"],
         [[1, 1], [0, 0], [1, 1], [255, 255]]),
        (["10|9", "9"], {"separator": "|"}, "multilabel", ["9", "10"], [[1, 1], [1, 0]]),
        ([["a"], [], ["b", "a"], None], {}, "multilabel", ["a", "b"],
         [[1, 0], [0, 0], [1, 1], [255, 255]]),
        ([[7], [30, 7]], {}, "multilabel", ["7", "30"], [[1, 0], [1, 1]]),
        ([[3, 5], [5, 7]], {"task": "multilabel"}, "multilabel", ["3", "5", "7"],
         [[1, 1, 0], [0, 1, 1]]),
        ([[3, 5], [5, 7]], {"task": "regression"}, "regression", ["t[0]", "t[1]"], [[3, 5], [5, 7]]),
        ([[0, 1, 1], [1, 0, None]], {}, "multilabel", ["t[0]", "t[1]", "t[2]"],
         [[0, 1, 1], [1, 0, 255]]),
        ([np.array([0.0, 1.0]), torch.tensor([1.0, NAN])], {}, "multilabel", ["t[0]", "t[1]"],
         [[0, 1], [1, 255]]),
        ([[0.5, 2], [1, 3]], {}, "regression", ["t[0]", "t[1]"], [[0.5, 2], [1, 3]]),
        (["0.5;2", "1;3"], {"separator": ";", "task": "regression"}, "regression", ["t[0]", "t[1]"],
         [[0.5, 2], [1, 3]]),
        (["0.5;2", "?", ""], {"separator": ";", "task": "regression"}, "regression",
         ["t[0]", "t[1]"], [[0.5, 2], [NAN, NAN], [NAN, NAN]]),
        (["0.5", "2"], {"separator": ";", "task": "regression"}, "regression", ["t"], [[0.5], [2]]),
        ([0.5, 2.0], {"separator": ";", "task": "regression"}, "regression", ["t"], [[0.5], [2]]),
        ([0, 1], {"task": "multilabel"}, "multilabel", ["t"], [[0], [1]]),
        ({"x": ["0", "1", ""], "y": ["1.0", "?", "true"]}, {}, "multilabel", ["x", "y"],
         [[0, 1], [1, 255], [255, 1]]),
        ({"x": [1, 0], "y": [170, 180]}, {}, "regression", ["x", "y"], [[1, 170], [0, 180]]),
        ({"x": [0, 1], "y": [1, 0]}, {"task": "regression"}, "regression", ["x", "y"],
         [[0, 1], [1, 0]]),
        ({"x": [0, 1], "y": [1, 0]}, {"task": "classification"}, "classification", ["x", "y"],
         [1, 0]),
        ({"x": [-1, 1], "y": [1, 0]}, {"task": "regression"}, "regression", ["x", "y"],
         [[-1, 1], [1, 0]]),
    ],
)  # fmt: skip
def test_the_task_follows_from_the_values(values, asked, task, names, labels):
    found = read(values, **asked)
    assert (found.task, found.names) == (task, names)
    for split in ("train", "test"):
        np.testing.assert_array_equal(found.labels[split], np.array(labels))
    reasons = [line for line in found.assumed if "(task= says otherwise)" in line]
    assert len(reasons) == ("task" not in asked)


@pytest.mark.parametrize(
    ("values", "asked", "says"),
    [
        (["a", "", "b"], {}, r"row 1 of train: '' of target 't' says no class: .* \(2 such rows\)"),
        (["a", "?", "b"], {}, r"row 1 of train: '\?' of target 't' says no class"),
        ([1, "NA", 2], {}, r"row 1 of train: 'NA' of target 't' says no class"),
        (["", "", ""], {}, "target 't' is empty in every row"),
        (["1", "2", "x", "3"], {}, "row 2 of train: 'x' .* is no number, and 6 of 8 rows hold one"),
        (["3,5", "2.5"], {}, "row 0 of train: '3,5' .* has a decimal comma: write 3.5"),
        (["1.234,5", "2,5"], {"task": "regression"}, "'1.234,5' .* has a decimal comma"),
        (["x", "2.5"], {"task": "regression"}, "row 0 of train: 'x' of target 't' is no number"),
        ([0.5, float("inf")], {}, "row 1 of train: inf of target 't' is no number"),
        ([0.5, 1.5], {"task": "classification"}, "row 0 of train: 0.5 .* pass task=regression"),
        (["a", "b"], {"task": "multilabel"}, "'a' .* is neither 0 nor 1: pass separator="),
        (["['a', 'b']", "['a']"], {"separator": ","}, "is a list written out"),
        ([["a"], "b"], {}, "row 1 of train: 'b' of target 't' is no list of tags: pass separator="),
        (["a;?", "b"], {"separator": ";"}, r"row 0 of train: 'a;\?' .* write \? alone"),
        (["", ";"], {"separator": ";"}, "target 't' holds no tag in any row: name another column"),
        ([[3, 5], [5, 7]], {}, "2 whole numbers in every row, .* task=multilabel or task=regression"),
        ([[0.5, 1], [0.5]], {}, r"row 1 of train: \[0.5\] .* another length than the first row's"),
        ([["a"]], {"task": "classification"}, "holds lists, and task=classification wants one class"),
        ([{"a": 1}], {}, r"row 0 of train: \{'a': 1\} .* neither text nor a number nor a list"),
        (["a;b"], {"separator": ""}, "option separator= of 'spec' is empty"),
        ({"x": [1], "y": [0]}, {"separator": ";"}, "is for one column of lists, and target= names 2"),
        ({"x": [1, 0], "y": ["a", 0]}, {}, "row 0 of train: 'a' of target 'y' is neither 0 nor 1"),
        ({"x": [1, -1], "y": [0, 0]}, {}, r"row 1 of train: -1 of target 'x' may say no, or .* \?"),
        ({"x": [1, -1], "y": [0, 0]}, {"task": "multilabel"}, "row 1 of train: -1 .* neither 0 nor 1"),
        ({"x": [1, 2], "y": [0, 0]}, {"task": "multilabel"}, "row 1 of train: 2 of target 'x'"),
        ({"x": [1, 0], "y": [1, 0]}, {"task": "classification"}, "row 0 of train: .* is 'x', 'y'"),
        ([1, 2], {"unit": "kg"}, "option unit='kg' of 'spec' is for numbers, not classification"),
        ([0.5, 2], {"unit": "kg,cm"}, "has 2 units for 1 numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_row(values, asked, says):
    with pytest.raises(IceprobeError, match=says) as caught:
        read(values, **asked)
    assert "\n" not in str(caught.value)


def test_reasons_and_counts_are_said():
    (line,) = read(list(range(60))).assumed
    assert "60 different ones, each read as a class of its own; task=regression predicts" in line
    (line,) = read(["a;b", "b", "a;b"]).assumed
    assert "';' in 4 of 6 rows (separator=; reads tags)" in line
    assert read(["a", "", "?"], separator=";").assumed[1:] == [
        "target 't': 2 of 6 rows are empty, read as no tag (? says that tags aren't known)",
        "target 't': the tags of 2 of 6 rows aren't known",
    ]
    assert read([1.5, None]).assumed[1:] == [
        "target 't': 2 of 4 cells hold no number: not known, and left out"
    ]
    assert read(["n/a", "b"]).assumed[1:] == ["target 't': 'n/a' is read as a class of its own"]
    assert read([1.5, 2], unit="kg").units == ["kg"]
    assert read({"x": [1.5], "y": [2]}, unit="kg").units == ["kg", "kg"]


def further(values, **asked):
    rows = {"train": Rows(values, "row {0}".format)}
    found, lines = read_further(rows, Asked(**asked), ["site"] if "site" in values else [])
    return found["train"], lines


def test_groups_folds_and_slices():
    values = {"p": ["b", "a", ""], "f": [10, 2.0, "2"], "site": ["x", None, "?"]}
    found, lines = further(values, group="p", fold="f")
    assert {k: (c.codes.tolist(), c.values) for k, c in found.items()} == {
        "p": ([1, 0, -1], ["a", "b"]), "f": ([1, 0, 0], ["2", "10"]), "site": ([0, -1, -1], ["x"])
    }  # fmt: skip
    assert lines == ["1 of 3 examples have no 'p': each is a group of its own"]
    with pytest.raises(IceprobeError, match=r"row 1 has no fold in column 'f' \(1 such rows\)"):
        further({"f": [1, None]}, fold="f")
    with pytest.raises(IceprobeError, match="column 'f' has one fold, '1', in every row"):
        further({"f": [1, 1]}, fold="f")
    with pytest.raises(IceprobeError, match="column 'p' is empty in every row"):
        further({"p": ["", None]}, group="p")


def test_a_group_has_one_name_however_its_file_writes_it():
    """A column with an empty cell is written as 2.0 by pandas, and as 2 in the other split."""
    rows = {
        "train": Rows({"p": ["2", "3", "NA"]}, "row {0}".format),
        "test": Rows({"p": ["2.0", 3.0, ""]}, "row {0}".format),
    }
    found, lines = read_further(rows, Asked(group="p"))
    assert found["train"]["p"].codes.tolist() == found["test"]["p"].codes.tolist() == [0, 1, -1]
    assert lines == ["2 of 6 examples have no 'p': each is a group of its own"]
    values = {"p": ["1.0", "1", "rc", "none", "none"]}  # names: they stay apart
    found, lines = further(values, group="p")
    assert found["p"].values == ["1", "1.0", "none", "rc"]
    assert lines == ["2 of 5 examples are of p 'none', read as one group"]


@pytest.fixture
def tars(tmp_path):
    def shard(name, numbers):
        members = []
        for n in numbers:
            row = {
                "tags": ["odd"] * (n % 2) + ["big"] * (n > 12),
                "age": n / 2,
                "who": f"p{n // 2}",
            }
            members += [(f"{n}.json", json.dumps(row).encode()), (f"{n}.png", picture(n))]
            members += [
                (f"{n}.cls", b"ab"[n % 2 : n % 2 + 1]),
                (f"{n}.txt", b"x,y" if n % 2 else b""),
            ]
        write(tmp_path / name, *members)

    shard("train-0.tar", range(10, 16))
    shard("test-0.tar", range(20, 23))
    return f"webdataset:{tmp_path}/train-0.tar?test={tmp_path}/test-0.tar"


def test_fields_of_tars_are_tags_numbers_and_groups(tars):
    data = load_dataset(f"{tars}&target=json.tags&group=json.who&slice=cls,json.age")
    assert (data.task, data.classes) == ("multilabel", ["big", "odd"])
    assert data.splits["train"].labels.tolist() == [[0, 0], [0, 1], [0, 0], [1, 1], [1, 0], [1, 1]]
    assert (data.group, data.slices) == ("who", ["cls", "age"])
    who = data.splits["train"].columns["who"]
    assert [who.values[code] for code in who.codes] == ["p5", "p5", "p6", "p6", "p7", "p7"]
    ages = load_dataset(f"{tars}&target=json.age&unit=years")
    assert (ages.task, ages.classes, ages.units) == ("regression", ["age"], ["years"])
    assert ages.splits["test"].labels.tolist() == [[10.0], [10.5], [11.0]]
    tags = load_dataset(f"{tars}&target=txt&separator=,")
    assert tags.splits["test"].labels.tolist() == [[0, 0], [1, 1], [0, 0]]
    both = load_dataset(f"{tars}&label=cls&group=json.who")
    assert (both.task, both.classes, both.group) == ("classification", ["a", "b"], "who")
    plain = load_dataset(tars)
    assert plain.assumed == []
    assert plain.splits["train"].fingerprint() == both.splits["train"].fingerprint()
    assert len({d.splits["train"].fingerprint() for d in (data, ages, tags, plain)}) == 4
    alone = load_dataset(f"{tars.partition('?')[0]}?target=json.age&fold=json.who")
    assert list(alone.splits) == ["train"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("&target=json.tags&label=cls", "label= and target= are the same, keep one"),
        ("&target=json.nothing", "target 'nothing' is empty in every row"),
        ("&group=json.nothing", "column 'nothing' is empty in every row"),
        ("&target=seg", "sample '10' of .* has no 'seg', it has .*: pass target=KEY"),
        ("&target=json.age&task=classification", r"sample '11' of '.*train-0.tar': 5.5 of target 'age'"),
        ("&label=json.age", r"label '10.json' of .* no whole number.*: pass label=KEY"),
        ("&target=json.age&task=tags", "write classification or multilabel or regression"),
        ("&target=json.who&slice=who.txt", "sample '10' .* has no 'who.txt'.* pass slice=KEY"),
    ],
)  # fmt: skip
def test_wrong_fields_of_tars_are_one_line(tars, more, says):
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(tars + more)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra [huggingface]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["zebra", "newt", "ant", "unseen"])
    features = datasets.Features(
        image=datasets.Image(), label=names, tags=datasets.List(names), age=datasets.Value("float32"),
        text=datasets.Value("string"), who=datasets.Value("string"),
    )  # fmt: skip
    made = {}
    for split, first, count in (("train", 10, 4), ("test", 20, 2)):
        numbers = range(first, first + count)
        made[split] = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": picture(n), "path": None} for n in numbers],
                "label": [n % 3 for n in numbers],
                "tags": [[n % 3, 1] if n % 3 else [] for n in numbers],
                "age": [n / 2 for n in numbers],
                "text": ["a b" if n % 2 else "" for n in numbers],
                "who": [f"p{n // 2}" for n in numbers],
            },
            features=features,
        )
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    return f"huggingface:{tmp_path}/saved"


def test_columns_of_the_hub_are_tags_numbers_and_groups(hub):
    tags = load_dataset(f"{hub}?target=tags&group=who")
    assert (tags.task, tags.classes) == ("multilabel", ["newt", "ant"])
    assert tags.splits["train"].labels.tolist() == [[1, 0], [1, 1], [0, 0], [1, 0]]
    assert any("no row has tag 'zebra', 'unseen': 2 of 4 named" in line for line in tags.assumed)
    ages = load_dataset(f"{hub}?target=age&unit=years&slice=label")
    assert ages.splits["test"].labels.tolist() == [[10.0], [10.5]]
    assert ages.splits["test"].columns["label"].values == ["ant", "newt", "zebra"]
    split = load_dataset(f"{hub}?target=text&separator= ")
    assert split.splits["test"].labels.tolist() == [[0, 0], [1, 1]]
    named, plain = load_dataset(f"{hub}?target=label"), load_dataset(hub)
    assert named.classes == plain.classes == ["zebra", "newt", "ant"]
    assert named.splits["train"].fingerprint() == plain.splits["train"].fingerprint()
    with pytest.raises(IceprobeError, match="'label' holds one of 4 named classes: drop task="):
        load_dataset(f"{hub}?target=label&task=regression")
    with pytest.raises(IceprobeError, match=r"unknown column of .* 'tag'. Did you mean tags"):
        load_dataset(f"{hub}?target=tag")
    with pytest.raises(
        IceprobeError, match=r"'tags' .* no single labels.* target=tags if its lists"
    ):
        load_dataset(f"{hub}?label=tags")


def test_items_of_data_sets_have_tags_and_numbers():
    hot = [torch.tensor([0, 1]), torch.tensor([1, 0])]
    data = load_dataset({"train": Pairs([1, 2], hot, ["a", "b"]), "test": Pairs([3], hot[:1])})
    assert (data.task, data.classes) == ("multilabel", ["a", "b"])
    assert data.splits["train"].labels.tolist() == [[0, 1], [1, 0]]
    assert data.headline == "map"
    sets = Pairs([1, 2, 3], [[0], [2, 0], []], ["a", "b", "c"])
    assert load_dataset({"train": sets, "test": Pairs([4], [[2]])}).classes == ["a", "c"]
    ages = load_dataset(
        {"train": Pairs([1, 2], [0.5, 2.0]), "test": Pairs([3], [1.0])}, unit="years"
    )
    assert (ages.task, ages.units) == ("regression", ["years"])
    assert ages.splits["train"].labels.tolist() == [[0.5], [2.0]]
    whole = {"train": Pairs([1, 2], [5, 2]), "test": Pairs([3], [4])}
    assert load_dataset(whole, task="regression").splits["test"].labels.tolist() == [[4.0]]
    with pytest.raises(IceprobeError, match="'4' is in split 'test'"):
        load_dataset(whole)
    with pytest.raises(IceprobeError, match="task='tags': write classification or"):
        load_dataset(whole, task="tags")
    pairs = {"train": Pairs([1, 2], [[3, 5], [4, 5]]), "test": Pairs([3], [[4, 5]])}
    with pytest.raises(IceprobeError, match="pass task=multilabel or task=regression"):
        load_dataset(pairs)
    with pytest.raises(
        IceprobeError, match=r"item 1 of split 'train': 'x' of target 'label' is no number"
    ):
        load_dataset({"train": Pairs([1, 2], [1, "x"]), "test": Pairs([3], [4])}, task="regression")


def test_images_are_as_before(tars):
    split = load_dataset(f"{tars}&target=json.tags").splits["test"]
    assert np.asarray(split.image(1))[0, 0, 0] == 21
    assert Image.open(io.BytesIO(picture(1))).size == split.image(0).size
