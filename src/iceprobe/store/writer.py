"""Writing a feature store: resumable, the same bytes however often it was stopped."""

import contextlib
import errno
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from iceprobe.datasets.base import Dataset
from iceprobe.errors import IceprobeError
from iceprobe.remote import RemotePath, cache_folder, located
from iceprobe.specs import unknown
from iceprobe.store.format import (
    MANIFEST,
    SHARD_IMAGES,
    Manifest,
    ShardRecord,
    read_manifest,
    shard_file,
    write_manifest,
)
from iceprobe.store.lock import exclusive, sweep
from iceprobe.store.pipeline import (
    OnBadImage,
    Progress,
    Work,
    chosen_rows,
    extracted_batches,
    plan_work,
    split_layout,
)
from iceprobe.store.reader import Store, check_sizes, corrupt_shards
from iceprobe.store.request import check_policy, choose_device, describe, make_settings
from iceprobe.store.shards import ShardWriter, shard_bytes

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

Engine = Literal["local", "ray"]
WAITING = 2  # batches made and not yet written


def extract(
    backbone: "Backbone",
    dataset: Dataset,
    root: str | Path = "features/",
    *,
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    amp: str = "float32",
    tokens: str = "float16",
    patches: bool = True,
    workers: int = 0,
    limit: int | None = None,
    on_bad_image: OnBadImage = "fail",
    shard_images: int = SHARD_IMAGES,
    engine: Engine = "local",
    progress: Progress = None,
) -> Store:
    """Write the tokens of ``backbone`` on ``dataset`` into a folder of ``root``, once.

    A store that is there already is opened (one with patch tokens serves a request without them);
    one that was stopped goes on at its next shard after its shards' checksums were compared. Stop
    it as you like: the store ends with the same bytes.

    Args:
        backbone: frozen; moved to ``device``.
        dataset: labelled images.
        root: folder of stores, or a URL of object storage (``s3://bucket/features``).
        splits: names of the splits to extract, by default all.
        batch_size: images a forward pass.
        device: by default the GPU where there is one.
        amp: dtype of the forward pass: ``float32``, ``bfloat16`` or ``float16``.
        tokens: dtype stored, one of the same three, or ``int8``: patch tokens in one byte a number
            with a scale each, prefix tokens in float16.
        patches: whether patch tokens are stored, beside prefix tokens and mean.
        workers: processes that decode images; 0 decodes in threads.
        limit: images a split at most, a seeded choice.
        on_bad_image: ``"fail"`` or ``"skip"``.
        shard_images: images a shard.
        engine: ``"ray"`` makes shards as tasks on a Ray cluster; backbone and data are loaded
            there by their specs.
        progress: called with a stage's name, images done and images in all.

    Raises:
        IceprobeError: if the disk is too full, another process writes this store, a shard is
            corrupt, an image can't be read, or tokens are not finite; what was complete stays.
    """
    if len(backbone.layers) > 1:
        raise IceprobeError(
            f"backbone {backbone.spec!r} reads {len(backbone.layers)} layers and a store holds one: "
            "use iceprobe.extract_layers(…), a store each from one pass"
        )
    (store,) = extract_layers(
        backbone, dataset, root, splits=splits, batch_size=batch_size, device=device, amp=amp,
        tokens=tokens, patches=patches, workers=workers, limit=limit, on_bad_image=on_bad_image,
        shard_images=shard_images, engine=engine, progress=progress,
    )  # fmt: skip
    return store


