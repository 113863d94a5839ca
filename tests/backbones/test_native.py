"""Images of their own shape: the libraries' own processors and forward passes, batches and single images."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data.naflex_transforms import get_image_size_for_seq
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import nn
from transformers.models.siglip2 import image_processing_pil_siglip2 as siglip2

from iceprobe.backbones import Backbone, NativePreprocessing, Preprocessing, load_backbone
from iceprobe.backbones.kinds import ExamplePreprocessing, Ragged, batched
from iceprobe.backbones.native import native_grid
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens

from .builders import MEAN, STD, perturbed

SIZES = [(41, 50), (90, 20), (64, 64), (50, 41), (20, 90), (41, 50)]  # width and height
ROOM = [(7, 3), (1, 1), (1, 300), (480, 640), (2000, 30), (37, 37), (511, 513)]


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed + 1000 * width + height)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, np.uint8))


PICTURES = [picture(*size, seed=i) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("max_tokens", [4, 13, 196, 256])
@pytest.mark.parametrize("patch", [14, 16])
def test_the_size_is_the_libraries(patch: int, max_tokens: int) -> None:
    for width, height in [*SIZES, *ROOM]:
        rows, columns = native_grid(height, width, patch, max_tokens)
        _, by_timm = get_image_size_for_seq((height, width), patch, max_tokens)
        by_siglip = siglip2.get_image_size_for_max_num_patches(height, width, patch, max_tokens)
        assert (rows * patch, columns * patch) == tuple(by_timm) == by_siglip
        assert 1 < rows * columns <= max_tokens


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_input_is_that_of_timm(interpolation: str) -> None:
    """timm's own evaluation transform of NaFlex models."""
    ours = NativePreprocessing(8, 30, MEAN, STD, interpolation)
    theirs = transforms_imagenet_eval(
        interpolation=interpolation, mean=MEAN, std=STD, use_prefetcher=False, naflex=True, patch_size=8,
        max_seq_len=30, patchify=True,
    )  # fmt: skip
    for one in PICTURES:
        made, expected = ours.transform(one), theirs(one)
        torch.testing.assert_close(made.values, expected["patches"], atol=1e-6, rtol=1e-5)
        assert made.coords is not None
        assert torch.equal(made.coords, expected["patch_coord"].float())
        assert made.lengths.tolist() == [int(expected["patch_valid"].sum())]


def test_the_input_is_that_of_siglip2() -> None:
    """Its processor of pictures of PIL; the one of tensors rounds pixels otherwise on resizing."""
    options = {"patch_size": 8, "max_num_patches": 30, "image_mean": MEAN, "image_std": STD}
    ours = NativePreprocessing(8, 30, MEAN, STD, "bilinear")
    exact = siglip2.Siglip2ImageProcessorPil(**options)
    rounded = transformers.Siglip2ImageProcessor(**options)
    for one in PICTURES:
        made = ours.transform(one)
        for processor, apart in ((exact, 1e-5), (rounded, 1.01 / 255 / min(STD))):
            expected = processor(images=one, return_tensors="pt")
            own = expected["pixel_attention_mask"][0].bool()
            torch.testing.assert_close(
                made.values, expected["pixel_values"][0][own], atol=apart, rtol=0
            )
            assert made.coords is not None
            ends = (made.coords.amax(0) + 1).int().tolist()
            assert ends == expected["spatial_shapes"][0].tolist()


def test_it_is_written_and_read() -> None:
    for one in (
        NativePreprocessing(8, 30, MEAN, STD),
        NativePreprocessing(4, 9, (0.5,), (0.5,), "bilinear", 1),
    ):
        assert ExamplePreprocessing.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    assert (
        NativePreprocessing(4, 9, (0.5,), (0.5,), channels=1).transform(PICTURES[0]).values.shape[1]
        == 16
    )
    bgr = NativePreprocessing(8, 30, MEAN, STD, order="BGR")
    assert ExamplePreprocessing.from_dict(bgr.as_dict()) == bgr
    fixed = Preprocessing(8, MEAN, STD)
    assert ExamplePreprocessing.from_dict(fixed.as_dict()) == fixed
    with pytest.raises(IceprobeError, match="max_tokens=3: take 4 to"):
        NativePreprocessing(8, 3, MEAN, STD)


