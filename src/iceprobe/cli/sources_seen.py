"""``sources.json`` of a run folder: the records of its backbones when they were last loaded.

A finished run is shown if its features are those that would be read now. To check that, a backbone
must be loaded and its weights hashed, unless its files and the libraries are unchanged since.
"""

import contextlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator

from iceprobe.backbones.local_files import local_files
from iceprobe.core.documents import parse_json
from iceprobe.core.specs import parse_spec
from iceprobe.machine.files import write_atomically
from iceprobe.store.format import BackboneRecord, StoredShape, take_pooled_class

FILE_NAME = "sources.json"
_LIBRARIES = ("iceprobe", "torch", "timm", "transformers", "diffusers", "open_clip_torch")

State = dict[str, tuple[int, int, int]]  # file → bytes, times of content and of change (ns)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Seen(BaseModel):
    """The record of a backbone, and the files that it was loaded from."""

    files: State
    backbone: BackboneRecord
    shape: StoredShape

    _complete = model_validator(mode="after")(take_pooled_class)


class SourcesSeen(BaseModel):
    """The content of ``sources.json``: library → version, and spec → backbone."""

    versions: dict[str, str] = Field(default_factory=_versions)
    backbones: dict[str, Seen] = {}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The records that are still valid; none if the file is missing or damaged."""
        now = cls()
        with contextlib.suppress(OSError, ValueError):
            read = cls.model_validate(parse_json((folder / FILE_NAME).read_bytes()))
            if read.versions == now.versions:
                now.backbones = {
                    k: v for k, v in read.backbones.items() if state(v.files) == v.files
                }
        return now

    def write(self, folder: Path) -> None:
        """Write the file, unless the folder is missing or can't be written to."""
        if self.backbones and folder.is_dir():
            text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
            with contextlib.suppress(OSError):
                write_atomically(folder / FILE_NAME, text.encode())


def state_of(spec: str) -> State | None:
    """The state of a backbone's files, to be read before it is loaded.

    Returns:
        ``None`` where files alone don't determine it (:func:`local_files`).
    """
    files = local_files(parse_spec(spec))
    return None if files is None else state(map(str, files))


def state(files: Iterable[str]) -> State | None:
    """Size and times of each file; ``None`` where one is missing.

    A copy that keeps the time of its content (``cp -p``) still has a new time of change.
    """
    found = {}
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            return None
        found[file] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
