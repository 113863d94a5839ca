"""What a user starts from works as it stands."""

import csv
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.adaptation.model import Adapted
from iceprobe.adaptation.registry import pairs
from iceprobe.backbones import load_backbone
from iceprobe.backbones.kinds import Ragged
from iceprobe.cli.config import read_yaml, resolve
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import imported
from iceprobe.probes import parse_probe
from iceprobe.probes.probe import build_for
from iceprobe.settings import AdaptRun, Run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_configurations_name_what_exists(file):
    if "adapt" in read_yaml(file):
        adapted = resolve(AdaptRun, {}, file, [])
        assert pairs(adapted.adapt, adapted.probe)
        return
    config = resolve(Run, {}, file, [])
    labels = [parse_probe(text) for text in config.probe]
    assert len(set(map(str, labels))) == len(labels)


def test_lora_with_ep_has_no_more_parameters_than_either_alone():
    """As the example says: counted, not typed."""
    config = resolve(AdaptRun, {}, ROOT / "examples" / "adaptation.yaml", [])
    backbone = load_backbone(config.backbone)

    def total(adaptation, probe):
        made = build_for(backbone.shape, probe, 10)
        if adaptation == "none":
            return made.num_parameters()["total"]
        return Adapted(backbone, adaptation, made).num_parameters()["total"]

    counts = {pair: total(*pair) for pair in pairs(config.adapt, config.probe)}
    linear = "linear?input=mean"
    assert counts["none", "ep12"] == 41_098
    assert counts["lora?rank=16", linear] == counts["lora?blocks=-1&rank=96", linear] == 38_794
    assert (
        counts["lora", "ep12?out_dim=48"] == 6 * 8 * 2 * 192 + 12 * 192 + 48 * 192 + 490 == 30_442
    )


def test_the_voice_encoder_reads_each_recording_by_itself():
    """Its features by transformers' own spectrogram; the weights of the package where it is installed."""
    from transformers.audio_utils import spectrogram, window_function

    pytest.importorskip("soundfile")
    spec = f"python:{ROOT / 'examples' / 'sound' / 'voice.py'}:build_encoder"
    build = imported(spec.removeprefix("python:"), spec, "factory")
    if importlib.util.find_spec("resemblyzer") is None:
        with pytest.raises(ModuleNotFoundError, match="pip install"):
            build()
        encoder = build.__globals__["VoiceEncoder"]()
    else:
        encoder = build()
    rng = np.random.default_rng(0)
    sounds = [0.3 * rng.normal(size=n).astype(np.float32) for n in (3_200, 8_001, 500)]
    together = Ragged.together([Ragged.of(torch.from_numpy(one)) for one in sounds])
    with torch.no_grad():
        tokens = encoder.tokens(together)
        for row, sound in enumerate(sounds):
            mel = spectrogram(
                sound, window_function(400, "hann"), 400, 160, pad_mode="constant", power=2.0,
                mel_filters=encoder.bands.numpy(), mel_floor=0.0,
            )  # fmt: skip
            expected = encoder.lstm(torch.from_numpy(mel.T).float()[None])[0][0]
            own = tokens.patches[row, tokens.mask[row]]
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)
    assert tokens.coords[1, :3, 0].tolist() == pytest.approx([0, 0.01, 0.02])


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda f: f.name)
def test_scripts_run(file, tmp_path):
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ep8" in done.stdout
    # In memory, as it says, but for the run of the bags.
    assert [one.name for one in tmp_path.iterdir()] == ["runs"] * (file.name == "pathology.py")


def test_thirteen_bands_are_read_as_they_lie_there(tmp_path):
    """Crop and soil look alike in red, green and blue; an encoder that gets all bands tells them apart."""
    file = ROOT / "examples" / "satellite" / "bands.py"
    made = imported(f"{file}:make_up", "python:bands", "function")
    made(tmp_path / "tiles", train=8, test=4)
    data = iceprobe.load_dataset(f"python:{file}:tiles?trust=true&folder={tmp_path / 'tiles'}")
    assert data.classes == ["crop", "soil"]
    backbone = load_backbone(f"python:{file}:encoder")
    stored = np.load(tmp_path / "tiles" / data.splits["train"].names[3])
    reads = backbone.preprocessing
    tile = reads.transform(data.splits["train"].example(3))
    np.testing.assert_allclose(tile, (stored.astype(np.float32) - 1_500) / 800, atol=1e-4)
    colours = np.asarray(data.splits["train"].image(3), float)
    expected = (stored[[3, 2, 1]].transpose(1, 2, 0) * (255 / 3_000)).clip(0, 255)
    assert np.abs(colours - expected).max() < 1.5
    store = iceprobe.extract(backbone, data, tmp_path / "features", progress=False)
    assert store["train"].patches([0]).shape == (1, 64, 192)
    (result,) = iceprobe.fit(store, ["knn"], progress=False)
    assert result.top1.mean == 1


def test_a_tile_of_other_bands_is_named(tmp_path):
    file = ROOT / "examples" / "satellite" / "bands.py"
    imported(f"{file}:make_up", "python:bands", "function")(tmp_path / "tiles", train=4, test=2)
    np.save(tmp_path / "tiles" / "train" / "crop" / "1.npy", np.ones((8, 8, 13)))
    data = iceprobe.load_dataset(f"python:{file}:tiles?trust=true&folder={tmp_path / 'tiles'}")
    with pytest.raises(IceprobeError, match=r"crop/1\.npy' has the shape \(8, 8, 13\)"):
        iceprobe.extract(load_backbone(f"python:{file}:encoder"), data, tmp_path / "features")


def test_drawings_of_a_series_are_in_one_fold(tmp_path, monkeypatch, capsys):
    """Mirrored, turned and numbered ones; what lies in two folders has two classes and is left out."""
    rng = np.random.default_rng(0)
    for folder, name in (("animals/birds", "crow"), ("food/fruit", "pear")):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(12):
            drawing = rng.integers(0, 250, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(drawing).save(tmp_path / folder / f"{name}{'abcdefghijkl'[number]}.png")
    birds = tmp_path / "animals" / "birds"
    Image.open(birds / "crowa.png").transpose(Image.Transpose.ROTATE_90).save(birds / "turned.png")
    Image.open(birds / "crowa.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(birds / "m.png")
    Image.fromarray(rng.integers(0, 250, (9, 9), dtype=np.uint8)).save(birds / "crowb_02_bw.png")
    (tmp_path / "food" / "fruit" / "both.png").symlink_to(birds / "crowc.png")
    script = ROOT / "examples" / "published_weights" / "clipart.py"
    table = tmp_path / "clipart.csv"
    monkeypatch.setattr(sys, "argv", ["clipart.py", str(table), "--root", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    assert "1 in two classes and 0 too large: left out" in capsys.readouterr().out
    with table.open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 26
    assert "animals/birds/crowc.png" not in rows
    series = {name: row["series"] for name, row in rows.items()}
    of = {Path(name).stem: one for name, one in series.items()}
    assert of["crowa"] == of["turned"] == of["m"]
    assert of["crowb"] == of["crowb_02_bw"]
    assert len(set(of.values())) == 23
    folds = {(row["series"], row["fold"]) for row in rows.values()}
    assert len(folds) == 23
    assert {row["shows"] for row in rows.values()} == {"bird", "fruit"}
