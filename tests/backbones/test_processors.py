"""Every image processor that transformers ships: its own pixels, or refused by name."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from transformers.models.auto import image_processing_auto as auto

from iceprobe.backbones import Preprocessing, load_backbone
from iceprobe.backbones.processors import GEOMETRY, crop_share, read_processor
from iceprobe.core.errors import IceprobeError

from .builders import MEAN, STD, picture, seen
from .test_transformers_models import SIDE, VIT, build, save

NAMES = sorted(
    {name for pair in auto.IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in pair.values() if name}
)
# What makes no picture of one image: patches, tiles, clips, pairs, other inputs; and what makes
# pixels that no formula of its fields is. Siglip2's patches are in
# test_transformers_models. TimmWrapper is timm's own configuration (timm_models).
REFUSED = (
    "CohereCompass Cosmos3Edge DeepseekVLHybrid EfficientLoFTR Ernie4_5_VLMoe Fuyu Gemma4 "
    "Gemma4Unified Glm46V Glm4v Glm5Next GlmImage Glmga GraniteDocling HunYuanVL Idefics2 "
    "Idefics3 ImageGPT Inkling Inkling2 Kimi_K25 Kosmos2_5 Lfm2Vl LightGlue Llama4 LlavaNext "
    "LlavaOnevision MiniCPMOcr MiniCPMV4_6 MiniMaxM3VL Mllama Molmo2 MuseGlimmer "
    "NemotronH_Omni_Reasoning_V3 NeoMME PaddleOCRVL PerceptionLM Phi4Multimodal Pix2Struct "
    "Qwen2VL Siglip2 SmolVLM SuperGlue TimmWrapper Tvp UltraVBert VideoLlama3 VideoLlava "
    "VideoMAE VitMatte VitPose Vivit "
)
OWN_SIZE = {"Aria": 980, "DeepseekOcr2": 1024, "Owlv2": 960, "Step3p7": 728, "UnlimitedOcr": 1024}
OWN_SIZE |= {"Cohere2Vision": 512}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def own_pixels(processor, image: Image.Image, *, geometry: bool = True) -> torch.Tensor:
    off = () if geometry else GEOMETRY
    options = {key: False for key in (*off, "apply_ocr") if getattr(processor, key, None)}
    made = processor(images=image, return_tensors="pt", **options)
    return (made if isinstance(made, torch.Tensor) else made["pixel_values"])[0]


def assert_same(ours: torch.Tensor, own: torch.Tensor) -> None:
    """To 1e-6 of what is the largest value."""
    assert ours.shape == own.shape
    assert (ours - own).abs().max().item() <= 1e-6 * max(1.0, own.abs().max().item())


@pytest.mark.slow
def test_each_of_them_makes_the_same_pixels_or_is_refused_by_name():
    equal, refused = set(), set()
    for name in NAMES:
        base = name.removesuffix("Pil").removesuffix("ImageProcessor")
        rare = base in REFUSED.split() or base in OWN_SIZE
        if base == "TimmWrapper" or (rare and name.endswith("Pil") and name[:-3] in NAMES):
            refused |= {base} & {"TimmWrapper"}
            continue
        processor = auto.get_image_processor_class_from_name(name)()
        given = {"image_size": 32, "resize": "shorter"}
        if base in REFUSED.split():
            with pytest.raises(IceprobeError, match=f"its {base}ImageProcessor ") as caught:
                read_processor(processor, given, "transformers:DIR")
            assert "\n" not in str(caught.value)
            refused.add(base)
            continue
        fields, _ = read_processor(processor, given, "transformers:DIR")
        # Some resize whatever they are asked: those see an image of the size that they make.
        side = OWN_SIZE.get(base, 40)
        own = own_pixels(processor, noise(side, side), geometry=base in OWN_SIZE)
        ours = Preprocessing(image_size=side, crop_pct=1.0, **fields).transform(noise(side, side))
        assert_same(ours, own)
        equal.add(base)
    assert refused == set(REFUSED.split())
    bases = {name.removesuffix("Pil").removesuffix("ImageProcessor") for name in NAMES}
    assert equal | refused == bases
    assert (len(equal), len(refused)) == (82, 52)  # of transformers in constraints.txt


GEOMETRIES = {
    "ViT": ({}, "squash", "1"),
    "Siglip": ({}, "squash", "1"),
    "DeiT": ({}, "squash", "0.875"),
    "EfficientNet": ({"do_center_crop": True}, "squash", None),
    "LayoutLMv2": ({}, "squash", "1"),
    "CLIP": ({}, "shorter", "1"),
    "Bit": ({"size": {"shortest_edge": 256}}, "shorter", "0.875"),
    "ConvNext": ({"size": {"shortest_edge": 224}}, "shorter", "0.875"),
    "MobileViT": ({"size": {"shortest_edge": 288}}, "shorter", crop_share(256, 288)),
}


@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_its_own_crop_is_reported_and_does_as_it_does(name):
    """All of the processor, its own resize by PIL included, on an image that isn't square."""
    changed, resize, kept = GEOMETRIES[name]
    processor = auto.get_image_processor_class_from_name(f"{name}ImageProcessorPil")(**changed)
    fields, assumed = read_processor(processor, {}, "transformers:DIR")
    if resize == "squash":
        (line,) = assumed
        kept = kept or crop_share(289, 346)
        assert line.endswith(f"squashes images to a square: resize=squash&crop_pct={kept} does so")
        assert line.startswith("transformers:DIR: the shorter side is resized and the centre")
    else:
        assert assumed == []
    image = noise(
        300, 200
    )  # what is cropped is even: processors round the half pixel down, torchvision doesn't
    ours = Preprocessing(**fields, resize=resize, crop_pct=float(kept)).transform(image)
    assert_same(ours, own_pixels(processor, image))


