"""Real processes, started as a user starts them, or joined as a trainer joins them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

ROOT = Path(__file__).parents[2]


def torchrun(
    folder: Path,
    *arguments: object,
    processes: int = 2,
    launcher: str = "torch.distributed.run",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc-per-node PROCESSES ARGUMENTS`` in ``folder``, one thread each."""
    paths = [str(ROOT / "src"), str(ROOT)]
    return subprocess.run(
        [
            *(sys.executable, "-m", launcher, "--standalone"),
            *("--nproc-per-node", str(processes), *map(str, arguments)),
        ],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)} | environment,
        capture_output=True,
        text=True,
        timeout=600,  # against a hang; two imports of torch beside two test processes take a minute
    )


def joined(work: Callable[[int], Any], folder: Path, processes: int = 2) -> list[Any]:
    """What ``work(rank)`` gives in each of several processes, which torch.distributed joins by gloo."""
    multiprocessing.spawn(_one, (str(folder), work, processes), nprocs=processes)
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(processes)]


def _one(rank: int, folder: str, work: Callable[[int], Any], processes: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    torch.save(work(rank), Path(folder) / str(rank))
    dist.destroy_process_group()
