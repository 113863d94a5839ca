"""Files in the layout of each publication's training script, loaded by the very examples.

Entries and names are those that the published scripts save (iBOT's ``main_ibot.py``, MoCo v3's
``main_moco.py`` and ``builder.py``, SimMIM's ``utils.py``, SlowFast's MaskFeat, MAE's ``main_pretrain.py``,
DINO's ``main_dino.py``, I-JEPA's ``train.py``), around random weights of a small width.
"""

import argparse
from collections import OrderedDict

import pytest
import timm
import torch
from timm.models.beit import Beit
from torch import nn

from iceprobe.backbones import load_backbone, timm_models
from iceprobe.backbones.families import FAMILIES, family_of, family_of_file
from iceprobe.core.errors import IceprobeError

from .builders import perturbed

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture
def small(monkeypatch):
    """timm's models at a small width, of whatever name."""
    create = timm.create_model

    def made(name, **options):
        return create(name, **{**SMALL, **options})

    monkeypatch.setattr(timm_models.timm, "create_model", made)
    return made


def vit(small, **options) -> nn.Module:
    return perturbed(small("vit_base_patch16_224", **options))


def named(weights, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def beside(model) -> dict:
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    return {"optimizer": optimizer, "epoch": 3, "args": argparse.Namespace(arch="vit_base")}


def ibot(small):
    """MultiCropWrapper: backbone and head; the student behind DDP, with its masked embedding."""
    model = vit(small)
    teacher = named(model.state_dict(), "backbone.") | {
        "head.mlp.0.weight": torch.ones(2, 48),
        "head.last_layer.weight_g": torch.ones(2, 1),
        "head.last_layer.weight_v": torch.ones(2, 48),
    }
    student = named({k: v + 1 for k, v in teacher.items()}, "module.")
    student["module.backbone.masked_embed"] = torch.zeros(1, 48)
    loss = {"center": torch.zeros(1, 2), "center2": torch.zeros(1, 1, 2)}
    return model, {"student": student, "teacher": teacher, **beside(model), "ibot_loss": loss}


def moco(small, **options):
    """DDP around base encoder, momentum encoder and predictor; projection heads inside."""
    model = vit(small, **options)
    head = {"head.0.weight": torch.ones(4, 48), "head.1.num_batches_tracked": torch.tensor(5)}
    weights = named(model.state_dict() | head, "module.base_encoder.")
    momentum = {k: v - 1 for k, v in model.state_dict().items()}
    weights |= named(momentum | head, "module.momentum_encoder.")
    weights |= {"module.predictor.0.weight": torch.ones(4, 4)}
    return model, {
        "epoch": 300,
        "arch": "vit_base",
        "state_dict": weights,
        "scaler": {"scale": 1.0},
    }


def simmim(small):
    """SimMIM: an encoder of BEiT's kind with one shared table, a decoder, a configuration."""
    model = perturbed(
        Beit(
            embed_dim=48,
            depth=2,
            num_heads=3,
            use_abs_pos_emb=False,
            use_shared_rel_pos_bias=True,
            init_values=0.1,
            num_classes=0,
            global_pool="token",
        )
    )
    weights = named(model.state_dict(), "encoder.")
    weights["encoder.rel_pos_bias.relative_position_index"] = torch.zeros(197, 197)
    weights["encoder.mask_token"] = torch.zeros(1, 1, 48)
    weights |= {"decoder.0.weight": torch.ones(768, 48, 1, 1), "decoder.0.bias": torch.ones(768)}
    return model, {"model": weights, "lr_scheduler": {}, "max_accuracy": 0.0, **beside(model)}


def maskfeat(small):
    """SlowFast: no final norm; the prediction head and the filters of HOG as buffers."""
    model = vit(small)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("norm.")}
    weights |= {
        "mask_token": torch.zeros(1, 1, 48),
        "pred_head.projections.0.weight": torch.ones(108, 48),
        "hogs.0.weight_x": torch.ones(3, 1, 3, 3),
        "hogs.0.weight_y": torch.ones(3, 1, 3, 3),
    }
    return model, {"epoch": 299, "model_state": weights, "optimizer_state": {}, "cfg": "TASK: ssl"}


