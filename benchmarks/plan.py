"""What `iceprobe plan` says against what then happens.

    python benchmarks/plan.py [--clock wall|processor] [--limit 1500] [--epochs 3] [--json FILE]

Three cases on ``bundled:mae-tiny`` and ``bundled:fashion``: extraction; a fit of linear, ep12 and
aim12 (5 learning rates × 3 seeds); a fit of ep32 alone (the same). Each is planned, then done at
once, in one process and on one machine as loaded at that moment: the wall time of the public
function, its files and intervals included. Target: within 30%.

On a machine whose load changes in between, wall times say as much about the load. With
``--clock processor`` plan and deed are both in processor seconds of this process, which others
don't change much; with several threads of torch they aren't the time that one waits.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import iceprobe
from iceprobe.malloc import keep_freed_memory

FITS = {"linear, ep12, aim12": ["linear", "ep12", "aim12"], "ep32": ["ep32"]}


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.clock == "processor":
        time.perf_counter = time.process_time  # what plans and `seconds` read
    keep_freed_memory()  # as the command line does
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    dataset = iceprobe.load_dataset("bundled:fashion")
    found = []

    def compare(case: str, planned: float, planning: float, work: Callable[[], object]) -> None:
        actual = seconds(work)
        found.append(
            {
                "case": case,
                "planned_seconds": planned,
                "actual_seconds": actual,
                "ratio": planned / actual,
                "planning_seconds": planning,
            }
        )
        print(
            f"{case}: planned {planned:.1f} s (in {planning:.1f} s), took {actual:.1f} s, "
            f"ratio {planned / actual:.2f}",
            flush=True,
        )

    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            began = time.perf_counter()
            extraction = iceprobe.plan(backbone, dataset, root, limit=args.limit)
            compare(
                "extraction",
                extraction.seconds,
                time.perf_counter() - began,
                partial(iceprobe.extract, backbone, dataset, root, limit=args.limit),
            )
            store = iceprobe.extract(backbone, dataset, root, limit=args.limit)
            for case, probes in FITS.items():
                began = time.perf_counter()
                fit = iceprobe.plan_fit(
                    backbone, dataset, probes, epochs=args.epochs, limit=args.limit
                )
                compare(
                    f"fit of {case} ({fit.basis})",
                    fit.seconds,
                    time.perf_counter() - began,
                    partial(
                        iceprobe.fit, store, probes, epochs=args.epochs, output=root / f"run-{case}"
                    ),
                )
    print(f"{torch.get_num_threads()} threads, {args.clock} seconds")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
