"""Maps over recordings: where each token comes to lie over the spectrogram, and on which scale."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

import iceprobe
from iceprobe.backbones import load_backbone
from iceprobe.backbones.kinds import Ragged
from iceprobe.backbones.sound_preprocessing import SoundPreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.pictures import AS_IS, map_picture
from iceprobe.reporting.spectrograms import COLUMNS, SIZE, Spectrograms, spectrograms
from iceprobe.tokens import Tokens

from ..datasets.sounds import tone, write
from .strips import checked, fitted

pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def picture() -> Image.Image:
    made = Image.new("L", SIZE, 100)
    made.info[AS_IS] = True
    return made


def test_the_lowest_band_is_below() -> None:
    found = Spectrograms([], (2, 3), None)
    cells = found.cells(torch.arange(12.0).reshape(1, 2, 6))
    assert cells[0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert cells[0, 1].tolist() == [[9, 10, 11], [6, 7, 8]]


def test_tokens_in_time_stand_for_their_part_of_the_recording() -> None:
    """Three tokens of one, six of the other; padding is beyond the picture."""
    found = Spectrograms([], None, np.array([3, 6]))
    maps = torch.zeros(2, 1, 6)
    maps[0, 0, 2], maps[1, 0, 2] = 1.0, 1.0
    maps[0, 0, 4] = 9.0  # padding
    cells = found.shares(maps)[:, 0, 0]
    third = COLUMNS // 3
    assert (cells[0, 2 * third :] > 0).all()
    assert not cells[0, : 2 * third].any()
    assert (cells[1, third : third + third // 2] > 0).all()
    assert not cells[1, third + third // 2 :].any()
    np.testing.assert_allclose(cells.sum(1), 1, rtol=1e-5)
    # More tokens than columns: none is left out.
    fine = Spectrograms([], None, np.array([5 * COLUMNS]))
    maps = torch.zeros(1, 1, 5 * COLUMNS)
    maps[0, 0, 7 * 5 + 3] = 1.0
    assert fine.shares(maps)[0, 0, 0].nonzero()[0].tolist() == [7]


@pytest.mark.parametrize("lengths", [None, np.array([4])])
def test_attention_that_is_uniform_stays_dark(lengths: np.ndarray | None) -> None:
    found = Spectrograms([picture()], None, lengths)
    weights = torch.full((1, 1, 6), 1 / 6)
    drawn = np.asarray(map_picture(found.strips[0], found.shares(weights)[0, 0]))
    assert drawn.shape == (*SIZE[::-1], 3)
    assert abs(drawn - (0.62 * 100 + 12)).max() <= 1


class Pieces(nn.Module):
    """A token every 200 samples: eight of them."""

    preprocessing = SoundPreprocessing(8_000, shortest=200)

    def tokens(self, sounds: Ragged) -> Tokens:
        padded = sounds.padded()
        count = padded.shape[1] // 200
        found = padded[:, : count * 200].unflatten(1, (count, 8, 25)).abs().mean(3)
        mask = torch.arange(count, device=padded.device) < (sounds.lengths // 200)[:, None]
        return Tokens(found, found[:, :0], mask=mask)


def tones(path: Path) -> str:
    for split in ("train", "test"):
        for k in range(6):
            for name, hertz in (("low", 200), ("high", 900)):
                sound = tone(1_000 + 300 * k, hertz, 8_000)
                write(path / split / name / f"{k}.wav", sound, 8_000)
    return f"audio:{path}"


def test_a_report_of_recordings_has_spectrograms(tmp_path: Path) -> None:
    spec = tones(tmp_path / "tones")
    store = iceprobe.extract(Pieces(), spec, tmp_path / "features")
    results = fitted(store, tmp_path / "run")
    album, page = checked(store, results, tmp_path)
    assert "Test recordings as the backbone saw them, spectrograms of all that it read" in page
    assert isinstance(album.moments, Spectrograms)
    assert album.moments.lengths is not None


def test_an_analysis_calls_recordings_by_their_name(tmp_path: Path) -> None:
    store = iceprobe.extract(Pieces(), tones(tmp_path / "tones"), tmp_path / "features")
    results = fitted(store, tmp_path / "run")
    (analysis,) = iceprobe.analyze(
        results, draws=5, attention=tmp_path / "weights", output=tmp_path / "run"
    )
    assert analysis.example == "recording"
    assert analysis.notes[-1].startswith("weights of 12 recordings written")
    page = iceprobe.report(results, tmp_path / "report.html").read_text()
    section = page.split('<section id="analysis">')[1].split("</section>")[0]
    assert "Over all 12 test recordings" in section
    assert "a recording’s maps" in section
    assert not any("bag" in text for text in (section, *analysis.notes))
    with pytest.raises(IceprobeError, match="ep2 was fitted on recordings, and --background"):
        iceprobe.analyze(results, heads=True)


def test_a_grid_of_bands_and_time(tmp_path: Path) -> None:
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=32,
    )  # fmt: skip
    transformers.ASTModel(config).save_pretrained(tmp_path / "ast")
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=32)
    extractor.save_pretrained(tmp_path / "ast")
    reads = load_backbone(f"transformers:{tmp_path / 'ast'}")
    store = iceprobe.extract(reads, tones(tmp_path / "tones"), tmp_path / "features")
    found = spectrograms(store, "test", np.array([3, 0]))
    assert found.grid == (4, 4)
    assert found.lengths is None
    assert [one.size for one in found.strips] == [SIZE, SIZE]
