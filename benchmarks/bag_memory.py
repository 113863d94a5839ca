"""Peak memory of a fit over bags that no memory holds.

    python benchmarks/bag_memory.py [--bags 200] [--tokens 100000] [--memory 2GB] [--json FILE]

Bags of about as many random tokens, 768 numbers in float16 each (30 GB of 200 bags of 100,000), are written as HDF5 files, one a
bag, and `iceprobe fit features:FOLDER` reads them where they lie, in a process of its own: EP8 and gated ABMIL,
one epoch, every bag of which is streamed twice a step. Told is the most memory that the command had in use
(``ru_maxrss``), beside what it has after importing torch and iceprobe.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

DIM = 768
PROBES = ("ep8", "abmilp?gated=true&hidden=128")

OPTIONS = [
    "--protocol=paper",
    "--epochs=1",
    "--min-steps=0",
    "--seeds=1",
    "--learning-rates=1e-2",
    "--batch-size=16",
]


def peak(command: list[str]) -> int:
    """The most bytes that a command had in memory."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with {status}")
    return usage.ru_maxrss * 1024


def write(folder: Path, bags: int, tokens: int) -> None:
    """One file a bag; the first fifth are to test."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((tokens + bags, DIM), np.float32).astype(np.float16)
    (folder / "bags").mkdir()
    rows = ["slide_id,label,split"]
    for bag in range(bags):
        with h5py.File(folder / "bags" / f"slide_{bag:03d}.h5", "w") as file:
            file["features"] = block[bag : 2 * bag + tokens - bags]
        rows.append(f"slide_{bag:03d},{'ab'[bag % 2]},{'test' if bag < bags // 5 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bags", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--memory", default="2GB", help="as of iceprobe fit")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.bags, args.tokens)
        spec = f"features:{folder}/bags?table={folder}/labels.csv&name=slide_id&target=label&split=split"
        command = [sys.executable, "-m", "iceprobe", "fit", spec, "--memory", args.memory]
        command += (
            [f"--probe={probe}" for probe in PROBES] + OPTIONS + ["--output", f"{folder}/run"]
        )
        torch_alone = peak([sys.executable, "-c", "import torch, iceprobe.fitting.api"])
        began = time.perf_counter()
        found = {
            "bags": args.bags,
            "tokens": args.tokens,
            "bytes": 2 * DIM * args.bags * args.tokens,
            "memory": args.memory,
            "torch_alone": torch_alone,
            "peak": peak(command),
            "seconds": round(time.perf_counter() - began),
        }
    print(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
