"""Options that several sources of backbones share: each field has a name, type, parser and default.

A loader takes the groups that it needs as keyword arguments (``images: ImageOptions``). Spec
strings and :func:`iceprobe.load_backbone` name the fields. This module doesn't import torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from iceprobe.backbones.layers import Layers, parse_layers
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import above_zero, boolean, one_of

Parser = Callable[[str], Any]

LARGEST = 2**14  # pixels a side: above this, even a blank image takes gigabytes
NATIVE = "native"  # image_size of images that keep their shape
FEWEST, MOST = 4, 2**16  # patches of such an image: with fewer, one could be a single patch


def parse_pixels(text: str) -> int:
    """Pixels a side; ValueError if the text is not such a number."""
    side = int(text)
    if not 0 < side <= LARGEST:
        raise ValueError(f"write a number of pixels from 1 to {LARGEST}")
    return side


def parse_shape(text: str) -> int | str:
    """Pixels a side, or `NATIVE`; ValueError for anything else."""
    try:
        return NATIVE if text == NATIVE else parse_pixels(text)
    except ValueError as error:
        raise ValueError(f"write a number of pixels from 1 to {LARGEST}, or {NATIVE}") from error


def parse_tokens(text: str) -> int:
    """The most patches of an image; ValueError if the text is not such a number."""
    tokens = int(text)
    if not FEWEST <= tokens <= MOST:
        raise ValueError(f"write a number of patches from {FEWEST} to {MOST}")
    return tokens


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("write finite numbers")
    return numbers


def words(text: str) -> tuple[str, ...]:
    """``a,b`` as a tuple."""
    return tuple(filter(None, text.split(",")))


@dataclass(frozen=True)
class LayerOptions:
    """Which layers are read (:mod:`iceprobe.backbones.layers`); ``None``: the last."""

    layer: Annotated[Layers | None, parse_layers] = None

    @property
    def layers(self) -> Layers:
        return -1 if self.layer is None else self.layer


@dataclass(frozen=True)
class TokenOptions(LayerOptions):
    """Layers, and whether the final norm is applied; ``None``: the family's default."""

    norm: Annotated[bool | None, boolean] = None


@dataclass(frozen=True)
class OutputOptions(TokenOptions):
    """The same, and what a ``(B, P + N, D)`` output holds if the module doesn't state it.

    Attributes:
        num_prefix: P.
        has_class: whether the first prefix token is a class token.
    """

    num_prefix: Annotated[int | None, int] = None
    has_class: Annotated[bool | None, boolean] = None

    @property
    def describes_output(self) -> bool:
        """Whether ``num_prefix`` or ``has_class`` is given."""
        return self.num_prefix is not None or self.has_class is not None


@dataclass(frozen=True)
class ImageOptions:
    """Fields of :class:`Preprocessing` that replace the model's own; ``None`` keeps the model's."""

    image_size: Annotated[int | None, parse_pixels] = None
    mean: Annotated[Sequence[float] | None, _numbers] = None
    std: Annotated[Sequence[float] | None, _numbers] = None
    interpolation: Annotated[str | None, str] = None
    crop_pct: Annotated[float | None, float] = None
    resize: Annotated[str | None, str] = None

    @property
    def native(self) -> bool:
        """Whether images keep their shape."""
        return False

    @property
    def given(self) -> dict[str, Any]:
        """Those that aren't ``None``, as arguments of :class:`Preprocessing`."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {key: tuple(v) if key in ("mean", "std") else v for key, v in given.items()}


@dataclass(frozen=True)
class AnyShapeOptions(ImageOptions):
    """The same for models that may take images of any shape.

    Attributes:
        image_size: pixels a side, or ``"native"``: an image keeps its aspect.
        max_tokens: most patches of such an image.
    """

    image_size: Annotated[Any, parse_shape] = None
    max_tokens: Annotated[int | None, parse_tokens] = None

    @property
    def native(self) -> bool:
        """Whether images keep their shape.

        Raises:
            IceprobeError: for ``max_tokens`` of images of one size.
        """
        if self.image_size != NATIVE and self.max_tokens is not None:
            raise IceprobeError(
                f"max_tokens={self.max_tokens} is of images of their own shape: add image_size={NATIVE}"
            )
        return bool(self.image_size == NATIVE)


@dataclass(frozen=True)
class PartOptions:
    """How examples of several images or frames are read.

    Attributes:
        reads: ``"clips"`` or ``"bags"``: what a backbone of images reads, one image after the other;
            ``frames`` alone means clips.
        frames, stride, fps, clips: as of :class:`iceprobe.backbones.clip_preprocessing.ClipPreprocessing`.
        each: what is kept of each image, or of each of several clips: its ``"patches"``, or the ``"pooled"``
            vector; by default the vector of bags and the patches of clips.
        averaged: whether probes of tokens read each of several clips by itself, and their outputs are averaged.
    """

    reads: Annotated[str | None, one_of("clips", "bags")] = None
    frames: Annotated[int | None, int] = None
    stride: Annotated[int | None, int] = None
    fps: Annotated[float | None, float] = None
    clips: Annotated[int | None, int] = None
    each: Annotated[str | None, one_of("patches", "pooled")] = None
    averaged: Annotated[bool | None, boolean] = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that aren't ``None``."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class SoundOptions:
    """How recordings are read.

    Attributes:
        seconds: the longest piece, from the start; ``None``: all of it, or as much as the model takes.
    """

    seconds: Annotated[float | None, above_zero] = None


@dataclass(frozen=True)
class CheckpointOptions:
    """A file of weights; see :func:`iceprobe.backbones.checkpoints.load_checkpoint`.

    Attributes:
        checkpoint: the file; ``None``: the source's own weights.
        checkpoint_key: where in the file the weights are.
        strip: prefix to remove from the names.
        ignore: prefixes of names outside the encoder.
    """

    checkpoint: Annotated[str | None, str] = None
    checkpoint_key: Annotated[str | None, str] = None
    strip: Annotated[str | None, str] = None
    ignore: Annotated[Sequence[str], words] = ()


@dataclass(frozen=True)
class HubOptions:
    """An entry of a repository with a ``hubconf.py``.

    Attributes:
        entry: name of the function that builds the model.
        weights, pretrained: passed to it.
        trust: whether the repository's code may run.
    """

    entry: Annotated[str | None, str] = None
    weights: Annotated[str | None, str] = None
    pretrained: Annotated[bool | None, boolean] = None
    trust: Annotated[bool, boolean] = False


Groups = Mapping[str, type[Any]]  # a loader's keyword argument → one of the classes above


def parsers(groups: Iterable[type[Any]]) -> dict[str, Parser]:
    """Every option of these classes, and the parser of its text."""
    return {
        name: hint.__metadata__[0]
        for group in groups
        for name, hint in get_type_hints(group, include_extras=True).items()
    }


def grouped(groups: Groups, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a loader: ``values``, with each group as one object under its keyword."""
    rest = dict(values)
    arguments = {}
    for keyword, group in groups.items():
        shared = {each.name for each in fields(group)} & rest.keys()
        arguments[keyword] = group(**{name: rest.pop(name) for name in shared})
    return arguments | rest
