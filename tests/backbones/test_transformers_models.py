"""Tokens of transformers' models, saved as users have them, against the library's own outputs."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from iceprobe.backbones import extras, load_backbone
from iceprobe.backbones.families import family_of
from iceprobe.core.errors import IceprobeError

from .builders import MEAN, STD, perturbed, picture, pixels, seen

SIDE = 32
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
STAGES = {"depths": [1, 1, 2], "image_size": SIDE}
SWIN = {**STAGES, "embed_dim": 8, "num_heads": [1, 2, 2], "patch_size": 4, "window_size": 2}
HIERA = {
    "embed_dim": 8,
    "image_size": [64, 64],
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 2],
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, True, False],
    "num_query_pool": 1,  # one of two unrolls is left: tokens end in another order than rows
}
CNN = {"hidden_sizes": [6, 8, 10], "depths": [1, 1, 2]}
RESNET = {**CNN, "embedding_size": 6, "layer_type": "basic"}
CONVNEXT = {**CNN, "num_stages": 3, "patch_size": 4}


@dataclass
class Case:
    """A model type, and what of the library's own output its tokens are."""

    model: str
    config: str
    fields: dict[str, Any]
    prefix: int = 0
    norm: bool = True  # the family's default
    final: str = ""  # path to the final norm where last_hidden_state leaves it out
    paradigm: str = "unknown"
    pooled: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    map: bool = False
    side: int = SIDE


CASES = {
    "vit": Case("ViTModel", "ViTConfig", VIT, prefix=1),
    "MAE": Case(
        "ViTMAEModel",
        "ViTMAEConfig",
        {**VIT, "mask_ratio": 0.75},
        prefix=1,
        norm=False,
        paradigm="masked image modelling",
    ),
    "BEiT": Case(
        "BeitModel",
        "BeitConfig",
        {**VIT, "use_shared_relative_position_bias": True, "use_mean_pooling": False},
        prefix=1,
        paradigm="masked image modelling",
    ),
    "DeiT": Case("DeiTModel", "DeiTConfig", VIT, prefix=2),
    "DINOv2": Case("Dinov2Model", "Dinov2Config", VIT, prefix=1, paradigm="hybrid"),
    "DINOv2 with registers": Case(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**VIT, "num_register_tokens": 3},
        prefix=4,
        paradigm="hybrid",
    ),
    "DINOv3": Case(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**VIT, "num_register_tokens": 2},
        prefix=3,
        paradigm="hybrid",
    ),
    "I-JEPA": Case("IJepaModel", "IJepaConfig", VIT, paradigm="joint embedding"),
    "MSN": Case("ViTMSNModel", "ViTMSNConfig", VIT, prefix=1, paradigm="joint embedding"),
    "data2vec": Case(
        "Data2VecVisionModel",
        "Data2VecVisionConfig",
        {**VIT, "use_relative_position_bias": True, "use_mean_pooling": False},
        prefix=1,
        paradigm="masked image modelling",
    ),
    "CLIP": Case(
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        {**VIT, "projection_dim": 12},
        prefix=1,
        final="vision_model.post_layernorm",
        paradigm="vision-language",
    ),
    "SigLIP": Case(
        "SiglipVisionModel", "SiglipVisionConfig", VIT, paradigm="vision-language", pooled=True
    ),
    "AIMv2": Case("Aimv2VisionModel", "Aimv2VisionConfig", VIT, paradigm="generative"),
    "Swin": Case("SwinModel", "SwinConfig", SWIN),
    "Swin v2": Case("Swinv2Model", "Swinv2Config", SWIN),
    "ResNet": Case("ResNetModel", "ResNetConfig", RESNET, map=True),
    "RegNet": Case(
        "RegNetModel", "RegNetConfig", {**RESNET, "layer_type": "x", "groups_width": 2}, map=True
    ),
    "ConvNeXt": Case("ConvNextModel", "ConvNextConfig", CONVNEXT, map=True),
    "ConvNeXt V2": Case(
        "ConvNextV2Model",
        "ConvNextV2Config",
        CONVNEXT,
        map=True,
        paradigm="masked image modelling",
    ),
}


