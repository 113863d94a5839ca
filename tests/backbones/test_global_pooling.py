"""Maps of CNNs and hierarchical encoders, beside timm's own global pooling of them."""

import pytest
import timm
import torch
from torch import nn

import iceprobe as package
from iceprobe.backbones import load_backbone
from iceprobe.results import read_results
from iceprobe.store import extract_in_memory
from tests.backbones.builders import perturbed, pixels
from tests.backbones.test_families import STAGES
from tests.cli.conftest import iceprobe, images  # noqa: F401

HIERA = {"img_size": (64, 64), "embed_dim": 8, "num_heads": 1, "stages": (1, 1, 2), "q_pool": 1,
         "mask_unit_size": (4, 4), "mask_unit_attn": (True, True, False)}  # fmt: skip
MODELS = {
    **STAGES,
    "mobilenetv3_small_050": {},
    "convnextv2_atto": STAGES["convnext_atto"],
    "hiera_tiny_224": HIERA,
}
#: Whose pooled output is the mean of the cells, and that is all.
MEANS = {"resnet10t", "test_efficientnet", "swin_tiny_patch4_window7_224"}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return perturbed(timm.create_model(name, num_classes=0, **MODELS[name])).double()


@pytest.mark.parametrize("name", list(MODELS))
def test_pooled_is_timms_own_head_before_its_logits(name):
    model = build(name)
    batch = pixels(64).double()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        bare = model(batch)
    tokens = load_backbone(model, image_size=64)(batch)
    assert torch.equal(tokens.vectors["pooled"], expected)
    torch.testing.assert_close(expected, bare, rtol=0, atol=1e-12)  # there is no classifier
    mean = tokens.patches.mean(1)
    same = expected.shape == mean.shape and torch.allclose(expected, mean, rtol=0, atol=1e-10)
    assert same == (name in MEANS)
    if name.startswith("convnext"):
        head = model.head.norm
        normed = nn.functional.layer_norm(mean, mean.shape[1:], head.weight, head.bias, head.eps)
        torch.testing.assert_close(expected, normed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "hiera_tiny_224"])
def test_it_comes_with_the_last_of_several_layers_and_never_without_norm(name):
    model = build(name)
    batch = pixels(64).double()
    several = load_backbone(model, layer="all", image_size=64).forward_layers(batch)
    (pooled,) = load_backbone(model, image_size=64)(batch).vectors.values()
    assert torch.equal(several[-1].vectors["pooled"], pooled)
    assert all(tokens.vectors == {} for tokens in several[:-1])


def test_a_model_built_without_pooling_has_none():
    model = timm.create_model("resnet10t", num_classes=0, global_pool="", **STAGES["resnet10t"])
    assert load_backbone(model.eval(), image_size=64).vectors == {}


def test_a_linear_probe_is_trained_on_those_features(images, tmp_path):  # noqa: F811
    """The store's rows are timm's features, image by image."""
    model = perturbed(timm.create_model("convnext_atto", num_classes=0, **MODELS["convnext_atto"]))
    backbone = load_backbone(model, image_size=32)
    dataset = package.load_dataset(f"folder:{images}")
    store = extract_in_memory(backbone, dataset)
    transform = backbone.preprocessing.transform
    views = torch.stack([transform(dataset.splits["train"].image(i)) for i in range(36)])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(views), pre_logits=True)
    found = store["train"].rows("pooled", range(36))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (result,) = package.fit(
        store, ["linear?input=pooled"], seeds=1, epochs=1, output=tmp_path / "run"
    )
    assert result.parameters.total == 16 * 3 + 3
    probe = result.probes[0]
    logits = probe.classifier(probe.norm(expected))
    torch.testing.assert_close(probe(found), logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "side", "grid"),
    [
        ("resnet10t", 64, (2, 2)),
        ("convnext_atto", 64, (2, 2)),
        pytest.param("swin_tiny_patch4_window7_224", 224, (7, 7), marks=pytest.mark.slow),
    ],
)
def test_from_images_to_report(iceprobe, images, tmp_path, name, side, grid):  # noqa: F811
    probes = ["linear?input=mean", "linear?input=pooled", "ep8", "knn?input=pooled"]
    ended = iceprobe(
        "run", "--backbone", f"timm:{name}?pretrained=false&image_size={side}",
        "--data", f"folder:{images}", "--seeds", 1, "--epochs", 1, "--output", "run",
        *(part for probe in probes for part in ("--probe", probe)),
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    results = {result.probe: result for result in read_results(tmp_path / "run")}
    assert list(results) == probes
    assert all(result.grid == grid for result in results.values())
    assert results["ep8"].parameters.pooling == results["ep8"].dim * (results["ep8"].dim + 8)
    assert "EP8" in (tmp_path / "run" / "report.html").read_text()
