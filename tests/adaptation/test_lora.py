"""LoRA touches what it says and nothing else; its adapters are peft's."""

import copy

import peft
import pytest
import timm
import torch
import transformers
from safetensors import safe_open
from torch import nn

import iceprobe
from iceprobe import IceprobeError
from iceprobe.adaptation import fuse_qkv, split_qkv
from iceprobe.adaptation.qkv import SplitQKV
from iceprobe.adaptation.trainable import root

from .models import CLASSES, DEPTH, DIM, adapted, backbone, images, learn, vit

NEAR = dict(atol=1e-5, rtol=1e-5)  # pixels are normalised in float32


def merged(model) -> nn.Module:
    """A plain model of timm again, its adapters merged by peft."""
    plain = model._change.peft.merge_and_unload()
    fuse_qkv(plain)
    return plain


@pytest.mark.parametrize("bias", [True, False])
def test_a_split_projection_is_the_same_function_and_goes_back(bias):
    torch.manual_seed(0)
    fused = nn.Linear(10, 30, bias=bias)
    split, x = SplitQKV(fused), torch.randn(4, 7, 10)
    torch.testing.assert_close(split(x), fused(x), atol=1e-6, rtol=1e-5)
    assert torch.equal(split.v.weight, fused.weight[20:])
    again = split.fused()
    assert torch.equal(again.weight, fused.weight)
    assert bias == (again.bias is not None)
    assert not bias or torch.equal(again.bias, fused.bias)


def test_a_split_model_gives_the_same_tokens_and_fuses_to_the_same_weights():
    model = vit()
    x = images(2).float()
    with torch.no_grad():
        expected = model.forward_features(x)
        names = split_qkv(model)
        torch.testing.assert_close(model.forward_features(x), expected, atol=1e-4, rtol=1e-5)
    assert names == [f"blocks.{i}.attn.qkv" for i in range(DEPTH)]
    assert fuse_qkv(model) == names
    before = vit().state_dict()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()


def test_the_update_is_of_the_values_alone_and_of_the_rank_asked_for():
    of, rank = backbone(), 2
    of.reader.double()
    model = adapted(f"lora?rank={rank}", of)
    pixels = images(2).double().div(255).sub(0.4).div(0.3)
    with torch.no_grad():  # B = 0 at first: nothing has changed yet
        torch.testing.assert_close(model.tokens(images(2)).patches, of(pixels).patches, **NEAR)
    learn(model)
    with torch.no_grad():
        after = model.tokens(images(2)).patches
    plain, before = merged(model), vit().double().state_dict()
    for name, weight in plain.state_dict().items():
        change = weight - before[name]
        if not name.endswith("attn.qkv.weight"):
            assert not change.count_nonzero(), name
            continue
        query_key, value = change[: 2 * DIM], change[2 * DIM :]
        assert not query_key.count_nonzero()
        singular = torch.linalg.svdvals(value)
        assert singular[0] > 1e-3
        assert (singular[rank:] < 1e-12).all()
    with torch.no_grad():
        torch.testing.assert_close(backbone(plain)(pixels).patches, after, **NEAR)


def test_parameters_follow_the_closed_form():
    counts = adapted("lora?rank=4", probe="ep4").num_parameters()
    assert counts["adapter"] == DEPTH * 4 * (DIM + DIM)  # L · r · (D_in + D_out)
    assert counts["pooling"] == 4 * DIM + DIM * DIM
    assert counts["classifier"] == (DIM + 1) * CLASSES
    assert counts["total"] == sum(counts[part] for part in ("adapter", "pooling", "classifier"))
    one = adapted("lora?rank=4&blocks=-1").num_parameters()
    assert one["adapter"] == 4 * (DIM + DIM)
    named = adapted("lora?rank=2&modules=mlp.fc1").num_parameters()
    assert named["adapter"] == DEPTH * 2 * (DIM + 4 * DIM)


