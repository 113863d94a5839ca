"""Tokens of timm's models against timm's own outputs."""

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from iceprobe import backbones
from iceprobe.backbones import load_backbone, timm_models
from iceprobe.backbones.families import family_of
from iceprobe.core.errors import IceprobeError

from .builders import picture

VITS = {
    "class token": {},
    "class token and registers": {"reg_tokens": 3},
    "registers without class token": {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
    "patches alone": {"class_token": False, "global_pool": "avg"},
}
PREFIX = {"class token": 1, "class token and registers": 4, "registers without class token": 2}
STATED = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def tiny_vit(**options) -> VisionTransformer:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2}
    model = VisionTransformer(**shape, num_classes=0, fc_norm=False, **options).double()
    for parameter in model.parameters():  # norms and biases away from their 1s and 0s
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(params=list(VITS))
def vit(request):
    return request.param, tiny_vit(**VITS[request.param])


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_last_layer_with_norm_is_forward_features(vit):
    kind, model = vit
    backbone = load_backbone(model, **STATED)
    tokens = backbone(images())
    expected = model.forward_features(images())
    count = PREFIX.get(kind, 0)
    assert torch.equal(tokens.prefix, expected[:, :count])
    assert torch.equal(tokens.patches, expected[:, count:])
    assert tokens.grid == backbone.grid == (4, 4)
    assert tokens.has_class == backbone.has_class == kind.startswith("class token")
    assert (backbone.dim, backbone.num_tokens, backbone.num_prefix) == (24, 16, count)


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("norm", [True, False])
def test_layers_are_the_blocks_outputs(vit, layer, norm):
    """Layer by layer by hand: embedding, blocks one after another, the norm on top or not."""
    kind, model = vit
    tokens = load_backbone(model, layer=layer, norm=norm, **STATED)(images())
    hidden = model.norm_pre(model._pos_embed(model.patch_embed(images())))
    for block in list(model.blocks)[: layer % 3 + 1]:
        hidden = block(hidden)
    hidden = model.norm(hidden) if norm else hidden
    count = PREFIX.get(kind, 0)
    torch.testing.assert_close(tokens.patches, hidden[:, count:], rtol=0, atol=1e-12)
    torch.testing.assert_close(tokens.prefix, hidden[:, :count], rtol=0, atol=1e-12)


def test_patches_stand_row_by_row_over_the_grid():
    """A change in one image patch changes that patch's token before any other is mixed in."""
    model = tiny_vit(class_token=False, global_pool="avg")
    first = images()
    second = first.clone()
    second[:, :, 4:8, 12:16] += 1  # row 1, column 3 of 4 x 4
    embedded = model.patch_embed(second) - model.patch_embed(first)
    moved = embedded.abs().sum((0, 2)).nonzero().flatten()
    assert moved.tolist() == [1 * 4 + 3]


def test_a_layer_that_isnt_there_is_named():
    with pytest.raises(IceprobeError, match=r"layer=7 .*out of range \(0 to 2\)"):
        load_backbone(tiny_vit(), layer=7, **STATED)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "test_efficientnet"])
def test_cnns_cells_are_the_patch_tokens(name):
    backbone = load_backbone(f"timm:{name}?pretrained=false&image_size=64")
    batch = torch.randn(2, 3, 64, 64)
    expected = timm_models._random(name).eval().forward_features(batch)
    tokens = backbone(batch)
    height, width = expected.shape[2:]
    assert tokens.grid == (height, width)
    assert tokens.prefix.shape[1] == 0
    for row in range(height):
        for column in range(width):
            assert torch.equal(tokens.patches[:, row * width + column], expected[:, :, row, column])


