"""From recordings to inputs, and recordings through extraction, fits and live tokens."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import iceprobe
from iceprobe.backbones import load_backbone
from iceprobe.backbones.kinds import ExamplePreprocessing, Ragged
from iceprobe.backbones.sound_preprocessing import SoundPreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.pixels import seen
from iceprobe.datasets.recordings import CUT, MIXED, RESAMPLED
from iceprobe.tokens import Tokens

from ..datasets.sounds import recording, tone, write

pytest.importorskip("soundfile")
pytest.importorskip("soxr")


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_another_rate_gives_the_same_tone(rate: int, tmp_path: Path) -> None:
    """A tone far below half of either rate, sampled at the backbone's."""
    times = np.arange(2 * rate) / rate
    one = recording(tmp_path / "a.wav", np.sin(2 * np.pi * 500 * times).astype(np.float32), rate)
    found = SoundPreprocessing(16_000).samples(one)
    assert len(found) == 32_000
    expected = np.sin(2 * np.pi * 500 * np.arange(32_000) / 16_000)
    assert abs(found - expected)[800:-800].max() < 1e-3  # but for the ends
    assert seen(one).done == (RESAMPLED,)


def test_the_longest_piece_and_the_shortest(tmp_path: Path) -> None:
    sound = tone(20_000)
    one = recording(tmp_path / "a.wav", sound)
    reads = SoundPreprocessing(16_000, seconds=0.5, shortest=400)
    assert np.array_equal(reads.samples(one), sound[:8_000])
    assert seen(one).done == (CUT,)
    whole = SoundPreprocessing(16_000).transform(one)
    assert isinstance(whole, Ragged)
    assert torch.equal(whole.values, torch.from_numpy(sound))
    short = recording(tmp_path / "b.wav", tone(399))
    with pytest.raises(IceprobeError, match=r"it has 399 samples of 16000 a second, .* needs 400"):
        reads.samples(short)
    with pytest.raises(IceprobeError, match=r"seconds=0.0: take a number above 0"):
        SoundPreprocessing(16_000, seconds=0.0)