def save(folder, model, side=SIDE, **fields) -> str:
    """As ``save_pretrained`` of model and image processor leave a folder."""
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | fields))
    return f"transformers:{folder}"


def build(model: str, config: str, fields: dict[str, Any]):
    torch.manual_seed(0)
    made = getattr(transformers, config)(**fields)
    return perturbed(getattr(transformers, model)(made))


def own_outputs(case: Case, model, images) -> torch.Tensor:
    """The final features as the library's forward gives them, with the final norm."""
    inputs = {"pixel_values": images}
    if case.model == "ViTMAEModel":
        model.config.mask_ratio = 0.0
        output = model(**inputs, noise=torch.arange(16.0)[None])
    else:
        output = model(**inputs)
    hidden = output.last_hidden_state
    if case.final:
        hidden = model.get_submodule(case.final)(hidden)
    return hidden.flatten(2).transpose(1, 2) if case.map else hidden


@pytest.mark.parametrize("name", list(CASES))
def test_tokens_are_the_librarys_own(name, tmp_path):
    case = CASES[name]
    model = build(case.model, case.config, case.fields)
    spec = save(tmp_path, model)
    backbone = load_backbone(spec, norm=True)
    with torch.no_grad():
        expected = own_outputs(case, model, pixels(SIDE))
        tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.prefix, expected[:, : case.prefix], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, case.prefix :], atol=1e-5, rtol=1e-5)
    assert backbone.has_class == tokens.has_class == (case.prefix > 0)
    assert backbone.grid[0] * backbone.grid[1] == tokens.patches.shape[1]
    assert backbone.pooled_class == case.pooled
    # A folder of random weights: its model type alone says no more than the family.
    assert backbone.paradigm == "unknown"
    family = family_of(model.config.model_type, "model")
    assert family.paradigm == case.paradigm
    assert load_backbone(spec).identity()["norm"] == case.norm


@pytest.mark.parametrize("name", ["MAE", "DINOv2 with registers", "CLIP", "SigLIP", "AIMv2"])
def test_layers_are_the_blocks_outputs_in_one_pass(name, tmp_path):
    case = CASES[name]
    model = build(case.model, case.config, case.fields)
    spec = save(tmp_path, model)
    model.config.mask_ratio = 0.0
    noise = {"noise": torch.arange(16.0)[None]} if name == "MAE" else {}
    several = load_backbone(f"{spec}?norm=false", layer=(2, 0))
    with torch.no_grad():
        hidden = model(pixel_values=pixels(SIDE), output_hidden_states=True, **noise).hidden_states
        found = several.forward_layers(pixels(SIDE))
    assert several.layers == (2, 0)
    for layer, tokens in zip(several.layers, found, strict=True):
        both = torch.cat([tokens.prefix, tokens.patches], 1)
        torch.testing.assert_close(both, hidden[layer + 1], atol=1e-5, rtol=1e-5)
    alone = [load_backbone(f"{spec}?norm=false", layer=layer) for layer in (-1, 0)]
    for part, one, tokens in zip(several.per_layer(), alone, found, strict=True):
        assert part.identity() == one.identity()
        assert torch.equal(one(pixels(SIDE)).patches, tokens.patches)


@pytest.mark.parametrize(
    ("name", "vector"),
    [("CLIP", "class_projected"), ("SigLIP", "pooled"), ("AIMv2", "pooled")],
)
def test_vectors_are_the_models_own_and_those_of_the_last_layer_alone(name, vector, tmp_path):
    case = CASES[name]
    model = build(case.model, case.config, case.fields)
    backbone = load_backbone(save(tmp_path, model), layer="all")
    first, _, last = backbone.forward_layers(pixels(SIDE))
    with torch.no_grad():
        output = model(pixel_values=pixels(SIDE))
    expected = output.image_embeds if name == "CLIP" else output.pooler_output
    assert list(last.vectors) == [vector]
    torch.testing.assert_close(last.vectors[vector], expected, atol=1e-5, rtol=1e-5)
    assert first.vectors == {}
    assert backbone.per_layer()[-1].vectors == {vector: expected.shape[1]}


