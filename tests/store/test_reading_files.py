"""Files that need more than decoding, from disk to store, result and prediction."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.backbones.preprocessing import LARGEST_RESIZED, Preprocessing
from iceprobe.datasets import BadImage, load_dataset
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.files import FileSplit
from iceprobe.store import Store
from iceprobe.store.format import read_manifest
from iceprobe.store.noted import assumed
from tests.store.conftest import SIDE, SMALL, make_backbone

RNG = np.random.default_rng(0)


def save(folder, image: Image.Image, count: int = 4, ending: str = "png", **options) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image.save(folder / f"{number}.{ending}", **options)


def pixels(low: int, high: int, dtype=np.uint8) -> np.ndarray:
    return RNG.integers(low, high, (20, 20), dtype)


@pytest.fixture
def mixed(tmp_path):
    """Two classes: one ordinary, one whose files need every rule."""
    images = tmp_path / "images"
    plain, odd = images / "plain", images / "odd"
    plain.mkdir(parents=True)
    odd.mkdir()
    for number in range(4):  # one image in both splits would be reported as well
        Image.fromarray(pixels(0, 256)).save(plain / f"{number}.png")
    deep = pixels(0, 3000, np.uint16)
    deep[0, 0] = 3012
    Image.fromarray(deep).save(odd / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels(0, 256)).save(odd / "1.jpg", exif=exif)
    veil = np.stack([pixels(0, 256), pixels(0, 255)], -1)
    Image.fromarray(veil, "LA").save(odd / "2.png")
    first = Image.fromarray(pixels(0, 256))
    first.save(odd / "3.tif", save_all=True, append_images=[first, first])
    return images


LINES = [
    "1 of 8 images turned upright as the EXIF tag says (orientation=ignore leaves them as stored)",
    "1 of 8 images with transparent pixels, laid on white (alpha=black, or alpha=drop)",
    "1 of 8 images with several frames or pages, of which the first is read",
    "1 of 8 images of 16 bits, in which 65,535 is white; the largest value is 3,012 "
    "(scale=4095 if that is their depth)",
]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_done_is_counted_reported_and_kept(mixed, tmp_path, caplog, workers):
    caplog.set_level(logging.WARNING, "iceprobe")
    dataset = load_dataset(f"folder:{mixed}?test_fraction=0.5")
    store = iceprobe.extract(
        make_backbone(), dataset, tmp_path / "features", workers=workers, **SMALL
    )
    records = read_manifest(store.path).splits
    counts = {
        word: sum(
            shard.read[word] for r in records.values() for shard in r.shards if word in shard.read
        )
        for word in ("turned upright", "laid on white", "first frame of several", "16 bits to 8")
    }
    assert set(counts.values()) == {1}
    assert max(shard.largest or 0 for r in records.values() for shard in r.shards) == 3012
    assert assumed(store.manifest) == LINES
    assert [r.message for r in caplog.records if "assumed" in r.message] == [
        f"assumed: {line}" for line in LINES
    ]
    (knn, *_) = iceprobe.fit(store, ["knn"], output=tmp_path / "run")
    assert knn.assumed == LINES


def test_in_memory_as_on_disk(mixed, caplog):
    caplog.set_level(logging.WARNING, "iceprobe")
    dataset = load_dataset(f"folder:{mixed}?test_fraction=0.5")
    from iceprobe.store import extract_in_memory

    store = extract_in_memory(make_backbone(), dataset)
    assert assumed(store.manifest) == LINES
    assert f"assumed: {LINES[3]}" in caplog.messages


def test_a_live_fit_says_it_at_the_first_image_of_a_kind(mixed, caplog):
    caplog.set_level(logging.WARNING, "iceprobe")
    dataset = load_dataset(f"folder:{mixed}?test_fraction=0.5&alpha=white")
    store = iceprobe.live(make_backbone(), dataset, augmentation=None, batch_size=4)
    for split in store.splits:
        store[split].rows("mean", np.arange(len(store[split])))
    lines = {
        "images turned upright as the EXIF tag says (orientation=ignore leaves them as stored)",
        "images with several frames or pages, of which the first is read",
        "images of 16 bits, in which 65,535 is white (scale= says otherwise)",
    }
    assert set(assumed(store.manifest)) == lines
    assert sorted(m for m in caplog.messages if "assumed" in m) == sorted(
        f"assumed: {line}" for line in lines
    )


def test_what_was_said_is_not_assumed(mixed, tmp_path):
    spec = f"folder:{mixed}?test_fraction=0.5&scale=4095&alpha=white&orientation=upright"
    store = iceprobe.extract(make_backbone(), load_dataset(spec), tmp_path / "features", **SMALL)
    assert assumed(store.manifest) == LINES[2:3]
    said = {"scale": 4095.0, "alpha": "white", "orientation": "upright"}
    assert read_manifest(store.path).dataset.reading == said


def test_a_store_from_before_the_counts_opens_under_its_name(mixed, tmp_path):
    dataset = load_dataset(f"folder:{mixed}?test_fraction=0.5")
    store = iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **SMALL)
    as_before(store)
    assert Store.open(store.path).identity == store.identity
    assert assumed(Store.open(store.path).manifest) == []


def as_before(store: Store) -> None:
    """Make the manifest what it was before anything was noted."""
    file = store.path / "manifest.json"
    content = json.loads(file.read_text())
    del content["dataset"]["reading"], content["sha256"]
    for split in content["splits"].values():
        for shard in split["shards"]:
            del shard["read"], shard["largest"]
    file.write_text(json.dumps(content))


def test_of_a_store_from_before_only_shards_of_other_images_are_made_again(
    tmp_path, caplog, monkeypatch
):
    """Ordinary images keep their store and its shards; a veil of alpha was read without its alpha."""
    caplog.set_level(logging.WARNING, "iceprobe")
    images = tmp_path / "images"
    save(images / "train" / "a", Image.fromarray(pixels(0, 256)))
    save(images / "train" / "b", Image.fromarray(pixels(0, 256)), ending="jpg")
    save(images / "test" / "a", Image.fromarray(pixels(0, 256)))
    veil = np.stack([pixels(0, 256), pixels(0, 255)], -1)
    save(images / "test" / "b", Image.fromarray(veil, "LA"))

    def extracted():
        dataset = load_dataset(f"folder:{images}")
        return iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **SMALL)

    with monkeypatch.context() as before:
        before.setattr(
            "iceprobe.datasets.pixels._flat", lambda image, alpha, notes: image.convert("L")
        )
        old = extracted()
    wrong = old["test"].mean.clone()
    as_before(old)
    caplog.clear()
    new = extracted()
    assert new.path == old.path
    assert "images of 1 of its files are read by other rules now" in caplog.text
    assert "test-00000.safetensors" in caplog.text
    assert f"assumed: 4 of 16 images {LINES[1][len('1 of 8 images ') :]}" in caplog.messages
    fresh = iceprobe.extract(
        make_backbone(), load_dataset(f"folder:{images}"), tmp_path / "fresh", **SMALL
    )
    assert torch.equal(new["test"].mean, fresh["test"].mean)
    assert not torch.equal(new["test"].mean, wrong)
    caplog.clear()
    extracted()
    assert "other rules" not in caplog.text


def test_shapes_held_by_alpha_are_distinguished(tmp_path):
    """Black under alpha: read without it, all these images are the same."""
    for split in ("train", "test"):
        for name, rows in (("large", slice(0, 16)), ("small", slice(0, 5))):
            for number in range(6):
                alpha = RNG.integers(0, 60, (20, 20), np.uint8)
                alpha[rows] += 190
                image = Image.fromarray(np.stack([np.zeros_like(alpha), alpha], -1), "LA")
                folder = tmp_path / "images" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{number}.png")
    store = iceprobe.extract(
        make_backbone(), load_dataset(f"folder:{tmp_path}/images"), tmp_path / "features", **SMALL
    )
    (knn,) = iceprobe.fit(store, ["knn"], output=tmp_path / "run")
    assert knn.top1.mean == 1.0


class Boxed(FileSplit):
    """A box an image, and a mask that marks it, on the pixels as stored."""


def test_boxes_follow_an_image_that_is_turned(tmp_path):
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[2:5, 4:12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    split = Boxed("train", tmp_path, ["a.png"], [0], np.array([[4, 2, 12, 5]]))
    dataset = Dataset("test:turned", "turned", ["a"], {"train": split})
    store = iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **SMALL)
    rows, columns = np.nonzero(np.asarray(split.image(0)))
    assert store["train"].boxes.tolist() == [
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    ]
    assert columns.max() - columns.min() == 2  # upright now


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_a_strip_is_cropped_before_it_is_enlarged(size, interpolation, monkeypatch):
    preprocessing = Preprocessing(224, (0.0,), (1.0,), interpolation, channels=1)
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0]), np.uint8))
    asked = []
    resize = Image.Image.resize

    def watched(self, size, *arguments):
        asked.append(size[0] * size[1])
        return resize(self, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", watched)
    seen = np.asarray(preprocessing.crop(image))
    assert max(asked) == 224 * 224 < LARGEST_RESIZED
    # 256 rows show one pixel: the crop shows the very middle.
    middle = np.asarray(image).ravel()[14_998:15_002].astype(float)
    along = seen if size[1] > 1 else seen.T
    assert middle.min() - 40 <= along.min()
    assert along.max() <= middle.max() + 40
    assert np.ptp(along, 1).max() == 0


@pytest.mark.parametrize("size", [(40, 900), (900, 40), (77, 400)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_both_orders_give_the_same_pixels(size, interpolation, monkeypatch):
    preprocessing = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, interpolation)
    noise = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    if interpolation == "nearest":  # may take the neighbour where a centre falls on a border
        noise[:] = (np.add.outer(np.arange(size[1]), np.arange(size[0])) / 4)[..., None]
    image = Image.fromarray(noise)
    whole = np.asarray(preprocessing.crop(image)).astype(int)
    monkeypatch.setattr("iceprobe.backbones.preprocessing.LARGEST_RESIZED", 0)
    alone = np.asarray(preprocessing.crop(image)).astype(int)
    assert np.abs(whole - alone).max() <= 2  # of 255; each of two passes rounds


def test_what_can_not_be_made_ready_is_skipped_by_name(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "iceprobe")
    save(tmp_path / "images" / "a", Image.fromarray(pixels(0, 256)))
    save(tmp_path / "images" / "b", Image.fromarray(pixels(0, 256)))
    Image.new("L", (21, 20)).save(tmp_path / "images" / "a" / "huge.png")
    transform = Preprocessing.transform

    def short_of_memory(self, image):
        if image.width == 21:
            raise MemoryError
        return transform(self, image)

    monkeypatch.setattr(Preprocessing, "transform", short_of_memory)
    dataset = load_dataset(f"folder:{tmp_path}/images?test_fraction=0.4")
    with pytest.raises(BadImage, match=r"huge\.png.*21 x 20 pixels.*MemoryError"):
        iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **SMALL)
    store = iceprobe.extract(
        make_backbone(), dataset, tmp_path / "features", on_bad_image="skip", **SMALL
    )
    assert store.manifest.skipped == ["a/huge.png"]
    assert caplog.messages[-1] == "left out 1 image that could not be read: 'a/huge.png'"
    assert "skipped: image 'a/huge.png' can't be made ready" in caplog.text


def test_a_few_skipped_images_are_named_and_the_rest_counted(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "iceprobe")
    for name in "ab":
        save(tmp_path / "images" / name, Image.fromarray(pixels(0, 256)), count=8)
        for number in range(3, 7):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(b"nothing")
    dataset = load_dataset(f"folder:{tmp_path}/images?test_fraction=0.5")
    extract = dict(on_bad_image="skip", **SMALL)
    store = iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **extract)
    assert len(store.manifest.skipped) == 8
    (line,) = [m for m in caplog.messages if m.startswith("left out")]
    assert line == (
        "left out 8 images that could not be read: "
        + ", ".join(map(repr, store.manifest.skipped[:5]))
        + " and 3 more"
    )
    why = [m for m in caplog.messages if m.startswith("skipped: ")]
    assert len(why) == 5
    assert "--on-bad-image" not in "".join(why)
    caplog.clear()
    iceprobe.extract(make_backbone(), dataset, tmp_path / "features", **extract)  # it is there
    assert line in caplog.messages
