"""Tokens kept in memory, for evaluations during pre-training: nothing is written."""

import itertools
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data, Dataset
from iceprobe.datasets.pixels import Seen
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.processes import World
from iceprobe.settings import ExtractCall
from iceprobe.store.format import Manifest, ShardRecord
from iceprobe.store.kept_images import KeptImages
from iceprobe.store.layout import (
    COLUMN,
    Layout,
    chosen_rows,
    image_bytes,
    is_ragged,
    split_layout,
)
from iceprobe.store.noted import log_file_assumptions, noted
from iceprobe.store.pipeline import extracted_batches
from iceprobe.store.reader import Store
from iceprobe.store.request import choose_device, describe, make_settings
from iceprobe.store.shard_writer import counted
from iceprobe.store.shards import LENGTH
from iceprobe.store.split import Held, memory_split
from iceprobe.store.work import plan_work

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone


@takes(ExtractCall)
def extract_in_memory(
    backbone: "Backbone", dataset: Data, kept: KeptImages | None = None, *, call: ExtractCall
) -> Store:
    """As :func:`iceprobe.extract`, into memory: the store's ``path`` is ``None``.

    Args:
        kept: decoded images, for the next extraction from the same data.
        settings: or options as keywords, as of ``extract``; ``device`` is by default the backbone's.

    Raises:
        IceprobeError: if the tokens don't fit into the available memory, an image can't be read, or
            tokens are not finite.
    """
    store = extract_together(backbone, dataset, kept, World(), settings=call)
    assert store is not None  # of this process alone
    return store


@takes(ExtractCall)
def extract_together(
    backbone: "Backbone",
    dataset: Data,
    kept: KeptImages | None,
    processes: World,
    *,
    call: ExtractCall,
) -> Store | None:
    """:func:`extract_in_memory` by several processes, each of which makes the tokens of a part of the images.

    All have the same backbone and data, and call it together. The tokens are those that one process
    makes: batches are the same.

    Args:
        kept: decoded images of this process's part.
        processes: that take part.

    Returns:
        In process 0 the store; in others ``None``.

    Raises:
        IceprobeError: in all of them what one raises; if data differ between processes.
    """
    dataset = load_dataset(dataset)
    target = _device_of(backbone, call)
    manifest = processes.each(lambda: _described(backbone, dataset, target, call, processes))
    processes.agree({name: one.content for name, one in manifest.splits.items()}, "data")
    how = [backbone.preprocessing.as_dict(), manifest.settings.model_dump()]
    processes.agree(how, "preprocessing or options")
    if kept is not None:
        kept.begin(manifest, backbone.preprocessing)
    held = {}
    for name, record in manifest.splits.items():
        part = partial(_extract_part, backbone, dataset, manifest, name, target, call, kept)
        tensors, views, made = processes.each(partial(part, processes))
        record.shards = processes.gather(made)
        whole = _joined(tensors, split_layout(manifest, name), processes)
        behind = memory_split(views, manifest.shape) if views else None
        if processes.main:
            held[name] = memory_split(whole, manifest.shape, behind)
    if not processes.main:
        return None
    log_file_assumptions(manifest)
    return Store(manifest, held, dataset=dataset)


@takes(ExtractCall)
def blank_in_memory(backbone: "Backbone", dataset: Data, *, call: ExtractCall) -> Store:
    """The store that :func:`extract_in_memory` would make, with zeros as tokens that take no memory.

    Targets, groups and names are the data's. So what is asked of the tokens can be checked before they are
    computed. It raises as there, as far as no image is read.
    """
    dataset = load_dataset(dataset)
    manifest = _described(backbone, dataset, _device_of(backbone, call), call)
    held = {}
    for name, record in manifest.splits.items():
        split, rows = dataset.splits[name], chosen_rows(record.listed, record.images)
        tensors = {
            key: [torch.zeros(()).to(dtype).expand(1, *shape[1:])] * len(rows)
            if is_ragged((dtype, shape))
            else torch.zeros(()).to(dtype).expand(len(rows), *shape)
            for key, (dtype, shape) in split_layout(manifest, name).items()
        }
        known = {"label": split.labels, "index": np.arange(record.listed)}
        known |= {COLUMN + column: one.codes for column, one in split.columns.items()}
        tensors |= {key: torch.from_numpy(one[rows]) for key, one in known.items()}
        if LENGTH in tensors:
            tensors[LENGTH] = torch.ones(len(rows), dtype=torch.int64)
        held[name] = memory_split(tensors, manifest.shape)
    return Store(manifest, held, dataset=dataset)


def _device_of(backbone: "Backbone", call: ExtractCall) -> torch.device:
    device: str | torch.device | None = call.device
    if device is None:
        device = next((parameter.device for parameter in backbone.parameters()), None)
    return choose_device(device)


