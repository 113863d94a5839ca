"""Examples whose tokens lie in files: their names, numbers of tokens and widths, and rows when asked for.

One file with all examples is here (`OneFile`); an array an example in `apart.py`, rows of Parquet in
`parquet.py`. Files must stay as they are: each reading compares their size and time.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.feature_files.arrays import Arrays, Form, Runs, reading, said
from iceprobe.datasets.feature_files.keys import TARGETS, last, roles_of

# Examples of one shape end to end, or one after another.
Read = Tensor | list[Tensor]

PARTS = ("features", "prefix", "pooled", "coords")  # that are read row by row
# Widths of common encoders: where the middle axis of three has one and the last hasn't, D may be first.
_WIDTHS = (192, 256, 384, 512, 768, 1024, 1152, 1280, 1408, 1536, 1664, 2048, 2560, 4096)


@dataclass(frozen=True)
class Reading:
    """How arrays of tokens are read.

    Attributes:
        key: name of the tokens.
        axes: order of the axes behind the example's: ``nd``, ``dn``, ``hwd`` or ``dhw``.
        coords: order of two coordinates in the files, ``xy`` or ``yx``.
    """

    key: str | None = None
    axes: str | None = None
    coords: str = "xy"


@dataclass
class Examples(ABC):
    """n examples.

    Attributes:
        reading: as asked for.
        names: of the examples, in the files; ``None`` if they have none.
        lengths: ``(n,)`` int64, tokens of each; ``None`` if each is one vector.
        dim: D.
        dtype: name of the stored dtype, the widest of all files.
        grid: rows and columns of the tokens, where the files say them.
        forms: shape of one example of each of `PARTS` that is there, N left out: ``(P, D)`` of prefix
            tokens, ``(k,)`` of coordinates.
        columns: other arrays of a value an example: their names.
        assumed: a line for what is read as one of several things.
        states: size and time of each file, when it was opened.
    """

    reading: Reading
    names: list[str] | None = None
    lengths: np.ndarray | None = None
    dim: int = 0
    dtype: str = "float32"
    grid: tuple[int, ...] | None = None
    forms: dict[str, tuple[int, ...]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    states: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, part: str, rows: Sequence[int]) -> Read:
        """A part of some examples: ``(N_i, D)`` features, or ``(D,)`` vectors; ``(P, D)``; ``(N_i, k)``.

        Raises:
            IceprobeError: if a file has changed since it was opened, or can't be read.
        """

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """A value of each example."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Where an example is, in words."""

    def check_unchanged(self, places: Iterable[Path]) -> None:
        for place in places:
            if state_of(place) != self.states[place]:
                raise IceprobeError(
                    f"{str(place)!r} has changed since its tokens were read first: begin again with the "
                    "files as they are"
                )


