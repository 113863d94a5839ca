"""``video:DIR``: videos in one folder a class, laid out as the images of ``folder:DIR``; videos in a table."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from iceprobe.datasets.base import Dataset
from iceprobe.datasets.clips import Clip, VideoClip, library
from iceprobe.datasets.files import FileSplit, listing_digest
from iceprobe.datasets.folder import Contents, FolderOptions, load_files
from iceprobe.datasets.walking import VIDEOS
from iceprobe.machine.object_storage import RemotePath


class VideoSplit(FileSplit):
    """Video files below ``root``; of each the frames that a backbone asks for are decoded."""

    kind = "clip"

    def example(self, index: int) -> Clip:
        return VideoClip(partial(self.source, index), str(self.root / self.names[index]))

    def image(self, index: int) -> Image.Image:
        return self.example(index).middle()

    def fingerprint(self) -> str:
        """Sha256 of each file's name, size, time of change (or version) and label; reads no video."""
        return listing_digest(self.root, self.names, self.labels.tolist())


class VideoListedSplit(VideoSplit):
    """Video files that a table lists; ``outputs`` are the names of the K outputs."""

    def __init__(
        self,
        name: str,
        root: Path | RemotePath,
        names: Sequence[str],
        *,
        outputs: Sequence[str],
        **more: Any,
    ):
        super().__init__(name, root, names, **more)
        self.outputs = list(outputs)

    def fingerprint(self) -> str:
        text = json.dumps([super().fingerprint(), self.task, self.outputs])
        return hashlib.sha256(text.encode()).hexdigest()


def load_videos(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``video:DIR``; the options are those of `FolderOptions`.

    Raises:
        IceprobeError: as of ``folder:``, and if PyAV isn't installed.
    """
    library()
    contents = Contents("video", "video", VIDEOS, VideoSplit)
    return load_files(name, spec, FolderOptions(**options), contents)
