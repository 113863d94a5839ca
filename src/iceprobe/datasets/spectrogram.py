"""Pictures of sound: grey, time to the right, frequency upwards."""

import math

import numpy as np
from PIL import Image

BANDS, COLUMNS = 96, 384  # of a picture: rows, and columns at most
DECIBELS = 80.0  # from white to black


def mel_picture(samples: np.ndarray, rate: int) -> Image.Image:
    """The log-mel spectrogram of ``samples (L,)``: `BANDS` triangles on the mel scale up to ``rate / 2``.

    Windows of 25 ms (Hann), at least every 10 ms or as many as there are columns, padded with silence.
    """
    size = 2 ** math.ceil(math.log2(max(0.025 * rate, 2 * BANDS)))
    step = max(1, round(0.01 * rate), math.ceil(len(samples) / COLUMNS))
    padded = np.pad(np.asarray(samples, np.float32), (size // 2, size // 2 + step))
    starts = np.arange(0, max(len(samples), 1), step)
    frames = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return level_picture(10 * np.log10(np.maximum(_triangles(size, rate) @ power.T, 1e-10)))


def level_picture(decibels: np.ndarray) -> Image.Image:
    """Levels ``(bands, columns)``, the lowest band first, as grey: white is the loudest, black `DECIBELS` below."""
    found = (decibels - decibels.max()) / DECIBELS + 1
    return Image.fromarray((255 * found.clip(0, 1)).astype(np.uint8)[::-1])


def _triangles(size: int, rate: int) -> np.ndarray:
    """``(BANDS, size // 2 + 1)``: mel is 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    places = np.linspace(0, rate / 2, size // 2 + 1)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    up, down = (places - left) / (middle - left), (right - places) / (right - middle)
    return np.minimum(up, down).clip(0)
