"""What learns, how fast, and what must not move."""

import pytest
import timm
import torch

import iceprobe
from iceprobe import IceprobeError
from iceprobe.adaptation.trainable import root
from tests.cli.tiny import Tiny

from .models import CLASSES, DEPTH, DIM, SIDE, adapted, backbone, images, learn, vit

NORM_DIMS = (2 * DEPTH + 1) * DIM  # two norms a block, and the final one


def expected_biases() -> int:
    of_block = 3 * DIM + DIM + 4 * DIM + DIM + 2 * DIM  # qkv, proj, fc1, fc2, two norms
    return DEPTH * of_block + DIM + DIM  # patch embedding, final norm


def closed_form(adaptation: str) -> int:
    return {
        "bitfit": expected_biases(),
        "layernorm": 2 * NORM_DIMS,
        "full": sum(p.numel() for p in vit().parameters()),
    }[adaptation]


@pytest.mark.parametrize("adaptation", ["bitfit", "layernorm", "full"])
def test_what_learns_is_counted_and_the_rest_stays_bit_by_bit(adaptation):
    model = adapted(adaptation)
    assert model.num_parameters()["adapter"] == closed_form(adaptation)
    learn(model)
    before = vit().state_dict()
    for name, after in root(model.reader).state_dict().items():
        moved = not torch.equal(after, before[name])
        assert moved == (name in model.names), name


def test_weights_that_are_not_read_are_neither_trained_nor_counted():
    model = adapted("layernorm", backbone(layer=1, norm=False))
    assert set(model.names) == {
        f"blocks.{i}.norm{j}.{part}" for i in (0, 1) for j in (1, 2) for part in ("weight", "bias")
    }


def test_learning_rates_fall_from_the_last_block_to_the_first():
    """L = 3, decay ½, by hand: blocks ⅛, ¼, ½; embeddings 1/16; final norm and head 1."""
    model = adapted("full?layer_decay=0.5&lr_scale=1")
    by_hand = {
        "pos_embed": 1 / 16, "cls_token": 1 / 16, "patch_embed.proj.weight": 1 / 16,
        "blocks.0.norm1.weight": 1 / 8, "blocks.0.mlp.fc2.bias": 1 / 8,
        "blocks.1.attn.qkv.weight": 1 / 4, "blocks.2.attn.proj.bias": 1 / 2, "norm.weight": 1,
    }  # fmt: skip
    assert {name: model.scale(name) for name in by_hand} == by_hand
    scale_of = {
        id(p): group["scale"] for group in model.parameter_groups() for p in group["params"]
    }
    parameters = root(model.reader)
    assert all(scale_of[id(parameters.get_parameter(n))] == by_hand[n] for n in by_hand)
    assert scale_of[id(model.probe.classifier.weight)] == 1
    assert len(scale_of) == len(list(model.parameters()))

    shallow = adapted("full?layer_decay=0.5&lr_scale=0.1", backbone(layer=1, norm=False))
    assert shallow.scale("blocks.1.mlp.fc1.weight") == pytest.approx(0.1 / 2)
    assert shallow.scale("pos_embed") == pytest.approx(0.1 / 8)


def test_vectors_get_no_weight_decay():
    groups = adapted("full").parameter_groups(weight_decay=0.05)
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_normalisation_statistics_of_the_backbone_stay_and_its_stages_are_its_blocks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet10t", num_classes=0, in_chans=1)
    of = iceprobe.load_backbone(model, image_size=SIDE, mean=(0.4,), std=(0.3,))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    trained = adapted("full?layer_decay=0.5&lr_scale=1", of)
    learn(trained, rate=0.01)
    after = root(trained.reader).state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(after[name], before[name]) for name in buffers)
    assert not torch.equal(after["layer4.0.conv1.weight"], before["layer4.0.conv1.weight"])
    assert trained.scale("layer4.0.conv1.weight") == 1 / 2
    assert trained.scale("layer1.0.conv1.weight") == 1 / 16
    assert trained.scale("conv1.0.weight") < 1 / 16


def test_a_model_without_known_blocks_names_what_it_can_take():
    of = iceprobe.load_backbone(Tiny(), image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert adapted("full?layer_decay=1", of).num_parameters()["adapter"] == 12 * 3 * 64 + 12
    with pytest.raises(IceprobeError, match="layer_decay=1"):
        adapted("full", of)
    with pytest.raises(IceprobeError, match="nothing of the kind"):
        adapted("layernorm", of)
    with pytest.raises(IceprobeError, match="name modules="):
        adapted("lora", of)
    with pytest.raises(IceprobeError, match="--accumulate"):
        adapted("bitfit", of, checkpointing=True)


def test_a_seed_decides_the_adapter_and_nothing_else_does():
    torch.manual_seed(1)
    first = adapted("lora", seed=3)
    state = torch.get_rng_state()
    second = adapted("lora", seed=3)
    assert torch.equal(state, torch.get_rng_state())
    third = adapted("lora", seed=4)
    name = next(name for name in first.names if "lora_A" in name)
    weight = [root(model.reader).get_parameter(name) for model in (first, second, third)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    assert first(images(2)).shape == (2, CLASSES)
