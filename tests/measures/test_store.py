"""Measures over stores: streamed in any blocks, from shards and in half precision, of the right vectors."""

import json

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.measures.reading import Vectors
from iceprobe.settings import Measuring
from tests.reference import measures as reference
from tests.store.conftest import SMALL, make_backbone, make_dataset

RNG = np.random.default_rng(0)


def given(x, prefix=None, names=None):
    """A store of vectors or tokens ``x`` as train."""
    y = np.arange(len(x)) % 2
    options = {} if prefix is None else {"prefix": {"train": prefix}}
    if names is not None:
        options["names"] = {"train": [f"{name:04d}" for name in names]}
    return iceprobe.from_tokens({"train": (x, y)}, **options)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Fifty images in five shards with three augmented views, in float16."""
    features = tmp_path_factory.mktemp("features")
    return iceprobe.extract(
        make_backbone(), make_dataset(), features, views=3, tokens="float16", **SMALL
    )


def rows_of(split, name, rows=None):
    rows = np.arange(len(split)) if rows is None else rows
    return (
        (split.rows("prefix", rows)[:, 0] if name == "class" else split.rows(name, rows))
        .double()
        .numpy()
    )


def of_views(split, name):
    """``(n, 3, D)``: the augmented views alone."""
    n = len(split)
    return np.stack([rows_of(split.views, name, v * n + np.arange(n)) for v in range(3)], 1)


@pytest.mark.parametrize(
    ("input", "batch"), [(None, 1024), ("mean", 7), ("class+mean", 1), ("mean", 10)]
)
def test_a_store_is_measured_as_its_vectors(extracted, input, batch):
    (found,) = iceprobe.measure(extracted.path, input=input, batch_size=batch)
    train, names = extracted["train"], (input or "class").split("+")
    x = np.concatenate([rows_of(train, name) for name in names], 1)
    views = np.concatenate([of_views(train, name) for name in names], 2)
    values = found.values
    assert values["rankme"] == pytest.approx(reference.rankme(x), rel=1e-5)
    spectrum = reference.covariance_eigenvalues(x)
    assert values["participation"] == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
    assert values["uniformity"] == pytest.approx(reference.uniformity(x), rel=1e-9)
    assert values["alignment"] == pytest.approx(reference.alignment(views), rel=1e-9)
    assert values["lidar"] == pytest.approx(reference.lidar(views), rel=1e-5)
    assert (values["views"], found.examples, found.vectors) == (3, 50, 50)
    assert (found.input, found.dim) == (input or "class", 8 * len(names))
    assert (found.store, found.path) == (extracted.identity, str(extracted.path))
    if len(names) == 1:
        assert found.missing["alpha"].startswith("a slope from eigenvalue 4 on needs 8")
    else:
        assert values["alpha"] == pytest.approx(reference.power_law(spectrum, 4, 16)[0], rel=1e-6)


def test_one_augmented_view_is_paired_with_the_evaluation_view(tmp_path):
    store = iceprobe.extract(make_backbone(), make_dataset(), tmp_path, views=1, **SMALL)
    (found,) = iceprobe.measure(store, input="mean", batch_size=9)
    train = store["train"]
    views = np.stack([rows_of(train.views, "mean"), rows_of(train, "mean")], 1)
    assert found.values["alignment"] == pytest.approx(reference.alignment(views), rel=1e-9)
    assert found.values["views"] == 2


def test_blocks_of_any_size_are_one_block():
    x = (RNG.normal(size=(61, 12)) + 50).astype(np.float16)
    tokens = RNG.normal(size=(61, 9, 12)).astype(np.float32)
    for store, input in ((given(x), None), (given(tokens), "patches")):
        whole, *others = (
            iceprobe.measure(store, input=input, batch_size=size, tokens_per_example=4)[0]
            for size in (1000, 1, 2, 60)
        )
        assert whole.vectors == (61 if input is None else 244)
        for one in others:
            assert one.values == pytest.approx(whole.values, rel=1e-9)


def test_class_or_mean_as_linear_probes_read_by_default():
    tokens, prefix = RNG.normal(size=(30, 4, 6)), RNG.normal(size=(30, 2, 6))
    assert iceprobe.measure(given(tokens))[0].input == "mean"
    assert iceprobe.measure(given(tokens, prefix))[0].input == "class"
    assert iceprobe.measure(given(tokens, prefix), input="mean")[0].input == "mean"


def test_patch_tokens_are_drawn_by_a_seed_and_all_of_them_are_all_tokens():
    tokens = RNG.normal(size=(20, 5, 6)).astype(np.float32)
    store = given(tokens)
    (every,) = iceprobe.measure(store, input="patches", tokens_per_example=99)
    flat = tokens.astype(np.float64).reshape(-1, 6)
    assert every.vectors == 100
    assert every.values["uniformity"] == pytest.approx(reference.uniformity(flat), rel=1e-9)
    drawn = [
        np.concatenate(
            list(
                Vectors(
                    store, Measuring(input="patches", tokens_per_example=2, run_seed=s)
                ).blocks()
            )
        )
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    # Two different tokens of each example, in the order of examples.
    for example, two in enumerate(drawn[0].reshape(20, 2, 6)):
        where = [np.flatnonzero((tokens[example] == one.astype(np.float32)).all(1)) for one in two]
        assert [len(one) for one in where] == [1, 1]
        assert where[0] < where[1]
    assert "5 patch tokens of an example" in every.notes[0]
    assert "other places" in every.missing["alignment"]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_padding_is_never_drawn(batch):
    lengths = [1, 5, 3, 9, 2, 2, 4, 7, 1, 6]
    bags = [RNG.normal(size=(n, 4)).astype(np.float32) + 3 for n in lengths]
    store = given(bags)
    (every,) = iceprobe.measure(store, input="patches", tokens_per_example=99, batch_size=batch)
    flat = np.concatenate(bags).astype(np.float64)
    assert every.vectors == sum(lengths)
    assert every.values["rankme"] == pytest.approx(reference.rankme(flat), rel=1e-5)
    assert every.values["uniformity"] == pytest.approx(reference.uniformity(flat), rel=1e-9)
    (some,) = iceprobe.measure(store, input="patches", tokens_per_example=2, batch_size=batch)
    assert some.vectors == sum(min(n, 2) for n in lengths)
    (whole,) = iceprobe.measure(store, input="patches", tokens_per_example=2)
    assert some.values == pytest.approx(whole.values, rel=1e-9)
    (means,) = iceprobe.measure(store)
    expected = np.stack([bag.astype(np.float64).mean(0) for bag in bags])
    assert means.values["rankme"] == pytest.approx(reference.rankme(expected), rel=1e-5)


def test_other_numbers_of_tokens_are_other_places():
    one, other = (
        given(
            [np.ones((n, 4), np.float32) * np.arange(n)[:, None] for n in lengths], names=range(4)
        )
        for lengths in ([2, 3, 4, 5], [3, 2, 4, 5])
    )
    assert iceprobe.measure([one, other])[0].others
    with pytest.raises(IceprobeError, match="their examples have other numbers of tokens"):
        iceprobe.measure([one, other], input="patches", measures=["cka"])


def test_pairs_of_uniformity_and_examples_are_limited_by_a_seed():
    x = RNG.normal(size=(200, 4)).astype(np.float32)
    (found,) = iceprobe.measure(given(x), pairs=45)
    assert found.values["uniformity_vectors"] == 10
    assert "uniformity is over all pairs of 10 vectors drawn by a seed" in found.notes
    chosen = np.sort(np.random.default_rng(0).choice(200, 10, replace=False))
    assert found.values["uniformity"] == pytest.approx(reference.uniformity(x[chosen]), rel=1e-6)
    (few,) = iceprobe.measure(given(x), limit=30)
    chosen = np.sort(np.random.default_rng(0).choice(200, 30, replace=False))
    assert few.examples == 30
    assert few.values["rankme"] == pytest.approx(reference.rankme(x[chosen]), rel=1e-5)
    assert "30 of 200 examples were drawn by a seed" in few.notes


def test_stores_of_the_same_examples_are_compared(tmp_path):
    stores = [
        iceprobe.extract(
            make_backbone(seed=seed), make_dataset(), tmp_path, tokens="float32", **SMALL
        )
        for seed in (0, 1, 2)
    ]
    found = iceprobe.measure(stores, input="mean", batch_size=8)
    x = [rows_of(store["train"], "mean") for store in stores]
    for i in range(3):
        for j in range(3):
            if i != j:
                both = found[i].others[stores[j].identity]
                assert both["cka"] == pytest.approx(reference.cka(x[i], x[j]), rel=1e-6)
                assert both["cka_unbiased"] == pytest.approx(
                    reference.unbiased_cka(x[i], x[j]), rel=1e-6
                )
    assert found[0].others[stores[1].identity] == found[1].others[stores[0].identity]
    # Patch tokens at the same places: of a rotated copy 1.
    limited = iceprobe.measure(stores[:2], input="patches", measures=["cka"], limit=20)
    same = iceprobe.measure([stores[0], stores[0]], input="patches", measures=["cka"], limit=20)
    assert same[0].others[stores[0].identity]["cka"] == pytest.approx(1)
    assert limited[0].others[stores[1].identity]["cka"] < 0.999
    assert limited[0].values == {}


def test_tokens_of_your_own_are_compared_where_their_names_say_they_are_the_same():
    x, n = RNG.normal(size=(30, 5)), range(30)
    same = [given(x, names=n), given(2 * x + 1, names=n)]
    (one, other) = iceprobe.measure(same)
    assert one.others[other.store]["cka"] == pytest.approx(1)
    for others in (given(2 * x), given(x, names=range(1, 31))):
        (one, other) = iceprobe.measure([same[0], others])
        assert one.others == {}
        assert one.missing["cka"] == "their examples of 'train' are others"
        with pytest.raises(IceprobeError, match=r"cka of store .* and store .*: their examples"):
            iceprobe.measure([same[0], others], measures=["cka"])


def test_skipped_images_are_other_rows(tmp_path):
    stores = [
        iceprobe.extract(
            make_backbone(seed=1 + len(bad)),
            make_dataset(bad=bad),
            tmp_path,
            on_bad_image="skip",
            **SMALL,
        )
        for bad in ((), (3,))
    ]
    with pytest.raises(IceprobeError, match="other rows of 'train' are stored"):
        iceprobe.measure(stores, measures=["cka"])


def test_what_is_missing_says_why():
    x = RNG.normal(size=(12, 20)).astype(np.float32)
    x[:, :3] = 7.25
    (found,) = iceprobe.measure(given(x))
    assert set(found.missing) == {"alignment", "lidar"}  # α has eigenvalues 4 to 11
    assert found.missing["lidar"] == "it needs stored views: iceprobe extract --views 4 writes them"
    assert "3 of 20 dimensions have one value in all vectors" in found.notes
    assert any("12 vectors have at most 12 dimensions, of 20" in note for note in found.notes)
    (same,) = iceprobe.measure(given(np.full((12, 20), 0.1)))
    assert same.missing["participation"] == same.missing["alpha"] == "all vectors are the same"
    assert same.values["rankme"] == pytest.approx(1, abs=1e-4)
    assert same.values["uniformity"] == pytest.approx(0, abs=1e-9)
    (zero,) = iceprobe.measure(given(np.zeros((12, 20))))
    assert zero.missing["rankme"] == "all vectors are 0"
    assert "no direction" in zero.missing["uniformity"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measures": ["rankmee"]}, "unknown measure 'rankmee'"),
        ({"measures": ["lidar"]}, "lidar of store .*: it needs stored views"),
        ({"measures": ["cka"]}, "cka compares stores and one was given: give two or more"),
        ({"input": "patches"}, "has no patch tokens: take --input mean"),
        ({"input": "class"}, "has no class token: take --input mean"),
        ({"input": "pooled"}, "this backbone .* has no pooled output: take input=class or mean"),
        ({"input": "meen"}, "unknown --input 'meen'"),
        ({"split": "val"}, "unknown split of given 'val'"),
        ({"limit": 1}, r"measure\(limit=1\): give at least 2"),
    ],
)
def test_errors_are_a_line(options, said):
    with pytest.raises(IceprobeError, match=said):
        iceprobe.measure(given(RNG.normal(size=(9, 4))), **options)


def test_one_example_and_no_store_are_refused():
    x = RNG.normal(size=(4, 3))
    store = iceprobe.from_tokens({"train": (x, [0, 1, 0, 1]), "test": (x[:1], [0])})
    with pytest.raises(IceprobeError, match="has 1 examples of 'test' to measure: take at least 2"):
        iceprobe.measure(store, split="test")
    with pytest.raises(IceprobeError, match="no store was given"):
        iceprobe.measure([])
    with pytest.raises(IceprobeError, match="give stores, or their folders"):
        iceprobe.measure([3])


def test_views_are_those_of_train(extracted):
    (found,) = iceprobe.measure(extracted, split="test")
    assert "which 'train' alone has (--split train)" in found.missing["lidar"]


def test_frame_and_files(extracted, tmp_path):
    pandas = pytest.importorskip("pandas")
    measured = iceprobe.measure([extracted, extracted])
    table = iceprobe.frame(measured)
    assert list(table.rankme) == [one.values["rankme"] for one in measured]
    assert iceprobe.frame(measured[0]).shape == (1, table.shape[1])
    with pytest.raises(IceprobeError, match="has a row a store: give it without results"):
        iceprobe.frame(measured, per="example")
    written = iceprobe.measures.write_measured(tmp_path / "m.json", measured)
    document = json.loads(written.read_text())
    assert document["measured"][1]["values"] == measured[1].values
    rows = pandas.read_csv(iceprobe.measures.write_measured(tmp_path / "m.csv", measured))
    np.testing.assert_allclose(rows.lidar, table.lidar)
    with pytest.raises(
        IceprobeError, match=r"m.txt': what was measured is written to .json or .csv"
    ):
        iceprobe.measures.write_measured(tmp_path / "m.txt", measured)


def test_live_tokens_and_several_layers_are_refused(tmp_path):
    layers = iceprobe.extract_layers(
        "bundled:mae-tiny?layer=0,1", "bundled:fashion", tmp_path, limit=4, patches=False
    )
    with pytest.raises(IceprobeError, match="is of several layers: measure the store of each"):
        iceprobe.measure(iceprobe.Store.joined(layers))
    live = iceprobe.live(make_backbone(), make_dataset(), device="cpu")
    with pytest.raises(IceprobeError, match="is live, its tokens aren't stored"):
        iceprobe.measure(live)


def test_int8_tokens_are_dequantised():
    dataset = make_dataset()
    stores = [
        iceprobe.store.extract_in_memory(make_backbone(), dataset, tokens=kind, device="cpu")
        for kind in ("float32", "int8")
    ]
    exact, coded = (iceprobe.measure(one, input="patches")[0].values for one in stores)
    assert coded["rankme"] == pytest.approx(exact["rankme"], rel=0.02)
    assert coded["uniformity"] == pytest.approx(exact["uniformity"], rel=0.02)
    assert torch.equal(stores[0]["train"].mean, stores[1]["train"].mean)