def test_boxes_and_masks_follow_the_image() -> None:
    """A box in the image is where the transform puts its pixels; a mask is the share of each patch."""
    reads = NativePreprocessing(8, 30, (0.0,), (1.0,), "nearest", 1)
    full = np.zeros((40, 90), np.uint8)
    full[10:30, 45:90] = 255
    image = Image.fromarray(full)
    (box,) = reads.transform_boxes(np.array([[45, 10, 90, 30]]), image.size)
    crop = np.asarray(reads.crop(image))
    rows, columns = np.nonzero(crop)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(box, found, atol=1.0)
    assert box[2] == crop.shape[1]
    rows, columns = reads.grid(image.size)
    share = np.add.reduceat(
        np.add.reduceat(crop > 0, range(0, 8 * rows, 8), 0), range(0, 8 * columns, 8), 1
    )
    np.testing.assert_allclose(reads.cover(image), share.reshape(-1) / 64, atol=1e-7)
    outside = reads.transform_boxes(np.array([[-5, -5, 200, 200]]), image.size)
    np.testing.assert_allclose(outside[0], [0, 0, crop.shape[1], crop.shape[0]])


NAFLEX = {
    "learned": "timm:naflexvit_base_patch16_gap",
    "factorised": "timm:naflexvit_base_patch16_parfac_gap",
    "with a pooler": "timm:naflexvit_base_patch16_siglip",
}
TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models, three blocks deep and 32 wide, with weights away from their initial ones."""
    create = timm.create_model

    def small(name: str, **options: Any) -> nn.Module:
        return perturbed(create(name, **{**TINY, **options}))

    monkeypatch.setattr(timm, "create_model", small)


def batch_of(backbone: Backbone) -> Ragged:
    made = batched([backbone.preprocessing.transform(one) for one in PICTURES])
    assert isinstance(made, Ragged)
    return made


def alone_and_together(backbone: Backbone) -> list[Tokens]:
    """The tokens of a batch; those of each image alone are the same, and padding is outside the mask."""
    backbone.double()
    together = backbone.forward_layers(batch_of(backbone))
    for row, one in enumerate(PICTURES):
        read = backbone.preprocessing.transform(one)
        assert isinstance(read, Ragged)
        for tokens, alone in zip(together, backbone.forward_layers(read), strict=True):
            assert tokens.mask is not None
            own = tokens.mask[row]
            assert int(own.sum()) == int(read.lengths)
            torch.testing.assert_close(
                tokens.patches[row, own], alone.patches[0], atol=1e-10, rtol=1e-8
            )
            torch.testing.assert_close(tokens.prefix[row], alone.prefix[0], atol=1e-10, rtol=1e-8)
            for name, vector in tokens.vectors.items():
                torch.testing.assert_close(
                    vector[row], alone.vectors[name][0], atol=1e-10, rtol=1e-8
                )
    grids = [backbone.preprocessing.grid(one.size) for one in PICTURES]  # type: ignore[attr-defined]
    assert together[0].grids == grids
    assert len(set(grids)) > 2
    return together


@pytest.mark.parametrize("name", NAFLEX)
def test_naflex_models_of_timm(name: str, tiny: None) -> None:
    spec = f"{NAFLEX[name]}?pretrained=false&image_size=native&max_tokens=20&layer=0,2"
    backbone = load_backbone(spec)
    first, last = alone_and_together(backbone)
    assert backbone.per_layer()[1].shape.lengths == (1, 20)
    model = copy.deepcopy(backbone.reader.model)
    patches = batch_of(backbone).to(torch.float64)
    assert patches.coords is not None
    inputs = {
        "patches": patches.padded(),
        "patch_coord": patches.padded(patches.coords).long(),
        "patch_valid": patches.mask,
    }
    with torch.no_grad():
        features = model.forward_features(**inputs)["patches"]
        blocks = model.forward_intermediates(
            inputs, indices=[0], norm=True, output_fmt="NLC", intermediates_only=True
        )
        pooled = model.forward_head(features, pre_logits=True, patch_valid=patches.mask)
    prefix = last.prefix.shape[1]
    own = patches.mask
    torch.testing.assert_close(last.patches[own], features[:, prefix:][own])
    torch.testing.assert_close(last.prefix, features[:, :prefix])
    torch.testing.assert_close(first.patches[own], blocks[0][own])
    assert first.vectors == {}
    assert list(last.vectors) == (["pooled"] if name == "with a pooler" else [])
    if last.vectors:
        torch.testing.assert_close(last.vectors["pooled"], pooled)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"]
)
def test_other_transformers_of_timm(name: str, tiny: None) -> None:
    """Their own forward pass on each image by itself, at the size that the transform made."""
    spec = f"timm:{name}?pretrained=false&image_size=native&max_tokens=20"
    backbone = load_backbone(f"{spec}&layer=1,2&norm=true")
    first, last = alone_and_together(backbone)
    reads = backbone.preprocessing
    assert isinstance(reads, NativePreprocessing)
    model = backbone.reader.get_submodule("reader").model
    for row, one in enumerate(PICTURES):
        pixels = np.asarray(reads.crop(one), np.float64) / 255
        image = torch.from_numpy((pixels - reads.mean) / reads.std).permute(2, 0, 1)[None]
        with torch.no_grad():
            whole = model.forward_features(image)[0]
            blocks = model.forward_intermediates(
                image, indices=[1], norm=True, output_fmt="NLC", intermediates_only=True
            )
        prefix = last.prefix.shape[1]
        assert last.mask is not None
        own = last.mask[row]
        # The transform is float32.
        torch.testing.assert_close(last.patches[row, own], whole[prefix:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(last.prefix[row], whole[:prefix], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(first.patches[row, own], blocks[0][0], atol=1e-4, rtol=1e-4)
    (alone,) = backbone.per_layer()[1].forward_layers(batch_of(backbone))
    torch.testing.assert_close(alone.patches, last.patches)
    assert backbone.per_layer()[1].identity() != load_backbone(spec).identity()


def saved(folder: Any, model: str, config: str, processor: Any, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    made = perturbed(getattr(transformers, model)(getattr(transformers, config)(**fields)))
    made.save_pretrained(folder)  # type: ignore[operator]
    processor.save_pretrained(folder)
    return made


SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_siglip2_of_transformers(tmp_path: Any) -> None:
    processor = siglip2.Siglip2ImageProcessorPil(
        patch_size=8, max_num_patches=20, image_mean=MEAN, image_std=STD, resample=2
    )
    plain = transformers.Siglip2ImageProcessor(
        **{
            key: getattr(processor, key)
            for key in ("patch_size", "max_num_patches", "image_mean", "image_std", "resample")
        }
    )
    model = saved(
        tmp_path,
        "Siglip2VisionModel",
        "Siglip2VisionConfig",
        plain,
        **SIZE,
        num_patches=9,
        patch_size=8,
    )
    backbone = load_backbone(f"transformers:{tmp_path}?image_size=native")
    assert isinstance(backbone.preprocessing, NativePreprocessing)
    assert (backbone.preprocessing.max_tokens, backbone.preprocessing.interpolation) == (
        20,
        "bilinear",
    )
    assert backbone.shape.lengths == (1, 20)
    assert not any("cropped" in line for line in backbone.assumed)
    (tokens,) = alone_and_together(backbone)
    with torch.no_grad():
        expected = model.double()(**processor(images=PICTURES, return_tensors="pt"))
    assert tokens.mask is not None
    longest = tokens.mask.shape[1]
    torch.testing.assert_close(
        tokens.patches[tokens.mask],
        expected.last_hidden_state[:, :longest][tokens.mask],
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        tokens.vectors["pooled"], expected.pooler_output, atol=1e-4, rtol=1e-4
    )
    assert load_backbone(
        f"transformers:{tmp_path}?image_size=native&max_tokens=12"
    ).shape.lengths == (1, 12)


@pytest.mark.parametrize(
    ("model", "config", "prefix", "fields"),
    [
        ("Dinov2Model", "Dinov2Config", 1, {}),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", 4, {"num_register_tokens": 3}),
        ("DINOv3ViTModel", "DINOv3ViTConfig", 3, {"num_register_tokens": 2}),
    ],
)
def test_dino_of_transformers(
    tmp_path: Any, model: str, config: str, prefix: int, fields: dict[str, Any]
) -> None:
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD, resample=2
    )
    made = saved(tmp_path, model, config, processor, **SIZE, image_size=32, patch_size=8, **fields)
    backbone = load_backbone(f"transformers:{tmp_path}?image_size=native")
    reads = backbone.preprocessing
    assert isinstance(reads, NativePreprocessing)
    assert reads.max_tokens == 16
    assert any("max_tokens=16, as many as" in line for line in backbone.assumed)
    (tokens,) = alone_and_together(backbone)
    made.double()
    for row, one in enumerate(PICTURES):
        pixels = np.asarray(reads.crop(one), np.float64) / 255
        image = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = made(pixel_values=image).last_hidden_state[0]
        assert tokens.mask is not None
        torch.testing.assert_close(
            tokens.patches[row, tokens.mask[row]], expected[prefix:], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(tokens.prefix[row], expected[:prefix], atol=1e-4, rtol=1e-4)


def test_modules_are_read_as_they_are(tiny: None) -> None:
    """A model of timm by itself, in training or not; and a module of the user's that takes patches."""
    model = timm.create_model("naflexvit_base_patch16_gap").train()
    backbone = load_backbone(model, image_size="native", max_tokens=12, layer=[0, 2])
    assert model.training
    assert backbone.per_layer()[0].shape.lengths == (1, 12)

    class Patches(nn.Module):
        preprocessing = NativePreprocessing(8, 30, MEAN, STD)

        def tokens(self, images: Ragged) -> Tokens:
            assert images.coords is not None
            padded = images.padded()
            return Tokens(
                padded, padded[:, :0], mask=images.mask, coords=images.padded(images.coords)
            )

    own = load_backbone(Patches(), max_tokens=20)
    alone_and_together(own)
    assert own.shape.lengths == (1, 20)
    with pytest.raises(IceprobeError, match="as its preprocessing says: leave image_size=32 out"):
        load_backbone(Patches(), image_size=32)
    with pytest.raises(
        IceprobeError, match="image_size=native is for models of timm, and for modules with"
    ):
        load_backbone(nn.Identity(), image_size="native", mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet18?image_size=native", "vision transformers that take images of any shape, and timm's resnet18"),
        ("timm:swin_tiny_patch4_window7_224?image_size=native", "SwinTransformer doesn't"),
        ("timm:vit_tiny_patch16_224?max_tokens=12", "max_tokens=12 is of images of their own shape: add image_size="),
        ("timm:vit_tiny_patch16_224?image_size=native&max_tokens=2", "write a number of patches from 4 to"),
        ("timm:vit_tiny_patch16_224?image_size=native&crop_pct=0.9", "leave crop_pct out"),
        ("timm:vit_tiny_patch16_224?image_size=own", "write a number of pixels from 1 to 16384, or native"),
    ],
)  # fmt: skip
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(IceprobeError, match=message) as caught:
        load_backbone(f"{spec}&pretrained=false")
    assert "\n" not in str(caught.value)


