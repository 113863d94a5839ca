"""Augmented views lie beside the evaluation view: same images, same rows, same bytes always."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import transforms

from iceprobe.backbones.augmentation import view_generator
from iceprobe.core.errors import IceprobeError
from iceprobe.cost import plan
from iceprobe.fitting.memory import cache_tokens
from iceprobe.store import Store, extract, extract_in_memory, repair
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.memory import bytes_held
from tests.reference.augmentation import MaskedAutoencodersCrop
from tests.store.conftest import SMALL, content, make_backbone, make_dataset
from tests.store.test_format import manifest
from tests.store.test_integrity import flip

K = 2
VIEWS = dict(views=K, tokens="float32") | SMALL
FEW = dict(train=23, test=5)  # shards of 10, 10 and 3 images, one of test


@pytest.fixture
def dataset():
    return make_dataset(**FEW)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Content of a root with the store of nobody's interruption."""
    root = tmp_path_factory.mktemp("whole")
    extract(make_backbone(), make_dataset(**FEW), root, **VIEWS)
    return content(root)


def tokens_of(split, index: int, view: int, strength="paper"):
    """Of one view by torchvision's own transforms, and the backbone."""
    crop, scale = {
        "paper": (MaskedAutoencodersCrop, (0.08, 1.0)),
        "light": (transforms.RandomResizedCrop, (0.5, 1.0)),
    }[strength]
    random_view = transforms.Compose(
        [
            crop(16, scale, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.4,), (0.3,)),
        ]
    )
    with torch.random.fork_rng():
        torch.random.set_rng_state(view_generator(index, view).get_state())
        image = random_view(split.image(index))
    return make_backbone()(image[None])


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("strength", ["paper", "light"])
def test_each_view_is_the_backbones_of_that_view(tmp_path, where, strength):
    dataset = make_dataset(**FEW, bad=(4, 21))
    options = dict(views=K, augmentation=strength, tokens="float32", on_bad_image="skip", limit=17)
    if where == "disk":
        store = extract(make_backbone(), dataset, tmp_path, **options, **SMALL)
    else:
        store = extract_in_memory(make_backbone(), dataset, batch_size=4, **options)
    assert (store.splits, store.views) == (["train", "test"], K)
    assert store["test"].views is None
    split, source = store["train"], dataset.splits["train"]
    n = len(split)
    assert n == 17 - len(set(store.manifest.skipped)) < 17
    assert len(store.manifest.skipped) == len(set(store.manifest.skipped))
    assert len(split.views) == K * n
    assert (split.views.index.reshape(K, n) == split.index).all()
    assert (split.views.labels.reshape(K, n) == split.labels).all()
    assert (split.has_masks, split.views.has_masks) == (True, False)
    assert len(split.boxes) == n
    assert split.views.boxes is None
    for row in (0, n - 1):
        for view in range(K):
            expected = tokens_of(source, int(split.index[row]), view + 1, strength)
            at = view * n + row
            torch.testing.assert_close(split.views.patches([at])[0], expected.patches[0])
            torch.testing.assert_close(split.views.prefix[at], expected.prefix[0])
            torch.testing.assert_close(split.views.mean[at], expected.patches[0].mean(0))


def test_the_evaluation_view_is_byte_for_byte_that_of_a_store_without_views(
    tmp_path, dataset, whole
):
    plain = extract(make_backbone(), dataset, tmp_path, **(VIEWS | {"views": 0}))
    augmented = {path.split("/")[1]: data for path, data in whole.items()}
    shards = {name: data for name, data in content(plain.path).items() if name != "manifest.json"}
    assert len(shards) == 4
    assert shards.items() <= augmented.items()
    assert set(augmented) - set(shards) == {"manifest.json"} | {
        f"train.view{view}-0000{number}.safetensors" for view in (1, 2) for number in range(3)
    }


