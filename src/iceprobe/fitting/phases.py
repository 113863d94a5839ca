"""The phases of a protocol: train a crowd for some epochs, look at it after each, keep the best.

`heldout` selects in one phase for each held-out part of the training split, and again where a grid
grows, refits on all of it, and looks at the test split once; `paper` has one phase, and looks at the
reported split after every epoch.
"""

import itertools
import logging
import math
import time
from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.fitting.checkpoint import Checkpoint, Saved
from iceprobe.fitting.checks import check_parts
from iceprobe.fitting.engine import Crowd, predict_all
from iceprobe.fitting.feed import Feed, split_batches
from iceprobe.fitting.members import Group, Member, make_groups
from iceprobe.fitting.shuffling import ROWS, Shuffle
from iceprobe.fitting.whitening import whitening
from iceprobe.machine.processes import world
from iceprobe.machine.signals import asked, saving_first, stop_if_asked
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.probe import Probe, build_for
from iceprobe.probes.registry import VECTORS
from iceprobe.protocols.halving import clearly_beaten
from iceprobe.protocols.protocol import Protocol, images_per_step
from iceprobe.results.curves import CurveRow
from iceprobe.store.quantisation import check_rounding, rounding
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import TokenShape

Progress = Callable[[str, int, int], None]
SECONDS_BETWEEN_CHECKPOINTS = 20.0
log = logging.getLogger("iceprobe")


@dataclass
class Setting:
    """What a phase shares with the others."""

    protocol: Protocol
    shape: TokenShape
    num_classes: int
    run_seed: int
    device: torch.device
    amp: torch.dtype
    checkpoint: Checkpoint
    progress: Progress
    headline: str = "top1"  # by which is selected
    shuffle: Shuffle = ROWS  # decided when the tokens are at hand

    def build(self, probe: str, seed: int | None = None) -> Probe:
        """A probe of these tokens and classes; with a seed, initialised by it alone."""
        return build_for(self.shape, probe, self.num_classes, seed)

    @property
    def metric(self) -> Metric:
        """The metric that selects."""
        return get_task("classification").metrics[self.headline]


@dataclass
class Best:
    """Each member's best epoch on the reported split (`paper`)."""

    accuracy: np.ndarray
    epoch: np.ndarray
    top: Tensor
    probes: list[Probe]

    def keep(self, places: Sequence[int]) -> "Best":
        """Of the members at ``places`` only."""
        index = list(places)
        probes = [self.probes[g] for g in index]
        return Best(self.accuracy[index], self.epoch[index], self.top[index], probes)


@dataclass(frozen=True)
class Dropped:
    """A member that no longer learns since the end of ``epoch``."""

    member: Member
    epoch: int
    why: str  # "diverged" or "beaten"


@dataclass
class Phase:
    """One phase, as far as it has come; all of it goes into the checkpoint.

    Attributes:
        name: its own among those of a fit: ``"select"``, ``"select 2/5"``, ``"refit"``; the first
            word stands in the rows.
        members: to train.
        fold: number of the held-out part that it selects on, from 0.
        stops: probe → epoch at which its members stop; the schedule keeps its full horizon.
        rows: one a member and epoch.
        seconds: of training and evaluation, over all sessions.
        dropped: members that ended before their stop; the groups go on without them.
        groups: of the members that go on; a probe with none has no group.
        best: of each group, where it is kept.
        looks: epochs after which it looks at images; after every one if ``None``.
        right: by look and member which images it was right on, ``(L, G, ⌈n/8⌉)`` as bits, zeros
            where it was gone; ``None`` where no record is kept.
    """

    name: str
    members: list[Member]
    fold: int = 0
    stops: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    rows: list[CurveRow] = field(default_factory=list)
    seconds: float = 0.0
    dropped: list[Dropped] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)
    looks: list[int] | None = None
    right: NDArray[np.uint8] | None = None

    @property
    def stage(self) -> str:
        """``"select"``, ``"refit"`` or ``"paper"``."""
        return self.name.split()[0]

    @property
    def going(self) -> list[Member]:
        """The members that weren't dropped."""
        gone = {dropped.member for dropped in self.dropped}
        return [member for member in self.members if member not in gone]