@pytest.mark.parametrize("name", ["AST", "Wav2Vec2", "Whisper", "Clap"])
def test_features_are_the_extractors_own_and_so_is_a_reloaded_one(
    name: str, tmp_path: Path
) -> None:
    extractor: Any = getattr(transformers, f"{name}FeatureExtractor")()
    reads = SoundPreprocessing(extractor.sampling_rate, extractor=extractor.to_dict())
    sound = tone(6_000, rate=extractor.sampling_rate)
    one = recording(tmp_path / "a.wav", sound, extractor.sampling_rate)
    made = reads.transform(one)
    own = next(
        iter(extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt").values())
    )
    found = made.values[None] if isinstance(made, Ragged) else made[None]
    if name == "Whisper":
        assert found[0, -1].tolist() == [1.0] * 38 + [0.0] * 2962  # 6000 / 160, rounded up
        found = found[:, :-1]
    torch.testing.assert_close(found, own.float(), atol=1e-6, rtol=0)
    again = ExamplePreprocessing.from_dict(reads.as_dict())
    assert again == reads
    for other in (again, pickle.loads(pickle.dumps(reads))):  # noqa: S301 (made here)
        remade = other.transform(one)
        ours, theirs = (x.values if isinstance(x, Ragged) else x for x in (made, remade))
        assert torch.equal(ours, theirs)


def test_an_unknown_extractor_is_refused() -> None:
    fields = {"kind": "sound", "rate": 16_000, "extractor": {"feature_extractor_type": "os.system"}}
    with pytest.raises(IceprobeError, match=r"feature extractor 'os.system': it is none of"):
        ExamplePreprocessing.from_dict(fields)


class Loudness(nn.Module):
    """A token every 400 samples: its mean, its loudness on a logarithmic scale, its peak."""

    preprocessing = SoundPreprocessing(8_000, shortest=400)

    def tokens(self, sounds: Ragged) -> Tokens:
        padded = sounds.padded()
        count = padded.shape[1] // 400
        pieces = padded[:, : count * 400].unflatten(1, (count, 400))
        found = torch.stack([pieces.mean(2), pieces.square().mean(2).log10(), pieces.amax(2)], 2)
        mask = torch.arange(count, device=padded.device) < (sounds.lengths // 400)[:, None]
        return Tokens(found, found[:, :0], mask=mask)


def drums(folder: Path) -> str:
    """Two classes that differ in their loudness, of several lengths, in stereo and at two rates."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for k in range(count):
            for name, loud in (("quiet", 0.002), ("loud", 0.5)):
                length = int(rng.integers(900, 4_000))
                rate = 8_000 if k % 3 else 16_000
                values = (loud * rng.normal(0, 0.3, (length, 1 + k % 2))).astype(np.float32)
                write(folder / split / name / f"{k}.wav", values, rate)
    return f"audio:{folder}"


def test_recordings_are_extracted_and_fitted(tmp_path: Path) -> None:
    data = load_dataset(drums(tmp_path / "drums"))
    store = iceprobe.extract(Loudness(), data, tmp_path / "store", tokens="float32")
    split, source = store["train"], data.splits["train"]
    tokens = split.tokens(np.arange(len(split)), "cpu")
    assert tokens.mask is not None
    for row in range(len(split)):
        samples = Loudness.preprocessing.samples(source.example(row))
        count = len(samples) // 400
        pieces = samples[: count * 400].reshape(count, 400)
        assert int(tokens.mask[row].sum()) == count
        np.testing.assert_allclose(
            tokens.patches[row, :count, 1], np.log10((pieces**2).mean(1)), rtol=1e-4
        )
    results = iceprobe.fit(store, ["linear?input=mean"], epochs=10, batch_size=8)
    assert results[0].metrics["top1"].mean > 0.8
    lines = "\n".join(results[0].assumed)
    assert "18 of 36 recordings with several channels, mixed to one by their mean" in lines
    assert "12 of 36 recordings at another rate than the backbone's, converted to it" in lines


def test_a_bad_recording_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = drums(tmp_path / "drums")
    write(tmp_path / "drums" / "train" / "loud" / "bad.wav", np.zeros(10, np.float32), 8_000)
    with pytest.raises(
        IceprobeError, match=r"recording 'train/loud/bad.wav' can't be made ready .*400"
    ):
        iceprobe.extract(Loudness(), spec, tmp_path / "a", tokens="float32")
    store = iceprobe.extract(
        Loudness(), spec, tmp_path / "b", tokens="float32", on_bad_image="skip", workers=1
    )
    assert store.manifest.skipped == ["train/loud/bad.wav"]
    assert caplog.messages[-1] == (
        "left out 1 recording that could not be read: 'train/loud/bad.wav'"
    )


def test_a_module_of_sound_takes_no_options_of_images() -> None:
    assert load_backbone(Loudness()).preprocessing.kind == "sound"
    with pytest.raises(IceprobeError, match=r"Loudness reads recordings, .*: drop image_size="):
        load_backbone(Loudness(), image_size=32)


def test_what_is_seen_of_a_recording(tmp_path: Path) -> None:
    data = load_dataset(drums(tmp_path / "drums"))
    split = data.splits["train"]
    plain = Loudness.preprocessing.shown(split, 0)
    assert plain.mode == "L"
    length = len(Loudness.preprocessing.samples(split.example(0)))
    assert plain.info["seconds"] == length / 8_000
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    reads = SoundPreprocessing(16_000, shortest=400, extractor=extractor.to_dict())
    picture = reads.shown(split, 0)
    assert picture.size == (64, 32)
    assert picture.info["seconds"] == pytest.approx(0.655)  # the window, padding too
    made = reads.transform(split.example(0))
    assert isinstance(made, Tensor)
    # Low bands are below, and louder is lighter.
    order = np.argsort(made.numpy().T[::-1].ravel(), kind="stable")
    assert (np.diff(np.asarray(picture).ravel()[order].astype(int)) >= 0).all()
    whisper = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    reads = SoundPreprocessing(16_000, extractor=whisper.to_dict())
    samples = reads.samples(split.example(0))
    assert reads.shown(split, 0).size == (-(-len(samples) // 160), 8)
    assert MIXED not in seen(split.example(0)).done
