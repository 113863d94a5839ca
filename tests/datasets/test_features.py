"""`features:FILE`: names, targets, splits and shapes of tokens in files, and one line for what is wrong."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from tests.store.conftest import make_backbone

h5py = pytest.importorskip("h5py", reason="needs the extra [hdf5]")
RNG = np.random.default_rng(0)
LENGTHS = [3, 1, 4, 2, 5, 2]
BAGS = [RNG.normal(size=(n, 4)).astype(np.float32) for n in LENGTHS]
COORDS = [RNG.integers(0, 999, size=(n, 2)) for n in LENGTHS]
NAMES = [f"slide_{i}" for i in range(6)]
LABELS = ["tumour", "normal"] * 3


def write_bag(place: Path, name: str, bag, coords=None, **attributes) -> None:
    with h5py.File(place / f"{name}.h5", "w") as file:
        file["features"] = bag
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)


def clam(root: Path, pt: bool = False) -> Path:
    """Features, the data set's CSV and both kinds of lists of splits, as CLAM leaves them."""
    (root / "FEATURES" / "h5_files").mkdir(parents=True)
    for name, bag, coords in zip(NAMES, BAGS, COORDS, strict=True):
        write_bag(root / "FEATURES" / "h5_files", name, bag, coords)
    if pt:
        (root / "FEATURES" / "pt_files").mkdir()
        for name, bag in zip(NAMES, BAGS, strict=True):
            torch.save(torch.from_numpy(bag), root / "FEATURES" / "pt_files" / f"{name}.pt")
    rows = [f"patient_{i // 2},{NAMES[i]},{LABELS[i]}" for i in range(6)]
    (root / "dataset.csv").write_text("\n".join(["case_id,slide_id,label", *rows]) + "\n")
    lists = ",train,val,test\n0,slide_0,slide_2,slide_4\n1,slide_1,slide_3,\n2,slide_5,,\n"
    (root / "splits_0.csv").write_text(lists)
    flags = {0: 0, 1: 0, 5: 0, 2: 1, 3: 1, 4: 2}
    lines = [f"slide_{i}," + ",".join(str(k == j) for j in range(3)) for i, k in flags.items()]
    (root / "splits_0_bool.csv").write_text("\n".join([",train,val,test", *lines]) + "\n")
    return root


def bags(split) -> dict[str, np.ndarray]:
    """Tokens of each example by its name."""
    found = split.examples.read("features", split.rows.tolist())
    return {name: one.numpy() for name, one in zip(split.names, found, strict=True)}


def same(split, names, of=BAGS) -> None:
    found = bags(split)
    assert list(found) == names
    for name in names:
        np.testing.assert_array_equal(found[name], of[NAMES.index(name)])


@pytest.mark.parametrize("lists", ["splits_0.csv", "splits_0_bool.csv"])
@pytest.mark.parametrize("pt", [False, True])
def test_a_folder_of_clam_is_read_as_it_lies_there(tmp_path, lists, pt):
    root = clam(tmp_path, pt)
    spec = f"features:{root}/FEATURES?table={root}/dataset.csv&splits={root}/{lists}&group=case_id"
    data = load_dataset(spec)
    assert data.classes == ["normal", "tumour"]
    same(data.splits["train"], ["slide_0", "slide_1", "slide_5"])
    same(data.splits["test"], ["slide_4"])
    assert data.splits["train"].labels.tolist() == [1, 0, 0]
    column = data.splits["train"].columns["case_id"]
    assert [column.values[c] for c in column.codes] == ["patient_0", "patient_0", "patient_2"]
    assert any("'val' (2 rows) left unread" in line for line in data.assumed)
    assert any("not pt_files/" in line for line in data.assumed) == pt
    # x is to the right: it comes last, as in a grid.
    (first,) = data.splits["test"].examples.read("coords", [4])
    np.testing.assert_array_equal(first.numpy(), COORDS[4][:, ::-1])
    assert any("read as x, then y" in line for line in data.assumed)
    (turned,) = load_dataset(f"{spec}&coords=yx").splits["test"].examples.read("coords", [4])
    np.testing.assert_array_equal(turned.numpy(), COORDS[4])


