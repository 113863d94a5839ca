"""A campaign as Ray tasks, a cell each; what a task may rely on is said in `store/ray_shards.py`."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from iceprobe.cli.campaign import cells
from iceprobe.cli.sources import Sources, run_single
from iceprobe.machine.processes import first
from iceprobe.settings import Run
from iceprobe.store.ray_shards import RETRIES, connect, enter, results_of

log = logging.getLogger("iceprobe")


def run_cells(runs: Sequence[Run], resume: bool) -> None:
    """Run the cells of a campaign, each a task; their stores are there already.

    Raises:
        IceprobeError: of the first cell that fails; the others that were begun go on to their end.
    """
    ray = connect()
    gpus = int(bool(ray.cluster_resources().get("GPU")) and all(r.device != "cpu" for r in runs))
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_cell)
    folder = ray.put(os.getcwd())
    cells = ((run.model_dump(mode="json"), resume) for run in runs)
    for (run, _), _ in results_of(ray, task, folder, cells):
        log.info("ray: %s is finished", run["output"])


def run_cell(folder: str, run: dict[str, Any], resume: bool) -> None:
    """One cell, as ``iceprobe run`` runs it by itself."""
    enter(folder)
    config = Run(**run | {"engine": "local"})
    sources = Sources(config)
    (single,) = cells(sources.single_layers())
    run_single(sources, single, resume=resume)
    first(sources.keep)
