"""Any nn.Module as a backbone: maps, tokens, factories; frozen, and given back as it was."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from iceprobe.backbones import Backbone, Preprocessing, load_backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.tokens import Tokens

STATED = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}
EXAMPLE = "python:tests.backbones.factories"


class Cnn(nn.Module):
    """(B, 3, S, S) -> (B, 5, S / 4, S / 2): rows and columns can't be mistaken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=(4, 2), padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.norm(self.conv(images)))


class Sequence(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, 6))

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None, None] + self.table


def test_cnn_by_hand():
    torch.manual_seed(0)
    model = Cnn().double()
    model.norm.running_mean.normal_()
    batch = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = load_backbone(model, **STATED)(batch)
    expected = model.eval()(batch)
    assert tokens.grid == (4, 8)
    assert tokens.prefix.shape == (2, 0, 5)
    assert torch.equal(tokens.patches.reshape(2, 4, 8, 5), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("count", "num_prefix", "has_class", "grid", "class_there"),
    [
        (10, 1, None, (3, 3), True),
        (13, 4, False, (3, 3), False),
        (9, 0, None, (3, 3), False),
        (8, 1, None, None, True),
    ],
)
def test_sequences_are_split_as_stated(count, num_prefix, has_class, grid, class_there):
    model = Sequence(count)
    batch = torch.zeros(2, 3, 16, 16)
    backbone = load_backbone(model, num_prefix=num_prefix, has_class=has_class, **STATED)
    tokens = backbone(batch)
    assert torch.equal(tokens.prefix[0], model.table[:num_prefix])
    assert torch.equal(tokens.patches[1], model.table[num_prefix:])
    assert (backbone.grid, backbone.has_class) == (grid, class_there)


def test_tokens_method_and_preprocessing_attribute_are_used():
    class WithTokens(nn.Module):
        preprocessing = Preprocessing(8, (0.5,), (0.5,), channels=1)

        def tokens(self, images):
            patches = images.flatten(2).transpose(1, 2)
            return Tokens(patches, patches[:, :1] * 2, tuple(images.shape[2:]), has_class=True)

    backbone = load_backbone(WithTokens())
    image = backbone.preprocessing.transform(Image.new("RGB", (20, 10), (255, 255, 255)))[None]
    tokens = backbone(image)
    assert torch.equal(tokens.class_token, torch.full((1, 1), 2.0))
    assert backbone.grid == (8, 8)
    assert load_backbone(WithTokens(), image_size=4).preprocessing.image_size == 4


def test_a_borrowed_module_is_given_back_as_it_was():
    model = Cnn().train()
    model.norm.eval()
    modes = [part.training for part in model.modules()]
    mean = model.norm.running_mean.clone()
    backbone = load_backbone(model, **STATED)
    backbone.train()
    batch = torch.randn(2, 3, 16, 16)
    first, second = backbone(batch).patches, backbone(batch).patches
    assert torch.equal(first, second)  # no dropout
    assert not first.requires_grad
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.norm.running_mean, mean)
    before = backbone.identity()
    model.conv.bias.data += 1
    assert backbone.identity()["weights"] != before["weights"]


def test_a_borrowed_module_is_given_back_after_a_failure():
    model = Cnn().train()
    backbone = load_backbone(model, **STATED)
    with pytest.raises(RuntimeError):
        backbone(torch.randn(1, 4, 16, 16))
    assert all(part.training for part in model.modules())


def test_a_loaded_backbone_is_frozen_for_good():
    backbone = load_backbone("bundled:mae-tiny")
    nn.Sequential(backbone).train()
    assert not any(part.training for part in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(torch.zeros(1, 1, 56, 56, requires_grad=True)).patches.requires_grad
    assert load_backbone(backbone) is backbone


def test_images_are_brought_to_the_weights_dtype():
    backbone = load_backbone(Cnn().to(torch.bfloat16), **STATED)
    assert backbone(torch.zeros(1, 3, 16, 16)).patches.dtype == torch.bfloat16


def test_factory_from_a_spec_string():
    backbone = load_backbone(f"{EXAMPLE}:cnn?image_size=16&mean=0.5,0.5,0.5&std=0.25,0.25,0.25")
    assert isinstance(backbone, Backbone)
    assert backbone.grid == (4, 4)
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert load_backbone(f"{EXAMPLE}:vit?layer=0&norm=false").num_prefix == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:tests.backbones.factories", "names no factory"),
        ("python:tests.backbones.factoriez:cnn", "no module named .*factoriez"),
        (f"{EXAMPLE}:cnm", "no function 'cnm'"),
        (f"{EXAMPLE}:nothing", "returned a NoneType"),
        ("python:./models.py:cnn", r"no file 'models\.py' here"),
        (f"{EXAMPLE}:of_depth", "and needs depth: name a function that takes none"),
        (f"{EXAMPLE}:fails", r"failed: ValueError: no such width \(--debug shows where\)"),
        (f"{EXAMPLE}:cnn", "pass image_size, mean, std"),
        (f"{EXAMPLE}:cnn?image_size=16&mean=0.5", "pass std"),
        (f"{EXAMPLE}:vit?num_prefix=1", "drop num_prefix and has_class"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(spec, message):
    with pytest.raises(IceprobeError, match=message):
        load_backbone(spec)


class Returns(nn.Module):
    def __init__(self, value) -> None:
        super().__init__()
        self.value = value

    def forward(self, images):
        return self.value


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (torch.zeros(1, 7), {}, r"returned \(1, 7\)"),
        ([], {}, "returned a list"),
        (torch.zeros(1, 9, 7), {}, "num_prefix="),
        (torch.zeros(1, 7, 3, 3), {"num_prefix": 1}, "drop num_prefix"),
        (torch.zeros(1, 9, 7), {"layer": 1}, "layer and norm don't apply"),
    ],
)
def test_outputs_that_are_no_tokens_are_refused(value, options, message):
    with pytest.raises(IceprobeError, match=message):
        load_backbone(Returns(value), **STATED, **options)


