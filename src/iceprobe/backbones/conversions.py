"""timm's own conversions of published files, with every change of shape reported or refused.

A conversion renames weights, and silently resizes position tables and patch embeddings. Here a
resampled position table is reported. A patch embedding is resampled only with
``resample=patch_embed``. Anything else keeps its shape and is refused later.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.backbones import efficientnet_names
from iceprobe.backbones.checkpoints import Convert
from iceprobe.core.errors import IceprobeError

_RESAMPLED = "resample_patch_embed"
_TABLES = (
    "resample_abs_pos_embed",
    "resample_abs_pos_embed_nhwc",
    "resize_rel_pos_bias_table",
    "resize_rel_pos_bias_table_levit",
)
_POSITIONS = ("pos", "relative", "attention_biases")  # in the names of position tables
_SIZES = ("img_size", "image_size", "input_size")
_LEAST_COSINE = 0.3  # of neighbours, on average, if a table shows its grid


def conversion(
    model: nn.Module, path: str, resample: bool, content: Any, assumed: list[str]
) -> Convert:
    """A function that converts the weights of a file to the names and sizes of a model of timm.

    Args:
        resample: whether the kernel of the patch embedding may be resampled.
        content: of the file at ``path``, whose settings may state the image size.
        assumed: gets a line for each resampled weight.
    """
    family: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if isinstance(family, FunctionType):
        family = _rebound(family, _observers(path, resample, assumed))
    if isinstance(model, Beit):
        family = partial(_convert_beit, convert=family)

    def convert(weights: dict[str, Tensor]) -> Mapping[str, Tensor]:
        if "base_model.patch_generator.embedder.weight" in weights:  # RADIO's training names
            weights = {
                name.replace("base_model.", "radio_model.model.", 1): tensor
                for name, tensor in weights.items()
                if name.startswith("base_model.")
            }
        if efficientnet_names.of_the_port(weights):
            weights = efficientnet_names.renamed(weights, model, path)
        _check_grid(model, weights, content, path, assumed)
        before = dict(weights)
        after = weights if family is None else family(dict(weights), model=model)
        return _as_they_were(before, dict(after), resample, path, assumed)

    return convert


def _rebound(function: FunctionType, observers: Mapping[str, Callable[..., Any]]) -> FunctionType:
    """A copy of ``function``, and of its file's functions, that calls ``observers`` by their names.

    timm's module itself doesn't change.
    """
    names = dict(function.__globals__)
    for name, value in function.__globals__.items():
        if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
            names[name] = _with_globals(value, names)
    names.update({name: found for name, found in observers.items() if name in names})
    return _with_globals(function, names)


def _with_globals(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _observers(path: str, resample: bool, assumed: list[str]) -> dict[str, Any]:
    import timm.layers

    def watched(
        function: Callable[..., Tensor], table: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        found = function(table, *args, **options)
        if found.shape != table.shape:
            note_resampled(assumed, f"a position table of {path}", table, found)
        return found

    def squared(table: Tensor, new_size: Any, old_size: Any = None, **options: Any) -> Tensor:
        count = table.shape[1] - options.get("num_prefix_tokens", 1)
        if old_size is None and math.isqrt(max(count, 0)) ** 2 != count:
            return table  # no square grid, or other prefix tokens: refused for its shape
        return watched(timm.layers.resample_abs_pos_embed, table, new_size, old_size, **options)

    observers: dict[str, Any] = {
        name: partial(watched, getattr(timm.layers, name))
        for name in _TABLES
        if hasattr(timm.layers, name)
    }
    observers[_TABLES[0]] = squared
    if not resample:
        observers[_RESAMPLED] = lambda kernel, *args, **options: kernel
    return observers


def _as_they_were(
    before: Mapping[str, Tensor],
    after: dict[str, Tensor],
    resample: bool,
    path: str,
    assumed: list[str],
) -> dict[str, Tensor]:
    """Report what a conversion resized by other means, or undo it so that it is refused."""
    reported = " ".join(assumed)
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.shape == new.shape:
            continue
        if old.numel() == new.numel():
            if old.ndim == new.ndim:  # the same numbers in other rows and columns
                after[name] = old
        elif resample and "patch_embed" in name:
            note_resampled(assumed, f"{name} of {path}", old, new)
        elif not any(word in name for word in _POSITIONS):
            after[name] = old
        elif _sizes(old, new) not in reported:
            note_resampled(assumed, f"{name} of {path}", old, new)
    return after


def note_resampled(assumed: list[str], what: str, old: Tensor, new: Tensor) -> None:
    """Add a line to ``assumed``, once."""
    line = f"{what} is resampled ({_sizes(old, new)})"
    if line not in assumed:
        assumed.append(line)


def _sizes(old: Tensor, new: Tensor) -> str:
    return " to ".join("x".join(map(str, tensor.shape)) for tensor in (old, new))


def _check_grid(
    model: Any, weights: Mapping[str, Tensor], content: Any, path: str, assumed: list[str]
) -> None:
    """Refuse a position table whose grid isn't square: its rows would be mixed up."""
    name, table = _position_table(model, weights)
    if table is None:
        return
    side = math.isqrt(len(table))
    patch = max(getattr(getattr(model, "patch_embed", None), "patch_size", (1,)))
    for rows, columns in _stated_sizes(content):
        if rows != columns and (rows // patch) * (columns // patch) == len(table):
            raise IceprobeError(
                f"checkpoint {path!r} was trained on images of {rows}x{columns}, and iceprobe "
                "reads square ones: give the model through python: with its own tokens(images)"
            )
    if side * side != len(table):
        return
    grid = _seen_grid(table)
    if grid is None:
        assumed.append(f"the {len(table)} positions in {name} of {path} lie on {side}x{side}")
    elif grid != (side, side):
        raise IceprobeError(
            f"checkpoint {path!r}: the {len(table)} positions in {name} lie on {grid[0]}x{grid[1]} "
            f"(rows that are neighbours there are alike), not on {side}x{side}: iceprobe reads "
            "square images; give the model through python: with its own tokens(images)"
        )


def _position_table(model: Any, weights: Mapping[str, Tensor]) -> tuple[str, Tensor | None]:
    """The absolute position table as ``(N, D)`` without prefix tokens."""
    for name, table in weights.items():
        if name.rpartition(".")[2] not in ("pos_embed", "positional_embedding"):
            continue
        if table.ndim not in (2, 3) or table.is_meta or not table.is_floating_point():
            continue
        rows = table.reshape(-1, table.shape[-1]).float()
        for prefix in {0, 1, getattr(model, "num_prefix_tokens", 1)}:
            if len(rows) - prefix > 1 and math.isqrt(len(rows) - prefix) ** 2 == len(rows) - prefix:
                return name, rows[prefix:]
        return name, rows
    return "", None


def _seen_grid(table: Tensor) -> tuple[int, int] | None:
    """The grid that a table of positions shows, or ``None``.

    Vertical neighbours are similar, so the true row length is the one with the most similar
    neighbours.
    """
    count = len(table)
    if not torch.isfinite(table).all():
        return None
    rows = F.normalize(table - table.mean(0), dim=1)
    lengths = [length for length in range(2, count // 2 + 1) if count % length == 0]
    scores = {n: (rows[:-n] * rows[n:]).sum(1).mean().item() for n in lengths}
    if not scores:
        return None
    best, *others = sorted(scores, key=scores.__getitem__, reverse=True)
    if scores[best] < _LEAST_COSINE or (others and scores[best] - scores[others[0]] < 0.02):
        return None
    return count // best, best


def _stated_sizes(content: Any, depth: int = 4) -> Iterator[tuple[int, int]]:
    """Image sizes (rows, columns) in the settings saved with the weights."""
    fields = content if isinstance(content, Mapping) else getattr(content, "__dict__", {})
    for key, value in fields.items():
        if isinstance(value, Tensor) or not isinstance(key, str):
            continue
        if key.lower() in _SIZES and isinstance(value, list | tuple) and len(value) in (2, 3):
            rows, columns = value[-2:]
            if isinstance(rows, int) and isinstance(columns, int):
                yield rows, columns
        elif depth and (isinstance(value, Mapping) or hasattr(value, "__dict__")):
            yield from _stated_sizes(value, depth - 1)


def _convert_beit(
    weights: dict[str, Tensor], model: Any, convert: Callable[..., Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Pre-training checkpoints of BEiT, BEiTv2 and SimMIM with the names of timm's classifiers.

    In pre-training, all blocks share one table of relative positions, and the final norm comes
    before pooling. timm has a table in every block and, in models with mean pooling, the norm after
    it. Neither changes a token that is read without the norm.
    """
    shared = weights.pop("rel_pos_bias.relative_position_bias_table", None)
    weights.pop("rel_pos_bias.relative_position_index", None)
    if shared is not None:
        for number in range(len(model.blocks)):
            weights[f"blocks.{number}.attn.relative_position_bias_table"] = shared
    if isinstance(model.norm, nn.Identity):
        for name in ("weight", "bias"):
            if f"norm.{name}" in weights:
                weights[f"fc_norm.{name}"] = weights.pop(f"norm.{name}")
    return convert(weights, model=model)
