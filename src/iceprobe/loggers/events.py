"""What a logger is told: one event at a time, the same for those of iceprobe and for your own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["begin", "curves", "results", "report", "end"]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    ========= ========================================================== =============
    kind      payload                                                    step
    ========= ========================================================== =============
    begin     the settings, a ``dict`` of texts, numbers and lists       None
    curves    ``list[CurveRow]``, the rows of ``curves.csv`` of one      the epoch,
              epoch: one a member                                        from 1
    results   ``list[Result]``, as in ``results.json``; of               None
              ``segment`` ``list[Dense]``
    report    ``Path`` of ``report.html``                                None
    end       ``"finished"``, ``"stopped"`` or ``"failed"``              None
    ========= ========================================================== =============

    Attributes:
        kind: of the table.
        run: the run folder.
        folder: the one that becomes it at the end, while that of ``segment`` isn't complete.
        payload: of the table.
        step: of the table.
        of: of curves: the training that the rows are of, ``"select 2/5"``,
            ``"refit, round 3/5"`` where there are replicates or folds. A member
            (probe, learning rate, weight decay, seed) of a training has one row an epoch.
        metric: of curves: name of the metric that ``eval_accuracy`` is of, ``"top1"``.
    """

    kind: Kind
    run: Path
    payload: Any = None
    step: int | None = None
    of: str = ""
    metric: str = ""
    folder: Path | None = None


Log = Callable[[Event], object]


class Tracker(Protocol):
    """A logger of iceprobe: a callable that can continue a run of its tool.

    One is made before anything is written: then a missing library, a wrong option or a server that
    doesn't answer is an `IceprobeError`.

    Attributes:
        identity: of the tool's run. Before ``begin`` None or that of the run to continue; kept in the
            run folder after it.
        done: epochs that were logged to it before, of all trainings.
        place: where its user finds the run, a line.
    """

    identity: str | None
    done: int
    place: str

    def __call__(self, event: Event) -> None: ...
