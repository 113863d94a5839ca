"""Real processes, started as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

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
