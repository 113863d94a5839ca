"""What a user starts from works as it stands."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from iceprobe.adaptation.model import Adapted
from iceprobe.adaptation.registry import pairs
from iceprobe.backbones import load_backbone
from iceprobe.backbones.kinds import Ragged
from iceprobe.cli.config import read_yaml, resolve
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
    assert list(tmp_path.iterdir()) == []  # in memory, as it says
