"""Tokens made when they are read: the backbone runs in every epoch, and nothing is stored.

    rows ─▶ images (augmented anew in each epoch) ─▶ backbone, frozen ─▶ tokens

A live store replaces one on disk: `iceprobe.fit` reads the rows of a batch from it, and all members
train on the tokens of that one forward pass. Use it if augmentation matters more than time, or if
tokens would fill the disk. The backbone stays in evaluation mode and gets no gradient.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from iceprobe.backbones.augmentation import augmentation as make_augmentation
from iceprobe.backbones.augmentation import view_generator
from iceprobe.backbones.kinds import Inputs, batched
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import BadImage, Data, Dataset
from iceprobe.settings import Live
from iceprobe.store.decoded_images import decode_threads
from iceprobe.store.format import TRAIN, Manifest
from iceprobe.store.forward import check_finite, forward
from iceprobe.store.layout import COLUMN, chosen_rows, split_layout
from iceprobe.store.noted import FirstSeen
from iceprobe.store.reader import Store
from iceprobe.store.request import as_backbone, choose_device, describe, live_settings
from iceprobe.store.split import StoredSplit

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

VIEWS = 2**20  # of an image: more than any number of epochs
VECTORS_AT_ONCE = 1024  # images


@takes(Live)
def live(backbone: "Backbone | nn.Module | str", dataset: Data, *, call: Live) -> Store:
    """A store without files, whose tokens the backbone makes whenever they are read.

    k-NN, held-out images and the reported split see the evaluation view. A training image is
    augmented anew in each epoch; its random numbers depend only on its index in the listing and on
    the epoch.

    Args:
        backbone: moved to ``device``.
        dataset: whose images; all of them must be readable.
        settings: an :class:`iceprobe.settings.Live`, or its options as keywords.

    Raises:
        IceprobeError: as :func:`iceprobe.extract` raises it, when tokens are read: for an image
            that can't be read, tokens that aren't finite, or too little memory.
    """
    backbone, dataset = as_backbone(backbone), load_dataset(dataset)
    if backbone.joined_shape.ragged:
        raise IceprobeError(
            f"{backbone.spec}: examples differ in their number of tokens, which live tokens can't: "
            "store them (iceprobe.extract)"
        )
    chosen = choose_device(call.device)
    settings = live_settings(call, chosen.type)
    manifest = describe(backbone, dataset, settings, splits=call.splits, limit=call.limit)
    maker = _Maker(backbone.to(chosen), dataset, manifest, chosen)
    found: dict[str, StoredSplit] = {}
    for name, record in manifest.splits.items():
        rows = chosen_rows(record.listed, record.images)
        split = LiveSplit(maker, name, rows)
        if name == TRAIN and call.augmentation is not None:
            split.views = LiveSplit(maker, name, rows, copies=VIEWS)
        found[name] = split
    return Store(manifest, found, dataset=dataset)


class LiveSplit(StoredSplit):
    """A split whose tokens are made when they are read.

    Args:
        maker: of the tokens.
        name: of the split.
        indices: ``(n,)`` indices of its images in the data set's listing.
        copies: rows per image: 1 for the evaluation view, else the augmented views; row ``v·n + i``
            is view v of image i.
    """

    live = True

    def __init__(self, maker: "_Maker", name: str, indices: np.ndarray, copies: int = 1):
        self._maker, self._name, self._indices, self._copies = maker, name, indices, copies
        super().__init__(
            self._whole,
            self._make,
            shape=maker.manifest.shape,
            layout=split_layout(maker.manifest, name, view=1),  # without boxes and masks
            resident=np.zeros(len(indices), bool),
            in_memory=True,
        )

    def __len__(self) -> int:
        return self._copies * len(self._indices)

    def take(self, rows: np.ndarray) -> "LiveSplit":
        indices = self._indices[np.asarray(rows, np.int64)]
        split = LiveSplit(self._maker, self._name, indices, self._copies)
        if self.views is not None:
            split.views = LiveSplit(self._maker, self._name, indices, VIEWS)
        return split

    def _make(self, name: str, rows: np.ndarray, out: Tensor) -> None:
        view, index = np.divmod(rows, len(self._indices))
        view += self._copies > 1  # view 0 is the evaluation view
        out.copy_(self._maker.tokens(self._name, self._indices[index], view)[name])

    def _whole(self, name: str) -> Tensor:
        """A tensor of all images, in the evaluation view."""
        if name == "label":
            return torch.from_numpy(self._maker.dataset.splits[self._name].labels[self._indices])
        if name.startswith(COLUMN):
            column = self._maker.dataset.splits[self._name].columns[name.removeprefix(COLUMN)]
            return torch.from_numpy(column.codes[self._indices])
        if name == "index":
            return torch.from_numpy(self._indices)
        parts = [
            self.rows(name, np.arange(first, min(first + VECTORS_AT_ONCE, len(self._indices))))
            for first in range(0, len(self._indices), VECTORS_AT_ONCE)
        ]
        return torch.cat(parts)


class _Maker:
    """Images of a data set → tokens on the host; the last batch is cached."""

    def __init__(
        self, backbone: "Backbone", dataset: Dataset, manifest: Manifest, device: torch.device
    ):
        self.backbone, self.dataset = backbone, dataset
        self.manifest, self.device = manifest, device
        self._augment = make_augmentation(
            backbone.preprocessing, manifest.settings.augmentation or "paper"
        )
        self._files = FirstSeen(manifest.dataset)
        self._pool = ThreadPoolExecutor(decode_threads(device.type == "cuda"), "decode")
        self._last: tuple[tuple[str, bytes, bytes], dict[str, Tensor]] | None = None

    def tokens(self, split: str, indices: np.ndarray, views: np.ndarray) -> dict[str, Tensor]:
        """``patches``, ``prefix``, ``mean`` … as in a shard, a row for each of ``indices``."""
        asked = (split, indices.tobytes(), views.tobytes())
        if self._last is None or self._last[0] != asked:
            size = self.manifest.settings.batch_size
            parts = [
                self._forward(split, indices[i : i + size], views[i : i + size])
                for i in range(0, len(indices), size)
            ]
            self._last = asked, {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        return self._last[1]

    def _forward(self, split: str, indices: np.ndarray, views: np.ndarray) -> dict[str, Tensor]:
        source, preprocessing = self.dataset.splits[split], self.backbone.preprocessing

        def decode(index: int, view: int) -> Inputs:
            example = source.example(index)
            self._files.note(example)
            if not view:
                return preprocessing.transform(example)
            return self._augment(example, view_generator(index, view))

        try:
            images = batched(list(self._pool.map(decode, indices.tolist(), views.tolist())))
        except BadImage as error:
            raise BadImage(f"{error} (a live fit reads all examples: take it out)") from error
        settings = self.manifest.settings
        (tokens,) = forward(self.backbone, images, self.device, settings)
        tokens = {name: tensor.cpu() for name, tensor in tokens.items()}
        check_finite(tokens, source, indices, settings)
        return tokens
