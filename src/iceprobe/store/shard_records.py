"""Records of finished shards, by which several processes write one store.

Process 0 alone writes the manifest. Another process leaves the record of each finished shard in a
folder beside it (written under a temporary name and renamed); process 0 takes it into the manifest
and removes the file. So no finished shard is lost, whichever process is killed.
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


def leave_record(path: Path, split: str, shard: ShardRecord) -> None:
    """Leave the record of a finished shard of the store at ``path`` for process 0."""
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


def collect_records(path: Path, manifest: Manifest) -> dict[str, int]:
    """Take the records that are there into the manifest, in memory and on disk.

    Returns:
        Rows of the listing in the shards that this added, by split.

    Raises:
        IceprobeError: if a record is damaged.
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


def remove_folder(path: Path) -> None:
    """Remove the folder of records once all were collected, with what a killed process left in it."""
    if not (path / FOLDER).is_dir():
        return  # a disk that is read only refuses even to remove what isn't there
    with contextlib.suppress(FileNotFoundError):
        for remains in (path / FOLDER).glob("*.tmp"):
            remains.unlink()
        (path / FOLDER).rmdir()
