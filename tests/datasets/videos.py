"""Small videos, written by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np


def moving(count: int = 12, height: int = 24, width: int = 32) -> np.ndarray:
    """``(count, height, width, 3)``: each frame has its own colours, so that it can be told."""
    shade = np.linspace(10, 240, count)[:, None, None]
    across, down = np.linspace(0, 15, width), np.linspace(0, 15, height)[:, None]
    grey = shade + across - down
    return np.stack([grey, 255 - grey, grey], -1).clip(0, 255).astype(np.uint8)


def write(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    rate: int = 10,
    stamps: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Write ``frames (T, H, W, 3)``, by default without loss; ``stamps`` count 1 / ``rate`` seconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, rate)
        for number, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
