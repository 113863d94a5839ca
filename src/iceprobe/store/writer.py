"""Writing a feature store: resumable, the same bytes however often it was stopped."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.specs import unknown
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data, Dataset
from iceprobe.machine.folder_lock import exclusive, sweep
from iceprobe.machine.object_storage import RemotePath, located
from iceprobe.machine.processes import first, world
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.settings import ExtractCall, Policy
from iceprobe.store.destinations import Destination, check_origin, find_destinations
from iceprobe.store.filling import fill
from iceprobe.store.format import MANIFEST, read_manifest, write_manifest
from iceprobe.store.noted import log_file_assumptions
from iceprobe.store.outdated import bring_up_to_date
from iceprobe.store.reader import Store, corrupt_shards
from iceprobe.store.recorded import load_recorded, recorded_dataset
from iceprobe.store.request import as_backbone, choose_device, describe, make_settings
from iceprobe.store.shard_records import remove_folder

if TYPE_CHECKING:
    from torch import nn

    from iceprobe.backbones.base import Backbone


@shows_progress
@takes(ExtractCall, root="features")
def extract(
    backbone: "Backbone | nn.Module | str",
    dataset: Data,
    features: str | Path = "features/",
    *,
    call: ExtractCall,
) -> Store:
    """Write the tokens of ``backbone`` on ``dataset`` into a folder of ``features``, once.

    An existing store is opened (one with patch tokens serves a request without them). A stopped one
    continues at its next shard, once the checksums of its shards were compared. It may be stopped at
    any time: the finished store has the same bytes.

    Args:
        backbone: frozen, moved to ``device``; a spec string or a module is loaded
            (:func:`iceprobe.load_backbone`).
        dataset: labelled images: a :class:`Dataset`, a spec string or ``{"train": …, "test": …}``
            (:func:`iceprobe.load_dataset`).
        features: folder of stores, or a URL of one on object storage.
        settings: an :class:`iceprobe.settings.Extraction`, or its options as keywords.

    Raises:
        IceprobeError: if the disk is too full, another process writes this store, a shard is
            corrupt, an image can't be read, or tokens are not finite; complete shards stay.
    """
    backbone = as_backbone(backbone)
    if len(backbone.layers) > 1:
        raise IceprobeError(
            f"backbone {backbone.spec!r} reads {len(backbone.layers)} layers and a store holds one: "
            "use iceprobe.extract_layers(…), a store each from one pass"
        )
    (store,) = _extract(backbone, dataset, features, call)
    return store


@shows_progress
@takes(ExtractCall, root="features")
def extract_layers(
    backbone: "Backbone | nn.Module | str",
    dataset: Data,
    features: str | Path = "features/",
    *,
    call: ExtractCall,
) -> list[Store]:
    """As :func:`extract`, for a backbone that reads one layer or several: one pass, a store each.

    Each store is what extracting its layer alone gives; a finished one is not written again. A killed
    extraction continues at the first shard that any layer lacks. Several processes share the shards,
    and process 0 alone writes manifests; their number may change.
    """
    return _extract(as_backbone(backbone), dataset, features, call)


@shows_progress
@takes(ExtractCall, root="features")
def extract_layers_with(
    vectors_only: Sequence[int],
    backbone: "Backbone",
    dataset: Data,
    features: str | Path,
    *,
    call: ExtractCall,
) -> list[Store]:
    """As :func:`extract_layers`, without the patch tokens of the layers ``vectors_only``, from 0."""
    return _extract(backbone, dataset, features, call, vectors_only)


def _extract(
    backbone: "Backbone",
    dataset: Data,
    features: str | Path,
    call: ExtractCall,
    vectors_only: Sequence[int] = (),
) -> list[Store]:
    dataset = load_dataset(dataset)
    run: Callable[..., None] = fill
    if call.engine != "local":
        from iceprobe.store.ray_shards import fill_on_ray as run
    folder = located(features)
    here = world()
    target = here.device(choose_device(call.device))
    settings = make_settings(call, target.type)
    singles = backbone.per_layer()
    bare = settings.model_copy(update={"patches": False})
    wanted = [
        describe(
            one,
            dataset,
            bare if layer in vectors_only else settings,
            splits=call.splits,
            limit=call.limit,
        )
        for layer, one in zip(backbone.layers, singles, strict=True)
    ]
    here.agree([one.identity for one in wanted], "weights or images")
    first(lambda: bring_up_to_date(folder, wanted, dataset))
    with contextlib.ExitStack() as until:
        found = first(lambda: find_destinations(folder, wanted, until))
        destinations = [to_write for _, to_write in found if to_write is not None]
        if destinations:
            if here.size > 1 and (call.engine != "local" or isinstance(folder, RemotePath)):
                raise IceprobeError(
                    f"{here.size} processes can't extract into {folder} with engine={call.engine}: "
                    "extract in one process, whose engine may be ray, then fit in several"
                )
            progress = callback(call.progress)
            run(destinations, backbone, dataset, target, call.workers, call.on_bad_image, progress)
        here.gather(None)  # all shards are there, and recorded
    stores = []
    for (path, _), asked in zip(found, wanted, strict=True):
        if isinstance(path, Path):
            first(partial(remove_folder, path))
            first(partial(sweep, path))
        store = Store.open(path, dataset=dataset)
        store.depth = backbone.depth
        if store.manifest.skipped and call.on_bad_image == "fail":
            raise IceprobeError(
                f"store {path} was made without {len(store.manifest.skipped)} bad image(s), "
                f"{store.manifest.skipped[0]!r} first: mend them, or take on_bad_image=skip"
            )
        # The manifest on disk has the specs of the first request.
        store.manifest = store.manifest.asked_by(asked)
        stores.append(store)
    if here.main:
        log_file_assumptions(stores[0].manifest)
    return stores


@shows_progress
def repair(
    path: str | Path,
    backbone: "Backbone | None" = None,
    dataset: Dataset | None = None,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    on_bad_image: Policy | None = None,
    trust: bool = False,
    progress: ProgressCallback | bool | None = None,
) -> list[str]:
    """Extract the corrupt shards of a store again (all views of each), and no others.

    Args:
        path: folder of the store.
        backbone, dataset: what it was made from; by default loaded by the specs it records.
        device: of the type that the store was made on, which is the default.
        workers: processes that decode images; 0 decodes in threads.
        on_bad_image: ``"fail"`` or ``"skip"``, by default as when the store was made.
        trust: whether code that the manifest names may run, and another host be asked for images.
        progress: called with a stage's name, images done and images in total; by default a bar in
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

    def repaired() -> list[str]:
        manifest = read_manifest(folder)
        policy: Policy = on_bad_image or ("skip" if manifest.skipped else "fail")
        if policy not in ("fail", "skip"):
            raise IceprobeError(unknown("on_bad_image", policy, ("fail", "skip")))
        target = choose_device(device or manifest.settings.device)
        record = manifest.backbone
        source = backbone
        if source is None:
            source = load_recorded(record.spec, record, folder, trust)
        images = dataset
        if images is None:
            images = recorded_dataset(manifest.dataset.spec, folder, trust=trust)
        check_origin(folder, manifest, source, images, target)
        with exclusive(folder):
            manifest = read_manifest(folder)
            corrupt = {file.file for file, _ in corrupt_shards(folder, manifest)}
            if not corrupt:
                return []
            again: list[str] = []
            for split in manifest.splits.values():
                for shard in list(split.shards):
                    names = [file.file for file in shard.files]
                    if not corrupt.isdisjoint(names):
                        split.shards.remove(shard)
                        again += names
            write_manifest(folder, manifest)
            destination = Destination(folder, manifest, layer=0)
            fill([destination], source, images, target, workers, policy, callback(progress))
        return again

    return first(repaired)
