"""A file of named arrays, opened without reading them: one function a kind, `KINDS` is their table.

What is read are tensors and lists of text. No pickle is unpickled: ``.npy`` and ``.npz`` with objects are
refused, and ``.pt`` is read by torch with ``weights_only=True``.
"""

import functools
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.text import shown
from iceprobe.datasets.decoding import one_line

Runs = Sequence[tuple[int, int]]  # of rows along the first axis: from and to
Values = Tensor | list[Any]  # numbers, or text

TEXT = "text"
_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_HELD = 2  # compressed arrays that are kept in memory after they were read


@dataclass(frozen=True)
class Form:
    """Shape of an array, and the name of its dtype (``"float16"``, ``"text"``)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def floating(self) -> bool:
        return "float" in self.dtype


@dataclass(frozen=True)
class Arrays:
    """An opened file.

    Attributes:
        place: of it.
        forms: of its arrays, by name; of one in a group of HDF5 ``"group/name"``.
        gather: name and runs of rows → a piece for each run, read now.
    """

    place: Path
    forms: Mapping[str, Form]
    gather: Callable[[str, Runs], list[Values]]

    def whole(self, name: str) -> Values:
        """All of an array; of a single value as an array of one."""
        shape = self.forms[name].shape
        (found,) = self.gather(name, [(0, shape[0] if shape else 1)])
        return found


def open_arrays(place: Path) -> Arrays:
    """The arrays of a file, by its ending.

    Raises:
        IceprobeError: if it has another ending, can't be read, or holds no arrays.
    """
    kind = KINDS.get(place.suffix.lower())
    if kind is None:
        raise IceprobeError(
            f"{place.name!r} ends in none of {', '.join(KINDS)}: write the tokens as one of them"
        )
    with reading(place):
        arrays = kind(place)
    if not arrays.forms:
        raise IceprobeError(f"{str(place)!r} holds no arrays: write its tokens again")
    return arrays


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """What libraries raise at a file that they can't read, as one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise IceprobeError(f"no file {str(place)!r}: name one that is there") from error
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise IceprobeError(
            f"{str(place)!r} can't be read ({one_line(error)}): write it again"
        ) from error


def as_tensor(array: np.ndarray) -> Tensor:
    """Numbers of NumPy as a tensor, in this machine's byte order."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an array of {array.dtype} is neither of numbers nor of text")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a map that can't be written to: nothing writes
        return torch.from_numpy(native)


def _values(array: np.ndarray) -> Values:
    if array.dtype.kind in "US":
        found: list[Any] = [
            one.decode() if isinstance(one, bytes) else one for one in array.tolist()
        ]
        return found
    return as_tensor(np.atleast_1d(array))


def _form(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Form:
    return Form(tuple(map(int, shape)), TEXT if dtype.kind in "USO" else dtype.name)


def _numpy(place: Path) -> Arrays:
    """``.npy``: one array, mapped."""

    def opened_now() -> np.ndarray:
        try:
            found: np.ndarray = np.load(place, mmap_mode="r", allow_pickle=False)
        except ValueError as error:  # whose text says how to unpickle it
            raise ValueError("it holds Python objects, or is damaged") from error
        return found

    def gather(_: str, runs: Runs) -> list[Values]:
        opened = opened_now()
        return [_values(opened[start:stop] if opened.ndim else opened) for start, stop in runs]

    whole = opened_now()
    return Arrays(place, {"array": _form(whole.dtype, whole.shape)}, gather)


def _zipped(place: Path) -> Arrays:
    """``.npz``: arrays of `numpy.savez` are mapped; compressed ones are read as a whole."""
    forms, offsets = {}, {}
    with zipfile.ZipFile(place) as archive, place.open("rb") as file:
        for info in archive.infolist():
            with archive.open(info) as member:
                dtype, shape, fortran, header = _npy_header(member, info.filename)
            name = info.filename.removesuffix(".npy")
            forms[name] = _form(dtype, shape)
            if info.compress_type == zipfile.ZIP_STORED and not fortran:
                file.seek(info.header_offset + 26)  # lengths of name and of extra field
                lengths = np.frombuffer(file.read(4), "<u2")
                start = info.header_offset + 30 + int(lengths.sum()) + header
                offsets[name] = (start, dtype)
    stamp = place.stat().st_mtime_ns

    def array(name: str) -> np.ndarray:
        if name in offsets and np.prod(forms[name].shape):
            start, dtype = offsets[name]
            return np.memmap(place, dtype, "r", start, forms[name].shape)
        return _decompressed(place, stamp, name)

    def gather(name: str, runs: Runs) -> list[Values]:
        found = array(name)
        return [_values(found[start:stop] if found.ndim else found) for start, stop in runs]

    return Arrays(place, forms, gather)


def _npy_header(member: Any, name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Dtype, shape, order and length of the header of an array in an archive."""
    first = np.lib.format.read_magic(member) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which only a pickle can: save it as text")
    return dtype, shape, fortran, member.tell()


