"""Examples as the backbone's input, decoded once if they fit in memory.

Images of one size are held as pictures of 8 bits a channel, and normalised where they pass the backbone
(`as_read`). Inputs of any other kind are held as the backbone reads them, in float32.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from iceprobe.backbones.augmentation import Augmentation, augmentation, random_view
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged, batched, singular
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import one_line
from iceprobe.store.decoded_images import decode_threads
from iceprobe.store.pipeline import reason


def as_read(preprocessing: ExamplePreprocessing, batch: Inputs) -> Inputs:
    """A batch of `Examples` → as the backbone takes it: uint8 pictures ``(B, C, S, S)`` are normalised."""
    if isinstance(preprocessing, Preprocessing) and isinstance(batch, Tensor):
        return preprocessing.normalised_pixels(batch)
    return batch


class Examples:
    """Rows of a split as inputs: of images of one size uint8 ``(n, C, S, S)``, of others float32.

    Args:
        split: of a data set.
        rows: ``(n,)`` of the split.
        preprocessing: the backbone's.
        on_example: called with each example of the split that was made ready, from any thread.

    Attributes:
        targets: as the task has them, ``(n,)`` or ``(n, K)``.
        index: the rows.
    """

    def __init__(
        self,
        split: Split,
        rows: np.ndarray,
        preprocessing: ExamplePreprocessing,
        on_example: Callable[[Any], None] | None = None,
    ):
        self.split, self.preprocessing, self._on_example = split, preprocessing, on_example
        self.index = np.asarray(rows, np.int64)
        self.targets = np.asarray(split.targets)[self.index]
        self._pictures = isinstance(preprocessing, Preprocessing)
        self._held: Tensor | list[Ragged] | None = None
        self._place = np.arange(len(self.index))  # in _held

    def __len__(self) -> int:
        return len(self.index)

    @property
    def bytes(self) -> int:
        """Of all inputs; where they differ in their length, as if they were as long as the blank one."""
        parts = self.split.parts
        count = len(self) if parts is None else int(parts[self.index].sum())
        return count * self.preprocessing.numbers * (1 if self._pictures else 4)

    @property
    def held(self) -> bool:
        return self._held is not None

    def hold(self, progress: Callable[[int, int], None], most: float = math.inf) -> int:
        """Decode all once and keep them, unless they take more than ``most`` bytes.

        Returns:
            How many bytes they take; 0 if they aren't kept.

        Raises:
            BadImage: for an example that can't be read.
        """
        if self.bytes > most:
            return 0
        shape = self.preprocessing.shape
        dtype = torch.uint8 if self._pictures else torch.float32
        alike = None if shape is None else torch.empty(len(self), *shape, dtype=dtype)
        apart: list[Ragged] = []
        taken = 0
        with ThreadPoolExecutor(decode_threads(False), thread_name_prefix="decode") as pool:
            made = pool.map(self._made, range(len(self)))
            for place, one in enumerate(made):
                taken += one.nbytes
                if isinstance(one, Ragged):
                    apart.append(one)
                elif alike is not None:
                    alike[place] = one
                if taken > most:
                    pool.shutdown(cancel_futures=True)
                    return 0
                progress(place + 1, len(self))
        self._held = apart if alike is None else alike
        return taken

    def take(self, positions: np.ndarray) -> Self:
        """Some of these examples; decoded ones are shared."""
        taken = copy.copy(self)
        taken.index, taken.targets = self.index[positions], self.targets[positions]
        taken._place = self._place[positions]
        return taken

    def in_turn(self, size: int) -> list[np.ndarray]:
        """Positions of all, in order, so many at a time."""
        return np.split(np.arange(len(self)), range(size, len(self), size))

    def batches(
        self,
        order: Sequence[np.ndarray],
        augmentation: str | None = None,
        seed: tuple[int, ...] = (),
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Inputs and targets of each array of positions, read one batch ahead.

        Args:
            order: positions of each batch.
            augmentation: strength of random views, which are made from the original examples.
            seed: an example's view depends on it and on the example's row.
        """
        view = self._view(augmentation) if augmentation else None
        threads = decode_threads(torch.cuda.is_available())
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(threads) as pool:

            def read(positions: np.ndarray) -> Inputs:
                if view is not None:
                    return batched([*pool.map(lambda i: self._augmented(i, view, seed), positions)])
                places = self._place[positions]
                if isinstance(self._held, Tensor):
                    return self._held[torch.from_numpy(places)]
                if self._held is not None:
                    return batched([self._held[place] for place in places])
                return batched([*pool.map(self._made, positions)])

            following = ahead.submit(read, order[0])
            for positions, after in zip(order, [*order[1:], None], strict=True):
                inputs = following.result()
                if after is not None:
                    following = ahead.submit(read, after)
                yield inputs, torch.from_numpy(self.targets[positions])

    def _view(self, strength: str) -> Augmentation:
        """A random view as inputs are held."""
        if not isinstance(self.preprocessing, Preprocessing):
            return augmentation(self.preprocessing, strength)
        view = random_view(self.preprocessing, strength)
        return lambda picture, generator: pil_to_tensor(view(picture, generator))

    def _made(self, position: int) -> Inputs:
        return self._read(position, self._input)

    def _input(self, example: Any) -> Inputs:
        if self._pictures:
            return pil_to_tensor(self.preprocessing.crop(example))
        return self.preprocessing.transform(example)

    def _augmented(self, position: int, view: Augmentation, seed: tuple[int, ...]) -> Inputs:
        row = int(self.index[position])
        own = np.random.SeedSequence((*seed, row)).generate_state(1, np.uint64)[0] >> 1
        generator = torch.Generator().manual_seed(int(own))
        return self._read(position, lambda example: view(example, generator))

    def _read(self, position: int, prepared: Callable[[Any], Inputs]) -> Inputs:
        """One example, prepared.

        Raises:
            BadImage: if it can't be read or made ready.
        """
        row = int(self.index[position])
        try:
            example = self.split.example(row)
            made = prepared(example)
        except BadImage as error:
            said = reason(str(error))
            raise BadImage(f"{said} (an adaptation reads all examples: take it out)") from error
        except IceprobeError as error:
            name = f"{singular(self.split.kind)} {self.split.names[row]!r}"
            raise BadImage(
                f"{name} can't be made ready ({one_line(error)}): an adaptation reads all examples, take it out"
            ) from error
        if self._on_example is not None:
            self._on_example(example)
        return made
