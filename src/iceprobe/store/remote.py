"""A feature store on object storage: finished shards are uploaded, and downloaded when read.

Nothing is renamed or locked there. The files of a shard, one a view, are written to a local folder,
closed, and put under names that hold their checksums, ``train-00000-9f86d081884c.safetensors``; then
the shard's record is put, ``train-00000.json``; the manifest comes last. So a record always names objects that are there and
whole, whoever wrote it: two writers of one store put the same objects where their machines compute
the same bytes, and where they don't each has its own, of which the last record is the store's. An
extraction that was killed lists the records and continues with the shards that have none.

Reading copies shards into a local folder by checksum (:func:`iceprobe.machine.object_storage.cache_folder`): what
was copied once is not copied again, whatever store asks, and what is read of a copy is compared as it is in a local store. Everything but patch tokens is at the end
of a shard and comes by itself, so a probe that reads no patches moves few bytes.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

from iceprobe.core.checksums import SEAL, seal, sha256, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import RemotePath, cache_bytes, cache_folder, scratch_folder
from iceprobe.store.format import MANIFEST, FileRecord, Manifest, ShardRecord, write_manifest
from iceprobe.store.layout import Layout, image_bytes, misfit
from iceprobe.store.shards import HEADER_BYTES, HEADER_PART, Shard

OPEN_SHARDS = 256  # of a split at a time, where the cache has a size
REQUESTS = 16  # in flight at a time

F = TypeVar("F", bound=FileRecord)


def resumed(path: RemotePath, wanted: Manifest) -> Manifest:
    """The manifest to continue: ``wanted`` with the shards that are there in full length.

    Raises:
        IceprobeError: if a record is of another store.
    """
    manifest = wanted.model_copy(deep=True)
    there = path.find()
    names = {
        record_file(name, number): name
        for name in manifest.splits
        for number in manifest.missing(name)
    }
    found = [file for file in names if file in there]
    with ThreadPoolExecutor(REQUESTS) as pool:
        contents = pool.map(lambda file: (path / file).read_bytes(), found)
        for file, content in zip(found, contents, strict=True):
            record = _read_record(path / file, content, manifest, names[file])
            if all(there.get(one.file, (None, ""))[0] == one.bytes for one in record.files):
                manifest.record(names[file], record)
    return manifest


def _read_record(place: RemotePath, content: bytes, manifest: Manifest, split: str) -> ShardRecord:
    remedy = f"remove {place} and run the same again: its shard is made anew"
    try:
        entry = parse_json(content)
        sealed = {SEAL: entry.pop("content")} if "content" in entry else {}
        unseal({"record": entry} | sealed, place, remedy)
        identity, record = entry.pop("identity"), ShardRecord.model_validate(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IceprobeError(f"{place} is damaged ({type(error).__name__}); {remedy}") from error
    if identity != manifest.identity:
        raise IceprobeError(f"{place} is of another store: move {place.parent} away")
    if reason := misfit(manifest, split, record):
        raise IceprobeError(f"{place} is damaged: {reason}; {remedy}")
    return record


def put_shard(path: RemotePath, folder: Path, identity: str, shard: ShardRecord) -> ShardRecord:
    """Upload the files of a finished shard, then its record; the files go into the cache.

    Args:
        folder: where the files are, in the file system of the cache.

    Returns:
        The record with the names there.
    """
    views = [_put(path, folder, view) for view in shard.views]
    record = _put(path, folder, shard).model_copy(update={"views": views})
    entry = {"identity": identity} | record.model_dump(mode="json")
    entry |= {"content": seal({"record": entry})[SEAL]}  # its own sha256 is the shard's
    plain = shard.file.removesuffix(".safetensors")
    (path / f"{plain}.json").write_bytes(json.dumps(entry, indent=1).encode() + b"\n")
    _trim(keep=record.files)
    return record


def _put(path: RemotePath, folder: Path, file: F) -> F:
    plain = file.file.removesuffix(".safetensors")
    there = file.model_copy(update={"file": f"{plain}-{file.sha256[:12]}.safetensors"})
    (path / there.file).upload(folder / file.file)
    os.replace(folder / file.file, _cached(file))
    return there


def put_manifest(path: RemotePath, manifest: Manifest) -> None:
    """Upload the manifest of a store whose shards are all there."""
    with scratch_folder() as scratch:
        write_manifest(scratch, manifest)
        (path / MANIFEST).upload(scratch / MANIFEST)


def record_file(split: str, number: int) -> str:
    return f"{split}-{number:05d}.json"


def check_objects(path: RemotePath, manifest: Manifest) -> None:
    """See by one listing that every shard is there and has its length.

    Raises:
        IceprobeError: naming the first that isn't.
    """
    there = path.find()
    for file in _files(manifest):
        if file.file not in there:
            raise corrupt(path, file, "it is missing")
        if (size := there[file.file][0]) != file.bytes:
            raise corrupt(path, file, f"it has {size:,} bytes instead of {file.bytes:,}")


def verify(path: RemotePath, manifest: Manifest) -> None:
    """Compare every shard with its checksum; each is copied once, unless it is in the cache.

    Raises:
        IceprobeError: naming the first that differs.
    """
    for file in _files(manifest):
        fetch(path, file, trust=False)


def _files(manifest: Manifest) -> Iterator[FileRecord]:
    for record in manifest.splits.values():
        for shard in record.shards:
            yield from shard.files


def opener(
    path: RemotePath,
    files: Sequence[FileRecord],
    images: Sequence[int],
    layout: Layout,
) -> Callable[[int, str], Shard]:
    """``(number, name of a tensor) -> Shard`` for some files: copied where it has to be, then open.

    Args:
        images: of each of ``files``.
        layout: of one image.
    """
    each = image_bytes(layout, ("patches",))
    # A removed copy takes its room as long as it is open: where room is limited, few are.
    at_once = None if cache_bytes() is None else OPEN_SHARDS

    @lru_cache(at_once)
    def whole(number: int) -> Shard:
        return _open(path, files[number], lambda: fetch(path, files[number]))

    @lru_cache(at_once)
    def end(number: int) -> Shard:
        size = images[number] * each
        return _open(path, files[number], lambda: _fetch_end(path, files[number], size))

    @cache
    def fetch_ends() -> None:
        with ThreadPoolExecutor(REQUESTS) as pool:
            sizes = [count * each for count in images]
            list(pool.map(lambda file, size: _fetch_end(path, file, size), files, sizes))

    def opened(number: int, key: str) -> Shard:
        if key == "patches" or not each:
            return whole(number)
        fetch_ends()
        return end(number)

    return opened


def _open(path: RemotePath, file: FileRecord, fetched: Callable[[], Path]) -> Shard:
    """A copy opened; it is copied again if another process has just removed it to make room."""

    def damaged(copy: Path, reason: str) -> IceprobeError:
        return IceprobeError(
            f"damaged copy {copy} of {path / file.file}: {reason}; remove it and run the same "
            "again: it is copied anew"
        )

    while True:
        copy = fetched()
        try:
            return Shard(copy, file, damaged)
        except IceprobeError:
            if copy.exists():
                raise


def fetch(path: RemotePath, file: FileRecord, *, trust: bool = True) -> Path:
    """The local copy of a shard, its checksum compared when it was copied.

    Args:
        trust: take a copy that is there without comparing again.

    Raises:
        IceprobeError: if the object is gone or isn't what was written.
    """
    local = _cached(file)
    if local.exists() and local.stat().st_size == file.bytes:
        if trust or sha256(local) == file.sha256:
            with contextlib.suppress(FileNotFoundError):
                os.utime(local)  # used last now
            return local
        local.unlink()
    with _temporary(local) as copy:
        try:
            (path / file.file).download(copy)
        except FileNotFoundError:
            raise corrupt(path, file, "it is missing") from None
        if (found := sha256(copy)) != file.sha256:
            raise corrupt(path, file, f"its checksum is {found[:12]}, not {file.sha256[:12]}")
        os.replace(copy, local)
    _trim(keep=[file])
    return local


def corrupt(path: RemotePath, file: FileRecord, reason: str) -> IceprobeError:
    return IceprobeError(
        f"corrupt shard {path / file.file}: {reason}; remove it and {path / MANIFEST}, then run "
        "the same iceprobe extract again: it makes what is missing"
    )


def _fetch_end(path: RemotePath, file: FileRecord, patch_bytes: int) -> Path:
    """A shard without its patch tokens: a hole is where they would be.

    Two requests for its header and its end, whose tensors are compared. (Of shards without digests
    of their tensors only the whole can be, when it is copied.)
    """
    if (whole := _cached(file)).exists():
        return whole
    local = whole.with_suffix(".end")
    if local.exists():
        return local
    with _temporary(local) as copy, copy.open("wb") as end:
        try:
            head = (path / file.file).read_bytes(0, HEADER_BYTES)
            tail = HEADER_BYTES + patch_bytes
            end.write(head)
            end.seek(tail)
            end.write((path / file.file).read_bytes(tail, file.bytes))
        except FileNotFoundError:
            raise corrupt(path, file, "it is missing") from None
        if end.tell() != file.bytes:
            raise corrupt(path, file, "it ends too early")
        end.flush()
        if file.parts:
            shard = Shard(copy, file, lambda _, reason: corrupt(path, file, reason))
            for name in file.parts.keys() - {HEADER_PART}:
                shard.read(name)
        os.replace(copy, local)
    return local


def _cached(file: FileRecord) -> Path:
    return cache_folder() / f"{file.sha256}.safetensors"


@contextlib.contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """A temporary name in the file system of ``final``; nothing is left under it."""
    with scratch_folder() as scratch:
        yield scratch / final.name


def _trim(keep: Collection[FileRecord]) -> None:
    """Remove the copies that were used longest ago until the cache is within its size.

    A copy that a process has open stays readable to it until it is closed.
    """
    limit = cache_bytes()
    if limit is None:
        return
    kept = {_cached(file) for file in keep}
    copies = []
    for copy in cache_folder().glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            copies.append((copy.stat().st_mtime_ns, copy.stat().st_size, copy))
    total = sum(size for _, size, _ in copies)
    for _, size, copy in sorted(copies):
        if total <= limit:
            return
        if copy not in kept:
            copy.unlink(missing_ok=True)
            total -= size