def test_a_module_that_fails_on_its_images_is_reported_in_one_line():
    with pytest.raises(IceprobeError, match="failed on a blank 1x16x16 image") as caught:
        load_backbone(Cnn(), image_size=16, mean=(0.5,), std=(0.5,))
    assert "\n" not in str(caught.value)


def test_identity_follows_weights_settings_and_preprocessing():
    def identity(**options):
        return load_backbone(f"{EXAMPLE}:vit", **options).identity()

    base = identity()
    assert identity() == base
    changed = [identity(layer=0), identity(norm=False), identity(mean=(0.1, 0.5, 0.5))]
    assert all(other != base for other in changed)
    assert {other["weights"] for other in changed} == {base["weights"]}
    model = load_backbone(f"{EXAMPLE}:vit")
    model.reader.model.blocks[0].attn.qkv.weight.data[0, 0] += 1e-6
    assert model.identity()["weights"] != base["weights"]


def test_macs_of_a_convolution_by_hand():
    backbone = load_backbone(Cnn(), **STATED)
    assert backbone.macs() == 5 * (4 * 8) * (3 * 3 * 3)


def test_bundled_backbone_reads_the_last_block_without_norm():
    backbone = load_backbone("bundled:mae-tiny")
    assert (backbone.dim, backbone.grid, backbone.num_prefix) == (192, (14, 14), 1)
    assert backbone.has_class
    assert backbone.preprocessing.channels == 1
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 56), np.uint8))
    batch = backbone.preprocessing.transform(image)[None]
    expected = torch.from_numpy(np.asarray(image) / 255.0).sub(0.18).div(0.31)
    torch.testing.assert_close(batch[0, 0], expected.float(), atol=1e-6, rtol=0)
    model = backbone.reader.model
    hidden = model.blocks(model._pos_embed(model.patch_embed(batch)))
    torch.testing.assert_close(backbone(batch).patches, hidden[:, 1:], atol=1e-5, rtol=1e-5)
    normed = load_backbone("bundled:mae-tiny?norm=true")(batch).patches
    torch.testing.assert_close(normed, model.norm(hidden)[:, 1:], atol=1e-5, rtol=1e-5)


def test_naming_sources_and_data_sets_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from iceprobe.backbones import BACKBONES; "
        "from iceprobe.datasets import DATASETS; list(BACKBONES), list(DATASETS); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'numpy', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_bundled_backbones_know_what_their_training_taught():
    """20-NN on class tokens of cluttered images: labels > self-distillation > masked images > chance."""
    dataset = load_dataset("bundled:fashion-clutter")
    found = []
    for name in ("supervised", "dino", "mae"):
        backbone = load_backbone(f"bundled:{name}-tiny")
        assert (backbone.dim, backbone.grid, backbone.num_prefix) == (192, (14, 14), 1)
        tokens = {}
        for split in ("train", "test"):
            part = dataset.splits[split]
            chosen = [backbone.preprocessing.transform(part.image(i)) for i in range(0, 2000, 2)]
            with torch.inference_mode():
                batches = torch.stack(chosen).split(50)
                tokens[split] = torch.cat([backbone(one).prefix[:, 0] for one in batches]).double()
        labels = {split: part.labels[:2000:2] for split, part in dataset.splits.items()}
        neighbours = KNeighborsClassifier(20, metric="cosine").fit(tokens["train"], labels["train"])
        found.append(neighbours.score(tokens["test"], labels["test"]))
    supervised, dino, mae = found
    assert supervised > dino + 0.05 > mae + 0.1 > 0.25
