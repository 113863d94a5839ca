"""Every figure of docs/speed.md, one file after another (`make bench`).

    python benchmarks/run.py                      # on the processor: about half an hour on two cores
    python benchmarks/run.py --only probe_step    # that file's figures; the others stay as they were
    python benchmarks/run.py --device cuda        # the figures that a GPU has

Each file runs in a process of its own. The figures go into ``results/MACHINE.json``, which is
written after each file, and from there into the page.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import table
import torch

from iceprobe.results.provenance import git_commit

HERE = Path(__file__).parent
#: File → seconds it takes on two cores of a Zen 5 with nothing else to do, at its own rounds.
SECONDS = {
    "probe_step": 120,
    "fit_members": 240,
    "whole_job": 480,
    "extraction": 150,
    "store_gather": 60,
    "streamed_memory": 60,
    "knn": 90,
    "plan": 90,
    "lengths": 60,
}
ON_GPU = ("probe_step", "attend_gpu", "fit_members", "extraction", "knn")


def chosen(only: list[str], device: torch.device) -> list[str]:
    """Files to run on that device; a line says why another is left out."""
    known = list(dict.fromkeys([*SECONDS, *ON_GPU]))
    if wrong := [name for name in only if name not in known]:
        sys.exit(f"--only {wrong[0]}: the benchmarks are {', '.join(known)}")
    found = []
    for name in only or known:
        if device.type == "cuda" and name not in ON_GPU:
            print(f"{name}: left out, it is about the processor")
        elif device.type != "cuda" and name not in SECONDS:
            print(f"{name}: left out, it needs a GPU (--device cuda)")
        else:
            found.append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="repeatable: one file's name")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, help="by default each file's own number")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(f"--device {args.device}: there is no GPU here")

    described = machine.describe(device)
    described["name"] = machine.file_name(described)
    file = table.RESULTS / f"{described['name']}.json"
    results = json.loads(file.read_text()) if file.exists() else {"benchmarks": {}}
    results["machine"] = described
    names = chosen(args.only, device)
    expected = {
        name: results["benchmarks"].get(name, {}).get("seconds", SECONDS.get(name, 120))
        for name in names
    }
    print(
        f"{len(names)} benchmarks on {described['name']}, about "
        f"{sum(expected.values()) / 60:.0f} min if nothing else runs",
        flush=True,
    )
    failed = []
    for position, name in enumerate(names, 1):
        left = sum(list(expected.values())[position - 1 :]) / 60
        print(f"[{position}/{len(names)}] {name}, about {left:.0f} min to go", flush=True)
        began, load = time.monotonic(), os.getloadavg()[0]
        figures = run(name, args.device, args.rounds)
        if figures is None:
            failed.append(name)
            continue
        results["benchmarks"][name] = {
            "commit": (git_commit() or "an installed version")[:10],
            "load": round(load, 1),
            "seconds": round(time.monotonic() - began),
            "figures": figures,
        }
        order = [known for known in [*SECONDS, *ON_GPU] if known in results["benchmarks"]]
        results["benchmarks"] = {known: results["benchmarks"][known] for known in order}
        table.RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table.main()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, device: str, rounds: int | None) -> list[table.Json] | None:
    """Figures of one file, from a process of its own; ``None`` where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "figures.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--device", device]
        command += ["--json", str(found), *(["--rounds", str(rounds)] if rounds else [])]
        if subprocess.run(command).returncode:
            return None
        return json.loads(found.read_text())


if __name__ == "__main__":
    main()
