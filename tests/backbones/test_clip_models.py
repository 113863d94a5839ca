"""Models of videos in transformers, saved as users have them, against the library's own outputs."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from iceprobe.backbones import load_backbone
from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.clips import ArrayClip
from iceprobe.probes.probe import build_for
from iceprobe.tasks import get_task

from .builders import perturbed

SIDE, FRAMES, PATCH = 24, 4, 8
WIDTHS = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIDE,
    "num_frames": FRAMES,
}
CROP = {"crop_size": {"height": SIDE, "width": SIDE}}
CENTRE = ("VideoMAEImageProcessor", {**CROP, "size": {"shortest_edge": SIDE}})


@dataclass
class Case:
    """A model type with its processor, and how its own tokens lie."""

    family: str  # as the library's classes begin
    fields: dict[str, Any]
    processor: str
    sizes: dict[str, Any]
    prefix: int
    time: int  # of the grid
    name: str = "pixel_values"
    norm: str = "layernorm"


CASES = {
    "VideoMAE": Case(
        "VideoMAE",
        {**WIDTHS, "patch_size": PATCH, "tubelet_size": 2, "use_mean_pooling": False},
        *CENTRE,
        prefix=0,
        time=2,
    ),
    "V-JEPA 2": Case(
        "VJEPA2",
        {
            **{k: v for k, v in WIDTHS.items() if k not in ("image_size", "num_frames")},
            "crop_size": SIDE,
            "patch_size": PATCH,
            "frames_per_clip": FRAMES,
            "tubelet_size": 2,
            "pred_hidden_size": 12,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        "VJEPA2VideoProcessor",
        {"crop_size": SIDE},
        prefix=0,
        time=2,
        name="pixel_values_videos",
        norm="encoder.layernorm",
    ),
    "TimeSformer": Case(
        "Timesformer",
        {**WIDTHS, "patch_size": PATCH},
        *CENTRE,
        prefix=1,
        time=4,
    ),
    "ViViT": Case(
        "Vivit",
        {**WIDTHS, "tubelet_size": [2, PATCH, PATCH]},
        "VivitImageProcessor",
        {**CROP, "size": {"shortest_edge": 31}},
        prefix=1,
        time=2,
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def made(case: Case, folder) -> tuple[Any, str]:
    config = getattr(transformers, f"{case.family}Config")(**case.fields)
    model = perturbed(getattr(transformers, f"{case.family}Model")(config)).eval()
    model.save_pretrained(folder)
    getattr(transformers, case.processor)(**case.sizes).save_pretrained(folder)
    return model, f"transformers:{folder}"


def noise(count: int = 11, height: int = 37, width: int = 52) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)


def in_order(case: Case, tokens: torch.Tensor) -> torch.Tensor:
    """The library's tokens frame by frame: those of TimeSformer come place by place."""
    if case.family != "Timesformer":
        return tokens
    places = (SIDE // PATCH) ** 2
    rows = [1 + place * FRAMES + time for time in range(FRAMES) for place in range(places)]
    return tokens[:, [0, *rows]]


@cases
def test_tokens_are_the_library_s(case: Case, tmp_path) -> None:
    model, spec = made(case, tmp_path)
    backbone = load_backbone(spec)
    batch = torch.randn(2, FRAMES, 3, SIDE, SIDE)
    with torch.no_grad():
        own = in_order(case, model(**{case.name: batch}).last_hidden_state)
    found = backbone(batch)
    assert found.grid == (case.time, 3, 3)
    assert found.has_class == bool(case.prefix)
    joined = torch.cat([found.prefix, found.patches], 1)
    assert torch.allclose(joined, own, atol=1e-5)
    assert backbone.preprocessing.kind == "clip"
    assert backbone.preprocessing.shape == (FRAMES, 3, SIDE, SIDE)


@cases
def test_earlier_layers_have_their_own_tokens(case: Case, tmp_path) -> None:
    model, spec = made(case, tmp_path)
    found: list[torch.Tensor] = []
    encoder = model.encoder.layer if hasattr(model, "encoder") else model.layers
    encoder[1].register_forward_hook(
        lambda module, inputs, output: found.append(
            output if isinstance(output, torch.Tensor) else output[0]
        )
    )
    batch = torch.randn(2, FRAMES, 3, SIDE, SIDE)
    with torch.no_grad():
        model(**{case.name: batch})
        own = in_order(case, found[0])
        normed = in_order(case, model.get_submodule(case.norm)(found[0]))
    without, with_norm = (load_backbone(spec, layer=1, norm=norm)(batch) for norm in (False, True))
    for tokens, expected in ((without, own), (with_norm, normed)):
        assert torch.allclose(torch.cat([tokens.prefix, tokens.patches], 1), expected, atol=1e-5)


@cases
def test_frames_are_the_processor_s(case: Case, tmp_path) -> None:
    """To float rounding, of frames that are wider than high by an odd number of pixels, and higher."""
    _, spec = made(case, tmp_path)
    backbone = load_backbone(spec)
    assert [line for line in backbone.assumed if "pixels" in line] == []
    processor = getattr(transformers, case.processor)(**case.sizes)
    for size in ((37, 52), (61, 33)):
        values = noise(11, *size)
        chosen = backbone.preprocessing.indices(ArrayClip(values))
        theirs = processor([list(values[chosen])], return_tensors="pt")[case.name][0]
        ours = backbone.preprocessing.transform(ArrayClip(values))
        assert torch.allclose(ours, theirs, atol=2e-6, rtol=0), float((ours - theirs).abs().max())


def test_a_model_for_the_mean_of_its_tokens_has_no_norm(tmp_path) -> None:
    case = CASES["VideoMAE"]
    case = replace(case, fields={**case.fields, "use_mean_pooling": True})
    model, spec = made(case, tmp_path)
    batch = torch.randn(1, FRAMES, 3, SIDE, SIDE)
    with torch.no_grad():
        own = model(pixel_values=batch).last_hidden_state
    assert torch.allclose(load_backbone(spec)(batch).patches, own, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("VideoMAE", {"frames": 8}, "its model takes 4 frames: take frames=4"),
        ("V-JEPA 2", {"frames": 3}, "its model takes a multiple of 2 frames"),
        ("V-JEPA 2", {"image_size": 32}, "its clips are of 24 x 24 pixels"),
        ("TimeSformer", {"reads": "bags"}, "reads=bags is of models of images"),
        ("ViViT", {"stride": 2, "fps": 3.0}, "stride=2 and fps=3 exclude each other"),
        ("ViViT", {"clips": 0}, "clips=0: take a number above 0"),
        ("VideoMAE", {"num_prefix": 1}, "num_prefix doesn't apply to the model type"),
        (
            "VideoMAE",
            {"averaged": True},
            "averaged=true is of several clips of a video, and one is",
        ),
        (
            "ViViT",
            {"clips": 2, "averaged": True, "each": "pooled"},
            "each=pooled keeps one vector of it: drop one of them",
        ),
    ],
)
def test_what_it_cannot_read_is_refused(name: str, options: dict, error: str, tmp_path) -> None:
    _, spec = made(CASES[name], tmp_path)
    with pytest.raises(IceprobeError, match=error):
        load_backbone(spec, **options)


