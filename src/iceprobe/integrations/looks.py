"""What the callbacks share: when a look is taken, the look, its scores, and its history.

    begin ──▶ check, clock starts        after a step or an epoch ──▶ due? in the budget? ──▶ look ──▶ scores

A trainer's own file says what is trained, counts steps and epochs, and logs the scores.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import nn

from iceprobe.backbones import Backbone, load_backbone
from iceprobe.backbones.registry import OF_MODULES, OF_PARTS
from iceprobe.core.arguments import plain
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import line_of
from iceprobe.core.options import settle
from iceprobe.core.specs import unknown
from iceprobe.core.text import duration, shown
from iceprobe.datasets import Dataset, load_dataset
from iceprobe.fitting.api import check_probe, probe_backbone, request_in_memory
from iceprobe.integrations.schedule import Budget, Every, share_of
from iceprobe.integrations.undisturbed import undisturbed
from iceprobe.integrations.whole import (
    align,
    check_gatherable,
    check_whole,
    device_of,
    filled,
    gathered,
)
from iceprobe.machine.processes import World, first, joined_already
from iceprobe.results.schema import Result
from iceprobe.settings import LookCall
from iceprobe.store.kept_images import KeptImages

log = logging.getLogger("iceprobe")
Choose = Callable[[], Any]  # gives the module to look at
Act = Callable[[nn.Module, World], list[Result]]  # what a look does with it, in these processes
T = TypeVar("T")
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
        self._processes = World()  # of the trainer
        self._outer: nn.Module | None = None
        self._copy: Any = None  # of the module, where its weights are in pieces

    def begin(self, choose: Choose, outer: nn.Module | None = None) -> None:
        """Check all that can be checked, and start the clock. All processes call it together.

        Args:
            choose: gives the module.
            outer: what the trainer trains, which may wrap it.

        Raises:
            IceprobeError: if the module gives no tokens, the data can't be read, a probe doesn't fit them.
        """
        self._processes, self._outer = joined_already(), outer
        self.every.begin()
        holders = self._holders
        self._processes.each(lambda: holders and self._joined_in(holders, choose, self._check))
        self._budget = Budget(self.share, time.monotonic())

    def after(
        self, choose: Choose, *, step: int | None, epoch: float | None, count: int
    ) -> dict[str, float] | None:
        """Take a look if it is due and fits the budget. All processes call it with the same numbers.

        Args:
            choose: gives the module.
            step: steps that are done.
            epoch: epochs that are done.
            count: of the two the one that ``every`` counts.

        Returns:
            The scores by name, in all processes; ``None`` if no look was taken, or it failed.
        """
        if not self.every.due(count):
            return None
        if not self._told(self._budget.fits(time.monotonic())):
            self._say_put_off(count)
            return None
        look, error = Look(step, epoch, 0.0), None
        if (holders := self._holders) is not None:
            look, error = self._take(holders, choose, step, epoch)
        told = self._told(replace(look, results=[]))
        self.history.append(look if self._processes.main else told)
        self._budget.took(told.seconds)
        if told.error is not None and self.call.on_error == "raise":
            raise error or IceprobeError(told.error)
        self._say(told)
        return told.scores or None

    def _told(self, value: T) -> T:
        """``value`` of process 0, in all; each waits for it."""
        return first(lambda: value, self._processes)

    @property
    def _holders(self) -> World | None:
        """The processes that have a part of the weights or of the images; ``None`` if this one hasn't."""
        if self.call.processes == "all" or self.call.whole is not None:
            return self._processes
        return World() if self._processes.main else None

    def _joined_in(self, holders: World, choose: Choose, act: Act) -> list[Result]:
        """``act`` on the module of this look, in the processes that make its tokens.

        Raises:
            IceprobeError: in all that take part what one raises.
        """
        alone = self.call.processes == "first"
        makers = World() if alone else self._processes
        module = holders.each(lambda: _module(choose()))
        with undisturbed(module), _once(self._lines):
            if self.call.whole is None:
                holders.each(lambda: check_whole(module, self._outer))
                align(module, makers)
                return act(module, makers)
            holders.each(lambda: check_gatherable(module))
            state = gathered(module, self._outer)
            if alone and not self._processes.main:
                return []
            made: Any = self.call.whole if self._copy is None else self._copy
            self._copy = copy = filled(made, state, module, self._outer, makers)
            try:
                makers.each(lambda: copy.to(device_of(module, self._outer)))
                return act(copy, makers)
            finally:
                copy.cpu()  # training has its memory again

    def _check(self, module: nn.Module, makers: World) -> list[Result]:
        if self._dataset is None:
            self._dataset = load_dataset(self.data)
        backbone = self._backbone(module)
        check_probe(backbone, self._dataset, self.probes, self._call(backbone))
        return []

    def _take(
        self, holders: World, choose: Choose, step: int | None, epoch: float | None
    ) -> tuple[Look, Exception | None]:
        """This process's part in the look, and the exception that ended it."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what training has still to do isn't the look's
        began = time.monotonic()
        error: Exception | None = None
        results: list[Result] = []
        try:
            results = self._joined_in(holders, choose, self._results)
        except Exception as caught:  # noqa: BLE001 (logged or raised, as on_error says)
            error = caught
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # training has its memory again
        seconds = time.monotonic() - began
        if error is not None:
            return Look(step, epoch, seconds, error=line_of(error)), error
        scores = scores_of(results, self.call.metrics) | {"iceprobe/seconds": seconds}
        return Look(step, epoch, seconds, scores, results), None

    def _results(self, module: nn.Module, makers: World) -> list[Result]:
        assert self._dataset is not None
        backbone = makers.each(lambda: self._backbone(module))
        call = self._call(backbone)
        request = request_in_memory(self.probes, call)
        found = probe_backbone(backbone, self._dataset, request, call, self._kept, makers)
        return [Result(**dict(one)) for one in found]  # without the tokens, which take memory

    def _backbone(self, module: nn.Module) -> Backbone:
        if isinstance(module, Backbone):
            return module
        return load_backbone(module, **self.backbone_options)

    def _call(self, backbone: Backbone) -> LookCall:
        """The options, with the device of the module for the fit too."""
        return self.call.model_copy(update={"device": str(backbone.device)})

    def _say(self, told: Look) -> None:
        if not self._processes.main:
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
        if self._put_off or not self._processes.main:
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


def _module(chosen: Any) -> nn.Module:
    if not isinstance(chosen, nn.Module):
        raise IceprobeError(
            f"a look is at a module, and {shown(chosen)} was given: give select= a function of the "
            "trainer's module that returns an nn.Module"
        )
    return chosen
