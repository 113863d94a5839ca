"""A feature store on object storage: shards go up when they are whole, and come down when read.

Nothing is renamed or locked there. A shard is written to a local folder, closed, and put under a
name that holds its checksum, ``train-00000-9f86d081884c.safetensors``; then its record is put,
``train-00000.json``; the manifest comes last. So a record always names an object that is there and
whole, whoever wrote it: two writers of one store put the same objects where their machines compute
the same bytes, and where they don't each has its own, of which the last record is the store's. An
extraction that was killed lists the records and goes on with the shards that have none.

Reading copies shards into a local folder by checksum (:func:`iceprobe.remote.cache_folder`): what
was copied once is not copied again, whatever store asks. Everything but patch tokens is at the end
of a shard and comes by itself, so a probe that reads no patches moves few bytes.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path

from iceprobe.errors import IceprobeError
from iceprobe.remote import RemotePath, cache_bytes, cache_folder
from iceprobe.store.format import MANIFEST, Manifest, ShardRecord, write_manifest
from iceprobe.store.pipeline import image_bytes, split_layout
from iceprobe.store.shards import HEADER_BYTES, Shard, sha256

REQUESTS = 16  # in flight at a time


def resumed(path: RemotePath, wanted: Manifest) -> Manifest:
    """The manifest to go on from: ``wanted`` with the shards that are there in full length.

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
            entry = json.loads(content)
            if entry.pop("identity") != manifest.identity:
                raise IceprobeError(f"{path / file} is of another store: move {path} away")
            record = ShardRecord.model_validate(entry)
            if there.get(record.file, (None, ""))[0] == record.bytes:
                manifest.record(names[file], record)
    return manifest


def put_shard(path: RemotePath, local: Path, identity: str, record: ShardRecord) -> ShardRecord:
    """Upload a finished shard, then its record; the local file goes into the cache.

    Returns:
        The record with the shard's name there.
    """
    plain = record.file.removesuffix(".safetensors")
    record = record.model_copy(update={"file": f"{plain}-{record.sha256[:12]}.safetensors"})
    (path / record.file).upload(local)
    entry = {"identity": identity} | record.model_dump(mode="json")
    (path / f"{plain}.json").write_bytes(json.dumps(entry, indent=1).encode() + b"\n")
    os.replace(local, _cached(record))
    _trim(keep=record)
    return record


def put_manifest(path: RemotePath, manifest: Manifest) -> None:
    """Upload the manifest of a store whose shards are all there."""
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        write_manifest(Path(scratch), manifest)
        (path / MANIFEST).upload(Path(scratch) / MANIFEST)


def record_file(split: str, number: int) -> str:
    return f"{split}-{number:05d}.json"


def check_objects(path: RemotePath, manifest: Manifest) -> None:
    """See by one listing that every shard is there and has its length.

    Raises:
        IceprobeError: naming the first that isn't.
    """
    there = path.find()
    for record in manifest.splits.values():
        for shard in record.shards:
            if shard.file not in there:
                raise corrupt(path, shard, "it is missing")
            if (size := there[shard.file][0]) != shard.bytes:
                raise corrupt(path, shard, f"it has {size:,} bytes instead of {shard.bytes:,}")


def verify(path: RemotePath, manifest: Manifest) -> None:
    """Compare every shard with its checksum; each is copied once, unless it is in the cache.

    Raises:
        IceprobeError: naming the first that differs.
    """
    for record in manifest.splits.values():
        for shard in record.shards:
            fetch(path, shard, trust=False)


def opener(
    path: RemotePath, manifest: Manifest, name: str, open_shards: int
) -> Callable[[int, str], Shard]:
    """``(number, name of a tensor) -> Shard`` for a split: copied where it has to be, then open.

    Args:
        open_shards: held open at most.
    """
    record = manifest.splits[name]
    each = image_bytes(split_layout(manifest, name), ("patches",))

    @lru_cache(open_shards)
    def whole(number: int) -> Shard:
        return _open(lambda: fetch(path, record.shards[number]))

    @lru_cache(open_shards)
    def end(number: int) -> Shard:
        return _open(lambda: _fetch_end(path, record.shards[number], each))

    @cache
    def fetch_ends() -> None:
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda shard: _fetch_end(path, shard, each), record.shards))

    def opened(number: int, key: str) -> Shard:
        if key == "patches" or not each:
            return whole(number)
        fetch_ends()
        return end(number)

    return opened


def _open(fetched: Callable[[], Path]) -> Shard:
    """A copy opened; it is copied again if another process has just removed it to make room."""
    while True:
        copy = fetched()
        try:
            return Shard(copy)
        except IceprobeError:
            if copy.exists():
                raise


def fetch(path: RemotePath, shard: ShardRecord, *, trust: bool = True) -> Path:
    """The local copy of a shard, its checksum compared when it was copied.

    Args:
        trust: take a copy that is there without comparing again.

    Raises:
        IceprobeError: if the object is gone or isn't what was written.
    """
    local = _cached(shard)
    if local.exists() and local.stat().st_size == shard.bytes:
        if trust or sha256(local) == shard.sha256:
            with contextlib.suppress(FileNotFoundError):
                os.utime(local)  # used last now
            return local
        local.unlink()
    with _temporary(local) as copy:
        try:
            (path / shard.file).download(copy)
        except FileNotFoundError:
            raise corrupt(path, shard, "it is missing") from None
        if (found := sha256(copy)) != shard.sha256:
            raise corrupt(path, shard, f"its checksum is {found[:12]}, not {shard.sha256[:12]}")
        os.replace(copy, local)
    _trim(keep=shard)
    return local


def corrupt(path: RemotePath, shard: ShardRecord, reason: str) -> IceprobeError:
    return IceprobeError(
        f"corrupt shard {path / shard.file}: {reason}; remove it and {path / MANIFEST}, then run "
        "the same iceprobe extract again: it makes what is missing"
    )


def _fetch_end(path: RemotePath, shard: ShardRecord, patches_each: int) -> Path:
    """A shard without its patch tokens: a hole is where they would be.

    Two requests for its header and its end. The checksum is over the whole and isn't compared.
    """
    if (whole := _cached(shard)).exists():
        return whole
    local = whole.with_suffix(".end")
    if local.exists():
        return local
    with _temporary(local) as copy, copy.open("wb") as file:
        try:
            head = (path / shard.file).read_bytes(0, HEADER_BYTES)
            tail = HEADER_BYTES + shard.images * patches_each
            file.write(head)
            file.seek(tail)
            file.write((path / shard.file).read_bytes(tail, shard.bytes))
        except FileNotFoundError:
            raise corrupt(path, shard, "it is missing") from None
        if file.tell() != shard.bytes:
            raise corrupt(path, shard, "it ends too early")
        file.flush()
        os.replace(copy, local)
    return local


def _cached(shard: ShardRecord) -> Path:
    return cache_folder() / f"{shard.sha256}.safetensors"


@contextlib.contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """A name of this call's own beside ``final``; nothing is left under it."""
    with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
        yield Path(scratch) / final.name


def _trim(keep: ShardRecord) -> None:
    """Remove the copies that were used longest ago until the cache is within its size.

    A copy that a process has open stays readable to it until it is closed.
    """
    limit = cache_bytes()
    if limit is None:
        return
    copies = []
    for file in cache_folder().glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            copies.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in copies)
    for _, size, file in sorted(copies):
        if total <= limit:
            return
        if file != _cached(keep):
            file.unlink(missing_ok=True)
            total -= size
