"""``layer=``: one, several or all; from one pass, as loading each alone gives."""

import pytest
import torch
from torch import nn

from iceprobe.backbones import load_backbone
from iceprobe.backbones.layers import parse_layers, resolve_layers
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens

BUNDLED = "bundled:mae-tiny"
EXAMPLE = "python:tests.backbones.factories:vit"  # two blocks


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0,)), ("3", (3,)), ("-1", (3,)), ("0,2,-1", (0, 2, 3)), ("-1,0", (3, 0))],
)
def test_spellings(text, expected):
    assert resolve_layers(parse_layers(text), 4, "net") == expected


def test_all_are_all_in_order():
    assert resolve_layers(parse_layers("all"), 3, "net") == (0, 1, 2)


def test_layer_0_is_the_first_and_not_the_default():
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, last, default = (
        load_backbone(f"{EXAMPLE}{tail}") for tail in ("?layer=0", "?layer=-1", "")
    )
    assert (first.layers, last.layers, default.layers) == ((0,), (1,), (1,))
    assert not torch.allclose(first(images).patches, last(images).patches)
    assert torch.equal(default(images).patches, last(images).patches)
    assert first.identity() != last.identity() == default.identity()
    assert load_backbone(f"{EXAMPLE}?layer=1").identity() == last.identity()
    assert load_backbone(f"{EXAMPLE}?layer=-2").identity() == first.identity()


def test_several_layers_in_one_pass(monkeypatch):
    several = load_backbone(f"{EXAMPLE}?layer=-1,0")
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = several.reader.model
    passes = []
    model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    found = several.forward_layers(images)
    assert len(passes) == 1
    parts = several.per_layer()
    assert several.layers == (1, 0)
    assert [part.spec for part in parts] == [f"{EXAMPLE}?layer=1", f"{EXAMPLE}?layer=0"]
    for part, tokens in zip(parts, found, strict=True):
        alone = load_backbone(part.spec)
        assert torch.equal(part(images).patches, tokens.patches)
        assert torch.equal(alone(images).patches, tokens.patches)
        assert torch.equal(alone(images).prefix, tokens.prefix)
        assert part.identity() == alone.identity()
        assert part.reader.model is model
        assert (part.dim, part.grid, part.num_prefix, part.has_class) == (24, (4, 4), 1, True)
        assert (part.layers, part.per_layer()) == (alone.layers, [part])
        assert not part.training
    assert several.macs() == parts[0].macs() > parts[1].macs()


@pytest.mark.parametrize(
    "use",
    [
        lambda b: b(torch.zeros(1, 1, 56, 56)),
        lambda b: b.identity(),
        lambda b: b.dim,
        lambda b: b.grid,
        lambda b: b.num_prefix,
    ],
)
def test_what_is_of_one_layer_is_refused_of_several(use):
    several = load_backbone(BUNDLED, layer="all")
    with pytest.raises(IceprobeError, match=r"reads \d+ layers.*per_layer\(\)") as caught:
        use(several)
    assert "\n" not in str(caught.value)


def test_the_default_of_a_module_without_layers():
    class Plain(nn.Module):
        def forward(self, images):
            return images

    backbone = load_backbone(Plain(), image_size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.rand(2, 3, 4, 4)
    assert backbone.layers == (0,)
    assert backbone.per_layer() == [backbone]
    assert torch.equal(backbone.forward_layers(images)[0].patches, backbone(images).patches)
    assert "layer" not in backbone.identity()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (f"{EXAMPLE}?layer=2", r"layer=2 .*out of range \(0 to 1\)"),
        (f"{EXAMPLE}?layer=0,-3", r"layer=-3 .*out of range \(0 to 1\)"),
        (f"{EXAMPLE}?layer=0,1,-1", "layer=0,1,-1 .*names layer 1 twice"),
        (f"{EXAMPLE}?layer=last", "layer='last'.*0,5,-1 or all"),
        (f"{EXAMPLE}?layer=0,", r"layer='0,'.*0,5,-1 or all"),
        (f"{EXAMPLE}?layer=", "0,5,-1 or all"),
    ],
)
def test_wrong_layers_are_answered(spec, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_no_layer_at_all_is_refused():
    with pytest.raises(IceprobeError, match="names no layer"):
        resolve_layers((), 3, "net")
    with pytest.raises(IceprobeError, match=r"layer=1\.5"):
        resolve_layers((1.5,), 3, "net")


def test_vectors_are_of_the_batch():
    patches = torch.zeros(2, 4, 3)
    named = Tokens(patches, patches[:, :0], vectors={"pooled": torch.zeros(2, 7)})
    assert named.vectors["pooled"].shape == (2, 7)
    assert Tokens(patches, patches[:, :0]).vectors == {}
    for wrong in (torch.zeros(3, 7), torch.zeros(2, 1, 7)):
        with pytest.raises(ValueError, match="'pooled'"):
            Tokens(patches, patches[:, :0], vectors={"pooled": wrong})
