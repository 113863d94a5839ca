"""Batches of tokens for a crowd of members: each batch is gathered once, ahead of its use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iceprobe.probes.registry import MODEL_VECTORS
from iceprobe.store.reader import StoredSplit


@dataclass(frozen=True)
class Batch:
    """Inputs by name (``patches (B, N, D)``, ``class (B, D)``, …) and labels ``(B,)``."""

    inputs: dict[str, Tensor]
    labels: Tensor


class Feed:
    """Rows of one stored split as batches on the device.

    Where an image is read in K augmented views, a *position* p below K·n is view p // n of the
    feed's row p % n.

    Args:
        split: where labels are, and tokens unless ``views`` are given.
        rows: ``(n,)`` rows of the split that this feed covers, in the split's order.
        inputs: names of the inputs that some member reads; nothing else is gathered.
        device: of the tensors handed out.
        dtype: of tokens; vectors (class token, mean) are small and stay float32 or wider.
        views: the split's augmented views, to read tokens there (`StoredSplit.views`).
    """

    def __init__(
        self,
        split: StoredSplit,
        rows: np.ndarray,
        inputs: set[str],
        device: torch.device,
        dtype: torch.dtype,
        views: StoredSplit | None = None,
    ):
        self.split, self.rows, self.inputs = split, np.asarray(rows), inputs
        self.views, self.source = views, split if views is None else views
        self.copies = len(self.source) // len(split)  # K
        self.device, self.dtype = device, dtype
        self.labels = torch.from_numpy(np.asarray(split.labels)[self.rows]).to(device)

    def __len__(self) -> int:
        return len(self.rows)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; their order depends on ``(seed, epoch)`` alone."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        order = order + len(self) * self._shown(seed, epoch)[order]
        yield from self._ahead(split_batches(order, batch_size))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every row, in every view that there is of it."""
        yield from self._ahead(split_batches(np.arange(self.copies * len(self)), batch_size))

    def _shown(self, seed: int, epoch: int) -> np.ndarray:
        """Which view each row shows in an epoch, ``(n,)``.

        They take turns from one drawn at random, so a row shows each view once in K epochs.
        """
        first = np.random.default_rng((seed, 0, 1)).integers(self.copies, size=len(self))
        return (first + epoch) % self.copies

    def _ahead(self, batches: list[np.ndarray]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self._gather, batches[0])
            for positions in [*batches[1:], None]:
                batch = following.result()
                if positions is not None:
                    following = reader.submit(self._gather, positions)
                yield batch

    def _gather(self, positions: np.ndarray) -> Batch:
        view, place = np.divmod(positions, len(self))
        rows = view * len(self.split) + self.rows[place]  # of the source
        return Batch(
            {name: self._input(name, rows) for name in self.inputs},
            self.labels[torch.from_numpy(place).to(self.device)],
        )

    def _input(self, name: str, rows: np.ndarray) -> Tensor:
        split, index = self.source, torch.from_numpy(rows)
        match name:
            case "patches":
                return split.patches(rows, self.device, self.dtype)
            case "mean":
                vector = split.mean[index]
            case "class":
                vector = split.prefix[index, 0]
            case "class+patches" | "prefix+patches":
                prefix = split.prefix[index]
                prefix = prefix[:, :1] if name == "class+patches" else prefix
                patches = split.patches(rows, self.device, self.dtype)
                prefix = prefix.to(self.device, self.dtype, non_blocking=True)
                return torch.cat([prefix, patches], 1)
            case _ if name in MODEL_VECTORS:
                vector = split.vector(name)[index]
            case _:
                raise ValueError(f"no input is called {name!r}")
        dtype = torch.promote_types(self.dtype, torch.float32)
        return vector.to(self.device, dtype, non_blocking=True)


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut ``order`` into batches; a last batch of one image joins the one before it.

    (Batch norm has no variance to take over one image.)
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches
