"""Whatever changes the bytes changes the identity; what doesn't, doesn't."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from iceprobe.backbones.base import Backbone
from iceprobe.settings import Extraction
from iceprobe.store import format as store_format
from iceprobe.store.format import ExtractionSettings, Manifest, read_manifest, write_manifest
from iceprobe.store.request import describe, make_settings
from tests.store.conftest import DIM, PREPROCESSING, make_backbone, make_dataset


def manifest(
    backbone: Backbone | None = None,
    dataset=None,
    *,
    splits=None,
    limit=None,
    device="cpu",
    **changed,
) -> Manifest:
    settings = Extraction(**dict(forward_batch_size=4, shard_images=10) | changed)
    return describe(
        backbone or make_backbone(),
        dataset or make_dataset(),
        make_settings(settings, device),
        splits=splits,
        limit=limit,
    )


def relabelled():
    dataset = make_dataset()
    dataset.splits["train"].labels[3] = (dataset.splits["train"].labels[3] + 1) % 3
    return dataset


def moved_box():
    dataset = make_dataset()
    dataset.splits["test"].boxes[0] += 1
    return dataset


def with_another_mask():
    dataset = make_dataset()
    dataset.splits["train"].objects[4, 0, 0] ^= 255
    return dataset


def without_masks():
    dataset = make_dataset()
    dataset.splits["test"].masks = False
    return dataset


def repainted():
    dataset = make_dataset()
    dataset.splits["train"].images[0, 0, 0] ^= 1
    return dataset


def with_preprocessing(**changed) -> Backbone:
    backbone = make_backbone()
    backbone.preprocessing = replace(PREPROCESSING, **changed)
    return backbone


def nudged() -> Backbone:
    backbone = make_backbone()
    with torch.no_grad():
        bias = backbone.reader.embed.bias
        bias[DIM - 1] = torch.nextafter(bias[DIM - 1], torch.tensor(9.0))
    return backbone


INGREDIENTS = {
    "a weight, by one unit in the last place": lambda: manifest(nudged()),
    "layer": lambda: manifest(make_backbone(layer=-2)),
    "norm": lambda: manifest(make_backbone(norm=False)),
    "mean": lambda: manifest(with_preprocessing(mean=(0.5,))),
    "std": lambda: manifest(with_preprocessing(std=(0.5,))),
    "image size": lambda: manifest(with_preprocessing(image_size=20)),
    "interpolation": lambda: manifest(with_preprocessing(interpolation="bilinear")),
    "crop": lambda: manifest(with_preprocessing(crop_pct=0.9)),
    "amp": lambda: manifest(forward_dtype="bfloat16"),
    "tokens": lambda: manifest(tokens="bfloat16"),
    "tokens in int8": lambda: manifest(tokens="int8"),
    "patches": lambda: manifest(patches=False),
    "batch size": lambda: manifest(forward_batch_size=5),
    "shard size": lambda: manifest(shard_images=12),
    "device type": lambda: manifest(device="cuda"),
    "an image": lambda: manifest(dataset=repainted()),
    "a label": lambda: manifest(dataset=relabelled()),
    "a box": lambda: manifest(dataset=moved_box()),
    "a mask": lambda: manifest(dataset=with_another_mask()),
    "no masks": lambda: manifest(dataset=without_masks()),
    "one image more": lambda: manifest(dataset=make_dataset(train=51)),
    "a class's name": lambda: manifest(dataset=replace(make_dataset(), classes=["a", "b", "d"])),
    "splits": lambda: manifest(splits=["train"]),
    "limit": lambda: manifest(limit=20),
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_every_ingredient_makes_another_store(ingredient):
    changed, base = INGREDIENTS[ingredient](), manifest()
    assert changed.identity != base.identity
    assert changed.folder != base.folder


def test_all_of_them_differ_from_each_other():
    identities = [make().identity for make in INGREDIENTS.values()]
    assert len(set(identities)) == len(identities)


def test_format_version_and_views_are_ingredients():
    one = manifest()
    assert one.model_copy(update={"format_version": 1}).identity != one.identity
    views = one.settings.model_copy(update={"augmented_views": 3})
    assert one.model_copy(update={"settings": views}).identity != one.identity


def test_json_counts_the_evaluation_view_among_the_views():
    """As stores of earlier versions have it; in Python only augmented views are counted."""
    settings = manifest(views=2, augmentation="light").settings
    written = settings.model_dump(mode="json")
    assert (settings.augmented_views, written["views"]) == (2, 3)
    assert list(written)[5:8] == ["device", "views", "augmentation"]
    assert ExtractionSettings.model_validate(written) == settings
    for wrong in (0, "three", None):
        with pytest.raises(ValidationError):
            ExtractionSettings.model_validate(written | {"views": wrong})


def test_the_shape_of_tokens_is_one_for_backbone_and_manifest():
    backbone = make_backbone()
    backbone.pooled_class = True
    made = manifest(backbone)
    side = backbone.preprocessing.image_size
    tokens = backbone(torch.zeros(1, 1, side, side))
    assert made.shape == backbone.shape == replace(tokens.shape, pooled_class=True)
    written = made.model_dump(mode="json")
    assert list(written["shape"]) == [
        "dim", "num_tokens", "num_prefix", "grid", "has_class", "vectors",
    ]  # fmt: skip
    assert Manifest.model_validate(written).shape == backbone.shape


def test_what_changes_no_bytes_changes_no_identity(monkeypatch):
    base = manifest()
    assert manifest(limit=10_000).identity == base.identity
    assert manifest(splits=["train", "test"]).identity == base.identity
    renamed = make_backbone()
    renamed.spec, renamed.name, renamed.paradigm = "other:spec", "other", "contrastive"
    assert manifest(renamed).identity == base.identity


def test_device_index_is_not_the_device_type():
    assert manifest(device="cuda:1").identity == manifest(device="cuda").identity


def test_folder_is_readable_and_safe():
    backbone = make_backbone()
    backbone.name = "../vit b/16 <x>"
    name = manifest(backbone).folder
    assert name.startswith("vit-b-16-x---images-")
    assert "/" not in name


def test_manifest_round_trip(tmp_path):
    before = manifest(limit=20)
    write_manifest(tmp_path, before)
    assert read_manifest(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [store_format.MANIFEST]


def test_missing_shards():
    one = manifest()
    assert one.missing("train") == [0, 1, 2, 3, 4]
    assert one.missing("test") == [0, 1]
    assert not one.finished
    assert np.prod([one.shape.num_tokens, one.shape.dim]) == 16 * DIM
