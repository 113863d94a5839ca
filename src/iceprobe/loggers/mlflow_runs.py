"""Runs of MLflow, through its client: no global run or tracking address is set."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.text import short_name, visible, without_credentials
from iceprobe.loggers.events import Event
from iceprobe.loggers.names import csv, curve_values, markdown, reason, run_name, score_values
from iceprobe.results.provenance import now

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
AT_ONCE = 1000  # metrics of a request, at most; parameters: 100
PARAMETERS = 100
LONGEST = 500  # characters of a parameter in older servers
# So that a server that is away delays a fit by seconds, not by minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowRun:
    """A run of an experiment, which is made where there is none of that name.

    Args:
        experiment: its name.
        name: of the run, by default that of its folder.
        uri: of the tracking server or store; by default MLflow's own, MLFLOW_TRACKING_URI.
    """

    def __init__(self, experiment: str | None, name: str | None = None, uri: str | None = None):
        mlflow = require("mlflow", "mlflow", "log mlflow")
        self._experiment, self._name = experiment or "iceprobe", name
        self.identity: str | None = None
        self.done, self.place = 0, ""
        where = uri or mlflow.get_tracking_uri()
        try:
            with _patient():
                self._client: Any = mlflow.MlflowClient(uri)
                self._client.get_experiment_by_name(self._experiment)
        except Exception as error:
            raise IceprobeError(
                f"log mlflow: {visible(without_credentials(where))} can't be used ({reason(error)}): give another uri=, "
                "or set MLFLOW_TRACKING_URI"
            ) from error
        self._where = without_credentials(where)

    def __call__(self, event: Event) -> None:
        with _patient():
            if event.kind == "begin":
                self._begin(event)
            elif event.kind == "curves":
                assert event.step is not None
                self._metrics(curve_values(event), event.step)
            elif event.kind == "results":
                self._metrics(score_values(event.payload), 0)
                self._client.log_text(self.identity, csv(event.payload), "leaderboard.csv")
                self._client.log_text(self.identity, markdown(event.payload), "leaderboard.md")
            elif event.kind == "report":
                self._client.log_artifact(self.identity, str(event.payload))
            else:
                self._client.set_terminated(self.identity, STATUS[event.payload])

    def _begin(self, event: Event) -> None:
        client = self._client
        if self.identity is not None:
            client.update_run(self.identity, status="RUNNING")
        else:
            found = client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found else client.create_experiment(self._experiment)
            name = visible(run_name(event.run, self._name))
            self.identity = client.create_run(number, run_name=name).info.run_id
            self._parameters(event.payload)
        self.place = f"MLflow run {self.identity} at {visible(self._where)}"

    def _parameters(self, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        found = [Param(plain(k), visible(str(v))[:LONGEST]) for k, v in settings.items()]
        for begin in range(0, len(found), PARAMETERS):
            self._client.log_batch(self.identity, params=found[begin : begin + PARAMETERS])

    def _metrics(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        stamp = int(1000 * now().timestamp())
        found = [Metric(plain(name), value, stamp, step) for name, value in values.items()]
        for begin in range(0, len(found), AT_ONCE):
            self._client.log_batch(self.identity, metrics=found[begin : begin + AT_ONCE])


def plain(name: str) -> str:
    """``name`` in the characters that MLflow takes: ``linear?input=mean`` → ``linear:input mean``.

    What has none of its own is ``_``; the name then ends in a hash of it, so that no two become one.
    """
    simple = re.sub("[=&,]", " ", name.replace(" + ", " and ").replace("?", ":"))
    known = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", simple)
    if known != simple:
        known += "-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return short_name(known, 200)


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """MLflow's own patience, where the user hasn't set it, is shorter inside."""
    mine = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)
