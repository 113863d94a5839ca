"""``sources.json`` of a run folder: the backbones as they were when they were last loaded.

A finished run is shown if its features are those that would be read now. To know that, a backbone
would have to be loaded and its weights hashed; as long as its files and the libraries stay as they
are, what that gave the last time is still so.
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
    """A backbone as it was, and what it was made from."""

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
        """What is known and still holds; nothing, where the file isn't there or isn't whole."""
        now = cls()
        with contextlib.suppress(OSError, ValueError):
            read = cls.model_validate(parse_json((folder / FILE_NAME).read_bytes()))
            if read.versions == now.versions:
                now.backbones = {
                    k: v for k, v in read.backbones.items() if state(v.files) == v.files
                }
        return now

    def write(self, folder: Path) -> None:
        """Beside the results; a folder that can't be written to does without."""
        if self.backbones and folder.is_dir():
            text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
            with contextlib.suppress(OSError):
                write_atomically(folder / FILE_NAME, text.encode())


def state_of(spec: str) -> State | None:
    """The files of a backbone as they are now, to be asked before it is loaded.

    Returns:
        ``None`` where files don't say all (:func:`local_files`).
    """
    files = local_files(parse_spec(spec))
    return None if files is None else state(map(str, files))


def state(files: Iterable[str]) -> State | None:
    """Size and times of each; ``None`` where one isn't there.

    A copy that keeps the time of its content (``cp -p``) still changes the other.
    """
    found = {}
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            return None
        found[file] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
