"""Writing a feature store: resumable, the same bytes however often it was stopped."""

import contextlib
import errno
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iceprobe.datasets.base import Dataset
from iceprobe.distributed import first, world
from iceprobe.errors import IceprobeError
from iceprobe.store.format import (
    MANIFEST,
    SHARD_IMAGES,
    Manifest,
    ShardRecord,
    SplitRecord,
    read_manifest,
    shard_file,
    write_manifest,
)
from iceprobe.store.handing_in import clear, collect, hand_in
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

WAITING = 2  # batches made and not yet written
SECONDS_BETWEEN_LOOKS = 0.2  # for shards of other processes, when its own are done


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
    views: int = 0,
    augmentation: str = "paper",
    progress: Progress = None,
) -> Store:
    """Write the tokens of ``backbone`` on ``dataset`` into a folder of ``root``, once.

    A store that is there already is opened (one with patch tokens serves a request without them);
    one that was stopped goes on at its next shard after its shards' checksums were compared. Stop
    it as you like: the store ends with the same bytes.

    Args:
        backbone: frozen; moved to ``device``.
        dataset: labelled images.
        root: folder of stores.
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
        views: augmented views stored of each training image beside its evaluation view, for
            probes to learn from; everything else reads the evaluation view.
        augmentation: of those: ``"paper"`` or ``"light"`` (`backbones/augmentation.py`).
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
        shard_images=shard_images, views=views, augmentation=augmentation, progress=progress,
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
    views: int = 0,
    augmentation: str = "paper",
    progress: Progress = None,
) -> list[Store]:
    """As :func:`extract`, for a backbone that reads one layer or several: one pass, a store each.

    Layers that are stored already are not written again; each store is what extracting its layer
    alone gives. A killed extraction goes on at the first shard that any of them lacks, in as many
    processes as it is then given: they share the shards, and process 0 alone writes manifests.
    """
    check_policy(on_bad_image)
    target = world().device(choose_device(device))
    settings = make_settings(
        batch_size=batch_size,
        device=target,
        amp=amp,
        tokens=tokens,
        patches=patches,
        shard_images=shard_images,
        views=views,
        augmentation=augmentation,
    )
    singles = backbone.per_layer()
    wanted = [describe(one, dataset, settings, splits=splits, limit=limit) for one in singles]
    world().agree([one.identity for one in wanted], "weights or images")
    with contextlib.ExitStack() as locked:
        places = first(lambda: _places(Path(root), wanted, locked))
        if any(manifest is not None for _, manifest in places):
            _fill(places, backbone, dataset, target, workers, on_bad_image, progress)
        world().gather(None)  # all shards are there, and recorded
    stores = []
    for path, _ in places:
        first(partial(_tidy, path))
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
    """Extract the corrupt shards of a store again (all views of each), and no others.

    Args:
        path: folder of the store.
        backbone, dataset: what it was made from; by default loaded by the specs it records.
        device: of the type the store was made on, by default that.
        workers: processes that decode images; 0 decodes in threads.
        on_bad_image: by default ``"skip"`` where the store was made without bad images.
        progress: called with a stage's name, images done and images in all.

    Returns:
        File names of the shards made again, by process 0 where there are several.

    Raises:
        IceprobeError: if the backbone or the images are not those of the store.
    """
    return first(
        lambda: _repaired(Path(path), backbone, dataset, device, workers, on_bad_image, progress)
    )


def _repaired(
    path: Path,
    backbone: "Backbone | None",
    dataset: Dataset | None,
    device: str | torch.device | None,
    workers: int,
    on_bad_image: OnBadImage | None,
    progress: Progress,
) -> list[str]:
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
    _check_origin(path, manifest, backbone, dataset, target)
    with exclusive(path):
        manifest = read_manifest(path)
        corrupt = {file.file for file, _ in corrupt_shards(path, manifest)}
        if not corrupt:
            return []
        again: list[str] = []
        for split in manifest.splits.values():
            whole = []
            for shard in split.shards:
                names = [file.file for file in shard.files]
                if corrupt.isdisjoint(names):
                    whole.append(shard)
                else:
                    again += names
            split.shards = whole
        write_manifest(path, manifest)
        _fill([(path, manifest)], backbone, dataset, target, workers, policy, progress)
    return again


def find_finished(root: Path, wanted: Manifest) -> Path | None:
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


def _places(
    root: Path, wanted: Sequence[Manifest], locked: contextlib.ExitStack
) -> list[tuple[Path, Manifest | None]]:
    """Folder of each store and the manifest to go on from, ``None`` where it is finished.

    Those to be written to are locked.
    """
    finished = [find_finished(root, one) for one in wanted]
    paths = [path or root / one.folder for path, one in zip(finished, wanted, strict=True)]
    todo = {path: one for path, one in zip(paths, wanted, strict=True) if path not in finished}
    _check_disk(todo)
    for path in sorted(todo):  # in one order, so that two processes can't wait in a ring
        locked.enter_context(exclusive(path))
    return [(path, _resumed(path, todo[path]) if path in todo else None) for path in paths]


def _tidy(path: Path) -> None:
    clear(path)
    sweep(path)


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on from; its shards are verified, remains of a killed writer removed."""
    for remains in path.glob("*.tmp"):
        remains.unlink()
    manifest = wanted
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        _check_same(path, manifest, wanted)
    collect(path, manifest)  # of another process that was killed with the one that records
    check_sizes(path, manifest)
    for _, error in corrupt_shards(path, manifest):
        raise error
    return manifest


