"""Stores older than the rules of docs/images.md: shards of ordinary images stay, others are remade.

A store's identity depends on the files, not on how they are decoded, so a store of ordinary images
(8 bits, grey, RGB or a palette, one frame, as stored) stays valid. For shards that don't record how
images were decoded, the headers of the image files are read once.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.decoding import is_ordinary
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.object_storage import RemotePath
from iceprobe.store.decoded_images import decode_threads
from iceprobe.store.format import MANIFEST, Manifest, read_manifest, write_manifest
from iceprobe.store.layout import chosen_rows

log = logging.getLogger("iceprobe")


def bring_up_to_date(root: Path | RemotePath, wanted: Sequence[Manifest], dataset: Dataset) -> None:
    """Remove shards whose images are decoded differently now from the manifests of local stores.

    Args:
        root: of the stores.
        wanted: manifests of the stores asked for.
        dataset: their images.

    Raises:
        IceprobeError: if a store with such shards can't be written.
    """
    if isinstance(root, RemotePath):
        return
    for candidates in map(Manifest.served_by, wanted):
        for path in (root / candidate.folder for candidate in candidates):
            if (path / MANIFEST).exists() and _lacks_record(read_manifest(path)):
                if os.access(path, os.W_OK):
                    with exclusive(path):
                        _update(path, dataset)
                elif other := _drop_outdated(read_manifest(path), dataset):
                    raise IceprobeError(
                        f"{path / other[0]} holds images that are read by other rules now "
                        "(docs/images.md), and can't be written: extract into another folder"
                    )
                break


def _lacks_record(manifest: Manifest) -> bool:
    """Whether a shard doesn't record how its images were decoded."""
    return any(shard.read is None for shard in manifest.shards)


def _update(path: Path, dataset: Dataset) -> None:
    manifest = read_manifest(path)
    again = _drop_outdated(manifest, dataset)
    write_manifest(path, manifest)
    if again:
        log.warning(
            "%s: images of %d of its files are read by other rules now (docs/images.md): extracted "
            "again, %s first", path, len(again), again[0],
        )  # fmt: skip


def _drop_outdated(manifest: Manifest, dataset: Dataset) -> list[str]:
    """Remove shards with images that aren't ordinary from ``manifest``; return their files."""
    again: list[str] = []
    for name, record in manifest.splits.items():
        rows = chosen_rows(record.listed, record.images)
        for shard in [shard for shard in record.shards if shard.read is None]:
            if _all_ordinary(dataset.splits[name], rows[shard.start : shard.stop].tolist()):
                shard.read = {}
            else:
                record.shards.remove(shard)
                again.append(shard.file)
    return again


def _all_ordinary(split: Split, rows: Sequence[int]) -> bool:
    if split.reading is None:  # arrays
        return True
    with ThreadPoolExecutor(decode_threads(False), "headers") as pool:
        return all(pool.map(lambda row: is_ordinary(split.source(row)), rows))
