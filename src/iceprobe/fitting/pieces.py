"""A batch's tokens in padded pieces: examples of similar length side by side.

    batch of B examples ─▶ sorted by length, cut ─▶ pieces (b, N, D), mask (b, N) ─▶ … ─▶ (B, …)

A batch stays a random draw of examples, whatever their lengths; only what is computed of each example's
tokens is computed piece by piece, so that padding stays a small share of the work. What is computed of
all examples, batch norm and losses, sees the whole batch.

A batch of more tokens than may stay in memory is *streamed*: a piece is read when it is needed, and again
for the backward pass (activation checkpointing, Chen et al., arXiv:1604.06174). So the memory of a step is
that of a piece, and the step is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from iceprobe.tokens import TokenShape

Piece = tuple[Tensor, Tensor | None]  # tokens (b, N, D) and which of them are some, (b, N)
T = TypeVar("T")

PIECE_BYTES = 2**28  # of a piece's tokens in float32 at most, unless one example has more
LARGE = 2**24  # bytes of an example's tokens in float32 from which on batches come in pieces
OVERHEAD = 500  # rows that take as long as a piece does beside its own (benchmarks/lengths.py)


@dataclass(frozen=True)
class Cutting:
    """How batches are cut.

    Attributes:
        at_once: rows of a piece at most; an example that has more is alone.
        held: rows of a batch that stay in memory together; a batch of more is streamed.
    """

    at_once: int
    held: int

    @classmethod
    def reading(cls, shape: TokenShape) -> "Cutting | None":
        """For reading tokens once; ``None`` where batches come whole."""
        rows = rows_at_once(shape, shape.dim)
        return None if rows is None else cls(rows, rows)

    def pieces(
        self, lengths: np.ndarray, drawn: int | None = None
    ) -> tuple[list[np.ndarray], bool]:
        """The places in the batch of each piece's examples, and whether the batch is streamed.

        ``drawn``: the most rows of an example that stay once its piece was read; all by default.
        """
        order = np.argsort(-lengths, kind="stable")
        cuts = [order[start:stop] for start, stop in self._runs(lengths[order])]
        stay = lengths if drawn is None else np.minimum(lengths, drawn)
        rows = sum(int(stay[cut].max()) * len(cut) for cut in cuts)
        return cuts, rows > self.held

    def _runs(self, lengths: np.ndarray) -> list[tuple[int, int]]:
        """Runs of examples, longest first, that make pieces of the fewest rows, `OVERHEAD` a piece among them.

        Of the first i examples f(i) = min_j f(j) + (i − j) · lengths[j] + `OVERHEAD`.
        """
        count = len(lengths)
        least, begins = np.zeros(count + 1), np.zeros(count + 1, np.int64)
        for stop in range(1, count + 1):
            rows = lengths[:stop] * np.arange(stop, 0, -1)
            fits = rows <= self.at_once
            fits[-1] = True  # one example alone
            taken = np.where(fits, least[:stop] + rows, np.inf)
            begins[stop] = taken.argmin()
            least[stop] = taken[begins[stop]] + OVERHEAD
        runs, stop = list[tuple[int, int]](), count
        while stop:
            runs.append((int(begins[stop]), stop))
            stop = runs[-1][0]
        return runs[::-1]


def rows_at_once(shape: TokenShape, width: int, most: int | None = None) -> int | None:
    """Rows of a piece at most; ``None`` where batches come whole.

    They do where examples have as many tokens, and few of them, unless ``most`` limits the rows.
    """
    if most is None and not shape.ragged and 4 * width * shape.num_tokens <= LARGE:
        return None
    return max(most or PIECE_BYTES // (4 * width), shape.longest)


class Pieces:
    """The tokens of a batch.

    Args:
        cuts: places in the batch of each piece's examples, all of them together.
        pieces: one for each of ``cuts``; or, of a streamed batch, what reads the examples at some places.
        dtype: of the tokens.
        parts: rows of a piece for each of its examples, one after the other.
    """

    def __init__(
        self,
        cuts: Sequence[np.ndarray],
        pieces: list[Piece] | Callable[[np.ndarray], Piece],
        dtype: torch.dtype,
        parts: int = 1,
    ):
        self._cuts, self._pieces, self.dtype, self._parts = list(cuts), pieces, dtype, parts

    @classmethod
    def whole(cls, tokens: Tensor) -> "Pieces":
        """One piece without padding."""
        return cls([np.arange(len(tokens))], [(tokens, None)], tokens.dtype)

    @property
    def shares(self) -> list[float]:
        """Which share of the batch's examples each piece has."""
        return [len(cut) / sum(map(len, self._cuts)) for cut in self._cuts]

    def __iter__(self) -> Iterator[Piece]:
        read = self._pieces
        return iter(read) if isinstance(read, list) else map(read, self._cuts)

    @property
    def tensors(self) -> list[Tensor]:
        """All that is held."""
        held = self._pieces if isinstance(self._pieces, list) else []
        return [one for piece in held for one in piece if one is not None]

    def each(self, compute: Callable[[Tensor, Tensor | None], T]) -> list[T]:
        """What ``compute`` makes of each piece, in turn, differentiably.

        Of a streamed batch it runs once more in the backward pass, and must be a function of the tokens
        and of tensors that stay.
        """
        read = self._pieces
        if isinstance(read, list):
            return [compute(*piece) for piece in read]
        if not torch.is_grad_enabled():
            return [compute(*read(cut)) for cut in self._cuts]  # none is held beside the next

        def anew(cut: np.ndarray) -> T:
            return compute(*read(cut))

        return [
            checkpoint(anew, cut, use_reentrant=False, preserve_rng_state=False)
            for cut in self._cuts
        ]

    def joined(self, parts: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Parts of the pieces, ``(…, b, …)`` each → of the batch, ``(…, B, …)``, in its order."""
        examples = np.concatenate(self._cuts)[:, None]
        places = (examples * self._parts + np.arange(self._parts)).reshape(-1)
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
        if np.array_equal(places, np.arange(len(places))):
            return whole
        return whole.index_select(dim, torch.from_numpy(np.argsort(places)).to(whole.device))
