"""Image towers of open_clip against its own forward pass, from the files that users have."""

import json

import open_clip
import pytest
import torch
from open_clip.factory import _MODEL_CONFIGS
from safetensors.torch import load_file, save_file

from iceprobe.backbones import load_backbone
from iceprobe.core.errors import IceprobeError

from .builders import MEAN, STD, perturbed, picture, pixels, seen

SIDE = 32
TEXT = {"context_length": 4, "vocab_size": 20, "width": 8, "heads": 1, "layers": 1}
VIT = {"image_size": SIDE, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8}
TIMM = {"timm_model_pretrained": False, "image_size": 160, "timm_proj": "none"}
TOWERS = {
    "CLIP": VIT,
    "CLIP ResNet": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    # timm's own small test models, whose names its registry knows, as trunks
    "by class token": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "token"}
    | {"timm_proj": "linear"},
    "SigLIP": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "map"},
}


def config(name: str, **more) -> dict:
    return {"embed_dim": 12, "vision_cfg": TOWERS[name], "text_cfg": TEXT, **more}


@pytest.fixture
def folder(tmp_path):
    """Saves a tower as open_clip's own folders are; the model and its spec."""

    def write(name: str, **more):
        torch.manual_seed(0)
        _MODEL_CONFIGS["tiny"] = config(name, **more)
        model = perturbed(open_clip.create_model("tiny", pretrained_text=False))
        save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
        preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear"}
        content = {"model_cfg": config(name, **more), "preprocess_cfg": preprocess}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
        return model.visual, f"open_clip:local-dir:{tmp_path}"

    yield write
    _MODEL_CONFIGS.pop("tiny", None)


def test_vision_transformer_by_hand(folder):
    """Embedding, blocks, final norm on every token, projection of the class token."""
    tower, spec = folder("CLIP")
    backbone = load_backbone(spec)
    with torch.no_grad():
        hidden = tower._embeds(pixels(SIDE))
        for block in tower.transformer.resblocks:
            hidden = block(hidden)
        expected, projected = tower.ln_post(hidden), tower(pixels(SIDE))
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.prefix, expected[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.vectors["class_projected"], projected, atol=1e-5, rtol=1e-5)
    assert (backbone.grid, backbone.has_class, backbone.pooled_class) == ((4, 4), True, False)
    assert backbone.paradigm == "unknown"  # a folder may hold any weights
    assert load_backbone(spec, paradigm="vision-language").paradigm == "vision-language"
    raw = load_backbone(spec, norm=False)(pixels(SIDE))
    torch.testing.assert_close(raw.patches, hidden[:, 1:], atol=1e-5, rtol=1e-5)


def test_layers_are_those_of_open_clips_intermediates(folder):
    tower, spec = folder("CLIP")
    several = load_backbone(spec, layer="all")
    with torch.no_grad():
        output = tower.forward_intermediates(
            pixels(SIDE), normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
        )
    found = several.forward_layers(pixels(SIDE))
    expected = zip(output["image_intermediates"], output["image_intermediates_prefix"], strict=True)
    for tokens, (patches, prefix) in zip(found, expected, strict=True):
        torch.testing.assert_close(tokens.patches, patches, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.prefix, prefix, atol=1e-5, rtol=1e-5)
    assert [list(t.vectors) for t in found] == [[], [], ["class_projected"]]
    for part, layer in zip(several.per_layer(), (0, 1, -1), strict=True):
        assert part.identity() == load_backbone(spec, layer=layer).identity()


@pytest.mark.parametrize("name", ["by class token", "SigLIP"])
def test_trunks_of_timm(folder, name):
    tower, spec = folder(name)
    backbone = load_backbone(spec)
    images = pixels(160)
    with torch.no_grad():
        expected, output = tower.trunk.forward_features(images), tower(images)
    count = tower.trunk.num_prefix_tokens
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.prefix, expected[:, :count], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, count:], atol=1e-5, rtol=1e-5)
    vector = "pooled" if name == "SigLIP" else "class_projected"
    assert list(tokens.vectors) == [vector]
    torch.testing.assert_close(tokens.vectors[vector], output, atol=1e-5, rtol=1e-5)
    assert backbone.pooled_class == (name == "SigLIP")


def test_clips_resnet_is_read_at_its_last_map(folder):
    tower, spec = folder("CLIP ResNet")
    backbone = load_backbone(spec)
    with torch.no_grad():
        map_ = tower.stem(pixels(SIDE))
        for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            map_ = stage(map_)
        pooled = tower(pixels(SIDE))
    tokens = backbone(pixels(SIDE))
    expected = map_.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens.patches, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.vectors["pooled"], pooled, atol=1e-4, rtol=1e-4)
    assert (backbone.has_class, backbone.pooled_class) == (False, True)


def test_a_training_checkpoint_with_the_tag_it_was_trained_as(folder, tmp_path, monkeypatch):
    """Weights from the file; statistics and activation from the tag, which open_clip only warns of."""
    tower, _ = folder("CLIP", quick_gelu=True)
    weights = load_file(tmp_path / "open_clip_model.safetensors")
    path = tmp_path / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    _MODEL_CONFIGS["tiny"] = config("CLIP")  # GELU, as ViT-B-32 is beside ViT-B-32-quickgelu
    tag = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "quick_gelu": True}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag_name: tag)
    backbone = load_backbone(f"open_clip:tiny?pretrained=openai&checkpoint={path}")
    with torch.no_grad():
        expected = tower(pixels(SIDE))
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.vectors["class_projected"], expected, atol=1e-5, rtol=1e-5)
    assert backbone.name == "tiny.openai"
    plain = load_backbone(f"open_clip:tiny?checkpoint={path}")
    assert plain.identity()["activation"] != backbone.identity()["activation"]


