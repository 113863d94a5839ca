"""What the callbacks share: when a look is taken, the look, its scores, and its history.

    begin ──▶ check, clock starts        after a step or an epoch ──▶ due? in the budget? ──▶ look ──▶ scores

A trainer's own file says what is trained, counts steps and epochs, and logs the scores.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from iceprobe.backbones import Backbone, load_backbone
from iceprobe.backbones.registry import OF_MODULES, OF_PARTS
from iceprobe.core.arguments import plain
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import settle
from iceprobe.core.specs import unknown
from iceprobe.core.text import duration, shown, visible
from iceprobe.datasets import Dataset, load_dataset
from iceprobe.fitting.api import check_probe, probe_backbone, request_in_memory
from iceprobe.integrations.processes import Processes
from iceprobe.integrations.schedule import Budget, Every, share_of
from iceprobe.integrations.undisturbed import undisturbed
from iceprobe.integrations.whole import check_whole
from iceprobe.results.schema import Result
from iceprobe.settings import LookCall
from iceprobe.store.kept_images import KeptImages

log = logging.getLogger("iceprobe")
Choose = Callable[[], Any]  # gives the module to look at
_OF_BACKBONES = {one.name for group in {**OF_MODULES, **OF_PARTS}.values() for one in fields(group)}
_OF_BACKBONES |= {"paradigm"}
_ELSEWHERE = {
    "device": "a look runs where the model is",
    "progress": "a look shows no bar beside the trainer's",
}


@dataclass(frozen=True)
class Look:
    """One look.

    Attributes:
        step: steps that were done.
        epoch: epochs that were done; ``None`` where the trainer doesn't say.
        seconds: that it took.
        scores: by the name under which they are logged; empty if it failed.
        results: as of :func:`iceprobe.probe`, without tokens, probes and predictions; in the first process
            alone.
        error: why it failed, in a line.
    """

    step: int | None
    epoch: float | None
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list, repr=False)
    error: str | None = None


class Looks:
    """Looks at a module that is being trained; see :class:`iceprobe.integrations.loop.Probe`.

    Attributes:
        history: all looks that were taken.
    """

    def __init__(
        self,
        data: Any,
        probes: Sequence[str],
        every: str,
        at_most: str | float | None,
        options: dict[str, Any],
    ):
        """Raises IceprobeError for what is known to be wrong before training."""
        self.every, self.share = Every.of(every), share_of(at_most)
        for name, why in _ELSEWHERE.items():
            if name in options:
                raise IceprobeError(f"Probe({name}={shown(options[name])}): {why}, leave it out")
        known = {*LookCall.model_fields, *LookCall.EARLIER}
        given = {key: value for key, value in options.items() if key in known}
        self.call: LookCall = settle(LookCall, None, given | {"progress": False}, "Probe")
        self.backbone_options = {k: v for k, v in options.items() if k not in known}
        for name in self.backbone_options:
            if name not in _OF_BACKBONES:
                raise IceprobeError(unknown("option of Probe", name, {*known, *_OF_BACKBONES}))
        self.data = data
        self.probes: list[str] = plain("Probe", "probes", probes, Sequence[str])
        request_in_memory(self.probes, self.call)
        self.history: list[Look] = []
        self._dataset: Dataset | None = None
        self._kept = KeptImages(int(self.call.keep))
        self._put_off = False
        self._lines: set[str] = set()  # of the log, which a later look would repeat
        self._budget = Budget(self.share, 0.0)
        self._processes: Processes | None = None

    def begin(self, choose: Choose, outer: nn.Module | None = None) -> None:
        """Check all that can be checked, and start the clock. All processes call it together.

        Args:
            choose: gives the module.
            outer: what the trainer trains, which may wrap it.

        Raises:
            IceprobeError: if the module gives no tokens, the data can't be read, a probe doesn't fit them.
        """
        self._processes, error = Processes(), None
        self.every.begin()
        if self._processes.first:
            try:
                self._check(choose(), outer)
            except Exception as caught:  # noqa: BLE001 (raised in all processes)
                error = caught
        self._raise(error)
        self._budget = Budget(self.share, time.monotonic())

    def after(
        self, choose: Choose, *, step: int | None, epoch: float | None, count: int
    ) -> dict[str, float] | None:
        """Take a look if it is due and fits the budget. All processes call it with the same numbers.

        Args:
            choose: gives the module; called in the first process.
            step: steps that are done.
            epoch: epochs that are done.
            count: of the two the one that ``every`` counts.

        Returns:
            The scores by name, in all processes; ``None`` if no look was taken, or it failed.
        """
        assert self._processes is not None, "begin comes first"
        if not self.every.due(count):
            return None
        if not self._processes.told(self._budget.fits(time.monotonic())):
            self._say_put_off(count)
            return None
        look, error = None, None
        if self._processes.first:
            look, error = self._take(choose, step, epoch)
        told = look and Look(look.step, look.epoch, look.seconds, look.scores, error=look.error)
        told = self._processes.told(told)
        assert told is not None
        self.history.append(look or told)
        self._budget.took(told.seconds)
        if told.error is not None and self.call.on_error == "raise":
            self._raise(error)
        self._say(told)
        return told.scores or None

    def _check(self, module: Any, outer: nn.Module | None) -> None:
        if not isinstance(module, nn.Module):
            raise IceprobeError(
                f"a look is at a module, and {shown(module)} was given: give select= a function of the "
                "trainer's module that returns an nn.Module"
            )
        check_whole(module, outer)
        with undisturbed(module), _once(self._lines):
            if self._dataset is None:
                self._dataset = load_dataset(self.data)
            backbone = self._backbone(module)
            check_probe(backbone, self._dataset, self.probes, self._call(backbone))

    def _take(
        self, choose: Choose, step: int | None, epoch: float | None
    ) -> tuple[Look, Exception | None]:
        """The look of this process, and the exception that ended it."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what training has still to do isn't the look's
        began = time.monotonic()
        error: Exception | None = None
        results: list[Result] = []
        try:
            module = choose()
            with undisturbed(module), _once(self._lines):
                results = self._results(module)
        except Exception as caught:  # noqa: BLE001 (logged or raised, as on_error says)
            error = caught
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # training has its memory again
        seconds = time.monotonic() - began
        if error is not None:
            return Look(step, epoch, seconds, error=_line(error)), error
        scores = scores_of(results, self.call.metrics) | {"iceprobe/seconds": seconds}
        return Look(step, epoch, seconds, scores, results), None

    def _results(self, module: nn.Module) -> list[Result]:
        assert self._dataset is not None
        backbone = self._backbone(module)
        call = self._call(backbone)
        request = request_in_memory(self.probes, call)
        found = probe_backbone(backbone, self._dataset, request, call, self._kept)
        return [Result(**dict(one)) for one in found]  # without the tokens, which take memory

    def _backbone(self, module: nn.Module) -> Backbone:
        if isinstance(module, Backbone):
            return module
        return load_backbone(module, **self.backbone_options)

    def _call(self, backbone: Backbone) -> LookCall:
        """The options, with the device of the module for the fit too."""
        return self.call.model_copy(update={"device": str(backbone.device)})

    def _raise(self, error: Exception | None) -> None:
        """Raise the first process's error in all of them."""
        assert self._processes is not None
        line = self._processes.told(None if error is None else _line(error))
        if error is not None:
            raise error
        if line is not None:
            raise IceprobeError(line)

    def _say(self, told: Look) -> None:
        assert self._processes is not None
        if not self._processes.first:
            return
        at = self._at(told)
        if told.error is not None:
            log.error(
                "the look at %s failed, training goes on (on_error='raise' would end it): %s",
                at,
                told.error,
            )
        elif len(self.history) == 1:
            now = time.monotonic()
            wait = self._budget.wait(now)
            then = f": the next after {duration(wait)} more of it" if wait else ""
            level = logging.WARNING if wait else logging.INFO
            log.log(level, "the first look, at %s, took %s%s", at, self._budget.said(now), then)

    def _at(self, told: Look) -> str:
        return f"step {told.step:,}" if told.step is not None else f"epoch {told.epoch:g}"

    def _say_put_off(self, count: int) -> None:
        assert self._processes is not None
        if self._put_off or not self._processes.first:
            return
        self._put_off = True
        now, last = time.monotonic(), self._budget.last or 0.0
        log.warning(
            "the look at %s %s is put off to the next that fits at_most='%g%%': it takes about %s, and looks have "
            "taken %s (said once)",
            self.every.unit,
            f"{count:,}",
            100 * (self.share or 1),
            duration(last),
            self._budget.said(now),
        )


