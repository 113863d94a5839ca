"""What an exported probe is asked about, by the kind of examples that its backbone reads."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iceprobe.backbones.kinds import plural, singular
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import an
from iceprobe.datasets import recordings, videos
from iceprobe.datasets.bags import Bag, bags_below
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.folder import IMAGES, Contents, unlabelled
from iceprobe.datasets.pixels import Reading, Seen, Unreadable, finished


@dataclass(frozen=True)
class Way:
    """How examples of a kind are given.

    Attributes:
        give: what one of them is, in words.
        read: that, by the rules for a data set's files (docs/images.md) → an example; ``None`` for what isn't
            that.
        below: a folder → all in it, whose targets aren't known.
        column: of their names in the table.
    """

    give: str
    read: Callable[[Any, Reading], Any]
    below: Callable[[str | Path], Split]
    column: str = "file"


def read_file(contents: Contents, given: Any, reading: Reading) -> Any:
    """The example in a file."""
    if not isinstance(given, str | os.PathLike):
        return None
    split = contents.split("examples", Path(), [os.fspath(given)], np.array([-1]))
    split.reading = reading
    return split.example(0)


def read_picture(given: Any, reading: Reading) -> Any:
    """A picture of PIL as it is, in 8 bits; or a file."""
    if not isinstance(given, Image.Image):
        return read_file(IMAGES, given, reading)
    try:
        return finished(given, reading, Seen())
    except Unreadable as error:
        name = getattr(given, "filename", "") or f"a picture of mode {given.mode}"
        raise BadImage(f"{name} {error}") from error


def read_bag(given: Any, reading: Reading) -> Any:
    """The pictures and files in a list."""
    if isinstance(given, str | os.PathLike | Image.Image) or not isinstance(given, Sequence):
        return None
    if not given:
        raise IceprobeError("a bag is empty: give one image at least, or leave it out")
    return Bag(Pictures(given, reading), range(len(given)))


class Pictures(Split):
    """Pictures and files, whose targets aren't known."""

    def __init__(self, given: Sequence[Any], reading: Reading):
        super().__init__("pictures", np.full(len(given), -1), list(map(str, range(len(given)))))
        self.given, self.read = given, reading

    def image(self, index: int) -> Image.Image:
        made: Image.Image = opened("image", self.given[index], self.read)
        return made

    def fingerprint(self) -> str:
        raise NotImplementedError("pictures that are predicted of aren't stored")


def _files(give: str, contents: Contents) -> Way:
    return Way(give, partial(read_file, contents), partial(unlabelled, contents=contents))


WAYS = {
    "image": Way("a picture of PIL (Image.fromarray(…) makes one) or a path", read_picture, unlabelled),
    "clip": _files("the path of a video", videos.FILES),
    "sound": _files("the path of a recording", recordings.FILES),
    "bag": Way("a list of pictures of PIL and paths", read_bag, bags_below, "example"),
}  # fmt: skip


def way_of(kind: str) -> Way:
    """How examples of a kind are given.

    Raises:
        IceprobeError: for a kind that was registered from outside.
    """
    if kind not in WAYS:
        raise IceprobeError(
            f"nothing says how {plural(kind)} are given to predict: call the probe with what its "
            "preprocessing makes of them, probe(batch)"
        )
    return WAYS[kind]


def opened(kind: str, given: Any, reading: Reading) -> Any:
    """An example, read by the rules for a data set's files (docs/images.md).

    Raises:
        IceprobeError: for what isn't one.
        BadImage: if a picture or a file of an image can't be read.
    """
    way = way_of(kind)
    example = way.read(given, reading)
    if example is None:
        raise IceprobeError(f"{an(singular(kind))} is a {type(given).__name__}: give {way.give}")
    return example