def test_a_store_without_views_keeps_the_identity_it_had():
    """The hash as it was when a store had no views to choose."""
    one = manifest()
    ingredients = {
        "format_version": 2,
        "backbone": one.backbone.identity,
        "preprocessing": one.backbone.preprocessing,
        "settings": {
            "amp": "float32", "tokens": "float16", "patches": True, "batch_size": 4,
            "shard_images": 10, "device": "cpu", "views": 1,
        },
        "classes": one.dataset.classes,
        "splits": {
            name: split.model_dump(include={"content", "images", "listed", "masks"})
            for name, split in one.splits.items()
        },
    }  # fmt: skip
    text = json.dumps(ingredients, sort_keys=True)
    assert one.identity == hashlib.sha256(text.encode()).hexdigest()
    others = [manifest(), manifest(views=1), manifest(views=2)]
    others.append(manifest(views=2, augmentation="light"))
    assert len({other.identity for other in others}) == 4


def test_views_from_before_crops_were_clamped_are_another_store():
    """Such a store opens under its old identity, and isn't taken for one of today's."""
    today = manifest(views=2)
    settings = today.settings.model_dump(exclude_none=True)
    assert settings.pop("crop") == "clamped"
    before = today.model_copy(update={"settings": ExtractionSettings.model_validate(settings)})
    assert before.identity != today.identity
    assert before.settings.model_dump(exclude_none=True) == settings
    assert manifest(views=2, augmentation="light").settings.crop is None


def test_processes_make_the_same_bytes_as_threads(tmp_path, dataset, whole):
    extract(make_backbone(), dataset, tmp_path, workers=2, **VIEWS)
    assert content(tmp_path) == whole


def test_views_are_the_same_in_any_batch_and_beside_any_number_of_others(tmp_path, dataset, whole):
    store = extract(make_backbone(), dataset, tmp_path / "a", **VIEWS)
    other = dict(views=3, tokens="float32", batch_size=7, shard_images=7)
    more = extract(make_backbone(), dataset, tmp_path / "b", **other)
    n = len(store["train"])
    rows = np.arange(K * n)
    torch.testing.assert_close(
        store["train"].views.patches(rows), more["train"].views.patches(rows), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("images", [4, 10, 20, 23])
def test_stopped_anywhere_it_ends_with_the_same_bytes(tmp_path, dataset, whole, images):
    def stop(stage, done, total):
        if (done if stage == "extract train" else 23 + done) >= images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(make_backbone(), dataset, tmp_path, progress=stop, **VIEWS)
    assert set(content(tmp_path)) < set(whole)
    extract(make_backbone(), dataset, tmp_path, **VIEWS)
    assert content(tmp_path) == whole


def test_killed_between_two_views_of_a_shard(tmp_path, dataset, whole, monkeypatch):
    """What was renamed and never recorded is made again."""
    from iceprobe.store import shard_writer

    publish = shard_writer.publish

    def fail(temporary, final):
        if final.name == "train.view2-00001.safetensors":
            raise KeyboardInterrupt
        publish(temporary, final)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "publish", fail)
        with pytest.raises(KeyboardInterrupt):
            extract(make_backbone(), dataset, tmp_path, **VIEWS)
    backbone = make_backbone()
    extract(backbone, dataset, tmp_path, **VIEWS)
    assert backbone.reader.images == 13 * (1 + K) + 5  # the first shard was complete
    assert content(tmp_path) == whole


def test_an_image_is_decoded_once(dataset):
    source, decoded = dataset.splits["train"], Counter()
    image = source.image
    source.image = lambda index: (decoded.update([index]), image(index))[1]
    backbone = make_backbone()
    extract_in_memory(backbone, dataset, views=K, batch_size=4)
    assert backbone.reader.images == 23 * (1 + K) + 5
    assert decoded == dict.fromkeys(range(23), 1)


def test_a_corrupt_view_is_found_named_and_mended(tmp_path, dataset, whole):
    store = extract(make_backbone(), dataset, tmp_path, **VIEWS)
    for view in (1, 2):
        flip(store.path / f"train.view{view}-00001.safetensors", 5000)
    with pytest.raises(IceprobeError, match=r"train\.view1-00001.*iceprobe extract --repair"):
        Store.open(store.path, verify=True)
    backbone = make_backbone()
    names = [f"train{view}-00001.safetensors" for view in ("", ".view1", ".view2")]
    assert repair(store.path, backbone, dataset) == names
    assert backbone.reader.images == 10 * (1 + K)
    assert content(tmp_path) == whole
    (store.path / names[2]).unlink()
    with pytest.raises(IceprobeError, match=r"train\.view2-00001.*missing"):
        Store.open(store.path)


