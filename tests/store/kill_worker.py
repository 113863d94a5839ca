"""Kill an extraction with SIGKILL at every point where bytes, names or syncs reach the disk.

Run by test_resume.py as a process of its own: it forks before torch has started any thread. Each
fork runs a real extraction and kills itself at one point; another goes on and must end with the
bytes of an extraction that nobody stopped. Prints one line a point.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from iceprobe.store import extract, shards
from tests.store.conftest import SMALL, content, make_backbone, make_dataset

torch.set_num_threads(1)


class Points:
    """Counts the points that an extraction passes, and dies at one of them."""

    def __init__(self, fatal: int | None):
        self.passed, self.fatal = 0, fatal

    def at(self) -> None:
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1

    def around(self, function: Callable) -> Callable:
        def wrapped(*arguments):
            self.at()
            result = function(*arguments)
            self.at()
            return result

        return wrapped

    def install(self) -> None:
        os.replace, os.fsync = self.around(os.replace), self.around(os.fsync)
        write_all = shards._write_all

        def halves(file, tensor):
            half = len(tensor) // 2
            write_all(file, tensor[:half])
            self.at()  # in the middle of a tensor
            write_all(file, tensor[half:])

        shards._write_all = halves


def run(root: Path, fatal: int | None, tokens: str, views: int) -> int:
    """Extract in a fork; how it ended, as ``os.waitpid`` tells, or the points it passed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        points = Points(fatal)
        points.install()
        options = dict(tokens=tokens, views=views) | SMALL
        extract(make_backbone(), make_dataset(train=18, test=3), root, **options)
        os.write(write, str(points.passed).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    passed = os.read(read, 20)
    os.close(read)
    return int(passed) if status == 0 else -status


def main(folder: Path, tokens: str, views: int) -> None:
    total = run(folder / "whole", None, tokens, views)
    whole = content(folder / "whole")
    for point in range(total):
        root = folder / f"killed-{point}"
        killed = run(root, point, tokens, views)
        left = sorted(content(root))
        resumed = run(root, None, tokens, views)
        same = content(root) == whole
        print(point, "killed" if killed == -signal.SIGKILL else killed, resumed >= 0, same, left)
    print("points", total)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
