"""Event files of TensorBoard, written one record after the other, so that a full disk is noticed at once."""

import json
import os
import time
from pathlib import Path
from typing import Any

from iceprobe.core.extras import require
from iceprobe.core.text import utf8, visible
from iceprobe.loggers.events import Event
from iceprobe.loggers.names import curve_values, markdown, run_name, score_values
from iceprobe.results.provenance import now

FOLDER = "tensorboard"  # in the run folder


class TensorBoardFiles:
    """A folder of event files; one that a killed run wrote gets another file beside them.

    Args:
        folder: in which each run has a folder; by default they are in the run folder itself.
        name: of that folder, by default the run's.
    """

    def __init__(self, folder: str | None, name: str | None = None):
        self._records = require(
            "tensorboard.summary.writer.record_writer", "tensorboard", "log tensorboard"
        )
        self._folder, self._name = folder, name
        self.identity: str | None = None
        self.done, self.place = 0, ""
        self._file: Any = None

    def __call__(self, event: Event) -> None:
        from torch.utils.tensorboard.summary import scalar

        if event.kind == "begin":
            self._begin(event)
            return
        if event.kind == "curves":
            assert event.step is not None
            for name, value in curve_values(event).items():
                self._write(scalar(name, value), event.step)
        elif event.kind == "results":
            for name, value in score_values(event.payload).items():
                self._write(scalar(name, value), 0)
            self._say("results", markdown(event.payload))
        elif event.kind == "report":
            self._say("report", f"    {visible(str(event.payload))}")
        self._file.flush()
        if event.kind == "end":
            self._file.close()

    def _begin(self, event: Event) -> None:
        inside = Path()
        if self._folder is not None or self._name is not None:
            inside = Path(run_name(event.run, self._name))
        folder = Path(self._folder or (event.folder or event.run) / FOLDER) / inside
        final = Path(self._folder or event.run / FOLDER) / inside
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._file = self._records.RecordWriter(file.open("wb"))
        self.place = f"TensorBoard files in {final}"
        self._put(file_version="brain.Event:2")
        if self.identity is None:
            self.identity = str(final)
            lines = json.dumps(event.payload, indent=1, default=str).splitlines()
            self._say("settings", "\n".join(f"    {line}" for line in lines))
        self._file.flush()

    def _say(self, name: str, text: str) -> None:
        from torch.utils.tensorboard.summary import text as summary

        self._write(summary(name, utf8(text).decode()), 0)

    def _write(self, summary: Any, step: int) -> None:
        self._put(summary=summary, step=step)

    def _put(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record

        self._file.write(Record(wall_time=now().timestamp(), **fields).SerializeToString())
