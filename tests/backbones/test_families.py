"""Families as timm has them, tiny and with random weights, against timm's own outputs."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from timm.models.beit import Beit
from torch import nn

from iceprobe.backbones import BACKBONES, load_backbone, timm_models
from iceprobe.backbones.families import FAMILIES, PARADIGMS, family_of
from iceprobe.core.specs import parse_spec, typed_options

from .builders import perturbed, pixels, seen

SIDE = 32
TINY = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


@dataclass
class Case:
    """A name of timm, and what of ``forward_features`` its tokens are."""

    name: str
    paradigm: str
    prefix: int = 1
    norm: bool = True
    has_class: bool = True
    pooled: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


CASES = {
    "MAE": Case("vit_base_patch16_224.mae", "masked image modelling", norm=False),
    "BEiTv2": Case(
        "beitv2_base_patch16_224.in1k_ft_in22k",
        "masked image modelling",
        norm=False,
        fields={"global_pool": "token"},
    ),
    "DINO": Case("vit_small_patch16_224.dino", "joint embedding"),
    "DINOv2": Case("vit_small_patch14_dinov2.lvd142m", "hybrid"),
    "DINOv2 with registers": Case("vit_small_patch14_reg4_dinov2.lvd142m", "hybrid", prefix=5),
    "DINOv3": Case("vit_small_patch16_dinov3.lvd1689m", "hybrid", prefix=5),
    "CLIP": Case("vit_base_patch16_clip_224.openai", "vision-language"),
    "SigLIP": Case(
        "vit_base_patch16_siglip_224.webli",
        "vision-language",
        prefix=0,
        has_class=False,
        pooled=True,
    ),
    "SigLIP 2": Case(
        "vit_base_patch16_siglip_224.v2_webli",
        "vision-language",
        prefix=0,
        has_class=False,
        pooled=True,
    ),
    "PE": Case("vit_pe_core_base_patch16_224.fb", "vision-language", pooled=True),
    "EVA02": Case("eva02_base_patch14_224.mim_in22k", "masked image modelling"),
    "EVA-CLIP": Case("eva02_base_patch16_clip_224.merged2b", "vision-language"),
    "AIMv2": Case("aimv2_large_patch14_224.apple_pt", "generative", prefix=0, has_class=False),
    "I-JEPA": Case(
        "vit_huge_patch14_gap_224.in1k_ijepa", "joint embedding", prefix=0, has_class=False
    ),
}


def build(case: Case) -> nn.Module:
    torch.manual_seed(0)
    made = timm.create_model(case.name, num_classes=0, **TINY, **case.fields)
    return perturbed(made)


@pytest.mark.parametrize("name", list(CASES))
def test_tokens_are_timms_own(name):
    case = CASES[name]
    model = build(case)
    config = model.pretrained_cfg
    backbone = load_backbone(model)
    images = pixels(SIDE, config["mean"], config["std"], config["interpolation"])
    torch.testing.assert_close(seen(backbone), images, atol=1e-5, rtol=0)
    norm = model.norm
    if not case.norm:
        assert not isinstance(norm, nn.Identity)
        model.norm = nn.Identity()
    with torch.no_grad():
        expected = model.forward_features(images)
    model.norm = norm
    tokens = backbone(images)
    torch.testing.assert_close(tokens.prefix, expected[:, : case.prefix], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, case.prefix :], atol=1e-5, rtol=1e-5)
    assert (backbone.grid, backbone.has_class) == ((4, 4), case.has_class)
    assert backbone.pooled_class == case.pooled
    # The weights are random, whatever the name: the paradigm is that of its name's family alone.
    assert (backbone.paradigm, family_of(case.name).paradigm) == ("unknown", case.paradigm)
    if case.pooled:
        with torch.no_grad():
            pooled = model(images)
        torch.testing.assert_close(tokens.vectors["pooled"], pooled, atol=1e-5, rtol=1e-5)
    else:
        assert tokens.vectors == {}


@pytest.mark.parametrize("name", ["DINOv3", "SigLIP", "PE", "AIMv2"])
def test_every_layer_in_one_pass(name):
    model = build(CASES[name])
    several = load_backbone(model, layer="all")
    images = pixels(SIDE)
    found = several.forward_layers(images)
    assert several.layers == (0, 1, 2)
    for layer, (part, tokens) in enumerate(zip(several.per_layer(), found, strict=True)):
        alone = load_backbone(model, layer=layer - 3)
        expected = alone(images)
        assert torch.equal(tokens.patches, expected.patches)
        assert torch.equal(tokens.prefix, expected.prefix)
        assert tokens.vectors.keys() == expected.vectors.keys() == part.vectors.keys()
        assert part.identity() == alone.identity()


def test_hieras_tokens_lie_row_by_row():
    """Two unrolls, one query pooling: forward_features ends in the order of the mask units."""
    torch.manual_seed(0)
    shape = {"img_size": (64, 64), "embed_dim": 8, "num_heads": 1, "stages": (1, 1, 2)}
    shape |= {"q_pool": 1, "mask_unit_size": (4, 4), "mask_unit_attn": (True, True, False)}
    model = perturbed(timm.create_model("hiera_tiny_224.mae", num_classes=0, **shape))
    several = load_backbone(model, layer="all", image_size=64)
    images = pixels(64)
    found = several.forward_layers(images)
    with torch.no_grad():
        plain, stages = model.forward_features(images, return_intermediates=True)
    for tokens, expected in zip(found, stages, strict=True):
        torch.testing.assert_close(tokens.patches, expected.flatten(1, 2))
    assert not torch.allclose(found[-1].patches, plain, atol=1e-2)
    last = load_backbone(model, image_size=64)
    assert torch.equal(last(images).patches, found[-1].patches)
    assert (last.grid, last.has_class) == ((8, 8), False)
    changed = images.clone()
    changed[:, :, 20:28, 36:44] += 1  # well inside row 1, column 2 of 4 x 4 mask units
    moved = several.forward_layers(changed)[0].patches - found[0].patches
    rows, columns = (moved.abs().sum(2).reshape(16, 16) > 1e-6).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 8, 11)


STAGES = {
    "resnet10t": {"channels": (8, 8, 16, 16)},
    "convnext_atto": {"dims": (4, 8, 8, 16), "depths": (1, 1, 2, 1)},
    "test_efficientnet": {},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 4,
        "embed_dim": 8,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 2),
    },
}


@pytest.mark.parametrize("name", list(STAGES))
def test_stages_in_one_pass_equal_each_alone(name):
    """The last stage with what forward_features does after it (EfficientNet's head, Swin's norm)."""
    model = perturbed(timm.create_model(name, num_classes=0, **STAGES[name]))
    images = pixels(64)
    several = load_backbone(model, layer="all", image_size=64)
    with torch.no_grad():
        final = model.forward_features(images)
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    final = final.permute(0, 3, 1, 2) if name.startswith("swin") else final
    found = several.forward_layers(images)
    for layer, expected in enumerate([*maps[:-1], final]):
        cells = expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(found[layer].patches, cells)
        assert found[layer].grid == tuple(expected.shape[2:])
        alone = load_backbone(model, layer=layer, image_size=64)
        assert torch.equal(alone(images).patches, found[layer].patches)
    assert several.per_layer()[-1].dim == final.shape[1]


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_pretraining_checkpoints_of_beit_and_simmim(tmp_path, monkeypatch, mean_pooling):
    """One table of relative positions for all blocks, and the norm before pooling."""
    torch.manual_seed(0)
    shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    shape |= {"use_abs_pos_emb": False, "init_values": 0.1, "num_classes": 0}
    trained = perturbed(Beit(**shape, use_shared_rel_pos_bias=True, global_pool="token"))
    weights = {f"encoder.{name}": tensor for name, tensor in trained.state_dict().items()}
    weights["encoder.mask_token"] = weights["decoder.0.weight"] = torch.ones(1)
    torch.save({"model": weights}, tmp_path / "simmim.pth")
    pool = "avg" if mean_pooling else "token"
    read = Beit(**shape, use_rel_pos_bias=True, global_pool=pool)
    read.pretrained_cfg = timm.get_pretrained_cfg("beit_base_patch16_224").to_dict()
    monkeypatch.setattr(timm_models, "_random", lambda name: read)
    spec = f"timm:beit_base_patch16_224?checkpoint={tmp_path / 'simmim.pth'}"
    backbone = load_backbone(f"{spec}&checkpoint_key=model&strip=encoder.&norm=false")
    trained.norm = nn.Identity()
    with torch.no_grad():
        expected = trained.forward_features(pixels(SIDE))
    tokens = backbone(pixels(SIDE))
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.class_token, expected[:, 0], atol=1e-5, rtol=1e-5)


def test_every_family_is_whole_and_its_example_is_of_that_family():
    for family in FAMILIES:
        assert family.paradigm in PARADIGMS
        if not family.tokens:
            continue
        spec = parse_spec(family.example)
        typed_options(spec, BACKBONES[spec.kind].options)
        if spec.kind == "timm" and "checkpoint" not in spec.options:
            assert family_of(spec.name) is family
            assert timm.is_model_pretrained(spec.name)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("vit_mae", "MAE"),
        ("dinov2_with_registers", "DINOv2"),
        ("dinov3_vit", "DINOv3"),
        ("ijepa", "I-JEPA"),
        ("hiera", "Hiera"),
        ("aimv2_vision_model", "AIMv2"),
        ("siglip2_vision_model", "SigLIP 2"),
        ("metaclip_2", "MetaCLIP"),
        ("dino_vits16", "DINO"),
        ("dinov2_vits14_reg", "DINOv2"),
        ("franca_vitb14", "Franca"),
        ("beit3_base_patch16_224.pt", "unknown"),
        ("vit", "unknown"),
    ],
)
def test_names_of_other_libraries(name, family):
    assert family_of(name).name == family
    assert family_of("vit", name).name == family


def test_the_list_of_backbones_needs_no_torch_and_finds_a_word():
    script = (
        "import sys\n"
        "from iceprobe.cli import main\n"
        "try:\n"
        "    main(['ls', 'backbones', 'DINOv2'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "assert not {'torch', 'timm', 'transformers', 'open_clip'} & set(sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    text = shown.stdout.decode()
    for word in ("DINOv2", "hybrid", "registers", "Apache-2.0", "final norm", "transformers:"):
        assert word in text
    assert "CC-BY-NC" not in text
