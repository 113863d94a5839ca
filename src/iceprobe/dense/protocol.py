"""`heldout` for segmentation: select by mean IoU on held-out images, fit again on all, read test once.

The learning rate is the one with the best mean IoU after the last epoch, mean over seeds, on a tenth of
the training images; with it a probe learns from all of them, on the same schedule.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.dense.miou import Counts, mean_iou
from iceprobe.dense.training import Members, evaluate, schedule, tokens_of, train_epoch
from iceprobe.fitting.caching import cache_tokens
from iceprobe.fitting.feed import Batch, Feed, split_batches
from iceprobe.fitting.members import Member
from iceprobe.fitting.whitening import whitening
from iceprobe.protocols.choosing import Choice, best_at_last_epoch
from iceprobe.protocols.heldout import heldout_split
from iceprobe.protocols.protocol import Protocol, images_per_step, total_steps
from iceprobe.results.curves import CurveRow
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit

INPUTS = {"patches", "mask"}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fitted:
    """One probe after the protocol: its members, one a seed, their counts and what was chosen.

    ``rows`` are its selection's, of all members and epochs, and ``steps`` how many that took.
    """

    members: Members
    counts: list[Counts]
    choice: Choice
    held_out: int
    rows: list[CurveRow]
    steps: int


@dataclass(frozen=True)
class Setting:
    """What all of a fit's trainings share.

    Attributes:
        store: with patch tokens on a grid and masks.
        protocol: grid, epochs, images a step.
        seeds: of initialisations.
        run_seed: of held-out images and of the order of batches.
        device: to learn on.
        progress: called with ``(stage, done, total)``.
    """

    store: Store
    protocol: Protocol
    seeds: Sequence[int]
    run_seed: int
    device: torch.device
    progress: Progress

    @property
    def classes(self) -> int:
        """C, background among them."""
        return 1 + len(self.store.classes)


def run_heldout(
    setting: Setting, labels: Sequence[str], split: str, memory: int | None
) -> list[Fitted]:
    """Fit the probes called ``labels``.

    Raises:
        IceprobeError: if a probe has no learning rate with which it stays finite.
    """
    protocol, whole = setting.protocol, copy.copy(setting.store["train"])
    whole.views = None  # masks are those of the evaluation view
    train, test, shuffle = cache_tokens(
        whole,
        setting.store[split],
        INPUTS,
        memory,
        "auto",
        batch_size=images_per_step(protocol, len(whole)),
        beside=0,
        evaluated=False,
        resumed=None,
    )

    def feed(of: StoredSplit, rows: np.ndarray) -> Feed:
        return Feed(of, rows, INPUTS, setting.device, torch.float32, shuffle)

    fit_rows, held_rows = heldout_split(train.labels, setting.run_seed, protocol.held_out)
    rows = _select(setting, labels, feed(train, fit_rows), feed(train, held_rows))
    curves = {one: [row for row in rows if row.probe == one] for one in labels}
    choices = {one: best_at_last_epoch(of_probe) for one, of_probe in curves.items()}
    found = {one: choice for one, choice in choices.items() if choice is not None}
    _check(labels, found)

    rates = {one: [choice.learning_rate] for one, choice in found.items()}
    everything = feed(train, np.arange(len(train)))
    groups = _groups(setting, rates, everything)
    for _ in _epochs(setting, "refit", groups, everything):
        pass
    _check(labels, [group.probe for group in groups if all(group.finite())])
    reported = feed(test, np.arange(len(test)))
    counts = evaluate(groups, _told(setting, split, reported))
    steps = total_steps(protocol, len(fit_rows))
    return [
        Fitted(group, each, found[group.probe], len(held_rows), curves[group.probe], steps)
        for group, each in zip(groups, counts, strict=True)
    ]


def _select(setting: Setting, labels: Sequence[str], feed: Feed, held: Feed) -> list[CurveRow]:
    """A row a member and epoch, until it has diverged; its accuracy is the held-out mean IoU."""
    rates = dict.fromkeys(labels, setting.protocol.learning_rates or ())
    groups = _groups(setting, rates, feed)
    rows: list[CurveRow] = []
    lost: set[Member] = set()
    size = images_per_step(setting.protocol, len(held))
    for epoch, losses in _epochs(setting, "select", groups, feed):
        counted = evaluate(groups, held.in_order(size))
        for group, each, of_group in zip(groups, losses, counted, strict=True):
            finite = group.finite()
            for member, loss, counts, fine in zip(
                group.members, each.tolist(), of_group, finite, strict=True
            ):
                loss = loss if fine else math.nan
                if member not in lost:
                    rows.append(
                        CurveRow(
                            probe=member.probe,
                            seed=member.seed,
                            learning_rate=member.learning_rate,
                            weight_decay=member.weight_decay,
                            phase="select",
                            epoch=epoch,
                            train_loss=loss,
                            eval_accuracy=mean_iou(counts.confusion),
                        )
                    )
                if not math.isfinite(loss):
                    lost.add(member)
    return rows


def _groups(setting: Setting, rates: Mapping[str, Sequence[float]], feed: Feed) -> list[Members]:
    """The members of each probe at its learning rates, in coordinates whitened on ``feed``."""
    store, size = setting.store, images_per_step(setting.protocol, len(feed))
    assert store.grid is not None
    measured = whitening(
        lambda: tokens_of(feed.in_order(size)),
        setting.protocol.whitening or 0.0,
        copies=store.num_tokens,
    )
    return [
        Members(
            [Member(one, rate, 0.0, seed) for rate in of_probe for seed in setting.seeds],
            setting.classes,
            measured,
            store.grid,
            setting.device,
        )
        for one, of_probe in rates.items()
    ]


def _epochs(
    setting: Setting, stage: str, groups: list[Members], feed: Feed
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Train; after each epoch its number and the members' losses, ``(G,)`` a probe."""
    protocol, size = setting.protocol, images_per_step(setting.protocol, len(feed))
    steps = len(split_batches(np.arange(len(feed)), size))
    factors = schedule(protocol.epochs * steps, round(protocol.warmup_epochs * steps))
    done = 0

    def stepped() -> None:
        nonlocal done
        done += 1
        setting.progress(stage, done, protocol.epochs * steps)

    for epoch in range(1, protocol.epochs + 1):
        batches = feed.shuffled(size, setting.run_seed, epoch)
        yield epoch, train_epoch(groups, batches, factors, stepped)


def _told(setting: Setting, stage: str, feed: Feed) -> Iterator[Batch]:
    size, done = images_per_step(setting.protocol, len(feed)), 0
    for batch in feed.in_order(size):
        yield batch
        done += len(batch.labels)
        setting.progress(stage, done, len(feed))


def _check(labels: Sequence[str], left: Sequence[str] | Mapping[str, object]) -> None:
    if lost := [one for one in labels if one not in left]:
        raise IceprobeError(f"{', '.join(lost)} diverged: give smaller --learning-rates")