def test_val_can_be_read_as_train(tmp_path):
    root = clam(tmp_path)
    spec = f"features:{root}/FEATURES?table={root}/dataset.csv&splits={root}/splits_0.csv&train=train,val"
    assert len(load_dataset(spec).splits["train"]) == 5


def test_files_of_trident_with_an_axis_in_front(tmp_path):
    folder = tmp_path / "20x_512px_0px_overlap" / "features_uni_v1"
    folder.mkdir(parents=True)
    for name, bag, coords in zip(NAMES, BAGS, COORDS, strict=True):
        write_bag(folder, name, bag[None], coords, patch_size=512, level0_magnification=40)
    rows = [f"{NAMES[i]}.svs,{LABELS[i]},{'train' if i < 4 else 'test'}" for i in range(6)]
    (tmp_path / "wsi.csv").write_text("\n".join(["wsi,label,split", *rows]) + "\n")
    data = load_dataset(f"features:{folder}?table={tmp_path}/wsi.csv")
    same(data.splits["train"], NAMES[:4])
    assert data.backbone == "uni_v1"
    assert any("without their ending ('.svs')" in line for line in data.assumed)


X = RNG.normal(size=(6, 3, 4)).astype(np.float32)
Y = np.array([0, 1, 0, 1, 0, 1])


def as_h5(path, arrays):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, one in arrays.items():
            file[name] = one.tolist() if one.dtype.kind == "U" else one
    return path.with_suffix(".h5")