@functools.lru_cache(_HELD)
def _decompressed(place: Path, stamp: int, name: str) -> np.ndarray:
    with np.load(place, allow_pickle=False) as archive:
        found: np.ndarray = archive[name]
        return found


def _safetensors(place: Path) -> Arrays:
    from safetensors import SafetensorError, safe_open

    def gather(name: str, runs: Runs) -> list[Values]:
        with safe_open(place, "pt") as file:
            part = file.get_slice(name)
            if not part.get_shape():
                return [file.get_tensor(name)[None]]
            return [part[start:stop] for start, stop in runs]

    try:
        with safe_open(place, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            forms = {
                name: Form(tuple(one.get_shape()), _SAFE.get(one.get_dtype(), one.get_dtype()))
                for name, one in parts.items()
            }
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return Arrays(place, forms, gather)


def _torch(place: Path) -> Arrays:
    """``.pt``: a tensor, or tensors and lists of text by name, as CLAM's ``pt_files`` and TRIDENT's."""

    def load() -> dict[str, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
                except RuntimeError:  # of a torch before 1.6, which can't be mapped
                    found = torch.load(place, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = "holds more than tensors" if "weights_only" in str(error) else one_line(error)
            raise ValueError(
                f"torch.load(weights_only=True): {reason}; take the .h5 beside it, or save a tensor"
            ) from error
        named = {"features": found} if isinstance(found, Tensor) else found
        if not isinstance(named, dict):
            raise ValueError(f"it holds a {type(found).__name__}, no tensor and none by name")
        return {str(name): one for name, one in named.items() if _is_array(one)}

    def gather(name: str, runs: Runs) -> list[Values]:
        found = load()[name]
        found = found[None] if isinstance(found, Tensor) and not found.ndim else found
        return [found[start:stop] for start, stop in runs]

    def form(one: Any) -> Form:
        if isinstance(one, Tensor):
            return Form(tuple(one.shape), str(one.dtype).removeprefix("torch."))
        return Form((len(one),), TEXT)

    return Arrays(place, {name: form(one) for name, one in load().items()}, gather)


def _is_array(one: Any) -> bool:
    return isinstance(one, Tensor) or (
        isinstance(one, list) and all(isinstance(item, str) for item in one)
    )


def _hdf5(place: Path) -> Arrays:
    """``.h5``: data sets of all groups; text may be of any kind that HDF5 has."""
    h5py = require("h5py", "hdf5", repr(str(place)))
    forms: dict[str, Form] = {}

    def visit(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset) and one.shape is not None:
            text = h5py.check_string_dtype(one.dtype) is not None
            forms[name] = Form(tuple(one.shape), TEXT if text else one.dtype.name)

    with h5py.File(place, "r") as file:
        file.visititems(visit)

    def gather(name: str, runs: Runs) -> list[Values]:
        with h5py.File(place, "r") as file:
            found = file[name]
            if forms[name].dtype == TEXT:
                text = found.asstr()
                return [
                    _listed(text[start:stop] if found.shape else [text[()]]) for start, stop in runs
                ]
            if not found.shape:
                return [as_tensor(np.atleast_1d(found[()]))]
            return [as_tensor(found[start:stop]) for start, stop in runs]

    return Arrays(place, forms, gather)


def _listed(text: Any) -> list[Any]:
    return [str(one) for one in text]


KINDS: Mapping[str, Callable[[Path], Arrays]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".safetensors": _safetensors,
    ".npz": _zipped,
    ".npy": _numpy,
    ".pt": _torch,
}


def said(form: Form) -> str:
    """``(1000, 768) float16``."""
    return f"{form.shape} {form.dtype}"


def listing(forms: Mapping[str, Form], most: int = 8) -> str:
    """Arrays of a file in an error: names and shapes."""
    found = [f"{shown(name)} {form.shape}" for name, form in list(forms.items())[:most]]
    return ", ".join(found) + (f" and {len(forms) - most} more" if len(forms) > most else "")
