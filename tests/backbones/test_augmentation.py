"""Random views are torchvision's, drawn from a generator of one's own."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.errors import IceprobeError

PREPROCESSING = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), interpolation="bilinear")
SCALES = {"paper": (0.08, 1.0), "light": (0.5, 1.0)}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("strength", SCALES)
@pytest.mark.parametrize("size", [(40, 30), (20, 33), (200, 6), (5, 90), (1, 1)])
def test_views_are_torchvisions(strength, size):
    """Its own transforms on the process's generator, with the same state."""
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                16, SCALES[strength], interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
        ]
    )
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
