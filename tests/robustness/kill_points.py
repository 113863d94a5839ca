"""A process that dies at the n-th write, rename, unlink, fsync, mkdir, rmdir or open for writing.

`Points.install` puts itself between this process and the functions by which Python changes a disk.
Death is SIGKILL: no handler, no ``finally``, nothing flushed. A write is a point three times: before
it, in its middle (half of it has reached the file) and, as the next operation, behind it.
"""

import builtins
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

CALLS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "link", "symlink")


class Points:
    """Counts the operations on files below ``root`` and dies at one of them.

    Attributes:
        passed: what was done so far, in words.
    """

    def __init__(self, root: Path, fatal: int | None):
        self.root, self.fatal = os.path.realpath(root), fatal
        self.passed: list[str] = []
        self._lock = threading.Lock()  # a store is written by a thread of its own

    def at(self, what: str, before_death: Callable[[], Any] | None = None) -> None:
        with self._lock:
            if len(self.passed) == self.fatal:
                if before_death is not None:
                    before_death()
                os.kill(os.getpid(), signal.SIGKILL)
            self.passed.append(what)

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        write = safetensors.torch.serialize_file  # by a library that isn't Python
        safetensors.torch.serialize_file = self._serializing(write)
        opened = io.open
        builtins.open = io.open = self._opening(opened)  # type: ignore[assignment]

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self._ours(arguments[0], options.get("dir_fd")):
                self.at(f"{name} {self._named(arguments[0])}")
            return function(*arguments, **options)

        return wrapped

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = bool(set(mode) & set("wax+")) and self._ours(file, None)
            if writes:
                self.at(f"open {self._named(file)}")
            opened = function(file, mode, *arguments, **options)
            return _File(opened, self, self._named(file)) if writes else opened

        return wrapped

    def _serializing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(tensors: Any, file: Any, *arguments: Any, **options: Any) -> Any:
            def half() -> None:
                function(tensors, file, *arguments, **options)
                os.truncate(file, os.path.getsize(file) // 2)

            if self._ours(file, None):
                self.at(f"save {self._named(file)}")
                self.at(f"half of save {self._named(file)}", half)
            return function(tensors, file, *arguments, **options)

        return wrapped

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
        self._points.at(f"write {self._name}")

        def half() -> None:
            part = content if isinstance(content, str) else bytes(memoryview(content))
            self._file.write(part[: len(part) // 2])
            self._file.flush()

        self._points.at(f"half of write {self._name}", half)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)
