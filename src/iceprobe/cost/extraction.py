"""What an extraction will cost, before it begins: bytes, memory, FLOPs, seconds.

Sizes are exact. Seconds come from running the real pipeline (decoding and forward pass) on images of
the data set for a few seconds; they hold for the machine and its load at that moment. On paper, a number
of images and a speed replace a data set or a machine that isn't there.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel

from iceprobe.backbones.native import NativePreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import ArraySplit, Data, Dataset
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.object_storage import located
from iceprobe.settings import ExtractPlan
from iceprobe.store.decoded_images import decode_threads
from iceprobe.store.destinations import bytes_missing, find_finished, free_bytes
from iceprobe.store.filling import WAITING
from iceprobe.store.format import (
    MANIFEST,
    BackboneRecord,
    DatasetRecord,
    ExtractionSettings,
    Manifest,
    SplitRecord,
    read_manifest,
)
from iceprobe.store.layout import chosen_rows, patch_bytes, shard_bytes, split_layout, token_layout
from iceprobe.store.pipeline import extracted_batches
from iceprobe.store.request import choose_device, describe, make_settings
from iceprobe.store.shards import LENGTH
from iceprobe.store.work import plan_work

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

CPU_BATCH = 8  # images a measured pass on a processor, where speed hardly depends on it


class Plan(BaseModel):
    """What an extraction will cost.

    Attributes:
        store: folder that the store has or will have, a URL on object storage; of several layers, the
            folder of their stores.
        images: images of each split, whatever the number of their views.
        store_bytes: of the finished store.
        bytes_to_write: of its shards that are still missing; 0 where it is finished.
        free_bytes: free on that disk; ``None`` for another machine's, and on object storage.
        patch_bytes: of each split's patch tokens in all views: the memory that holds them for fitting.
        memory_bytes: of the host that extraction takes: weights and batches in flight.
        memory_available: bytes of memory free now; ``None`` where the system doesn't say, and for
            another machine.
        flops: of all forward passes, 2 × multiply-accumulates.
        flops_per_image: of one.
        images_per_second: measured or given, views counted one by one; ``None`` where nothing is
            left to extract.
        seconds: that the missing shards will take.
        tokens_per_image: mean number of patch tokens, where images differ: of those measured, or of the
            store that is there; ``None`` where they don't, or nothing tells it.
    """

    store: Path | str
    images: dict[str, int]
    store_bytes: int
    bytes_to_write: int
    free_bytes: int | None
    patch_bytes: dict[str, int]
    memory_bytes: int
    memory_available: int | None
    flops: int
    flops_per_image: int
    images_per_second: float | None
    seconds: float
    tokens_per_image: int | None = None

    @property
    def fits_disk(self) -> bool:
        return self.free_bytes is None or self.bytes_to_write <= self.free_bytes

    @property
    def fits_memory(self) -> bool:
        return self.memory_available is None or self.memory_bytes <= self.memory_available


@takes(ExtractPlan, root="features")
def plan(
    backbone: "Backbone",
    dataset: Data | int,
    features: str | Path | None = "features/",
    *,
    call: ExtractPlan,
) -> Plan:
    """What ``extract`` with the same arguments would cost; writes nothing.

    Of a backbone that reads several layers: of all their stores, from one pass.

    Args:
        dataset: or, on paper, only its number of training images: they aren't decoded, and boxes
            and masks aren't counted.
        features: where a store that is there already is looked for; ``None`` looks for none, as of
            a live fit.
        settings: or options as keywords, as of ``extract``, and how it is measured: ``measure_seconds`` of
            the pipeline, with 0 only one batch after the first; or ``images_per_second`` of another
            machine. Nothing is measured then, and the free disk and memory of this one don't count.

    Raises:
        IceprobeError: for arguments that ``extract`` would refuse, a number of images below 1, or
            a speed that isn't positive.
    """
    if not isinstance(dataset, int):
        dataset = load_dataset(dataset)
    target = choose_device(call.device)
    settings = make_settings(call, target.type)
    here = call.images_per_second is None
    place, paths, manifests = located(features or "."), [], []
    for one in backbone.per_layer():
        if isinstance(dataset, int):
            images = dataset if call.limit is None else min(call.limit, dataset)
            manifest = _on_paper(one, images, settings)
            path = place / manifest.folder
        else:
            wanted = describe(one, dataset, settings, splits=call.splits, limit=call.limit)
            path = (features and find_finished(place, wanted)) or place / wanted.folder
            manifest = read_manifest(path) if features and (path / MANIFEST).exists() else wanted
            manifest = manifest.measured()
        paths.append(path)
        manifests.append(manifest)
    path = place if len(paths) > 1 else paths[0]
    views_of, splits = manifests[0].settings.views_of, list(manifests[0].splits)
    # An image counts once for each of its views, and in one pass for all layers that lack it.
    left = sum(views_of(name) * max(one.rows_missing(name) for one in manifests) for name in splits)
    flops = 2 * (backbone.to(target) if here else backbone).macs()
    rate, tokens = call.images_per_second if left else None, None
    if left and here:
        rate, tokens = _measure(
            backbone, dataset, manifests[0], target, call.workers, call.measure_seconds
        )
    elif manifests[0].shape.ragged and not left:
        tokens = manifests[0].shape.num_tokens
    if tokens is not None:
        manifests = [
            one.model_copy(update={"shape": one.shape.of_mean(tokens)}) for one in manifests
        ]
    patches = {
        name: sum(
            views_of(name)
            * one.splits[name].images
            * patch_bytes(token_layout(one.shape, one.settings), one.shape.num_tokens)
            for one in manifests
        )
        for name in splits
    }
    manifest = manifests[0]
    missing = sum(map(bytes_missing, manifests))
    bytes_there = sum(file.bytes for one in manifests for file in one.files)
    return Plan(
        store=path if isinstance(path, Path) else str(path),
        images={name: split.images for name, split in manifest.splits.items()},
        store_bytes=bytes_there + missing,
        bytes_to_write=missing,
        free_bytes=free_bytes(path) if here and isinstance(path, Path) else None,
        patch_bytes=patches,
        memory_bytes=_memory_bytes(backbone, manifests, target, call.workers),
        memory_available=available_memory() if here else None,
        flops=flops * left,
        flops_per_image=flops,
        images_per_second=rate,
        seconds=left / rate if rate else 0.0,
        tokens_per_image=tokens,
    )


def _on_paper(backbone: "Backbone", images: int, settings: ExtractionSettings) -> Manifest:
    """The manifest of a store of so many training images, of which nothing else is known."""
    if images < 1:
        raise IceprobeError(f"images={images}: take a number of images above 0")
    return Manifest(
        backbone=BackboneRecord.of(backbone, identity={}),
        dataset=DatasetRecord(spec="", name=f"{images}-images", classes=[]),
        settings=settings,
        shape=backbone.shape,
        splits={"train": SplitRecord(images=images, listed=images, content={}, boxes=False)},
        versions={},
    )


def _memory_bytes(
    backbone: "Backbone", manifests: Sequence[Manifest], device: torch.device, workers: int
) -> int:
    """Weights (if they are on the host), images decoded ahead, batches of all layers in flight.

    An image counts once for each of its views. Masks and depth maps are kept until their shard is written.
    """
    manifest = manifests[0]
    settings, preprocessing = manifest.settings, backbone.preprocessing
    example = 4 * preprocessing.numbers
    decoded = 2 * workers if workers else decode_threads(device.type == "cuda") + 1
    stored = sum(
        shard_bytes(
            1,
            max((split_layout(one, name) for name in one.splits), key=len),
            tokens=one.shape.longest,
        )
        for one in manifests
    )
    # the backbone's own, float32
    made = sum(4 * one.shape.longest * one.shape.dim for one in manifests)
    weights = [*backbone.parameters(), *backbone.buffers()] if device.type == "cpu" else []
    views = max(map(settings.views_of, manifest.splits))
    in_flight = views * ((decoded + 1) * example + (WAITING + 2) * stored) + made
    pixel_bytes = max((one.masks + 4 * one.depths for one in manifest.splits.values()), default=0)
    # Of maps: the parts, then the whole.
    side = getattr(preprocessing.frame, "image_size", 0)
    maps = 2 * settings.shard_images * pixel_bytes * side**2
    return sum(tensor.nbytes for tensor in weights) + settings.batch_size * in_flight + maps


def _measure(
    backbone: "Backbone",
    dataset: Dataset | int,
    manifest: Manifest,
    device: torch.device,
    workers: int,
    seconds: float,
) -> tuple[float, int | None]:
    """Images a second of decoding and forward pass, after a first batch that isn't counted.

    And their mean number of tokens, where images differ.
    """
    settings = manifest.settings
    if device.type == "cpu":
        settings = settings.model_copy(update={"batch_size": min(CPU_BATCH, settings.batch_size)})
    if isinstance(dataset, int):
        preprocessing = backbone.preprocessing
        if isinstance(preprocessing, NativePreprocessing):  # squares of nearly the most tokens
            side = preprocessing.patch_size * math.isqrt(preprocessing.max_tokens)
        else:
            side = backbone.of_images("a plan for a number of images").image_size
        dataset = _noise(settings.batch_size, side)
        manifest = _on_paper(backbone, settings.batch_size, settings)
    name = max(manifest.splits, key=lambda split: manifest.splits[split].images)
    record = manifest.splits[name]
    rows = chosen_rows(record.listed, record.images)
    rows = np.resize(rows, max(len(rows), 2 * settings.batch_size))  # at least two batches
    shards = range(-(-len(rows) // settings.shard_images))
    work = [item for number in shards for item in plan_work(name, rows, number, settings)]
    batches = extracted_batches(
        backbone,
        dataset.splits,
        work,
        settings=settings,
        device=device,
        workers=workers,
        on_bad_image="pass over",
    )
    images, started = 0, 0.0
    lengths: list[float] = []
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            lengths += [float(n) for n in batch.layers[0][0].get(LENGTH, ())]
            if number == 0:
                started = time.perf_counter()
                continue
            images += batch.work.views * len(batch.work.rows)
            if (elapsed := time.perf_counter() - started) > seconds:
                break
    mean = max(1, round(sum(lengths) / len(lengths))) if lengths else None
    return images / max(elapsed, 1e-9), mean


def _noise(images: int, side: int) -> Dataset:
    """Decoded grey images of the size that the backbone takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side), dtype=np.uint8)
    names = [f"{row}" for row in range(images)]
    split = ArraySplit("train", pixels, np.zeros(images), names)
    return Dataset("", "noise", ["noise"], {"train": split})