def as_npz(path, arrays):
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_compressed(path, arrays):
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_safetensors(path, arrays):
    save_file(arrays, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_torch(path, arrays):
    torch.save(
        {name: torch.from_numpy(one) for name, one in arrays.items()}, path.with_suffix(".pt")
    )
    return path.with_suffix(".pt")


WRITE = [as_h5, as_npz, as_compressed, as_safetensors, as_torch]


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("form", ["tokens", "vectors", "offsets", "lengths"])
def test_one_file_of_each_kind_and_shape(tmp_path, write, form):
    whole = np.concatenate(BAGS)
    arrays = {
        "tokens": {"features": X},
        "vectors": {"Embeddings": X[:, 0].copy()},
        "offsets": {"feats": whole, "offsets": np.cumsum([0, *LENGTHS])},
        "lengths": {"x": whole, "lengths": np.array(LENGTHS)},
    }[form]
    file = write(tmp_path / "all", {**arrays, "y": Y, "site": Y[::-1].copy()})
    data = load_dataset(f"features:{file}?test_fraction=0.34&slice=site")
    examples = data.splits["train"].examples
    rows = [4, 5, 0, 3]  # in any order
    truth = {"tokens": X, "vectors": X[:, 0]}.get(form, BAGS)
    for row, one in zip(rows, examples.read("features", rows), strict=True):
        np.testing.assert_array_equal(one.numpy(), truth[row])
    assert (
        examples.lengths is None
        if form == "vectors"
        else examples.lengths.tolist() == [len(b) for b in truth]
    )
    for split in data.splits.values():
        np.testing.assert_array_equal(split.labels, Y[split.rows])
        assert split.columns["site"].codes.tolist() == Y[::-1][split.rows].tolist()


@pytest.mark.parametrize("write", WRITE[:2])
def test_text_and_groups_are_arrays_of_the_file(tmp_path, write):
    arrays = {"features": X, "labels": np.array(LABELS), "group": np.array(["a", "a", "b", "b", "c", "c"]),
              "names": np.array(NAMES), "split": np.array(["train"] * 4 + ["test"] * 2)}  # fmt: skip
    data = load_dataset(f"features:{write(tmp_path / 'all', arrays)}")
    assert data.classes == ["normal", "tumour"]
    assert data.group == "group"
    assert data.splits["test"].names == NAMES[4:]
    assert data.splits["test"].columns["group"].codes.tolist() == [2, 2]


def test_fixed_length_text_of_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["label"] = X, np.array(LABELS, "S8")
    assert load_dataset(f"features:{tmp_path}/a.h5?test_fraction=1").classes == ["normal", "tumour"]


@pytest.mark.parametrize("write", WRITE)
def test_arrays_named_by_their_split(tmp_path, write):
    parts = {"X_train": X[:4], "y_train": Y[:4], "X_test": X[4:], "y_test": Y[4:]}
    if write is as_h5:
        parts = {
            name.replace("X_", "").replace("y_", "") + "/" + name[0]: v for name, v in parts.items()
        }
    data = load_dataset(f"features:{write(tmp_path / 'all', parts)}")
    for split, truth in (("train", X[:4]), ("test", X[4:])):
        np.testing.assert_array_equal(
            data.splits[split].examples.read("features", [0, 1]), truth[:2]
        )
    assert data.splits["test"].labels.tolist() == Y[4:].tolist()


def test_one_hdf5_file_with_a_group_an_example(tmp_path):
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name, bag, coords, label in zip(NAMES, BAGS, COORDS, LABELS, strict=True):
            group = file.create_group(name)
            group["features"], group["coords"], group["label"] = bag, coords, label
    data = load_dataset(f"features:{tmp_path}/all.h5?test_fraction=0.34")
    names = sorted(data.splits["train"].names + data.splits["test"].names)
    assert names == NAMES
    for split in data.splits.values():
        same(split, split.names)
        assert [data.classes[k] for k in split.labels] == [
            LABELS[NAMES.index(n)] for n in split.names
        ]


@pytest.mark.parametrize("axes", ["nd", "dn", "hwd", "dhw"])
def test_axes_are_as_they_are_said(tmp_path, axes):
    maps = RNG.normal(size=(6, 2, 3, 4)).astype(np.float32)  # rows, columns, width
    tokens = maps.reshape(6, 6, 4)
    given = {
        "nd": tokens,
        "dn": tokens.transpose(0, 2, 1),
        "hwd": maps,
        "dhw": maps.transpose(0, 3, 1, 2),
    }
    np.savez(tmp_path / "all.npz", features=given[axes], y=Y)
    examples = (
        load_dataset(f"features:{tmp_path}/all.npz?test_fraction=1&axes={axes}")
        .splits["test"]
        .examples
    )
    np.testing.assert_array_equal(examples.read("features", [1, 4]), tokens[[1, 4]])
    assert examples.grid == ((2, 3) if len(axes) == 3 else None)


def test_npy_beside_a_table(tmp_path):
    np.save(tmp_path / "x.npy", X[:4])
    np.save(tmp_path / "xt.npy", X[4:])
    for name, part in (("train", LABELS[:4]), ("test", LABELS[4:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["label", *part]) + "\n")
    data = load_dataset(
        f"features:{tmp_path}/x.npy?test={tmp_path}/xt.npy&table={tmp_path}/train.csv&test_table={tmp_path}/test.csv"
    )
    np.testing.assert_array_equal(data.splits["test"].examples.read("features", [0, 1]), X[4:])
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert any("row for row, test.csv is of the examples of test" in line for line in data.assumed)


@pytest.mark.parametrize("several", [False, True])
def test_rows_of_parquet(tmp_path, several):
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    import pyarrow.parquet as pq

    truth = BAGS if several else list(X[:, 0])
    columns = {"embedding": [one.tolist() for one in truth], "label": LABELS, "name": NAMES}
    kind = pa.list_(pa.list_(pa.float32())) if several else pa.list_(pa.float32(), 4)
    table = pa.table({**columns, "embedding": pa.array(columns["embedding"], kind)})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=4)
    data = load_dataset(f"features:{tmp_path}/all.parquet?test_fraction=0.34")
    examples = data.splits["train"].examples
    for row, one in zip([5, 0, 3], examples.read("features", [5, 0, 3]), strict=True):
        np.testing.assert_array_equal(one.numpy(), truth[row])
    assert examples.dtype == "float32"
    assert sorted(data.splits["train"].names + data.splits["test"].names) == NAMES


def test_folders_of_train_and_test(tmp_path):
    for name, bag, split in zip(NAMES, BAGS, ["train"] * 4 + ["test"] * 2, strict=True):
        (tmp_path / split).mkdir(exist_ok=True)
        np.savez(tmp_path / split / f"{name}.npz", features=bag, label=name in NAMES[::2])
    data = load_dataset(f"features:{tmp_path}")
    same(data.splits["train"], NAMES[:4])
    assert data.splits["test"].labels.tolist() == [1, 0]


def test_tags_and_numbers_are_read_as_in_a_table(tmp_path):
    tags = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]])
    np.savez(tmp_path / "a.npz", x=X, tags=tags, age=np.linspace(1.5, 3.7, 6))
    assert (
        load_dataset(f"features:{tmp_path}/a.npz?target=tags&test_fraction=1").task == "multilabel"
    )
    numbers = load_dataset(f"features:{tmp_path}/a.npz?target=age&test_fraction=1&unit=years")
    assert (numbers.task, numbers.units) == ("regression", ["years"])
    np.testing.assert_allclose(numbers.splits["test"].labels[:, 0], np.linspace(1.5, 3.7, 6))


