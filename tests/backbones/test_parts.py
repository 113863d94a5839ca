"""Backbones of images over the frames of a clip: tokens against each frame's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import iceprobe
from iceprobe.backbones import Preprocessing, load_backbone, parts
from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.clips import ArrayClip
from iceprobe.probes.probe import build_for
from tests.native import Patches

MODEL = "bundled:mae-tiny"


class Noise(Split):
    """Clips of noise, of 6 frames and more."""

    kind = "clip"

    def example(self, index: int) -> ArrayClip:
        rng = np.random.default_rng((len(self.name), index))
        return ArrayClip(rng.integers(0, 256, (6 + index, 40, 44), np.uint8))

    def image(self, index: int) -> Image.Image:
        return self.example(index).middle()

    def fingerprint(self) -> str:
        return self.name


def clips() -> Dataset:
    splits = {
        name: Noise(name, np.array([0, 1, 0]), [f"{name}{k}" for k in range(3)])
        for name in ("train", "test")
    }
    return Dataset("python:noise", "noise", ["a", "b"], splits)


def each_alone(model, clip: ArrayClip, indices: list[int]) -> list:
    """Tokens of each frame, as an image by itself."""
    images = [model.preprocessing.transform(Image.fromarray(f)) for f in clip.frames(indices)]
    return [model(image[None]) for image in images]


@pytest.mark.parametrize("layer", [-1, 1])
def test_every_frame_is_an_image(layer: int, monkeypatch) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", 3)  # of 8 frames
    image = load_backbone(MODEL, layer=layer)
    reads = load_backbone(f"{MODEL}?frames=4&layer={layer}")
    assert reads.grid == (4, *image.grid)
    assert reads.shape.num_tokens == 4 * image.num_tokens
    examples = [clips().splits["train"].example(row) for row in range(2)]
    batch = torch.stack([reads.preprocessing.transform(one) for one in examples])
    found = reads(batch)
    for row, clip in enumerate(examples):
        own = each_alone(image, clip, reads.preprocessing.indices(clip).tolist())
        patches = torch.cat([one.patches[0] for one in own])
        assert torch.allclose(found.patches[row], patches, atol=1e-5)
        prefix = torch.stack([one.prefix[0] for one in own]).mean(0)
        assert torch.allclose(found.prefix[row], prefix, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, "bundled:supervised-tiny"])
def test_one_vector_a_frame(model: str) -> None:
    image, reads = load_backbone(model), load_backbone(model, frames=3, each="pooled")
    clip = clips().splits["test"].example(1)
    found = reads(reads.preprocessing.transform(clip)[None])
    own = each_alone(image, clip, reads.preprocessing.indices(clip).tolist())
    vectors = [one.class_token if one.has_class else one.mean for one in own]
    assert found.grid == (3,)
    assert torch.allclose(found.patches[0], torch.cat(vectors), atol=1e-5)


def test_the_mean_is_kept_where_a_pooler_was_trained() -> None:
    """As linear probes read it: not the class token of such a model."""

    class Pooled(nn.Module):
        attn_pool = nn.Identity()

        def tokens(self, images):
            patches = images.flatten(2).transpose(1, 2)
            return iceprobe.Tokens(patches, patches[:, :1] + 100, (4, 4), has_class=True)

    reads = load_backbone(
        Pooled(), image_size=4, mean=(0.0,) * 3, std=(1.0,) * 3, frames=2, each="pooled"
    )
    batch = torch.rand(1, 2, 3, 4, 4)
    assert torch.allclose(reads(batch).patches[0], batch[0].mean((2, 3)), atol=1e-6)


def test_layers_of_one_pass_are_those_of_each() -> None:
    several = load_backbone(f"{MODEL}?frames=2&layer=0,2")
    batch = torch.randn(2, *several.preprocessing.shape)
    both = several.forward_layers(batch)
    for single, tokens in zip(several.per_layer(), both, strict=True):
        alone = load_backbone(single.spec)
        assert single.spec.startswith(f"{MODEL}?frames=2&layer=")
        assert single.identity() == alone.identity()
        assert torch.allclose(alone(batch).patches, tokens.patches, atol=1e-5)
    assert torch.allclose(several.at_layers((2,))(batch).patches, both[1].patches, atol=1e-5)


def test_a_store_of_clips_is_read_again(tmp_path) -> None:
    reads = load_backbone(f"{MODEL}?frames=4")
    store = iceprobe.extract(reads, clips(), tmp_path, tokens="float32")
    assert store.grid == (4, 14, 14)
    split = clips().splits["test"]
    batch = torch.stack([reads.preprocessing.transform(split.example(row)) for row in range(3)])
    stored = store["test"].tokens(np.arange(3), "cpu")
    assert torch.allclose(stored.patches, reads(batch).patches, atol=1e-5)
    assert store.images("test", [1])[0].size == (56, 56)  # the middle frame, cropped
    assert any(
        "4 frames are spread evenly over each video" in line
        for line in store.manifest.backbone.assumed
    )
    again = iceprobe.extract(f"{MODEL}?frames=4", clips(), tmp_path, tokens="float32")
    assert again.path == store.path
    other = iceprobe.extract(f"{MODEL}?frames=4&stride=1", clips(), tmp_path, tokens="float32")
    assert other.path != store.path


def test_short_clips_are_counted(tmp_path) -> None:
    from iceprobe.store.noted import assumed_of_files

    store = iceprobe.extract(f"{MODEL}?frames=7", clips(), tmp_path)
    assert assumed_of_files(store.manifest) == [
        "2 of 6 clips of which frames are read again: they have fewer, or fewer a second, than are read"
    ]


def test_views_of_clips_are_stored(tmp_path) -> None:
    store = iceprobe.extract(f"{MODEL}?frames=2", clips(), tmp_path, views=2, tokens="float32")
    view = store["train"].views
    assert view is not None
    assert len(view) == 6
    assert not torch.allclose(
        view.tokens([0], "cpu").patches, store["train"].tokens([0], "cpu").patches
    )


AVERAGED = f"{MODEL}?frames=2&clips=3&averaged=true"


def test_a_store_says_that_its_clips_are_averaged(tmp_path) -> None:
    store = iceprobe.extract(AVERAGED, clips(), tmp_path, tokens="float32")
    plain = iceprobe.extract(f"{MODEL}?frames=2&clips=3", clips(), tmp_path, tokens="float32")
    assert store.path != plain.path
    assert (store.shape.parts, store.grid, store.shape.part_grid) == (3, (6, 14, 14), (2, 14, 14))
    first, second = ((one.path / "manifest.json").read_text() for one in (store, plain))
    assert '"parts": 3' in first
    assert '"averaged": true' in first
    assert '"parts": 3' not in second
    assert "averaged" not in second
    rows = np.arange(3)
    assert torch.equal(store["test"].tokens(rows).patches, plain["test"].tokens(rows).patches)
    assert iceprobe.extract(AVERAGED, clips(), tmp_path, tokens="float32").path == store.path


SETTINGS = {"protocol": "paper", "epochs": 1, "seeds": 1, "learning_rates": [0.01]}


@pytest.mark.parametrize("layers", ["", "?layers=0,2"])
def test_a_fit_averages(layers: str, tmp_path) -> None:
    """Against the fitted probe on the tokens of each clip alone."""
    if layers:
        spec = f"{AVERAGED}&layer=0,2"
        stores = iceprobe.extract_layers(spec, clips(), tmp_path / "stores", tokens="float32")
        settings = {**SETTINGS, "output": tmp_path / "run"}
        (result,) = iceprobe.fit(stores, [f"ep2{layers}"], **settings)
    else:
        (result,) = iceprobe.probe(AVERAGED, clips(), ["ep2"], **SETTINGS)
    (module,), several = result.probes, "&layer=0,2" if layers else ""
    alone = load_backbone(f"{MODEL}?frames=2{several}")
    one = build_for(alone.joined_shape if layers else alone.shape, result.label, 2)
    one.load_state_dict(module.state_dict())
    every = load_backbone(AVERAGED).preprocessing
    split = clips().splits["test"]
    found = []
    for row in range(3):
        frames = every.transform(split.example(row)).unflatten(0, (3, 2))
        with torch.no_grad():
            logits = one.eval()(alone.joined(frames) if layers else alone(frames))
        found.append(logits.softmax(-1).mean(0))
    kept = torch.from_numpy(iceprobe.records(result)["logits"][0].astype(np.float32))
    torch.testing.assert_close(kept.softmax(-1), torch.stack(found), atol=5e-3, rtol=0)


def test_one_vector_a_frame_is_averaged_over_clips() -> None:
    pooled = load_backbone(AVERAGED, each="pooled")
    assert (pooled.shape.parts, pooled.grid) == (3, (6,))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"frames": 2, "averaged": True}, "averaged=true is of several clips of a video"),
        (
            {"frames": 1, "clips": 2, "averaged": True, "each": "pooled"},
            "each=pooled keeps one vector of it: drop one of them",
        ),
        ({"reads": "bags", "averaged": True}, "averaged=True is of clips and reads=bags of bags"),
        ({"each": "pooled"}, "each=pooled is of examples of several images"),
        ({"stride": 2}, "say how many frames of a video are read, frames=8"),
        ({"frames": 2, "stride": 2, "fps": 1.0}, "stride=2 and fps=1 exclude each other"),
        ({"frames": 0}, "frames=0"),
        ({"frames": 2, "each": "some"}, "write patches or pooled"),
    ],
)
def test_options_that_do_not_fit(options: dict, error: str) -> None:
    with pytest.raises(IceprobeError, match=error):
        load_backbone(MODEL, **options)


class Frames(nn.Module):
    """A module that reads clips by itself."""

    preprocessing = ClipPreprocessing(Preprocessing(4, (0.0,) * 3, (1.0,) * 3), 2)

    def tokens(self, clips):
        patches = clips.flatten(2)
        return iceprobe.Tokens(patches, patches[:, :0])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"frames": 2, "each": "some"}, "each='some': write patches or pooled"),
        ({"frames": 2.5}, "frames=2.5: "),
        ({"reads": "bag"}, "reads='bag': write clips or bags"),
    ],
)
def test_options_of_a_module_are_read_as_in_a_spec(options: dict, error: str) -> None:
    images = {"image_size": 4, "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(IceprobeError, match=error):
        load_backbone(nn.Conv2d(1, 2, 2), **images, **options)


@pytest.mark.parametrize("options", [{"frames": 8}, {"reads": "bags"}, {"stride": 2}])
def test_a_module_of_clips_reads_no_parts(options: dict) -> None:
    ((name, value),) = options.items()
    with pytest.raises(IceprobeError, match=f"reads clips, and {name}={value} is of models of im"):
        load_backbone(Frames(), **options)


def test_a_loaded_backbone_keeps_its_examples() -> None:
    with pytest.raises(IceprobeError, match="is already loaded: give its options when loading it"):
        load_backbone(load_backbone(MODEL), frames=2)


def test_clips_by_a_backbone_of_images_are_refused_with_the_remedy(tmp_path) -> None:
    with pytest.raises(IceprobeError) as caught:
        iceprobe.extract(MODEL, clips(), tmp_path)
    assert str(caught.value) == (
        "backbone 'bundled:mae-tiny' reads images, and python:noise holds clips: add frames=8 to the "
        "backbone, which then reads 8 frames of each one by one"
    )
    with pytest.raises(
        IceprobeError, match="reads clips, and bundled:fashion holds images: take a"
    ):
        iceprobe.extract(f"{MODEL}?frames=8", "bundled:fashion", tmp_path)


@pytest.mark.parametrize("options", [{"frames": 2}, {"reads": "bags"}])
def test_images_of_their_own_shape_are_no_parts(options: dict, tmp_path) -> None:
    with pytest.raises(IceprobeError, match=r"is of images of one size, .* give image_size= a"):
        load_backbone(Patches(), **options)
    with pytest.raises(IceprobeError, match="holds clips: take a backbone of clips, or data of"):
        iceprobe.extract(load_backbone(Patches()), clips(), tmp_path)


def test_processes_decode_clips_as_threads_do(tmp_path) -> None:
    stores = [
        iceprobe.extract(f"{MODEL}?frames=2", clips(), tmp_path / name, workers=workers, views=1)
        for name, workers in (("threads", 0), ("processes", 1))
    ]
    first, second = (store["train"].tokens(np.arange(3), "cpu") for store in stores)
    assert torch.equal(first.patches, second.patches)
    first, second = (store["train"].views.tokens(np.arange(3), "cpu") for store in stores)
    assert torch.equal(first.patches, second.patches)


def test_a_live_fit_sees_augmented_clips(tmp_path) -> None:
    from iceprobe.store.live_split import live

    store = live(f"{MODEL}?frames=2", clips(), augmentation="light", tokens="float32")
    assert store["train"].views is not None
    view = store["train"].views.tokens(np.array([0]), "cpu")
    assert view.grid == (2, 14, 14)
    again = store["train"].views.tokens(np.array([3]), "cpu")
    assert not torch.allclose(view.patches, again.patches)
