"""Recordings made at test time."""

from pathlib import Path

import numpy as np

from iceprobe.datasets.recordings import Recording


def tone(length: int, hertz: float = 440.0, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """``(length,)`` float32: a tone with its octave and a little noise, which fades."""
    times = np.arange(length) / rate
    noise = np.random.default_rng((seed, length)).normal(0, 0.02, length)
    waves = np.sin(2 * np.pi * hertz * times) + 0.3 * np.sin(4 * np.pi * hertz * times)
    return ((0.4 * waves + noise) * np.exp(-times * 2)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "FLOAT") -> Path:
    """A file of ``samples``, ``(L,)`` or ``(L, channels)``; WAV keeps them bit for bit."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def recording(path: Path, samples: np.ndarray, rate: int = 16_000) -> Recording:
    """The same, opened."""
    write(path, samples, rate)
    return Recording(lambda: path, path.name)
