"""Examples whose tokens are an array each, in a file or a group of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import counted, shown
from iceprobe.datasets.feature_files.arrays import Arrays, Form, open_arrays, reading, said
from iceprobe.datasets.feature_files.examples import (
    PARTS,
    Examples,
    Read,
    Reading,
    axes_of,
    laid_out,
    part_form,
    size_of,
    state_of,
    turned,
    widest,
)
from iceprobe.datasets.feature_files.keys import ROLES, last, roles_of


class Apart(Examples):
    """An array an example, each in a file or a group of its own.

    Args:
        sources: name of the example → its file and the prefix of its arrays there (``"slide_1/"``).
        read_as: as asked for.
    """

    def __init__(self, sources: Mapping[str, tuple[Path, str]], read_as: Reading):
        super().__init__(read_as)
        self.names, self.sources = list(sources), list(sources.values())
        self.keys: list[dict[str, str]] = []
        self.axes: list[str] = []
        self.squeezed: list[bool] = []
        self._opened: dict[Path, Arrays] = {}
        lengths, vectors, dtypes = [], 0, set[str]()
        first: Mapping[str, Form] = {}
        for row, (place, within) in enumerate(self.sources):
            if place not in self._opened:
                self.states[place] = state_of(place)
                self._opened[place] = open_arrays(place)
            opened = self._opened[place].forms
            forms = {name: form for name, form in opened.items() if name.startswith(within)}
            keys = roles_of(place, forms, None if read_as.key is None else within + read_as.key)
            form = forms[keys["features"]]
            what = f"{place.name!r}, {keys['features']!r} {said(form)}"
            length, dim, grid = self._take(form, what)
            vectors += len(form.shape) == 1
            if not form.floating and "int" not in form.dtype:
                raise IceprobeError(f"{what}: tokens are floats: pass key=NAME of some")
            if not length or not dim:
                raise IceprobeError(f"{what}: it has no tokens: leave {shown(self.names[row])} out")
            if row and (dim, grid is None) != (self.dim, self.grid is None):
                raise IceprobeError(
                    f"{what}: D is {dim}, and {self.dim} of {self.where(0)}: give tokens of one encoder, "
                    "(N, D) each"
                )
            self.dim, self.grid = dim, grid if not row or grid == self.grid else ()
            lengths.append(length)
            dtypes |= {forms[keys[part]].dtype for part in ("features", "prefix") if part in keys}
            self.keys.append(keys)
            self._take_parts(forms, keys, length, what, row)
            first = first or forms
        self.grid = self.grid or None
        self._decide(np.array(lengths, np.int64), vectors)
        self.dtype = widest(dtypes)
        self.columns = [
            name.removeprefix(self.sources[0][1])
            for name, form in first.items()
            if form.shape in ((), (1,)) and not any(last(name) in one for one in ROLES.values())
        ]

    def _take(self, form: Form, what: str) -> tuple[int, int, tuple[int, int] | None]:
        """N, D and the grid of one example; one axis of 1 in front is left out."""
        shape = form.shape
        squeezed = len(shape) == 3 and shape[0] == 1 and self.reading.axes not in ("hwd", "dhw")
        shape = shape[1:] if squeezed else shape
        if len(shape) not in (1, 2, 3):
            raise IceprobeError(f"{what}: give tokens of one example, (N, D) or (1, N, D)")
        if len(shape) == 1:
            axes, size = "d", (1, shape[0], None)
        else:
            asked = self.reading.axes
            axes = axes_of(shape, asked, what) if len(shape) == 3 or asked else "nd"
            size = size_of(shape, axes)  # type: ignore[assignment]
        self.axes.append(axes)
        self.squeezed.append(squeezed)
        return size

    def _take_parts(
        self, forms: Mapping[str, Form], keys: dict[str, str], length: int, what: str, row: int
    ) -> None:
        """Shapes of the other parts, the same in each file."""
        here = {}
        for part in PARTS[1:]:
            if part not in keys or self.axes[row] == "d":
                continue
            shape = forms[keys[part]].shape
            shape = shape[1:] if self._in_front(part, shape, row) else shape
            if part == "coords" and shape[:1] != (length,):
                raise IceprobeError(
                    f"{what}: {keys[part]!r} {shape} are not of its {counted(length, 'token')}: write both "
                    "again, together"
                )
            here[part] = part_form(part, shape[1:] if part == "coords" else shape, self.dim, what)
        if row and here != self.forms:
            raise IceprobeError(
                f"{what}: beside the tokens it has {here or 'nothing'}, and {self.forms or 'nothing'} in "
                f"{self.where(0)}: write all alike"
            )
        self.forms = here

    def _in_front(self, part: str, shape: tuple[int, ...], row: int) -> bool:
        """Whether an array has an axis of 1 in front, as a batch of one."""
        if part == "features":
            return self.squeezed[row]
        return shape[:1] == (1,) and len(shape) == (2 if part == "pooled" else 3)

    def _decide(self, lengths: np.ndarray, vectors: int) -> None:
        """Whether examples are vectors or sets of tokens."""
        if vectors == len(lengths) or (lengths == 1).all():
            if vectors < len(lengths):
                self.assumed.append(
                    f"each of {len(lengths):,} files holds one token, which is read as one vector an example"
                )
            self.forms.pop("coords", None)
            return
        if vectors:
            row = self.axes.index("d")
            raise IceprobeError(
                f"{self.where(row)} is one vector, and others are several tokens: give (N, D) each"
            )
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, part: str, rows: Sequence[int]) -> Read:
        self.check_unchanged({self.sources[row][0] for row in rows})
        found = []
        for row in rows:
            place, _ = self.sources[row]
            with reading(place):
                one = torch.as_tensor(self._opened[place].whole(self.keys[row][part]))
            if self._in_front(part, tuple(one.shape), row):
                one = one[0]
            if part == "features":
                one = laid_out(one, self.axes[row])
                one = one.flatten() if self.lengths is None else one
            elif part == "prefix" and one.ndim == 1:
                one = one[None]
            found.append(turned(one, part, self.reading))
        return found

    def column(self, name: str) -> list[Any]:
        values = []
        for place, within in self.sources:
            with reading(place):
                found = self._opened[place].whole(within + name)
            values.append(found.tolist()[0] if isinstance(found, Tensor) else found[0])
        return values

    def where(self, row: int) -> str:
        place, within = self.sources[row]
        return f"{within.rstrip('/')!r} in {place.name!r}" if within else repr(place.name)
