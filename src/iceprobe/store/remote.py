"""A feature store on object storage: finished shards are uploaded, and downloaded when read.

Nothing is renamed or locked there. The files of a shard, one per view, are written to a local folder
and uploaded under names with their checksums, ``train-00000-9f86d081884c.safetensors``; then the shard's
record, ``train-00000.json``; the manifest comes last. So a record always names complete objects. Two
writers of one store upload the same objects if their machines compute the same bytes; otherwise each
uploads its own, and the last record decides. A killed extraction continues with the shards that have no
record.

Reading copies shards into a local cache by checksum (:func:`iceprobe.machine.object_storage.cache_folder`),
once for all stores, and compares them as in a local store. Everything but patch tokens is at the end of a
shard and is fetched separately, so a probe that reads no patches transfers few bytes.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

from iceprobe.core.checksums import SEAL, seal, sha256, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import RemotePath, cache_bytes, cache_folder, scratch_folder
from iceprobe.store.format import (
    MANIFEST,
    FileRecord,
    Manifest,
    ShardRecord,
    shard_file,
    write_manifest,
)
from iceprobe.store.layout import Layout, image_bytes, misfit
from iceprobe.store.shards import HEADER_BYTES, HEADER_PART, Shard

OPEN_SHARDS = 256  # of a split at a time, if the size of the cache is limited
REQUESTS = 16  # in flight at a time

F = TypeVar("F", bound=FileRecord)


def resumed(path: RemotePath, wanted: Manifest) -> Manifest:
    """The manifest to continue: ``wanted`` with the shards that exist in full length."""
    manifest = wanted.model_copy(deep=True)
    there = path.find()
    names = {
        _record_file(shard_file(name, number)): name
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
    """Upload the files of a finished shard, then its record, which names the objects; return it.

    ``folder`` is in the file system of the cache, into which the files move.
    """
    views = [_put(path, folder, view) for view in shard.views]
    record = _put(path, folder, shard).model_copy(update={"views": views})
    entry = {"identity": identity} | record.model_dump(mode="json")
    entry |= {"content": seal({"record": entry})[SEAL]}  # the key `sha256` is the shard's
    (path / _record_file(shard.file)).write_bytes(json.dumps(entry, indent=1).encode() + b"\n")
    _trim(keep=record.files)
    return record


def _put(path: RemotePath, folder: Path, file: F) -> F:
    plain = file.file.removesuffix(".safetensors")
    there = file.model_copy(update={"file": f"{plain}-{file.sha256[:12]}.safetensors"})
    (path / there.file).upload(folder / file.file)
    os.replace(folder / file.file, _cached(file))
    return there


def put_manifest(path: RemotePath, manifest: Manifest) -> None:
    """Upload the manifest of a store whose shards are complete."""
    with scratch_folder() as scratch:
        write_manifest(scratch, manifest)
        (path / MANIFEST).upload(scratch / MANIFEST)


def _record_file(shard: str) -> str:
    return f"{shard.removesuffix('.safetensors')}.json"


def check_objects(path: RemotePath, manifest: Manifest) -> None:
    """Raise for the first shard that one listing doesn't show with its length."""
    there = path.find()
    for file in manifest.files:
        if file.file not in there:
            raise corrupt(path, file, "it is missing")
        if (size := there[file.file][0]) != file.bytes:
            raise corrupt(path, file, f"it has {size:,} bytes instead of {file.bytes:,}")


def verify(path: RemotePath, manifest: Manifest) -> None:
    """Raise for the first shard whose checksum differs; shards are copied unless the cache has them."""
    for file in manifest.files:
        fetch(path, file, trust=False)


def opener(
    path: RemotePath, files: Sequence[FileRecord], images: Sequence[int], layout: Layout
) -> Callable[[int, str], Shard]:
    """``(number, name of a tensor) -> Shard``, which copies and opens one of ``files`` at need.

    ``images`` counts those of each file; ``layout`` is of one image.
    """
    # A removed copy takes space as long as it is open, so few are open if space is limited.
    at_once = None if cache_bytes() is None else OPEN_SHARDS

    def fetch_end(number: int) -> Path:
        if counted := files[number].tokens:
            patches = image_bytes(layout, ("patches",), counted[0])
        else:
            patches = images[number] * image_bytes(layout, ("patches",))
        return _fetch_end(path, files[number], patches)

    @lru_cache(at_once)
    def whole(number: int) -> Shard:
        return _open(path, files[number], lambda: fetch(path, files[number]))

    @lru_cache(at_once)
    def end(number: int) -> Shard:
        return _open(path, files[number], lambda: fetch_end(number))

    @cache
    def fetch_ends() -> None:
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(fetch_end, range(len(files))))

    def opened(number: int, key: str) -> Shard:
        if key == "patches" or "patches" not in layout:
            return whole(number)
        fetch_ends()
        return end(number)

    return opened


def _open(path: RemotePath, file: FileRecord, fetched: Callable[[], Path]) -> Shard:
    """An open copy; it is copied again if another process removes it at this moment."""

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
    """The local copy of a shard, whose checksum was compared.

    Args:
        trust: don't compare an existing copy again.

    Raises:
        IceprobeError: if the object is gone or isn't what was written.
    """
    local = _cached(file)
    if local.exists() and local.stat().st_size == file.bytes:
        if trust or sha256(local) == file.sha256:
            with contextlib.suppress(FileNotFoundError):
                os.utime(local)  # the cache removes the least recently used
            return local
        local.unlink()
    with scratch_folder() as scratch:
        copy = scratch / local.name
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
    """A shard with a hole in place of its patch tokens: header and end, in two requests.

    Tensors are compared if they have digests; older shards are compared when the whole is copied.
    """
    if (whole := _cached(file)).exists():
        return whole
    local = whole.with_suffix(".end")
    if local.exists():
        return local
    with scratch_folder() as scratch, (scratch / local.name).open("wb") as end:
        copy = scratch / local.name
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


def _trim(keep: Collection[FileRecord]) -> None:
    """Remove the least recently used copies until the cache is within its size.

    A process that has opened a copy can still read it.
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