def _check_same(path: Path, found: Manifest, wanted: Manifest) -> None:
    if found.identity != wanted.identity:
        raise IceprobeError(
            f"{path} holds another store ({found.identity[:16]} instead of "
            f"{wanted.identity[:16]}): move it away"
        )


def _check_origin(
    path: Path, manifest: Manifest, backbone: "Backbone", dataset: Dataset, device: torch.device
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


def _check_disk(todo: Mapping[Path, Manifest]) -> None:
    """See that what is still to be written into these folders of one root fits.

    Raises:
        IceprobeError: with both sizes and what would make it smaller.
    """
    if not todo:
        return
    needed = sum(
        bytes_missing(read_manifest(path) if (path / MANIFEST).exists() else wanted)
        for path, wanted in todo.items()
    )
    path = next(iter(todo))
    free = free_bytes(path)
    if needed > free:
        raise IceprobeError(
            f"extracting into {path.parent} needs {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB "
            "are free: take another folder, a limit, fewer views, or probes that read no patches"
        )


def bytes_missing(manifest: Manifest) -> int:
    """Bytes of the shards that are not complete."""
    settings, total = manifest.settings, 0
    for name, record in manifest.splits.items():
        layouts = [split_layout(manifest, name, v) for v in range(settings.views_of(name))]
        for number in manifest.missing(name):
            images = min(settings.shard_images, record.images - number * settings.shard_images)
            total += sum(shard_bytes(images, layout) for layout in layouts)
    return total


def free_bytes(path: Path) -> int:
    """Bytes free to this user where ``path`` is or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _fill(
    places: Sequence[tuple[Path, Manifest | None]],
    backbone: "Backbone",
    dataset: Dataset,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    progress: Progress,
) -> None:
    """Extract every shard that a manifest lacks, all layers in one pass.

    Of several processes each takes every so manieth of these shards; process 0 records them all.

    Args:
        places: folder and manifest of each of the backbone's layers, ``None`` where a layer's
            store is finished.
    """
    here = world()
    open_places = [(path, manifest) for path, manifest in places if manifest is not None]
    recorders = [None if m is None else _Recorder(path, m, here.main) for path, m in places]
    manifest = open_places[0][1]
    shards = [
        (name, number)
        for name in manifest.splits
        for number in sorted({n for _, one in open_places for n in one.missing(name)})
    ]
    listing = {name: chosen_rows(s.listed, s.images) for name, s in manifest.splits.items()}
    work = [
        item
        for name, number in shards[here.rank :: here.size]
        for item in plan_work(name, listing[name], number, manifest.settings)
    ]
    done = {
        name: record.images
        - sum(_rows(record, n, manifest) for split, n in shards if split == name)
        for name, record in manifest.splits.items()
    }

    def tell(name: str) -> None:
        if progress is not None and here.main:
            others = max(r.from_others.get(name, 0) for r in recorders if r is not None)
            progress(f"extract {name}", done[name] + others, manifest.splits[name].images)

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
                here.check()
                for recorder, views in zip(recorders, batch.layers, strict=True):
                    if recorder is not None:
                        writing.submit(partial(recorder.add, batch.work, views, batch.skipped))
                name = batch.work.split
                done[name] += len(batch.work.rows)
                tell(name)
        while here.main and not all(one.finished for _, one in open_places):
            here.check()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for recorder in recorders:
                if recorder is not None:
                    for name in recorder.collect():
                        tell(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            path = open_places[0][0]
            room = "no space left" if error.errno != errno.EFBIG else "a file grew too large"
            raise IceprobeError(
                f"{room} for {path} ({error.strerror}): make room and run the same again, "
                "complete shards are kept"
            ) from error
        raise
    finally:
        for recorder in recorders:
            if recorder is not None:
                recorder.abandon()


def _rows(record: SplitRecord, number: int, manifest: Manifest) -> int:
    """Rows of the split's listing that are in shard ``number``."""
    size = manifest.settings.shard_images
    return min(size, record.images - number * size)


class _Recorder:
    """Batches of one layer → shards → the manifest; shards that it has already are passed over.

    Args:
        path, manifest: of the store.
        keeps: whether this process keeps the manifest, or hands its shards in to the one that does.

    Attributes:
        from_others: rows of the listing whose shards were handed in, by split.
    """

    def __init__(self, path: Path, manifest: Manifest, keeps: bool):
        self.path, self.manifest, self.keeps = path, manifest, keeps
        self.from_others: dict[str, int] = {}
        self._missing = {name: set(manifest.missing(name)) for name in manifest.splits}
        self._writers: list[ShardWriter] = []  # of the shard under way, one a view
        self._skipped: list[str] = []

    def add(self, work: Work, views: list[dict[str, Tensor]], skipped: list[str]) -> None:
        if work.number not in self._missing[work.split]:
            return
        settings = self.manifest.settings
        if not self._writers:
            names = [shard_file(work.split, work.number, view) for view in range(work.views)]
            self._writers = [ShardWriter(self.path / name) for name in names]
        for writer, tensors in zip(self._writers, views, strict=True):
            writer.write(tensors)
        self._skipped += skipped
        if not work.last:
            return
        images = len(self._writers[0])
        evaluation, *augmented = [writer.finish() for writer in self._writers]
        start = work.number * settings.shard_images
        shard = ShardRecord(
            **evaluation.model_dump(),
            start=start,
            stop=min(start + settings.shard_images, self.manifest.splits[work.split].images),
            images=images,
            skipped=self._skipped,
            views=augmented,
        )
        if self.keeps:
            self.manifest.record(work.split, shard)
            write_manifest(self.path, self.manifest)
            self.collect()
        else:
            hand_in(self.path, work.split, shard)
        self._writers, self._skipped = [], []

    def collect(self) -> list[str]:
        """Take in the shards of other processes; names of the splits that got some."""
        rows = collect(self.path, self.manifest)
        for split, count in rows.items():
            self.from_others[split] = self.from_others.get(split, 0) + count
        return list(rows)

    def abandon(self) -> None:
        """Leave nothing of an unfinished shard."""
        for writer in self._writers:
            writer.abandon()


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
