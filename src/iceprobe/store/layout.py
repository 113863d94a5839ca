"""What a store holds of each image, by its manifest: rows, tensors, dtypes, shapes, bytes."""

import math
from collections.abc import Collection

import numpy as np
import torch

from iceprobe.store.format import ExtractionSettings, Manifest, ShardRecord
from iceprobe.store.shards import CHECK_BYTES, HEADER_BYTES, LENGTH
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import JoinedShape, TokenShape, at_layer, without_layer

# Of one example: dtype and shape by name. A first axis of -1 is as long as the example has tokens.
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]

COLUMN = "column."  # before the names of columns in a shard
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Dtypes stored of patch tokens and of prefix tokens, by the option `tokens`.
STORED = {name: (dtype, dtype) for name, dtype in DTYPES.items()}
STORED["int8"] = (torch.int8, torch.float16)


def chosen_rows(listed: int, images: int) -> np.ndarray:
    """The first ``images`` of a seeded permutation of ``listed`` rows, in listing order."""
    return np.sort(np.random.Generator(np.random.PCG64(0)).permutation(listed)[:images])


def split_layout(manifest: Manifest, name: str, view: int = 0) -> Layout:
    """Dtype and shape of every tensor stored of one image of a split, in the order of the file.

    Only the evaluation view (0) has boxes, masks and depth maps. Of images of their own shape the masks are
    a ``cover (N,)``: which part of each patch lies on the object.
    """
    record, layout = manifest.splits[name], token_layout(manifest.shape, manifest.settings)
    task, outputs = get_task(manifest.dataset.task), len(manifest.dataset.classes)
    layout["label"] = (getattr(torch, task.target_dtype), task.target_shape(outputs))
    layout["index"] = (torch.int64, ())
    layout |= {COLUMN + column: (torch.int64, ()) for column in record.columns}
    if record.boxes and not view:
        layout["box"] = (torch.float32, (4,))
    if record.masks and not view and "max_tokens" in manifest.backbone.preprocessing:
        layout["cover"] = (torch.float32, (-1,))
    elif record.masks and not view:
        side = manifest.backbone.preprocessing["image_size"]
        layout["mask"] = (torch.uint8, (side, side))
    if record.depths and not view:
        side = manifest.backbone.preprocessing["image_size"]
        layout["depth"] = (torch.float32, (side, side))
    return layout


def misfit(manifest: Manifest, name: str, shard: ShardRecord) -> str | None:
    """How a shard's record contradicts its manifest, or ``None``.

    Sizes of reads and allocations follow from these numbers.
    """
    size = manifest.settings.shard_images
    rows = min(manifest.splits[name].images - shard.start, size)
    if shard.start % size or rows < 1 or shard.stop != shard.start + rows:
        return f"rows {shard.start} to {shard.stop} are no shard of {name}"
    if shard.images + len(shard.skipped) != rows:
        return f"{shard.images} images and {len(shard.skipped)} skipped are not {rows}"
    if len(shard.files) != manifest.settings.views_of(name):
        return f"it has {len(shard.files)} files, a view each"
    for view, file in enumerate(shard.files):
        layout = split_layout(manifest, name, view)
        if (file.tokens is not None) != manifest.shape.ragged:
            return f"{file.file}: examples have {manifest.shape.num_tokens} tokens each, or don't"
        tokens = file.tokens and file.tokens[0]
        if file.bytes != shard_bytes(shard.images, layout, checked=bool(file.parts), tokens=tokens):
            return f"{file.file}: its length doesn't fit {shard.images} images of {name}"
    return None


def token_layout(shape: TokenShape, settings: ExtractionSettings) -> Layout:
    """Dtype and shape of the tensors that a forward pass gives for one image.

    Of several layers side by side they are named by their layer (`iceprobe.tokens.at_layer`).
    """
    if isinstance(shape, JoinedShape):
        return {
            at_layer(name, layer): form
            for layer, one in shape.layers.items()
            for name, form in token_layout(one, settings).items()
        }
    of_patches, of_prefix = STORED[settings.tokens]
    layout: Layout = {}
    count = -1 if shape.ragged else shape.num_tokens
    if settings.patches:
        layout["patches"] = (of_patches, (count, shape.dim))
        if of_patches is torch.int8:
            layout["scales"] = (torch.float32, (count,))
        if shape.coords:
            layout["coords"] = (torch.float32, (count, shape.coords))
    if shape.ragged:
        layout[LENGTH] = (torch.int64, ())
    layout["prefix"] = (of_prefix, (shape.num_prefix, shape.dim))
    layout["mean"] = (torch.float32, (shape.dim,))
    return layout | {name: (torch.float32, (width,)) for name, width in shape.vectors.items()}


def is_ragged(form: tuple[torch.dtype, tuple[int, ...]]) -> bool:
    """Whether a tensor is as long as its example has tokens."""
    return form[1][:1] == (-1,)


def patch_bytes(layout: Layout, tokens: int | None = None) -> int:
    """Bytes of one image's patch tokens with their scales, in all layers; 0 if none are stored."""
    return image_bytes(layout, patch_tensors(layout), tokens)


def patch_tensors(layout: Layout) -> list[str]:
    """Names of the patch tokens and their scales, in all layers."""
    return [name for name in layout if without_layer(name) in ("patches", "scales")]


def layout_read(layout: Layout, names: Collection[str]) -> Layout:
    """``layout`` with the patch tokens of those layers only that ``names`` of tensors are of."""
    unread = {
        name for name in patch_tensors(layout) if name.replace("scales", "patches") not in names
    }
    return {name: form for name, form in layout.items() if name not in unread}


def image_bytes(
    layout: Layout, names: Collection[str] | None = None, tokens: int | None = None
) -> int:
    """Bytes of one image in those of the named tensors that are stored; by default in all.

    ``tokens`` are the image's, and must be given where images differ in them.
    """
    named = [form for name, form in layout.items() if names is None or name in names]
    return sum(dtype.itemsize * _numel(shape, tokens) for dtype, shape in named)


def shard_bytes(
    images: int,
    layout: Layout,
    shards: int = 1,
    *,
    checked: bool = True,
    tokens: int | None = None,
) -> int:
    """Bytes of shards that hold ``images`` images together, of one image's ``layout``.

    ``checked``: whether each image's patches have a check, as in all shards written now. ``tokens`` are
    those of all images together, where images differ in them.
    """
    check = CHECK_BYTES if checked and "patches" in layout else 0
    ragged = {name for name, form in layout.items() if is_ragged(form)}
    fixed = images * (image_bytes(layout, layout.keys() - ragged) + check)
    return shards * HEADER_BYTES + fixed + (image_bytes(layout, ragged, tokens) if ragged else 0)


def _numel(shape: tuple[int, ...], tokens: int | None) -> int:
    if shape[:1] != (-1,):
        return math.prod(shape)
    if tokens is None:
        raise ValueError("examples differ in their number of tokens, and none is given")
    return tokens * math.prod(shape[1:])
