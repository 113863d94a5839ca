"""Several layers in one pass, and the vectors that a model makes itself."""

import os

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.store import extract, extract_in_memory, extract_layers
from iceprobe.tokens import Tokens
from tests.store.conftest import GRID, PREPROCESSING, Reader, content, make_dataset

LAYERS = "bundled:mae-tiny?layer=4,0,-1"
FEW = dict(limit=12, batch_size=4, shard_images=5, splits=["test"])


@pytest.fixture(scope="module")
def clutter():
    return iceprobe.load_dataset("bundled:fashion-clutter")


@pytest.fixture(scope="module")
def alone(clutter, tmp_path_factory):
    """Each layer extracted by itself."""
    root = tmp_path_factory.mktemp("alone")
    for layer in (4, 0, 5):
        backbone = iceprobe.load_backbone(f"bundled:mae-tiny?layer={layer}")
        extract(backbone, clutter, root, **FEW)
    return content(root)


def test_each_store_is_what_its_layer_alone_gives(clutter, alone, tmp_path):
    stores = extract_layers(iceprobe.load_backbone(LAYERS), clutter, tmp_path, **FEW)
    assert [store.manifest.backbone.identity["layer"] for store in stores] == [4, 0, 5]
    assert content(tmp_path) == alone
    assert not torch.equal(stores[0]["test"].mean, stores[1]["test"].mean)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_killed_pass_goes_on_and_ends_the_same(clutter, alone, tmp_path, calls):
    count = 0

    def stop(*_) -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt

    backbone = iceprobe.load_backbone(LAYERS)
    with pytest.raises(KeyboardInterrupt):
        extract_layers(backbone, clutter, tmp_path, progress=stop, **FEW)
    assert content(tmp_path) != alone
    extract_layers(backbone, clutter, tmp_path, **FEW)
    assert content(tmp_path) == alone


def test_a_layer_that_is_there_is_not_written_again(clutter, alone, tmp_path):
    first = extract(iceprobe.load_backbone("bundled:mae-tiny?layer=0"), clutter, tmp_path, **FEW)
    shard = first.path / "test-00000.safetensors"
    os.utime(shard, ns=(1, 1))
    extract_layers(iceprobe.load_backbone(LAYERS), clutter, tmp_path, **FEW)
    assert shard.stat().st_mtime_ns == 1
    assert content(tmp_path) == alone


def test_one_store_holds_one_layer(clutter, tmp_path):
    with pytest.raises(IceprobeError, match="reads 3 layers and a store holds one: use iceprobe"):
        extract(iceprobe.load_backbone(LAYERS), clutter, tmp_path, **FEW)
    assert not list(tmp_path.iterdir())


class WithPooler(Reader):
    """Adds what a model with a pooler and a projection gives; widths of their own."""

    def forward(self, images: torch.Tensor) -> Tokens:
        tokens = super().forward(images)
        vectors = {
            "pooled": tokens.patches.amax(1)[:, :5],
            "class_projected": tokens.prefix[:, 0] * 2,
        }
        return Tokens(tokens.patches, tokens.prefix, GRID, has_class=True, vectors=vectors)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_models_own_vectors_are_stored_and_probed(tmp_path, where):
    backbone = iceprobe.Backbone(WithPooler(), PREPROCESSING, spec="test:pooler", name="pooler")
    data = make_dataset()
    if where == "disk":
        store = extract(backbone, data, tmp_path / "f", patches=False)
    else:
        store = extract_in_memory(backbone, data, patches=False)
    assert store.vectors == {"pooled": 5, "class_projected": 8}
    images = torch.stack([PREPROCESSING.transform(data.splits["test"].image(i)) for i in range(12)])
    expected = backbone(images).vectors
    torch.testing.assert_close(store["test"].vector("pooled"), expected["pooled"])
    taken = store.take("test", np.array([7, 2]))["test"].vector("class_projected")
    torch.testing.assert_close(taken, expected["class_projected"][[7, 2]])
    names = ["linear?input=pooled", "linear?input=class_projected", "knn?input=pooled"]
    results = iceprobe.fit(store, names, output=tmp_path / "run", seeds=1, epochs=2)
    # BatchNorm has no parameters: the classifier alone, 5·3 + 3 and 8·3 + 3.
    assert [one.parameters.total for one in results] == [18, 27, 0]
    probe = results[0].probes[0]
    torch.testing.assert_close(probe(backbone(images)), probe(expected["pooled"]))