def test_more_frames_than_it_was_made_for_where_positions_are_turned(tmp_path) -> None:
    model, spec = made(CASES["V-JEPA 2"], tmp_path)
    batch = torch.randn(1, 6, 3, SIDE, SIDE)
    backbone = load_backbone(spec, frames=6)
    with torch.no_grad():
        own = model(pixel_values_videos=batch, skip_predictor=True).last_hidden_state
    assert backbone.grid == (3, 3, 3)
    assert torch.allclose(backbone(batch).patches, own, atol=1e-5)


@pytest.mark.parametrize("each", ["patches", "pooled"])
@pytest.mark.parametrize("name", ["TimeSformer", "V-JEPA 2"])
def test_several_clips_lie_side_by_side(name: str, each: str, tmp_path) -> None:
    model, spec = made(CASES[name], tmp_path)
    case = CASES[name]
    backbone = load_backbone(spec, clips=3, each=each)
    batch = torch.randn(2, 3 * FRAMES, 3, SIDE, SIDE)
    found = backbone(batch)
    assert found.grid == ((3 * case.time, 3, 3) if each == "patches" else (3,))
    with torch.no_grad():
        for row in range(2):
            alone = [
                in_order(
                    case,
                    model(**{case.name: batch[row : row + 1, k : k + FRAMES]}).last_hidden_state,
                )
                for k in range(0, 3 * FRAMES, FRAMES)
            ]
            patches = torch.cat([one[:, case.prefix :] for one in alone], 1)
            prefix = torch.stack([one[:, : case.prefix] for one in alone]).mean(0)
            if each == "pooled":
                vectors = [one[:, 0] if case.prefix else one.mean(1) for one in alone]
                patches = torch.stack(vectors, 1)
            assert torch.allclose(found.patches[row : row + 1], patches, atol=1e-5)
            assert torch.allclose(found.prefix[row : row + 1], prefix, atol=1e-5)


