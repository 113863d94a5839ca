"""Images → shards: one pass over what is missing, batches written while the next are made.

The batches of a shard are the same whoever makes it and when, so a store that several processes
filled, or that was stopped and gone on with, ends with the same bytes.
"""

import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.pixels import Seen
from iceprobe.machine.processes import world
from iceprobe.store.format import Manifest, ShardRecord, shard_file
from iceprobe.store.handing_in import collect
from iceprobe.store.layout import chosen_rows
from iceprobe.store.noted import noted
from iceprobe.store.pipeline import Extracted, OnBadImage, Progress, extracted_batches, plan_work
from iceprobe.store.places import Place
from iceprobe.store.shards import ShardWriter

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

WAITING = 2  # batches made and not yet written
SECONDS_BETWEEN_LOOKS = 0.2  # for shards of other processes, when its own are done


def fill(
    places: Sequence[Place | None],
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    progress: Progress,
    *,
    only: tuple[str, int] | None = None,
) -> None:
    """Extract every shard that a manifest lacks, all layers in one pass.

    Of several processes each takes every so manieth of these shards; process 0 records them all.

    Args:
        places: of each of the backbone's layers, ``None`` where a layer's store is finished.
        only: split and number of the one shard to extract.
    """
    here = world()
    open_places = [place for place in places if place is not None]
    recorders = [None if place is None else _Recorder(place) for place in places]
    manifest = open_places[0].manifest
    shards = [one for one in missing_shards(open_places) if only in (None, one)]
    listing = {name: chosen_rows(s.listed, s.images) for name, s in manifest.splits.items()}
    work = [
        item
        for name, number in shards[here.rank :: here.size]
        for item in plan_work(name, listing[name], number, manifest.settings)
    ]
    done = rows_done(manifest, shards)

    def tell(name: str) -> None:
        if progress is not None and here.main:
            others = max(r.from_others.get(name, 0) for r in recorders if r is not None)
            progress(f"extract {name}", done[name] + others, manifest.splits[name].images)

    batches = extracted_batches(
        backbone,
        dataset.splits,
        work,
        settings=manifest.settings,
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
    )
    try:
        with contextlib.closing(batches), _Background() as writing:
            for batch in batches:
                here.check()
                for layer, recorder in enumerate(recorders):
                    if recorder is not None:
                        writing.submit(partial(recorder.add, batch, layer))
                name = batch.work.split
                done[name] += len(batch.work.rows)
                tell(name)
        while here.size > 1 and here.main and not all(p.manifest.finished for p in open_places):
            here.check()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for recorder in recorders:
                if recorder is not None:
                    for name in recorder.collect():
                        tell(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            path = open_places[0].folder
            room = "no space left" if error.errno != errno.EFBIG else "a file grew too large"
            raise IceprobeError(
                f"{room} for {path} ({error.strerror}): make room and run the same again, "
                "complete shards are kept"
            ) from error
        if not all(place.folder.is_dir() for place in open_places):
            gone = next(place.folder for place in open_places if not place.folder.is_dir())
            raise IceprobeError(
                f"{gone} was removed while it was written: run the same again"
            ) from error
        if error.errno in (errno.EIO, errno.ESTALE):
            raise IceprobeError(
                f"{error.filename or open_places[0].folder}: {error.strerror}; see that its disk "
                "answers and run the same again, complete shards are kept"
            ) from error
        raise
    finally:
        for recorder in recorders:
            if recorder is not None:
                recorder.abandon()


def missing_shards(places: Sequence[Place]) -> list[tuple[str, int]]:
    """Split and number of each shard that one of these layers lacks, in order."""
    return [
        (name, number)
        for name in places[0].manifest.splits
        for number in sorted({n for place in places for n in place.manifest.missing(name)})
    ]


def rows_done(manifest: Manifest, shards: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Of each split, rows of its listing that are in none of ``shards``."""
    done = {name: record.images for name, record in manifest.splits.items()}
    for name, number in shards:
        done[name] -= manifest.rows(name, number)
    return done


class _Recorder:
    """Batches of one layer → shards → the manifest; shards that it has already are passed over.

    Attributes:
        from_others: rows of the listing whose shards were handed in, by split.
    """

    def __init__(self, place: Place):
        self.place, manifest = place, place.manifest
        self.from_others: dict[str, int] = {}
        self._missing = {name: set(manifest.missing(name)) for name in manifest.splits}
        self._writers: list[ShardWriter] = []  # of the shard under way, one a view
        self._skipped: list[str] = []
        self._seen: list[Seen] = []
        self._rounding = 0.0

    def add(self, batch: Extracted, layer: int) -> None:
        work = batch.work
        if work.number not in self._missing[work.split]:
            return
        manifest = self.place.manifest
        if not self._writers:
            names = [shard_file(work.split, work.number, view) for view in range(work.views)]
            self._writers = [ShardWriter(self.place.folder / name) for name in names]
        for writer, tensors in zip(self._writers, batch.layers[layer], strict=True):
            writer.write(tensors)
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
        self.place.note(work.split, self.place.put(shard))
        self._writers, self._skipped, self._seen, self._rounding = [], [], [], 0.0
        if world().size > 1 and world().main:
            self.collect()

    def collect(self) -> list[str]:
        """Take in the shards of other processes; names of the splits that got some."""
        rows = collect(self.place.folder, self.place.manifest)
        for split, count in rows.items():
            self.from_others[split] = self.from_others.get(split, 0) + count
        return list(rows)

    def abandon(self) -> None:
        """Leave nothing of an unfinished shard."""
        for writer in self._writers:
            writer.abandon()


class _Background:
    """Runs calls one after another in a thread; an error in one is raised by a later call."""

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
