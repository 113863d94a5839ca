"""A backbone's own attention, against the formula from its weights and against timm's own."""

import pytest
import torch
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import iceprobe
from iceprobe.backbones import load_backbone
from iceprobe.core.errors import IceprobeError
from tests.backbones.builders import MEAN, STD, perturbed

SHAPE = dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0)
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def wrapped(model, **options):
    return load_backbone(perturbed(model).double(), image_size=16, mean=MEAN, std=STD, **options)


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("extra", [{}, {"qk_norm": True, "reg_tokens": 2}])
def test_maps_are_the_softmax_of_the_class_tokens_query_with_all_keys(layer, extra):
    model = VisionTransformer(**SHAPE, **extra)
    found = wrapped(model, layer=layer).attention(IMAGES)
    block, inputs = model.blocks[layer], []
    hook = block.attn.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(IMAGES)
    hook.remove()
    (x,) = inputs
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    prefix = 1 + extra.get("reg_tokens", 0)
    assert found.shape == (3, 2, 16)
    for h in range(2):
        rows = slice(12 * h, 12 * (h + 1))
        queries = x @ weight[:24][rows].T
        keys = x @ weight[24:48][rows].T
        if bias is not None:
            queries, keys = queries + bias[:24][rows], keys + bias[24:48][rows]
        queries, keys = block.attn.q_norm(queries), block.attn.k_norm(keys)
        for i in range(3):
            products = torch.exp(keys[i] @ queries[i, 0] / 12**0.5)
            expected = products / products.sum()
            torch.testing.assert_close(found[i, h], expected[prefix:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Eva(**SHAPE, use_rot_pos_emb=True, use_abs_pos_emb=False, qkv_fused=False),
        lambda: Beit(**SHAPE, use_rel_pos_bias=True, use_abs_pos_emb=False),
    ],
    ids=["rotary", "relative bias"],
)
def test_maps_are_what_timm_itself_computes_without_its_fused_product(model):
    model = model()
    found = wrapped(model).attention(IMAGES)
    attention, caught = model.blocks[-1].attn, []
    attention.fused_attn = False
    hook = attention.attn_drop.register_forward_hook(lambda *call: caught.append(call[-1]))
    with torch.no_grad():
        model(IMAGES)
    hook.remove()
    torch.testing.assert_close(found, caught[0][:, :, 0, 1:], rtol=1e-6, atol=1e-8)
    again = load_backbone(model, image_size=16, mean=MEAN, std=STD).attention(IMAGES)
    assert torch.equal(again, found)  # also where the fused product is off
    assert attention.fused_attn is False  # and left so


def test_the_bundled_backbone_has_maps_and_tokens_are_what_they_were():
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    size = backbone.preprocessing.image_size
    images = torch.randn(2, backbone.preprocessing.channels, size, size)
    before = backbone(images).patches
    maps = backbone.attention(images)
    assert maps.shape == (2, len(maps[0]), backbone.num_tokens)
    assert ((maps > 0) & (maps < 1)).all()
    assert (maps.sum(-1) < 1).all()
    assert torch.equal(backbone(images).patches, before)
    assert not backbone.reader.model.blocks[-1]._forward_hooks


@pytest.mark.parametrize(
    ("model", "options", "reported"),
    [
        (
            lambda: VisionTransformer(**SHAPE, class_token=False, global_pool="avg"),
            {},
            "has no class token",
        ),
        (
            lambda: SwinTransformer(
                img_size=16, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2),
                window_size=4, num_classes=0,
            ),
            {},
            "has no class token",
        ),
        (lambda: ConvNeXt(depths=(1,) * 4, dims=(8,) * 4, num_classes=0), {}, "has no class token"),
        (lambda: VisionTransformer(**SHAPE), {"layer": (0, 1)}, "reads 2 layers"),
    ],
)  # fmt: skip
def test_what_has_no_such_attention_says_so(model, options, reported):
    size = 32 if "ConvNeXt" in repr(type(model())) else 16
    backbone = load_backbone(model(), image_size=size, mean=MEAN, std=STD, **options)
    with pytest.raises(IceprobeError, match=reported) as error:
        backbone.attention(torch.randn(1, 3, size, size))
    assert "\n" not in str(error.value)


def test_a_module_with_tokens_of_its_own_says_so():
    backbone = load_backbone("python:tests.cli.tiny:build?image_size=16&mean=0,0,0&std=1,1,1")
    with pytest.raises(IceprobeError, match="only that of timm's vision transformers"):
        backbone.attention(torch.randn(1, 3, 16, 16))
