"""A campaign as Ray tasks, one per cell; `store/ray_shards.py` says what a task may rely on."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from iceprobe.cli.campaign import cells
from iceprobe.cli.console import Bars
from iceprobe.cli.sources import Sources
from iceprobe.cli.stages import run_stages
from iceprobe.machine.processes import first
from iceprobe.settings import Run
from iceprobe.store.ray_shards import RETRIES, connect, enter, results_of

log = logging.getLogger("iceprobe")


def run_on_ray(sources: Sources, runs: Sequence[Run], resume: bool) -> None:
    """Extract the stores of a campaign, one task per shard; then run its cells, one task each.

    Raises:
        IceprobeError: of the first cell that fails; other cells that have begun run to their end.
    """
    for run in runs:
        with Bars() as progress:
            sources.store(run, progress)
    ray = connect()
    gpus = int(bool(ray.cluster_resources().get("GPU")) and all(r.device != "cpu" for r in runs))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_cell)
    folder = ray.put(os.getcwd())
    cells = ((run.model_dump(mode="json"), resume) for run in runs)
    for (run, _), _ in results_of(ray, task, folder, cells):
        log.info("ray: %s is finished", run["output"])


def run_cell(folder: str, run: dict[str, Any], resume: bool) -> None:
    """One cell, as ``iceprobe run`` runs it."""
    enter(folder)
    config = Run(**run | {"engine": "local"})
    sources = Sources(config)
    (single,) = cells(sources.single_layers(), sources.probes)
    run_stages(single, sources, resume=resume)
    first(sources.keep)