def test_image_towers_are_taken_out_of_image_text_models(tmp_path):
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 20}
    text |= {"intermediate_size": 8, "projection_size": 16, "bos_token_id": 1, "eos_token_id": 2}
    for kind, tower in (("CLIP", "CLIP"), ("Siglip", "SigLIP")):
        made = getattr(transformers, f"{kind}Config")(
            text_config=text, vision_config=CASES[tower].fields, projection_dim=12
        )
        model = perturbed(getattr(transformers, f"{kind}Model")(made))
        backbone = load_backbone(save(tmp_path / kind, model))
        with torch.no_grad():
            output = model.get_image_features(pixels(SIDE))
        expected = getattr(output, "pooler_output", output)
        found = next(iter(backbone(pixels(SIDE)).vectors.values()))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not any("text" in name for name, _ in backbone.named_parameters())


def test_a_tower_without_its_projection_has_no_projected_class_token(tmp_path):
    case = CASES["CLIP"]
    model = build("CLIPVisionModel", case.config, case.fields)
    spec = save(tmp_path, model)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    backbone = load_backbone(spec)
    assert torch.equal(torch.rand(3), drawn)  # loading leaves random numbers alone
    with torch.no_grad():
        expected = model.post_layernorm(model(pixel_values=pixels(SIDE)).last_hidden_state)
    tokens = backbone(pixels(SIDE))
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert tokens.vectors == {}
    assert backbone.identity() == load_backbone(spec).identity()


def test_siglip2_of_any_size_gets_patches_in_the_processors_order(tmp_path):
    fields = {key: value for key, value in VIT.items() if key != "image_size"}
    model = build("Siglip2VisionModel", "Siglip2VisionConfig", {**fields, "num_patches": 9})
    model.save_pretrained(tmp_path)
    processor = transformers.Siglip2ImageProcessor(
        patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=STD, resample=2
    )
    processor.save_pretrained(tmp_path)
    backbone = load_backbone(f"transformers:{tmp_path}")
    assert (backbone.preprocessing.image_size, backbone.preprocessing.interpolation) == (
        SIDE,
        "bilinear",
    )
    crop = backbone.preprocessing.crop(picture())
    with torch.no_grad():
        expected = model(**processor(images=crop, return_tensors="pt"))
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.patches, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        tokens.vectors["pooled"], expected.pooler_output, atol=1e-4, rtol=1e-4
    )
    assert (backbone.grid, backbone.has_class, backbone.pooled_class) == ((4, 4), False, True)
    assert load_backbone(f"transformers:{tmp_path}?image_size=48").grid == (6, 6)


def test_hieras_tokens_lie_row_by_row(tmp_path):
    """Against the library's own maps; and what one mask unit sees stays in its cells."""
    model = build("HieraModel", "HieraConfig", HIERA)
    backbone = load_backbone(save(tmp_path, model, side=64), layer="all")
    images = pixels(64)
    found = backbone.forward_layers(images)
    with torch.no_grad():
        output = model(pixel_values=images, output_hidden_states=True)
    assert [t.grid for t in found] == [(16, 16), (8, 8), (8, 8)]
    for tokens, expected in zip(found, output.reshaped_hidden_states[1:], strict=True):
        assert not tokens.has_class
        torch.testing.assert_close(tokens.patches, expected.flatten(1, 2), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[-1].patches, output.last_hidden_state, atol=1e-2)
    changed = images.clone()
    changed[:, :, 20:28, 36:44] += 1  # well inside row 1, column 2 of 4 x 4 mask units
    moved = backbone.forward_layers(changed)[0].patches - found[0].patches
    cells = moved.abs().sum(2).reshape(16, 16) > 1e-6
    rows, columns = cells.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 8, 11)