def test_maps_with_channels_last_are_read_as_such():
    backbone = load_backbone("timm:swin_tiny_patch4_window7_224?pretrained=false")
    batch = torch.randn(1, 3, 224, 224)
    expected = timm_models._random("swin_tiny_patch4_window7_224").eval().forward_features(batch)
    tokens = backbone(batch)
    assert tokens.grid == (7, 7)
    torch.testing.assert_close(tokens.patches, expected.detach().reshape(1, 49, -1))


def test_spec_string_reads_configuration_and_options():
    name = "test_vit"  # timm's own tiny ViT, 160 pixels
    config = timm.get_pretrained_cfg(name)
    backbone = load_backbone(f"timm:{name}?pretrained=false")
    preprocessing = backbone.preprocessing
    assert preprocessing.image_size == config.input_size[-1] == 160
    assert (preprocessing.mean, preprocessing.std) == (config.mean, config.std)
    assert preprocessing.interpolation == config.interpolation
    assert preprocessing.crop_pct == 224 / 256
    assert backbone.grid == (10, 10)

    changed = load_backbone(
        f"timm:{name}?pretrained=false&crop_pct=0.9", image_size=64, mean=(0.1, 0.2, 0.3)
    )
    assert changed.spec == (
        f"timm:{name}?crop_pct=0.9&image_size=64&mean=0.1,0.2,0.3&pretrained=false"
    )
    assert changed.preprocessing.image_size == 64
    assert changed.preprocessing.mean == (0.1, 0.2, 0.3)
    assert changed.grid == (4, 4)
    assert changed.preprocessing.crop_pct == 0.9


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_backbone("timm:test_vit?pretrained=false")
    assert torch.equal(torch.rand(3), expected)
    assert first.paradigm == "random weights"
    assert first.identity() == load_backbone("timm:test_vit", pretrained=False).identity()


