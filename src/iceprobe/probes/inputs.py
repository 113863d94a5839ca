"""What a probe reads of an image: vectors or tokens, of one layer or of several side by side.

    class+mean               x = [x_cls; mean_N(X)]                       one vector
    class+mean@8,9,10,11     x = [x_cls of 8; … of 11; mean_N(X) of 11]   DINOv2's linear evaluation
    patches@10,11            X = [X of 10; X of 11]                       (L·N, D), more tokens
    patches@10,11:width      X = [X of 10, X of 11]                       (N, L·D), wider ones

Of several layers the first vector is read in each and what follows a ``+`` in the last one named only,
as in the published protocol. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec
from iceprobe.probes.registry import (
    MODEL_VECTORS,
    PROBES,
    no_vector,
    parse_probe,
    probe_label,
    probe_options,
    takes_layers,
)
from iceprobe.tokens import JoinedShape, TokenShape

PREFIX = {"class+patches": 1}  # tokens before the patches; prefix+patches has all


@dataclass(frozen=True)
class Input:
    """One input of probes; its text is the key of its tensor in a batch.

    Attributes:
        names: vectors to be concatenated, or one kind of tokens.
        layers: numbers from 0; empty: the only one that there is.
        wide: whether tokens of several layers are joined in width.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...] = ()
    wide: bool = False

    def __str__(self) -> str:
        text = "+".join(self.names)
        if self.layers:
            text += f"@{','.join(map(str, self.layers))}"
        return text + ":width" * self.wide

    @classmethod
    def parse(cls, text: str) -> Self:
        """The input of this text."""
        head, _, join = text.partition(":")
        what, _, layers = head.partition("@")
        names = (what,) if what.endswith("patches") else tuple(what.split("+"))
        numbers = tuple(int(number) for number in layers.split(",") if number)
        return cls(names, numbers, join == "width")

    @property
    def of_tokens(self) -> bool:
        """Whether it is tokens ``(B, N, D)``, not one vector ``(B, D)``."""
        return self.names[0].endswith("patches")

    @property
    def parts(self) -> list[tuple[int | None, str]]:
        """Layer and name of each part, in order; the layer is ``None`` where there is only one."""
        if not self.layers:
            return [(None, name) for name in self.names]
        first, *others = self.names
        each: list[tuple[int | None, str]] = [(layer, first) for layer in self.layers]
        return each + [(self.layers[-1], name) for name in others]

    def width(self, shape: TokenShape) -> int:
        """D of its tokens, or of its vector."""
        widths = [_width(_of(shape, layer), name) for layer, name in self.parts]
        return sum(widths) if self.wide or not self.of_tokens else widths[0]

    def count(self, shape: TokenShape) -> int:
        """N of its tokens; 1 of a vector."""
        if not self.of_tokens:
            return 1
        counts = [
            one.num_tokens + PREFIX.get(name, one.num_prefix if name == "prefix+patches" else 0)
            for one, name in ((_of(shape, layer), name) for layer, name in self.parts)
        ]
        return counts[0] if self.wide else sum(counts)


def is_vector(text: str) -> bool:
    """Whether the input of this text is one vector an image."""
    return not Input.parse(text).of_tokens


def input_width(shape: TokenShape, text: str) -> int:
    """D of the input of this text."""
    return Input.parse(text).width(shape)


def names_layers(probe: Spec | str) -> bool:
    """Whether a probe says which layers it reads."""
    spec = parse_probe(str(probe))
    return "layers" in spec.options and takes_layers(spec.name)


def layers_named(probes: Sequence[str]) -> list[int]:
    """The layers that some of ``probes`` read, as they are written, each once."""
    found: dict[int, None] = {}
    for probe in filter(names_layers, probes):
        found |= dict.fromkeys(probe_options(probe)["layers"])
    return list(found)


