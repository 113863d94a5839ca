"""Decoded images kept in memory, for extractions of the same data by another state of a model.

    images on disk ──decode, resize, crop──▶ kept ──normalise──▶ batch      (first from the left, later from kept)

Images of one size are kept in 8 bits, where normalising these gives the very batch; other inputs as they are.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.backbones.preprocessing import ImagePreprocessing
from iceprobe.store.work import Decoded, Work

if TYPE_CHECKING:
    from iceprobe.store.format import Manifest

Decoding = Callable[[list[Work]], Generator[Decoded, None, None]]
log = logging.getLogger("iceprobe")


@dataclass(frozen=True)
class _Batch:
    """A decoded batch; ``pixels`` ``(V, b, C, S, S)`` uint8 stand for its images, where there are some."""

    decoded: Decoded
    pixels: Tensor | None
    nbytes: int


class KeptImages:
    """Batches of decoded images, in memory as far as ``most`` bytes go.

    Attributes:
        nbytes: that are held.
        read_anew: images of the last extraction that weren't held.
    """

    def __init__(self, most: int):
        self.most = most
        self.nbytes = self.read_anew = 0
        self._of, self._said = "", False
        self._preprocessing: ExamplePreprocessing | None = None
        self._held: dict[tuple[str, bytes], _Batch] = {}

    def begin(self, manifest: "Manifest", preprocessing: ExamplePreprocessing) -> None:
        """An extraction begins; of other data or another preprocessing nothing is held.

        The listing (names, sizes, times of change) tells whether data are the same: no image is read.
        """
        what = {
            "content": {name: record.content for name, record in manifest.splits.items()},
            "preprocessing": preprocessing.as_dict(),
            "augmentation": [manifest.settings.augmentation, manifest.settings.augmented_views],
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        if digest != self._of:
            self._held, self.nbytes, self._of, self._said = {}, 0, digest, False
        self._preprocessing, self.read_anew = preprocessing, 0

    def read(self, decode: Decoding, work: list[Work]) -> Generator[Decoded, None, None]:
        """``decode(work)``, where what is held is taken from memory, bit by bit the same."""
        missing = [item for item in work if _key(item) not in self._held]
        fresh = decode(missing)
        try:
            for item in work:
                if (batch := self._held.get(_key(item))) is not None:
                    yield self._unpacked(batch)
                    continue
                decoded = next(fresh)
                self.read_anew += len(item.rows)
                self._keep(item, decoded)
                yield decoded
        finally:
            fresh.close()

    def _keep(self, item: Work, decoded: Decoded) -> None:
        if decoded.bad:  # it may be readable next time
            return
        batch = self._packed(decoded)
        if self.nbytes + batch.nbytes <= self.most:
            self._held[_key(item)] = batch
            self.nbytes += batch.nbytes
        elif self.most and not self._said:
            self._said = True
            log.warning(
                "decoded images take more than the %s that are kept of them: the rest is read anew in every "
                "extraction (keep= gives them more memory)",
                f"{self.most / 1e9:,.2f} GB",
            )

    def _packed(self, decoded: Decoded) -> _Batch:
        others = (decoded.boxes, decoded.masks, decoded.covers, decoded.depths, decoded.rows)
        beside = sum(one.nbytes for one in others if one is not None)
        images, how = decoded.images, self._preprocessing
        if not isinstance(images, Tensor):
            return _Batch(decoded, None, beside + sum(one.nbytes for one in images))
        if isinstance(how, ImagePreprocessing):
            pixels = _pixels(images, how)
            if torch.equal(how.normalised_pixels(pixels), images):
                return _Batch(replace(decoded, images=[]), pixels, beside + pixels.nbytes)
        held = images.clone() if images.is_pinned() else images
        return _Batch(replace(decoded, images=held), None, beside + held.nbytes)

    def _unpacked(self, batch: _Batch) -> Decoded:
        if batch.pixels is None:
            return batch.decoded
        assert isinstance(self._preprocessing, ImagePreprocessing)
        return replace(batch.decoded, images=self._preprocessing.normalised_pixels(batch.pixels))


def _key(item: Work) -> tuple[str, bytes]:
    return item.split, np.ascontiguousarray(item.rows).tobytes()


def _pixels(images: Tensor, how: ImagePreprocessing) -> Tensor:
    """The 8 bits that normalised ``(…, C, S, S)`` images are of, if they are of 8 bits."""
    mean, std = torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]
    pixels = (images * std + mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.flip(-3) if how.order == "BGR" else pixels
