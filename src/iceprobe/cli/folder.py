"""The run folder from outside: new, left unfinished, or finished; never overwritten silently.

``config.yaml`` is written when there is something to fit, ``results.json`` by the fit at its end.
So a folder with the first and without the second is a run that was stopped.
"""

import contextlib
import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from iceprobe.cli.config import RunFolderSettings, differences, read_yaml, to_yaml
from iceprobe.cli.paths import check_place, check_writable
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import clipped, utf8, visible
from iceprobe.fitting.run_folder import REQUEST
from iceprobe.machine.files import write_atomically
from iceprobe.machine.processes import first, world
from iceprobe.results.files import FILE_NAME, SEGMENTATIONS
from iceprobe.settings import SegmentRun

LOGGERS = ("iceprobe", "py.warnings")


class RunFolder:
    """``runs/NAME/``.

    Attributes:
        path: the folder.
        state: as it was found.

    Raises:
        IceprobeError: if the path is a file, a folder of something else, a run of another
            configuration, or can't be made or written to.
    """

    def __init__(self, config: RunFolderSettings):
        assert config.output is not None  # resolve() has set it
        self.config, self.path = config, config.output
        self._made = False  # config.yaml is ours, and not that of another start of the same run
        self.state = first(self._look)

    def _look(self) -> Literal["new", "unfinished", "finished"]:
        check_place(self.path, "--output")
        state = self._find_state()
        if state != "finished":
            check_writable(self.path, "--output")
        return state

    def _find_state(self) -> Literal["new", "unfinished", "finished"]:
        if not self.path.is_dir() or all(map(self._is_remains, self.path.iterdir())):
            return "new"
        if not self._config_file.exists():
            raise IceprobeError(
                f"output {str(self.path)!r} holds something that is no run: choose another --output"
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

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

    def _is_remains(self, file: Path) -> bool:
        """Of a run that was killed while it wrote its ``config.yaml``, or that is just doing so."""
        return file.name == ".lock" or file.name.startswith(f".{self._config_file.name}.")

    def create(self) -> None:
        """Make the folder with its ``config.yaml``."""
        first(self._create)

    def _create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if self.state == "new":
            from iceprobe.machine.folder_lock import exclusive

            with exclusive(self.path):
                if self._find_state() == "new":  # as it was, now that nobody else writes it
                    for temporary in self.path.glob(f".{self._config_file.name}.*"):
                        temporary.unlink(missing_ok=True)
                    write_atomically(self._config_file, utf8(to_yaml(self.config)))
                    self._made = True

    def abandon(self) -> None:
        """Remove the folder again if it holds nothing but what :meth:`create` and the log left."""
        mine = [self._config_file, self.log, self.path / REQUEST]
        if not self.path.is_dir():
            return  # somebody has removed it in the meantime
        if world().main and self._made and set(self.path.iterdir()) <= set(mine):
            for file in mine:
                file.unlink(missing_ok=True)
            self.path.rmdir()


class _LogFile(logging.FileHandler):
    """A disk too full for the log isn't an error here: what needs the room more says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _Lines(logging.Formatter):
    """What a record says stays its own: control characters are spelled, further lines indented."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", "\n    ")


class RunLog:
    """Collects log lines and warnings, and writes them to a file once there is a place for it.

    A run that fails before it has a folder leaves none behind.
    """

    def __init__(self) -> None:
        self._waiting = MemoryHandler(capacity=1, flushOnClose=False)
        self._file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Append what was collected, and from now on every line, to the file at ``path``.

        Of several processes the first one's.

        Raises:
            IceprobeError: if a link or a device is there, which would be written to.
        """
        if not world().main:
            return
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise IceprobeError(
                f"{path} is no file of this run: remove it, then run the same again"
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            logging.getLogger("iceprobe").error("%s: %s", type(error).__name__, clipped(str(error)))
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._waiting)
        self._waiting.close()
        if self._file:
            self._file.close()