def test_what_needs_one_size_is_refused(tiny: None) -> None:
    backbone = load_backbone(
        "timm:vit_tiny_patch16_224?pretrained=false&image_size=native&max_tokens=12"
    )
    for what in ("an ONNX file", "the attention of heads"):
        with pytest.raises(
            IceprobeError, match=f"{what} is of images of one size, .* in place of native"
        ):
            backbone.of_images(what)


def test_a_grid_is_all_cells_row_by_row() -> None:
    """Places that are pixels of a slide, seconds, or cells in another order make none."""

    def grids(*cells: list[tuple[float, ...]]) -> Any:
        most, axes = max(map(len, cells)), len(cells[0][0])
        coords, mask = (
            torch.zeros(len(cells), most, axes),
            torch.zeros(len(cells), most, dtype=torch.bool),
        )
        for row, one in enumerate(cells):
            coords[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), True
        patches = torch.zeros(len(cells), most, 3)
        return Tokens(patches, patches[:, :0], mask=mask, coords=coords).grids

    wide, tall = [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0)], [(0.0, 0.0), (1.0, 0.0)]
    square = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    assert grids(wide, square, tall) == [(1, 3), (2, 2), (2, 1)]
    for other in (
        [square[k] for k in (0, 2, 1, 3)],
        square[:3],
        [(0.0, 0.0), (0.0, 256.0)],
        [(0.5, 0.0)],
    ):
        assert grids(wide, other) is None
    assert grids([(0.0,), (1.0,)]) is None
    patches = torch.zeros(2, 6, 3)
    assert Tokens(patches, patches[:, :0], (2, 3)).grids == [(2, 3)] * 2
    assert Tokens(patches, patches[:, :0]).grids is None