def test_position_embeddings_are_resized_as_open_clip_does(folder, tmp_path):
    _, spec = folder("CLIP")
    path = tmp_path / "open_clip_model.safetensors"
    with pytest.raises(IceprobeError, match="no multiple of the patch size 8"):
        load_backbone(f"{spec}?image_size=50")
    larger = load_backbone(f"{spec}?image_size=48")
    assert larger.grid == (6, 6)
    by_file = load_backbone(f"open_clip:tiny?checkpoint={path}&image_size=48")
    own = open_clip.create_model("tiny", pretrained=str(path), force_image_size=48).eval().visual
    with torch.no_grad():
        expected = own(pixels(48))
    for backbone in (larger, by_file):
        found = backbone(pixels(48)).vectors["class_projected"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "open_clip:ViT-B-161?pretrained=openai",
            "architecture of open_clip.*Did you mean ViT-B-16",
        ),
        ("open_clip:ViT-B-16?pretrained=opnai", "Did you mean openai"),
        ("open_clip:ViT-B-16", "pretrained=TAG or checkpoint=FILE; tags of ViT-B-16: openai"),
        ("open_clip:local-dir:/nowhere", "can't be loaded.*nowhere"),
        ("open_clip:local-dir:/nowhere?pretrained=openai", "drop pretrained=openai"),
        ("open_clip:ViT-B-16?layr=1", "Did you mean layer"),
    ],
)
def test_wrong_specs_are_answered(spec, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_without_network_the_file_to_pass_is_said(folder, monkeypatch):
    folder("CLIP")

    def fail(*args, **options):
        raise ConnectionError("no route")

    tag = {"hf_hub": "timm/tiny.openai/"}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag_name: tag)
    monkeypatch.setattr(open_clip, "create_model", fail)
    wanted = (
        r"no route.*fetch timm/tiny\.openai .*open_clip:tiny\?pretrained=openai&checkpoint=FILE"
    )
    with pytest.raises(IceprobeError, match=wanted):
        load_backbone("open_clip:tiny?pretrained=openai")


def test_a_checkpoint_that_doesnt_fit_names_its_keys(folder, tmp_path):
    folder("CLIP")
    save_file({"visual.conv2.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(IceprobeError, match=r"weights are missing: .*no place: conv2"):
        load_backbone(f"open_clip:tiny?checkpoint={tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_its_own_crop_is_reported_and_can_be_taken(mode, folder, tmp_path):
    _, spec = folder("CLIP")
    path = tmp_path / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"] |= {"resize_mode": mode, "interpolation": "random", "size": SIDE}
    path.write_text(json.dumps(content))
    own = open_clip.transform.image_transform(
        SIDE, is_train=False, mean=MEAN, std=STD, resize_mode=mode, interpolation="random"
    )
    backbone = load_backbone(spec)
    if mode == "longest":
        assert "pads images, which iceprobe has no option for" in backbone.assumed[0]
        return
    assert len(backbone.assumed) == (mode == "squash")
    assert all("resize=squash&crop_pct=1 does so" in line for line in backbone.assumed)
    resize = "squash" if mode == "squash" else "shorter"
    taken = load_backbone(f"{spec}?resize={resize}&crop_pct=1")
    assert taken.assumed == ()
    assert torch.equal(seen(taken)[0], own(picture()))


def test_images_that_arent_square_are_refused(folder):
    _, spec = folder("CLIP", vision_cfg={**VIT, "image_size": [32, 64]})
    with pytest.raises(IceprobeError, match=r"images are 32 x 64 pixels .*python: in a module"):
        load_backbone(spec)


@pytest.mark.parametrize("prefix", ["visual.", "", "module.visual."])
def test_an_image_tower_alone_is_enough(folder, tmp_path, prefix):
    """As saved by a training script that drops the text tower, with ``visual.`` and without."""
    tower, _ = folder("CLIP")
    path = tmp_path / "tower.pt"
    torch.save({f"{prefix}{name}": tensor for name, tensor in tower.state_dict().items()}, path)
    backbone = load_backbone(f"open_clip:tiny?checkpoint={path}")
    with torch.no_grad():
        expected = tower(pixels(SIDE))
    found = backbone(pixels(SIDE)).vectors["class_projected"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert backbone.paradigm == "unknown"


def test_a_tower_of_timms_alone_and_a_resampled_table(folder, tmp_path):
    tower, _ = folder("by class token")
    path = tmp_path / "tower.pt"
    torch.save(tower.state_dict(), path)
    backbone = load_backbone(f"open_clip:tiny?checkpoint={path}")
    with torch.no_grad():
        expected = tower(pixels(160))
    found = backbone(pixels(160)).vectors["class_projected"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    tower, _ = folder("CLIP")
    torch.save(tower.state_dict(), path)
    larger = load_backbone(f"open_clip:tiny?checkpoint={path}&image_size=48")
    assert larger.assumed == (f"a position table of {path} is resampled (17x16 to 37x16)",)
    torch.save({**tower.state_dict(), "conv2.weight": torch.ones(1)}, path)
    for ignored in ("visual.conv2", "conv2"):
        load_backbone(f"open_clip:tiny?checkpoint={path}&ignore={ignored}")
    torch.save({**tower.state_dict(), "conv1.weight": torch.ones(16, 3, 4, 4)}, path)
    with pytest.raises(IceprobeError, match="16x3x4x4 in the file, 16x3x8x8 in the model"):
        load_backbone(f"open_clip:tiny?checkpoint={path}")
