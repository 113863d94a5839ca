"""`iceprobe.load_features`: as `from_tokens` of the same arrays, with the tokens left in their files."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.feature_files import arrays as opened
from iceprobe.store import extract_in_memory, save
from tests.datasets.test_features import BAGS, LENGTHS, clam
from tests.store.conftest import content, make_backbone, make_dataset

h5py = pytest.importorskip("h5py", reason="needs the extra [hdf5]")
FAST = {"seeds": 1, "epochs": 2, "learning_rates": [1e-2]}


def tokens(n: int, dtype=np.float32):
    """Tokens whose first number says the class, and their classes."""
    rng = np.random.default_rng(n)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 6, 8))
    x[..., 0] += y[:, None]
    return x.astype(dtype), y


def write(place, x, y, **more):
    with h5py.File(place, "w") as file:
        for name, one in {"features": x, "y": y, **more}.items():
            file[name] = one
    return place


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{name}.h5", *tokens(n)) for name, n in (("train", 60), ("test", 30))]


@pytest.mark.parametrize("several", [True, False])
def test_results_are_those_of_the_arrays(tmp_path, several):
    pairs = {split: tokens(n) for split, n in (("train", 60), ("test", 30))}
    if not several:
        pairs = {split: (x[:, 0], y) for split, (x, y) in pairs.items()}
    train, test = (write(tmp_path / f"{split}.h5", *pair) for split, pair in pairs.items())
    store = iceprobe.load_features(f"features:{train}?test={test}")
    given = iceprobe.from_tokens(pairs)
    assert store.shape == given.shape
    for split in pairs:
        for name in ("mean", "prefix", "labels", "index"):
            np.testing.assert_array_equal(getattr(store[split], name), getattr(given[split], name))
    if several:
        rows = [7, 3, 4, 5, 29]
        torch.testing.assert_close(
            store["test"].patches(rows), given["test"].patches(rows), rtol=0, atol=0
        )
    probes = ["knn", "linear", "ep4"] if several else ["knn", "linear"]
    one = iceprobe.fit(store, probes, output=tmp_path / "a", **FAST)
    other = iceprobe.fit(given, probes, output=tmp_path / "b", **FAST)
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(
            mine.predictions().logits().values, its.predictions().logits().values
        )


def test_prefix_pooled_and_grid(tmp_path):
    (x, y), rng = tokens(12), np.random.default_rng(1)
    prefix, pooled = rng.normal(size=(12, 2, 8)), rng.normal(size=(12, 5))
    file = write(
        tmp_path / "a.h5", x, y, prefix=prefix.astype(np.float32), pooled=pooled, grid=[2, 3]
    )
    store = iceprobe.load_features(f"features:{file}?test_fraction=0.5")
    assert (store.grid, store.num_prefix, store.has_class, dict(store.vectors)) == (
        (2, 3),
        2,
        True,
        {"pooled": 5},
    )
    part = store["test"]
    rows = store.dataset().splits["test"].rows
    np.testing.assert_array_equal(part.prefix, prefix.astype(np.float32)[rows])
    np.testing.assert_array_equal(part.vector("pooled"), pooled.astype(np.float32)[rows])
    np.testing.assert_array_equal(part.class_token, prefix.astype(np.float32)[rows, 0])
    assert not iceprobe.load_features(
        f"features:{file}?test_fraction=0.5&has_class=false"
    ).has_class


def test_the_widest_of_tokens_and_prefix_is_stored(tmp_path):
    x, y = tokens(12, np.float16)
    file = write(tmp_path / "a.h5", x, y, prefix=np.full((12, 1, 8), 1e5, np.float32))
    store = iceprobe.load_features(f"features:{file}?test_fraction=0.5")
    assert store.manifest.settings.tokens == "float32"
    assert (store["test"].prefix == 1e5).all()


def test_bags_are_read_row_by_row(tmp_path):
    root = clam(tmp_path)
    spec = f"features:{root}/FEATURES?table={root}/dataset.csv&splits={root}/splits_0.csv"
    store = iceprobe.load_features(spec)
    assert (store.shape.lengths, store.num_tokens, store.shape.coords) == ((1, 5), 3, 2)
    part = store["train"]  # of slides 0, 1, 5
    assert part.tensor("length").tolist() == [LENGTHS[0], LENGTHS[1], LENGTHS[5]]
    assert part.layout["patches"] == (torch.float32, (-1, 4))
    out = torch.zeros(2, 3, 4)
    part.gather("patches", np.array([2, 0]), out)
    np.testing.assert_array_equal(out[0, :2], BAGS[5])
    np.testing.assert_array_equal(out[0, 2], np.zeros(4))
    np.testing.assert_array_equal(out[1], BAGS[0])
    for row, slide in enumerate((0, 1, 5)):
        np.testing.assert_allclose(part.mean[row], BAGS[slide].mean(0), rtol=1e-6)


@pytest.fixture
def slides(tmp_path):
    """Bags of tiles whose first number says the class, their coordinates, and the spec of their folder."""
    rng, rows = np.random.default_rng(0), ["slide_id,label,split"]
    (tmp_path / "h5_files").mkdir()
    bags, places, labels = [], [], []
    for i in range(45):
        n, label = int(rng.integers(2, 30)), i % 3
        bags.append(rng.normal(size=(n, 8)).astype(np.float32) + label)
        places.append(rng.integers(0, 999, size=(n, 2)))
        labels.append(label)
        with h5py.File(tmp_path / "h5_files" / f"s{i:02d}.h5", "w") as file:
            file.create_dataset("features", data=bags[-1], chunks=(1, 8))
            file["coords"] = places[-1]
        rows.append(f"s{i:02d},{label},{'train' if i < 30 else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return bags, places, labels, f"features:{tmp_path}/h5_files?table={tmp_path}/labels.csv"


def test_bags_are_probed_as_lists_of_arrays_are(slides, tmp_path):
    bags, places, labels, spec = slides
    store = iceprobe.load_features(spec)
    turned = [one[:, ::-1].copy() for one in places]
    given = iceprobe.from_tokens(
        {"train": (bags[:30], labels[:30]), "test": (bags[30:], labels[30:])},
        coords={"train": turned[:30], "test": turned[30:]},
    )
    assert store.shape == given.shape
    mine, its = store["train"].tokens([5, 29, 0]), given["train"].tokens([5, 29, 0])
    for name in ("patches", "mask", "coords", "prefix"):
        assert torch.equal(getattr(mine, name), getattr(its, name))
    assert torch.equal(store["train"].mean, given["train"].mean)
    probes = ["knn", "linear", "ep4", "abmilp"]
    one = iceprobe.fit(store, probes, output=tmp_path / "a", **FAST)
    other = iceprobe.fit(given, probes, output=tmp_path / "b", **FAST)
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(
            ours.predictions().logits().values, theirs.predictions().logits().values
        )


def test_saved_bags_are_what_the_files_hold(slides, tmp_path, monkeypatch):
    monkeypatch.setattr("iceprobe.store.features.SHARD_IMAGES", 8)
    bags, places, _, spec = slides
    store = iceprobe.load_features(spec)
    opened = iceprobe.Store.open(save(store, tmp_path / "features").path, verify=True)
    assert opened.identity == store.identity
    assert opened.shape == store.shape
    tokens = opened["test"].tokens(range(15))
    for row, (bag, place) in enumerate(zip(bags[30:], places[30:], strict=True)):
        np.testing.assert_array_equal(tokens.patches[row][tokens.mask[row]], bag)
        np.testing.assert_array_equal(tokens.coords[row][tokens.mask[row]], place[:, ::-1])
    assert opened.names("test", [3]) == ["s33"]


def as_rows(place, **columns):
    """A Parquet file of lists, in groups of four rows."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    import pyarrow.parquet as pq

    def column(values):
        kind = pa.float32()
        for _ in range(np.ndim(values[0])):
            kind = pa.list_(kind)
        return pa.array([one.tolist() for one in values], kind) if np.ndim(values[0]) else values

    table = pa.table({name: column(values) for name, values in columns.items()})
    pq.write_table(table, place, row_group_size=4)
    return place