@pytest.mark.parametrize(
    ("name", "norm", "paradigm"),
    [
        ("vit_base_patch16_224.mae", False, "masked image modelling"),
        ("beitv2_base_patch16_224.in1k_ft_in22k", False, "masked image modelling"),
        ("vit_small_patch16_224.mocov3", False, "joint embedding"),
        ("vit_base_patch16_224.ibot_in22k", False, "hybrid"),
        ("vit_base_patch16_224.dino", True, "joint embedding"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", True, "hybrid"),
        ("vit_small_patch16_dinov3.lvd1689m", True, "hybrid"),
        ("hiera_tiny_224.mae", True, "masked image modelling"),
        ("convnextv2_atto.fcmae", True, "masked image modelling"),
        ("vit_base_patch16_clip_224.openai", True, "vision-language"),
        ("eva02_base_patch16_clip_224.merged2b", True, "vision-language"),
        ("vit_base_patch16_siglip_224.webli", True, "vision-language"),
        ("vit_base_patch16_224.augreg_in21k", True, "supervised"),
        ("aimv2_large_patch14_224.apple_pt", True, "generative"),
        ("vit_huge_patch14_gap_224.in1k_ijepa", True, "joint embedding"),
        ("somebodys_net", True, "unknown"),
    ],
)
def test_family_says_norm_and_paradigm(name, norm, paradigm):
    family = family_of(name)
    assert (family.norm, family.paradigm) == (norm, paradigm)


def test_of_timms_plain_vits_only_those_tagged_mae_are_read_without_norm():
    without = [n for n in timm.list_pretrained() if not family_of(n).norm]
    assert {n for n in without if n.startswith("vit_")} == {
        n for n in timm.list_pretrained("vit_*") if n.endswith(".mae")
    }
    assert all(n.startswith(("vit_", "beitv2_")) for n in without)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_tinny_patch16_224", "did you mean vit_tiny_patch16_224"),
        ("timm:vit_base_patch16_224.maee", "no weights 'maee'.*mae"),
        ("timm:test_vit?pretrained=false&image_size=70", "patch size 16 .*take 64 or 80"),
        ("timm:test_vit?pretrained=no", "pretrained='no'.*true or false"),
        ("timm:test_vit?layr=1", "unknown option .*Did you mean layer"),
        ("tim:test_vit", "Did you mean timm"),
        ("test_vit", "names no source"),
        ("bundled:mae-tony", "Did you mean mae-tiny"),
        ("timm:crossvit_tiny_240?pretrained=false", "several maps or sets of tokens"),
    ],
)
def test_wrong_specs_are_answered(spec, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_options_given_twice_are_refused():
    with pytest.raises(IceprobeError, match=r"'layer' .* given twice"):
        load_backbone("timm:test_vit?layer=1", layer=2)


def test_without_network_the_file_to_pass_is_said(monkeypatch):
    monkeypatch.setattr(timm_models, "hub_has_address", lambda: False)
    monkeypatch.setattr(timm_models, "_is_cached", lambda repository: False)
    with pytest.raises(IceprobeError) as caught:
        load_backbone("timm:vit_base_patch16_224.mae")
    message = str(caught.value)
    assert "timm/vit_base_patch16_224.mae" in message
    assert "model.safetensors" in message
    assert "timm:vit_base_patch16_224.mae?checkpoint=FILE" in message


def test_a_failed_download_says_the_same(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(timm_models, "hub_has_address", lambda: True)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(IceprobeError, match=r"ConnectionError.*\?checkpoint=FILE"):
        load_backbone("timm:vit_base_patch16_224.mae")


def test_the_package_lists_sources_with_examples_that_parse():
    from iceprobe.core.specs import parse_spec, typed_options

    for name in backbones.BACKBONES:
        entry = backbones.BACKBONES[name]
        for example in entry.examples:
            spec = parse_spec(example)
            assert spec.kind == name
            typed_options(spec, entry.options)


@pytest.mark.parametrize(("mode", "said"), [("squash", True), ("border", True), ("center", False)])
def test_a_tags_own_crop_is_reported_and_can_be_taken(mode, said):
    model = timm.create_model("test_vit", pretrained_cfg_overlay={"crop_mode": mode})
    backbone = load_backbone(model)
    assert len(backbone.assumed) == said
    if mode == "squash":
        assert "its tag squashes images: resize=squash&crop_pct=0.95 does so" in backbone.assumed[0]
        own = create_transform(**resolve_model_data_config(model), is_training=False)
        taken = load_backbone(model, resize="squash", crop_pct=0.95)
        assert taken.assumed == ()
        assert torch.equal(taken.preprocessing.transform(picture()), own(picture()))
    if mode == "border":
        assert "pads images, which iceprobe has no option for" in backbone.assumed[0]


def test_images_that_arent_square_or_of_three_channels():
    wide = timm.create_model("test_vit", img_size=(64, 96))
    with pytest.raises(IceprobeError, match=r"images are 64 x 96 pixels .*pass image_size="):
        load_backbone(wide)
    cnn = timm.create_model("resnet10t", pretrained_cfg_overlay={"input_size": (3, 64, 96)})
    with pytest.raises(IceprobeError, match=r"64 x 96 pixels .*pass image_size="):
        load_backbone(cnn)
    assert load_backbone(cnn, image_size=64).grid == (2, 2)
    grey = timm.create_model("test_vit", in_chans=1)
    with pytest.raises(IceprobeError, match=r"1 channel\(s\), mean=.* is of 3: pass mean and std"):
        load_backbone(grey)
    backbone = load_backbone(grey, mean=(0.4,), std=(0.3,))
    expected = (torch.tensor(51 / 255) - 0.4) / 0.3
    view = backbone.preprocessing.transform(Image.new("RGB", (200, 200), (51, 51, 51)))
    torch.testing.assert_close(view, expected.expand_as(view))


def test_a_model_of_one_size_alone_says_so():
    with pytest.raises(IceprobeError, match=r"botnet26t_256 only takes images of 256 x 256: drop"):
        load_backbone("timm:botnet26t_256?pretrained=false&image_size=224")
