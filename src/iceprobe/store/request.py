"""A request → the manifest of the store that answers it, without shards.

Importing this doesn't import torch: whether a run is finished is found without it.
"""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

import numpy as np

from iceprobe.backbones.strengths import STRENGTHS
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown
from iceprobe.datasets.base import Dataset
from iceprobe.machine.processes import world
from iceprobe.store.format import (
    TRAIN,
    BackboneRecord,
    DatasetRecord,
    Dtype,
    ExtractionSettings,
    Manifest,
    SplitRecord,
    TokenDtype,
)
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from iceprobe.backbones.base import Backbone
    from iceprobe.store.work import OnBadImage


def make_settings(
    *,
    batch_size: int,
    device: str,
    amp: str,
    tokens: str,
    patches: bool,
    shard_images: int,
    views: int = 0,
    augmentation: str = "paper",
) -> ExtractionSettings:
    """Checked settings; ``device="cuda:1"`` counts as ``cuda``.

    Raises:
        IceprobeError: for a dtype or an augmentation there isn't, a size below 1, a negative
            number of views, or an augmentation of none.
    """
    for name, value, dtypes in (
        ("amp", amp, get_args(Dtype)),
        ("tokens", tokens, get_args(TokenDtype)),
    ):
        if value not in dtypes:
            raise IceprobeError(unknown(f"dtype for {name}", value, dtypes))
    for name, size in (("batch_size", batch_size), ("shard_images", shard_images)):
        if size < 1:
            raise IceprobeError(f"{name}={size}: take a number of images above 0")
    if views < 0:
        raise IceprobeError(f"views={views}: take a number of augmented views from 0 up")
    if augmentation not in STRENGTHS:
        raise IceprobeError(unknown("augmentation", augmentation, STRENGTHS))
    if not views and augmentation != "paper":
        raise IceprobeError(
            f"augmentation={augmentation} without augmented views: give views as well, --views 4"
        )
    return ExtractionSettings(
        amp=amp,  # type: ignore[arg-type]
        tokens=tokens,  # type: ignore[arg-type]
        patches=patches,
        batch_size=batch_size,
        # A shard below one batch would cut batches short; beyond that the two are independent.
        shard_images=max(shard_images, batch_size),
        device=device.partition(":")[0],
        augmented_views=views,
        augmentation=augmentation if views else None,  # type: ignore[arg-type]
        crop="clamped" if views and STRENGTHS[augmentation].clamped else None,
    )


def live_settings(
    *, batch_size: int, device: str, amp: str, tokens: str, augmentation: str | None
) -> ExtractionSettings:
    """The same for a live store; ``augmentation=None`` is the evaluation view in every epoch."""
    settings = make_settings(
        batch_size=batch_size,
        device=device,
        amp=amp,
        tokens=tokens,
        patches=True,
        shard_images=batch_size,
        views=0 if augmentation is None else 1,
        augmentation=augmentation or "paper",
    )
    return settings.model_copy(update={"live": True, "augmented_views": 0})


def as_backbone(backbone: "Backbone | nn.Module | str") -> "Backbone":
    """``backbone``, loaded where it is a spec string or a module that isn't one yet.

    Raises:
        IceprobeError: as :func:`iceprobe.load_backbone`, or for something else.
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
    """The device asked for, else the GPU where there is one.

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
        torch.zeros(
            1, device=world().device(chosen)
        ).cpu()  # a device without memory (meta) can't give it back
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise IceprobeError(f"device {shown(device)} can't be used here: take cpu") from error
    return chosen


def check_policy(on_bad_image: "OnBadImage") -> None:
    if on_bad_image not in ("fail", "skip"):
        raise IceprobeError(unknown("on_bad_image", on_bad_image, ("fail", "skip")))


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
        backbone, dataset: what meets.
        settings: of the extraction.
        splits: names, all of the data set's by default.
        limit: images a split at most.

    Raises:
        IceprobeError: if a split isn't there or is empty, the limit is below 1, or views are asked
            for and there is no training split.
    """
    record = BackboneRecord.of(backbone)
    return describe_as(record, backbone.shape, dataset, settings, splits=splits, limit=limit)


def describe_as(
    backbone: BackboneRecord,
    shape: TokenShape,
    dataset: Dataset,
    settings: ExtractionSettings,
    *,
    splits: Sequence[str] | None,
    limit: int | None,
) -> Manifest:
    """As :func:`describe`, of a backbone that isn't loaded."""
    if limit is not None and limit < 1:
        raise IceprobeError(f"limit={limit}: take a number of images above 0")
    names = list(dataset.splits if splits is None else splits)
    if settings.augmented_views and TRAIN not in names:
        raise IceprobeError(
            f"views={settings.augmented_views} are of the split {TRAIN!r}, and {dataset.name} is read "
            f"without it ({', '.join(names)}): take views=0"
        )
    return Manifest(
        backbone=backbone,
        dataset=DatasetRecord(
            spec=dataset.spec,
            name=dataset.name,
            classes=[str(name) for name in dataset.classes],
            headline=dataset.headline,
            assumed=list(dataset.assumed),
            reading=next((r.said() for s in dataset.splits.values() if (r := s.reading)), {}),
        ),
        settings=settings,
        shape=shape,
        splits={name: _describe_split(dataset, name, limit) for name in names},
        versions={"python": platform.python_version(), "torch": version("torch")},
    )


def _describe_split(dataset: Dataset, name: str, limit: int | None) -> SplitRecord:
    if name not in dataset.splits:
        raise IceprobeError(unknown(f"split of {dataset.name}", name, dataset.splits))
    split = dataset.splits[name]
    if len(split) == 0:
        raise IceprobeError(f"split {name!r} of {dataset.spec} is empty: it has no images")
    content = {"listing": split.fingerprint(), "labels": _hash(split.labels)}
    if split.boxes is not None:
        content["boxes"] = _hash(split.boxes)
    return SplitRecord(
        images=len(split) if limit is None else min(limit, len(split)),
        listed=len(split),
        content=content,
        boxes=split.boxes is not None,
        masks=split.masks,
    )


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
