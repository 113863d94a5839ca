"""Shards of a store that several processes write: one of them alone keeps the manifest.

A shard of another process comes with a record in a folder beside it, put there by a rename when
the shard is whole, and stays until its record is in the manifest. So a shard is never lost with
the process that wrote it, nor with the one that keeps the manifest.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from iceprobe.core.checksums import seal, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.store.format import Manifest, ShardRecord, publish, write_manifest

FOLDER = "handed-in"


def hand_in(path: Path, split: str, shard: ShardRecord) -> None:
    """Leave the record of a shard of the store at ``path``, which is complete."""
    folder = path / FOLDER
    folder.mkdir(exist_ok=True)
    final = folder / f"{shard.file}.json"
    temporary = final.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        entry = seal({"split": split, "shard": shard.model_dump(mode="json")})
        file.write(json.dumps(entry))
        file.flush()
        os.fsync(file.fileno())
    publish(temporary, final)


def collect(path: Path, manifest: Manifest) -> dict[str, int]:
    """Take what was handed in into the manifest, in memory and on disk.

    Returns:
        Rows of the listing that this completed, by split.
    """
    files = sorted((path / FOLDER).glob("*.json"))
    rows: dict[str, int] = {}
    for file in files:
        content = _read(file)
        split, shard = content["split"], ShardRecord.model_validate(content["shard"])
        if all(shard.start != known.start for known in manifest.splits[split].shards):
            manifest.record(split, shard)
            rows[split] = rows.get(split, 0) + shard.stop - shard.start
    if rows:
        write_manifest(path, manifest)
    for file in files:
        file.unlink()
    return rows


def _read(file: Path) -> dict[str, Any]:
    remedy = "remove it and run the same again: its shard is made anew"
    try:
        return unseal(parse_json(file.read_bytes()), file, remedy)
    except ValueError as error:
        raise IceprobeError(f"{file} is damaged; {remedy}") from error


def clear(path: Path) -> None:
    """Remove the folder, when everything was collected, with what a killed process left of it."""
    if not (path / FOLDER).is_dir():
        return  # a disk that is read only refuses even to remove what isn't there
    with contextlib.suppress(FileNotFoundError):
        for remains in (path / FOLDER).glob("*.tmp"):
            remains.unlink()
        (path / FOLDER).rmdir()
