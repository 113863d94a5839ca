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
from iceprobe.core.errors import IceprobeError


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


def test_with_strip_the_stripped_weight_is_taken(weights, save):
    """A student's and a momentum encoder's weights in one dictionary."""
    both = {f"module.{k}": v for k, v in weights.items()} | {"0.weight": torch.zeros(4, 3)}
    for content in (both, dict(reversed(both.items()))):
        module = network()
        reported = load_checkpoint(module, save(content), strip="module.")
        assert equal(module.state_dict(), weights)
        assert "0.weight" in reported[0]
        assert "the one with it is taken" in reported[0]
    alone = {f"module.{k}": v for k, v in weights.items()}
    alone["1.bias"] = alone.pop("module.1.bias")
    reported = load_checkpoint(module, save(alone), strip="module.")
    assert equal(module.state_dict(), weights)
    assert reported[0].startswith("1.bias of ")
    other = {**{f"base.{k}": v for k, v in weights.items()}, "momentum.0.weight": torch.ones(1)}
    assert load_checkpoint(module, save(other), strip="base.") == []


@pytest.mark.parametrize("infix", ["_orig_mod.", "_fsdp_wrapped_module.", "_orig_mod._orig_mod."])
@pytest.mark.parametrize("strip", [None, "_orig_mod."])
def test_infixes_of_wrappers_are_taken_out_wherever_they_are(weights, save, infix, strip):
    middle = {k.replace(".", f".{infix}"): v for k, v in weights.items()}
    assert equal(loaded(save(middle), strip=strip), weights)
    assert equal(loaded(save({infix + k: v for k, v in weights.items()}), strip=strip), weights)
    wrapped = {f"module.{infix}{k}": v for k, v in middle.items()}
    assert equal(loaded(save(wrapped), strip=f"module.{infix}"), weights)
    with pytest.raises(IceprobeError, match="twice"):
        loaded(save({**weights, **middle}))


def test_chunks_of_blocks_are_joined(save):
    """DINOv2 trains its blocks in chunks: blocks.CHUNK.NUMBER, the number counting through."""
    module = nn.Module()
    module.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    chunked = {
        f"blocks.{int(k[7]) // 2}.{k[7:]}": torch.randn_like(v)
        for k, v in module.state_dict().items()
    }
    load_checkpoint(module, save(chunked))
    for number, block in enumerate(module.blocks):
        assert torch.equal(block.weight, chunked[f"blocks.{number // 2}.{number}.weight"])
    deep = nn.Module()
    deep.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(2, 2)]) for _ in range(2))
    load_checkpoint(deep, save({k: v + 1 for k, v in deep.state_dict().items()}))


def test_what_only_training_reads_may_be_missing_or_left_over(save):
    module = nn.Sequential(nn.BatchNorm1d(2))
    weights = {k: v + 1 for k, v in module.state_dict().items()}
    del weights["0.num_batches_tracked"]
    load_checkpoint(module, save(weights))
    assert torch.equal(module[0].running_mean, torch.ones(2))
    weights |= {"1.num_batches_tracked": torch.tensor(3), "0.mask_token": torch.ones(1)}
    assert load_checkpoint(module, save(weights)) == []


def test_numbers_and_texts_among_the_tensors_are_left_out(weights, save):
    path = save({**weights, "epoch": 3, "arch": "vit", "best": 0.5, "done": True, "args": {"a": 1}})
    assert equal(loaded(path), weights)
    assert equal(loaded(save({"state": {"net": {**weights, "version": 2}}, "step": 3})), weights)
    loss = {"center": torch.ones(2)}
    assert equal(loaded(save({"model": weights, "loss": loss, "scale": torch.ones(1)})), weights)


def test_without_final_norm_a_norm_isnt_needed(save):
    """A model fine-tuned on the mean of patches has fc_norm where another has norm."""
    shape = {"img_size": 160, "num_classes": 0}
    pooled = timm.create_model("test_vit", global_pool="avg", fc_norm=True, **shape).state_dict()
    assert "fc_norm.weight" in pooled
    assert "norm.weight" not in pooled
    path = save(pooled)
    with pytest.raises(IceprobeError, match=r"norm\.weight, norm\.bias; .*norm=false"):
        load_backbone(f"timm:test_vit?checkpoint={path}")
    backbone = load_backbone(f"timm:test_vit?checkpoint={path}&norm=false")
    batch = torch.randn(1, 3, 160, 160)
    own = timm.create_model("test_vit", global_pool="avg", fc_norm=True, **shape).eval()
    own.load_state_dict(pooled)
    with torch.no_grad():
        expected = own.forward_features(batch)  # its norm over tokens is none
    torch.testing.assert_close(backbone(batch).patches, expected[:, 1:], rtol=0, atol=0)