def test_what_keeps_the_whole_image_or_pads_it_is_reported():
    detr = {"size": {"shortest_edge": 64, "longest_edge": 128}}
    sam = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    for name, changed, said in (
        ("Detr", detr, "DetrImageProcessor makes 128 x 26 pixels of an image of 160 x 32"),
        ("Sam", sam, "SamImageProcessor pads images to 64 x 64"),
    ):
        processor = auto.get_image_processor_class_from_name(f"{name}ImageProcessorPil")(**changed)
        fields, (line,) = read_processor(processor, {}, "S")
        assert said in line
        assert fields["image_size"] == 64


FIELDS = {
    "no rescaling": ({"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60] * 3}),
    "another rescaling": {"rescale_factor": 1 / 127.5},
    "statistics of one number": {"image_mean": 0.5, "image_std": 0.25},
    "no normalisation": {"do_normalize": False},
    "nothing done": {"do_normalize": False, "do_rescale": False},
    "padding": {"do_pad": True, "pad_size": {"height": SIDE, "width": SIDE}},
    "a crop": {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}},
    "BGR": {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": SIDE, "width": SIDE},
    },
    "the longest edge": {
        "image_processor_type": "SamImageProcessor",
        "size": {"longest_edge": SIDE},
        "pad_size": {"height": SIDE, "width": SIDE},
    },
    "an offset": {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True},
    "RGB mobile": {
        "image_processor_type": "MobileViTImageProcessor",
        "do_flip_channel_order": False,
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    },
}


@pytest.fixture(scope="module")
def vit():
    return build("ViTModel", "ViTConfig", VIT)


@pytest.mark.parametrize("name", list(FIELDS))
def test_fields_of_a_folder_are_done_as_its_processor_does_them(name, vit, tmp_path):
    backbone = load_backbone(save(tmp_path, vit, **FIELDS[name]))
    assert backbone.preprocessing.image_size == SIDE
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    crop = backbone.preprocessing.crop(picture())
    own = own_pixels(processor, crop, geometry=False)[None].float()
    assert_same(seen(backbone), own)
    with torch.no_grad():
        expected = vit(pixel_values=own).last_hidden_state[:, 1:]
    torch.testing.assert_close(backbone(seen(backbone)).patches, expected, atol=1e-4, rtol=1e-4)
    again = Preprocessing.from_dict(json.loads(json.dumps(backbone.preprocessing.as_dict())))
    assert again == backbone.preprocessing


def test_values_worked_by_hand(vit, tmp_path):
    image = Image.new("RGB", (SIDE, SIDE), (255, 0, 51))
    spec = save(tmp_path / "a", vit, do_rescale=False, image_mean=[1, 2, 3], image_std=[2, 4, 8])
    values = load_backbone(spec).preprocessing.transform(image)[:, 0, 0]
    torch.testing.assert_close(values, torch.tensor([127.0, -0.5, 6.0]))
    spec = save(tmp_path / "b", vit, **FIELDS["BGR"])
    values = load_backbone(spec).preprocessing.transform(image)[:, 0, 0]
    torch.testing.assert_close(values, torch.tensor([0.2, 0.0, 1.0]))


@pytest.mark.parametrize("resample", range(6))
def test_every_resample_is_pils(resample, vit, tmp_path):
    backbone = load_backbone(save(tmp_path, vit, resample=resample))
    width, height = backbone.preprocessing.resized(picture().size)
    resized = picture().resize((width, height), Image.Resampling(resample))
    crop = transforms.functional.center_crop(resized, [SIDE, SIDE])
    assert np.array_equal(np.asarray(backbone.preprocessing.crop(picture())), np.asarray(crop))


def test_grey_models_see_grey_pictures(tmp_path):
    model = build("ViTModel", "ViTConfig", {**VIT, "num_channels": 1})
    spec = save(tmp_path, model, image_mean=[0.4], image_std=[0.3])
    backbone = load_backbone(spec)
    view = transforms.Compose(
        [
            transforms.Resize(int(SIDE * 256 / 224), InterpolationMode.BILINEAR),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize((0.4,), (0.3,)),
        ]
    )
    assert_same(seen(backbone)[0], view(picture().convert("L")))


def test_sizes_that_arent_one_square(vit, tmp_path, caplog):
    spec = save(tmp_path / "a", vit, size={"height": SIDE, "width": 48})
    with pytest.raises(
        IceprobeError, match=r"\(ViTImageProcessor\): its images are 32 x 48 pixels"
    ):
        load_backbone(spec)
    assert load_backbone(spec, image_size=48).grid == (6, 6)
    caplog.set_level(logging.WARNING)
    loaded = load_backbone(save(tmp_path / "b", vit, do_resize=False))
    assert loaded.preprocessing.image_size == SIDE
    assert f"image_size={SIDE}, which the model's configuration states" in loaded.assumed[0]
    assert f"assumed: {loaded.assumed[0]}" in caplog.messages
    huge = load_backbone(save(tmp_path / "c", vit, size={"height": 10**9, "width": 10**9}))
    assert "makes images of more than 4096 pixels a side" in huge.assumed[0]
    assert huge.preprocessing.image_size == SIDE  # and nothing of that size was made
    fields = {"hidden_sizes": [6, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 4}
    convnext = build("ConvNextModel", "ConvNextConfig", {**fields, "image_size": [64, 32]})
    spec = save(tmp_path / "d", convnext, do_resize=False)
    with pytest.raises(IceprobeError, match="makes images of varying size: pass image_size="):
        load_backbone(spec)
    assert load_backbone(spec, image_size=64).preprocessing.image_size == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_processor_type": "SuperPointImageProcessor", "do_grayscale": True},
            r"SuperPointImageProcessor makes other pixels than .*pass image_size, mean, std",
        ),
        (
            {"image_processor_type": "VideoMAEImageProcessor"},
            r"VideoMAEImageProcessor makes pixel_values of the shape \(1, 1, 3",
        ),
        ({"image_processor_type": "ImageGPTImageProcessor"}, r"can't be run on one image \(Clus"),
        ({"image_std": [0.0, 1.0, 1.0]}, "ViTImageProcessor .*pass image_size, mean, std"),
        ({"image_mean": [0.5, 0.5]}, "ViTImageProcessor .*pass image_size, mean, std"),
        ({"resample": 9}, "resample=9, which is none of PIL's"),
        ({"size": "x"}, "preprocessor_config.json .*pass image_size, mean, std"),
        ({"image_processor_type": "NoSuchImageProcessor", "auto_map": None}, "pass image_size"),
    ],
)
def test_what_cant_be_done_is_refused_and_the_remedy_works(fields, message, vit, tmp_path):
    spec = save(tmp_path, vit, **fields)
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)
    if "resample" in fields:
        return
    options = {"image_size": SIDE, "mean": MEAN, "std": STD, "interpolation": "bilinear"}
    backbone = load_backbone(spec, **options)
    assert_same(backbone.preprocessing.normalised(noise(8, 8)), Preprocessing(
        8, MEAN, STD).normalised(noise(8, 8)))  # fmt: skip


def test_an_interpolation_that_nothing_states_is_reported(vit, tmp_path):
    spec = save(tmp_path, vit)
    (tmp_path / "preprocessor_config.json").unlink()
    backbone = load_backbone(spec, image_size=SIDE, mean=MEAN, std=STD)
    assert backbone.assumed == (
        f"{backbone.spec}: interpolation=bicubic, nothing says how its images are resized",
    )
    assert load_backbone(backbone.spec, interpolation="bilinear").assumed == ()


def test_a_crop_that_is_asked_for_is_not_reported(vit, tmp_path):
    spec = save(tmp_path, vit)
    assert len(load_backbone(spec).assumed) == 1
    squashed = load_backbone(f"{spec}?resize=squash&crop_pct=1")
    assert squashed.assumed == ()
    own = picture().resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(squashed.preprocessing.crop(picture())), np.asarray(own))
    assert squashed.identity()["preprocessing"]["resize"] == "squash"
    with pytest.raises(IceprobeError, match=r"resize='own': take one of shorter, squash"):
        load_backbone(f"{spec}?resize=own")
