"""Options that several sources of backbones share: a field is its name, type, parser and default.

A loader takes the groups it has use for as keyword arguments (``images: ImageOptions``); spec
strings and :func:`iceprobe.load_backbone` name the fields. Importing this doesn't import torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from iceprobe.backbones.layers import Layers, parse_layers
from iceprobe.core.specs import boolean

Parser = Callable[[str], Any]

LARGEST = 2**14  # pixels a side: beyond that a blank image alone takes gigabytes


def parse_pixels(text: str) -> int:
    """A number of pixels a side.

    Raises:
        ValueError: for anything else.
    """
    side = int(text)
    if not 0 < side <= LARGEST:
        raise ValueError(f"write a number of pixels from 1 to {LARGEST}")
    return side


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("write finite numbers")
    return numbers


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


@dataclass(frozen=True)
class LayerOptions:
    """Which layers are read (:mod:`iceprobe.backbones.layers`); ``None`` is the last."""

    layer: Annotated[Layers | None, parse_layers] = None

    @property
    def layers(self) -> Layers:
        return -1 if self.layer is None else self.layer


@dataclass(frozen=True)
class TokenOptions(LayerOptions):
    """Layers, and whether the model's final norm is applied; ``None`` does as its family does."""

    norm: Annotated[bool | None, boolean] = None


@dataclass(frozen=True)
class OutputOptions(TokenOptions):
    """The same, and what a ``(B, P + N, D)`` output holds where the module doesn't say it itself.

    Attributes:
        num_prefix: P.
        has_class: whether the first of the prefix tokens is a class token.
    """

    num_prefix: Annotated[int | None, int] = None
    has_class: Annotated[bool | None, boolean] = None

    @property
    def describes_output(self) -> bool:
        """Whether one of the two is given."""
        return self.num_prefix is not None or self.has_class is not None


@dataclass(frozen=True)
class ImageOptions:
    """Fields of :class:`Preprocessing` in place of the model's own; ``None`` keeps its own."""

    image_size: Annotated[int | None, parse_pixels] = None
    mean: Annotated[Sequence[float] | None, _numbers] = None
    std: Annotated[Sequence[float] | None, _numbers] = None
    interpolation: Annotated[str | None, str] = None
    crop_pct: Annotated[float | None, float] = None
    resize: Annotated[str | None, str] = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that aren't ``None``, as arguments of :class:`Preprocessing`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["mean"] = self.mean and tuple(self.mean)
        values["std"] = self.std and tuple(self.std)
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class CheckpointOptions:
    """A file of weights; see :func:`iceprobe.backbones.checkpoints.load_checkpoint`.

    Attributes:
        checkpoint: the file; ``None`` takes the source's own weights.
        checkpoint_key: where in the file the weights are.
        strip: prefix of names that is taken off.
        ignore: prefixes of names that are no part of the encoder.
    """

    checkpoint: Annotated[str | None, str] = None
    checkpoint_key: Annotated[str | None, str] = None
    strip: Annotated[str | None, str] = None
    ignore: Annotated[Sequence[str], _words] = ()


@dataclass(frozen=True)
class HubOptions:
    """An entry of a repository with a ``hubconf.py``.

    Attributes:
        entry: name of the function that builds the model.
        weights, pretrained: passed on to it.
        trust: whether the repository's code may run.
    """

    entry: Annotated[str | None, str] = None
    weights: Annotated[str | None, str] = None
    pretrained: Annotated[bool | None, boolean] = None
    trust: Annotated[bool, boolean] = False


Groups = Mapping[str, type[Any]]  # a loader's keyword argument → one of the classes above


def parsers(groups: Iterable[type[Any]]) -> dict[str, Parser]:
    """Every option of these classes, and how its text becomes a value."""
    return {
        name: hint.__metadata__[0]
        for group in groups
        for name, hint in get_type_hints(group, include_extras=True).items()
    }


def grouped(groups: Groups, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a loader: ``values``, those of each group as one object under its keyword."""
    rest = dict(values)
    made = {
        keyword: group(
            **{each.name: rest.pop(each.name) for each in fields(group) if each.name in rest}
        )
        for keyword, group in groups.items()
    }
    return made | rest
