"""Runs of Weights & Biases. A user's own open run is left alone."""

import inspect
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.text import visible
from iceprobe.loggers.events import Event
from iceprobe.loggers.names import COLUMNS, curve_values, run_name, score_rows, score_values


class WandbRun:
    """A run of its own.

    Curves have the axis ``epoch``: of several trainings of a probe later ones begin at 1 again.

    Args:
        project: of the run.
        name: of the run, by default that of its folder.
        entity: user or team.
        group: of runs.
        mode: ``"online"`` or ``"offline"``; by default what WANDB_MODE or its settings say.
    """

    def __init__(
        self,
        project: str | None,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        mode: str | None = None,
    ):
        self._wandb: Any = require("wandb", "wandb", "log wandb")
        self._project, self._name = project or "iceprobe", name
        self._settings = {"entity": entity, "group": group, "mode": mode}
        self.identity: str | None = None
        self.done, self.place = 0, ""
        self._run: Any = None
        self._offline = False
        online = (mode or self._wandb.setup().settings.mode) == "online"
        asks = "prompt" not in inspect.signature(self._wandb.login).parameters  # of earlier ones
        if online and not asks and not self._wandb.login(prompt=False):
            raise IceprobeError(
                "log wandb: no API key here: `wandb login`, or wandb?mode=offline and later `wandb sync`"
            )

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._begin(event)
        elif event.kind == "curves":
            self._log({**curve_values(event), "epoch": event.step})
        elif event.kind == "results":
            self._run.summary.update(score_values(event.payload))
            table = self._wandb.Table(columns=list(COLUMNS), data=score_rows(event.payload))
            self._log({"leaderboard": table})
        elif event.kind == "report":
            artifact = self._wandb.Artifact(f"report-{self.identity}", type="report")
            artifact.add_file(str(event.payload), name="report.html")
            self._run.log_artifact(artifact)
        else:
            self._run.finish(exit_code=0 if event.payload == "finished" else 1)

    def _log(self, values: dict[str, Any]) -> None:
        """Offline nobody else knows the step at which an earlier start ended."""
        self.done += 1
        self._run.log(values, step=self.done if self._offline else None)

    def _begin(self, event: Event) -> None:
        self._run = self._wandb.init(
            project=self._project,
            name=visible(run_name(event.run, self._name)),
            id=self.identity,
            resume="allow" if self.identity else None,
            reinit="create_new",
            config=event.payload,
            settings=self._wandb.Settings(console="off", silent=True),
            **self._settings,
        )
        self.identity = self._run.id
        self._offline = self._run.settings.mode != "online"
        self.place = (
            f"W&B files in {self._run.dir}" if self._offline else f"W&B run {self._run.url}"
        )
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