@pytest.mark.parametrize("options", [{}, {"tokens": "int8"}, {"patches": False, "limit": 13}])
def test_a_plan_counts_every_view(tmp_path, dataset, options):
    asked = VIEWS | options
    planned = plan(make_backbone(), dataset, tmp_path, measure_seconds=0, **asked)
    store = extract(make_backbone(), dataset, tmp_path, **asked)
    assert planned.store == store.path
    written = sum(path.stat().st_size for path in store.path.glob("*.safetensors"))
    assert planned.store_bytes == planned.bytes_to_write == written
    train, test = len(store["train"]), len(store["test"])
    assert planned.images == {"train": train, "test": test}
    assert planned.flops == planned.flops_per_image * ((1 + K) * train + test)
    assert planned.seconds * planned.images_per_second == pytest.approx((1 + K) * train + test)
    split = store["train"]
    assert planned.patch_bytes["train"] == split.patch_bytes + split.views.patch_bytes
    assert plan(make_backbone(), dataset, tmp_path, **asked).bytes_to_write == 0


def test_memory_counts_every_view(dataset):
    one, more = (manifest(dataset=dataset, views=views) for views in (0, K))
    # 16 patches, 2 prefix tokens of 8 in float16, a mean in float32, label and index.
    assert bytes_held(more) - bytes_held(one) == K * 23 * (18 * 8 * 2 + 8 * 4 + 16)


def test_int8_views_and_a_draw_of_rows(tmp_path, dataset):
    exact = extract(make_backbone(), dataset, tmp_path, **VIEWS)["train"]
    coded = extract(make_backbone(), dataset, tmp_path, **(VIEWS | {"tokens": "int8"}))["train"]
    step = exact.views.patches([5, 30]).abs().amax(-1, keepdim=True) / 127
    error = (coded.views.patches([5, 30]) - exact.views.patches([5, 30])).abs()
    assert (error < 0.51 * step).all()
    few = exact.take(np.array([20, 3])).take(np.array([1]))
    assert len(few.views) == K
    assert torch.equal(few.views.patches([0, 1]), exact.views.patches([3, 23 + 3]))


def test_what_is_held_within_a_budget(tmp_path, dataset):
    """Views come first: of all rows of all views as many as fit, then of the evaluation view."""
    store = extract(make_backbone(), dataset, tmp_path, **VIEWS)
    split, each = store["train"], store["train"].patch_bytes // len(store["train"])
    n = len(split)
    for images, (evaluation, views) in {
        (1 + K) * n: (n, K * n),
        (1 + K) * n - 1: (n - 1, K * n),
        K * n - 1: (0, K * n - 1),
        0: (0, 0),
    }.items():
        held, _, shuffle = cache_tokens(
            split, store["test"], {"patches"}, images * each + 1, "rows",
            batch_size=8, beside=0, evaluated=False,
        )  # fmt: skip
        assert (held.resident.sum(), held.views.resident.sum()) == (evaluation, views)
        assert held.bytes_held + held.views.bytes_held == images * each
        assert shuffle.by == "rows"
        assert torch.equal(held.patches([7]), split.patches([7]))
        assert torch.equal(held.views.patches([30]), split.views.patches([30]))
    assert not split.resident.any()
    assert not split.views.resident.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"views": -1}, "views=-1"),
        ({"views": 2, "augmentation": "papre"}, "papre.*paper"),
        ({"augmentation": "light"}, "--views 4"),
        ({"views": 2, "splits": ["test"]}, "views=2.*'train'"),
    ],
)
def test_what_makes_no_sense_is_reported(tmp_path, dataset, options, says):
    with pytest.raises(IceprobeError, match=says):
        extract(make_backbone(), dataset, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
