"""Opening a feature store: its manifest, its splits and their files."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from iceprobe.core.checksums import sha256
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown
from iceprobe.core.trust import name_hosts
from iceprobe.datasets.base import Dataset, check_column
from iceprobe.machine.object_storage import RemotePath, located
from iceprobe.machine.open_files import TOO_MANY
from iceprobe.store import remote
from iceprobe.store.buffers import flat_bytes
from iceprobe.store.format import (
    FOLDS,
    MANIFEST,
    TRAIN,
    FileRecord,
    Manifest,
    listed_as,
    read_manifest,
)
from iceprobe.store.joined import joined_splits
from iceprobe.store.joined_manifest import joined_manifest
from iceprobe.store.layout import Layout, misfit, split_layout
from iceprobe.store.recorded import recorded_dataset
from iceprobe.store.shards import Shard, corrupt
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.stratified import alone
from iceprobe.tasks.task import Task
from iceprobe.tokens import HasTokenShape, JoinedShape, TokenShape


class Store(HasTokenShape):
    """The tokens of one backbone on one data set: ``store["train"]``, ``store["test"]``.

    Attributes:
        path: folder of the store, or its place on object storage; ``None`` if it is in memory, or of
            several layers.
        manifest: what the tokens were made from.
        depth: layers of its backbone, where that is known (it isn't written).
        layers: the store of each layer, where it is of several (:meth:`joined`).
        splits: names of its splits.
        shape: of one image's tokens, even if only pooled vectors are stored. Its fields (``dim``,
            ``num_tokens``, ``num_prefix``, ``grid``, ``has_class``, ``vectors``) are attributes too.
    """

    def __init__(
        self,
        manifest: Manifest,
        splits: Mapping[str, "StoredSplit"],
        path: Path | RemotePath | None = None,
        dataset: Dataset | None = None,
        trust: bool = False,
        depth: int | None = None,
        layers: Mapping[int, "Store"] | None = None,
    ):
        self.manifest, self.path = manifest.measured(), path
        self.depth, self.layers = depth, dict(layers or {})
        self._splits, self._dataset, self._trust = dict(splits), dataset, trust
        self._identical: dict[str, NDArray[np.int64]] = {}

    @classmethod
    def joined(
        cls,
        stores: "Sequence[Store | str | Path]",
        *,
        depth: int | None = None,
        trust: bool = False,
    ) -> "Store":
        """Stores of one layer each as one store of several layers; nothing is copied or written.

        Probes that name ``layers=`` read it.

        Args:
            stores: of different layers of one backbone on the same images, of
                :func:`iceprobe.extract_layers`, or their folders.
            depth: layers of the backbone, from which negative numbers count; by default as the
                stores know it. Those that were opened don't.
            trust: as of :meth:`open`.

        Raises:
            IceprobeError: if the stores don't belong together.
        """
        for one in stores:
            if not isinstance(one, Store | str | Path):
                raise IceprobeError(
                    f"{shown(one)} is no feature store: give those of iceprobe.extract_layers(…), or "
                    "their folders"
                )
        opened = [s if isinstance(s, Store) else cls.open(s, trust=trust) for s in stores]
        if not opened:
            raise IceprobeError("no store was given: give those of iceprobe.extract_layers(…)")
        known = [store.depth for store in opened if store.depth is not None]
        depth = known[0] if depth is None and known else depth
        manifest = joined_manifest([store.manifest for store in opened], depth)
        assert isinstance(manifest.shape, JoinedShape)
        return cls(
            manifest,
            joined_splits([store._splits for store in opened], manifest.shape),
            dataset=next((s._dataset for s in opened if s._dataset is not None), None),
            trust=trust or all(store._trust for store in opened),
            depth=depth,
            layers=dict(zip(manifest.shape.layers, opened, strict=True)),
        )

    def _view(self, **changes: Any) -> "Store":
        """A copy with other attributes; nothing is copied or read."""
        view = copy.copy(self)
        vars(view).update(changes)
        return view

    @classmethod
    def open(
        cls,
        path: str | Path | RemotePath,
        *,
        verify: bool = False,
        dataset: Dataset | None = None,
        trust: bool = False,
    ) -> "Store":
        """Open the store in folder ``path``.

        Args:
            path: the folder that holds ``manifest.json``, or a URL of one on object storage.
            verify: read everything once and compare checksums.
            dataset: the data set it was made from, if it is loaded already.
            trust: whether another host that the manifest names may be asked for images.

        Raises:
            IceprobeError: if the store is missing or unfinished, or a shard is corrupt (named).
        """
        path = located(path)
        name_hosts(str(path))
        manifest = read_manifest(path)
        if not manifest.finished:
            raise IceprobeError(
                f"store {path} is unfinished: run the same iceprobe extract again, it goes on "
                "where it was stopped"
            )
        check_sizes(path, manifest)
        splits = {name: _stored_split(path, manifest, name) for name in manifest.splits}
        store = cls(manifest, splits, path, dataset, trust)
        if verify:
            store.verify()
        return store

    def asked_as(self, backbone: str, dataset: str, group: str | None = None) -> "Store":
        """A view of this store under the specs and groups of a run (`Manifest.asked_as`)."""
        return self._view(manifest=self.manifest.asked_as(backbone, dataset, group))

    def __getitem__(self, split: str) -> "StoredSplit":
        if split == FOLDS and TRAIN in self._splits and FOLDS not in self._splits:
            return self._splits[TRAIN]  # out-of-fold predictions are of all of train, in its order
        if split not in self._splits:
            raise IceprobeError(
                unknown(f"split of {self.manifest.dataset.name}", split, self.splits)
            )
        return self._splits[split]

    @property
    def splits(self) -> list[str]:
        return list(self._splits)

    @property
    def task(self) -> str:
        """Name of the task of its targets."""
        return self.manifest.dataset.task

    def groups(self, split: str) -> NDArray[np.int64] | None:
        """Which examples aren't independent, ``(n,)``: those of one group have equal codes.

        Each example without a group is one of its own. None if the data set names none.
        """
        name = self.manifest.dataset.group
        return None if name is None else alone(self[split].columns[name])

    def grouped_by(self, column: str | None) -> "Store":
        """A view of this store whose groups are the values of another column; None leaves them.

        Raises:
            IceprobeError: if the data set has no such column, with those that it has.
        """
        if column is None:
            return self
        record = self.manifest.dataset
        check_column(column, record.values, record.spec)
        grouped = self.manifest.model_copy(
            update={"dataset": record.model_copy(update={"group": column})}
        )
        return self._view(manifest=grouped)

    def slices(self, split: str) -> dict[str, tuple[NDArray[np.int64], list[str]]]:
        """Columns by whose values metrics are reported: codes ``(n,)`` and names of the values, by name."""
        record = self.manifest.dataset
        return {n: (self[split].columns[n], record.values[n]) for n in record.slices}

    def beside(self, split: str) -> dict[str, Any]:
        """What predictions on ``split`` keep of its examples besides their targets."""
        return {"groups": self.groups(split), "slices": self.slices(split)}

    def check_targets(self, split: str) -> None:
        """Raise for the first target that is of no output; an early version stored such.

        Raises:
            IceprobeError: naming its row.
        """
        task, targets = get_task(self.task), self[split].targets
        if len(outside := task.outside(targets, self.classes)):
            raise IceprobeError(
                f"label {targets[outside[0]]} of row {outside[0]} in split {split!r} of store "
                f"{self.path or self.identity[:16]} is no class: {len(self.classes)} are named "
                f"({len(outside)} such labels); extract it again from a data set without these examples"
            )

    def fold(self, held_out: np.ndarray) -> "Store":
        """A view of this store that trains without the rows ``held_out`` of train, which are its split
        ``"folds"``."""
        train = self[TRAIN]
        rest = np.setdiff1d(np.arange(len(train)), held_out)
        splits = {TRAIN: train.take(rest), FOLDS: train.take(held_out)}
        layers = {layer: one.fold(held_out) for layer, one in self.layers.items()}
        return self._view(_splits=splits, layers=layers, _identical={})

    def take(self, split: str, rows: np.ndarray) -> "Store":
        """A view of this store with only ``rows`` of ``split``; nothing is copied or read."""
        splits = self._splits | {split: self[split].take(rows)}
        layers = {layer: one.take(split, rows) for layer, one in self.layers.items()}
        return self._view(_splits=splits, layers=layers, _identical={})

    def trusting(self) -> "Store":
        """A view of this store that may ask other hosts named in its manifest."""
        layers = {layer: one.trusting() for layer, one in self.layers.items()}
        return self._view(_trust=True, layers=layers)

    @property
    def identity(self) -> str:
        return self.manifest.identity

    @property
    def classes(self) -> list[str]:
        return self.manifest.dataset.classes

    @property
    def shape(self) -> TokenShape:
        return self.manifest.shape

    @property
    def pooled_class(self) -> bool:
        """Whether the backbone was trained on a learned pooler's output, not the class token."""
        return self.manifest.shape.pooled_class

    @property
    def has_patches(self) -> bool:
        return self.manifest.settings.patches

    @property
    def views(self) -> int:
        """K, augmented views stored of each training image beside its evaluation view."""
        return self.manifest.settings.augmented_views

    def verify(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            IceprobeError: naming the first shard that differs.
        """
        for store in self.layers.values():
            store.verify()
        if isinstance(self.path, RemotePath):
            remote.verify(self.path, self.manifest)
        elif self.path is not None:
            for _, error in corrupt_shards(self.path, self.manifest):
                raise error

    def dataset(self) -> Dataset:
        """The data set the tokens were made from, loaded by its spec.

        Raises:
            IceprobeError: if it is on another host that isn't trusted, can't be loaded, or has
                changed.
        """
        if self._dataset is None:
            spec = self.manifest.dataset.spec
            dataset = recorded_dataset(spec, self.path, trust=self._trust)
            for name, record in self.manifest.splits.items():
                split = dataset.splits.get(name)
                if split is None or split.fingerprint() != record.content["listing"]:
                    raise IceprobeError(
                        f"split {name!r} of {spec} has changed since store {self.path} was made: "
                        "extract it again"
                    )
            self._dataset = dataset
        return self._dataset

    def names(self, split: str, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Names of the images behind rows of a split."""
        source = self.dataset().splits[listed_as(split)]
        return [source.names[index] for index in self[split].index[np.asarray(rows)]]

    def names_at_hand(self, split: str) -> list[str] | None:
        """Names of all images of a split, if the data set is loaded."""
        return None if self._dataset is None else self.names(split, range(len(self[split])))

    def identical(self, split: str) -> NDArray[np.int64]:
        """Rows of ``split`` whose image is a training image too, by their pooled tokens; cached."""
        if split not in self._identical:
            from iceprobe.store.identical import identical_rows

            self._identical[split] = identical_rows(self["train"], self[split])
        return self._identical[split]

    def images(self, split: str, rows: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """What the backbone saw: the crop of each image, before normalisation."""
        from iceprobe.backbones.kinds import ExamplePreprocessing

        source = self.dataset().splits[listed_as(split)]
        if not self.manifest.backbone.preprocessing:
            raise IceprobeError(
                f"{self.manifest.dataset.name} was given as tokens: there are no images to show"
            )
        preprocessing = ExamplePreprocessing.from_dict(self.manifest.backbone.preprocessing)
        index = self[split].index[np.asarray(rows)].tolist()
        return [preprocessing.shown(source, row) for row in index]


def metric_of(store: Store, task: Task, name: str | None = None) -> str:
    """Name of the metric that selects and leads: the one given, or the data set's by its convention, or
    the task's.

    Raises:
        IceprobeError: if the task has no metric of the ``name``, with the nearest ones.
    """
    return task.metric(name, store.manifest.dataset.headline).name


def check_sizes(path: Path | RemotePath, manifest: Manifest) -> None:
    """Raise for the first recorded shard that is missing or has another length; nothing is read."""
    for split, record in manifest.splits.items():
        for shard in record.shards:
            if reason := misfit(manifest, split, shard):
                raise IceprobeError(
                    f"{path / MANIFEST} contradicts itself about {shard.file}: {reason}; put it "
                    f"back as it was, or remove {path} and extract again"
                )
    if isinstance(path, RemotePath):
        return remote.check_objects(path, manifest)
    for recorded in manifest.files:
        file = path / recorded.file
        if not file.exists():
            raise corrupt(file, "it is missing")
        if (size := file.stat().st_size) != recorded.bytes:
            raise corrupt(file, f"it has {size:,} bytes instead of {recorded.bytes:,}")


def corrupt_shards(path: Path, manifest: Manifest) -> Iterator[tuple[FileRecord, IceprobeError]]:
    """Read all recorded files; yield record and error of each whose checksum differs."""
    for recorded in manifest.files:
        file, expected = path / recorded.file, recorded.sha256
        try:
            found = sha256(file)
        except OSError as error:
            if isinstance(error, PermissionError) or error.errno in TOO_MANY:
                raise  # nothing is wrong with the shard
            yield recorded, corrupt(file, error.strerror or "it can't be read")
            continue
        if found != expected:
            yield recorded, corrupt(file, f"its checksum is {found[:12]}, not {expected[:12]}")


def _opener(
    path: Path | RemotePath, files: Sequence[FileRecord], images: Sequence[int], layout: Layout
) -> Callable[[int, str], Shard]:
    """Number of one of ``files`` and name of a tensor → the open shard."""
    if isinstance(path, RemotePath):
        return remote.opener(path, files, images, layout)

    @cache
    def opened(number: int) -> Shard:
        return Shard(path / files[number].file, files[number])

    return lambda number, _: opened(number)


def _stored_split(path: Path | RemotePath, manifest: Manifest, name: str) -> StoredSplit:
    """A split with its augmented views, if it has some."""
    split = _stored_views(path, manifest, name, range(1))
    if augmented := range(1, manifest.settings.views_of(name)):
        split.views = _stored_views(path, manifest, name, augmented)
    return split


def _stored_views(
    path: Path | RemotePath, manifest: Manifest, name: str, views: range
) -> StoredSplit:
    """Several views of a split, concatenated to one split."""
    shards = [(shard, view) for view in views for shard in manifest.splits[name].shards]
    files = [shard.files[view] for shard, view in shards]
    images = [shard.images for shard, _ in shards]
    firsts = np.cumsum([0, *images])
    layout = split_layout(manifest, name, views[0])
    shard = _opener(path, files, images, layout)

    def tensors(key: str) -> Tensor:
        return torch.cat([shard(number, key).read(key) for number in range(len(files))])

    def gather(key: str, rows: np.ndarray, out: Tensor) -> None:
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        view = flat_bytes(out)
        cuts = np.searchsorted(ascending, firsts)
        for number in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[number], cuts[number + 1])
            opened = shard(int(number), key)
            room = out[:1].nbytes
            opened.read_rows(key, ascending[part] - firsts[number], view, order[part], room)

    return StoredSplit(
        tensors,
        gather,
        shape=manifest.measured().shape,
        layout=layout,
        resident=np.full(firsts[-1], False),
        in_memory=False,
    )