class Course:
    """The phases of a fit in their order; those that a checkpoint holds aren't trained again.

    Args:
        setting: that they share.
        saved: what :meth:`Checkpoint.load` gave.
    """

    def __init__(self, setting: Setting, saved: Saved | None):
        self.setting, self.saved = setting, saved
        self.done: list[Phase] = []

    def run(self, phase: Phase, train: Feed, evaluate_on: Feed | None, **how: Any) -> Phase:
        """``phase`` at its end; ``how`` as for :func:`run_phase`."""
        before, saved = len(self.done), self.saved
        if saved is not None and before < len(saved.before):
            _remember(phase, saved.before[before])
            phase.right = _recorded(saved.tensors, before)
        else:
            mine = saved if saved is not None and before == len(saved.before) else None
            run_phase(phase, self.setting, train, evaluate_on, before=self.done, saved=mine, **how)
        self.done.append(phase)
        return phase


@saving_first()
def run_phase(
    phase: Phase,
    setting: Setting,
    train: Feed,
    evaluate_on: Feed | None,
    *,
    keep_best: bool = False,
    rungs: Collection[int] = (),
    before: Sequence[Phase] = (),
    saved: Saved | None = None,
) -> None:
    """Train ``phase`` to its end, from ``saved`` where it holds a part of it.

    Asked to stop by a signal, it saves what its steps have made so far, in the middle of an epoch
    as well, and stops.

    Args:
        phase: with its members and stops.
        setting: shared with the other phases.
        train: the images to learn from.
        evaluate_on: the images to look at after each epoch.
        keep_best: keep each member as it was after its best epoch there.
        rungs: epochs after which settings that are clearly beaten there stop.
        before: finished phases, for the checkpoint.
        saved: what :meth:`Checkpoint.load` gave, if it holds a part of this phase.
    """
    protocol = setting.protocol
    batch_size = images_per_step(protocol, len(train))
    sizes = [len(batch) for batch in split_batches(np.arange(len(train)), batch_size)]
    check_parts(sizes)
    steps_an_epoch = len(sizes)
    shrinkage = protocol.whitening
    whitenings = {
        name: whitening(partial(_vectors, train, name, batch_size), shrinkage, train.measured)
        for name in train.inputs
        if name in VECTORS and shrinkage is not None
    }
    resumed = saved
    if resumed is not None:
        _remember(phase, resumed.phase)
        phase.right = _recorded(resumed.tensors, len(before))
    if not phase.going:
        return
    if evaluate_on is not None and not keep_best and phase.right is None:
        looks = protocol.epochs if phase.looks is None else len(phase.looks)
        size = -(-len(evaluate_on) // 8)
        phase.right = np.zeros((looks, len(phase.members), size), np.uint8)
    counted = setting.metric.weights(evaluate_on.labels.cpu()) if evaluate_on else np.ones(0)
    coordinates = _coordinates(train, setting)
    phase.groups = make_groups(
        phase.going, setting.shape, setting.num_classes, setting.device, whitenings, coordinates
    )
    stops = [phase.stops.get(g.members[0].probe, protocol.epochs) for g in phase.groups]
    crowd = Crowd(
        phase.groups,
        protocol.optimizer,
        steps=protocol.epochs * steps_an_epoch,
        warmup=round(min(protocol.warmup_epochs, protocol.epochs / 2) * steps_an_epoch),
        stops=[stop * steps_an_epoch for stop in stops],
    )
    if resumed is not None:
        _restore(phase, crowd, setting, resumed)

    def save(sums: Sequence[Tensor] = ()) -> None:
        tensors = crowd.state() | _best_state(phase)
        tensors |= {f"losses.{i}": running for i, running in enumerate(sums)}
        for i, one in enumerate([*before, phase]):
            if one.right is not None:
                tensors[f"right.{i}"] = torch.from_numpy(one.right)
        finished = [describe(one) for one in before]
        setting.checkpoint.save(Saved(tensors, describe(phase), finished, setting.shuffle))

    total = max(phase.stops.get(m.probe, protocol.epochs) for m in phase.members) * steps_an_epoch
    began = last_saved = time.monotonic()
    while active := crowd.active:
        sums = [torch.zeros(len(group), device=setting.device) for group in active]
        taken = crowd.step - phase.epoch * steps_an_epoch  # of this epoch's, before it was stopped
        if taken and resumed is not None:
            sums = [resumed.tensors[f"losses.{i}"].to(running) for i, running in enumerate(sums)]
        batches = train.shuffled(batch_size, setting.run_seed, phase.epoch)
        for batch in itertools.islice(batches, taken, None):
            for running, here in zip(sums, crowd.train_step(batch), strict=True):
                running += here * batch.images
            del batch
            setting.progress(phase.name, crowd.step, total)
            if asked() and crowd.step % steps_an_epoch:
                phase.seconds += time.monotonic() - began
                save(sums)
                stop_if_asked()
        world().align([t for group in active for t in group.state().values()])
        phase.epoch += 1
        losses = {
            member: loss
            for group, running in zip(active, sums, strict=True)
            for member, loss in zip(group.members, (running / len(train)).tolist(), strict=True)
        }
        _drop_diverged(phase, crowd, active, losses)
        looked_at = [group for group in active if group in crowd.groups]
        looks = phase.looks is None or phase.epoch in phase.looks
        feed = evaluate_on if looks else None
        right = _look(phase, setting, looked_at, losses, feed, batch_size, keep_best)
        if phase.epoch in rungs:
            _drop_beaten(phase, crowd, right, counted)

        now = time.monotonic()
        phase.seconds, began = phase.seconds + now - began, now
        if now - last_saved > SECONDS_BETWEEN_CHECKPOINTS or not crowd.active or asked():
            save()
            last_saved = time.monotonic()
        stop_if_asked()


def _coordinates(train: Feed, setting: Setting) -> dict[str, Coordinates]:
    """Of the tokens of each input, and whether the dtype of their products can hold them.

    Raises:
        IceprobeError: if it can't.
    """
    found: dict[str, Coordinates] = {}
    narrow, standardised = setting.amp.itemsize < 4, setting.protocol.coordinates == "standardised"
    if not (narrow or standardised):
        return found
    for name in sorted(train.inputs.difference(VECTORS)):
        tokens = train.sample(name, setting.run_seed)
        if narrow:
            dtype = str(setting.amp).removeprefix("torch.")
            share = float(rounding(tokens[None], tokens[None].to(setting.amp)))
            check_rounding(share, f"amp={dtype}", "take amp=float32")
        if standardised:
            found[name] = Coordinates.of(tokens)
    return found


def _vectors(feed: Feed, name: str, batch_size: int) -> Iterator[Tensor]:
    # Patches stay unread.
    alone = Feed(feed.split, feed.rows, {name}, feed.device, feed.dtype, views=feed.views)
    return (batch.inputs[name] for batch in alone.in_order(batch_size))


def _look(
    phase: Phase,
    setting: Setting,
    groups: list[Group],
    losses: Mapping[Member, float],
    feed: Feed | None,
    batch_size: int,
    keep_best: bool,
) -> dict[Member, np.ndarray]:
    """Evaluate ``groups`` after an epoch: a row a member, and the best kept.

    Returns:
        Which images each member is right on, ``(n,)``.
    """
    right: dict[Member, np.ndarray] = {}
    accuracy: dict[Member, float] = {}
    if feed is not None and groups:
        top = min(5, setting.num_classes) if keep_best else 1
        tops = predict_all(groups, feed, batch_size, top)
        labels = feed.labels.cpu()
        for group, t in zip(groups, tops, strict=True):
            hits = (t[..., 0] == labels).numpy()
            right |= zip(group.members, hits, strict=True)
            means = setting.metric.mean(hits, labels).tolist()
            accuracy |= zip(group.members, means, strict=True)
        if keep_best:
            accuracies = [np.array([accuracy[m] for m in g.members]) for g in groups]
            _keep_best(phase, groups, accuracies, tops)
    place = phase.epoch - 1 if phase.looks is None else bisect(phase.looks, phase.epoch) - 1
    numbers = {member: g for g, member in enumerate(phase.members)}
    for group in groups:
        for member in group.members:
            if phase.right is not None and member in right:
                phase.right[place, numbers[member]] = np.packbits(right[member])
            phase.rows.append(_row(phase, member, losses[member], accuracy.get(member)))
    return right


def _row(phase: Phase, member: Member, loss: float, accuracy: float | None) -> CurveRow:
    return CurveRow(
        **asdict(member),
        phase=phase.stage,
        fold=phase.fold,
        epoch=phase.epoch,
        train_loss=loss,
        eval_accuracy=accuracy,
    )


def _drop_diverged(
    phase: Phase, crowd: Crowd, groups: Sequence[Group], losses: Mapping[Member, float]
) -> None:
    """Go on without the members whose loss or weights aren't finite; their last row says so."""
    finite = {
        member
        for group in groups
        for member, fine in zip(group.members, group.finite().tolist(), strict=True)
        if fine and math.isfinite(losses[member])
    }
    diverged = [m for group in groups for m in group.members if m not in finite]
    for member in diverged:
        loss = math.nan if math.isfinite(losses[member]) else losses[member]
        phase.rows.append(_row(phase, member, loss, None))
        log.warning(
            "%s, learning rate %g, weight decay %g, seed %d diverged in epoch %d of %s: dropped",
            member.probe, member.learning_rate, member.weight_decay, member.seed, phase.epoch,
            phase.name,
        )  # fmt: skip
    _drop(phase, crowd, diverged, "diverged")


def _drop_beaten(
    phase: Phase,
    crowd: Crowd,
    right: Mapping[Member, np.ndarray],
    counted: NDArray[np.float64],
) -> None:
    """Go on without the settings that another of their probe clearly beats.

    A seed that has diverged is right nowhere.
    """
    for probe in dict.fromkeys(member.probe for member in right):
        settings: dict[tuple[float, float], list[Member]] = {}
        for member in phase.members:
            if member.probe == probe:
                point = (member.learning_rate, member.weight_decay)
                settings.setdefault(point, []).append(member)
        running = [seeds for seeds in settings.values() if any(m in right for m in seeds)]
        means = [sum(right[m] for m in seeds if m in right) / len(seeds) for seeds in running]
        lost = clearly_beaten(np.stack(means), counted)
        beaten = [m for seeds, out in zip(running, lost, strict=True) if out for m in seeds]
        _drop(phase, crowd, [m for m in beaten if m in right], "beaten")


def _drop(phase: Phase, crowd: Crowd, members: Sequence[Member], why: str) -> None:
    if not members:
        return
    phase.dropped += [Dropped(member, phase.epoch, why) for member in members]
    gone = set(members)
    places = [[g for g, m in enumerate(group.members) if m not in gone] for group in crowd.groups]
    if phase.best:
        pairs = zip(phase.best, places, strict=True)
        phase.best = [best.keep(mine) for best, mine in pairs if mine]
    crowd.keep(places)
    phase.groups = crowd.groups


def _keep_best(
    phase: Phase, groups: list[Group], accuracies: list[Any], tops: list[Tensor]
) -> None:
    if not phase.best:
        phase.best = [
            Best(np.full(len(g), -1.0), np.zeros(len(g), int), t.clone(), [g.template] * len(g))
            for g, t in zip(groups, tops, strict=True)
        ]
    for best, group, accuracy, top in zip(phase.best, groups, accuracies, tops, strict=True):
        for g in np.flatnonzero(accuracy > best.accuracy):
            best.accuracy[g], best.epoch[g] = accuracy[g], phase.epoch
            best.top[g], best.probes[g] = top[g], group.probe(int(g))


def describe(phase: Phase) -> dict[str, Any]:
    """A phase as JSON, without its tensors."""
    return {
        "name": phase.name,
        "epoch": phase.epoch,
        "seconds": phase.seconds,
        "rows": [row.model_dump() for row in phase.rows],
        "dropped": [asdict(dropped) for dropped in phase.dropped],
        "best": [{"accuracy": b.accuracy.tolist(), "epoch": b.epoch.tolist()} for b in phase.best],
    }


def _recorded(tensors: Mapping[str, Tensor], number: int) -> NDArray[np.uint8] | None:
    """Which images the members of a saved phase were right on."""
    found = tensors.get(f"right.{number}")
    return None if found is None else found.numpy().copy()


def _remember(phase: Phase, description: dict[str, Any]) -> None:
    phase.epoch, phase.seconds = description["epoch"], description["seconds"]
    phase.rows = [CurveRow.model_validate(row) for row in description["rows"]]
    phase.dropped = [
        Dropped(Member(**one["member"]), one["epoch"], one["why"]) for one in description["dropped"]
    ]


def _best_state(phase: Phase) -> dict[str, Tensor]:
    state = {}
    for i, best in enumerate(phase.best):
        state[f"best.{i}.top"] = best.top
        for g, probe in enumerate(best.probes):
            state |= {f"best.{i}.{g}.{name}": t for name, t in probe.state_dict().items()}
    return state


def _restore(phase: Phase, crowd: Crowd, setting: Setting, saved: Saved) -> None:
    tensors, description = saved.tensors, saved.phase
    crowd.load_state(tensors)
    for i, numbers in enumerate(description["best"]):
        probes = []
        for g, member in enumerate(phase.groups[i].members):
            probe, prefix = setting.build(member.probe), f"best.{i}.{g}."
            names = [n for n in tensors if n.startswith(prefix)]
            probe.load_state_dict({n.removeprefix(prefix): tensors[n] for n in names})
            probes.append(probe.to(setting.device).eval())
        accuracy, epoch = np.array(numbers["accuracy"]), np.array(numbers["epoch"])
        phase.best.append(Best(accuracy, epoch, tensors[f"best.{i}.top"].clone(), probes))