@pytest.mark.parametrize("name", ["Swin", "ResNet", "ConvNeXt"])
def test_stages_are_read_before_they_are_downsampled(name, tmp_path):
    case = CASES[name]
    model = build(case.model, case.config, case.fields)
    backbone = load_backbone(save(tmp_path, model), layer="all", norm=True)
    found = backbone.forward_layers(pixels(SIDE))
    with torch.no_grad():
        if name == "Swin":
            grid = transformers.SwinBackbone.from_pretrained(tmp_path, out_indices=(1, 2, 3))
            grid.hidden_states_norms = torch.nn.ModuleDict(
                {key: torch.nn.Identity() for key in grid.hidden_states_norms}
            )
            maps = list(grid.eval()(pixels(SIDE)).feature_maps)
            last = model(pixel_values=pixels(SIDE)).last_hidden_state
            maps[-1] = last.transpose(1, 2).reshape(maps[-1].shape)  # with the final norm
        else:
            output = model(pixel_values=pixels(SIDE), output_hidden_states=True)
            maps = output.hidden_states[1:]
    for tokens, expected in zip(found, maps, strict=True):
        assert tokens.grid == tuple(expected.shape[2:])
        wanted = expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens.patches, wanted, atol=1e-5, rtol=1e-5)


PROCESSORS = {
    "a size": ({"size": {"height": 24, "width": 24}, "resample": 3}, 24, "bicubic"),
    "an old size": ({"size": 24, "resample": 2}, 24, "bilinear"),
    "a crop": (
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 40},
            "crop_size": {"height": 24, "width": 24},
            "do_center_crop": True,
            "resample": 1,
        },
        24,
        "lanczos",
    ),
    "a crop by percent": (
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 24},
            "crop_pct": 0.9,
        },
        24,
        "bilinear",
    ),
}


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_preprocessing_is_the_folders(name, tmp_path):
    fields, side, interpolation = PROCESSORS[name]
    model = build("Dinov2Model", "Dinov2Config", VIT)
    backbone = load_backbone(save(tmp_path, model, **fields))
    expected = pixels(side, interpolation=interpolation)
    torch.testing.assert_close(seen(backbone), expected, atol=1e-5, rtol=0)
    assert backbone.grid == (3, 3)  # position embeddings are resized from 4 x 4
    with torch.no_grad():
        own = model(pixel_values=expected).last_hidden_state[:, 1:]
    torch.testing.assert_close(backbone(seen(backbone)).patches, own, atol=1e-5, rtol=1e-5)


