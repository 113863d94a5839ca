"""Images → shards: one pass over the missing shards; batches are written while the next are made.

The batches of a shard don't depend on the process or the order. So a store that several processes
wrote, or that was stopped and continued, has the same bytes.
"""

import contextlib
import errno
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.pixels import Seen
from iceprobe.machine.processes import world
from iceprobe.settings import Policy
from iceprobe.store.destinations import Destination
from iceprobe.store.format import Manifest, ShardRecord, shard_file
from iceprobe.store.layout import chosen_rows
from iceprobe.store.noted import noted
from iceprobe.store.pipeline import Extracted, Progress, extracted_batches
from iceprobe.store.shard_records import collect_records
from iceprobe.store.shard_writer import ShardWriter
from iceprobe.store.work import plan_work

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

WAITING = 2  # batches made and not yet written
SECONDS_BETWEEN_POLLS = 0.2  # for shards of other processes


def fill(
    destinations: Sequence[Destination],
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
    workers: int,
    on_bad_image: Policy,
    progress: Progress,
    *,
    only: tuple[str, int] | None = None,
) -> None:
    """Extract every shard that a manifest lacks, all layers in one pass.

    Process r of R takes every R-th of these shards; process 0 records them all.

    Args:
        destinations: of the backbone's layers whose stores are unfinished.
        backbone: moved to ``device``.
        dataset: whose images.
        device: of the forward pass.
        workers: processes that decode; 0 decodes in threads.
        on_bad_image: ``"fail"`` or ``"skip"``.
        progress: called with a stage's name, images done and images in total.
        only: split and number of the one shard to extract.

    Raises:
        IceprobeError: if the disk is full or gone, an image can't be read, or tokens aren't finite;
            complete shards stay.
    """
    here = world()
    recorders = [_Recorder(one) for one in destinations]
    manifest = destinations[0].manifest
    shards = [one for one in missing_shards(destinations) if only in (None, one)]
    listing = {name: chosen_rows(s.listed, s.images) for name, s in manifest.splits.items()}
    work = [
        item
        for name, number in shards[here.rank :: here.size]
        for item in plan_work(name, listing[name], number, manifest.settings)
    ]
    done = rows_done(manifest, shards)

    def report(name: str) -> None:
        if progress is not None and here.main:
            others = max(recorder.from_others[name] for recorder in recorders)
            progress(f"extract {name}", done[name] + others, manifest.splits[name].images)

    batches = extracted_batches(
        backbone,
        dataset.splits,
        work,
        settings=manifest.settings.model_copy(
            update={"patches": any(map(_has_patches, destinations))}
        ),
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
    )
    try:
        with contextlib.closing(batches), _Background() as writing:
            for batch in batches:
                here.check()
                for recorder in recorders:
                    writing.submit(partial(recorder.add, batch))
                name = batch.work.split
                done[name] += len(batch.work.rows)
                report(name)
        while here.size > 1 and here.main and not all(p.manifest.finished for p in destinations):
            here.check()
            time.sleep(SECONDS_BETWEEN_POLLS)
            for name in (split for recorder in recorders for split in recorder.collect()):
                report(name)
    except OSError as error:
        if (explained := _explained(error, destinations)) is not None:
            raise explained from error
        raise
    finally:
        for recorder in recorders:
            recorder.abandon()


def _has_patches(destination: Destination) -> bool:
    return destination.manifest.settings.patches


def missing_shards(destinations: Sequence[Destination]) -> list[tuple[str, int]]:
    """Split and number of each shard that any of these layers lacks, in order."""
    return [
        (name, number)
        for name in destinations[0].manifest.splits
        for number in sorted({n for one in destinations for n in one.manifest.missing(name)})
    ]


def rows_done(manifest: Manifest, shards: Sequence[tuple[str, int]]) -> dict[str, int]:
    """How many rows of each split's listing are in none of ``shards``."""
    done = {name: record.images for name, record in manifest.splits.items()}
    for name, number in shards:
        done[name] -= manifest.rows(name, number)
    return done


def _explained(error: OSError, destinations: Sequence[Destination]) -> IceprobeError | None:
    """An error of the disk with its remedy; ``None`` for any other."""
    path = destinations[0].folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        room = "no space left" if error.errno != errno.EFBIG else "a file grew too large"
        return IceprobeError(
            f"{room} for {path} ({error.strerror}): make room and run the same again, "
            "complete shards are kept"
        )
    if gone := [one.folder for one in destinations if not one.folder.is_dir()]:
        return IceprobeError(f"{gone[0]} was removed while it was written: run the same again")
    if error.errno in (errno.EIO, errno.ESTALE):
        return IceprobeError(
            f"{error.filename or path}: {error.strerror}; see that its disk answers and run the same "
            "again, complete shards are kept"
        )
    return None


class _Recorder:
    """Batches of one layer → shards → the manifest; batches of complete shards are ignored."""

    def __init__(self, destination: Destination):
        self.destination = destination
        self.from_others = Counter[str]()  # rows in shards of other processes, by split
        manifest = destination.manifest
        self._missing = {name: set(manifest.missing(name)) for name in manifest.splits}
        self._start_shard()

    def _start_shard(self) -> None:
        self._writers: list[ShardWriter] = []  # one per view
        self._skipped: list[str] = []
        self._seen: list[Seen] = []
        self._rounding = 0.0

    def add(self, batch: Extracted) -> None:
        work = batch.work
        if work.number not in self._missing[work.split]:
            return
        manifest = self.destination.manifest
        if not self._writers:
            names = [shard_file(work.split, work.number, view) for view in range(work.views)]
            self._writers = [ShardWriter(self.destination.folder / name) for name in names]
        layer, patches = self.destination.layer, _has_patches(self.destination)
        for writer, tensors in zip(self._writers, batch.layers[layer], strict=True):
            unread = () if patches else ("patches", "scales")  # another layer's store has its own
            writer.write({name: one for name, one in tensors.items() if name not in unread})
        if patches:
            self._rounding = max(self._rounding, batch.rounding[layer])
        self._skipped += batch.skipped
        self._seen += batch.seen
        if not work.last:
            return
        images = len(self._writers[0])
        evaluation, *augmented = [writer.finish() for writer in self._writers]
        start = work.number * manifest.settings.shard_images
        shard = ShardRecord(
            **evaluation.model_dump(),
            start=start,
            stop=start + manifest.rows(work.split, work.number),
            images=images,
            skipped=self._skipped,
            **noted(self._seen),
            views=augmented,
            rounding=self._rounding,
        )
        self.destination.record(work.split, self.destination.put(shard))
        self._start_shard()
        if world().size > 1 and world().main:
            self.collect()

    def collect(self) -> list[str]:
        """Record the shards of other processes; return the names of their splits."""
        rows = collect_records(self.destination.folder, self.destination.manifest)
        self.from_others.update(rows)
        return list(rows)

    def abandon(self) -> None:
        """Remove the files of an unfinished shard."""
        for writer in self._writers:
            writer.abandon()


class _Background:
    """Runs calls one after another in a thread; a later ``submit`` or the exit raises their errors."""

    def __enter__(self) -> "_Background":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()
        return self

    def submit(self, call: Callable[[], None]) -> None:
        while len(self._waiting) >= WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(call))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
