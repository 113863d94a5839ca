"""A checkpoint that doesn't fit is refused with both shapes; what is resampled is said."""

import argparse

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer

from iceprobe.backbones import load_backbone, timm_models
from iceprobe.core.errors import IceprobeError

SHAPE = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}


@pytest.fixture
def tiny(monkeypatch):
    """Every vision transformer of timm at a small size; what the file holds is of one."""
    create = timm.create_model

    def small(name, **options):
        return create(name, **{**SHAPE, **options})

    monkeypatch.setattr(timm_models.timm, "create_model", small)
    return small


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "c.pth")
        return str(tmp_path / "c.pth")

    return write


def smooth(model: VisionTransformer, rows: int, columns: int) -> None:
    """A table whose neighbours are alike, as a trained one's are."""
    at = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    waves = torch.randn(2, model.embed_dim, generator=torch.Generator().manual_seed(0)) * 0.4
    model.pos_embed.data[:, 1:] = (at.flatten(0, 1).float() @ waves).cos()


@pytest.mark.parametrize("other", ["vit_base_patch32_224", "vit_base_patch8_224"])
def test_a_patch_embedding_is_resampled_only_where_that_is_asked(tiny, save, other):
    trained = tiny("vit_base_patch16_224")
    smooth(trained, 14, 14)
    path = save(trained.state_dict())
    side = int(other.split("patch")[1].split("_")[0])
    with pytest.raises(IceprobeError) as caught:
        load_backbone(f"timm:{other}?checkpoint={path}")
    message = str(caught.value)
    assert f"48x3x16x16 in the file, 48x3x{side}x{side} in the model" in message
    asked = load_backbone(f"timm:{other}?checkpoint={path}&resample=patch_embed")
    kernel = resample_patch_embed(trained.patch_embed.proj.weight, [side, side])
    torch.testing.assert_close(asked.reader.model.patch_embed.proj.weight, kernel.detach())
    grid = 224 // side
    table = resample_abs_pos_embed(trained.pos_embed, new_size=[grid, grid])
    torch.testing.assert_close(asked.reader.model.pos_embed, table.detach())
    reported = " ".join(asked.assumed)
    assert f"48x3x16x16 to 48x3x{side}x{side}" in reported
    assert f"1x197x48 to 1x{grid * grid + 1}x48" in reported


def test_a_position_table_is_resampled_and_said(tiny, save, caplog):
    trained = tiny("vit_base_patch16_224")
    smooth(trained, 14, 14)
    path = save(trained.state_dict())
    assert not any(
        " positions in" in line
        for line in load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}").assumed
    )
    backbone = load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&image_size=96")
    table = resample_abs_pos_embed(trained.pos_embed, new_size=[6, 6])
    torch.testing.assert_close(backbone.reader.model.pos_embed, table.detach())
    line = f"a position table of {path} is resampled (1x197x48 to 1x37x48)"
    assert line in backbone.assumed
    assert f"assumed: {line}" in caplog.text


def test_a_table_of_16_by_4_is_not_one_of_8_by_8(tiny, save):
    trained = tiny("vit_base_patch16_224", img_size=(256, 64))
    smooth(trained, 16, 4)
    path = save(trained.state_dict())
    for side in (128, 224):
        with pytest.raises(IceprobeError, match=r"64 positions in pos_embed lie on 16x4 .*8x8"):
            load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&image_size={side}")
    smooth(trained, 8, 8)
    path = save(trained.state_dict())
    loaded = load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&image_size=128")
    assert not any(" positions in" in line for line in loaded.assumed)
    torch.nn.init.normal_(trained.pos_embed)  # nothing is seen in it
    path = save(trained.state_dict())
    loaded = load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&image_size=128")
    assert f"the 64 positions in pos_embed of {path} lie on 8x8" in loaded.assumed
    path = save({"model": trained.state_dict(), "args": argparse.Namespace(img_size=[256, 64])})
    with pytest.raises(IceprobeError, match="trained on images of 256x64"):
        load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&image_size=128")
    trained = tiny("vit_base_patch16_224", img_size=(192, 64))  # 48 positions: no square at all
    with pytest.raises(IceprobeError, match="1x49x48 in the file, 1x65x48 in the model"):
        load_backbone(
            f"timm:vit_base_patch16_224?checkpoint={save(trained.state_dict())}&image_size=128"
        )