def mae(small):
    model = vit(small)
    weights = OrderedDict(model.state_dict())
    weights["mask_token"] = torch.zeros(1, 1, 16)
    weights["decoder_pos_embed"] = torch.zeros(1, 197, 16)
    weights["decoder_embed.weight"] = torch.zeros(16, 48)
    weights["decoder_blocks.0.norm1.weight"] = torch.ones(16)
    return model, {"model": weights, "scaler": {"scale": 1.0}, **beside(model)}


def dino(small):
    model, content = ibot(small)
    return model, {k: v for k, v in content.items() if k != "ibot_loss"} | {
        "dino_loss": {"center": torch.zeros(1, 2)}
    }


EXAMPLES = {"iBOT": ibot, "MoCo v3": moco, "SimMIM": simmim, "MaskFeat": maskfeat}


def blocks(model: nn.Module, images: torch.Tensor, norm: bool = False) -> torch.Tensor:
    """The last block's tokens, by the model's own forward pass."""
    kept = model.norm
    if not norm:
        model.norm = nn.Identity()
    with torch.no_grad():
        found = model.forward_features(images)
    model.norm = kept
    return found


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_the_example_of_a_family_reads_its_training_file(small, tmp_path, name):
    model, content = EXAMPLES[name](small)
    family = BY_NAME[name]
    example = family.example
    file = example.split("checkpoint=")[1].split("&")[0]
    torch.save(content, tmp_path / file)
    backbone = load_backbone(example.replace(file, str(tmp_path / file)))
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = blocks(model, images)
    tokens = backbone(images)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.class_token, expected[:, 0], atol=1e-5, rtol=1e-5)
    preprocessing = backbone.preprocessing
    assert (preprocessing.mean, preprocessing.std) == IMAGENET
    assert (backbone.paradigm, backbone.identity()["norm"]) == (family.paradigm, False)
    bare = family_of(example.partition(":")[2].partition("?")[0])
    assert bare is family


