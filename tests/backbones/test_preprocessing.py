"""The evaluation transform against torchvision's own, and boxes worked by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from iceprobe.backbones import Preprocessing
from iceprobe.core.errors import IceprobeError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("size", [(64, 64), (97, 64), (64, 97), (301, 40), (17, 23)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [224 / 256, 0.95, 1.0])
def test_equals_torchvisions_transforms(size, interpolation, crop_pct):
    ours = Preprocessing(32, MEAN, STD, interpolation, crop_pct)
    theirs = transforms.Compose(
        [
            transforms.Resize(int(32 / crop_pct), InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = noise(size)
    tensor = ours.transform(image)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, theirs(image))
    assert ours.crop(image).size == (32, 32)


def test_resize_is_the_specs_for_every_usual_size():
    for size in (56, 112, 224, 256, 336, 384, 448, 518):
        side, _ = Preprocessing(size, MEAN, STD).resized((1000, 2000))
        assert side == int(size * 256 / 224)


def test_values_worked_by_hand():
    image = Image.new("RGB", (8, 8), (255, 0, 51))
    tensor = Preprocessing(4, (0.5, 0.25, 0.2), (0.5, 0.5, 2.0)).transform(image)
    expected = torch.tensor([1.0, -0.5, 0.0])[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb_or_grey(mode):
    image = noise((10, 10), "RGB").convert(mode) if mode != "LA" else noise((10, 10), "LA")
    assert Preprocessing(8, MEAN, STD).transform(image).shape == (3, 8, 8)
    assert Preprocessing(8, (0.5,), (0.5,), channels=1).transform(image).shape == (1, 8, 8)


def test_boxes_worked_by_hand():
    # 200 x 100 -> 64 x 32 (scale 0.32), centre crop 28: 18 off the left, 2 off the top.
    preprocessing = Preprocessing(28, MEAN, STD, crop_pct=28 / 32)
    boxes = np.array([[100, 50, 125, 75], [0, 0, 200, 100], [0, 0, 10, 10]], np.float32)
    expected = [[14, 14, 22, 22], [0, 0, 28, 28], [0, 0, 0, 1.2]]
    moved = preprocessing.transform_boxes(boxes, (200, 100))
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(80, 60), (61, 90), (45, 45)])
def test_boxes_follow_the_pixels(size):
    """A white rectangle's pixels on the crop lie where its box was moved to."""
    preprocessing = Preprocessing(40, (0.0,) * 3, (1.0,) * 3)
    box = np.array([[20, 15, 40, 35]], np.float32)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[15:35, 20:40] = 255
    seen = preprocessing.transform(Image.fromarray(pixels))[0] > 0.5
    rows, columns = np.nonzero(seen.numpy())
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(preprocessing.transform_boxes(box, size)[0], found, atol=1.0)


@pytest.mark.parametrize("size", [(97, 64), (64, 97), (301, 40)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 224 / 256])
def test_squash_is_timms(size, crop_pct):
    ours = Preprocessing(32, MEAN, STD, "bicubic", crop_pct, resize="squash")
    theirs = create_transform(
        32, interpolation="bicubic", mean=MEAN, std=STD, crop_pct=crop_pct, crop_mode="squash"
    )
    assert torch.equal(ours.transform(noise(size)), theirs(noise(size)))


def test_squash_moves_boxes_with_the_pixels():
    # 200 x 100 -> 32 x 32 (0.16 across, 0.32 down), centre crop 28: 2 off each side.
    squash = Preprocessing(28, MEAN, STD, crop_pct=28 / 32, resize="squash")
    boxes = squash.transform_boxes(np.array([[100, 50, 125, 75], [0, 0, 200, 100]]), (200, 100))
    np.testing.assert_allclose(boxes, [[14, 14, 18, 22], [0, 0, 28, 28]], atol=1e-5)


def test_statistics_are_of_the_channels_as_they_are_seen():
    image = Image.new("RGB", (4, 4), (255, 0, 51))
    turned = Preprocessing(4, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), order="BGR")
    values = turned.transform(image)
    torch.testing.assert_close(values[:, 0, 0], torch.tensor([0.1, -0.1, 0.175]))
    batch = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    assert torch.equal(turned.normalised_pixels(batch)[0], values)
    assert batch.dtype == torch.uint8  # left as it was


def test_survives_json():
    for changed in ({}, {"resize": "squash"}, {"order": "BGR"}):
        preprocessing = Preprocessing(224, MEAN, STD, "bilinear", 0.9, **changed)
        fields = json.loads(json.dumps(preprocessing.as_dict()))
        assert Preprocessing.from_dict(fields) == preprocessing
        # What was written before there were these two is what is written now.
        older = {"image_size", "mean", "std", "interpolation", "crop_pct", "channels"}
        assert set(fields) == older | set(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"mean": (0.5,)}, "1 values for 3"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
        ({"crop_pct": 1.2}, "crop_pct=1.2"),
        ({"interpolation": "cubic"}, "interpolation='cubic'"),
        ({"mean": (0.5, float("nan"), 0.5)}, "finite"),
        ({"std": (0.5, float("inf"), 0.5)}, "finite"),
        ({"resize": "longest"}, "resize='longest': take one of shorter, squash"),
        ({"order": "GBR"}, "order='GBR'"),
        ({"channels": 4}, "a model of 4 channels.*RGB"),
        ({"channels": 13, "mean": (0.5,) * 13, "std": (1.0,) * 13}, "model of 13 channels.*wrap"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(IceprobeError, match=message):
        Preprocessing(**{"image_size": 8, "mean": MEAN, "std": STD, **change})
