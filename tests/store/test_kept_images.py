"""Decoded images kept between extractions: the same tokens, bit by bit, and fewer reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import iceprobe
from iceprobe.backbones import Preprocessing
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract_in_memory
from iceprobe.store.kept_images import KeptImages

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Patches(nn.Module):
    """The pixels themselves as tokens."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return nn.functional.pixel_unshuffle(images, 4) * self.scale


class Counting(ArraySplit):
    reads = 0

    def image(self, index):
        Counting.reads += 1
        return super().image(index)


def dataset(seed: int = 0) -> Dataset:
    def split(name: str, n: int) -> Counting:
        images = np.random.default_rng(seed).integers(0, 256, (n, 30, 40, 3), np.uint8)
        return Counting(name, images, np.arange(n) % 2, [f"{name}/{i}" for i in range(n)])

    return Dataset(
        "test:counting", "counting", ["a", "b"], {s: split(s, 70) for s in ("train", "test")}
    )


def tokens(preprocessing, data, kept=None):
    """Of both splits, and how many images were read."""
    backbone = iceprobe.load_backbone(Patches(preprocessing))
    backbone.preprocessing = preprocessing
    before = Counting.reads
    store = extract_in_memory(backbone, data, kept, tokens="float32")
    return [store[name].tensor("patches") for name in store.splits], Counting.reads - before


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("side", [16, 224])
def test_what_is_kept_gives_the_same_tokens(order, side):
    how, data = Preprocessing(side, MEAN, STD, order=order), dataset()
    expected, _ = tokens(how, data)
    kept = KeptImages(10**9)
    first, read = tokens(how, data, kept)
    second, again = tokens(how, data, kept)
    assert (read, again, kept.read_anew) == (140, 0, 0)
    for one, other, third in zip(expected, first, second, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    assert kept.nbytes == 140 * (3 * side**2 + 8)  # 8 bits a channel, and the row


class Halves(Preprocessing):
    """Numbers between those that 8 bits hold."""

    def transform(self, image):
        return super().transform(image) + 0.5 / 255 / self.std[0]


def test_inputs_that_no_8_bits_give_back_are_kept_as_they_are():
    how, data = Halves(16, MEAN, STD), dataset()
    kept = KeptImages(10**9)
    expected, _ = tokens(how, data, kept)
    found, read = tokens(how, data, kept)
    assert read == 0
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert kept.nbytes == 140 * (4 * 3 * 16**2 + 8)


def test_what_has_no_room_is_read_anew_and_said_once(caplog):
    how, data = Preprocessing(16, MEAN, STD), dataset()
    expected, _ = tokens(how, data)
    kept = KeptImages(100 * (3 * 16**2 + 8))
    for reads in (140, 64, 64):  # batches of 64 and 6 fit, then one of 6
        found, read = tokens(how, data, kept)
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
        assert read == reads
    assert len([one for one in caplog.records if "read anew" in one.message]) == 1
    nothing = KeptImages(0)
    assert [tokens(how, data, nothing)[1] for _ in range(2)] == [140, 140]


def test_other_data_and_another_preprocessing_are_read():
    kept, how = KeptImages(10**9), Preprocessing(16, MEAN, STD)
    tokens(how, dataset(), kept)
    for other, data in ((how, dataset(1)), (replace(how, image_size=8), dataset(1))):
        expected, _ = tokens(other, data)
        found, read = tokens(other, data, kept)
        assert read == 140
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