def test_rows_of_parquet_have_a_class_token_and_places(tmp_path):
    rng = np.random.default_rng(0)
    token, places = rng.normal(size=(6, 4)).astype(np.float32), [one[:, :2] for one in BAGS]
    file = as_rows(
        tmp_path / "a.parquet", features=BAGS, cls=token, coords=places, label=[0, 1] * 3
    )
    store = iceprobe.load_features(f"features:{file}?test_fraction=1&coords=yx")
    part = store["test"].tokens(range(6))
    assert (store.shape.lengths, store.num_prefix, store.has_class) == ((1, 5), 1, True)
    np.testing.assert_array_equal(part.prefix[:, 0], token)
    for row, (bag, place) in enumerate(zip(BAGS, places, strict=True)):
        np.testing.assert_array_equal(part.patches[row][part.mask[row]], bag)
        np.testing.assert_array_equal(part.coords[row][part.mask[row]], place)
    places[4] = places[4][:-1]
    as_rows(file, features=BAGS, coords=places, label=[0, 1] * 3)
    refused(
        f"features:{file}?test_fraction=1",
        r"row 4 .*'coords' has the shape \(4, 2\), and its tokens need \(5, 2\)",
    )
    as_rows(file, features=BAGS, cls=token[:, :3], label=[0, 1] * 3)
    refused(f"features:{file}?test_fraction=1", "prefix tokens have the width 3, and tokens 4")


def test_splits_of_other_lengths(tmp_path):
    x, y = tokens(12)
    train, test = write(tmp_path / "a.h5", x, y), write(tmp_path / "b.h5", x[:, :4], y)
    store = iceprobe.load_features(f"features:{train}?test={test}")
    assert store.shape.lengths == (4, 6)
    np.testing.assert_array_equal(store["test"].patches([3, 1]), x[[3, 1], :4])
    np.testing.assert_array_equal(store["train"].patches([3, 1]), x[[3, 1]])


@pytest.mark.parametrize(
    ("given", "stored"),
    [("float16", "float16"), ("float64", "float32"), (">f4", "float32"), ("int32", "float32")],
)
def test_dtypes(tmp_path, given, stored):
    x, y = tokens(12, np.float64)
    x = (8 * x).astype(given)
    store = iceprobe.load_features(f"features:{write(tmp_path / 'a.h5', x, y)}?test_fraction=0.5")
    rows = store.dataset().splits["train"].rows
    assert store.manifest.settings.tokens == stored
    read = store["train"].patches(range(len(rows)))
    assert read.dtype == getattr(torch, stored)
    np.testing.assert_array_equal(read, x[rows].astype(stored))


def test_bfloat16_of_safetensors(tmp_path):
    x, y = (torch.from_numpy(one) for one in tokens(12))
    save_file({"features": x.bfloat16(), "y": y}, tmp_path / "a.safetensors")
    store = iceprobe.load_features(f"features:{tmp_path}/a.safetensors?test_fraction=0.5")
    assert store.manifest.settings.tokens == "bfloat16"
    rows = store.dataset().splits["train"].rows
    assert torch.equal(store["train"].patches(range(len(rows))), x.bfloat16()[rows])


def test_the_identity_is_the_contents_and_not_the_files(tmp_path):
    x, y = tokens(12)
    ways = {
        "h5": write(tmp_path / "a.h5", x, y),
        "npz": tmp_path / "b.npz",
        "other": write(tmp_path / "c.h5", x + 1e-3, y),
        "labels": write(tmp_path / "d.h5", x, y[::-1]),
    }
    np.savez_compressed(ways["npz"], feats=x, y=y)
    found = {
        way: iceprobe.load_features(f"features:{file}?test_fraction=0.5").identity
        for way, file in ways.items()
    }
    assert found["h5"] == found["npz"]
    assert len(set(found.values())) == 3


def test_named_examples_are_the_same_in_other_tokens(tmp_path):
    (x, y), names = tokens(12), [f"n{i}" for i in range(12)]
    listings = [
        iceprobe.load_features(f"features:{file}?test_fraction=0.5")
        .manifest.splits["test"]
        .content["listing"]
        for file in (
            write(tmp_path / "a.h5", x, y, names=names),
            write(tmp_path / "b.h5", x[:, :, :4], y, names=names),
            write(tmp_path / "c.h5", x[:, :, :4], y, names=names[::-1]),
        )
    ]
    assert listings[0] == listings[1] != listings[2]


@pytest.mark.parametrize("axis", ["vectors", "tokens"])
def test_a_file_is_read_in_small_pieces(tmp_path, monkeypatch, axis):
    shape = (100_000, 8) if axis == "vectors" else (500, 200, 8)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    file = write(tmp_path / "a.h5", x, np.arange(len(x)) % 2)
    read, whole = [], opened.as_tensor

    def counted(array):
        read.append(array.nbytes)
        return whole(array)

    monkeypatch.setattr(opened, "as_tensor", counted)
    store = iceprobe.load_features(f"features:{file}?test_fraction=0.5")
    tokens_read = [size for size in read if size != 8 * len(x)]  # less those of the labels
    assert sum(tokens_read) == x.nbytes
    assert max(tokens_read) < 2**21
    read.clear()
    if axis == "tokens":
        rows = store.dataset().splits["test"].rows
        np.testing.assert_array_equal(store["test"].patches([3, 4, 90]), x[rows[[3, 4, 90]]])
        assert sum(read) == 3 * x[0].nbytes


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("several", [True, False])
def test_what_is_not_finite_is_named(tmp_path, value, several):
    x, y = tokens(12)
    x[7, 2, 3] = value
    file = write(
        tmp_path / "a.h5", x if several else x[:, 2], y, names=[f"n{i}" for i in range(12)]
    )
    refused(
        f"features:{file}?test_fraction=1",
        r"example 7 of 'a.h5', example 'n7' of 'test'.*not finite",
    )


def test_no_prefix_token_is_finite(tmp_path):
    x, y = tokens(12)
    file = write(tmp_path / "a.h5", x, y, prefix=np.ones((12, 0, 8)))
    assert iceprobe.load_features(f"features:{file}?test_fraction=1").num_prefix == 0


