"""A process that dies at the n-th write, rename, unlink, fsync, mkdir, rmdir or open for writing.

`Points.install` puts itself between this process and the functions by which Python changes a disk.
Death is SIGKILL: no handler, no ``finally``, nothing flushed. A write is a point twice: before it,
and in its middle, when half of it has reached the file.

SIGKILL leaves the files as they are and nothing else. So two points that find the same files are
one (an fsync, and what waits in a buffer, change nothing), and a process that lives on can put
aside what a death at each of its points would have left.
"""

import builtins
import contextlib
import hashlib
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

truncate = os.truncate  # this one is no point
CALLS = (
    "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "link", "symlink", "write",
    "truncate", "ftruncate",
)  # fmt: skip


class Points:
    """Counts the operations on files below ``root``, one at a time, and dies at one of them.

    Args:
        root: the folder.
        fatal: number of the operation, from 0.
        keep: a folder that gets a copy of ``root`` under the number of every operation before
            which its files were as never before.

    Attributes:
        passed: what was done so far, in words.
    """

    def __init__(self, root: Path, fatal: int | None = None, keep: Path | None = None):
        self.root, self.fatal, self.keep = os.path.realpath(root), fatal, keep
        self.passed: list[str] = []
        self._found: set[str] = set()
        self._lock = threading.RLock()  # a store is written by a thread of its own

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """Around an operation."""
        with self._lock:
            if len(self.passed) == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            number = len(self.passed)
            self.passed.append(what)
            if self.keep is not None and (found := self._files()) not in self._found:
                self._found.add(found)
                shutil.copytree(self.root, self.keep / str(number), symlinks=True)
            yield

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        os.open = self._creating(os.open)  # type: ignore[assignment]
        # By a library that isn't Python:
        safetensors.torch.serialize_file = self._serializing(safetensors.torch.serialize_file)
        opened = io.open
        builtins.open = io.open = self._opening(opened)  # type: ignore[assignment]

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not self._ours(arguments[0], options.get("dir_fd")):
                return function(*arguments, **options)
            with self.at(f"{name} {self._named(arguments[0])}"):
                return function(*arguments, **options)

        return wrapped

    def _creating(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, flags: int, *arguments: Any, **options: Any) -> Any:
            if not (flags & os.O_CREAT and self._ours(file, options.get("dir_fd"))):
                return function(file, flags, *arguments, **options)
            with self.at(f"create {self._named(file)}"):
                return function(file, flags, *arguments, **options)

        return wrapped

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not (set(mode) & set("wax+") and self._ours(file, None)):
                return function(file, mode, *arguments, **options)
            with self.at(f"open {self._named(file)}"):
                opened = function(file, mode, *arguments, **options)
            return _File(opened, self, self._named(file))

        return wrapped

    def _serializing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(tensors: Any, file: Any, *arguments: Any, **options: Any) -> Any:
            if not self._ours(file, None):
                return function(tensors, file, *arguments, **options)
            with self.at(f"save {self._named(file)}"):
                function(tensors, file, *arguments, **options)
                truncate(file, os.path.getsize(file) // 2)
            with self.at(f"half of save {self._named(file)}"):
                return function(tensors, file, *arguments, **options)

        return wrapped

    def _files(self) -> str:
        """A digest of every name and content; of a log its name, nothing reads its lines again."""
        digest = hashlib.sha256()
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            digest.update(repr((folder, folders, sorted(names))).encode())
            for name in sorted(names):
                if name != "log.txt":
                    content = Path(folder, name).read_bytes()
                    digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def _ours(self, file: Any, folder: int | None) -> bool:
        if folder is not None:
            return os.readlink(f"/proc/self/fd/{folder}").startswith(self.root)
        if isinstance(file, int):
            return os.readlink(f"/proc/self/fd/{file}").startswith(self.root)
        return os.path.realpath(os.path.dirname(os.fspath(file)) or ".").startswith(self.root)

    @staticmethod
    def _named(file: Any) -> str:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(file)
        return os.path.basename(os.fsdecode(path))


class _File:
    """An open file whose writes are points."""

    def __init__(self, file: Any, points: Points, name: str):
        self._file, self._points, self._name = file, points, name

    def write(self, content: Any) -> Any:
        whole = content if isinstance(content, str) else bytes(memoryview(content))
        half = len(whole) // 2
        with self._points.at(f"write {self._name}"):
            written = self._file.write(whole[:half])
            self._file.flush()
        with self._points.at(f"half of write {self._name}"):
            return written + self._file.write(whole[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)