@pytest.mark.parametrize(
    ("name", "make", "arch"),
    [
        ("iBOT", ibot, "vit_base_patch16_224"),
        ("MoCo v3", moco, "vit_base_patch16_224"),
        ("SimMIM", simmim, "beit_base_patch16_224"),
        ("MaskFeat", maskfeat, "vit_base_patch16_224"),
        ("MAE", mae, "vit_base_patch16_224"),
        ("DINO", dino, "vit_base_patch16_224"),
    ],
)
def test_the_file_itself_shows_its_family(small, tmp_path, name, make, arch):
    """Under a bare name, with nothing else said: entry, prefix, norm and statistics, and reported."""
    model, content = make(small)
    path = tmp_path / "c.pth"
    torch.save(content, path)
    backbone = load_backbone(f"timm:{arch}?checkpoint={path}")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    family = BY_NAME[name]
    expected = blocks(model, images, family.norm)
    torch.testing.assert_close(backbone(images).patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert (backbone.preprocessing.mean, backbone.preprocessing.std) == IMAGENET
    assert backbone.paradigm == family.paradigm
    read = "with" if family.norm else "without"
    assert f"{path} is one of {name}, by the names in it, {read} the final norm" in " ".join(
        backbone.assumed
    )


def test_moco_v3s_small_model_has_twelve_heads(small, tmp_path):
    """Weights of 6 and of 12 heads have the same shapes: timm's small model would take them."""
    model, content = moco(small, num_heads=12)
    path = tmp_path / "c.pth"
    torch.save(content, path)
    backbone = load_backbone(f"timm:vit_small_patch16_224.mocov3?checkpoint={path}")
    images = torch.randn(1, 3, 224, 224)
    expected = blocks(model, images)
    torch.testing.assert_close(backbone(images).patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert "num_heads=12, as MoCo v3 trained vit_small_patch16_224.mocov3" in backbone.assumed[0]
    assert backbone.identity()["num_heads"] == 12


def test_a_published_row_that_timm_has_no_weights_of(small, tmp_path):
    _, content = mae(small)
    torch.save(content, tmp_path / "c.pth")
    name = "timm:vit_small_patch16_224.mae"
    backbone = load_backbone(f"{name}?checkpoint={tmp_path / 'c.pth'}")
    assert backbone.paradigm == "masked image modelling"
    assert not any("one of" in line for line in backbone.assumed)
    assert backbone.preprocessing.mean == IMAGENET[0]
    with pytest.raises(
        IceprobeError, match=r"no weights of .*\.mae to download: .*checkpoint=FILE"
    ):
        load_backbone(name)
    with pytest.raises(IceprobeError, match="no weights 'maee'"):
        load_backbone(f"timm:vit_small_patch16_224.maee?checkpoint={tmp_path / 'c.pth'}")


def test_a_name_that_the_file_contradicts_is_said(small, tmp_path):
    _, content = ibot(small)
    torch.save(content, tmp_path / "c.pth")
    spec = f"timm:vit_base_patch16_224.mae?checkpoint={tmp_path / 'c.pth'}&checkpoint_key=teacher"
    backbone = load_backbone(f"{spec}&strip=backbone.")
    assert "is read as one of MAE, as the name" in backbone.assumed[0]
    assert "looks like one of iBOT" in backbone.assumed[0]


def test_a_bare_name_without_family_says_whose_statistics_are_used(small, tmp_path):
    torch.save(vit(small).state_dict(), tmp_path / "c.pth")
    spec = f"timm:vit_base_patch16_224?checkpoint={tmp_path / 'c.pth'}"
    backbone = load_backbone(spec)
    assert "mean=0.5,0.5,0.5 and std=0.5,0.5,0.5, as timm has it" in " ".join(backbone.assumed)
    assert backbone.paradigm == "unknown"
    loaded = load_backbone(f"{spec}&mean=0.4,0.4,0.4&std=0.2,0.2,0.2&paradigm=generative")
    assert not any("normalised" in line for line in loaded.assumed)
    assert loaded.paradigm == "generative"


def test_files_of_no_script_show_no_family():
    assert family_of_file(["model", "model.blocks.0.norm1.weight"]).name == "unknown"
    assert family_of_file([]).name == "unknown"


def test_the_rows_of_dino_and_ijepa_say_how_the_published_ones_were_read():
    for name in ("DINO", "I-JEPA"):
        assert (BY_NAME[name].norm, BY_NAME[name].published_norm) == (True, False)


def test_radio_as_it_was_trained(small, tmp_path):
    """``base_model.`` with a patch generator: linear patches, one table of 128 x 128, class tokens."""
    name = "vit_base_patch16_radio_v3"
    model = perturbed(small(f"{name}.c_radio"))
    own = model.state_dict()
    table = torch.zeros(1, 128 * 128, 48)
    weights = {k: v for k, v in own.items() if k.startswith("blocks.")}
    weights |= {
        "patch_generator.embedder.weight": own["patch_embed.proj.weight"].flatten(1),
        "patch_generator.pos_embed": table,
        "patch_generator.cls_token.token": torch.cat([own["cls_token"], own["reg_token"]], 1)[0],
    }
    model.patch_embed.proj.bias.data.zero_()
    model.pos_embed.data.zero_()
    content = named(weights, "base_model.") | {
        "input_conditioner.norm_mean": torch.ones(3, 1, 1),
        "_heads.0.0.weight": torch.ones(4, 48),
    }
    path = tmp_path / "c-radio.pth.tar"
    torch.save({"state_dict": content, "args": argparse.Namespace(model="vit_base")}, path)
    backbone = load_backbone(f"timm:{name}?checkpoint={path}")
    side = backbone.preprocessing.image_size
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.forward_features(images)
    torch.testing.assert_close(
        backbone(images).patches, expected[:, model.num_prefix_tokens :], atol=1e-5, rtol=1e-5
    )
    assert any("is resampled (1x16384x48 to" in line for line in backbone.assumed)
    with pytest.raises(IceprobeError, match="weights of RADIO: name the model of timm"):
        load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}")


def test_capi_is_answered_with_the_guides_factory(small, tmp_path):
    weights = {"encoder.blocks.0.residual1.fn.q_proj.weight": torch.ones(4, 4)}
    torch.save(weights, tmp_path / "capi.pth")
    with pytest.raises(IceprobeError, match=r"weights of CAPI.*python:my_models:capi"):
        load_backbone(f"timm:vit_base_patch16_224?checkpoint={tmp_path / 'capi.pth'}")
