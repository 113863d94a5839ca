"""What measures read of a store: one vector an example, or some patch tokens of each, block by block.

All tokens are read in :func:`read_block`. Which examples and which tokens are taken depends on the seed and
on the split alone, so two stores of the same examples are read at the same places.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.measures.cka import Hsic, hsic
from iceprobe.measures.moments import Floats, Moments
from iceprobe.measures.registry import Undefined
from iceprobe.measures.spectrum import eigenvalues
from iceprobe.probes.inputs import Input, input_of
from iceprobe.probes.registry import MODEL_VECTORS, VECTORS, no_vector
from iceprobe.settings import Measuring
from iceprobe.store import Store, StoredSplit
from iceprobe.store.format import TRAIN, listed_as

PATCHES = "patches"
_CELLS = 2**25  # numbers of patch tokens read at once: 64 MB in float16


class Vectors:
    """The vectors of one store that measures are of; what several of them need is computed once.

    Attributes:
        store: the store.
        read: which vectors.
        rows: examples that are read, ascending.
        dim: D.
    """

    def __init__(self, store: Store, call: Measuring):
        self.store, self.read = store, input_read(store, call.input)
        self.split = _split(store, call.split)
        self.rows = _chosen(len(self.split), call.limit, call.run_seed)
        self.dim = self.read.width(store.shape)
        self._name, self._batch, self._pairs = call.split, call.batch_size, call.pairs
        if self.read.of_tokens:
            cells = store.shape.longest * self.dim
            self._batch = min(self._batch, max(1, _CELLS // cells))
        self._tokens, self._seed = call.tokens_per_example, call.run_seed
        if len(self.rows) < 2:
            raise IceprobeError(
                f"{said(store)} has {len(self.rows)} examples of {call.split!r} to measure: take at least 2"
            )

    def blocks(self) -> Iterator[Floats]:
        """All vectors, ``(b, D)`` each."""
        rng = np.random.default_rng(self._seed)
        for start in range(0, len(self.rows), self._batch):
            rows = self.rows[start : start + self._batch]
            yield read_block(self.split, rows, self.read, self._tokens, rng)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Patch tokens of each example that is read."""
        if self.split.lengths is None:
            return np.full(len(self.rows), self.store.num_tokens)
        return np.asarray(self.split.lengths[self.rows])

    @property
    def views_each(self) -> int:
        """Views of an example that measures of views read: the augmented ones, or the evaluation view and
        the only augmented one."""
        augmented = 0 if self.split.views is None else len(self.split.views) // len(self.split)
        return augmented if augmented > 1 else 1 + augmented

    def views(self) -> Iterator[Floats]:
        """Views of each example, ``(b, q, D)``.

        Raises:
            Undefined: of patch tokens, which two views don't have at the same places, or if the split has no
                augmented views.
        """
        if self.read.of_tokens:
            raise Undefined(
                "views have their patch tokens at other places: take one vector an example"
            )
        augmented, n = self.split.views, len(self.split)
        if augmented is None:
            where = "" if self._name == TRAIN else f", which {TRAIN!r} alone has (--split {TRAIN})"
            raise Undefined(f"it needs stored views{where}: iceprobe extract --views 4 writes them")
        several = len(augmented) // n
        rng = np.random.default_rng(self._seed)
        for start in range(0, len(self.rows), self._batch):
            rows = self.rows[start : start + self._batch]
            found = [
                read_block(augmented, view * n + rows, self.read, 0, rng) for view in range(several)
            ]
            if several == 1:
                found.append(read_block(self.split, rows, self.read, 0, rng))
            yield np.stack(found, 1)

    def some(self) -> Floats:
        """All vectors, or a seeded choice with at most so many pairs as are allowed: ``(m, D)``."""
        most = int((1 + np.sqrt(1 + 8 * self._pairs)) / 2)
        chosen = _chosen(self.count, most, self._seed)
        kept, seen = [], 0
        for block in self.blocks():
            here = chosen[(chosen >= seen) & (chosen < seen + len(block))]
            kept.append(block[here - seen])
            seen += len(block)
        return np.concatenate(kept)

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return self.moments.count

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.blocks(), self.dim)

    @cached_property
    def spectrum(self) -> Floats:
        """Eigenvalues of the covariance, the largest first.

        Raises:
            Undefined: if all vectors are the same.
        """
        self.check_spread()
        return eigenvalues(self.moments.covariance)

    def check_spread(self) -> None:
        """Raise :class:`Undefined` if all vectors are the same."""
        if self.moments.constant.all():
            raise Undefined("all vectors are the same")

    @cached_property
    def own_hsic(self) -> Hsic:
        """HSIC of the vectors with themselves."""
        self.check_spread()
        return hsic((block, block) for block in self.blocks())

    def differ(self, other: "Vectors") -> str:
        """Why the two aren't vectors of the same examples, in a clause; ``""`` if they are."""
        listed = listed_as(self._name)
        mine, theirs = (one.store.manifest.splits[listed].content for one in (self, other))
        if mine["listing"] != theirs["listing"]:
            return f"their examples of {self._name!r} are others"
        if not np.array_equal(self.split.index[self.rows], other.split.index[other.rows]):
            return (
                f"other rows of {self._name!r} are stored (some were skipped, or a limit differs)"
            )
        if self.read.of_tokens and not np.array_equal(self.lengths, other.lengths):
            return "their examples have other numbers of tokens"
        return ""


