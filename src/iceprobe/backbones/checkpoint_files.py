"""The type of a checkpoint file by its content, not its ending, and that content read as data."""

import argparse
import codecs
import gzip
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from iceprobe.backbones import plain_pickle
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError

_GZIP, _COMPRESSED = b"\x1f\x8b", "is compressed: unpack it first"
# First bytes of files that are no checkpoints → what they are, and what to do.
_OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: run git lfs pull in its folder",
    **dict.fromkeys((_GZIP, b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), _COMPRESSED),
    **dict.fromkeys((b"7z\xbc\xaf", b"Rar!"), _COMPRESSED),
    b"\x89HDF": "is HDF5: load it in its own library and torch.save() the weights as tensors",
    b"\x93NUMPY": "is one NumPy array, not the weights of a model",
    b"GGUF": "is GGUF, whose weights are quantised: take the safetensors of the same model",
}
_WHOLE = "is the file whole?"


def read_checkpoint(path: str) -> Any:
    """The content of a file in safetensors or written by ``torch.save``.

    It is read with ``weights_only=True``; if that refuses an entry, by
    :mod:`iceprobe.backbones.plain_pickle`. No code from the file is ever run.

    Raises:
        IceprobeError: if there is no such file, it has another format, or can't be read as data.
    """
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise IceprobeError(f"checkpoint {path!r} {_folder(file)}")
        if not file.is_file():
            raise IceprobeError(
                f"no checkpoint {path!r}: pass checkpoint=FILE with an existing file"
            )
        with file.open("rb") as stream:
            head = stream.read(4096)
        size = file.stat().st_size
    except (OSError, ValueError) as error:
        raise IceprobeError(
            f"checkpoint {path!r} can't be read ({_clause(error)}): pass checkpoint=FILE with a "
            "file that can be read"
        ) from error
    if _is_safetensors(head):
        return _safetensors(file, path, size, head)
    if what := _other(file, head):
        raise IceprobeError(f"checkpoint {path!r} {what}")
    return _pickled(file, path)


def _is_safetensors(head: bytes) -> bool:
    """Whether it starts with eight bytes for the length of a JSON header, then the header."""
    return len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0"


def _safetensors(file: Path, path: str, size: int, head: bytes) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        (length,) = struct.unpack("<Q", head[:8])
        cut = f"it ends after {size:,} bytes" if length + 8 > size else _clause(error)
        raise IceprobeError(f"checkpoint {path!r} can't be read ({cut}): {_WHOLE}") from error


def _load(file: Path, **options: Any) -> Any:
    # As a stream: for a path, torch would look at the ending.
    with file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols and deprecated storages
        return torch.load(stream, map_location="cpu", **options)


def _pickled(file: Path, path: str) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return _load(file, weights_only=True)
    except pickle.UnpicklingError:
        pass
    except Exception as error:  # the unpickler may raise anything for a broken file
        raise IceprobeError(
            f"checkpoint {path!r} can't be read ({_clause(error)}): {_WHOLE}"
        ) from error
    try:
        return _load(file, weights_only=False, pickle_module=plain_pickle)
    except Exception as error:  # as above
        remedy = "load it where you trust it and save its state_dict() alone"
        if "torch.distributed" in str(error):
            remedy = (
                "its weights are parts of several processes': save the whole ones, as "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict gives them with "
                "StateDictOptions(full_state_dict=True)"
            )
        raise IceprobeError(
            f"checkpoint {path!r} can't be read as data ({_clause(error)}): {remedy}"
        ) from error


def _other(file: Path, head: bytes) -> str | None:
    """What a file is, and what to do, if it is neither safetensors nor from ``torch.save``."""
    if not head:
        return "is empty: copy or download it again"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return _gzip(file) if magic == _GZIP else what
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    if head.startswith(b"PK"):
        return _zip(file)
    start = head[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        return "is a web page, not the file: download the file itself"
    if start[:1] == b"{" and _is_text(head):
        return "is JSON text, not weights: pass the file that holds the weights"
    if _is_text(head):
        line = start.decode("utf-8", "replace").splitlines()[0][:60] if start else ""
        return f"is text ({line!r} …), not weights: pass the file that holds the weights"
    return None


def _is_text(head: bytes) -> bool:
    try:  # the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\ufeff" for letter in text)


def _gzip(file: Path) -> str:
    try:
        with gzip.open(file) as stream:
            tar = stream.read(262)[257:262] == b"ustar"
    except (OSError, EOFError):
        return _COMPRESSED
    return "is a compressed tar archive: unpack it first" if tar else _COMPRESSED


def _zip(file: Path) -> str | None:
    """``None`` for the zip files of ``torch.save``."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return None  # torch reports the problem
    parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in parts:
        return (
            "is a TorchScript program: save its weights with "
            "torch.save(torch.jit.load(FILE).state_dict(), FILE)"
        )
    if "data.pkl" in parts:
        return None
    if any(name.endswith(".npy") for name in names):
        return (
            "is an archive of NumPy arrays: where it is one of JAX's vision transformers, "
            "timm.create_model(NAME, checkpoint_path=FILE) reads it; torch.save() its state_dict()"
        )
    return f"is a zip archive of {', '.join(names[:3]) or 'nothing'}: unpack it first"


def _folder(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    if ".metadata" in names:
        return (
            "is a folder of torch.distributed.checkpoint: make one file of it with python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    if "config.json" in names and _has_model_type(folder / "config.json"):
        return "is a folder of transformers: name it as transformers:FOLDER, without checkpoint="
    if "open_clip_config.json" in names:
        return "is a folder of open_clip: name it as open_clip:local-dir:FOLDER"
    inside = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return f"is a folder ({inside or 'empty'}): name the file in it that holds the weights"


def _has_model_type(config: Path) -> bool:
    try:
        return "model_type" in parse_json(config.read_bytes(), ours=False)
    except (OSError, ValueError):
        return False


def _clause(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
