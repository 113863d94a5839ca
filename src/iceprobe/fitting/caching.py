"""Which tokens a fit holds in memory: as many as the budget allows; the rest is read from disk."""

import copy
import logging
from collections.abc import Collection

from rich.filesize import decimal

from iceprobe.fitting.feed import tensors_read
from iceprobe.fitting.shuffling import ROWS, Shuffle, choose_shuffle
from iceprobe.fitting.step_memory import size
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.processes import first, world
from iceprobe.store.split import StoredSplit

log = logging.getLogger("iceprobe")


def cache_tokens(
    train: StoredSplit,
    test: StoredSplit,
    inputs: Collection[str],
    memory: int | None,
    shuffle: str | Shuffle,
    *,
    batch_size: int,
    beside: int,
    evaluated: bool,
) -> tuple[StoredSplit, StoredSplit, Shuffle]:
    """The two splits with what is held of them, and how epochs are ordered; the log says both.

    Class token and mean come first in the budget, patch tokens fill it; augmented views, which are
    read again in every epoch, come before the evaluation view.

    Args:
        train, test: to train on and to report.
        inputs: names of the inputs that some probe reads.
        memory: the budget in bytes for what is held and ``beside``, of all processes on this
            machine together; ``None`` takes half of what is free. Where it is less than the fit
            can do with, that is taken, and the log says how much it is.
        shuffle: as asked for, or the order of the fit that this one goes on with.
        batch_size: images of a step.
        beside: bytes that this process takes beside what is held.
        evaluated: whether the reported split is read after every epoch.
    """
    names = tensors_read(set(inputs))
    free, processes = first(available_memory), world().local_size  # one order for all of them
    budget = (free or 0) // 2 if memory is None else memory // processes
    if train.live:
        log.info("training tokens are made by the backbone in every epoch")
        return train, test, ROWS
    room = max(0, budget - beside)
    read = train if train.views is None else train.views  # what is read in every epoch
    read = read.hold(room, [name for name in names if name != "patches"])
    left = room - read.bytes_held
    chosen, each = ROWS, read.patch_bytes // len(read)
    if "patches" in names and not read.held:
        cache = None if free is None else free - budget
        chosen = (
            shuffle
            if isinstance(shuffle, Shuffle)
            else choose_shuffle(shuffle, len(read), each, left, cache, batch_size)
        )
        read = read.hold(each * chosen.held if chosen.by == "blocks" else left)
    left = room - read.bytes_held - each * chosen.buffer
    least = beside + read.bytes_held + each * chosen.buffer  # where it is more than the budget
    if memory is not None and budget < least:
        log.warning(
            "memory=%s is less than this fit can do with: it takes %s, the least for steps of %s "
            "images; a smaller --batch-size or fewer probes take less",
            decimal(memory), size(processes * least), f"{batch_size:,}",
        )  # fmt: skip
    if train.views is None:
        train = read
    else:
        train = copy.copy(train.hold(left, names))
        left -= train.bytes_held
        train.views = read
    if evaluated:
        test = test.hold(left, names)
    if "patches" in names:
        _log("training tokens", read, chosen)
        if train.views is not None:
            _log("tokens of their evaluation view", train, ROWS)
    return train, test, chosen


def _log(what: str, split: StoredSplit, shuffle: Shuffle) -> None:
    if split.held:
        log.info("%s are in memory", what)
        return
    order = "images at random"
    if shuffle.by == "blocks":
        order = (
            f"blocks of {shuffle.block:,} images at random, mixed in a buffer of {shuffle.buffer:,}"
        )
    log.info(
        "%s: %s of %s images in memory, the rest streamed from disk, %s",
        what,
        f"{int(split.resident.sum()):,}",
        f"{len(split):,}",
        order,
    )