def scores_of(results: Sequence[Result], metrics: str = "leading") -> dict[str, float]:
    """Means by name, ``iceprobe/PROBE/METRIC``, with ``_low`` and ``_high`` where there is an interval.

    The metric that leads comes first, and alone unless ``metrics`` is ``"all"``. A character of a probe's
    name other than letters, digits, ``_``, ``.`` and ``-`` is written as ``-``: not every logger takes others.
    """
    found: dict[str, float] = {}
    for one in results:
        name = re.sub(r"[^\w.-]+", "-", one.probe, flags=re.ASCII).strip("-")
        others = [key for key in one.metrics if key != one.primary] if metrics == "all" else []
        for metric in [one.primary, *others]:
            score, key = one.metrics[metric], f"iceprobe/{name}/{metric}"
            found[key] = score.mean
            if score.interval is not None:
                found[f"{key}_low"], found[f"{key}_high"] = score.interval
    return found


@contextmanager
def _once(said: set[str]) -> Iterator[None]:
    """Lines of the log that are in ``said`` are left out within, but for errors; others are added to it."""

    def new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        known = line in said and record.levelno < logging.ERROR
        said.add(line)
        return not known

    log.addFilter(new)
    try:
        yield
    finally:
        log.removeFilter(new)


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return visible(text if isinstance(error, IceprobeError) else f"{type(error).__name__}: {text}")