def read_block(
    split: StoredSplit,
    rows: NDArray[np.int64],
    read: Input,
    tokens: int,
    rng: np.random.Generator,
) -> Floats:
    """Vectors of ``rows (b,)`` in float64: ``(b, D)``, or ``tokens`` patch tokens of each, one example after another.

    The only place where tokens are read. The draws are one after another in the order of rows, whatever the
    sizes of blocks.
    """
    if not read.of_tokens:
        parts = [_vector(split, rows, name) for name in read.names]
        return np.concatenate(parts, 1)
    found = split.patches(rows)
    order = rng.random((len(rows), split.shape.longest))[:, : found.shape[1]]
    mask = split.token_mask(rows)
    there = np.ones(order.shape, bool) if mask is None else mask.numpy()
    order[~there] = np.inf  # padding comes last
    drawn = np.sort(order.argsort(1)[:, :tokens])
    real = np.take_along_axis(there, drawn, 1)
    chosen = found.take_along_dim(torch.from_numpy(drawn)[..., None], 1)
    return np.asarray(chosen.double().numpy()[real])


def _vector(split: StoredSplit, rows: NDArray[np.int64], name: str) -> Floats:
    if name == "class":
        return np.asarray(split.rows("prefix", rows)[:, 0].double().numpy())
    return np.asarray(split.rows(name, rows).double().numpy())


def input_read(store: Store, asked: str | None) -> Input:
    """What is read of a store: what is asked for, or what linear probes read by default.

    Raises:
        IceprobeError: if it has no such vectors, or is of several layers.
    """
    shape = store.shape
    if store.layers:
        raise IceprobeError(f"{said(store)} is of several layers: measure the store of each")
    if asked is None:
        return input_of(shape, "linear")
    read = Input.parse(asked)
    for name in read.names:
        if read.layers or name not in (*VECTORS, PATCHES):
            raise IceprobeError(unknown("--input", asked, (*VECTORS, PATCHES, "class+mean")))
        if name == PATCHES and not (store.has_patches and shape.num_tokens):
            raise IceprobeError(
                f"{said(store)} has no patch tokens: take --input mean, or extract with patches"
            )
        if name == "class" and not shape.has_class:
            raise IceprobeError(f"{said(store)} has no class token: take --input mean")
        if name in MODEL_VECTORS and name not in shape.vectors:
            raise IceprobeError(f"{said(store)}: {no_vector(name, shape.vectors)}")
    return read


def said(store: Store) -> str:
    """What a store is called in errors."""
    return f"store {store.path or store.identity[:12]}"


def _split(store: Store, name: str) -> StoredSplit:
    split = store[name]
    if split.live:
        raise IceprobeError(
            f"{said(store)} is live, its tokens aren't stored: write them with iceprobe.extract(…)"
        )
    return split


def _chosen(count: int, most: int | None, seed: int) -> NDArray[np.int64]:
    """All of ``count``, or a seeded choice of ``most`` of them, ascending."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
