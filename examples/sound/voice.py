"""A voice encoder as a backbone: the three LSTM layers of Resemblyzer, which were trained to tell speakers apart.

    pip install --no-deps resemblyzer        # Apache-2.0; 17 MB of weights come with it
    iceprobe run --backbone python:examples/sound/voice.py:build_encoder --data audio:DIR --probe knn

Tokens are the last layer's states, one every 10 ms. Features are made as its `audio.py` makes them: mel power
of windows of 25 ms, after quiet recordings are raised to −30 dB. Its detection of voice is left out.
"""

import importlib.util
from pathlib import Path

import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from iceprobe.backbones.kinds import Ragged
from iceprobe.backbones.sound_preprocessing import SoundPreprocessing
from iceprobe.tokens import Tokens

RATE, WINDOW, HOP, BANDS, WIDTH = 16_000, 400, 160, 40, 256


class VoiceEncoder(nn.Module):
    preprocessing = SoundPreprocessing(RATE, seconds=2.0)

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, num_layers=3, batch_first=True)
        bands = mel_filter_bank(
            WINDOW // 2 + 1, BANDS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bands", torch.from_numpy(bands).float())
        self.register_buffer("window", torch.hann_window(WINDOW))

    def tokens(self, sounds: Ragged) -> Tokens:
        padded, lengths = sounds.padded(), sounds.lengths
        level = 10 * torch.log10(padded.square().sum(1) / lengths + 1e-10)
        padded = padded * 10 ** ((-30 - level).clamp(min=0) / 20)[:, None]
        spectrum = torch.stft(
            padded, WINDOW, HOP, window=self.window, pad_mode="constant", return_complex=True
        )
        states, _ = self.lstm((spectrum.abs() ** 2).transpose(1, 2) @ self.bands)
        places = torch.arange(states.shape[1], device=states.device)
        mask = places <= (lengths // HOP)[:, None]  # a state knows only what was before it
        seconds = (places * (HOP / RATE)).expand(len(lengths), -1)[..., None]
        return Tokens(states, states[:, :0], mask=mask, coords=seconds)


def build_encoder() -> nn.Module:
    """Its weights; the package isn't imported, which would need more than is used here."""
    found = importlib.util.find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("pip install --no-deps resemblyzer")
    file = Path(found.origin).parent / "pretrained.pt"
    weights = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    encoder = VoiceEncoder()
    own = {k.removeprefix("lstm."): v for k, v in weights.items() if k.startswith("lstm.")}
    encoder.lstm.load_state_dict(own)
    return encoder
