"""A split of a feature store: pooled vectors as a whole, patch tokens row by row."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.store.buffers import fresh
from iceprobe.store.layout import (
    COLUMN,
    Layout,
    image_bytes,
    is_ragged,
    layout_read,
    patch_bytes,
    patch_tensors,
)
from iceprobe.store.quantisation import dequantise
from iceprobe.store.shards import LENGTH
from iceprobe.tokens import (
    JoinedShape,
    JoinedTokens,
    Tokens,
    TokenShape,
    at_layer,
    without_layer,
)

LOAD_BYTES = 2**22  # per read into a buffer, through a temporary block
# Rows of a tensor in memory; where examples differ in length, a tensor an example.
Held = Tensor | list[Tensor]


class StoredSplit:
    """The stored tokens of one split; rows count the images that could be read.

    Of several layers side by side, tensors are named by their layer, ``patches@11``; without one they
    are the deepest layer's.

    Attributes:
        labels: the targets as the task has them, ``(n,)`` or ``(n, K)`` (`tasks/targets.py`).
        columns: further ones by name, ``(n,)`` int64 codes, −1 where one isn't known.
        index: ``(n,)`` int64, the image's index in the data set's split.
        boxes: ``(n, 4)`` float32 as x0, y0, x1, y1 in pixels of the crop, or ``None``.
        lengths: ``(n,)`` int64, patch tokens of each example where examples differ, or ``None``.
        shape: sizes of the tokens of one image.
        dtype: of the patch tokens returned: as stored, float32 for int8 codes.
        has_patches, has_masks, has_covers, has_depths: whether they are stored.
        resident: ``(n,)`` bool, whether an image's patch tokens are in memory.
        bytes_held: of what :meth:`hold` keeps.
        views: the K augmented views of the same images, as one split of K·n rows: row ``v·n + i``
            is view v of image i; or ``None``.
        live: whether its tokens are made when they are read (`LiveSplit`).
        layout: dtype and shape of each stored tensor of one image.
        tensor: name of a stored tensor → all of it.
        gather: reads rows ``(b,)`` of a named tensor into another, ``(b, …)``. Where examples differ in
            their tokens, row i of the other has room for the longest of them, and is filled from its
            beginning.
        in_memory: whether all of it is.
    """

    live = False

    def __init__(
        self,
        tensors: Callable[[str], Tensor],
        gather: Callable[[str, np.ndarray, Tensor], None],
        *,
        shape: TokenShape,
        layout: Layout,
        resident: np.ndarray,
        in_memory: bool,
        views: "StoredSplit | None" = None,
    ):
        self.tensor, self.gather, self.layout = tensors, gather, layout
        self.shape, self.resident, self.bytes_held = shape, resident, 0
        self.in_memory, self.views = in_memory, views
        self._vectors: dict[str, Tensor] = {}
        stored = {without_layer(name): form for name, form in layout.items()}
        self.has_patches, self.has_masks = "patches" in stored, "mask" in stored
        self.has_depths, self.has_covers = "depth" in stored, "cover" in stored
        self._coded = "scales" in stored
        self.dtype = torch.float32 if self._coded else stored["prefix"][0]
        self.labels: np.ndarray = tensors("label").numpy()
        self.index: np.ndarray = tensors("index").numpy()
        self.columns: dict[str, np.ndarray] = {
            name.removeprefix(COLUMN): tensors(name).numpy()
            for name in layout
            if name.startswith(COLUMN)
        }
        self.boxes: np.ndarray | None = tensors("box").numpy() if "box" in layout else None
        length = self._key(LENGTH)
        self.lengths: np.ndarray | None = tensors(length).numpy() if length in layout else None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """:attr:`labels`."""
        return self.labels

    @cached_property
    def prefix(self) -> Tensor:
        """``(n, P, D)`` in the stored dtype (float16 beside int8 patches)."""
        return self.tensor(self._key("prefix"))

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the patch tokens before they were rounded, ``(n, D)`` float32."""
        return self.tensor(self._key("mean"))

    def vector(self, name: str, layer: int | None = None) -> Tensor:
        """A vector ``(n, D')``: ``class``, ``mean`` or one of the model's own (`Tokens.vectors`).

        All but the class token are float32.
        """
        key = self._key("prefix" if name == "class" else name, layer)
        if key not in self._vectors:
            whole = self.tensor(key)
            self._vectors[key] = whole[:, 0] if name == "class" else whole
        return self._vectors[key]

    def _key(self, tensor: str, layer: int | None = None) -> str:
        """What a tensor is called here, of a layer or of the deepest."""
        if tensor in self.layout or not isinstance(self.shape, JoinedShape):
            return tensor
        return at_layer(tensor, max(self.shape.layers) if layer is None else layer)

    @property
    def class_token(self) -> Tensor | None:
        """``(n, D)`` in the stored dtype, or ``None`` if the backbone has none."""
        return self.prefix[:, 0] if self.shape.has_class else None

    @property
    def held(self) -> bool:
        """Whether the patch tokens of all images are in memory."""
        return bool(self.resident.all())

    @property
    def patch_bytes(self) -> int:
        """Bytes of all its patch tokens as stored, without augmented views."""
        if self.lengths is None:
            return len(self) * patch_bytes(self.layout)
        return int(self._row_bytes(patch_tensors(self.layout)).sum())

    def relative_sizes(self, rows: np.ndarray) -> np.ndarray | None:
        """Bytes of the patch tokens of ``rows``, the mean of all being 1; ``None`` if all are alike."""
        if self.lengths is None:
            return None
        return self.lengths[rows] / max(1.0, self.lengths.mean())

    def _row_bytes(self, names: Collection[str]) -> np.ndarray:
        """Bytes of each row in the named tensors, ``(n,)``."""
        none = image_bytes(self.layout, names, 0)
        a_token = image_bytes(self.layout, names, 1) - none
        lengths = np.zeros(len(self), np.int64) if self.lengths is None else self.lengths
        return none + a_token * lengths

    def patches(
        self,
        rows: Tensor | np.ndarray | Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """Patch tokens of ``rows (b,)``, in their order: ``(b, N, D)``.

        Where examples differ in their tokens, N is that of the longest of these, rows beyond an example's
        length are zeros, and `token_mask` says which.

        Args:
            rows: of this split.
            device: of the result. Int8 codes are copied there, then dequantised.
            dtype: a floating dtype, by default the split's.
            layer: of several.

        Raises:
            IceprobeError: if the store has none, or a shard can't be read.
            IndexError: if a row is not in ``[0, n)``.
        """
        if not self.has_patches:
            raise IceprobeError(
                "this store has no patch tokens (patches=false): extract again with patches"
            )
        dtype = dtype or self.dtype
        pinned = torch.device(device).type == "cuda"
        stored = self.rows(self._key("patches", layer), rows, pinned)
        stored = stored.to(device, non_blocking=True)
        if not self._coded:
            return stored.to(dtype)
        scales = self.rows(self._key("scales", layer), rows, pinned)
        scales = scales.to(device, non_blocking=True)
        return dequantise(stored, scales, dtype)

    def token_mask(
        self, rows: Tensor | np.ndarray | Sequence[int], device: torch.device | str = "cpu"
    ) -> Tensor | None:
        """Which rows of `patches` of the same ``rows (b,)`` are tokens, ``(b, N)`` bool.

        ``None`` where all examples have N.
        """
        if self.lengths is None:
            return None
        return mask_of(self.lengths[np.asarray(rows, np.int64)]).to(device)

    def tokens(
        self,
        rows: Tensor | np.ndarray | Sequence[int],
        device: torch.device | str = "cpu",
        layers: Collection[int] | None = None,
    ) -> Tokens:
        """All tokens of ``rows``, in float32; of several layers as `JoinedTokens`.

        ``layers`` are by default those whose patches are stored.
        """
        if isinstance(self.shape, JoinedShape):
            there = (one for one in self.shape.layers if at_layer("patches", one) in self.layout)
            named = there if layers is None else layers
            found = {
                one: self._tokens_of(rows, device, self.shape.layers[one], one) for one in named
            }
            return JoinedTokens.of(found)
        return self._tokens_of(rows, device, self.shape, None)

    def _tokens_of(
        self,
        rows: Tensor | np.ndarray | Sequence[int],
        device: torch.device | str,
        shape: TokenShape,
        layer: int | None,
    ) -> Tokens:
        small = {
            name: self.rows(self._key(name, layer), rows).to(device).float()
            for name in ("prefix", *shape.vectors)
        }
        patches = self.patches(rows, device, torch.float32, layer)
        where = self._key("coords", layer)
        coords = self.rows(where, rows).to(device) if where in self.layout else None
        mask, prefix = self.token_mask(rows, device), small.pop("prefix")
        return Tokens(patches, prefix, shape.grid, shape.has_class, small, mask, coords)

    def masks(self, rows: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Masks of ``rows (b,)`` on the crop: ``(b, S, S)`` uint8, 1 on the object.

        All 0 if an image has no mask, or its object is outside the crop.

        Raises:
            IceprobeError: if the data set has none, or a shard can't be read.
            IndexError: if a row is not in ``[0, n)``.
        """
        if not self.has_masks:
            raise IceprobeError("this store has no masks: its data set has none")
        return self.rows("mask", rows)

    def covers(self, rows: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Which part of each patch of ``rows (b,)`` lies on the object: ``(b, N)`` float32, padded as `patches`.

        Images of their own shape have them in place of masks; otherwise as :meth:`masks`.
        """
        if not self.has_covers:
            raise IceprobeError("this store has no covers: it has masks, or its data set has none")
        return self.rows("cover", rows)

    @cached_property
    def on_grids(self) -> bool:
        """Whether the patch tokens of an image lie in rows and columns: all in the same, or each in its own."""
        grid = self.shape.grid
        if grid is None and self.has_patches and self.shape.coords == 2 and len(self):
            found = self.tokens(np.arange(1)).grids
            grid = found[0] if found else None
        return self.has_patches and grid is not None and len(grid) == 2

    def depths(self, rows: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Numbers of the pixels of ``rows (b,)`` on the crop: ``(b, S, S)`` float32, NaN if unknown.

        Raises:
            IceprobeError: if the data set has none, or a shard can't be read.
            IndexError: if a row is not in ``[0, n)``.
        """
        if not self.has_depths:
            raise IceprobeError("this store has no depth maps: its data set has none")
        return self.rows("depth", rows)

    def rows(
        self, name: str, rows: Tensor | np.ndarray | Sequence[int], pinned: bool = False
    ) -> Tensor:
        """``rows (b,)`` of one tensor of the shards, as stored; held rows come from memory.

        Of a tensor with a row a token, where examples differ in these: ``(b, N, …)`` as `patches`.

        Args:
            name: of the tensor: ``"patches"``, ``"mean"``, …
            rows: of this split.
            pinned: whether into pinned memory.

        Raises:
            IceprobeError: if a shard can't be read.
            IndexError: if a row is not in ``[0, n)``.
        """
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a split of {len(self)}")
        name = self._key(name)
        dtype, shape = self.layout[name]
        if not is_ragged(self.layout[name]):
            out = fresh(len(wanted), shape, dtype, pinned)
            self.gather(name, wanted, out)
            return out
        assert self.lengths is not None
        lengths = self.lengths[wanted]
        out = fresh(len(wanted), (int(lengths.max(initial=0)), *shape[1:]), dtype, pinned)
        self.gather(name, wanted, out)
        for row, length in zip(out, lengths.tolist(), strict=True):
            row[length:] = 0
        return out

    def take(self, rows: np.ndarray) -> "StoredSplit":
        """The same split with only ``rows``, in their order, in all views."""
        rows = np.asarray(rows, np.int64)
        picked = torch.from_numpy(rows)
        views = self.views
        if views is not None:
            first_rows = np.arange(0, len(views), len(self))
            views = views.take((first_rows[:, None] + rows).reshape(-1))
        return StoredSplit(
            lambda name: self.tensor(name)[picked],
            lambda name, wanted, out: self.gather(name, rows[wanted], out),
            shape=self.shape,
            layout=self.layout,
            resident=self.resident[rows],
            in_memory=self.in_memory,
            views=views,
        )

    def hold(self, memory_bytes: int, names: Sequence[str] = ("patches",)) -> "StoredSplit":
        """This split, not its views, with the first rows of some tensors in memory, as many as fit.

        Args:
            memory_bytes: the limit; the first of ``names`` is held first.
            names: of tensors; ``"patches"`` are all layers', with their scales.
        """
        if self.in_memory:
            return self
        split = self
        for name in names:
            left = memory_bytes - (split.bytes_held - self.bytes_held)
            parts = self._with_scales(name)
            ends = np.cumsum(self._row_bytes(parts))
            count = int(np.searchsorted(ends, left, "right")) if parts and ends[-1:].any() else 0
            first = np.arange(count)
            if not count or (name == "patches" and self.resident[:count].all()):
                continue
            slot = np.full(len(self), -1)
            slot[:count] = first
            split = split.over({part: split._taken(part, first) for part in parts}, slot)
            split.bytes_held += int(ends[count - 1])
            if name == "patches":
                split.resident = self.resident | (slot >= 0)
        return split

    def _taken(self, name: str, rows: np.ndarray) -> Held:
        """``rows`` of a tensor, without padding."""
        if not is_ragged(self.layout[name]):
            return self.rows(name, rows)
        return [self.rows(name, row[None])[0] for row in rows]

    def _with_scales(self, name: str) -> list[str]:
        """The stored tensors that are read together."""
        if name == "patches":
            return patch_tensors(self.layout)
        return [name] if name in self.layout else []

    def reading(self, names: Collection[str]) -> "StoredSplit":
        """This split without the patch tokens of layers that ``names`` of tensors aren't of."""
        if not isinstance(self.shape, JoinedShape):
            return self
        split = copy.copy(self)
        split.layout = layout_read(self.layout, names)
        if self.views is not None:
            split.views = self.views.reading(names)
        return split

    def over(self, tensors: Mapping[str, Held], slot: np.ndarray) -> "StoredSplit":
        """This split, reading rows from ``tensors`` if they are there.

        Args:
            tensors: some rows of tensors of the shards, by name.
            slot: ``(n,)`` each row's index in ``tensors``, or −1; looked up at every read.
        """
        elsewhere = self.gather

        def gather(name: str, rows: np.ndarray, out: Tensor) -> None:
            slots = slot[rows]
            here = slots >= 0
            if name not in tensors or not here.any():
                elsewhere(name, rows, out)
            elif here.all():
                put_rows(tensors[name], slots, out)
            else:
                there, held = np.flatnonzero(~here), np.flatnonzero(here)
                for part, read in ((there, elsewhere), (held, None)):
                    room = fresh(len(part), tuple(out.shape[1:]), out.dtype)
                    if read is None:
                        put_rows(tensors[name], slots[part], room)
                    else:
                        read(name, rows[part], room)
                    out[torch.from_numpy(part)] = room

        split = copy.copy(self)
        split.gather = gather
        return split

    def buffer(self, rows: int) -> "Buffer":
        """Room in memory for the patch tokens of ``rows`` images."""
        layout = {name: self.layout[name] for name in self._with_scales("patches")}
        room: dict[str, Held] = {
            name: [torch.empty(0)] * len(self)
            if is_ragged((dtype, shape))
            else fresh(rows, shape, dtype)
            for name, (dtype, shape) in layout.items()
        }
        return Buffer(self, room, len(self) if self.lengths is not None else rows)


class Buffer:
    """Patch tokens of the images that are loaded, until they are forgotten.

    Attributes:
        split: the same split, reading loaded images from memory.
    """

    def __init__(self, source: StoredSplit, room: dict[str, Held], rows: int):
        self._source, self._room, self._rows = source, room, rows
        self._slot = np.full(len(source), -1)
        self._free = np.arange(rows)
        self.split = source.over(room, self._slot)

    def load(self, rows: np.ndarray) -> None:
        """Read ``rows (k,)``, which aren't loaded yet; there must be room for them."""
        slots, self._free = self._free[: len(rows)], self._free[len(rows) :]
        at_once = max(1, LOAD_BYTES * len(self._source) // max(1, self._source.patch_bytes))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            for name, room in self._room.items():
                if isinstance(room, Tensor):
                    room[torch.from_numpy(slots[part])] = self._source.rows(name, rows[part])
                else:
                    for slot, row in zip(slots[part].tolist(), rows[part], strict=True):
                        room[slot] = self._source.rows(name, row[None])[0]
        self._slot[rows] = slots

    def forget(self, rows: np.ndarray) -> None:
        """Free the slots of those of ``rows`` that are loaded."""
        slots = self._slot[rows]
        self._slot[rows] = -1
        slots = slots[slots >= 0]
        self._free = np.concatenate([self._free, slots])
        self._empty(slots)

    def _empty(self, slots: np.ndarray) -> None:
        """Let go of the memory of examples that have a tensor each."""
        for room in self._room.values():
            for slot in slots.tolist() if isinstance(room, list) else ():
                room[slot] = torch.empty(0)

    def clear(self) -> None:
        self._empty(self._slot[self._slot >= 0])
        self._slot.fill(-1)
        self._free = np.arange(self._rows)


def mask_of(lengths: np.ndarray) -> Tensor:
    """Which of the rows of padded examples are tokens: ``(b,)`` → ``(b, N)`` bool, N the largest."""
    return torch.arange(int(lengths.max(initial=0))) < torch.from_numpy(lengths)[:, None]


def put_rows(held: Held, rows: np.ndarray, out: Tensor) -> None:
    """Copy ``rows (b,)`` into ``out (b, …)``; of a tensor an example, into the beginning of each row."""
    if isinstance(held, Tensor):
        torch.index_select(held, 0, torch.from_numpy(rows), out=out)
    else:
        for place, row in zip(out, rows.tolist(), strict=True):
            place[: len(held[row])] = held[row]


def memory_split(
    tensors: Mapping[str, Held], shape: TokenShape, views: StoredSplit | None = None
) -> StoredSplit:
    """A split whose tensors (named as in a shard) are all in memory."""

    def gather(name: str, rows: np.ndarray, out: Tensor) -> None:
        put_rows(tensors[name], rows, out)

    def whole(name: str) -> Tensor:
        held = tensors[name]
        return held if isinstance(held, Tensor) else torch.cat(held)

    def form(held: Held) -> tuple[torch.dtype, tuple[int, ...]]:
        if isinstance(held, Tensor):
            return held.dtype, tuple(held.shape[1:])
        return held[0].dtype, (-1, *held[0].shape[1:])

    return StoredSplit(
        whole,
        gather,
        shape=shape,
        layout={name: form(held) for name, held in tensors.items()},
        resident=np.full(len(tensors["label"]), "patches" in tensors),
        in_memory=True,
        views=views,
    )