def test_options_stand_over_the_folder_and_fill_in_for_it(tmp_path):
    model = build("ViTModel", "ViTConfig", VIT)
    spec = save(tmp_path, model)
    changed = load_backbone(spec, image_size=48, mean=(0.1,) * 3, interpolation="bicubic")
    expected = pixels(48, mean=(0.1,) * 3, interpolation="bicubic")
    torch.testing.assert_close(seen(changed), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        own = model(pixel_values=expected, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(changed(expected).patches, own[:, 1:], atol=1e-5, rtol=1e-5)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(IceprobeError, match=r"no preprocessor_config\.json .*pass mean, std"):
        load_backbone(spec, image_size=SIDE)
    loaded = load_backbone(spec, image_size=SIDE, mean=MEAN, std=STD, interpolation="bilinear")
    torch.testing.assert_close(seen(loaded), pixels(SIDE), atol=1e-5, rtol=0)


def test_half_precision_files_are_read_in_float32(tmp_path):
    model = build("ViTModel", "ViTConfig", VIT).half()
    backbone = load_backbone(save(tmp_path, model))
    assert backbone(pixels(SIDE)).patches.dtype == torch.float32


def test_a_raw_checkpoint_into_an_architecture(tmp_path):
    model = build("Dinov2Model", "Dinov2Config", VIT)
    spec = save(tmp_path, model)
    weights = {f"module.{k}": v + 0.1 for k, v in model.state_dict().items()}
    torch.save({"teacher": weights}, tmp_path / "c.pth")
    backbone = load_backbone(f"{spec}?checkpoint={tmp_path / 'c.pth'}&strip=module.")
    for parameter in model.parameters():
        parameter.data += 0.1
    with torch.no_grad():
        expected = model(pixel_values=pixels(SIDE)).last_hidden_state
    torch.testing.assert_close(backbone(pixels(SIDE)).patches, expected[:, 1:])
    with pytest.raises(IceprobeError, match=r"no checkpoint_key=student.*There are: teacher"):
        load_backbone(f"{spec}?checkpoint={tmp_path / 'c.pth'}&checkpoint_key=student")


def test_missing_weights_are_named(tmp_path):
    model = build("Dinov2Model", "Dinov2Config", VIT)
    spec = save(tmp_path, model)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IceprobeError, match=r"1 weights are missing: layernorm\.weight"):
        load_backbone(spec)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    spec = save(tmp_path, build("ViTModel", "ViTConfig", VIT))
    (tmp_path / "model.safetensors").unlink()
    torch.save({"embeddings.cls_token": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(IceprobeError, match="weights can't be loaded") as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class OwnConfig(PretrainedConfig):
    model_type = "own-net"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    main_input_name = "pixel_values"
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.ones(1, 10, 6))
        self.post_init()
    def _init_weights(self, module):
        pass
    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.table + pixel_values.mean())
"""


def test_remote_code_has_to_be_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(REMOTE)
    fields = {
        "model_type": "own-net",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(fields))
    table = torch.randn(1, 10, 6)
    save_file({"table": table}, folder / "model.safetensors", metadata={"format": "pt"})
    spec = f"transformers:{folder}?image_size={SIDE}&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    with pytest.raises(IceprobeError, match=r"code of its own.*trust=true"):
        load_backbone(spec)
    with pytest.raises(IceprobeError, match="num_prefix="):
        load_backbone(f"{spec}&trust=true")
    with pytest.raises(IceprobeError, match="layer doesn't apply to the model type 'own-net'"):
        load_backbone(f"{spec}&trust=true&layer=1")
    backbone = load_backbone(f"{spec}&trust=true&num_prefix=1")
    found = backbone(torch.zeros(1, 3, SIDE, SIDE))
    assert torch.equal(found.patches, table[:, 1:])
    assert torch.equal(found.class_token, table[:, 0])


def test_a_model_of_timm_in_a_folder_of_transformers(tmp_path):
    config = transformers.TimmWrapperConfig(architecture="test_vit", num_labels=0)
    model = perturbed(transformers.TimmWrapperModel(config))
    backbone = load_backbone(save(tmp_path, model))
    images = pixels(160)
    with torch.no_grad():
        expected = model(images).last_hidden_state
    torch.testing.assert_close(backbone(images).patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert backbone.has_class


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transformers:facebook/no-such-thing-here", r"no network.*pass transformers:DIR"),
        ("transformers:/no/where/at/all", "no folder '/no/where/at/all'"),
        ("transformers:{empty}", "configuration can't be read"),
        ("transformers:{vit}?layer=3", r"layer=3 .*out of range \(0 to 2\)"),
        ("transformers:{vit}?num_prefix=1", "num_prefix doesn't apply to the model type 'vit'"),
        ("transformers:{vit}?nrm=false", "Did you mean norm"),
        ("transformers:{vit}?image_size=33", "no multiple of the patch size 8 .*take 32 or 40"),
        ("transformers:{resnet}?norm=false", "no final norm: drop norm=false"),
    ],
)
def test_wrong_specs_are_answered(spec, message, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "hub_has_address", lambda: False)
    (tmp_path / "empty").mkdir()
    for name, case in (("vit", CASES["vit"]), ("resnet", CASES["ResNet"])):
        save(tmp_path / name, build(case.model, case.config, case.fields))
    wrong = spec.format(**{name: tmp_path / name for name in ("empty", "vit", "resnet")})
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [
        ("transformers", "transformers:DIR", "transformers"),
        ("open_clip", "open_clip:ViT-B-16?pretrained=openai", "open-clip"),
        ("diffusers", "diffusers:DIR", "diffusers"),
    ],
)
def test_a_package_that_isnt_there_is_named(module, spec, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(IceprobeError, match=rf"pip install 'iceprobe\[{extra}\]'") as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)
