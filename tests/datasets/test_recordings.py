"""Recordings: samples against those that were written, labels, tables; one line for what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import BadImage
from iceprobe.datasets.pixels import seen
from iceprobe.datasets.recordings import CUT, MIXED, Recording
from iceprobe.datasets.spectrogram import BANDS, mel_picture

from .sounds import recording, tone, write

pytest.importorskip("soundfile")


def test_samples_are_those_that_were_written(tmp_path: Path) -> None:
    sound = tone(2_000)
    found, rate = recording(tmp_path / "a.wav", sound, 22_050).samples()
    assert rate == 22_050
    assert found.dtype == np.float32
    assert np.array_equal(found, sound)


@pytest.mark.parametrize(("ending", "subtype", "near"), [
    ("wav", "PCM_16", 2**-15), ("flac", "PCM_24", 2**-22), ("ogg", "VORBIS", 0.05),
    ("mp3", "MPEG_LAYER_III", 0.05),
])  # fmt: skip
def test_formats(ending: str, subtype: str, near: float, tmp_path: Path) -> None:
    sound = tone(8_000)
    path = write(tmp_path / f"a.{ending}", sound, subtype=subtype)
    found, _ = Recording(lambda: path, path.name).samples()
    assert abs(len(found) - len(sound)) <= 1_200  # MP3 ends with a whole frame
    assert abs(found[: len(sound)] - sound[: len(found)]).mean() < near


def test_channels_are_mixed_by_their_mean_and_pieces_are_cut(tmp_path: Path) -> None:
    left, right = tone(4_000), tone(4_000, 200)
    stereo = recording(tmp_path / "a.wav", np.stack([left, right], 1), 8_000)
    np.testing.assert_allclose(stereo.samples()[0], (left + right) / 2, atol=1e-7)
    assert seen(stereo).done == (MIXED,)
    piece, _ = stereo.samples(0.25)
    np.testing.assert_allclose(piece, (left + right)[:2_000] / 2, atol=1e-7)
    assert seen(stereo).done == (MIXED, CUT)
    assert len(stereo.samples(9.0)[0]) == 4_000


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    def samples(path: Path) -> np.ndarray:
        return Recording(lambda: path, path.name).samples()[0]

    (tmp_path / "a.wav").write_bytes(b"no sound at all" * 100)
    with pytest.raises(BadImage, match=r"recording 'a.wav' can't be read \(.*\): mend or remove"):
        samples(tmp_path / "a.wav")
    with pytest.raises(BadImage, match=r"'b.wav' is empty: mend or remove it"):
        samples(write(tmp_path / "b.wav", np.zeros(0, np.float32)))
    broken = tone(100)
    broken[7] = np.nan
    with pytest.raises(BadImage, match=r"'c.wav' holds values that aren't finite"):
        samples(write(tmp_path / "c.wav", broken))
    whole = write(tmp_path / "d.flac", tone(40_000), subtype="PCM_16").read_bytes()
    (tmp_path / "d.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage, match=r"'d.flac' (ends after|can't be read)"):
        samples(tmp_path / "d.flac")


def test_a_folder_a_class(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for name in ("kick", "snare"):
            for k in range(count):
                write(tmp_path / split / name / f"{k}.wav", tone(500 + k))
    (tmp_path / "train" / "kick" / "notes.txt").write_text("no sound")
    data = load_dataset(f"audio:{tmp_path}")
    assert data.kind == "sound"
    assert data.classes == ["kick", "snare"]
    assert data.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.splits["test"].names == ["test/kick/0.wav", "test/snare/0.wav"]
    assert "1 of 9 files are no recordings that audio: reads" in data.assumed[0]
    assert np.array_equal(data.splits["train"].example(1).samples()[0], tone(501))
    before = data.splits["train"].fingerprint()
    write(tmp_path / "train" / "kick" / "1.wav", tone(700))
    assert load_dataset(f"audio:{tmp_path}").splits["train"].fingerprint() != before
    with pytest.raises(IceprobeError, match=r"no folder '/no/where': pass audio:DIR"):
        load_dataset("audio:/no/where")
    with pytest.raises(
        IceprobeError, match=r"option 'alpha' .* and these are sounds: leave it out"
    ):
        load_dataset(f"audio:{tmp_path}?alpha=drop")


def test_a_table_of_recordings(tmp_path: Path) -> None:
    rows = ["file,instrument,kit,split"]
    for k in range(8):
        write(tmp_path / "sounds" / f"{k}.wav", tone(500 + k))
        rows.append(f"{k}.wav,{'ab'[k % 2]},kit {k // 2},{'train' if k < 6 else 'test'}")
    table = tmp_path / "drums.csv"
    table.write_text("\n".join(rows))
    spec = f"table:{table}?sound=file&images={tmp_path / 'sounds'}&target=instrument&group=kit&split=split"
    data = load_dataset(spec)
    assert data.kind == "sound"
    assert data.classes == ["a", "b"]
    assert len(data.splits["train"]) == 6
    kits = data.splits["test"].columns["kit"]
    assert [kits.values[code] for code in kits.codes] == ["kit 3", "kit 3"]
    assert np.array_equal(data.splits["test"].example(1).samples()[0], tone(507))
    before = data.splits["train"].fingerprint()
    table.write_text("\n".join([*rows, rows[-1]]).replace(",b,", ",c,"))
    again = load_dataset(spec)
    assert again.splits["train"].fingerprint() != before
    assert again.assumed[0].startswith("1 rows repeat a sound and all of its values")
    (tmp_path / "sounds" / "7.wav").unlink()
    with pytest.raises(BadImage, match=r"7\.wav' can't be read"):
        again.splits["test"].example(1).samples()
    write(tmp_path / "sounds" / "7.wav", tone(507))
    with pytest.raises(IceprobeError, match=r"option box=kit .* beside sound=: it is of images"):
        load_dataset(spec + "&box=kit")
    with pytest.raises(IceprobeError, match=r"sound=kit .* beside video=: it is another kind"):
        load_dataset(f"table:{table}?video=file&sound=kit&target=instrument")
    with pytest.raises(IceprobeError, match=r"row 2.*no sound '0.wav'.*pass images=.*sounds"):
        load_dataset(f"table:{table}?sound=file&target=instrument")


def test_the_spectrogram_of_a_tone_is_a_line_at_its_pitch() -> None:
    rate, hertz = 16_000, 1_000.0
    sound = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    sound[: rate // 2] = 0
    values = np.asarray(mel_picture(sound, rate)).astype(int)
    assert values.shape == (BANDS, 100)
    top = 2595 * np.log10(1 + 8_000 / 700)
    band = 2595 * np.log10(1 + hertz / 700) / top * (BANDS + 1) - 1  # the middles of the triangles
    loudest = BANDS - 1 - values[:, 75].argmax()  # the lowest band is below
    assert abs(loudest - band) <= 1
    assert values.max() == 255
    assert values[:, 10].max() == 0
