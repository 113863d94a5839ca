"""Random views are torchvision's, drawn from a generator of one's own."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from iceprobe.backbones.augmentation import (
    augmentation,
    clamped_crop,
    redrawn_crop,
    view_generator,
)
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from tests.reference.augmentation import MaskedAutoencodersCrop

PREPROCESSING = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), interpolation="bilinear")
FLIP = transforms.RandomHorizontalFlip(0.5)
REDRAWN = {"light": ((0.5, 1.0), [FLIP]), "clip": ((0.9, 1.0), [])}
TENSOR = [transforms.ToTensor(), transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
BICUBIC = transforms.InterpolationMode.BICUBIC


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("strength", REDRAWN)
@pytest.mark.parametrize("size", [(40, 30), (20, 33), (200, 6), (5, 90), (1, 1)])
def test_views_are_torchvisions(strength, size):
    """Its own transforms on the process's generator, with the same state."""
    scale, flip = REDRAWN[strength]
    crop = transforms.RandomResizedCrop(16, scale, interpolation=BICUBIC)
    same_views(transforms.Compose([crop, *flip, *TENSOR]), strength, size)


@pytest.mark.parametrize("size", [(40, 30), (20, 33), (200, 6), (5, 90), (1, 1)])
def test_papers_views_are_masked_autoencoders(size):
    crop = MaskedAutoencodersCrop(16, (0.08, 1.0), interpolation=BICUBIC)
    same_views(transforms.Compose([crop, FLIP, *TENSOR]), "paper", size)


def test_crops_have_the_area_of_their_definition():
    """On 500 x 375, by quadrature of min(√(s·H·W·r), W) min(√(s·H·W/r), H) over s and log r."""
    wide, high = 500, 375
    s = np.linspace(0.08, 1, 2001)[:, None]
    r = np.exp(np.linspace(math.log(3 / 4), math.log(4 / 3), 2001))
    w, h = np.sqrt(s * wide * high * r), np.sqrt(s * wide * high / r)
    area = (np.minimum(w, wide) * np.minimum(h, high) / (wide * high)).mean()
    touching = ((w >= wide) | (h >= high)).mean()
    assert (round(area, 2), round(touching, 2)) == (0.52, 0.26)
    generator = torch.Generator().manual_seed(0)
    for crop, mean, share in [(clamped_crop, area, touching), (redrawn_crop, 0.43, 0.006)]:
        found = [crop((wide, high), (0.08, 1.0), generator)[2:] for _ in range(4000)]
        areas = [a * b / (wide * high) for a, b in found]
        assert np.mean(areas) == pytest.approx(mean, abs=0.015)
        full = np.mean([a == high or b == wide for a, b in found])
        assert full == pytest.approx(share, abs=4 * (share / 4000) ** 0.5)


def same_views(theirs, strength, size):
    ours, image = augmentation(PREPROCESSING, strength), picture(*size)
    for seed in range(20):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = theirs(image)
        view = ours(image, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(view, expected)


def test_a_generator_decides_and_the_processs_own_is_left_alone():
    before = torch.random.get_rng_state()
    ours, image = augmentation(PREPROCESSING), picture(40, 30)
    views = [ours(image, view_generator(7, view)) for view in (1, 2, 1)]
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], ours(image, view_generator(8, 1)))
    assert torch.equal(torch.random.get_rng_state(), before)
    elsewhere = pickle.loads(pickle.dumps(ours))  # noqa: S301
    assert torch.equal(elsewhere(image, view_generator(7, 1)), views[0])


def test_grey_images_and_unknown_strengths():
    grey = augmentation(Preprocessing(8, (0.5,), (0.5,), channels=1), "light")
    assert grey(picture(20, 20), view_generator(0, 1)).shape == (1, 8, 8)
    with pytest.raises(IceprobeError, match=r"lihgt.*light"):
        augmentation(PREPROCESSING, "lihgt")