def extract_layers(
    backbone: "Backbone",
    dataset: Dataset,
    root: str | Path = "features/",
    *,
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    amp: str = "float32",
    tokens: str = "float16",
    patches: bool = True,
    workers: int = 0,
    limit: int | None = None,
    on_bad_image: OnBadImage = "fail",
    shard_images: int = SHARD_IMAGES,
    engine: Engine = "local",
    progress: Progress = None,
) -> list[Store]:
    """As :func:`extract`, for a backbone that reads one layer or several: one pass, a store each.

    Layers that are stored already are not written again; each store is what extracting its layer
    alone gives. A killed extraction goes on at the first shard that any of them lacks.
    """
    check_policy(on_bad_image)
    target = choose_device(device)
    settings = make_settings(
        batch_size=batch_size,
        device=target,
        amp=amp,
        tokens=tokens,
        patches=patches,
        shard_images=shard_images,
    )
    singles = backbone.per_layer()
    wanted = [describe(one, dataset, settings, splits=splits, limit=limit) for one in singles]
    place = located(root)
    finished = [find_finished(place, one) for one in wanted]
    paths = [path or place / one.folder for path, one in zip(finished, wanted, strict=True)]
    todo = {path: one for path, one in zip(paths, wanted, strict=True) if path not in finished}
    _check_disk(todo)
    with contextlib.ExitStack() as locked:
        for path in sorted(todo, key=str):  # so that two processes can't wait in a ring
            if isinstance(path, Path):
                locked.enter_context(exclusive(path))
        if todo:
            run = _filler(engine)
            places = [
                _open_place(path, todo[path], locked) if path in todo else None for path in paths
            ]
            run(places, backbone, dataset, target, workers, on_bad_image, progress)
    stores = []
    for path in paths:
        if isinstance(path, Path):
            sweep(path)
        store = Store.open(path, dataset=dataset)
        if store.manifest.skipped and on_bad_image == "fail":
            raise IceprobeError(
                f"store {path} was made without {len(store.manifest.skipped)} bad image(s), "
                f"{store.manifest.skipped[0]!r} first: mend them, or take on_bad_image=skip"
            )
        stores.append(store)
    return stores


def repair(
    path: str | Path,
    backbone: "Backbone | None" = None,
    dataset: Dataset | None = None,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage | None = None,
    progress: Progress = None,
) -> list[str]:
    """Extract the corrupt shards of a store again, and no others.

    Args:
        path: folder of the store.
        backbone, dataset: what it was made from; by default loaded by the specs it records.
        device: of the type the store was made on, by default that.
        workers: processes that decode images; 0 decodes in threads.
        on_bad_image: by default ``"skip"`` where the store was made without bad images.
        progress: called with a stage's name, images done and images in all.

    Returns:
        File names of the shards made again.

    Raises:
        IceprobeError: if the backbone or the images are not those of the store.
    """
    place = located(path)
    if isinstance(place, RemotePath):
        raise IceprobeError(
            f"{place}: on object storage a store is mended by removing the corrupt shard and "
            "manifest.json, then running the same iceprobe extract again"
        )
    path = place
    manifest = read_manifest(path)
    skip = any(shard.skipped for split in manifest.splits.values() for shard in split.shards)
    policy: OnBadImage = on_bad_image or ("skip" if skip else "fail")
    check_policy(policy)
    target = choose_device(device or manifest.settings.device)
    if backbone is None:
        from iceprobe.backbones import load_backbone

        backbone = load_backbone(manifest.backbone.spec)
    if dataset is None:
        from iceprobe.datasets import load_dataset

        dataset = load_dataset(manifest.dataset.spec)
    check_origin(path, manifest, backbone, dataset, target)
    with exclusive(path):
        manifest = read_manifest(path)
        bad = [shard for shard, _ in corrupt_shards(path, manifest)]
        if not bad:
            return []
        for split in manifest.splits.values():
            split.shards = [shard for shard in split.shards if shard not in bad]
        write_manifest(path, manifest)
        fill([Place(path, manifest)], backbone, dataset, target, workers, policy, progress)
    return [shard.file for shard in bad]


@dataclass
class Place:
    """Where shards of one layer are written, and the manifest that they are recorded in.

    Attributes:
        folder: where files are made.
    """

    folder: Path
    manifest: Manifest

    @property
    def target(self) -> Path | RemotePath:
        """Where they are in the end."""
        return self.folder

    def put(self, record: ShardRecord) -> ShardRecord:
        """Bring a finished shard where it belongs; its record there."""
        return record

    def note(self, split: str, record: ShardRecord) -> None:
        """Count a shard as complete."""
        self.manifest.record(split, record)
        write_manifest(self.folder, self.manifest)


