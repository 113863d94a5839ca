"""Stores from before the rules of docs/images.md: shards of ordinary images stay, others are remade.

A store's identity depends on the files, not on how they are read, so that a store of ordinary images
(8 bits, grey, RGB or a palette, one frame, as stored) stays valid. For shards that don't say what was
done to their images, the headers of the image files are read once.
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


def bring_up_to_date(
    root: Path | RemotePath, wanted: Sequence[Manifest], dataset: Dataset
) -> list[str]:
    """Take shards out of the manifests of these stores whose images are read differently now.

    Args:
        root: of the stores; on object storage they are left as they are.
        wanted: manifests of the stores asked for.
        dataset: their images.

    Returns:
        File names of the shards that are to be extracted again.

    Raises:
        IceprobeError: if there are some in a store that can't be written.
    """
    if isinstance(root, RemotePath):
        return []
    again: list[str] = []
    for one in wanted:
        richer = one.settings.model_copy(update={"patches": True})
        for candidate in (one, one.model_copy(update={"settings": richer})):
            path = root / candidate.folder
            if (path / MANIFEST).exists() and _unsaid(read_manifest(path)):
                if os.access(path, os.W_OK):
                    with exclusive(path):
                        again += _updated(path, dataset)
                elif other := _drop_outdated(read_manifest(path), dataset):
                    raise IceprobeError(
                        f"{path / other[0]} holds images that are read by other rules now "
                        "(docs/images.md), and can't be written: extract into another folder"
                    )
                break
    return again


def _unsaid(manifest: Manifest) -> bool:
    """Whether a shard doesn't say what was done to its images."""
    return any(shard.read is None for split in manifest.splits.values() for shard in split.shards)


def _updated(path: Path, dataset: Dataset) -> list[str]:
    manifest = read_manifest(path)
    again = _drop_outdated(manifest, dataset)
    write_manifest(path, manifest)
    if again:
        log.warning(
            "%s: images of %d of its files are read by other rules now (docs/images.md): extracted "
            "again, %s first", path, len(again), again[0],
        )  # fmt: skip
    return again


def _drop_outdated(manifest: Manifest, dataset: Dataset) -> list[str]:
    """Take shards with images that aren't ordinary out of ``manifest``; return their files."""
    again: list[str] = []
    for name, record in manifest.splits.items():
        rows = chosen_rows(record.listed, record.images)
        kept = []
        for shard in record.shards:
            if shard.read is None:
                if not _all_ordinary(dataset.splits[name], rows[shard.start : shard.stop].tolist()):
                    again.append(shard.file)
                    continue
                shard.read = {}
            kept.append(shard)
        record.shards = kept
    return again


def _all_ordinary(split: Split, rows: Sequence[int]) -> bool:
    if split.reading is None:  # arrays
        return True
    with ThreadPoolExecutor(decode_threads(False), "headers") as pool:
        return all(pool.map(lambda row: is_ordinary(split.source(row)), rows))
