"""From a recording to a backbone's input: one channel, the backbone's rate, then its own features.

    recording ──mean of channels──▶ samples ──soxr──▶ samples at its rate ──extractor──▶ input

The extractor is that of transformers, called on one recording at a time, so the features are its own. Rates
are converted by libsoxr at its quality HQ.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.datasets.base import Split
from iceprobe.datasets.pixels import note_done
from iceprobe.datasets.recordings import CUT, RESAMPLED, Recording
from iceprobe.datasets.spectrogram import level_picture, mel_picture

FRAME, HOP = 400, 160  # samples of AST's frames, in transformers' own code
SECONDS = "seconds"  # key of a picture's info: how many it is of


@dataclass(frozen=True)
class Extractor:
    """How a feature extractor of transformers is called.

    Attributes:
        values: name of the features in its output.
        most: fields → samples of its window, beyond which nothing is read; ``None``: all are read.
        call: arguments of the call.
        masked: whether a last row is added to the features ``(bands, frames)``: 1 within the recording.
        time: axis of time of the features; ``None`` for samples.
    """

    values: str
    most: Callable[[Mapping[str, Any]], int] | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False
    time: int | None = None


# CLAP's extractor would take random pieces of what is longer than its window, so nothing longer reaches it.
EXTRACTORS = {
    "Wav2Vec2FeatureExtractor": Extractor("input_values"),
    "ASTFeatureExtractor": Extractor(
        "input_values", lambda fields: FRAME + HOP * (fields["max_length"] - 1), time=0
    ),
    "WhisperFeatureExtractor": Extractor(
        "input_features",
        lambda fields: fields["chunk_length"] * fields["sampling_rate"],
        {"return_attention_mask": True},
        masked=True,
        time=1,
    ),
    "ClapFeatureExtractor": Extractor(
        "input_features", lambda fields: fields["max_length_s"] * fields["sampling_rate"], time=0
    ),
}


@dataclass(frozen=True)
class SoundPreprocessing(ExamplePreprocessing):
    """Samples of one channel, or the features that an extractor makes of them.

    Attributes:
        rate: samples a second.
        seconds: the longest piece that is read, from the start; ``None``: all, or the extractor's window.
        shortest: samples that the backbone needs.
        extractor: fields of a feature extractor of transformers; ``None``: the samples are the input,
            ``(L,)`` of any length L.
    """

    kind: ClassVar[str] = "sound"

    rate: int
    seconds: float | None = None
    shortest: int = 1
    extractor: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "shortest", "seconds"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise IceprobeError(f"{name}={value}: take a number above 0")
        if self.extractor is not None and self._name not in EXTRACTORS:
            raise IceprobeError(
                f"feature extractor {self._name!r}: it is none of {', '.join(EXTRACTORS)}"
            )
        if self.most is not None and self.most < self.shortest:
            raise IceprobeError(
                f"seconds={self.seconds:g} are {self.most} samples of {self.rate} a second, and the backbone "
                f"needs {self.shortest}: take seconds={self.shortest / self.rate:.3g} or more"
            )

    @property
    def _name(self) -> str:
        return str((self.extractor or {}).get("feature_extractor_type"))

    @property
    def _call(self) -> Extractor | None:
        return None if self.extractor is None else EXTRACTORS[self._name]

    @property
    def window(self) -> int | None:
        """Samples that the extractor takes; ``None``: any number."""
        call = self._call
        if self.extractor is None or call is None or call.most is None:
            return None
        return int(call.most(self.extractor))

    @property
    def most(self) -> int | None:
        """Samples that are read at most."""
        asked = None if self.seconds is None else round(self.seconds * self.rate)
        return min((n for n in (asked, self.window) if n is not None), default=None)

    @cached_property
    def _made(self) -> Any:
        transformers = require("transformers", "transformers", self._name)
        fields = {k: v for k, v in (self.extractor or {}).items() if k != "feature_extractor_type"}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # AST's lowest mel bands are empty, by its authors' choice
            return getattr(transformers, self._name)(**fields)

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """Of the features; ``None`` for samples."""
        if self.window is None:
            return None
        return tuple(self._features(np.zeros(max(self.shortest, FRAME), np.float32)).shape)

    def samples(self, recording: Recording) -> np.ndarray:
        """``(L,)`` float32 at :attr:`rate`, of the piece that is read.

        Raises:
            IceprobeError: if it is shorter than the backbone needs, and as of `Recording.samples`.
        """
        most = self.most
        found, rate = recording.samples(None if most is None else most / self.rate)
        if rate != self.rate:
            soxr = require("soxr", "sound", f"a recording of {rate} samples a second")
            found = np.asarray(soxr.resample(found, rate, self.rate), np.float32)
            note_done(recording, RESAMPLED)
        if most is not None and len(found) > most:
            note_done(recording, CUT)
            found = found[:most]
        if len(found) < self.shortest:
            raise IceprobeError(
                f"it has {len(found)} samples of {self.rate} a second, and the backbone needs {self.shortest}"
            )
        return found

    def transform(self, example: Recording) -> Inputs:
        """Features as the extractor makes them; samples ``(L,)`` as `Ragged`."""
        samples = self.samples(example)
        if self.extractor is None:
            return Ragged.of(torch.from_numpy(samples))
        features = self._features(samples)
        return Ragged.of(features) if self.shape is None else features

    def _features(self, samples: np.ndarray) -> Tensor:
        call = self._call
        assert call is not None
        made = self._made(samples, sampling_rate=self.rate, return_tensors="np", **call.call)
        found = np.asarray(made[call.values][0], np.float32)
        if call.masked:
            found = np.concatenate([found, np.asarray(made["attention_mask"][:1], np.float32)])
        return torch.from_numpy(found)

    def blank(self) -> Inputs:
        """Silence, of samples a second of it; all of a window."""
        if self.shape is not None:
            made = torch.zeros(1, *self.shape)
            if self._call is not None and self._call.masked:
                made[:, -1] = 1
            return made
        return Ragged.of(torch.zeros(max(self.shortest, self.most or self.rate)))

    def shown(self, split: Split, index: int) -> Image.Image:
        """The spectrogram that the backbone reads, or that of its samples: low bands below.

        Its ``info`` has the `SECONDS` that it is of.
        """
        samples, call = self.samples(split.example(index)), self._call
        length = len(samples) if self.window is None or (call and call.masked) else self.window
        picture = self._picture(samples)
        picture.info[SECONDS] = length / self.rate
        return picture

    def _picture(self, samples: np.ndarray) -> Image.Image:
        call = self._call
        if call is None or call.time is None:
            return mel_picture(samples, self.rate)
        features = self._features(samples).numpy()
        if call.masked:
            features = features[:-1, features[-1] > 0]
        features = features[0] if features.ndim == 3 else features
        low, high = np.percentile(features, (2, 99.8))
        levels = (features if call.time else features.T) - high
        return level_picture(80 * levels / max(float(high - low), 1e-6))

    def as_dict(self) -> dict[str, Any]:
        """Its fields, those at their default left out."""
        given = {"seconds": self.seconds, "extractor": self.extractor}
        rest = {name: value for name, value in given.items() if value is not None}
        short = {} if self.shortest == 1 else {"shortest": self.shortest}
        return {"kind": self.kind, "rate": self.rate, **short, **rest}
