"""An epoch's order of images, also where their tokens don't fit into memory.

    rows     a permutation of all images: each is read from where it lies
    blocks   blocks of neighbouring images, in random order ─▶ buffer ─▶ batches, drawn at random
             from all that the buffer holds; images held in memory come in evenly between

Random rows are the order that training wants and the slowest one for a disk. Blocks of a few megabytes
are read as fast as a whole file. They come from all over the split and many of them share the buffer, so
images that are stored sorted by class are mixed too. Every image is drawn once an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

BLOCK_BYTES = 2**22  # of a block at most: reading it takes a disk longer than the seek
BLOCKS = 64  # in a full buffer at least: images of so many classes mix if they are stored sorted
BATCHES = 4  # in a full buffer at least


@dataclass(frozen=True)
class Shuffle:
    """How epochs are ordered; with the seed and the epoch it determines the order."""

    by: Literal["rows", "blocks"] = "rows"
    held: int = 0  # images at the split's beginning whose tokens stay in memory
    buffer: int = 0  # images that the buffer holds
    block: int = 0  # images of a block


ROWS = Shuffle()


def choose_shuffle(
    asked: str, images: int, image_bytes: int, memory: int, cache: int | None, batch_size: int
) -> Shuffle:
    """How to order the epochs of a split whose tokens take ``images · image_bytes``.

    Half of the memory is the buffer, the other half holds images for good.

    Args:
        asked: ``"rows"``, ``"blocks"``, or ``"auto"``: rows if they are read from memory, the page
            cache included.
        images, image_bytes: of the split.
        memory: bytes of the budget for its tokens.
        cache: bytes that the page cache may take beside it; ``None`` if unknown.
        batch_size: of the fit.
    """
    total = images * image_bytes
    if image_bytes >= BLOCK_BYTES:  # an example is a block
        return ROWS
    cached = asked == "auto" and (cache is None or total <= cache)
    if asked == "rows" or total <= memory or cached:
        return ROWS
    buffer = min(images, max(memory // 2 // image_bytes, BATCHES * batch_size))
    block = max(1, min(BLOCK_BYTES // image_bytes, buffer // BLOCKS))
    held = min(images, max(0, memory // image_bytes - buffer))
    return Shuffle("blocks", held, buffer, block)


def block_order(
    held: np.ndarray,
    shuffle: Shuffle,
    sizes: list[int],
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images to load and the images to take for each batch of an epoch.

    Args:
        held: ``(n,)`` bool, which images stay in memory; the others are loaded once each.
        shuffle: sizes of buffer and block.
        sizes: images of each batch, n together.
        rng: of the epoch.
        weights: ``(n,)`` how much of the buffer each takes, in images of mean size; 1 by default.

    Yields:
        Places in ``held``: to load ``(l,)``, and the batch ``(b,)``.
    """
    resting, streamed = rng.permutation(np.flatnonzero(held)), np.flatnonzero(~held)
    shift = int(rng.integers(shuffle.block))  # so that neighbours part between epochs
    starts = rng.permutation(np.arange(-shift, len(streamed), shuffle.block))
    blocks = [streamed[max(0, start) : start + shuffle.block] for start in starts.tolist()]
    from_memory = rng.permutation(len(held)) < len(resting)
    weights = np.ones(len(held)) if weights is None else weights
    content, end = streamed[:0], 0
    for size in sizes:
        loads = [streamed[:0]]
        resident = int(from_memory[end : end + size].sum())
        room, wanted = shuffle.buffer - weights[content].sum(), size - resident - len(content)
        while blocks and (weights[blocks[-1]].sum() <= room or wanted > 0):
            loads.append(blocks.pop())
            room -= weights[loads[-1]].sum()
            wanted -= len(loads[-1])
        load = np.concatenate(loads)
        content = np.concatenate([content, load])
        picked = rng.choice(len(content), size - resident, replace=False)
        batch = np.concatenate([resting[:resident], content[picked]])
        resting, content, end = resting[resident:], np.delete(content, picked), end + size
        yield load, batch