def refused(spec: str, words: str) -> None:
    with pytest.raises(IceprobeError, match=words) as error:
        load_dataset(spec)
    assert "\n" not in str(error.value)


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"features": torch.zeros(2, 3), "code": eval}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"features": X, "feats": X, "y": Y}, "", r"may all be the tokens: pass key=NAME"),
        ({"a": X, "b": X, "y": Y}, "", r"'a' \(6, 3, 4\), 'b' \(6, 3, 4\) may all be"),
        ({"a": X, "y": Y}, "key=b", "unknown array of a.npz 'b'"),
        ({"y": Y}, "", "none may be the tokens"),
        ({"x": np.zeros((6, 768, 10), np.float32), "y": Y}, "", "768 may be the width D.*axes=nd.*axes=dn"),
        ({"x": np.zeros((6, 2, 2, 3), np.float32), "y": Y}, "", "axes=hwd if .* axes=dhw"),
        ({"x": X, "y": Y}, "axes=hwd", "axes=hwd is of 3 axes an example, and it has 2"),
        ({"x": X, "y": Y[:5]}, "", r"'y' \(5,\) doesn't fit 6 examples"),
        ({"x": X[0], "lengths": np.array([2, 2]), "y": Y[:2]}, "", "4 tokens together: give"),
        ({"x": X[0], "lengths": np.array([3, 0]), "y": Y[:2]}, "", "example 1 has no tokens"),
        ({"x": X, "coords": np.zeros((6, 2, 2)), "y": Y}, "", "'coords' .* doesn't fit it"),
        ({"x": X, "prefix": np.zeros((6, 1, 5)), "y": Y}, "", "prefix tokens have the width 5"),
        ({"x": X > 0, "y": Y}, "", "tokens are floats"),
        ({"x": X, "y": Y}, "", "has no test split"),
        ({"x": X}, "", "no column seems to be the target"),
        ({"x": X, "y": Y, "label": Y}, "", "columns 'y', 'label' may be the target"),
        ({"x": X, "y": Y}, "target=z", "unknown column of a.npz 'z'"),
        ({"x": X, "y": Y}, "name=y", "option name= .* is of table="),
        ({"x": X, "y": Y}, "test=b.npz", "no tokens at test='b.npz'"),
        ({"x": np.array([None] * 6), "y": Y}, "", "can't be read .*Python objects"),
    ],
)  # fmt: skip
def test_wrong_arrays_end_in_one_line(tmp_path, arrays, options, words):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(f"features:{tmp_path}/a.npz?{options}", words)