@dataclass
class RemotePlace(Place):
    """Shards are made in a local folder and go to ``path`` on object storage."""

    path: RemotePath

    @property
    def target(self) -> RemotePath:
        return self.path

    def put(self, record: ShardRecord) -> ShardRecord:
        from iceprobe.store import remote

        return remote.put_shard(
            self.path, self.folder / record.file, self.manifest.identity, record
        )

    def note(self, split: str, record: ShardRecord) -> None:
        from iceprobe.store import remote

        self.manifest.record(split, record)
        if self.manifest.finished:
            remote.put_manifest(self.path, self.manifest)


def _filler(engine: Engine) -> Callable[..., None]:
    """What makes the shards: :func:`fill` here, or its twin on a cluster.

    Raises:
        IceprobeError: for an engine that there isn't.
    """
    if engine == "local":
        return fill
    if engine != "ray":
        raise IceprobeError(unknown("engine", engine, ("local", "ray")))
    from iceprobe.ray_engine import fill_on_ray

    return fill_on_ray


def _open_place(path: Path | RemotePath, wanted: Manifest, until: contextlib.ExitStack) -> Place:
    if isinstance(path, Path):
        return Place(path, _resumed(path, wanted))
    from iceprobe.store import remote

    scratch = until.enter_context(tempfile.TemporaryDirectory(dir=cache_folder()))
    place = RemotePlace(Path(scratch), remote.resumed(path, wanted), path)
    if place.manifest.finished:  # killed between the last shard and the manifest
        remote.put_manifest(path, place.manifest)
    return place


def find_finished(root: Path | RemotePath, wanted: Manifest) -> Path | RemotePath | None:
    """The finished store that answers the request: its own, or one that holds patches as well."""
    richer = wanted.model_copy(
        update={"settings": wanted.settings.model_copy(update={"patches": True})}
    )
    for candidate in (wanted, richer):
        path = root / candidate.folder
        if (path / MANIFEST).exists():
            found = read_manifest(path)
            _check_same(path, found, candidate)
            if found.finished:
                return path
    return None


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on from; its shards are verified, remains of a killed writer removed."""
    for remains in path.glob("*.tmp"):
        remains.unlink()
    for task in path.glob(".part-*"):  # a Ray task's that was killed
        shutil.rmtree(task, ignore_errors=True)
    if not (path / MANIFEST).exists():
        return wanted
    manifest = read_manifest(path)
    _check_same(path, manifest, wanted)
    check_sizes(path, manifest)
    for _, error in corrupt_shards(path, manifest):
        raise error
    return manifest


def _check_same(path: Path | RemotePath, found: Manifest, wanted: Manifest) -> None:
    if found.identity != wanted.identity:
        raise IceprobeError(
            f"{path} holds another store ({found.identity[:16]} instead of "
            f"{wanted.identity[:16]}): move it away"
        )


def check_origin(
    path: Path | RemotePath,
    manifest: Manifest,
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
) -> None:
    """See that backbone, images and device are those of the store."""
    if device.type != manifest.settings.device:
        raise IceprobeError(
            f"store {path} was made on {manifest.settings.device}: mend it with device="
            f"{manifest.settings.device}"
        )
    now = describe(backbone, dataset, manifest.settings, splits=list(manifest.splits), limit=None)
    if (
        now.backbone.identity != manifest.backbone.identity
        or now.backbone.preprocessing != manifest.backbone.preprocessing
    ):
        raise IceprobeError(
            f"backbone {backbone.spec} is not the one of store {path} any more: extract it again"
        )
    for name, record in manifest.splits.items():
        if now.splits[name].content != record.content:
            raise IceprobeError(
                f"split {name!r} of {dataset.spec} has changed since store {path} was made: "
                "extract it again"
            )


def _check_disk(todo: Mapping[Path | RemotePath, Manifest]) -> None:
    """See that what is still to be written into these folders of one root fits.

    Raises:
        IceprobeError: with both sizes and what would make it smaller.
    """
    here = {path: wanted for path, wanted in todo.items() if isinstance(path, Path)}
    if not here:
        return
    needed = sum(
        bytes_missing(read_manifest(path) if (path / MANIFEST).exists() else wanted)
        for path, wanted in here.items()
    )
    path = next(iter(here))
    free = free_bytes(path)
    if needed > free:
        raise IceprobeError(
            f"extracting into {path.parent} needs {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB "
            "are free: take another folder, a limit, or probes that read no patches"
        )


def bytes_missing(manifest: Manifest) -> int:
    """Bytes of the shards that are not complete."""
    settings, total = manifest.settings, 0
    for name, record in manifest.splits.items():
        layout = split_layout(manifest, name)
        for number in manifest.missing(name):
            images = min(settings.shard_images, record.images - number * settings.shard_images)
            total += shard_bytes(images, layout)
    return total


def free_bytes(path: Path) -> int:
    """Bytes free to this user where ``path`` is or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def fill(
    places: Sequence[Place | None],
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    progress: Progress,
    *,
    only: tuple[str, int] | None = None,
) -> None:
    """Extract every shard that a manifest lacks, all layers in one pass.

    Args:
        places: of each of the backbone's layers, ``None`` where a layer's store is finished.
        only: split and number of the one shard to extract.
    """
    recorders = [None if place is None else _Recorder(place) for place in places]
    manifest = next(place.manifest for place in places if place is not None)
    work, done = [], {}
    for name, record in manifest.splits.items():
        rows = chosen_rows(record.listed, record.images)
        missing = {n for place in places if place is not None for n in place.manifest.missing(name)}
        if only is not None:
            missing &= {only[1]} if only[0] == name else set()
        for number in sorted(missing):
            work += plan_work(name, rows, number, manifest.settings)
        done[name] = record.images - sum(len(item.rows) for item in work if item.split == name)
    batches = extracted_batches(
        backbone,
        dataset.splits,
        work,
        settings=manifest.settings,
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
    )
    try:
        with contextlib.closing(batches), _Background() as writing:
            for batch in batches:
                for recorder, tensors in zip(recorders, batch.layers, strict=True):
                    if recorder is not None:
                        writing.submit(partial(recorder.add, batch.work, tensors, batch.skipped))
                name = batch.work.split
                done[name] += len(batch.work.rows)
                if progress is not None:
                    progress(f"extract {name}", done[name], manifest.splits[name].images)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            path = next(place.folder for place in places if place is not None)
            raise IceprobeError(
                f"no space left for {path}: make some and run the same again, "
                "complete shards are kept"
            ) from error
        raise
    finally:
        for recorder in recorders:
            if recorder is not None:
                recorder.abandon()


