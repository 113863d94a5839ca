"""Places on object storage: URLs that ``fsspec`` reads, with a part of ``Path``'s interface.

``s3://bucket/birds`` is a key prefix, not a folder: there are no renames and no locks, an object is
written as a whole, and a listing has names, sizes and versions. fsspec and the storage's own
library find keys, endpoints and regions (``AWS_ENDPOINT_URL``, ``~/.aws``, ``FSSPEC_S3_KEY``, …);
iceprobe has no settings for them.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_folder

# pathlib turns two slashes into one, so that of `Path("s3://bucket")` is enough.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")


@dataclass(frozen=True)
class RemotePath:
    """An object, or all whose keys begin with it; ``FileNotFoundError`` if it is missing."""

    url: str  # without a trailing slash

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
        """fsspec's file system, of which it caches one per process and thread."""
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            options = {}
            if self.url.startswith("s3:") and "config_kwargs" not in conf.get("s3", {}):
                # s3fs makes five attempts of 15 seconds; botocore would make five of each.
                options = {"config_kwargs": {"retries": {"max_attempts": 0}}}
            # A cached listing would hide what other machines write and remove.
            return url_to_fs(self.url, use_listings_cache=False, **options)[0]
        except ModuleNotFoundError as error:
            raise IceprobeError(
                f"{self.url}: needs the package {error.name}: pip install 'iceprobe[s3]'"
            ) from error
        except (ImportError, ValueError) as error:  # fsspec: the protocol's package is missing
            raise IceprobeError(
                f"{self.url}: {error} (s3:// comes with pip install 'iceprobe[s3]')"
            ) from error

    @property
    def key(self) -> str:
        """The name in the file system."""
        key: str = self.fs._strip_protocol(self.url)
        return key

    def exists(self) -> bool:
        return bool(self._ask(lambda fs, key: fs.exists(key)))

    def is_file(self) -> bool:
        return bool(self._ask(lambda fs, key: fs.isfile(key)))

    def is_dir(self) -> bool:
        return bool(self._ask(lambda fs, key: fs.isdir(key)))

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The object, or its bytes from ``start`` to ``stop``, in one request."""
        content: bytes = self._ask(lambda fs, key: fs.cat_file(key, start=start, end=stop))
        return content

    def open(self, mode: str = "rb") -> Any:
        """A buffered file object."""
        return self._ask(lambda fs, key: fs.open(key, mode))

    def write_bytes(self, content: bytes) -> None:
        """Write an object as a whole."""
        self._ask(lambda fs, key: fs.pipe_file(key, content))

    def upload(self, file: Path) -> None:
        """Write a file's content as a whole: the object appears after its last part."""
        self._ask(lambda fs, key: fs.put_file(str(file), key))

    def download(self, file: Path) -> None:
        self._ask(lambda fs, key: fs.get_file(key, str(file)))

    def folders(self) -> list[str]:
        """Names of the prefixes directly below, sorted."""
        return sorted(name for name, kind in self._entries() if kind == "directory")

    def files(self) -> list[str]:
        """Names of the objects directly below, sorted."""
        return sorted(name for name, kind in self._entries() if kind == "file")

    def find(self) -> dict[str, tuple[int, str]]:
        """Every object below: relative name → size and version (etag or time)."""
        try:
            found = self._ask(lambda fs, key: fs.find(key, detail=True))
        except FileNotFoundError:  # other file systems return nothing
            found = {}
        start = len(self.key) + 1
        return {
            key[start:]: (int(info["size"]), _version(info))
            for key, info in found.items()
            if not key.endswith("/") and len(key) > start
        }

    def glob(self) -> list["RemotePath"]:
        """The objects that match the ``*`` and ``?`` of this place, sorted."""
        urls = self._ask(lambda fs, key: [fs.unstrip_protocol(k) for k in sorted(fs.glob(key))])
        return [RemotePath(str(url)) for url in urls]

    def state(self) -> tuple[int, str]:
        """Size and version."""
        info = self._ask(lambda fs, key: fs.info(key))
        return int(info["size"]), _version(info)

    def _entries(self) -> Iterator[tuple[str, str]]:
        for info in self._ask(lambda fs, key: fs.ls(key, detail=True)):
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            if info["name"].rstrip("/") != self.key:
                yield name, info["type"]

    def _ask(self, call: Callable[[Any, str], Any]) -> Any:
        """``call(fs, key)``; errors but ``FileNotFoundError`` become an ``IceprobeError``."""
        try:
            return call(self.fs, self.key)
        except FileNotFoundError:
            raise
        except _failures() as error:
            said = " ".join(str(error).split()) or type(error).__name__
            remedy = "see that the address is right and credentials are set"
            if "timeout" in f"{type(error).__name__} {said}".lower().replace(" ", ""):
                remedy = "the server doesn't answer: check it, then run the same command again"
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
    """An argument for ``PIL.Image.open``."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path


def cache_folder() -> Path:
    """Folder of copies of remote shards: ``ICEPROBE_CACHE`` or ``iceprobe`` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "iceprobe"
    folder = Path(os.environ.get("ICEPROBE_CACHE") or default).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scratch_folder() -> contextlib.AbstractContextManager[Path]:
    """A temporary folder in the cache; those of killed processes are removed."""
    return temporary_folder(cache_folder() / "scratch")


def cache_bytes() -> int | None:
    """The most bytes of that cache, by ``ICEPROBE_CACHE_GB``; ``None`` if that isn't set."""
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
    """``OSError`` and the other errors of the S3 library."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, botocore.BotoCoreError) if botocore else (OSError,)