def test_a_folder_of_vectors(tmp_path):
    (tmp_path / "vectors").mkdir()
    for name, row in zip(NAMES, X[:, 0], strict=True):
        np.save(tmp_path / "vectors" / f"{name}.npy", row)
    lines = [f"{name}.jpg,{label}" for name, label in zip(NAMES, LABELS, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]))
    data = load_dataset(f"features:{tmp_path}/vectors?table={tmp_path}/labels.csv&test_fraction=1")
    examples = data.splits["test"].examples
    assert examples.lengths is None
    np.testing.assert_array_equal(torch.stack([*examples.read("features", range(6))]), X[:, 0])


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    write_bag(tmp_path, "a", X[0])
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(f"features:{tmp_path}/a.h5", r"needs the package h5py: pip install 'iceprobe\[hdf5\]'")


def test_train_and_test_say_the_same_things(tmp_path):
    for name, more in (
        ("a", {"site": Y, "names": np.array(NAMES)}),
        ("b", {"names": np.array(NAMES)}),
    ):
        np.savez(tmp_path / f"{name}.npz", x=X, y=Y, **more)
    both = f"features:{tmp_path}/a.npz?test={tmp_path}/b.npz"
    refused(f"{both}&slice=site", "unknown column of b.npz 'site'")
    refused(both, "example 0 of 'b.npz' and example 0 of 'a.npz' are both of 'slide_0'")


def test_a_column_of_targets_with_an_axis_behind(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y[:, None])
    data = load_dataset(f"features:{tmp_path}/a.npz?test_fraction=1")
    assert (data.task, data.splits["test"].labels.tolist()) == ("classification", Y.tolist())


def test_what_is_there_twice_names_no_examples(tmp_path):
    """Vectors of tiles, whose slides are groups."""
    slides = np.array(["s1", "s1", "s2", "s2", "s3", "s3"])
    np.savez(tmp_path / "a.npz", x=X[:, 0], y=Y, slide_id=slides)
    data = load_dataset(f"features:{tmp_path}/a.npz?test_fraction=0.34&group=slide_id")
    assert data.splits["train"].names[0] == "train/000000"
    assert sum(len(set(one.columns["slide_id"].codes)) for one in data.splits.values()) == 3
    assert any("'slide_id' has a value twice" in line for line in data.assumed)


def test_no_pickle_is_unpickled(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickled())
    refused(
        f"features:{tmp_path}/a.pt?test_fraction=1",
        "holds more than tensors; take the .h5 beside it",
    )
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"features": [1, 2]}))
    refused(f"features:{tmp_path}/b.pt?test_fraction=1", "can't be read")
    np.save(tmp_path / "c.npy", np.array([print]), allow_pickle=True)
    refused(f"features:{tmp_path}/c.npy?test_fraction=1", "holds Python objects, or is damaged")


def change(root: Path, what: str) -> str:
    """A folder of CLAM with something wrong; the options that meet it."""
    h5_files, table = root / "FEATURES" / "h5_files", root / "dataset.csv"
    splits = f"splits={root}/splits_0.csv"
    if what == "missing":
        (h5_files / "slide_3.h5").unlink()
    elif what == "no row":
        table.write_text(table.read_text().replace("patient_2,slide_5,normal\n", ""))
    elif what == "row twice":
        table.write_text(table.read_text() + "patient_9,slide_1,normal\n")
    elif what == "row of a stem":
        table.write_text(table.read_text() + "patient_9,b/slide_1.svs,normal\n")
    elif what == "two files":
        np.savez(h5_files / "slide_1.npz", features=BAGS[0])
    elif what == "width":
        write_bag_again(h5_files, "slide_2", BAGS[2][:, :3], COORDS[2])
    elif what == "empty":
        write_bag_again(h5_files, "slide_2", np.zeros((0, 4), np.float32), np.zeros((0, 2)))
    elif what == "coords":
        write_bag_again(h5_files, "slide_2", BAGS[2], COORDS[1])
    elif what == "no coords":
        write_bag_again(h5_files, "slide_2", BAGS[2], None)
    elif what == "damaged":
        (h5_files / "slide_2.h5").write_bytes(b"no such file")
    elif what == "in two lists":
        (root / "splits_0.csv").write_text(",train,val,test\n0,slide_0,slide_2,slide_0\n")
    elif what == "stem in two lists":
        (root / "splits_0.csv").write_text(",train,val,test\n0,slide_0,slide_2,slide_0.svs\n")
    elif what == "unknown in lists":
        (root / "splits_0.csv").write_text(",train,val,test\n0,slide_0,slide_2,slide_9\n")
    elif what == "lists of nothing":
        (root / "splits_0.csv").write_text("a,b\n0,slide_0\n")
    elif what == "no names":
        table.write_text(table.read_text().replace("slide_id", "where"))
    return splits


