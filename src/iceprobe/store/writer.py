"""Writing a feature store: resumable, the same bytes however often it was stopped."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data, Dataset
from iceprobe.machine.folder_lock import exclusive, sweep
from iceprobe.machine.object_storage import RemotePath, located
from iceprobe.machine.processes import first, world
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.store.filling import fill
from iceprobe.store.format import MANIFEST, SHARD_IMAGES, read_manifest, write_manifest
from iceprobe.store.handing_in import clear
from iceprobe.store.noted import tell_of_files
from iceprobe.store.outdated import bring_up_to_date
from iceprobe.store.pipeline import OnBadImage, Progress
from iceprobe.store.places import Place, check_origin, find_places
from iceprobe.store.reader import Store, corrupt_shards
from iceprobe.store.recorded_data import recorded_dataset
from iceprobe.store.request import as_backbone, check_policy, choose_device, describe, make_settings

if TYPE_CHECKING:
    from torch import nn

    from iceprobe.backbones.base import Backbone

Engine = Literal["local", "ray"]


@checked
@shows_progress
def extract(
    backbone: "Backbone | nn.Module | str",
    dataset: Data,
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
    engine: Engine = "local",
    progress: ProgressCallback | bool | None = None,
) -> Store:
    """Write the tokens of ``backbone`` on ``dataset`` into a folder of ``root``, once.

    A store that is there already is opened (one with patch tokens serves a request without them);
    one that was stopped goes on at its next shard after its shards' checksums were compared. Stop
    it as you like: the store ends with the same bytes.

    Args:
        backbone: frozen, moved to ``device``; a spec string or a module is loaded
            (:func:`iceprobe.load_backbone`).
        dataset: labelled images: a :class:`Dataset`, a spec string or ``{"train": …, "test": …}``
            (:func:`iceprobe.load_dataset`).
        root: folder of stores, or a URL of one on object storage.
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
        augmentation: of those: ``"paper"``, ``"light"`` or ``"clip"`` (`backbones/augmentation.py`).
        engine: ``"ray"`` makes shards as tasks on a Ray cluster; backbone and data are loaded
            there by their specs.
        progress: called with a stage's name, images done and images in all; by default a bar in
            a terminal or a notebook, and ``False`` shows nothing.

    Raises:
        IceprobeError: if the disk is too full, another process writes this store, a shard is
            corrupt, an image can't be read, or tokens are not finite; what was complete stays.
    """
    backbone = as_backbone(backbone)
    if len(backbone.layers) > 1:
        raise IceprobeError(
            f"backbone {backbone.spec!r} reads {len(backbone.layers)} layers and a store holds one: "
            "use iceprobe.extract_layers(…), a store each from one pass"
        )
    (store,) = extract_layers(
        backbone, dataset, root, splits=splits, batch_size=batch_size, device=device, amp=amp,
        tokens=tokens, patches=patches, workers=workers, limit=limit, on_bad_image=on_bad_image,
        shard_images=shard_images, views=views, augmentation=augmentation, engine=engine,
        progress=callback(progress),
    )  # fmt: skip
    return store


@checked
@shows_progress
def extract_layers(
    backbone: "Backbone | nn.Module | str",
    dataset: Data,
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
    engine: Engine = "local",
    progress: ProgressCallback | bool | None = None,
) -> list[Store]:
    """As :func:`extract`, for a backbone that reads one layer or several: one pass, a store each.

    Layers that are stored already are not written again; each store is what extracting its layer
    alone gives. A killed extraction goes on at the first shard that any of them lacks, in as many
    processes as it is then given: they share the shards, and process 0 alone writes manifests.
    """
    check_policy(on_bad_image)
    backbone, dataset = as_backbone(backbone), load_dataset(dataset)
    run = _filler(engine)
    place = located(root)
    here = world()
    target = here.device(choose_device(device))
    settings = make_settings(
        batch_size=batch_size,
        device=target.type,
        amp=amp,
        tokens=tokens,
        patches=patches,
        shard_images=shard_images,
        views=views,
        augmentation=augmentation,
    )
    singles = backbone.per_layer()
    wanted = [describe(one, dataset, settings, splits=splits, limit=limit) for one in singles]
    here.agree([one.identity for one in wanted], "weights or images")
    first(lambda: bring_up_to_date(place, wanted, dataset))
    with contextlib.ExitStack() as until:
        found = first(lambda: find_places(place, wanted, until))
        places = [to_write for _, to_write in found]
        if any(places):
            if here.size > 1 and (engine != "local" or isinstance(place, RemotePath)):
                raise IceprobeError(
                    f"{here.size} processes can't extract into {place} with engine={engine}: "
                    "extract in one process, whose engine may be ray, then fit in several"
                )
            run(places, backbone, dataset, target, workers, on_bad_image, callback(progress))
        here.gather(None)  # all shards are there, and recorded
    stores = []
    for (path, _), asked in zip(found, wanted, strict=True):
        if isinstance(path, Path):
            first(partial(_tidy, path))
        store = Store.open(path, dataset=dataset)
        if store.manifest.skipped and on_bad_image == "fail":
            raise IceprobeError(
                f"store {path} was made without {len(store.manifest.skipped)} bad image(s), "
                f"{store.manifest.skipped[0]!r} first: mend them, or take on_bad_image=skip"
            )
        # Its manifest on disk names whoever asked first; these tokens were asked for by us.
        store.manifest = store.manifest.asked_by(asked)
        stores.append(store)
    if here.main:
        tell_of_files(stores[0].manifest)
    return stores


@shows_progress
def repair(
    path: str | Path,
    backbone: "Backbone | None" = None,
    dataset: Dataset | None = None,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage | None = None,
    trust: bool = False,
    progress: ProgressCallback | bool | None = None,
) -> list[str]:
    """Extract the corrupt shards of a store again (all views of each), and no others.

    Args:
        path: folder of the store.
        backbone, dataset: what it was made from; by default loaded by the specs it records.
        device: of the type the store was made on, by default that.
        workers: processes that decode images; 0 decodes in threads.
        on_bad_image: by default ``"skip"`` where the store was made without bad images.
        trust: whether code may run, and another host be asked for images, that the store's
            manifest names.
        progress: called with a stage's name, images done and images in all; by default a bar in
            a terminal or a notebook, and ``False`` shows nothing.

    Returns:
        File names of the shards made again, by process 0 where there are several.

    Raises:
        IceprobeError: if the backbone or the images are not those of the store.
    """
    folder = located(path)
    if isinstance(folder, RemotePath):
        raise IceprobeError(
            f"{folder}: on object storage a store is mended by removing the corrupt shard and "
            f"{MANIFEST}, then running the same iceprobe extract again"
        )
    return first(
        lambda: _repaired(
            folder, backbone, dataset, device, workers, on_bad_image, trust, callback(progress)
        )
    )


def _repaired(
    path: Path,
    backbone: "Backbone | None",
    dataset: Dataset | None,
    device: str | torch.device | None,
    workers: int,
    on_bad_image: OnBadImage | None,
    trust: bool,
    progress: Progress,
) -> list[str]:
    manifest = read_manifest(path)
    skip = any(shard.skipped for split in manifest.splits.values() for shard in split.shards)
    policy: OnBadImage = on_bad_image or ("skip" if skip else "fail")
    check_policy(policy)
    target = choose_device(device or manifest.settings.device)
    if backbone is None:
        from iceprobe.store.recorded import load_recorded

        record = manifest.backbone
        backbone = load_recorded(record.spec, record, path, trust)
    if dataset is None:
        dataset = recorded_dataset(manifest.dataset.spec, path, trust=trust)
    check_origin(path, manifest, backbone, dataset, target)
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
        fill([Place(path, manifest)], backbone, dataset, target, workers, policy, progress)
    return again


def _filler(engine: str) -> Callable[..., None]:
    """What makes the shards: :func:`fill` here, or its twin on a cluster.

    Raises:
        IceprobeError: for an engine that there isn't.
    """
    if engine == "local":
        return fill
    if engine != "ray":
        raise IceprobeError(unknown("engine", engine, ("local", "ray")))
    from iceprobe.store.ray_shards import fill_on_ray

    return fill_on_ray


def _tidy(path: Path) -> None:
    clear(path)
    sweep(path)