def test_vectors_that_are_not_there_are_named(tmp_path):
    backbone = iceprobe.Backbone(Reader(), PREPROCESSING, spec="test:plain", name="plain")
    store = extract_in_memory(backbone, make_dataset())
    for probe in ("linear?input=pooled", "knn?input=class_projected"):
        with pytest.raises(
            IceprobeError, match=r"no (pooled|class_projected) output: take input=class or mean"
        ):
            iceprobe.fit(store, [probe], output=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


TWO = dict(limit=12, batch_size=4, shard_images=5, progress=False)


def test_joined_stores_are_read_where_they_lie(clutter, tmp_path):
    backbone = iceprobe.load_backbone("bundled:mae-tiny?layer=-2,-1")
    stores = extract_layers(backbone, clutter, tmp_path / "f", **TWO)
    before = content(tmp_path / "f")
    joined = iceprobe.Store.joined(stores)
    assert (joined.depth, list(joined.layers), joined.path) == (6, [4, 5], None)
    assert joined.manifest.backbone.spec == "bundled:mae-tiny?layer=4,5"
    assert joined.identity not in {store.identity for store in stores}
    assert joined.identity == iceprobe.Store.joined([s.path for s in stores], depth=6).identity
    assert (
        joined.identity != iceprobe.Store.joined(stores[::-1]).identity
    )  # in another order features are others
    rows = np.array([7, 2])
    view = joined.take("test", rows)["test"]
    for layer, store in zip((4, 5), stores, strict=True):
        expected = store["test"].patches(rows)
        assert torch.equal(view.patches([0, 1], layer=layer), expected)
        assert torch.equal(view.vector("mean", layer), store["test"].mean[rows])
        assert torch.equal(view.vector("class", layer), store["test"].class_token[rows])
        alike = view.tokens([1, 0]).layers[layer]
        assert torch.equal(alike.patches, expected.flip(0).float())
    assert torch.equal(view.mean, stores[1]["test"].mean[rows])  # the deepest layer's
    assert np.array_equal(joined["train"].labels, stores[0]["train"].labels)
    assert joined["test"].patch_bytes == sum(store["test"].patch_bytes for store in stores)
    joined.verify()
    assert content(tmp_path / "f") == before


@pytest.mark.parametrize("tokens", ["float16", "int8"])
def test_held_and_buffered_rows_of_several_layers_are_the_stored_ones(clutter, tmp_path, tokens):
    backbone = iceprobe.load_backbone("bundled:mae-tiny?layer=0,-1")
    asked = TWO | dict(tokens=tokens, views=1)
    stores = extract_layers(backbone, clutter, tmp_path, **asked)
    split = iceprobe.Store.joined(stores)["train"]
    rows = np.array([11, 0, 5])
    expected = [store["train"].patches(rows) for store in stores]
    assert torch.equal(split.views.patches(rows, layer=0), stores[0]["train"].views.patches(rows))
    half = split.hold(split.patch_bytes // 2)
    assert half.resident.sum() == 6
    buffered = split.buffer(4)
    buffered.load(rows)
    for one in (split, half, split.hold(10**9), buffered.split):
        for layer, values in zip((0, 5), expected, strict=True):
            assert torch.equal(one.patches(rows, layer=layer), values)
    alone = split.reading(["patches@5"])
    assert alone.patch_bytes == stores[1]["train"].patch_bytes
    assert alone.views.patch_bytes == stores[1]["train"].views.patch_bytes


def test_a_pass_may_store_the_patches_of_some_layers(clutter, tmp_path):
    from iceprobe.store.writer import extract_layers_with

    backbone = iceprobe.load_backbone("bundled:mae-tiny?layer=-2,-1")
    mixed = extract_layers_with([4], backbone, clutter, tmp_path / "mixed", **TWO)
    assert [store.has_patches for store in mixed] == [False, True]
    for layer, patches in ((4, False), (5, True)):
        one = iceprobe.load_backbone(f"bundled:mae-tiny?layer={layer}")
        extract(one, clutter, tmp_path / "alone", patches=patches, **TWO)
    assert content(tmp_path / "mixed") == content(tmp_path / "alone")


def test_a_module_without_layers_has_none_to_join(tmp_path):
    backbone = iceprobe.Backbone(Reader(), PREPROCESSING, spec="test:plain", name="plain")
    store = extract_in_memory(backbone, make_dataset())
    with pytest.raises(IceprobeError, match="'test:plain' is not of one layer by its number"):
        iceprobe.Store.joined([store])
    with pytest.raises(
        IceprobeError, match="'test:plain' has no choice of layers: take one of timm"
    ):
        backbone.at_layers([-1])
