"""A request → the manifest of its store, without shards.

Importing this doesn't import torch: whether a run is finished is checked without it.
"""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from iceprobe.backbones.kinds import plural
from iceprobe.backbones.strengths import STRENGTHS
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.token_split import check_images
from iceprobe.machine.processes import world
from iceprobe.settings import Extraction, Live
from iceprobe.store.format import (
    FOLDS,
    TRAIN,
    BackboneRecord,
    DatasetRecord,
    ExtractionSettings,
    Manifest,
    SplitRecord,
)
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from iceprobe.backbones.base import Backbone


def make_settings(asked: Extraction, device: str) -> ExtractionSettings:
    """The options of an extraction that change the bytes stored; of ``cuda:1`` only the type.

    Raises:
        IceprobeError: for an augmentation without views.
    """
    augmentation = asked.augmentation or "paper"
    if not asked.views and augmentation != "paper":
        raise IceprobeError(
            f"augmentation={augmentation} without augmented views: give views as well, --views 4"
        )
    return ExtractionSettings(
        forward_dtype=asked.forward_dtype,
        tokens=asked.tokens,
        patches=asked.patches,
        batch_size=asked.forward_batch_size,
        # A shard smaller than a batch would shorten the batches.
        shard_images=max(asked.shard_images, asked.forward_batch_size),
        device=device.partition(":")[0],
        augmented_views=asked.views,
        augmentation=augmentation if asked.views else None,
        crop="clamped" if asked.views and STRENGTHS[augmentation].clamped else None,
    )


def live_settings(asked: Live, device: str) -> ExtractionSettings:
    """The same for live tokens; without augmentation every epoch sees the evaluation view."""
    stored = Extraction(
        forward_batch_size=asked.forward_batch_size,
        forward_dtype=asked.forward_dtype,
        tokens=asked.tokens,
        shard_images=asked.forward_batch_size,
        views=0 if asked.augmentation is None else 1,
        augmentation=asked.augmentation,
    )
    return make_settings(stored, device).model_copy(update={"live": True, "augmented_views": 0})


def as_backbone(backbone: "Backbone | nn.Module | str") -> "Backbone":
    """``backbone``, loaded if it is a spec string or another module.

    Raises:
        IceprobeError: as :func:`iceprobe.load_backbone`, and for any other object.
    """
    from torch import nn

    from iceprobe.backbones import Backbone, load_backbone

    if isinstance(backbone, Backbone):
        return backbone
    if not isinstance(backbone, str | nn.Module):
        raise IceprobeError(
            f"backbone={shown(backbone)}: give a spec string, an nn.Module, or what "
            "iceprobe.load_backbone(…) gives"
        )
    return load_backbone(backbone)


def choose_device(device: "str | torch.device | None") -> "torch.device":
    """The device given, by default the GPU if there is one.

    Raises:
        IceprobeError: if there is no such device.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        raise IceprobeError(f"unknown device {shown(device)}: take cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise IceprobeError(f"device {shown(device)}: no GPU is visible to torch here, take cpu")
    try:
        # A device without memory (meta) can't return the zero.
        torch.zeros(1, device=world().device(chosen)).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise IceprobeError(f"device {shown(device)} can't be used here: take cpu") from error
    return chosen


def describe(
    backbone: "Backbone",
    dataset: Dataset,
    settings: ExtractionSettings,
    *,
    splits: Sequence[str] | None,
    limit: int | None,
) -> Manifest:
    """The manifest of the store asked for, before anything is extracted.

    Args:
        backbone, dataset: what the tokens are made from.
        settings: of the extraction.
        splits: names, by default all of the data set's.
        limit: at most so many images per split.

    Raises:
        IceprobeError: if the backbone can't read such examples, a split is missing or empty, or there are
            views but no training split.
    """
    check_images(dataset)
    backbone.check_reads(dataset)
    check_augmented(backbone, settings.augmentation)
    record = BackboneRecord.of(backbone)
    return describe_as(record, backbone.shape, dataset, settings, splits=splits, limit=limit)


def check_augmented(backbone: "Backbone", strength: str | None) -> None:
    """Refuse random views of a strength, if there are none of the examples that the backbone reads."""
    if strength is not None and not backbone.preprocessing.augmented:
        read = plural(backbone.preprocessing.kind)
        own = " of their own shape" * (backbone.preprocessing.kind == "image")
        raise IceprobeError(
            f"augmentation={strength}: random views are of images of one size and of clips, and "
            f"backbone {backbone.spec!r} reads {read}{own}: leave it out"
        )


def describe_as(
    backbone: BackboneRecord,
    shape: TokenShape,
    dataset: Dataset,
    settings: ExtractionSettings,
    *,
    splits: Sequence[str] | None,
    limit: int | None,
) -> Manifest:
    """As :func:`describe`, for a backbone that isn't loaded."""
    names = list(dataset.splits if splits is None else splits)
    if settings.augmented_views and TRAIN not in names:
        raise IceprobeError(
            f"views={settings.augmented_views} are of the split {TRAIN!r}, and {dataset.name} is read "
            f"without it ({', '.join(names)}): take views=0"
        )
    coords = max((s.coords for name, s in dataset.splits.items() if name in names), default=0)
    return Manifest(
        backbone=backbone,
        dataset=DatasetRecord(
            spec=dataset.spec,
            name=dataset.name,
            classes=[str(name) for name in dataset.classes],
            headline=dataset.headline,
            assumed=list(dataset.assumed),
            reading=next((r.said() for s in dataset.splits.values() if (r := s.reading)), {}),
            task=dataset.task,
            units=list(dataset.units),
            group=dataset.group,
            fold=dataset.fold,
            slices=list(dataset.slices),
            values={
                name: [str(value) for value in column.values]
                for split in dataset.splits.values()
                for name, column in split.columns.items()
            },
            maps={name: list(others) for name, others in dataset.maps.items()},
        ),
        settings=settings,
        shape=replace(shape, coords=coords) if coords else shape,
        splits={
            name: _describe_split(
                dataset, name, limit, native="max_tokens" in backbone.preprocessing
            )
            for name in names
        },
        versions={"python": platform.python_version(), "torch": version("torch")},
    )


def _describe_split(
    dataset: Dataset, name: str, limit: int | None, native: bool = False
) -> SplitRecord:
    """Of images of their own shape (``native``) nothing reads depth maps: they aren't stored."""
    if name not in dataset.splits:
        raise IceprobeError(unknown(f"split of {dataset.name}", name, dataset.splits))
    if name == FOLDS:
        raise IceprobeError(
            f"split {name!r} of {dataset.spec}: out-of-fold records are called so, give it another name"
        )
    split = dataset.splits[name]
    if len(split) == 0:
        raise IceprobeError(
            f"split {name!r} of {dataset.spec} is empty: it has no {plural(split.kind)}"
        )
    content = {"listing": split.fingerprint(), "labels": _hash(split.labels)}
    if split.boxes is not None:
        content["boxes"] = _hash(split.boxes)
    content |= {f"column {key}": _hash(one.codes) for key, one in split.columns.items()}
    return SplitRecord(
        images=len(split) if limit is None else min(limit, len(split)),
        listed=len(split),
        content=content,
        boxes=split.boxes is not None,
        masks=split.masks,
        depths=split.depths and not native,
        columns=list(split.columns),
    )


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
