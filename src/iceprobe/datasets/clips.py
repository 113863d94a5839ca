"""Clips: frames in memory or in a video file, decoded when they are asked for.

Frames are counted in the order in which they are shown, from 0, by the file's packets (no frame is decoded
for it). A frame is found by its time stamp, from the nearest key frame before it, so that a seek can't give
another one. Videos are read by PyAV, the bindings of FFmpeg; they are turned as the file says.
"""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.datasets.base import BadImage
from iceprobe.datasets.decoding import NOT_THE_IMAGE, one_line
from iceprobe.datasets.pixels import note_done

TURNED = "video turned"
UNEVEN = "frames at uneven times"
SHORT = "short video"
#: Of a clip of frames at uneven times: a gap this much longer or shorter than the median.
EVEN = 0.25


def library() -> Any:
    """PyAV; raises as `require`."""
    return require("av", "video", "videos")


class Clip(ABC):
    """Frames of one example.

    Attributes:
        info: what was done to them (`iceprobe.datasets.pixels.seen`).
    """

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    @property
    def count(self) -> int:
        """Number of frames, at least 1."""
        return len(self.times)

    @property
    @abstractmethod
    def times(self) -> np.ndarray:
        """``(count,)`` seconds from the first frame, ascending."""

    @property
    def fps(self) -> float:
        """Frames a second on average; 1 for a single frame."""
        return (self.count - 1) / float(self.times[-1]) if self.count > 1 else 1.0

    @abstractmethod
    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Each of ``indices``, which ascend, with its frame ``(H, W, 3)`` uint8, one after the other.

        Raises:
            BadImage: if one can't be decoded.
        """

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """``(T, H, W, 3)`` uint8, in the order given, in which an index may come again."""
        found = dict(self.pictures(sorted({int(index) for index in indices})))
        return np.stack([found[int(index)] for index in indices])

    def middle(self) -> Image.Image:
        """The frame in the middle, for a list of examples."""
        return Image.fromarray(self.frames([self.count // 2])[0])


class ArrayClip(Clip):
    """Frames in memory: ``(T, H, W)`` grey or ``(T, H, W, 3)`` RGB, uint8."""

    def __init__(self, values: np.ndarray, fps: float = 1.0):
        super().__init__()
        self.values, self._fps = values, fps

    @property
    def times(self) -> np.ndarray:
        return np.arange(len(self.values)) / self._fps

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            frame = self.values[index]
            yield index, frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1)


class VideoClip(Clip):
    """The first video stream of a file.

    Args:
        source: opens the file anew: its path, or its bytes as a stream.
        shown: its name in error messages.
    """

    def __init__(self, source: Callable[[], Path | IO[bytes]], shown: str):
        super().__init__()
        self._source, self._shown = source, shown

    @property
    def times(self) -> np.ndarray:
        return self._index[0]

    @cached_property
    def _index(self) -> tuple[np.ndarray, list[int], list[int]]:
        """Times; time stamps and the places of key frames, empty where packets have no time stamps."""
        with self._opened() as (container, stream):
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
            rate = float(stream.average_rate or stream.guessed_rate or 1)
            unit = stream.time_base
        stamps = sorted({stamp for stamp, _ in packets if stamp is not None})
        if not stamps or any(stamp is None for stamp, _ in packets) or unit is None:
            with self._opened() as (container, stream):
                count = sum(1 for _ in container.decode(stream))
            if not count:
                raise BadImage(self._bad("it holds no frames"))
            return np.arange(count) / rate, [], []
        times = (np.array(stamps) - stamps[0]) * float(unit)
        gaps = np.diff(times)
        if len(gaps) and (abs(gaps / np.median(gaps) - 1) > EVEN).any():
            note_done(self, UNEVEN)
        keys = np.searchsorted(stamps, sorted(stamp for stamp, key in packets if key)).tolist()
        return times, stamps, keys

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if indices and not 0 <= indices[0] <= indices[-1] < self.count:
            raise IceprobeError(
                f"video {self._shown!r} has no frame {indices[-1]}, it has {self.count}"
            )
        left = list(indices)
        for index, frame in self._sought(indices):
            left.remove(index)
            yield index, frame
        for index, frame in self._one_by_one(left):
            left.remove(index)
            yield index, frame
        if left:
            raise BadImage(self._bad(f"frame {left[0]} of {self.count} can't be decoded"))

    def _sought(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames from the key frame before each, as far as they are found there."""
        _, stamps, keys = self._index
        if not keys or keys[0] > 0 or not indices:
            return
        place = {stamp: number for number, stamp in enumerate(stamps)}
        with self._opened() as (container, stream):
            here, decoded = -1, iter(())
            for index in indices:
                key = keys[bisect.bisect(keys, index) - 1]
                if key > here:
                    container.seek(stamps[key], stream=stream)
                    decoded = container.decode(stream)
                found = None
                while here != index and (found := next(decoded, None)) is not None:
                    here = place.get(found.pts, here)
                    if here > index:
                        return
                if found is None or found.is_corrupt:
                    return
                yield index, self._upright(found)

    def _one_by_one(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The same, decoded from the start: a file without time stamps, or of damaged ones."""
        if not indices:
            return
        _, stamps, _ = self._index
        place = {stamp: number for number, stamp in enumerate(stamps)}
        wanted = set(indices)
        with self._opened() as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                index = place.get(frame.pts, -1) if stamps else number
                if index in wanted and not frame.is_corrupt:
                    wanted.remove(index)
                    yield index, self._upright(frame)
                if not wanted:
                    return

    def _upright(self, frame: Any) -> np.ndarray:
        values: np.ndarray = frame.to_ndarray(format="rgb24")
        if turns := round(frame.rotation / 90) % 4:
            note_done(self, TURNED)
            values = np.ascontiguousarray(np.rot90(values, turns))
        return values

    def _opened(self) -> "_Opened":
        return _Opened(self._source(), self._bad)

    def _bad(self, why: str) -> str:
        return f"video {self._shown!r} can't be read ({why}): mend or remove it, or pass --on-bad-image skip"


class _Opened:
    """A file's container and its first video stream; errors of FFmpeg inside become `BadImage`."""

    def __init__(self, source: Path | IO[bytes], bad: Callable[[str], str]):
        self._source, self._bad = source, bad

    def __enter__(self) -> tuple[Any, Any]:
        av = library()
        try:
            source = str(self._source) if isinstance(self._source, Path) else self._source
            self._container = av.open(source)
        except Exception as error:  # FFmpeg's errors are of many kinds
            raise self._explained(error) from error
        if not self._container.streams.video:
            self._container.close()
            raise BadImage(self._bad("it holds no video"))
        stream = self._container.streams.video[0]
        return self._container, stream

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._container.close()
        if isinstance(error, Exception) and not isinstance(error, IceprobeError):
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        if getattr(error, "errno", None) in NOT_THE_IMAGE:
            return error
        return BadImage(self._bad(one_line(error)[:300]))