def _described(
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
    call: ExtractCall,
    processes: World | None = None,
) -> Manifest:
    """The manifest, of a store that memory holds; process 0 of several holds all of it, the others a part."""
    settings = make_settings(call, device.type)
    manifest = describe(backbone, dataset, settings, splits=call.splits, limit=call.limit)
    needed, available = bytes_held(manifest), available_memory()
    if processes is not None and processes.size > 1:  # parts, and in process 0 the whole
        parts = needed * processes.local_size // processes.size
        needed = needed + parts if processes.main else needed // processes.size
    if available is not None and needed > available:
        raise IceprobeError(
            f"the tokens take {needed / 1e9:,.2f} GB of memory and {available / 1e9:,.2f} GB are "
            "available: take a limit, fewer views, tokens=int8, or extract to disk (iceprobe.extract)"
        )
    return manifest


def bytes_held(manifest: Manifest) -> int:
    """Bytes of all the tensors of the store; where examples differ in length, of the longest at most."""
    longest = manifest.shape.longest
    return sum(
        record.images * image_bytes(split_layout(manifest, name, view), tokens=longest)
        for name, record in manifest.splits.items()
        for view in range(manifest.settings.views_of(name))
    )


def _extract_part(
    backbone: "Backbone",
    dataset: Dataset,
    manifest: Manifest,
    name: str,
    device: torch.device,
    call: ExtractCall,
    kept: KeptImages | None,
    processes: World,
) -> tuple[dict[str, Held], dict[str, Held], ShardRecord]:
    """This process's part of a split: tensors of the evaluation view, those of the others, its record."""
    record, settings = manifest.splits[name], manifest.settings
    listed = chosen_rows(record.listed, record.images)
    augmented = settings.views_of(name) - 1
    assert not augmented or processes.size == 1
    work = [
        item
        for number in manifest.missing(name)
        for item in plan_work(name, listed, number, settings)
    ]
    before = [0, *itertools.accumulate(len(item.rows) for item in work)]
    part = processes.part(len(work))
    start, stop = before[part.start], before[part.stop]
    rows = stop - start

    def empty(view: int, rows: int) -> dict[str, Held]:
        layout = split_layout(manifest, name, view).items()
        return {
            key: [torch.empty(0)] * rows
            if is_ragged((dtype, shape))
            else torch.empty(rows, *shape, dtype=dtype)
            for key, (dtype, shape) in layout
        }

    tensors, views = empty(0, rows), empty(1, augmented * rows)
    images, done, share = 0, 0, 0.0
    skipped: list[str] = []
    seen: list[Seen] = []
    for batch in extracted_batches(
        backbone,
        dataset.splits,
        work[part],
        settings=settings,
        device=device,
        workers=call.workers,
        on_bad_image=call.on_bad_image,
        kept=kept,
    ):
        (made,) = batch.layers
        count = len(batch.tensors["label"])
        for view, one in enumerate(made):
            first = images + max(0, view - 1) * rows
            for key, tensor in one.items():
                held, place = (views if view else tensors)[key], slice(first, first + count)
                if isinstance(held, Tensor):
                    held[place] = tensor
                else:
                    held[place] = apart(tensor, one[LENGTH])
        images, done = images + count, done + len(batch.work.rows)
        skipped += batch.skipped
        seen += batch.seen
        share = max(share, *batch.rounding)
        if call.progress is not None:
            call.progress(f"extract {name}", done, rows)
    taken = ShardRecord(
        file="",
        start=start,
        stop=stop,
        images=images,
        bytes=0,
        sha256="",
        skipped=skipped,
        **noted(seen),
        rounding=share,
    )
    filled = {key: held[:images] for key, held in tensors.items()}
    if isinstance(lengths := filled.get(LENGTH), Tensor):
        taken.tokens = counted(lengths)
    behind = {key: _of_read(held, images, rows) for key, held in views.items()} if augmented else {}
    return filled, behind, taken


def _joined(tensors: dict[str, Held], layout: Layout, processes: World) -> dict[str, Held]:
    """In process 0 the rows of all processes; each tensor of a part is freed when it is sent."""
    if processes.size == 1:
        return tensors
    found: dict[str, Tensor] = {}

    def flat(key: str) -> Tensor:
        (dtype, shape), held = layout[key], tensors.pop(key)
        if isinstance(held, Tensor):
            return held
        return torch.cat([torch.empty(0, *shape[1:], dtype=dtype), *held])

    for key in layout:
        if (whole := processes.joined(processes.each(partial(flat, key)))) is not None:
            found[key] = whole
    lengths = found[LENGTH].tolist() if LENGTH in found else None
    return {
        key: list(one.split(lengths)) if lengths and is_ragged(layout[key]) else one
        for key, one in found.items()
    }


def apart(padded: Tensor, lengths: Tensor) -> list[Tensor]:
    """The tokens of each example of a batch, without padding."""
    return [row[:n].clone() for row, n in zip(padded, lengths.tolist(), strict=True)]


def _of_read(held: Held, images: int, of: int) -> Held:
    """The first ``images`` of each view of ``of``."""
    if images == of:
        return held
    starts = range(0, len(held), of)
    if isinstance(held, Tensor):
        return torch.cat([held[start : start + images] for start in starts])
    return [one for start in starts for one in held[start : start + images]]
