"""A store of tokens made elsewhere → an ordinary one on disk, shard by shard."""

import contextlib
from pathlib import Path

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import located
from iceprobe.machine.processes import first
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.store.destinations import Destination, find_destinations
from iceprobe.store.format import ShardRecord, shard_file
from iceprobe.store.layout import Layout, image_bytes, split_layout
from iceprobe.store.reader import Store
from iceprobe.store.shard_writer import ShardWriter

BYTES_AT_ONCE = 2**25


@shows_progress
def save(
    store: Store,
    features: str | Path = "features/",
    *,
    progress: ProgressCallback | bool | None = None,
) -> Store:
    """Write a store that isn't on disk, of `iceprobe.load_features` or `iceprobe.from_tokens`, to a folder of
    ``features``, once.

    It has the same identity there. A stopped one continues at its next shard, as an extraction does.

    Raises:
        IceprobeError: if the store is on disk already, or was extracted; if the disk is too full, or
            another process writes it.
    """
    if store.path is not None or store.layers or store.manifest.backbone.preprocessing:
        raise IceprobeError(
            f"store {store.path or store.identity[:16]} has tokens of a backbone: iceprobe.extract(…) writes "
            "them, and only tokens of your own are saved"
        )
    splits = {
        name: record.model_copy(update={"shards": []})
        for name, record in store.manifest.splits.items()
    }
    wanted = store.manifest.model_copy(update={"splits": splits})
    show = callback(progress)

    def written() -> Path:
        with contextlib.ExitStack() as until:
            ((path, destination),) = find_destinations(located(features), [wanted], until)
            if destination is not None:
                _write(store, destination, show)
        return path  # type: ignore[return-value]

    saved = Store.open(first(written), dataset=store.dataset())
    saved.manifest = saved.manifest.asked_by(store.manifest)
    return saved


def _write(store: Store, destination: Destination, show: ProgressCallback | None) -> None:
    """Write the shards that are missing."""
    manifest = destination.manifest
    for name in manifest.splits:
        layout, part = split_layout(manifest, name), store[name]
        done, total = 0, manifest.rows_missing(name)
        for number in manifest.missing(name):
            start = number * manifest.settings.shard_images
            rows = np.arange(start, start + manifest.rows(name, number))
            writer = ShardWriter(destination.folder / shard_file(name, number))
            try:
                for some in np.array_split(
                    rows, _pieces(len(rows), layout, manifest.shape.longest)
                ):
                    writer.write({key: part.rows(key, some) for key in layout})
                    done += len(some)
                    if show is not None:
                        show(f"save {name}", done, total)
                file = writer.finish()
            except BaseException:
                writer.abandon()
                raise
            shard = ShardRecord(
                **file.model_dump(),
                start=start,
                stop=start + len(rows),
                images=len(rows),
                rounding=0.0,
                read={},
            )
            destination.record(name, destination.put(shard))


def _pieces(rows: int, layout: Layout, tokens: int) -> int:
    """In how many pieces rows are written; ``tokens`` are those of the longest example."""
    return max(1, min(rows, -(-rows * image_bytes(layout, tokens=tokens) // BYTES_AT_ONCE)))
