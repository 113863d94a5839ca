"""What a store holds of each image, by its manifest: rows, tensors, dtypes, shapes, bytes."""

from collections.abc import Collection

import numpy as np
import torch

from iceprobe.store.format import ExtractionSettings, Manifest, ShardRecord
from iceprobe.store.shards import CHECK_BYTES, HEADER_BYTES
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import JoinedShape, TokenShape, at_layer, without_layer

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # of one image: dtype and shape by name

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

    Only the evaluation view (0) has boxes, masks and depth maps.
    """
    record, layout = manifest.splits[name], token_layout(manifest.shape, manifest.settings)
    task, outputs = get_task(manifest.dataset.task), len(manifest.dataset.classes)
    layout["label"] = (getattr(torch, task.target_dtype), task.target_shape(outputs))
    layout["index"] = (torch.int64, ())
    layout |= {COLUMN + column: (torch.int64, ()) for column in record.columns}
    if record.boxes and not view:
        layout["box"] = (torch.float32, (4,))
    if record.masks and not view:
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
        if file.bytes != shard_bytes(shard.images, layout, checked=bool(file.parts)):
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
    if settings.patches:
        layout["patches"] = (of_patches, (shape.num_tokens, shape.dim))
        if of_patches is torch.int8:
            layout["scales"] = (torch.float32, (shape.num_tokens,))
    layout["prefix"] = (of_prefix, (shape.num_prefix, shape.dim))
    layout["mean"] = (torch.float32, (shape.dim,))
    return layout | {name: (torch.float32, (width,)) for name, width in shape.vectors.items()}


def patch_bytes(layout: Layout) -> int:
    """Bytes of one image's patch tokens with their scales, in all layers; 0 if none are stored."""
    return image_bytes(layout, patch_tensors(layout))


def patch_tensors(layout: Layout) -> list[str]:
    """Names of the patch tokens and their scales, in all layers."""
    return [name for name in layout if without_layer(name) in ("patches", "scales")]


def layout_read(layout: Layout, names: Collection[str]) -> Layout:
    """``layout`` with the patch tokens of those layers only that ``names`` of tensors are of."""
    unread = {
        name for name in patch_tensors(layout) if name.replace("scales", "patches") not in names
    }
    return {name: form for name, form in layout.items() if name not in unread}


def image_bytes(layout: Layout, names: Collection[str] | None = None) -> int:
    """Bytes of one image in those of the named tensors that are stored; by default in all."""
    return sum(
        dtype.itemsize * torch.Size(shape).numel()
        for name, (dtype, shape) in layout.items()
        if names is None or name in names
    )


def shard_bytes(images: int, layout: Layout, shards: int = 1, *, checked: bool = True) -> int:
    """Bytes of shards that hold ``images`` images together, of one image's ``layout``.

    ``checked``: whether each image's patches have a check, as in all shards written now.
    """
    check = CHECK_BYTES if checked and "patches" in layout else 0
    return shards * HEADER_BYTES + images * (image_bytes(layout) + check)
