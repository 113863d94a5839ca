"""Where a store's shards are written and recorded: a folder, or object storage by way of one.

Before an extraction, each unfinished store asked for gets a destination: a stopped store is verified
and continued, and the disk must have room for what is missing.
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import name_hosts
from iceprobe.datasets.base import Dataset
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.object_storage import RemotePath, scratch_folder
from iceprobe.machine.processes import world
from iceprobe.store import remote
from iceprobe.store.format import MANIFEST, Manifest, ShardRecord, read_manifest, write_manifest
from iceprobe.store.layout import shard_bytes, split_layout
from iceprobe.store.reader import check_sizes, corrupt_shards
from iceprobe.store.request import describe
from iceprobe.store.shard_records import collect_records, leave_record

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone


@dataclass
class Destination:
    """A store that is written: the folder of its files, and the manifest of its complete shards."""

    folder: Path
    manifest: Manifest
    layer: int  # which of those that the backbone reads

    @property
    def target(self) -> Path | RemotePath:
        """Where the finished store is."""
        return self.folder

    def put(self, shard: ShardRecord) -> ShardRecord:
        """Move the files of a finished shard to ``target``; return its record there."""
        return shard

    def record(self, split: str, shard: ShardRecord) -> None:
        """Record a shard as complete, in the manifest or for process 0."""
        if world().main:
            self.manifest.record(split, shard)
            write_manifest(self.folder, self.manifest)
        else:
            leave_record(self.folder, split, shard)


@dataclass
class RemoteDestination(Destination):
    """A store at ``path`` on object storage; its files are made in a local folder."""

    path: RemotePath

    @property
    def target(self) -> RemotePath:
        return self.path

    def put(self, shard: ShardRecord) -> ShardRecord:
        return remote.put_shard(self.path, self.folder, self.manifest.identity, shard)

    def record(self, split: str, shard: ShardRecord) -> None:
        self.manifest.record(split, shard)
        if self.manifest.finished:
            remote.put_manifest(self.path, self.manifest)


def find_destinations(
    root: Path | RemotePath, wanted: Sequence[Manifest], until: contextlib.ExitStack
) -> list[tuple[Path | RemotePath, Destination | None]]:
    """Path and destination of each store asked for; a finished store has no destination.

    Args:
        root: folder of all stores.
        wanted: manifests of the stores asked for, without shards.
        until: keeps the locks of local destinations and the local folders of remote ones.

    Raises:
        IceprobeError: if the disk is too full, another process writes one of the stores, or one
            that was stopped is damaged.
    """
    name_hosts(str(root))
    finished = [find_finished(root, one) for one in wanted]
    paths = [path or root / one.folder for path, one in zip(finished, wanted, strict=True)]
    todo = {path: layer for layer, path in enumerate(paths) if path not in finished}
    _check_disk({path: wanted[todo[path]] for path in todo if isinstance(path, Path)})
    opened = {  # locked in one order, against deadlocks
        path: _open_destination(path, wanted[todo[path]], todo[path], until)
        for path in sorted(todo, key=str)
    }
    return [(path, opened.get(path)) for path in paths]


def _open_destination(
    path: Path | RemotePath, wanted: Manifest, layer: int, until: contextlib.ExitStack
) -> Destination | None:
    """Where to continue; ``None`` if no shard is missing."""
    destination: Destination
    if isinstance(path, Path):
        until.enter_context(exclusive(path))
        destination = Destination(path, _resumed(path, wanted), layer)
    else:
        scratch = until.enter_context(scratch_folder())
        destination = RemoteDestination(scratch, remote.resumed(path, wanted), layer, path)
        if destination.manifest.finished:  # killed between the last shard and the manifest
            remote.put_manifest(path, destination.manifest)
    return None if destination.manifest.finished else destination


def find_finished(root: Path | RemotePath, wanted: Manifest) -> Path | RemotePath | None:
    """The finished store that serves the request: its own, or the same one with patches."""
    for candidate in wanted.served_by():
        path = root / candidate.folder
        if (path / MANIFEST).exists():
            found = read_manifest(path)
            _check_same(path, found, candidate)
            if found.finished:
                return path
    return None


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    """The manifest to continue: shards are verified, and remains of a killed writer removed."""
    for remains in path.glob("*.tmp"):
        remains.unlink()
    for task in path.glob(".part-*"):  # a Ray task's that was killed
        shutil.rmtree(task, ignore_errors=True)
    manifest = wanted
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        _check_same(path, manifest, wanted)
    collect_records(path, manifest)  # of a process that was killed together with process 0
    check_sizes(path, manifest)
    for _, error in corrupt_shards(path, manifest):
        raise error
    return manifest


def _check_same(path: Path | RemotePath, found: Manifest, wanted: Manifest) -> None:
    if found.identity != wanted.identity:
        raise IceprobeError(
            f"{path} holds another store ({found.identity[:16]} instead of "
            f"{wanted.identity[:16]}): move it away"
        )


def check_origin(
    path: Path | RemotePath,
    manifest: Manifest,
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Check that backbone, images and device are those of the store."""
    if device.type != manifest.settings.device:
        raise IceprobeError(
            f"store {path} was made on {manifest.settings.device}: mend it with device="
            f"{manifest.settings.device}"
        )
    now = describe(backbone, dataset, manifest.settings, splits=list(manifest.splits), limit=None)
    found, recorded = now.backbone, manifest.backbone
    if (found.identity, found.preprocessing) != (recorded.identity, recorded.preprocessing):
        raise IceprobeError(
            f"backbone {backbone.spec} is not the one of store {path} any more: extract it again"
        )
    for name, record in manifest.splits.items():
        if now.splits[name].content != record.content:
            raise IceprobeError(
                f"split {name!r} of {dataset.spec} has changed since store {path} was made: "
                "extract it again"
            )


def _check_disk(todo: Mapping[Path, Manifest]) -> None:
    """Raise if the missing shards of these stores don't fit on the disk."""
    if not todo:
        return
    needed = sum(
        bytes_missing(read_manifest(path) if (path / MANIFEST).exists() else wanted)
        for path, wanted in todo.items()
    )
    path = next(iter(todo))
    free = free_bytes(path)
    if needed > free:
        raise IceprobeError(
            f"extracting into {path.parent} needs {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB "
            "are free: take another folder, a limit, fewer views, or probes that read no patches"
        )


def bytes_missing(manifest: Manifest) -> int:
    """Bytes of the shards that are not complete."""
    return sum(
        shard_bytes(
            manifest.rows_missing(name),
            split_layout(manifest, name, view),
            len(manifest.missing(name)),
            tokens=manifest.rows_missing(name) * manifest.shape.num_tokens,
        )
        for name in manifest.splits
        for view in range(manifest.settings.views_of(name))
    )


def free_bytes(path: Path) -> int:
    """Free bytes on the disk where ``path`` is or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
