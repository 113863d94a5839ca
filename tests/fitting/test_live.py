"""A live fit: the same as a cached one where nothing is augmented, and new images every epoch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import iceprobe
from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.backbones.base import Backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage
from iceprobe.fitting import phases
from iceprobe.fitting.feed import Feed
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.store import extract_in_memory, live
from iceprobe.store.format import Manifest
from iceprobe.tokens import Tokens
from tests.fitting.test_api import QUICK, Killed, content, kill_after, planted_dataset
from tests.store.conftest import GRID, PREPROCESSING, make_backbone, make_dataset

CPU = torch.device("cpu")
PROBES = ["knn", "linear", "linear?input=mean", "ep2", "simpool"]


@pytest.mark.parametrize("protocol", ["heldout", "paper"])
def test_without_augmentation_it_equals_a_cached_fit(protocol, tmp_path, monkeypatch):
    """Of linear probes where stored tokens are trained on as well, not solved for."""
    trained = replace(PROTOCOLS[protocol], solves_linear=False)
    cached = extract_in_memory(make_backbone(), planted_dataset(), batch_size=16, tokens="float32")
    made = live(make_backbone(), planted_dataset(), augmentation=None, batch_size=7)
    assert made.identity != cached.identity
    monkeypatch.setitem(PROTOCOLS, protocol, trained)
    there = iceprobe.fit(cached, PROBES, protocol=protocol, output=tmp_path / "a", **QUICK)
    monkeypatch.undo()
    here = iceprobe.fit(made, PROBES, protocol=protocol, output=tmp_path / "b", **QUICK)
    assert {one.training["optimizer"] for one in here[1:]} == {trained.optimizer}
    for one, other in zip(there, here, strict=True):
        assert one.selected == other.selected
        assert np.array_equal(one.predictions().predicted, other.predictions().predicted)
        for ours, theirs in zip(one.probes or [], other.probes or [], strict=True):
            for name, tensor in ours.state_dict().items():
                found = theirs.state_dict()[name]
                torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-5)
    assert {r.training_images for r in here[1:]} == {"live, evaluation view, without augmentation"}


def test_an_epochs_images_are_new_and_nobody_elses():
    backbone, dataset = make_backbone(), planted_dataset()
    split = live(backbone, dataset, augmentation="light", limit=60)["train"]
    rows = np.arange(3, 60, 5)
    feed = Feed(split, rows, {"patches", "class", "mean"}, CPU, torch.float32, views=split.views)
    augment = augmentation(backbone.preprocessing, "light")
    images = dataset.splits["train"]
    shown = []
    for epoch in range(3):
        views = feed._shown(4, epoch) // len(split) + 1
        seen = {}
        for batch in feed.shuffled(5, seed=4, epoch=epoch):
            for label, mean in zip(batch.labels, batch.inputs["mean"], strict=True):
                seen[mean.numpy().tobytes()] = int(label)
        for row, view in zip(rows, views, strict=True):
            place = split.index[row]
            picture = augment(images.image(place), view_generator(place, view))
            expected = backbone(picture[None])
            assert seen[expected.mean[0].numpy().tobytes()] == images.labels[place]
        shown.append(set(seen))
    assert not shown[0] & shown[1]
    assert not shown[1] & shown[2]
    plain = backbone(torch.stack([PREPROCESSING.transform(images.image(split.index[7]))]))
    torch.testing.assert_close(split.patches([7]), plain.patches)
    torch.testing.assert_close(split.mean[7:8], plain.mean)


def test_resumed_ends_as_never_stopped(tmp_path, monkeypatch):
    store = live(make_backbone(), planted_dataset(), limit=120)
    whole = iceprobe.fit(store, PROBES, output=tmp_path / "whole", **QUICK)
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(Killed):
        iceprobe.fit(store, PROBES, output=tmp_path / "killed", progress=kill_after(5), **QUICK)
    again = live(make_backbone(), planted_dataset(), limit=120)
    assert content(iceprobe.fit(again, PROBES, output=tmp_path / "killed", **QUICK)) == content(
        whole
    )


class Normed(nn.Module):
    """Statistics that a forward pass in training mode would change."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(1, 8, 4, 4), nn.BatchNorm2d(8)

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        patches = self.norm(self.embed(images)).flatten(2).transpose(1, 2)
        return Tokens(patches, patches[:, :1], GRID, has_class=True)


def test_the_backbone_is_as_before(tmp_path):
    reader = Normed()
    before = copy.deepcopy(reader.state_dict())
    backbone = Backbone(reader, PREPROCESSING, spec="test:normed", name="normed")
    iceprobe.fit(
        live(backbone, planted_dataset(), limit=90), ["ep2"], output=tmp_path / "r", **QUICK
    )
    for name, tensor in reader.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in reader.parameters())


def test_low_shot_draws_and_all_their_epochs(tmp_path):
    store = live(make_backbone(), planted_dataset())
    results = iceprobe.fit(
        store, ["ep2"], shots=4, output=tmp_path / "run", **(QUICK | {"seeds": 1})
    )
    assert results[0].shots == 4
    few = store["train"].take(np.array([20, 3]))
    assert torch.equal(few.patches([1]), store["train"].patches([3]))
    row = 5 * 2 + 1  # view 5 of the second of two
    assert torch.equal(
        few.views.patches([row]), store["train"].views.patches([5 * len(store["train"]) + 3])
    )


def test_what_cannot_be_made_is_said_with_the_images_name():
    store = live(make_backbone(), make_dataset(bad=(4,)), augmentation=None)
    with pytest.raises(BadImage, match=r"train/00004.png can't be read \(a live fit reads all"):
        store["train"].patches([3, 4])
    store = live(make_backbone(scale=1e39), make_dataset())
    with pytest.raises(IceprobeError, match=r"train/00003.png' are not finite"):
        store["train"].patches([3])
    with pytest.raises(IceprobeError, match=r"papre.*paper"):
        live(make_backbone(), make_dataset(), augmentation="papre")


def test_the_manifest_says_live_and_what_is_stored_does_not():
    manifest = live(make_backbone(), make_dataset(), augmentation="paper").manifest
    assert manifest.settings.training_images == "live, paper augmentation"
    assert Manifest.model_validate_json(manifest.model_dump_json()).settings.live
    stored = extract_in_memory(make_backbone(), make_dataset()).manifest
    assert "live" not in stored.settings.model_dump(exclude_none=True)