def input_of(shape: TokenShape, probe: Spec | str) -> Input:
    """What ``probe`` reads of tokens of ``shape``.

    Raises:
        IceprobeError: if they lack a layer, the class token or a vector that it names, or layers don't
            fit side by side.
    """
    spec = parse_probe(str(probe))
    label, values = probe_label(spec), probe_options(spec)
    source = values.get("input")
    if source is None:
        source = "class" if shape.has_class and not shape.pooled_class else "mean"
    if not takes_layers(spec.name):
        values = {"input": source}
    layers, join = _layers(shape, spec, values.get("layers")), values.get("join")
    read = Input.parse(source)
    if layers is None:
        if join == "width":
            raise IceprobeError(
                f"probe {label!r} joins layers and names none: take layers=-2,-1 as well, or leave "
                "join out"
            )
    else:
        wide = read.of_tokens and len(layers) > 1 and join == "width"
        read = Input(read.names, layers, wide)
        _check_side_by_side(shape, read, spec)
    for layer, name in read.parts:
        _check_there(_of(shape, layer), name, label)
    return read


def _layers(shape: TokenShape, spec: Spec, asked: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """``asked`` as numbers from 0; ``None`` where neither tokens nor probe name layers."""
    label = probe_label(spec)
    if not isinstance(shape, JoinedShape):
        if asked is None:
            return None
        raise IceprobeError(
            f"probe {label!r} names layers and these tokens are of one layer: fit it by iceprobe run, "
            "which extracts them, or on the stores of iceprobe.extract_layers(…) together, or leave "
            "layers out"
        )
    there = ", ".join(map(str, shape.layers))
    if asked is None:
        if not takes_layers(spec.name):
            raise IceprobeError(
                f"probe {label!r} reads one layer (its own argument is called layers or join) and these "
                f"tokens are of layers {there}: fit it on the store of one"
            )
        one = Spec(None, spec.name, {**spec.options, "layers": str(max(shape.layers))})
        raise IceprobeError(
            f"probe {label!r} names no layers and these tokens are of layers {there}: write "
            f"{probe_label(one)} for one of them"
        )
    found = []
    for layer in asked:
        number = layer
        if layer < 0:
            if shape.depth is None:
                raise IceprobeError(
                    f"probe {label!r} counts from the last layer, and stores don't say how many their "
                    f"backbone has: write numbers from 0 (these tokens are of layers {there})"
                )
            number = shape.depth + layer
        if shape.depth is not None and not 0 <= number < shape.depth:
            raise IceprobeError(
                f"probe {label!r}: layer {layer} is out of range (0 to {shape.depth - 1}); -1 is the "
                "last"
            )
        if number not in shape.layers:
            raise IceprobeError(
                f"probe {label!r}: layer {layer} isn't among these tokens, which are of layers "
                f"{there}: name those, or extract that one as well"
            )
        if number in found:
            raise IceprobeError(f"probe {label!r} names layer {number} twice: keep one")
        found.append(number)
    return tuple(found)


def _check_side_by_side(shape: TokenShape, read: Input, spec: Spec) -> None:
    """Refuse tokens of layers that differ in number or width, or a grid of more than one layer's."""
    label, join = probe_label(spec), "width" if read.wide else "tokens"
    if not read.of_tokens or len(read.layers) < 2:
        return
    if PROBES[spec.name].needs_grid and not read.wide:
        options = {**spec.options, "join": "width"}
        raise IceprobeError(
            f"probe {label!r} has one token a place of the grid and {len(read.layers)} layers give "
            f"more: write {probe_label(Spec(None, spec.name, options))}"
        )
    shapes = [_of(shape, layer) for layer in read.layers]
    if len({one.num_tokens if read.wide else one.dim for one in shapes}) > 1:
        sizes = ", ".join(f"{one.num_tokens} of width {one.dim}" for one in shapes)
        raise IceprobeError(
            f"probe {label!r}: tokens of layers {', '.join(map(str, read.layers))} can't be joined by "
            f"join={join}, they are {sizes}: name one layer, or layers of the same size"
        )


def _check_there(shape: TokenShape, name: str, label: str) -> None:
    if name in MODEL_VECTORS and name not in shape.vectors:
        raise IceprobeError(f"probe {label!r}: {no_vector(name, shape.vectors)}")
    if name in ("class", "class+patches") and not shape.has_class:
        raise IceprobeError(
            f"probe {label!r} reads a class token and the backbone has no class token: "
            f"take input={'mean' if name == 'class' else 'patches'}"
        )


def _of(shape: TokenShape, layer: int | None) -> TokenShape:
    return shape.layers[layer] if layer is not None and isinstance(shape, JoinedShape) else shape


def _width(shape: TokenShape, name: str) -> int:
    return shape.vectors.get(name, shape.dim)
