"""Extraction as Ray tasks, one per shard.

A task leaves only complete files under final names, and the driver alone writes the manifest, so a task
may run twice: Ray runs it again if its worker or node died, which costs a shard, or the time since a
cell's last checkpoint. All nodes need iceprobe, and the driver's working folder, images and features
under the same paths (a shared file system, or object storage).
"""

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import RemotePath, located, scratch_folder
from iceprobe.store import remote
from iceprobe.store.destinations import Destination, check_origin
from iceprobe.store.filling import fill, missing_shards, rows_done
from iceprobe.store.format import Manifest, ShardRecord, publish

if TYPE_CHECKING:
    import torch

    from iceprobe.backbones.base import Backbone
    from iceprobe.datasets.base import Dataset
    from iceprobe.settings import Policy
    from iceprobe.store.pipeline import Progress

RETRIES = 5  # of a task whose worker or node dies
AHEAD = 4  # tasks submitted per processor of the cluster

log = logging.getLogger("iceprobe")


def connect() -> Any:
    """Ray, connected to the cluster of ``RAY_ADDRESS`` or ``ray start``, else to a new one here.

    Raises:
        IceprobeError: if Ray isn't installed, or the cluster of RAY_ADDRESS is missing or refuses.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise IceprobeError(
            "engine ray needs the package ray: pip install 'iceprobe[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        _knock(address)
    try:
        ray.init(address=address or "auto", **quiet)
        where = "the cluster at " + ray.get_runtime_context().gcs_address
    except OSError as error:  # ConnectionError is one
        if address:  # it answers
            raise IceprobeError(
                f"the Ray cluster at RAY_ADDRESS={address} doesn't let this process in: if it was "
                "started with a token, set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN, where "
                "~/.ray/auth_token isn't the cluster's)"
            ) from error
        _begin_here(ray, quiet)
        where = "a cluster of this machine alone (ray start --head found none)"
    found = ray.cluster_resources()
    log.info(
        "ray: %s, %d nodes, %g processors, %g GPUs",
        where, len(ray.nodes()), found.get("CPU", 0), found.get("GPU", 0),
    )  # fmt: skip
    return ray


def _begin_here(ray: Any, quiet: dict[str, Any]) -> None:
    """Start a cluster of this machine alone, which listens only on the loopback interface.

    Access to a cluster's port means running code on it. Ray listens on loopback on systems without
    clusters, and has no argument for it.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(address="local", include_dashboard=False, **quiet)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    if not ray.get_runtime_context().gcs_address.startswith("127."):
        ray.shutdown()
        raise IceprobeError(
            f"ray {ray.__version__} would listen on all interfaces of this machine: start a cluster "
            "where nobody else can reach it with ray start --head, then give the same again"
        )


