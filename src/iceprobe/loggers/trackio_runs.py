"""Runs of Trackio, in its local database or where its environment variables say."""

import contextlib
import io
import uuid
from collections.abc import Callable
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.text import visible
from iceprobe.loggers.events import Event
from iceprobe.loggers.names import COLUMNS, curve_values, run_name, score_rows, score_values


class TrackioRun:
    """A run, known by its name in the project.

    Args:
        project: of the run.
        name: of the run, by default that of its folder; six characters are added to it.
    """

    def __init__(self, project: str | None, name: str | None = None):
        self._trackio: Any = require("trackio", "trackio", "log trackio")
        self._project, self._name = project or "iceprobe", name
        self.identity: str | None = None
        self.done, self.place = 0, ""
        self._run: Any = None
        open_run = self._trackio.context_vars.current_run.get()
        if open_run is not None:
            raise IceprobeError(
                f"log trackio: this process has its run {visible(open_run.name)!r} open, and Trackio has "
                "one at a time: trackio.finish() first, or log=a callable that logs to it"
            )

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._begin(event)
        elif event.kind == "curves":
            self._run.log(curve_values(event), step=event.step)
        elif event.kind == "results":
            rows = score_rows(event.payload)
            table = self._trackio.Table(columns=list(COLUMNS), data=rows)
            self._run.log({**score_values(event.payload), "leaderboard": table}, step=0)
        elif event.kind == "report":
            self._report(event)
        else:
            _quietly(self._run.finish)
            self._trackio.context_vars.current_run.set(None)

    def _begin(self, event: Event) -> None:
        # It knows runs by their names alone.
        name = self.identity or f"{visible(run_name(event.run, self._name))}-{uuid.uuid4().hex[:6]}"
        self._run = _quietly(
            lambda: self._trackio.init(
                project=self._project,
                name=name,
                resume="must" if self.identity else "never",
                config={key.lstrip("_"): value for key, value in event.payload.items()},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        )
        self.identity = self._run.name
        self.place = (
            f"Trackio run {visible(str(self.identity))} of project {visible(self._project)}"
        )

    def _report(self, event: Event) -> None:
        artifact = self._trackio.Artifact(f"report-{self._run.id[:12]}", type="report")
        artifact.add_file(str(event.payload), name="report.html")
        self._run.log_artifact(artifact)


def _quietly(call: Callable[[], Any]) -> Any:
    """``call()``; what Trackio prints isn't shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()
