"""Weights by EfficientNet-PyTorch's names give what that port's forward pass gives, written out in `tests/reference`."""

import pytest
import torch
from torch.nn import functional as F

from iceprobe.backbones import load_backbone
from iceprobe.core.errors import IceprobeError
from tests.reference import efficientnet

ACT = {"lite0": F.relu6, "b0": F.silu}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The path of a file of each model, and its weights."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name in ACT:
        generator = torch.Generator().manual_seed(0)
        weights = efficientnet.random_weights(name == "b0", generator)
        torch.save(weights, folder / f"{name}.pth")
        found[name] = folder / f"{name}.pth", weights
    return found


@pytest.mark.parametrize("name", ACT)
def test_tokens_are_those_of_the_ports_forward_pass(files, name):
    path, weights = files[name]
    backbone = load_backbone(f"timm:tf_efficientnet_{name}?checkpoint={path}")
    reader = backbone.reader.double()
    images = torch.randn(2, 3, 75, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        found = reader(images)
    double = {name: tensor.double() for name, tensor in weights.items()}
    expected = efficientnet.features(images, double, ACT[name])
    assert found.grid == (3, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(found.patches, expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(found.vectors["pooled"], expected.mean((2, 3)))
    assert any("mean=0.5,0.5,0.5" in line for line in backbone.assumed) == (name == "lite0")


@pytest.mark.parametrize("prefix", ["module.", "module.encoder."])
def test_behind_a_prefix_and_beside_a_head_of_another_size(files, prefix, tmp_path):
    """As a training of one's own with the port saves it."""
    path, weights = files["lite0"]
    spec = f"timm:tf_efficientnet_lite0?checkpoint={path}"
    own = {prefix + name: tensor for name, tensor in weights.items()}
    own[prefix + "_fc.weight"] = torch.ones(3, 1280)
    torch.save({"state_dict": own, "epoch": 3}, tmp_path / "own.pth")
    other = f"timm:tf_efficientnet_lite0?checkpoint={tmp_path / 'own.pth'}&strip={prefix}"
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        load_backbone(spec)(images).patches, load_backbone(other)(images).patches, atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        # Another padding and another ε: its keys would fit, and its numbers be wrong.
        ("efficientnet_lite0", "TensorFlow's padding: name timm:tf_efficientnet_lite0 instead of"),
        ("efficientnet_b0.ra_in1k", "name timm:tf_efficientnet_b0 instead of"),
        ("resnet18", "name the one of timm:tf_efficientnet_… that it is instead of resnet18"),
        ("tf_efficientnet_lite1", r"75 weights are missing: blocks\.\d\.\d"),
        ("tf_efficientnet_b0", r"se\.conv_reduce"),
    ],
)
def test_another_model_is_refused(files, model, message):
    path, _ = files["lite0"]
    with pytest.raises(IceprobeError, match=message):
        load_backbone(f"timm:{model}?checkpoint={path}")


def test_a_part_that_the_model_lacks_keeps_its_name_in_the_error(files, tmp_path):
    _, weights = files["lite0"]
    torch.save({**weights, "_blocks.3._extra.weight": torch.ones(3)}, tmp_path / "extra.pth")
    with pytest.raises(IceprobeError, match=r"1 have no place: _blocks\.3\._extra\.weight"):
        load_backbone(f"timm:tf_efficientnet_lite0?checkpoint={tmp_path / 'extra.pth'}")
    del weights["_blocks.3._bn1.running_var"]
    torch.save(weights, tmp_path / "less.pth")
    with pytest.raises(
        IceprobeError, match=r"1 weights are missing: blocks\.2\.0\.bn2\.running_var"
    ):
        load_backbone(f"timm:tf_efficientnet_lite0?checkpoint={tmp_path / 'less.pth'}")
