"""Where a fit's tokens lie: in memory as far as the budget goes, the rest on disk."""

import logging
from collections.abc import Collection

from iceprobe.distributed import first, world
from iceprobe.fitting.feed import tensors_read
from iceprobe.fitting.shuffling import ROWS, Shuffle, choose_shuffle
from iceprobe.store.memory import available_memory
from iceprobe.store.reader import StoredSplit

log = logging.getLogger("iceprobe")


def lay_out(
    train: StoredSplit,
    test: StoredSplit,
    inputs: Collection[str],
    memory: int | None,
    shuffle: str,
    *,
    batch_size: int,
    looks: bool,
    before: Shuffle | None,
) -> tuple[StoredSplit, StoredSplit, Shuffle]:
    """The two splits with what is held of them, and how epochs are ordered; the log says both.

    Class token and mean come first in the budget, patch tokens fill it.

    Args:
        train, test: to learn from and to report.
        inputs: names of the inputs that some probe reads.
        memory: the budget in bytes, of all processes on this machine together; ``None`` takes
            half of what is free.
        shuffle: as asked for.
        batch_size: images of a step.
        looks: whether the reported split is read after every epoch.
        before: of the fit that this one goes on with, whose order it keeps.
    """
    names = tensors_read(set(inputs))
    free, processes = first(available_memory), world().local_size  # one order for all of them
    memory = (free or 0) // 2 if memory is None else memory // processes
    vectors = [name for name in names if name != "patches"]
    train = train.hold(memory, vectors)
    left = memory - train.bytes_held
    chosen = ROWS
    if "patches" in names and not train.held:
        chosen = before or choose_shuffle(
            shuffle,
            len(train),
            train.patch_bytes // len(train),
            left,
            None if free is None else free - memory,
            batch_size,
        )
        held = train.patch_bytes // len(train) * chosen.held
        train = train.hold(held if chosen.by == "blocks" else left)
    if looks:
        room = chosen.buffer * (train.patch_bytes // len(train))
        test = test.hold(memory - train.bytes_held - room, names)
    if "patches" in names:
        _tell(train, chosen)
    return train, test, chosen


def _tell(train: StoredSplit, shuffle: Shuffle) -> None:
    if train.held:
        log.info("training tokens are in memory")
        return
    order = "images at random"
    if shuffle.by == "blocks":
        order = (
            f"blocks of {shuffle.block:,} images at random, mixed in a buffer of {shuffle.buffer:,}"
        )
    log.info(
        "training tokens: %s of %s images in memory, the rest streamed from disk, %s",
        f"{int(train.resident.sum()):,}",
        f"{len(train):,}",
        order,
    )
