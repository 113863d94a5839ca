"""The run folder: new, unfinished or finished; never overwritten silently.

``config.yaml`` is written before the fit and ``results.json`` at its end. So a folder with the first
and without the second is a run that was stopped.
"""

import contextlib
import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Literal, Self

from iceprobe.cli.config import RunFolderSettings, differences, read_yaml, to_yaml
from iceprobe.cli.paths import check_place, check_writable
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import clipped, utf8, visible
from iceprobe.fitting.run_folder import REQUEST
from iceprobe.machine.files import write_atomically
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import first, world
from iceprobe.results.files import FILE_NAME, SEGMENTATIONS
from iceprobe.settings import SegmentRun

LOGGERS = ("iceprobe", "py.warnings")
State = Literal["new", "unfinished", "finished"]


class RunFolder:
    """``runs/NAME/``.

    Attributes:
        path: the folder.
        report, log: its files.
        state: in which it was found.

    Raises:
        IceprobeError: if the path is a file, a folder of something else, a run of another
            configuration, or can't be made or written to.
    """

    def __init__(self, config: RunFolderSettings):
        assert config.output is not None  # resolve() has set it
        self.config, self.path = config, config.output
        self.report, self.log = self.path / "report.html", self.path / "log.txt"
        self._config_file = self.path / "config.yaml"
        self._made = False  # whether this process wrote config.yaml
        self.state = first(self._look)

    def _look(self) -> State:
        check_place(self.path, "--output")
        state = self._find_state()
        if state != "finished":
            check_writable(self.path, "--output")
        return state

    def _find_state(self) -> State:
        if not self.path.is_dir() or all(map(self._is_remains, self.path.iterdir())):
            return "new"
        if not self._config_file.exists():
            raise IceprobeError(
                f"output {str(self.path)!r} holds something other than a run: choose another --output"
            )
        earlier = read_yaml(self._config_file)
        if changed := differences(self.config, earlier):
            now = self.config.model_dump(mode="json")
            what = ", ".join(f"{key} {earlier.get(key)} → {now.get(key)}" for key in changed)
            raise IceprobeError(
                f"output {str(self.path)!r} holds a run of another configuration ({what}): "
                "choose another --output"
            )
        results = SEGMENTATIONS if isinstance(self.config, SegmentRun) else FILE_NAME
        return "finished" if (self.path / results).exists() else "unfinished"

    def _is_remains(self, file: Path) -> bool:
        """Whether a run left it that was killed while it wrote ``config.yaml``, or is writing it now."""
        return file.name == ".lock" or file.name.startswith(f".{self._config_file.name}.")

    def create(self) -> None:
        """Make the folder with its ``config.yaml``."""
        first(self._create)

    def _create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if self.state != "new":
            return
        with exclusive(self.path):
            if self._find_state() == "new":  # still, now that no other process writes it
                for temporary in self.path.glob(f".{self._config_file.name}.*"):
                    temporary.unlink(missing_ok=True)
                write_atomically(self._config_file, utf8(to_yaml(self.config)))
                self._made = True

    def abandon(self) -> None:
        """Remove the folder if it holds only what :meth:`create` and the log wrote."""
        mine = [self._config_file, self.log, self.path / REQUEST]
        if not self.path.is_dir():
            return  # removed in the meantime
        if world().main and self._made and set(self.path.iterdir()) <= set(mine):
            for file in mine:
                file.unlink(missing_ok=True)
            self.path.rmdir()


class _LogFile(logging.FileHandler):
    """Ignores a full disk: the results need the same space, and their error is reported."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _Lines(logging.Formatter):
    """Escapes control characters and indents further lines, so that no message looks like another record."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", "\n    ")


class RunLog:
    """Collects log lines and warnings, and writes them to a file once the run has a folder."""

    def __init__(self) -> None:
        self._waiting = MemoryHandler(capacity=1, flushOnClose=False)
        self._file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Append the collected lines and all later ones to the file at ``path``, in process 0.

        Raises:
            IceprobeError: if a link or a device is there.
        """
        if not world().main:
            return
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise IceprobeError(
                f"{path} is not a file of this run: remove it, then run the same again"
            )
        self._file = _LogFile(path, encoding="utf-8")
        self._file.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
        self._waiting.setTarget(self._file)
        self._waiting.flush()

    def __enter__(self) -> Self:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._waiting)
            logging.getLogger(name).setLevel(logging.INFO)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            logging.getLogger("iceprobe").error("%s: %s", type(error).__name__, clipped(str(error)))
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._waiting)
        self._waiting.close()
        if self._file:
            self._file.close()