def state_of(place: Path) -> tuple[int, int]:
    """Size and time of a file; of one that is gone, none."""
    try:
        found = os.stat(place)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def runs_of(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive rows as runs, from and to."""
    wanted = np.asarray(rows, np.int64)
    if not len(wanted):
        return []
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(wanted) != 1) + 1])
    lasts = np.concatenate([firsts[1:], [len(wanted)]]) - 1
    return [(int(wanted[a]), int(wanted[b]) + 1) for a, b in zip(firsts, lasts, strict=True)]


def laid_out(tensor: Tensor, axes: str | None) -> Tensor:
    """Tokens ``(…, N, D)`` of an array of these axes."""
    if axes == "dn":
        return tensor.transpose(-1, -2)
    if axes == "dhw":
        return tensor.flatten(-2).transpose(-1, -2)
    return tensor.flatten(-3, -2) if axes == "hwd" else tensor


def size_of(shape: tuple[int, ...], axes: str | None) -> tuple[int, int, tuple[int, int] | None]:
    """N, D and the grid of the axes of one example's tokens."""
    if axes in ("hwd", "dhw"):
        h, w, d = shape if axes == "hwd" else (*shape[1:], shape[0])
        return h * w, d, (h, w)
    n, d = shape if axes != "dn" else shape[::-1]
    return n, d, None


def axes_of(shape: tuple[int, ...], asked: str | None, what: str) -> str:
    """The order of an example's two or three axes; ``what`` names the array.

    Raises:
        IceprobeError: if it may be one or another, with what to say.
    """
    if asked is not None:
        if len(asked) != len(shape):
            raise IceprobeError(
                f"{what}: axes={asked} is of {len(asked)} axes an example, and it has {len(shape)}"
            )
        return asked
    if len(shape) == 3:
        raise IceprobeError(
            f"{what}: three axes an example: pass axes=hwd if the width D is the last of them, "
            "axes=dhw if it is the first"
        )
    if shape[0] in _WIDTHS and shape[1] not in _WIDTHS:
        raise IceprobeError(
            f"{what}: {shape[0]} may be the width D, or the number of tokens: pass axes=nd if a token "
            f"has {shape[1]} numbers, axes=dn if it has {shape[0]}"
        )
    return "nd"


class OneFile(Examples):
    """One file with all examples: the first axis counts them, or, with offsets, their tokens."""

    def __init__(self, arrays: Arrays, read_as: Reading):
        super().__init__(read_as)
        self.arrays, self.place = arrays, arrays.place
        self.states = {arrays.place: state_of(arrays.place)}
        self.keys = roles_of(arrays.place, arrays.forms, read_as.key)
        form = arrays.forms[self.keys["features"]]
        self.axes = "d"
        what = f"{arrays.place.name!r}, {self.keys['features']!r} {said(form)}"
        if not form.floating and "int" not in form.dtype:
            raise IceprobeError(f"{what}: tokens are floats: pass key=NAME of some")
        self.offsets = self._offsets(form, what)
        if len(form.shape) < 2 or not np.prod(form.shape):
            raise IceprobeError(f"{what}: give vectors (n, D) or tokens (n, N, D), not empty")
        self._n = form.shape[0] if self.offsets is None else len(self.offsets) - 1
        if self.offsets is not None:
            self.dim, self.lengths = form.shape[1], np.diff(self.offsets)
        elif len(form.shape) == 2:
            self.dim = form.shape[1]
        else:
            self.axes = axes_of(form.shape[1:], read_as.axes, what)
            count, self.dim, self.grid = size_of(form.shape[1:], self.axes)
            self.lengths = np.full(self._n, count)
        self._take_parts(what)
        stored = (self.keys[part] for part in ("features", "prefix") if part in self.keys)
        self.dtype = widest(arrays.forms[name].dtype for name in stored)

    def _offsets(self, form: Form, what: str) -> np.ndarray | None:
        """``(n + 1,)``, where each example's rows begin, and the end."""
        for role in ("offsets", "lengths"):
            if role not in self.keys:
                continue
            found = torch.as_tensor(self.arrays.whole(self.keys[role])).numpy().astype(np.int64)
            offsets = found if role == "offsets" else np.concatenate([[0], np.cumsum(found)])
            if len(form.shape) != 2 or offsets[0] != 0 or offsets[-1] != form.shape[0]:
                raise IceprobeError(
                    f"{what}: {self.keys[role]!r} says that examples have {offsets[-1]:,} tokens "
                    "together: give (ΣN, D) tokens, end to end"
                )
            if (np.diff(offsets) < 1).any():
                row = int(np.flatnonzero(np.diff(offsets) < 1)[0])
                raise IceprobeError(f"{what}: example {row} has no tokens: leave it out")
            return offsets
        return None

    def _take_parts(self, what: str) -> None:
        """The other arrays by their role and shape."""
        forms = self.arrays.forms
        tokens = forms[self.keys["features"]].shape[0]
        for part in PARTS[1:]:
            if part not in self.keys:
                continue
            shape = forms[self.keys[part]].shape
            ahead: tuple[int, ...] = (self._n,)
            if part == "coords":
                if self.lengths is None:
                    del self.keys[part]  # of the vectors' own tokens, which aren't here
                    continue
                ahead = (self._n, int(self.lengths[0])) if self.offsets is None else (tokens,)
            if shape[: len(ahead)] != ahead:
                raise IceprobeError(
                    f"{what}: {self.keys[part]!r} {shape} doesn't fit it: give one of each an "
                    + ("example" if part != "coords" else "token")
                )
            self.forms[part] = part_form(part, shape[len(ahead) :], self.dim, what)
        if "grid" in self.keys and self.lengths is not None:
            grid = torch.as_tensor(self.arrays.whole(self.keys["grid"])).flatten().tolist()
            self.grid = tuple(int(one) for one in grid)
        used = set(self.keys.values())
        for name, one in forms.items():
            if last(name) in TARGETS and one.shape[:1] != (self._n,) and name not in used:
                raise IceprobeError(
                    f"{what}: {name!r} {one.shape} doesn't fit {self._n:,} examples: give one target an "
                    "example (tokens end to end need an array offsets or lengths)"
                )
        self.columns = [
            name for name, form in forms.items()
            if name not in used and form.shape[:1] == (self._n,) and len(form.shape) < 3
        ]  # fmt: skip

    def __len__(self) -> int:
        return int(self._n)

    def read(self, part: str, rows: Sequence[int]) -> Read:
        self.check_unchanged([self.place])
        flat = self.offsets is not None and part in ("features", "coords")
        runs: Runs = runs_of(rows)
        asked = runs
        if flat:
            assert self.offsets is not None
            asked = [(int(self.offsets[a]), int(self.offsets[b])) for a, b in runs]
        with reading(self.place):
            pieces = [torch.as_tensor(one) for one in self.arrays.gather(self.keys[part], asked)]
        if flat:
            assert self.lengths is not None
            return [
                one
                for (a, b), piece in zip(runs, pieces, strict=True)
                for one in turned(piece, part, self.reading).split(self.lengths[a:b].tolist())
            ]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if part == "features":
            return laid_out(whole, self.axes)
        if part == "prefix" and whole.ndim == 2:
            return whole[:, None]
        return turned(whole, part, self.reading)

    def column(self, name: str) -> list[Any]:
        with reading(self.place):
            found = self.arrays.whole(name)
        if not isinstance(found, Tensor):
            return found
        values: list[Any] = (found.flatten() if found.shape[1:] == (1,) else found).tolist()
        return values

    def where(self, row: int) -> str:
        return f"example {row} of {self.place.name!r}"


def part_form(part: str, shape: tuple[int, ...], dim: int, what: str) -> tuple[int, ...]:
    """The shape of a part of one example, N left out; refused if it fits no tokens of width ``dim``."""
    if part == "prefix":
        shape = shape if len(shape) == 2 else (1, *shape)
        if shape[-1] != dim:
            raise IceprobeError(
                f"{what}: prefix tokens have the width {shape[-1]}, and tokens {dim}"
            )
    if len(shape) != (2 if part == "prefix" else 1):
        raise IceprobeError(f"{what}: {part} of shape {shape} an example can't be read")
    return shape


def turned(tensor: Tensor, part: str, read_as: Reading) -> Tensor:
    """Coordinates in the order of a grid's axes, down before right: x, y turned."""
    if part == "coords" and tensor.shape[-1] == 2 and read_as.coords == "xy":
        return tensor.flip(-1)
    return tensor


def widest(dtypes: Iterable[str]) -> str:
    """Name of the dtype of torch that holds floats of all of these; whole numbers are float32."""
    found = {"float64" if name in ("float96", "float128") else name for name in dtypes}
    kinds = [getattr(torch, name if "float" in name else "float32") for name in sorted(found)]
    return str(functools.reduce(torch.promote_types, kinds)).removeprefix("torch.")
