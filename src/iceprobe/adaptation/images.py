"""Images as the backbone's input, 8 bits a channel: decoded once if they fit in memory."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from iceprobe.backbones.augmentation import RandomView, random_view
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import Split
from iceprobe.store.decoded_images import decode_threads


class Images:
    """Rows of a split as uint8 tensors ``(n, C, S, S)``.

    Args:
        split: of a data set.
        rows: ``(n,)`` of the split.
        preprocessing: the backbone's.
        on_image: called with each image of the split before preprocessing, from any thread.

    Attributes:
        targets: as the task has them, ``(n,)`` or ``(n, K)``.
        index: the rows.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        preprocessing: Preprocessing,
        on_image: Callable[[Image.Image], None] | None = None,
    ):
        self.split, self.preprocessing, self._on_image = split, preprocessing, on_image
        self.index = np.asarray(rows, np.int64)
        self.targets = np.asarray(split.targets)[self.index]
        self._held: Tensor | None = None
        self._place = np.arange(len(self.index))  # in _held

    def __len__(self) -> int:
        return len(self.index)

    @property
    def bytes(self) -> int:
        return len(self) * self.preprocessing.channels * self.preprocessing.image_size**2

    @property
    def held(self) -> bool:
        return self._held is not None

    def hold(self, progress: Callable[[int, int], None]) -> None:
        """Decode all images once and keep them.

        Raises:
            BadImage: for an image that can't be read.
        """
        side = self.preprocessing.image_size
        held = torch.empty(len(self), self.preprocessing.channels, side, side, dtype=torch.uint8)
        with ThreadPoolExecutor(decode_threads(False), thread_name_prefix="decode") as pool:
            for place, image in enumerate(pool.map(self._decoded, range(len(self)))):
                held[place] = image
                progress(place + 1, len(self))
        self._held = held

    def take(self, positions: np.ndarray) -> Self:
        """Some of these images; decoded images are shared."""
        taken = copy.copy(self)
        taken.index, taken.targets = self.index[positions], self.targets[positions]
        taken._place = self._place[positions]
        return taken

    def batches(
        self,
        order: Sequence[np.ndarray],
        augmentation: str | None = None,
        seed: tuple[int, ...] = (),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets of each array of positions, read one batch ahead.

        Args:
            order: positions of each batch.
            augmentation: strength of random views, which are made from the original images.
            seed: an image's view depends on it and on the image's row.
        """
        view = random_view(self.preprocessing, augmentation) if augmentation else None
        threads = decode_threads(torch.cuda.is_available())
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(threads) as pool:

            def read(positions: np.ndarray) -> Tensor:
                if view is not None:
                    made = pool.map(lambda i: self._augmented(i, view, seed), positions.tolist())
                    return torch.stack(list(made))
                if self._held is not None:
                    return self._held[torch.from_numpy(self._place[positions])]
                return torch.stack(list(pool.map(self._decoded, positions.tolist())))

            following = ahead.submit(read, order[0])
            for positions, after in zip(order, [*order[1:], None], strict=True):
                images = following.result()
                if after is not None:
                    following = ahead.submit(read, after)
                yield images, torch.from_numpy(self.targets[positions])

    def _decoded(self, position: int) -> Tensor:
        return pil_to_tensor(self.preprocessing.crop(self._image(int(self.index[position]))))

    def _augmented(self, position: int, view: RandomView, seed: tuple[int, ...]) -> Tensor:
        row = int(self.index[position])
        own = np.random.SeedSequence((*seed, row)).generate_state(1, np.uint64)[0] >> 1
        generator = torch.Generator().manual_seed(int(own))
        return pil_to_tensor(view(self._image(row), generator))

    def _image(self, row: int) -> Image.Image:
        image = self.split.image(row)
        if self._on_image is not None:
            self._on_image(image)
        return image
