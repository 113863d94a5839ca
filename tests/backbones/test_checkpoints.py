"""Raw training checkpoints: what is found in them, and what doesn't fit is named."""

import argparse
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from iceprobe.backbones import load_backbone
from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.errors import IceprobeError


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {name: torch.randn_like(t) for name, t in network().state_dict().items()}


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "c.pth")
        return str(tmp_path / "c.pth")

    return write


def loaded(path, **options):
    module = network()
    load_checkpoint(module, path, **options)
    return module.state_dict()


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_state_dict_at_the_top_in_both_formats(weights, save, tmp_path):
    assert equal(loaded(save(weights)), weights)
    save_file(weights, tmp_path / "c.safetensors")
    assert equal(loaded(str(tmp_path / "c.safetensors")), weights)


def test_training_checkpoint_with_optimizer_and_namespace(weights, save):
    optimizer = torch.optim.AdamW(network().parameters()).state_dict()
    args = argparse.Namespace(lr=0.1, model="vit")
    path = save({"model": weights, "optimizer": optimizer, "epoch": 3, "args": args})
    assert equal(loaded(path), weights)
    assert equal(loaded(path, key="model"), weights)


def test_key_and_strip_choose_the_teacher(weights, save):
    teacher = {f"module.backbone.{name}": tensor for name, tensor in weights.items()}
    teacher["module.head.weight"] = torch.ones(1)
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    path = save({"ema": {"teacher": teacher}, "student": student})
    options = {"key": "ema.teacher", "strip": "module.backbone.", "ignore": ["module.head"]}
    assert equal(loaded(path, **options), weights)


def test_heads_and_decoders_are_left_out_but_nothing_else(weights, save):
    extra = {"decoder_embed.weight": torch.ones(1), "mask_token": torch.ones(1)}
    assert equal(loaded(save({**weights, **extra, "head.bias": torch.ones(1)})), weights)
    with pytest.raises(IceprobeError, match=r"1 have no place: 2\.gamma; add ignore=2 "):
        loaded(save({**weights, "2.gamma": torch.ones(1)}))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (lambda w: {"teacher": w, "student": w}, {}, "under teacher and student: choose with"),
        (lambda w: {"teacher": w}, {"key": "techer"}, "no checkpoint_key=techer.*teacher"),
        (lambda w: {"epoch": 1, "model": w}, {"key": "epoch"}, "epoch .*holds no weights"),
        (lambda w: {"epoch": 1}, {}, "holds no weights at its top. There are: epoch"),
        (lambda w: [1], {}, "There is a list"),
        (lambda w: w, {"strip": "module."}, r"no weight .*begins so; they are 0\.weight"),
        (lambda w: {"0.weight": w["0.weight"]}, {}, r"3 weights are missing: 0\.bias, 1\.weight"),
        (
            lambda w: {f"module.{k}": v for k, v in w.items()},
            {},
            r"4 weights are missing.*no place.*try strip=module\.",
        ),
        (
            lambda w: {**w, "1.bias": torch.ones(7)},
            {},
            r"1\.bias \(7 in the file, 2 in the model\).*name the architecture",
        ),
    ],
)
def test_what_doesnt_fit_is_named(weights, save, content, options, message):
    path = save(content(weights))
    with pytest.raises(IceprobeError, match=message) as caught:
        loaded(path, **options)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(IceprobeError, match="can't be read as data"):
        loaded(str(path))
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(IceprobeError, match="can't be read as data"):
        loaded(str(path))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_file_is_named(weights, save, tmp_path, name):
    whole = Path(save(weights)).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IceprobeError, match="can't be read"):
        loaded(str(tmp_path / name))
    with pytest.raises(IceprobeError, match="no checkpoint"):
        loaded(str(tmp_path / "nowhere.pth"))


def test_timm_backbone_with_a_raw_checkpoint(save):
    model = timm.create_model("test_vit", num_classes=7)
    path = save({"teacher": {f"module.{k}": v for k, v in model.state_dict().items()}})
    backbone = load_backbone(
        f"timm:test_vit?checkpoint={path}", checkpoint_key="teacher", strip="module."
    )
    assert backbone.paradigm == "unknown"
    batch = torch.randn(1, 3, 160, 160)
    tokens = backbone(batch)
    with torch.no_grad():
        expected = model.eval().forward_features(batch)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=0, atol=0)


def test_timm_resizes_position_embeddings_of_its_family(save):
    """A checkpoint trained at 160 pixels, read at 96, as timm itself would resize it."""
    model = timm.create_model("test_vit", num_classes=0)
    path = save(model.state_dict())
    backbone = load_backbone(f"timm:test_vit?checkpoint={path}&image_size=96")
    model.set_input_size(img_size=(96, 96))
    batch = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = model.eval().forward_features(batch)
    torch.testing.assert_close(backbone(batch).patches, expected[:, 1:])
    assert backbone.grid == (6, 6)


def test_another_architectures_checkpoint_is_refused(save):
    path = save(timm.create_model("test_vit", num_classes=0).state_dict())
    with pytest.raises(IceprobeError, match="doesn't fit VisionTransformer"):
        load_backbone(f"timm:vit_tiny_patch16_224?checkpoint={path}")