class _Recorder:
    """Batches of one layer → shards → the manifest; shards that it has already are passed over."""

    def __init__(self, place: Place):
        self.place, manifest = place, place.manifest
        self._missing = {name: set(manifest.missing(name)) for name in manifest.splits}
        self._writer: ShardWriter | None = None
        self._skipped: list[str] = []

    def add(self, work: Work, tensors: dict[str, Tensor], skipped: list[str]) -> None:
        if work.number not in self._missing[work.split]:
            return
        manifest = self.place.manifest
        settings = manifest.settings
        if self._writer is None:
            self._writer = ShardWriter(self.place.folder / shard_file(work.split, work.number))
        self._writer.write(tensors)
        self._skipped += skipped
        if not work.last:
            return
        written = self._writer.finish()
        start = work.number * settings.shard_images
        record = ShardRecord(
            file=self._writer.path.name,
            start=start,
            stop=min(start + settings.shard_images, manifest.splits[work.split].images),
            images=written.images,
            bytes=written.bytes,
            sha256=written.sha256,
            skipped=self._skipped,
        )
        self.place.note(work.split, self.place.put(record))
        self._writer, self._skipped = None, []

    def abandon(self) -> None:
        """Leave nothing of an unfinished shard."""
        if self._writer is not None:
            self._writer.abandon()


class _Background:
    """Runs calls one after another in a thread; an error in one is raised by a later call."""

    def __enter__(self) -> "_Background":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()
        return self

    def submit(self, call: Callable[[], None]) -> None:
        while len(self._waiting) >= WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(call))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
