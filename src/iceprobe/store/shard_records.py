"""Records of finished shards, by which several processes write one store.

Process 0 alone writes the manifest. Other processes leave the record of each finished shard in a
folder beside it; process 0 adds it to the manifest and removes the file. So no finished shard is lost,
whichever process is killed.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from iceprobe.core.checksums import seal, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.store.format import Manifest, ShardRecord, write_manifest, write_whole

FOLDER = "handed-in"


def leave_record(path: Path, split: str, shard: ShardRecord) -> None:
    """Leave the record of a finished shard of the store at ``path`` for process 0."""
    (path / FOLDER).mkdir(exist_ok=True)
    entry = seal({"split": split, "shard": shard.model_dump(mode="json")})
    write_whole(path / FOLDER / f"{shard.file}.json", json.dumps(entry))


def collect_records(path: Path, manifest: Manifest) -> dict[str, int]:
    """Move the records of other processes into the manifest, in memory and on disk.

    Returns how many rows of each split's listing were added; a damaged record is an error.
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
    """Remove the folder of collected records, and temporary files of killed processes in it."""
    if not (path / FOLDER).is_dir():
        return  # a read-only disk refuses even to remove a missing folder
    with contextlib.suppress(FileNotFoundError):
        for remains in (path / FOLDER).glob("*.tmp"):
            remains.unlink()
        (path / FOLDER).rmdir()