def write_bag_again(place: Path, name: str, bag, coords) -> None:
    (place / f"{name}.h5").unlink()
    write_bag(place, name, bag, coords)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "row 5 of 'dataset.csv'.*no tokens of 'slide_3'.*missing=skip"),
        ("row twice", "row 8 of 'dataset.csv' and row 3 of 'dataset.csv' are both of 'slide_1'"),
        ("row of a stem", "row 8 .* and row 3 .*: 'b/slide_1.svs' and 'slide_1' both name the tokens 'slide_1'"),
        ("two files", "'.*slide_1.h5' and 'slide_1.npz' are both of 'slide_1'"),
        ("width", "'slide_2.h5'.*D is 3, and 4 of 'slide_0.h5'"),
        ("empty", "'slide_2.h5'.*has no tokens: leave 'slide_2' out"),
        ("coords", "'slide_2.h5'.*are not of its 4 tokens"),
        ("no coords", "'slide_2.h5'.*beside the tokens it has nothing"),
        ("damaged", "slide_2.h5' can't be read"),
        ("in two lists", "'slide_0' is in 'test' and in 'train'"),
        ("stem in two lists", "'slide_0' is in 'train' and in 'test' of 'splits_0.csv'"),
        ("unknown in lists", "'slide_9' in column 'test' of 'splits_0.csv' has no tokens"),
        ("lists of nothing", "has no column train"),
        ("no names", "has no column of names, .*pass name=COLUMN"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_ends_in_one_line(tmp_path, what, words):
    root = clam(tmp_path)
    splits = change(root, what)
    refused(f"features:{root}/FEATURES?table={root}/dataset.csv&{splits}", words)


def test_rows_and_files_without_each_other_are_said(tmp_path):
    root = clam(tmp_path)
    change(root, "no row")
    (root / "FEATURES" / "h5_files" / "slide_3.h5").unlink()
    spec = f"features:{root}/FEATURES?table={root}/dataset.csv&missing=skip&test_fraction=0.5"
    data = load_dataset(spec)
    assert sum(map(len, data.splits.values())) == 4
    assert any("1 row of 5 have no tokens and are left out" in line for line in data.assumed)
    assert any("1 of 5 examples have no row in dataset.csv" in line for line in data.assumed)
    assert any("'case_id' isn't read as their group" in line for line in data.assumed)


def test_places_that_hold_no_tokens(tmp_path):
    refused(f"features:{tmp_path}/none.h5", "no tokens at")
    refused("features:s3://bucket/a.h5", "is a URL, .* copy them here")
    (tmp_path / "a.csv").write_text("x\n")
    refused(f"features:{tmp_path}/a.csv", "ends in none of .h5")
    refused(f"features:{tmp_path}", "holds no files of tokens")
    (tmp_path / "features_uni").mkdir()
    write_bag(tmp_path / "features_uni", "a", BAGS[0])
    refused(f"features:{tmp_path}", "name one of its folders, 'features_uni'")


def test_there_are_no_images(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    data = load_dataset(f"features:{tmp_path}/a.npz?test_fraction=0.34")
    for make in (iceprobe.live, iceprobe.extract, iceprobe.plan):
        with pytest.raises(IceprobeError, match="no backbone reads: probe them with iceprobe fit"):
            make(make_backbone(), data)
