"""Entries of a torch.hub repository: read at their blocks, and only where they are trusted."""

import urllib.error
from pathlib import Path

import pytest
import torch

from iceprobe.backbones import load_backbone
from iceprobe.core.errors import IceprobeError

from .builders import MEAN, STD, pixels, seen

SIDE = 32
HUB = f"torch_hub:{Path(__file__).parent / 'hub'}"
STATED = {"image_size": SIDE, "mean": MEAN, "std": STD, "interpolation": "bilinear"}


def load(entry: str, **options):
    return load_backbone(f"{HUB}?entry={entry}&trust=true", **STATED, **options)


@pytest.mark.parametrize(
    ("entry", "prefix", "norm", "paradigm"),
    [
        ("dino_tiny", 1, True, "joint embedding"),
        ("dinov2_tiny_reg", 3, True, "hybrid"),
        ("ibot_tiny", 1, False, "hybrid"),
    ],
)
def test_plain_vits_are_read_at_their_blocks(entry, prefix, norm, paradigm):
    backbone = load(entry)
    model = backbone.reader.model
    with torch.no_grad():
        hidden = model.sequence(pixels(SIDE))
        for block in model.blocks:
            hidden = block(hidden)
        expected = model.norm(hidden) if norm else hidden
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.prefix, expected[:, :prefix], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, prefix:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.class_token, expected[:, 0], atol=1e-5, rtol=1e-5)
    assert (backbone.grid, backbone.paradigm) == ((4, 4), paradigm)
    assert backbone.identity() == load(entry).identity()


def test_layers_in_one_pass():
    several = load("dinov2_tiny_reg", layer=(-1, 0), norm=False)
    model = several.reader.model
    with torch.no_grad():
        first = model.blocks[0](model.sequence(pixels(SIDE)))
    last, found = several.forward_layers(pixels(SIDE))
    torch.testing.assert_close(found.patches, first[:, 3:], atol=1e-5, rtol=1e-5)
    alone = load("dinov2_tiny_reg", layer=2, norm=False)
    assert torch.equal(last.patches, alone(pixels(SIDE)).patches)
    assert several.per_layer()[0].identity() == alone.identity()


def test_resnets_are_read_at_their_stages():
    backbone = load("mocov3_resnet", layer="all")
    model = backbone.reader.model
    with torch.no_grad():
        found = model.maxpool(model.relu(model.bn1(model.conv1(pixels(SIDE)))))
        for number, tokens in enumerate(backbone.forward_layers(pixels(SIDE)), start=1):
            found = model.get_submodule(f"layer{number}")(found)
            assert tokens.grid == tuple(found.shape[2:])
            expected = found.flatten(2).transpose(1, 2)
            torch.testing.assert_close(tokens.patches, expected, atol=1e-5, rtol=1e-5)


def test_models_of_timm_and_described_outputs():
    backbone = load_backbone(f"{HUB}?entry=timm_tiny&trust=true")  # says its statistics itself
    images = pixels(160)
    with torch.no_grad():
        expected = backbone.reader.model.forward_features(images)
    torch.testing.assert_close(backbone(images).patches, expected[:, 1:])
    described = load("sequence", num_prefix=1)
    table = described.reader.model.table
    assert torch.equal(described(torch.zeros(1, 3, SIDE, SIDE)).patches, table[:, 1:])


def test_weights_and_pretrained_go_to_the_entry():
    assert load("dinov2_tiny_reg", weights="LVD142M").reader.model.given_weights == "LVD142M"
    assert load("dino_tiny", pretrained=False).paradigm == "random weights"


def test_a_raw_checkpoint(tmp_path):
    model = load("dino_tiny").reader.model
    weights = {f"module.{name}": tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"teacher": weights}, tmp_path / "c.pth")
    backbone = load("dino_tiny", checkpoint=str(tmp_path / "c.pth"), strip="module.")
    assert torch.equal(backbone.reader.model.pos_embed, model.pos_embed + 1)
    with pytest.raises(IceprobeError, match=r"weights are missing: .*try strip=module\."):
        load("dino_tiny", checkpoint=str(tmp_path / "c.pth"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (f"{HUB}?entry=dino_tiny", "own code would run on this machine.*trust=true"),
        (f"{HUB}?entry=dino_tiny&trust=false", "trust=true"),
        (f"{HUB}?trust=true", "entry=NAME"),
        (f"{HUB}?entry=dino_tny&trust=true", "'dino_tny' can't be loaded.*torch.hub.list"),
        (f"{HUB}?entry=broken&trust=true", "RuntimeError: its weights are elsewhere"),
        (f"{HUB}?entry=nothing&trust=true", "returned a NoneType"),
        (f"torch_hub:{Path(__file__).parent}?entry=a&trust=true", "has no hubconf.py"),
        ("torch_hub:nowhere?entry=a&trust=true", "no folder 'nowhere', and no OWNER/REPO"),
        (f"{HUB}?entry=dino_tiny&trust=true", "pass image_size, mean, std"),
        (f"{HUB}?entry=sequence&trust=true&layer=1", "no blocks that iceprobe knows"),
    ],
)
def test_wrong_specs_are_answered(spec, message):
    given = {} if "pass image_size" in message else STATED
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(spec, **given)
    assert "\n" not in str(caught.value)


def test_without_network_the_folder_to_pass_is_said(monkeypatch):
    def fail(*args, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "load", fail)
    with pytest.raises(IceprobeError, match=r"no route.*pass torch_hub:DIR\?entry=dino_vits16"):
        load_backbone("torch_hub:facebookresearch/dino?entry=dino_vits16&trust=true", **STATED)
