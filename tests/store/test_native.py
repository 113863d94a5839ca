"""Images of their own shape in a store: tokens, places, boxes, and masks as shares of patches."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import iceprobe
from iceprobe.backbones.kinds import Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.store import Store, extract_in_memory
from iceprobe.tokens import JoinedTokens
from tests.native import DIM, NATIVE, PATCH, Patches, dataset
from tests.store.conftest import content

SMALL = {"batch_size": 4, "shard_images": 10}


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_each_image_has_its_own_grid(tmp_path: Path, where: str) -> None:
    backbone, data = iceprobe.load_backbone(Patches()), dataset()
    if where == "disk":
        made = iceprobe.extract(backbone, data, tmp_path, tokens="float32", **SMALL)
        (seen,) = made.images("train", [0])
        assert seen.size == tuple(
            PATCH * side for side in NATIVE.grid(data.splits["train"].image(0).size)[::-1]
        )
        store = Store.open(made.path, verify=True)
    else:
        store = extract_in_memory(backbone, data, batch_size=4, tokens="float32")
    counts = [
        int(np.prod(NATIVE.grid(one.size)))
        for s in data.splits.values()
        for one in map(s.image, range(len(s)))
    ]
    assert backbone.shape.lengths == (1, NATIVE.max_tokens)
    assert store.shape.lengths == (min(counts), max(counts))
    source, part = data.splits["train"], store["train"]
    assert part.on_grids
    rows = np.random.default_rng(0).permutation(40)
    tokens, covers = part.tokens(rows), part.covers(rows)
    grids = [NATIVE.grid(source.image(row).size) for row in rows]
    assert tokens.grids == grids
    assert len(set(grids)) > 8
    assert not part.has_masks
    for place, row in enumerate(rows.tolist()):
        image, count = source.image(row), int(np.prod(grids[place]))
        (alone,) = backbone.forward_layers(NATIVE.transform(image))
        torch.testing.assert_close(
            tokens.patches[place, :count], alone.patches[0], atol=1e-5, rtol=1e-5
        )
        assert not tokens.patches[place, count:].any()
        assert source.boxes is not None
        assert part.boxes is not None
        (box,) = NATIVE.transform_boxes(source.boxes[row : row + 1], image.size)
        assert np.array_equal(part.boxes[row], box)
        mask = source.mask(row)
        expected = np.zeros(count) if mask is None else NATIVE.cover(mask)
        assert np.array_equal(covers[place, :count].numpy(), expected.astype(np.float32))
        assert not covers[place, count:].any()
    with pytest.raises(IceprobeError, match="no masks"):
        part.masks([0])


def test_an_extraction_goes_on_where_it_stopped(tmp_path: Path) -> None:
    backbone, data = iceprobe.load_backbone(Patches()), dataset()
    whole = iceprobe.extract(backbone, data, tmp_path / "whole", **SMALL)

    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done > 16:
            raise Stopped

    with pytest.raises(Stopped):
        iceprobe.extract(backbone, data, tmp_path / "parts", **SMALL, progress=stop)
    again = iceprobe.extract(backbone, data, tmp_path / "parts", **SMALL)
    assert whole.path is not None
    assert again.path is not None
    assert content(Path(whole.path)) == content(Path(again.path))


def test_probes_are_fitted_and_random_views_refused(tmp_path: Path) -> None:
    store = iceprobe.extract(iceprobe.load_backbone(Patches()), dataset(), tmp_path)
    results = iceprobe.fit(store, ["knn", "linear", "ep4"], seeds=1, epochs=20, min_steps=1)
    assert all(one.top1.mean > 0.8 for one in results)
    with pytest.raises(
        IceprobeError,
        match=r"random views are of images of one size and of clips, and .* of their own shape",
    ):
        iceprobe.extract(iceprobe.load_backbone(Patches()), dataset(), tmp_path, views=2)


def test_the_blank_image_has_the_most_tokens() -> None:
    blank = NATIVE.blank()
    assert isinstance(blank, Ragged)
    assert blank.lengths.tolist() == [24]
    backbone = iceprobe.load_backbone(Patches())
    assert backbone.shape.num_tokens == 24
    assert backbone.macs() == 24 * PATCH * PATCH * DIM


def test_several_layers_lie_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of a model that reads one shape at a time: as each alone, with the image's boxes and covers."""
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **o: create(name, embed_dim=24, depth=3, num_heads=2, **o),
    )
    spec = "timm:vit_tiny_patch16_224?pretrained=false&image_size=native&max_tokens=12"
    backbone, data = iceprobe.load_backbone(f"{spec}&layer=0,2"), dataset()
    stores = iceprobe.extract_layers(backbone, data, tmp_path / "both", tokens="float32")
    alone = iceprobe.extract(
        iceprobe.load_backbone(f"{spec}&layer=2"), data, tmp_path / "one", tokens="float32"
    )
    rows = np.arange(14)
    first, last = (one["test"].tokens(rows) for one in stores)
    torch.testing.assert_close(last.patches, alone["test"].tokens(rows).patches)
    assert not torch.equal(first.patches, last.patches)
    together = Store.joined(stores)["test"]
    assert torch.equal(together.covers(rows), stores[0]["test"].covers(rows))
    joined = together.tokens(rows)
    assert isinstance(joined, JoinedTokens)
    assert torch.equal(joined.layers[0].patches, first.patches)
    assert joined.grids == last.grids