@pytest.mark.parametrize("name", ["TimeSformer", "V-JEPA 2"])
def test_answers_for_several_clips_are_averaged(name: str, tmp_path) -> None:
    """The same probe on the library's tokens of each clip, and the mean of the probabilities."""
    model, spec = made(CASES[name], tmp_path)
    case = CASES[name]
    backbone, plain = load_backbone(spec, clips=3, averaged=True), load_backbone(spec, clips=3)
    assert backbone.shape == replace(plain.shape, parts=3)
    assert {**plain.identity(), "averaged": True} == backbone.identity()
    assert backbone.at_layers((0, 2)).joined_shape.layers[0].parts == 3
    probe = build_for(backbone.shape, "clip4", 5, 0, get_task("classification")).eval()
    one = build_for(load_backbone(spec).shape, "clip4", 5, 0).eval()
    batch = torch.randn(2, 3 * FRAMES, 3, SIDE, SIDE)
    with torch.no_grad():
        clips = model(**{case.name: batch.view(6, FRAMES, 3, SIDE, SIDE)}).last_hidden_state
        alone = one(in_order(case, clips)[:, case.prefix :])
        expected = alone.softmax(-1).view(2, 3, 5).mean(1)
        assert torch.allclose(probe(backbone(batch)).exp(), expected, atol=1e-5)


def test_without_a_processor_the_options_say_it(tmp_path) -> None:
    _, spec = made(CASES["V-JEPA 2"], tmp_path)
    (tmp_path / "video_preprocessor_config.json").unlink()
    with pytest.raises(
        IceprobeError, match=r"how its videos are prepared .* pass image_size, mean, std"
    ):
        load_backbone(spec)
    half = (0.5, 0.5, 0.5)
    found = load_backbone(spec, image_size=SIDE, mean=half, std=half, stride=2).preprocessing
    assert isinstance(found, ClipPreprocessing)
    assert (found.frames, found.stride, found.picture.crop_pct) == (FRAMES, 2, 1.0)


def test_clips_are_of_one_size(tmp_path) -> None:
    _, spec = made(CASES["VideoMAE"], tmp_path)
    with pytest.raises(IceprobeError, match="image_size=native is for models of images"):
        load_backbone(spec, image_size="native")


def test_pixels_that_are_left_as_they_are(tmp_path) -> None:
    _, spec = made(CASES["VideoMAE"], tmp_path)
    file = tmp_path / "preprocessor_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "do_normalize": False, "do_rescale": False}))
    white = torch.full((3, 1, 1), 255, dtype=torch.uint8)
    found = load_backbone(spec).preprocessing.frame.normalised_pixels(white)
    assert torch.allclose(found, torch.tensor(255.0))
