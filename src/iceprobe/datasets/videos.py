"""``video:DIR``: videos in one folder a class, laid out as the images of ``folder:DIR``"""

from functools import partial
from typing import Any

from PIL import Image

from iceprobe.datasets.base import Dataset
from iceprobe.datasets.clips import Clip, VideoClip, library
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import Contents, FolderOptions, load_files
from iceprobe.datasets.walking import VIDEOS


class VideoSplit(FileSplit):
    """Video files below ``root``; of each the frames that a backbone asks for are decoded."""

    kind = "clip"

    def __init__(self, *given: Any, **more: Any):
        library()
        super().__init__(*given, **more)

    def example(self, index: int) -> Clip:
        return VideoClip(partial(self.source, index), str(self.root / self.names[index]))

    def image(self, index: int) -> Image.Image:
        return self.example(index).middle()


FILES = Contents("video", "video", VIDEOS, VideoSplit)


def load_videos(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``video:DIR``; the options are those of `FolderOptions`.

    Raises:
        IceprobeError: as of ``folder:``, and if PyAV isn't installed.
    """
    return load_files(name, spec, FolderOptions(**options), FILES)
