"""Places on object storage: a URL that ``fsspec`` reads, with what we use of ``pathlib.Path``.

``s3://bucket/birds`` is a key prefix, not a folder: there are no renames and no locks, an object is
written whole or not at all, and a listing tells names, sizes and versions. Keys, endpoints and
regions come from where fsspec and the store's own library find them (``AWS_ENDPOINT_URL``,
``~/.aws``, ``FSSPEC_S3_KEY``, …); we have no settings of our own for them.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_folder

# pathlib makes one slash of two, so `Path("s3://bucket")` is known again by the one that is left.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")


@dataclass(frozen=True)
class RemotePath:
    """An object, or the objects whose keys begin with it.

    Attributes:
        url: without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | Path) -> "RemotePath":
        return self if str(name) == "." else RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rsplit("/", 1)[0])

    def resolve(self) -> "RemotePath":
        return self

    @property
    def fs(self) -> Any:
        """fsspec's file system; its own cache keeps one a process and thread."""
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            options = {}
            if self.url.startswith("s3:") and "config_kwargs" not in conf.get("s3", {}):
                # s3fs tries five times, 15 seconds each; botocore within it would five times more.
                options = {"config_kwargs": {"retries": {"max_attempts": 0}}}
            # A listing that is kept would hide what other machines write and remove.
            return url_to_fs(self.url, use_listings_cache=False, **options)[0]
        except ModuleNotFoundError as error:
            raise IceprobeError(
                f"{self.url}: needs the package {error.name}: pip install 'iceprobe[s3]'"
            ) from error
        except (ImportError, ValueError) as error:  # what fsspec says of a protocol without package
            raise IceprobeError(
                f"{self.url}: {error} (s3:// comes with pip install 'iceprobe[s3]')"
            ) from error

    @property
    def key(self) -> str:
        """The name within the file system."""
        key: str = self.fs._strip_protocol(self.url)
        return key

    def exists(self) -> bool:
        with self._told():
            return bool(self.fs.exists(self.key))

    def is_file(self) -> bool:
        with self._told():
            return bool(self.fs.isfile(self.key))

    def is_dir(self) -> bool:
        with self._told():
            return bool(self.fs.isdir(self.key))

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The object, or its bytes from ``start`` to ``stop``: one request.

        Raises:
            FileNotFoundError: if there is none.
        """
        with self._told():
            content: bytes = self.fs.cat_file(self.key, start=start, end=stop)
            return content

    def open(self, mode: str = "rb") -> Any:
        """A file object that reads ahead as it is asked."""
        with self._told():
            return self.fs.open(self.key, mode)

    def write_bytes(self, content: bytes) -> None:
        """Put an object, whole."""
        with self._told():
            self.fs.pipe_file(self.key, content)

    def upload(self, file: Path) -> None:
        """Put a file's content, whole: an object is there when its last part is."""
        with self._told():
            self.fs.put_file(str(file), self.key)

    def download(self, file: Path) -> None:
        with self._told():
            self.fs.get_file(self.key, str(file))

    def folders(self) -> list[str]:
        """Names of the prefixes directly below, sorted."""
        return sorted(name for name, kind in self._entries() if kind == "directory")

    def files(self) -> list[str]:
        """Names of the objects directly below, sorted."""
        return sorted(name for name, kind in self._entries() if kind == "file")

    def find(self) -> dict[str, tuple[int, str]]:
        """Every object below: its name relative to here → its size and its version (etag or time)."""
        with self._told():
            try:
                found = self.fs.find(self.key, detail=True)
            except FileNotFoundError:  # some file systems say so, others find nothing
                found = {}
        start = len(self.key) + 1
        return {
            key[start:]: (int(info["size"]), _version(info))
            for key, info in found.items()
            if not key.endswith("/") and len(key) > start
        }

    def glob(self) -> list["RemotePath"]:
        """The objects that match, with this place's ``*`` and ``?`` as the pattern; sorted."""
        with self._told():
            found = self.fs.glob(self.key)
            return [RemotePath(str(self.fs.unstrip_protocol(key))) for key in sorted(found)]

    def state(self) -> tuple[int, str]:
        """Size and version.

        Raises:
            FileNotFoundError: if there is none.
        """
        with self._told():
            info = self.fs.info(self.key)
            return int(info["size"]), _version(info)

    def _entries(self) -> Iterator[tuple[str, str]]:
        with self._told():
            listed = self.fs.ls(self.key, detail=True)
        for info in listed:
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            if info["name"].rstrip("/") != self.key:
                yield name, info["type"]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the storage in one line; that nothing is there stays ``FileNotFoundError``."""
        try:
            yield
        except FileNotFoundError:
            raise
        except _failures() as error:
            said = " ".join(str(error).split()) or type(error).__name__
            remedy = "see that the address is right and credentials are set"
            if "timeout" in f"{type(error).__name__} {said}".lower().replace(" ", ""):
                remedy = "it doesn't answer: see that it is well, then run the same again"
            raise IceprobeError(f"{self.url}: {said}; {remedy}") from error


def located(place: str | Path | RemotePath) -> Path | RemotePath:
    """A local path, or a remote one where ``place`` is a URL."""
    if isinstance(place, RemotePath):
        return place
    text = str(place)
    if match := _URL.match(text):
        return RemotePath(f"{match[1].lower()}://{text[match.end() :].rstrip('/')}")
    return Path(place)


def is_remote(place: str | Path | RemotePath) -> bool:
    return isinstance(located(place), RemotePath)


def stream(path: Path | RemotePath) -> Path | io.BytesIO:
    """What Pillow opens."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path


def cache_folder() -> Path:
    """Where copies of remote shards lie: ``ICEPROBE_CACHE``, else ``iceprobe`` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "iceprobe"
    folder = Path(os.environ.get("ICEPROBE_CACHE") or default).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scratch_folder() -> contextlib.AbstractContextManager[Path]:
    """A folder in the cache for the block; what killed processes left of theirs is removed."""
    return temporary_folder(cache_folder() / "scratch")


def cache_bytes() -> int | None:
    """How much they may take: ``ICEPROBE_CACHE_GB``; ``None`` where it isn't set: all there is.

    Raises:
        IceprobeError: if it is no number above 0.
    """
    text = os.environ.get("ICEPROBE_CACHE_GB")
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 < size < 1e9:
        raise IceprobeError(f"ICEPROBE_CACHE_GB={text!r}: write a number of gigabytes such as 200")
    return int(size * 1e9)


def _version(info: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "created"):
        if info.get(name) is not None:
            return str(info[name]).strip('"')
    return ""


def _failures() -> tuple[type[Exception], ...]:
    """``OSError``, and what the library of S3 raises beside it."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, botocore.BotoCoreError) if botocore else (OSError,)