def _knock(address: str) -> None:
    """Raise if nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise IceprobeError(
            f"no Ray cluster at RAY_ADDRESS={address}: start one with ray start --head"
        ) from error


@dataclass
class ShardJob(Destination):
    """One layer's shard of a task: made in a temporary folder, then moved to ``path``, the store.

    ``records`` of the shards made are for the driver.
    """

    path: Path | RemotePath
    records: list[ShardRecord] = field(default_factory=list)

    def put(self, shard: ShardRecord) -> ShardRecord:
        if isinstance(self.path, RemotePath):
            return remote.put_shard(self.path, self.folder, self.manifest.identity, shard)
        for file in shard.files:
            publish(self.folder / file.file, self.path / file.file)
        return shard

    def record(self, split: str, shard: ShardRecord) -> None:
        self.records.append(shard)


@dataclass(frozen=True)
class ExtractionJob:
    """The arguments that the tasks of one extraction share."""

    backbone: str  # spec string
    data: str  # spec string
    # number, manifest and destination of each unfinished one
    layers: list[tuple[int, Manifest, str]]
    folder: str  # the driver's working folder
    device: str
    workers: int
    on_bad_image: "Policy"


def fill_on_ray(
    destinations: Sequence[Destination],
    backbone: "Backbone",
    dataset: "Dataset",
    device: "torch.device",
    workers: int,
    on_bad_image: "Policy",
    progress: "Progress",
) -> None:
    """As :func:`iceprobe.store.filling.fill`, with a Ray task for each shard.

    Raises:
        IceprobeError: as there, and if a node has other weights or images than the driver.
    """
    ray = connect()
    layers = [(p.layer, p.manifest.model_copy(deep=True), str(p.target)) for p in destinations]
    first = destinations[0].manifest
    job = ray.put(
        ExtractionJob(
            backbone.spec, dataset.spec, layers, os.getcwd(), device.type, workers, on_bad_image
        )
    )
    task = ray.remote(
        num_cpus=max(1, workers), num_gpus=int(device.type == "cuda"), max_retries=RETRIES
    )(extract_shard)
    shards = missing_shards(destinations)
    done = rows_done(first, shards)
    for (name, number), made in results_of(ray, task, job, iter(shards)):
        for destination in destinations:
            if destination.layer in made:
                destination.record(name, made[destination.layer])
        done[name] += first.rows(name, number)
        if progress is not None:
            progress(f"extract {name}", done[name], first.splits[name].images)
    for destination in destinations:
        for left in destination.folder.glob(".part-*"):  # of workers that were killed
            shutil.rmtree(left, ignore_errors=True)


def extract_shard(job: ExtractionJob, split: str, number: int) -> dict[int, ShardRecord]:
    """Make one shard of each layer that lacks it; return its record by layer."""
    enter(job.folder)
    import torch

    backbone, dataset = _loaded(job.backbone, job.data)
    device, singles = torch.device(job.device), backbone.per_layer()
    jobs: list[ShardJob] = []
    with scratch_folder() as spare, contextlib.ExitStack() as until:
        for layer, manifest, place in job.layers:
            if number not in manifest.missing(split):
                continue
            target = located(place)
            check_origin(target, manifest, singles[layer], dataset, device)
            # Beside its destination: a rename needs one file system.
            folder = spare if isinstance(target, RemotePath) else target
            scratch = tempfile.TemporaryDirectory(
                prefix=".part-", dir=folder, ignore_cleanup_errors=True
            )
            jobs.append(ShardJob(Path(until.enter_context(scratch)), manifest, layer, target))
        fill(
            jobs, backbone, dataset, device, job.workers, job.on_bad_image, None,
            only=(split, number),
        )  # fmt: skip
    return {one.layer: one.records[0] for one in jobs}


def results_of(
    ray: Any, task: Any, shared: Any, arguments: Iterator[tuple[Any, Any]]
) -> Iterator[tuple[tuple[Any, Any], Any]]:
    """Arguments and result of each task, in the order they end; few are submitted at a time."""
    waiting: dict[Any, tuple[Any, Any]] = {}
    while True:
        room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(waiting)
        for given in islice(arguments, max(0, room)):
            waiting[task.remote(shared, *given)] = given
        if not waiting:
            return
        (ended, *_), _ = ray.wait(list(waiting))
        yield waiting.pop(ended), _result(ray, ended)


def _result(ray: Any, task: Any) -> Any:
    """A task's result, or its error; a lost worker is an `IceprobeError`."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise IceprobeError(
            f"a Ray task lost its worker {RETRIES + 1} times ({type(error).__name__}): look at the "
            "memory of the nodes, then run the same again, it goes on"
        ) from error


def enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise IceprobeError(
            f"the driver's folder {folder!r} can't be entered on {os.uname().nodename} "
            f"({error.strerror}): start from a folder that all nodes share"
        ) from error


@lru_cache(1)
def _loaded(backbone: str, data: str) -> tuple["Backbone", "Dataset"]:
    """Loaded once a worker process, which runs many tasks."""
    from iceprobe.backbones import load_backbone
    from iceprobe.datasets import load_dataset

    return load_backbone(backbone), load_dataset(data)
