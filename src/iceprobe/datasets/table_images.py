"""The images of a table's rows, or its videos or recordings: files by their paths, or bytes in a Parquet file."""

import hashlib
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import decode, turn_of
from iceprobe.datasets.depth_files import read_depth
from iceprobe.datasets.files import FileSplit, listing_digest, state
from iceprobe.datasets.pixels import Reading, note, seen, turned
from iceprobe.datasets.recordings import SoundSplit
from iceprobe.datasets.table_files import open_parquet
from iceprobe.datasets.videos import VideoSplit
from iceprobe.datasets.walking import AnyPath
from iceprobe.machine.object_storage import stream

_AS_STORED = Reading(alpha="drop", orientation="ignore")


class ListedSplit(FileSplit):
    """Image files that a table lists, below ``root`` or by absolute paths.

    Args:
        outputs: names of the K outputs.
        mask_root, mask_names: the files of masks; ``None`` in place of a name for an image without.
    """

    def __init__(
        self,
        name: str,
        root: AnyPath,
        names: Sequence[str],
        *,
        outputs: Sequence[str],
        mask_root: AnyPath | None = None,
        mask_names: Sequence[str | None] | None = None,
        **more: Any,
    ):
        super().__init__(name, root, names, masks=mask_names is not None, **more)
        self.outputs, self.mask_names = list(outputs), mask_names
        self.mask_root = root if mask_root is None else mask_root

    def mask(self, index: int) -> Image.Image | None:
        name = None if self.mask_names is None else self.mask_names[index]
        if name is None:
            return None
        path = self.mask_root / name
        try:
            values = np.asarray(decode(stream(path), str(path), _AS_STORED))
        except FileNotFoundError as error:
            raise BadImage(f"mask {str(path)!r} can't be read: it is gone") from error
        inside = (values if values.ndim == 2 else values.max(2)) > 0
        mask = Image.fromarray(inside.astype(np.uint8) * 255)
        return turned(mask, turn_of(stream(self.root / self.names[index]), self.reading))

    def fingerprint(self) -> str:
        """As of :class:`FileSplit`, and of the masks, the task and the names of outputs."""
        more = ""
        if self.mask_names is not None:
            there = {row: name for row, name in enumerate(self.mask_names) if name is not None}
            more = listing_digest(self.mask_root, list(there.values()), there)
        text = json.dumps([super().fingerprint(), self.task, self.outputs, more])
        return hashlib.sha256(text.encode()).hexdigest()


class VideoListedSplit(ListedSplit, VideoSplit):
    """Video files that a table lists."""


class SoundListedSplit(ListedSplit, SoundSplit):
    """Sound files that a table lists."""


@dataclass(frozen=True)
class DepthFiles:
    """Where the depth maps of images are.

    Attributes:
        root: their folder.
        names: a file an image; ``None`` for an image without.
        scale: what their numbers are multiplied by.
    """

    root: AnyPath
    names: Sequence[str | None]
    scale: float = 1.0

    def fingerprint(self) -> list[Any]:
        """What changes with any file, with their order and with the scale."""
        there = {row: name for row, name in enumerate(self.names) if name is not None}
        return [listing_digest(self.root, list(there.values()), there), self.scale]


class DepthListedSplit(ListedSplit):
    """Image files that a table lists with their depth maps, which turn with their images."""

    def __init__(self, *given: Any, maps: DepthFiles, **more: Any):
        super().__init__(*given, depths=True, **more)
        self.maps = maps

    def depth(self, index: int) -> Image.Image | None:
        name = self.maps.names[index]
        if name is None:
            return None
        path = self.maps.root / name
        try:
            source = stream(path)
        except FileNotFoundError as error:
            raise BadImage(f"depth map {str(path)!r} can't be read: it is gone") from error
        numbers = read_depth(source, str(path), self.maps.scale)
        upright = turned(numbers, turn_of(stream(self.root / self.names[index]), self.reading))
        note(upright, seen(numbers))
        return upright

    def fingerprint(self) -> str:
        text = json.dumps([super().fingerprint(), *self.maps.fingerprint()])
        return hashlib.sha256(text.encode()).hexdigest()


class CellSplit(Split):
    """Images in a column of a Parquet file, read a group of rows at a time.

    Args:
        file, column: where they are.
        rows: ``n`` indices into the file's rows.
        outputs: names of the K outputs.
    """

    reading = Reading()

    def __init__(
        self,
        name: str,
        file: AnyPath,
        column: str,
        rows: Sequence[int],
        *,
        outputs: Sequence[str],
        **more: Any,
    ):
        super().__init__(name, names=[f"{file.name}/{row:07d}" for row in rows], **more)
        self.file, self.column, self.rows = file, column, list(rows)
        self.outputs = list(outputs)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._opened: Any = None
        self._group: tuple[int, Any] = (-1, None)

    def image(self, index: int) -> Image.Image:
        return decode(self.source(index), self.names[index], self.reading)

    def source(self, index: int) -> IO[bytes]:
        with self._lock:
            cell = self._cell(self.rows[index])
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None:
            raise BadImage(
                f"image {self.names[index]!r} is empty: remove the row, or pass --on-bad-image skip"
            )
        return io.BytesIO(content)

    def fingerprint(self) -> str:
        """Sha256 of the file's size and time of change, the rows, the targets and what they are."""
        try:
            size, changed = state(self.file)
        except OSError as error:
            raise IceprobeError(f"{str(self.file)!r} is gone: put it back") from error
        what = [
            size,
            changed,
            self.column,
            self.rows,
            self.labels.tolist(),
            self.task,
            self.outputs,
        ]
        return self.reading.mark(hashlib.sha256(json.dumps(what).encode()).hexdigest())

    def _cell(self, row: int) -> Any:
        if self._opened is None:
            self._opened = open_parquet(self.file)
            meta = self._opened.metadata
            sizes = [meta.row_group(k).num_rows for k in range(meta.num_row_groups)]
            self._starts = np.cumsum([0, *sizes])
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._group[0] != group:
            table = self._opened.read_row_group(group, columns=[self.column])
            self._group = (group, table.column(self.column))
        return self._group[1][row - int(self._starts[group])].as_py()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_opened", "_group")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._reset()
