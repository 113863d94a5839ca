"""Checksums that show whether a file is unchanged.

- A file that another file names is compared with the size and sha256 recorded there (`Digest`).
- A JSON document contains the sha256 of its own content (`seal`, `unseal`).
- Tensors that no document names yet (a fit under way) have theirs in the header of their file
  (`tensors_digest`).
- ``SHA256SUMS``, in the format of ``sha256sum``, lists files of the package beside it (`listed`).

Files of earlier versions have no checksum. They are read, and `unverified` logs that once.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError

if TYPE_CHECKING:
    from torch import Tensor

SEAL = "sha256"  # key of a document: digest of its other content
SUMS = "SHA256SUMS"


class Digest(BaseModel):
    """Length and sha256 of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls(bytes=path.stat().st_size, sha256=sha256(path))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: Digest | None, remedy: str) -> None:
    """Check that a file is unchanged; without a digest that is assumed, and logged.

    A process reads a file for this only once while its size and modification time stay the same.

    Raises:
        IceprobeError: with the file and the remedy, if it has changed.
        OSError: if it can't be read.
    """
    if expected is None:
        return unverified(path)
    stat = path.stat()
    if stat.st_size != expected.bytes:
        reason = f"it has {stat.st_size:,} bytes instead of {expected.bytes:,}"
    else:
        found = _sha256_once(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if found == expected.sha256:
            return
        reason = f"its checksum is {found[:12]}, not {expected.sha256[:12]}"
    raise IceprobeError(f"{path} isn't what was written: {reason}; {remedy}")


@functools.lru_cache(4096)
def _sha256_once(path: Path, *state: int) -> str:
    return sha256(path)


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with the digest of its content, ready for JSON."""
    return {SEAL: _content_digest(document)} | dict(document)


def unseal(document: Mapping[str, Any], path: object, remedy: str) -> dict[str, Any]:
    """``document`` without its digest; an `IceprobeError` if the digest is another."""
    content = dict(document)
    sealed = content.pop(SEAL, None)
    if sealed is None:
        unverified(path)
    elif sealed != _content_digest(content):
        raise IceprobeError(
            f"{path} is damaged or was changed by hand: its checksum is not that of its content; "
            f"{remedy}"
        )
    return content


def _content_digest(document: Mapping[str, Any]) -> str:
    read_again = json.loads(json.dumps(document))  # number keys become text before they are sorted
    text = json.dumps(read_again, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, "Tensor"], description: str) -> str:
    """Sha256 over tensors, their names, dtypes and shapes, and a description."""
    import torch

    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_tensors(
    path: Path,
    tensors: Mapping[str, "Tensor"],
    metadata: Mapping[str, str] | None,
    described: str,
    remedy: str,
) -> None:
    """Raise an `IceprobeError` if a file's tensors or ``described`` in its header have changed."""
    found = metadata or {}
    if SEAL not in found and described in found:
        return unverified(path)
    if found.get(SEAL) != tensors_digest(tensors, found.get(described, "")):
        raise IceprobeError(f"{path} isn't what was written, its checksum is another: {remedy}")


def listed(folder: Traversable, name: str) -> bytes:
    """Content of a file of the package; an `IceprobeError` if it differs from the folder's list."""
    file = folder / name
    try:
        content = file.read_bytes()
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise IceprobeError(f"{file} or its checksum is missing: install iceprobe again") from error
    if f"{hashlib.sha256(content).hexdigest()}  {name}" not in lines:
        raise IceprobeError(
            f"{file} isn't what comes with iceprobe (its checksum isn't the one in {SUMS}): "
            "install iceprobe again"
        )
    return content


def list_files(folder: Path) -> None:
    """Write ``SHA256SUMS`` for all other files of a folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    lines = [f"{sha256(file)}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="ascii")


def unverified(path: object) -> None:
    """Log, for the first such file of a process, that it is assumed to be unchanged."""
    log_once(
        "file",
        f"{path} is as it was written, and so are other files that carry no checksum (an earlier "
        "iceprobe wrote none)",
    )


def log_once(kind: str, line: str) -> None:
    """Log an assumption about many files of a kind for the first of them only."""
    if kind not in _logged:
        _logged.add(kind)
        log_assumptions([line])


_logged: set[str] = set()
