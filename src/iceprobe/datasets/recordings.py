"""Recordings: sound in a file, decoded when it is asked for; ``audio:DIR``, one folder a class.

Samples are float32, full scale at ±1. Several channels are mixed to one by their mean, which is noted. Files are
read by soundfile, the bindings of libsndfile.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from iceprobe.core.extras import require
from iceprobe.datasets.base import BadImage, Dataset
from iceprobe.datasets.decoding import NOT_THE_IMAGE, one_line
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import Contents, FolderOptions, load_files
from iceprobe.datasets.pixels import note_done
from iceprobe.datasets.spectrogram import mel_picture
from iceprobe.datasets.walking import SOUNDS

# What is recorded of a recording, and counted in the store's manifest.
MIXED = "channels mixed"
RESAMPLED = "sound resampled"
CUT = "sound cut"


def library() -> Any:
    """soundfile; raises as `require`."""
    return require("soundfile", "sound", "recordings")


class Recording:
    """Sound in a file.

    Attributes:
        info: what was done to it (`iceprobe.datasets.pixels.seen`).
    """

    def __init__(self, source: Callable[[], Path | IO[bytes]], shown: str):
        """
        Args:
            source: opens the file anew: its path, or its bytes as a stream.
            shown: its name in error messages.
        """
        self._source, self._shown = source, shown
        self.info: dict[str, Any] = {}

    def samples(self, seconds: float | None = None) -> tuple[np.ndarray, int]:
        """``(L,)`` float32 of one channel, at least one, and how many there are a second.

        Args:
            seconds: the longest piece to read, from the start; ``None``: all of it.

        Raises:
            BadImage: if it can't be decoded, is empty, or holds values that aren't finite.
        """
        soundfile, source = library(), self._source()
        try:
            with soundfile.SoundFile(source) as file:
                rate, stated = int(file.samplerate), int(file.frames)
                most = stated if seconds is None else min(stated, math.ceil(seconds * rate))
                values = file.read(most, dtype="float32", always_2d=True)
        except Exception as error:
            if getattr(error, "errno", None) in NOT_THE_IMAGE:
                raise
            raise self._bad(f"can't be read ({one_line(error)[:300]})") from error
        if not len(values):
            raise self._bad("is empty")
        if len(values) < most:
            raise self._bad(f"ends after {len(values):,} of {stated:,} samples")
        if not np.isfinite(values).all():
            raise self._bad("holds values that aren't finite")
        if most < stated:
            note_done(self, CUT)
        if values.shape[1] > 1:
            note_done(self, MIXED)
        return (values[:, 0] if values.shape[1] == 1 else values.mean(1)), rate

    def _bad(self, why: str) -> BadImage:
        return BadImage(
            f"recording {self._shown!r} {why}: mend or remove it, or pass --on-bad-image skip"
        )


class SoundSplit(FileSplit):
    """Sound files below ``root``."""

    kind = "sound"

    def __init__(self, *given: Any, **more: Any):
        library()
        super().__init__(*given, **more)

    def example(self, index: int) -> Recording:
        return Recording(partial(self.source, index), str(self.root / self.names[index]))

    def image(self, index: int) -> Image.Image:
        """Its spectrogram."""
        return mel_picture(*self.example(index).samples())


FILES = Contents("audio", "recording", SOUNDS, SoundSplit)


def load_sounds(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``audio:DIR``; the options are those of `FolderOptions`.

    Raises:
        IceprobeError: as of ``folder:``, and if soundfile isn't installed.
    """
    return load_files(name, spec, FolderOptions(**options), FILES)
