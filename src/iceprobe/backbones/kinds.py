"""Kinds of examples, and what a backbone reads of one: the seam between data sets and encoders.

    example ──transform──▶ input ──batched──▶ batch ──forward──▶ Tokens

A kind is what a split's `example(i)` is: a picture of PIL, or a handle that decodes when it is asked. A
preprocessing of that kind makes a tensor of it. A new kind is one file in `datasets/`, one preprocessing and
an entry in `KINDS`. This module doesn't import torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Union

from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry
from iceprobe.core.text import shown

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from iceprobe.datasets.base import Split


@dataclass(frozen=True)
class Ragged:
    """Inputs of one or several examples that differ in their length, end to end.

    Attributes:
        values: ``(ΣL, …)``: images of a bag, samples of a recording.
        lengths: ``(b,)`` int64, L of each example, at least 1.
        coords: ``(ΣL, k)`` float32, where each lies (`Tokens.coords`); ``None`` if nothing says it.
    """

    values: "Tensor"
    lengths: "Tensor"
    coords: "Tensor | None" = None

    @classmethod
    def of(cls, values: "Tensor", coords: "Tensor | None" = None) -> "Ragged":
        """One example ``(L, …)``."""
        import torch

        return cls(values, torch.tensor([len(values)]), coords)

    @classmethod
    def together(cls, examples: "Sequence[Ragged]") -> "Ragged":
        """The examples of several, at least one, in their order; all of them have coordinates, or none has."""
        import torch

        coords = [one.coords for one in examples if one.coords is not None]
        return cls(
            torch.cat([one.values for one in examples]),
            torch.cat([one.lengths for one in examples]),
            torch.cat(coords) if coords else None,
        )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.lengths)

    def split(self, count: int) -> "list[Ragged]":
        """As `Tensor.split`: so many examples at a time."""
        lengths = self.lengths.split(count)
        ends = [int(one.sum()) for one in lengths]
        coords = [None] * len(ends) if self.coords is None else self.coords.split(ends)
        return [*map(Ragged, self.values.split(ends), lengths, coords)]

    def to(self, *where: Any, **how: Any) -> "Ragged":
        """As `Tensor.to`; a dtype is the values' alone."""
        values = self.values.to(*where, **how)
        coords = None if self.coords is None else self.coords.to(values.device)
        return Ragged(values, self.lengths.to(values.device), coords)

    def pin_memory(self) -> "Ragged":
        """As `Tensor.pin_memory`."""
        coords = None if self.coords is None else self.coords.pin_memory()
        return Ragged(self.values.pin_memory(), self.lengths.pin_memory(), coords)

    @property
    def nbytes(self) -> int:
        """Of the values and the coordinates."""
        return self.values.nbytes + (0 if self.coords is None else self.coords.nbytes)

    @property
    def device(self) -> "torch.device":
        return self.values.device

    @property
    def mask(self) -> "Tensor":
        """``(b, L)`` bool for the longest L: which rows of :meth:`padded` are an example's own."""
        import torch

        places = torch.arange(int(self.lengths.max()), device=self.lengths.device)
        return places < self.lengths[:, None]

    def padded(self, values: "Tensor | None" = None) -> "Tensor":
        """``(b, L, …)`` of :attr:`values`, or of others ``(ΣL, …)``, with zeros beyond an example's length."""
        flat = self.values if values is None else values
        mask = self.mask
        full = flat.new_zeros(*mask.shape, *flat.shape[1:])
        full[mask] = flat
        return full

    @property
    def padded_coords(self) -> "Tensor | None":
        """``(b, L, k)`` of :attr:`coords`, with zeros likewise; ``None`` if nothing says it."""
        return None if self.coords is None else self.padded(self.coords)


#: A batch as a backbone takes it: ``(B, …)`` where all inputs are alike.
Inputs = Union["Tensor", Ragged]


class ExamplePreprocessing(ABC):
    """From an example to a backbone's input.

    Attributes:
        kind: of the examples that it reads, a name in `KINDS`.
        shape: of every input, without the batch; ``None`` where inputs differ in their length, and
            :meth:`transform` gives a `Ragged` of one example.
        frame: the `ImagePreprocessing` of each picture of an example; ``None`` for a kind without pictures.
        augmented: whether there are random views of its examples.
    """

    kind: ClassVar[str]
    augmented: ClassVar[bool] = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def frame(self) -> Any:
        return None

    @abstractmethod
    def transform(self, example: Any) -> Inputs:
        """The backbone's input: float32, of :attr:`shape`.

        Raises:
            IceprobeError: if the example can't be made ready; it is left out with ``--on-bad-image skip``.
        """

    def blank(self) -> Inputs:
        """A batch of one example, by which shapes and multiply-adds are found."""
        import torch

        if self.shape is None:
            raise NotImplementedError(f"{type(self).__name__} has inputs of several lengths")
        return torch.zeros(1, *self.shape)

    @property
    def numbers(self) -> int:
        """How many numbers an input has; where they differ, the blank one's."""
        blank = self.blank()
        return blank.values.numel() if isinstance(blank, Ragged) else blank.numel()

    def crop(self, picture: "Image.Image") -> "Image.Image":
        """What the backbone sees of a picture, before normalisation."""
        if self.frame is None:
            raise IceprobeError(f"{plural(self.kind)} have no pictures to show")
        cropped: Image.Image = self.frame.crop(picture)
        return cropped

    def shown(self, split: "Split", index: int) -> "Image.Image":
        """What the backbone sees of an example of a data set, as a picture."""
        return self.crop(split.image(index))

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Its fields as JSON values; ``kind`` is one of them, except for images."""

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "ExamplePreprocessing":
        """The inverse of :meth:`as_dict`, of any kind.

        Raises:
            IceprobeError: if it is none of this iceprobe.
        """
        given = dict(fields)
        kind = given.pop("kind", "image")
        try:
            read: Callable[..., ExamplePreprocessing] = KINDS[kind].load()
            return read(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise IceprobeError(
                f"preprocessing {shown(dict(fields))} isn't one of this iceprobe: make the file that "
                "it is in again"
            ) from error


@dataclass(frozen=True)
class Kind(Entry):
    """A kind of examples: its preprocessing by its fields, and ``summary``, its name in the plural.

    Attributes:
        noun: what one is called, where that isn't the kind's name.
    """

    noun: str = ""


#: What a data set holds and a backbone reads.
KINDS: dict[str, Kind] = {
    "image": Kind("iceprobe.backbones.native:image_preprocessing", "images"),
    "bag": Kind("iceprobe.backbones.bag_preprocessing:BagPreprocessing", "bags of images"),
    "sound": Kind(
        "iceprobe.backbones.sound_preprocessing:SoundPreprocessing", "recordings", "recording"
    ),
    "clip": Kind("iceprobe.backbones.clip_preprocessing:ClipPreprocessing", "clips"),
}


def plural(kind: str) -> str:
    """``images`` of ``image``."""
    return KINDS[kind].summary


def singular(kind: str) -> str:
    """``recording`` of ``sound``."""
    return KINDS[kind].noun or kind


def batched(inputs: "Sequence[Inputs]") -> Inputs:
    """The inputs of several examples, at least one, as one batch."""
    import torch

    ragged = [one for one in inputs if isinstance(one, Ragged)]
    return Ragged.together(ragged) if ragged else torch.stack([*inputs])  # type: ignore[list-item]