def test_a_prefix_that_is_not_finite_is_named(tmp_path):
    x, y = tokens(12)
    prefix = np.ones((12, 1, 8))
    prefix[9, 0, 3] = np.nan
    file = write(tmp_path / "a.h5", x, y, prefix=prefix)
    refused(f"features:{file}?test_fraction=1", "example 9 of 'a.h5'.*prefix is not finite")


@pytest.mark.parametrize(("offset", "scale"), [(1e12, 1), (0, 1e300)])
def test_float64_that_float32_rounds_away_is_refused(tmp_path, offset, scale):
    x, y = tokens(12, np.float64)
    x[..., 3] = x[..., 3] * scale + offset
    file = write(tmp_path / "a.h5", x, y)
    refused(f"features:{file}?test_fraction=1", "float32 is too narrow for dimension 3")


@pytest.mark.parametrize("n", [12, 60, 1000])
def test_a_constant_loses_nothing(tmp_path, n):
    """Rounding moves all of its values alike: it has no variance, neither in the files nor in float32."""
    x, y = tokens(n, np.float64)
    x[..., 3] = 0.1
    store = iceprobe.load_features(f"features:{write(tmp_path / 'a.h5', x, y)}?test_fraction=0.5")
    assert (store["train"].mean[:, 3] == np.float32(0.1)).all()


def test_a_file_that_changes_is_refused(tmp_path):
    x, y = tokens(12)
    file = write(tmp_path / "a.h5", x, y)
    store = iceprobe.load_features(f"features:{file}?test_fraction=0.5")
    store["test"].patches([0])
    os.utime(file, ns=(0, 0))
    with pytest.raises(IceprobeError, match=r"a.h5' has changed since"):
        store["test"].patches([0])


def test_splits_of_two_encoders_are_refused(tmp_path):
    x, y = tokens(12)
    train, test = write(tmp_path / "a.h5", x, y), write(tmp_path / "b.h5", x[..., :7], y)
    refused(f"features:{train}?test={test}", "width D of 'train' .* and 'test' .* differ, 8 and 7")
    mixed = write(tmp_path / "c.h5", x[:, 0], y)
    refused(f"features:{train}?test={mixed}", "tokens an example of 'train'")
    refused(
        f"features:{write(tmp_path / 'd.h5', x, y, grid=[2, 2])}?test_fraction=1",
        "has not 6 tokens",
    )


def test_other_specs_are_no_tokens():
    refused("bundled:fashion", "name them as features:FILE")


def refused(spec: str, words: str) -> None:
    with pytest.raises(IceprobeError, match=words) as error:
        iceprobe.load_features(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("several", [True, False])
def test_saved_tokens_are_an_ordinary_store(tmp_path, monkeypatch, several):
    monkeypatch.setattr("iceprobe.store.features.SHARD_IMAGES", 16)
    (x, y), rng = tokens(60), np.random.default_rng(1)
    further = {
        "prefix": rng.normal(size=(60, 2, 8)),
        "pooled": rng.normal(size=(60, 5)),
        "site": y % 2,
    }
    file = write(tmp_path / "a.h5", x if several else x[:, 0], y, **further)
    store = iceprobe.load_features(f"features:{file}?test_fraction=0.3&slice=site")
    saved = save(store, tmp_path / "features")
    opened = iceprobe.Store.open(saved.path, verify=True)
    assert opened.identity == saved.identity == store.identity
    assert len(opened.manifest.splits["train"].shards) == 3
    for split in ("train", "test"):
        ours, its = store[split], opened[split]
        for name in ("mean", "prefix", "labels", "index"):
            np.testing.assert_array_equal(getattr(its, name), getattr(ours, name))
        np.testing.assert_array_equal(its.columns["site"], ours.columns["site"])
        np.testing.assert_array_equal(its.vector("pooled"), ours.vector("pooled"))
        if several:
            rows = range(len(ours))
            assert torch.equal(its.patches(rows), ours.patches(rows))
    assert opened.names("test", [0]) == store.names("test", [0])  # found again by the spec
    assert save(store, tmp_path / "features").path == saved.path


def test_a_stopped_saving_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("iceprobe.store.features.SHARD_IMAGES", 10)
    store = iceprobe.load_features(
        f"features:{write(tmp_path / 'a.h5', *tokens(60))}?test_fraction=0.5"
    )
    save(store, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "save test":
            raise Stop

    with pytest.raises(Stop):
        save(store, tmp_path / "stopped", progress=stop)
    left = content(tmp_path / "stopped")
    assert 0 < len(left) < len(content(tmp_path / "whole"))
    save(store, tmp_path / "stopped")
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_tokens_of_a_backbone_are_not_saved(tmp_path):
    with pytest.raises(IceprobeError, match="only tokens of your own are saved"):
        save(extract_in_memory(make_backbone(), make_dataset(), device="cpu"), tmp_path)
