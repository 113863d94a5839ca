"""Where a store's shards are made and recorded: its folder, or object storage by way of one.

Before anything is extracted, a place is found for each store asked for: a finished one is left as it
is, a stopped one is verified and gone on with, and the disk has to hold what is missing.
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
from iceprobe.store.format import (
    MANIFEST,
    Manifest,
    ShardRecord,
    read_manifest,
    write_manifest,
)
from iceprobe.store.handing_in import collect, hand_in
from iceprobe.store.layout import split_layout
from iceprobe.store.reader import check_sizes, corrupt_shards
from iceprobe.store.request import describe
from iceprobe.store.shards import shard_bytes

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone


@dataclass
class Place:
    """The folder of a store that is to be written to.

    Attributes:
        folder: where its files are made.
        manifest: to go on from; process 0 records the shards of all processes in it.
    """

    folder: Path
    manifest: Manifest

    @property
    def target(self) -> Path | RemotePath:
        """Where the store is in the end."""
        return self.folder

    def put(self, shard: ShardRecord) -> ShardRecord:
        """Bring the files of a finished shard where they belong; the shard's record there."""
        return shard

    def note(self, split: str, shard: ShardRecord) -> None:
        """Count a shard as complete."""
        if world().main:
            self.manifest.record(split, shard)
            write_manifest(self.folder, self.manifest)
        else:
            hand_in(self.folder, split, shard)


@dataclass
class RemotePlace(Place):
    """A store at ``path`` on object storage, its files made in a local folder."""

    path: RemotePath

    @property
    def target(self) -> RemotePath:
        return self.path

    def put(self, shard: ShardRecord) -> ShardRecord:
        return remote.put_shard(self.path, self.folder, self.manifest.identity, shard)

    def note(self, split: str, shard: ShardRecord) -> None:
        self.manifest.record(split, shard)
        if self.manifest.finished:
            remote.put_manifest(self.path, self.manifest)


def find_places(
    root: Path | RemotePath, wanted: Sequence[Manifest], until: contextlib.ExitStack
) -> list[tuple[Path | RemotePath, Place | None]]:
    """Where each store is or will be, and its place to be written to, ``None`` if it is finished.

    Args:
        root: of all of them.
        wanted: manifests of the stores asked for, without shards.
        until: holds the locks of local places, and the local folders of remote ones.
    """
    name_hosts(str(root))
    finished = [find_finished(root, one) for one in wanted]
    paths = [path or root / one.folder for path, one in zip(finished, wanted, strict=True)]
    todo = {path: one for path, one in zip(paths, wanted, strict=True) if path not in finished}
    _check_disk({path: one for path, one in todo.items() if isinstance(path, Path)})
    opened = {  # in one order, so that two processes can't wait in a ring
        path: _open_place(path, todo[path], until) for path in sorted(todo, key=str)
    }
    return [(path, opened.get(path)) for path in paths]


def _open_place(
    path: Path | RemotePath, wanted: Manifest, until: contextlib.ExitStack
) -> Place | None:
    """Where to go on; ``None`` if a stopped writer left no shard to make."""
    place: Place
    if isinstance(path, Path):
        until.enter_context(exclusive(path))
        place = Place(path, _resumed(path, wanted))
    else:
        scratch = until.enter_context(scratch_folder())
        place = RemotePlace(scratch, remote.resumed(path, wanted), path)
        if place.manifest.finished:  # killed between the last shard and the manifest
            remote.put_manifest(path, place.manifest)
    return None if place.manifest.finished else place


def find_finished(root: Path | RemotePath, wanted: Manifest) -> Path | RemotePath | None:
    """The finished store that answers the request: its own, or one that holds patches as well."""
    richer = wanted.model_copy(
        update={"settings": wanted.settings.model_copy(update={"patches": True})}
    )
    for candidate in (wanted, richer):
        path = root / candidate.folder
        if (path / MANIFEST).exists():
            found = read_manifest(path)
            _check_same(path, found, candidate)
            if found.finished:
                return path
    return None


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on from; its shards are verified, remains of a killed writer removed."""
    for remains in path.glob("*.tmp"):
        remains.unlink()
    for task in path.glob(".part-*"):  # a Ray task's that was killed
        shutil.rmtree(task, ignore_errors=True)
    manifest = wanted
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        _check_same(path, manifest, wanted)
    collect(path, manifest)  # of another process that was killed with the one that records
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
    """See that backbone, images and device are those of the store."""
    if device.type != manifest.settings.device:
        raise IceprobeError(
            f"store {path} was made on {manifest.settings.device}: mend it with device="
            f"{manifest.settings.device}"
        )
    now = describe(backbone, dataset, manifest.settings, splits=list(manifest.splits), limit=None)
    if (
        now.backbone.identity != manifest.backbone.identity
        or now.backbone.preprocessing != manifest.backbone.preprocessing
    ):
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
    """See that what is still to be written into these folders of one root fits.

    Raises:
        IceprobeError: with both sizes and what would make it smaller.
    """
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
    total = 0
    for name in manifest.splits:
        rows, shards = manifest.rows_missing(name), len(manifest.missing(name))
        for view in range(manifest.settings.views_of(name)):
            total += shard_bytes(rows, split_layout(manifest, name, view), shards)
    return total


def free_bytes(path: Path) -> int:
    """Bytes free to this user where ``path`` is or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
