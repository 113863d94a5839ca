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