def test_the_bundled_models_tables_show_their_grid():
    from iceprobe.backbones.conversions import _seen_grid

    for name in ("mae", "dino", "supervised"):
        table = load_backbone(f"bundled:{name}-tiny").reader.model.pos_embed
        assert _seen_grid(table[0, -196:].float()) in ((14, 14), None)


@pytest.mark.parametrize(
    ("trained", "read", "message"),
    [
        ({}, {"class_token": False, "global_pool": "avg"}, "1x197x48 in the file, 1x196x48"),
        ({"class_token": False, "global_pool": "avg"}, {}, "cls_token"),
        ({"reg_tokens": 4}, {}, "1x201x48 in the file, 1x197x48|reg_token"),
        ({}, {"reg_tokens": 4}, "reg_token"),
        ({"in_chans": 1}, {}, "48x1x16x16 in the file, 48x3x16x16 in the model"),
        ({"embed_dim": 96}, {}, "96x3x16x16 in the file, 48x3x16x16 in the model"),
    ],
)
def test_other_prefixes_channels_and_widths_are_refused(
    tiny, save, monkeypatch, trained, read, message
):
    path = save(tiny("vit_base_patch16_224", **trained).state_dict())
    monkeypatch.setattr(
        timm_models.timm, "create_model", lambda name, **more: tiny(name, **{**more, **read})
    )
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}")
    assert "\n" not in str(caught.value)


def test_relative_tables_are_resized_and_said(save):
    small = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1), num_heads=(1, 2), embed_dim=8, num_classes=0
    )
    from iceprobe.backbones.checkpoints import load_checkpoint
    from iceprobe.backbones.conversions import conversion

    path = save(small.state_dict())
    other = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=256,
        window_size=8,
        depths=(1, 1),
        num_heads=(1, 2),
        embed_dim=8,
        num_classes=0,
    )
    reported: list[str] = []
    load_checkpoint(other, path, convert=conversion(other, path, None, None, reported))
    assert reported
    assert all("169x" in line and "225x" in line for line in reported)


def test_one_channel_checkpoints_and_means_of_other_lengths(tiny, save):
    trained = tiny("vit_base_patch16_224", in_chans=1)
    path = save(trained.state_dict())
    backbone = load_backbone(f"timm:vit_base_patch16_224?checkpoint={path}&mean=0.5&std=0.25")
    assert backbone.preprocessing.channels == 1
    batch = torch.randn(1, 1, 224, 224)
    with torch.no_grad():
        expected = trained.eval().forward_features(batch)
    torch.testing.assert_close(backbone(batch).patches, expected[:, 1:])
    with pytest.raises(IceprobeError, match=r"read 3 channels, and mean=0\.5 is for 1"):
        load_backbone("timm:vit_base_patch16_224.mae?mean=0.5&std=0.25")
    thirteen = ",".join(["0.5"] * 13)
    with pytest.raises(IceprobeError, match="13 channels"):
        load_backbone(f"timm:test_vit?pretrained=false&mean={thirteen}&std={thirteen}")


@pytest.mark.parametrize("text", ["0", "-16", "1000000000", "16.5", "x"])
def test_sizes_that_cant_be_are_refused(text):
    with pytest.raises(IceprobeError, match="image_size="):
        load_backbone(f"timm:test_vit?pretrained=false&image_size={text}")
    with pytest.raises(IceprobeError, match="image_size="):
        load_backbone(torch.nn.Conv2d(3, 4, 4), image_size=text, mean=(0.5,) * 3, std=(1,) * 3)
    with pytest.raises(IceprobeError, match="finite numbers"):
        load_backbone("timm:test_vit?pretrained=false&mean=nan,0,0")
