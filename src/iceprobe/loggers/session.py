"""The loggers of one run: started once, told of everything once, dropped when they fail.

``RUN/loggers.json`` keeps which run of its tool each logger wrote and how far it got. So a run that was
killed goes on in the same run of the tool, and logs nothing twice.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.loggers.events import Event, Log
from iceprobe.loggers.names import reason
from iceprobe.loggers.registry import LOGGERS, parse_logger
from iceprobe.machine.files import write_atomically
from iceprobe.machine.processes import first, world
from iceprobe.machine.signals import Stopped
from iceprobe.results.curves import CurveRow
from iceprobe.results.dense import Dense
from iceprobe.results.schema import Result

log = logging.getLogger("iceprobe")
FILE_NAME = "loggers.json"


@dataclass
class _Logger:
    """A logger at work.

    Attributes:
        name: its spec string, or a callable as Python shows it.
        call: is given the events.
        kept: whether it is a tracker, whose state is kept.
        logged: the last epoch logged of each training.
        ended: whether the whole run is logged.
        at_work: whether it has begun, and not failed since.
    """

    name: str
    call: Any
    kept: bool
    logged: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    at_work: bool = False


class Session:
    """The loggers of a run; a context whose end is theirs. Of several processes only the first one logs.

    Args:
        asked: spec strings and callables, one or a list.
        settings: of the run, logged with those that the fit itself states.
        run: the run folder, where the fit writes one that becomes it at the end.

    Raises:
        IceprobeError: when it is entered, for a logger that can't start; nothing is written yet.
    """

    def __init__(
        self, asked: Any, settings: Mapping[str, Any] | None = None, run: Path | None = None
    ):
        single = asked is None or isinstance(asked, str) or callable(asked)
        self._asked: Sequence[Any] = ([] if asked is None else [asked]) if single else list(asked)
        self._settings = dict(settings or {})
        self._loggers: list[_Logger] = []
        self._run, self._folder = run, run

    def __bool__(self) -> bool:
        return bool(self._asked)

    @property
    def places(self) -> list[str]:
        """Where each tracker's run is found."""
        return [one.call.place for one in self._loggers if one.kept and one.at_work]

    def __enter__(self) -> Self:
        first(self._make)
        return self

    def _make(self) -> None:
        made: list[tuple[str, _Logger]] = []
        for one in self._asked:
            if callable(one):
                made.append(("", _Logger(shown(one), one, kept=False)))
                continue
            if not isinstance(one, str):
                raise IceprobeError(
                    f"log={shown(one)}: give a spec string, {', '.join(sorted(LOGGERS))}, or a callable"
                )
            name, spec, options = parse_logger(one)
            if str(spec) in [other.name for _, other in made]:
                raise IceprobeError(f"log {str(spec)!r} is given twice: keep one")
            tracker = LOGGERS[name].load()(spec.name if spec.kind else None, **options)
            made.append((name, _Logger(str(spec), tracker, kept=True)))
        order = ["", *LOGGERS]
        self._loggers = [one for _, one in sorted(made, key=lambda pair: order.index(pair[0]))]

    def begin(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Start every logger, in the tool's run that it wrote before into ``folder``, if it did.

        Raises:
            IceprobeError: naming the one that can't.
        """
        self._run, self._folder, earlier = self._run or folder, folder, _read(folder)
        for one in self._loggers:
            self._begin(one, earlier, {**settings, **self._settings})
        if any(one.kept for one in self._loggers):
            self._keep()

    def _begin(self, one: _Logger, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        if one.kept and (state := earlier.get(one.name)) is not None:
            one.call.identity, one.logged = state["identity"], dict(state["logged"])
            one.call.done = sum(one.logged.values())
        try:
            one.call(self._event("begin", dict(settings)))
        except IceprobeError:
            raise
        except Exception as error:
            assert self._folder is not None
            again = (
                f", or remove {self._folder / FILE_NAME} to begin a new one" if one.logged else ""
            )
            raise IceprobeError(
                f"log {one.name!r} can't start ({reason(error)}): put that right{again}, or leave it out"
            ) from error
        one.at_work = True
        if one.kept:
            log.info("logged to %s", one.call.place)

    def curves(self, of: str, rows: Sequence[CurveRow], metric: str, once: str = "") -> None:
        """Log the rows of one epoch, where they aren't logged yet.

        Args:
            of: the training that they are of, in words.
            rows: one a member; of one epoch.
            metric: that its ``eval_accuracy`` is of.
            once: names the training among all of the run, where ``of`` doesn't.
        """
        if not rows or not world().main or not any(one.at_work for one in self._loggers):
            return
        epoch, key = rows[0].epoch, once or of
        event = self._event("curves", list(rows), step=epoch, of=of, metric=metric)
        for one in self._loggers:
            if epoch > one.logged.get(key, 0) and self._give(one, event):
                one.logged[key] = epoch
        if any(one.kept for one in self._loggers):
            self._keep()

    def results(self, results: Sequence[Result | Dense]) -> None:
        """Log the leaderboard."""
        self._tell("results", list(results))

    def report(self, path: Path) -> None:
        """Log the report."""
        self._tell("report", path)

    def complete(self, run: Path, results: Sequence[Result | Dense]) -> bool:
        """Log what is missing of a finished run, and say whether that is anything.

        It is nothing, unless the run was killed between its results and the end of its loggers.
        """
        earlier = _read(run)
        missing = [
            one for one in self._loggers if one.name in earlier and not earlier[one.name]["ended"]
        ]
        if not missing:
            return False
        self._run, self._folder, self._loggers = run, run, missing
        for one in missing:
            self._begin(one, earlier, self._settings)
        self.results(results)
        if (run / "report.html").exists():
            self.report(run / "report.html")
        return True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        how = "finished"
        if error is not None:
            how = "stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed"
        told = [one for one in self._loggers if one.at_work]
        self._tell("end", how)
        for one in told:
            one.ended = how == "finished" and one.at_work
        if any(one.kept for one in told):
            with contextlib.suppress(OSError):
                self._keep()

    def _tell(self, kind: Any, payload: Any) -> None:
        if not world().main:
            return
        for one in self._loggers:
            if one.at_work:
                self._give(one, self._event(kind, payload))

    def _event(self, kind: Any, payload: Any, **curves: Any) -> Event:
        assert self._run is not None
        folder = self._folder if self._folder != self._run else None
        return Event(kind, self._run, payload, folder=folder, **curves)

    def _give(self, one: _Logger, event: Event) -> bool:
        """Whether the logger took the event. One that fails is told nothing more: the fit comes first."""
        if not one.at_work:
            return False
        try:
            one.call(event)
        except Exception as error:  # noqa: BLE001 (of any library)
            one.at_work = False
            log.warning("log %s failed (%s): the run goes on without it", one.name, reason(error))
        return one.at_work

    def _keep(self) -> None:
        """Write how far each tracker is, beside what earlier starts logged elsewhere."""
        assert self._run is not None
        assert self._folder is not None
        folder = self._folder
        if not folder.is_dir():  # it is the run by now, or was removed while the fit was at work
            folder = self._run
            if not (folder / FILE_NAME).exists():
                return
        states = _read(folder) | {
            one.name: {"identity": one.call.identity, "logged": one.logged, "ended": one.ended}
            for one in self._loggers
            if one.kept
        }
        text = json.dumps(states, indent=1) + "\n"
        write_atomically(folder / FILE_NAME, text.encode())


def _read(run: Path) -> dict[str, Any]:
    """State of each tracker by its spec string, as earlier starts of the run left it.

    Raises:
        IceprobeError: if the file isn't what was written.
    """
    path = run / FILE_NAME
    try:
        found = parse_json(path.read_bytes())
        return {
            str(name): {
                "identity": state["identity"],
                "logged": {str(key): int(epoch) for key, epoch in state["logged"].items()},
                "ended": bool(state["ended"]),
            }
            for name, state in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise IceprobeError(f"{path} can't be read ({reason(error)}): remove it") from error


@contextlib.contextmanager
def logging_to(
    asked: Log | str | Sequence[Log | str] | Session | None, run: Path | None = None
) -> Iterator[Session]:
    """The session of a call from Python: a new one, or the caller's own, which the caller ends."""
    if isinstance(asked, Session):
        yield asked
        return
    with Session(asked, run=run) as session:
        yield session


Tell = Callable[[str, Sequence[CurveRow], str, str], None]  # :meth:`Session.curves`
