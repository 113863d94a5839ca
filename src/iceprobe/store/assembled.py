"""Tokens made elsewhere and their data set → a store."""

import contextlib
from collections.abc import Mapping

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec, parse_spec
from iceprobe.core.text import shown
from iceprobe.datasets.base import Dataset
from iceprobe.settings import SHARD_IMAGES
from iceprobe.store.format import BackboneRecord, ExtractionSettings, ShardRecord
from iceprobe.store.layout import DTYPES
from iceprobe.store.reader import Store
from iceprobe.store.request import describe_as
from iceprobe.store.shard_writer import counted
from iceprobe.store.split import StoredSplit
from iceprobe.tokens import GIVEN, TokenShape


def given_store(
    dataset: Dataset,
    splits: Mapping[str, StoredSplit],
    shape: TokenShape,
    dtype: torch.dtype,
    hashes: Mapping[str, str],
    backbone: str,
    shard_images: int = SHARD_IMAGES,
) -> Store:
    """The store of ``splits``, which isn't on disk.

    Args:
        dataset: the examples.
        splits: their tokens.
        shape: of one example's.
        dtype: as they are stored.
        hashes: of the tokens of each split: the identity of what made them.
        backbone: name of that in tables.
        shard_images: examples a shard, should it be saved.
    """
    record = BackboneRecord(
        spec=given_spec("backbone", backbone),
        name=backbone,
        paradigm="unknown",
        pooled_class=False,
        identity={
            "tokens": dict(hashes),
            "grid": shape.grid,
            "has_class": shape.has_class,
            **({} if shape.parts == 1 else {"parts": shape.parts}),
        },
        preprocessing={},
    )
    stored_as = next(name for name, one in DTYPES.items() if one == dtype)
    several = any(split.has_patches for split in splits.values())
    settings = ExtractionSettings(
        tokens=stored_as,  # type: ignore[arg-type]
        patches=several,
        shard_images=shard_images,
    )
    manifest = describe_as(record, shape, dataset, settings, splits=None, limit=None)
    for name, split in splits.items():
        n = len(split)
        tokens = None if split.lengths is None else counted(torch.from_numpy(split.lengths))
        whole = ShardRecord(file="", start=0, stop=n, images=n, bytes=0, sha256="", tokens=tokens)
        manifest.splits[name].shards = [whole]
    return Store(manifest, splits, dataset=dataset)


def is_given(spec: str) -> bool:
    """Whether a backbone's spec is of tokens that somebody extracted: nothing can be loaded by it."""
    return parse_spec(spec).kind == GIVEN


def given_spec(option: str, name: str) -> str:
    """The spec of a name, which must be one."""
    with contextlib.suppress(IceprobeError):
        if parse_spec(f"{GIVEN}:{name}") == Spec(GIVEN, name):
            return f"{GIVEN}:{name}"
    raise IceprobeError(f"{option}={shown(name)}: give a name without '?'")