def test_only_blocks_that_are_read_get_an_adapter():
    model = adapted("lora", backbone(layer=0, norm=False))
    assert {name.partition(".attn")[0] for name in model.names} == {"blocks.0"}
    last = adapted("lora?blocks=-1")
    assert {name.partition(".attn")[0] for name in last.names} == {f"blocks.{DEPTH - 1}"}
    both = adapted("lora?blocks=1&target=query,value")
    assert {name.partition(".lora")[0] for name in both.names} == {
        "blocks.1.attn.qkv.q",
        "blocks.1.attn.qkv.v",
    }


def test_what_is_saved_is_loaded_by_peft_into_a_fresh_model(tmp_path):
    model = adapted("lora?rank=3&alpha=6", seed=5)
    learn(model)
    model.save(tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == 2 * DEPTH

    fresh = vit()
    split_qkv(fresh)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert loaded.peft_config["default"].r == 3
    x = images(3).float().div(255).sub(0.4).div(0.3)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.base_model.model.forward_features(x)[:, 1:],
            model.tokens(images(3)).patches,
            atol=1e-5, rtol=1e-5,
        )  # fmt: skip


def test_separate_projections_of_transformers_are_found_by_their_names(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    of = iceprobe.load_backbone(
        f"transformers:{tmp_path}?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    )
    model = adapted("lora?rank=2", of)
    assert model.num_parameters()["adapter"] == 2 * 2 * (16 + 16)
    weights = {name: t.clone() for name, t in root(of.reader).state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.zero_grad()
        logits = model.train()(images(6, channels=3))
        torch.nn.functional.cross_entropy(logits, torch.arange(6) % CLASSES).backward()
        optimizer.step()
    plain = model._change.peft.merge_and_unload().state_dict()
    changed = [name for name, t in plain.items() if not torch.equal(t, weights[name])]
    assert len(changed) == 2
    assert all("value" in name or "v_proj" in name for name in changed)


@pytest.mark.parametrize(
    ("adaptation", "said"),
    [
        ("lora?modules=fc9", "fc1"),
        ("lora?modules=norm1", "LayerNorm, not a linear layer"),
        ("lora?rank=99", "has rank 24 itself"),
        ("lora?target=values", "Did you mean value"),
        ("lora?blocks=3", "out of range"),
    ],
)
def test_what_does_not_fit_is_said(adaptation, said):
    with pytest.raises(IceprobeError, match=said):
        adapted(adaptation)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny_vit_5m_224", {}),  # q, k, v head by head
        ("beit_base_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 56}),
    ],
)
def test_projections_that_can_not_be_taken_apart_are_refused(name, options):
    with torch.random.fork_rng():
        model = timm.create_model(name, num_classes=0, **options)
    of = iceprobe.load_backbone(model, image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(IceprobeError, match="part can't be found"):
        adapted("lora?rank=2", of)


def test_the_backbone_itself_stays_as_it_is():
    of = backbone()
    before = copy.deepcopy(of.reader.state_dict())
    learn(adapted("full", of))
    learn(adapted("lora", of))
    assert before.keys() == of.reader.state_dict().keys()
    assert all(torch.equal(t, before[name]) for name, t in of.reader.state_dict().items())


def test_every_block_of_a_model_with_stages_is_reached(tmp_path):
    """Swin: of a stage only the last block is known by its tokens. LoRA goes into all of them; what
    comes before the first one known learns as embeddings do."""
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=2
    )
    torch.manual_seed(0)
    transformers.SwinModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    of = iceprobe.load_backbone(
        f"transformers:{tmp_path}?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    )
    lora = adapted("lora?rank=2", of)
    assert lora.num_parameters()["adapter"] == 2 * 2 * (8 + 8) + 2 * 2 * (16 + 16)
    full = adapted("full?layer_decay=0.5&lr_scale=1", of)

    def scales(beginning):
        return {full.scale(name) for name in full.names if name.startswith(beginning)}

    assert scales("encoder.layers.0.blocks.0.") == scales("embeddings.patch") == {1 / 8}
    assert scales("encoder.layers.0.blocks.1.") == {1 / 4}
    assert scales("encoder.layers.1.blocks.0.") == scales("encoder.layers.1.blocks.1.") == {1 / 2}
    assert scales("layernorm") == {1}
