"""Kill every command at its n-th change to the disk, give it again, compare with the undisturbed end.

Run by ``test_kill_points.py`` as a process of its own: it imports everything once and forks before
torch has started a thread, so a point costs a command or two and no imports. Every point, by hand:

    python -m tests.robustness.kill_worker FOLDER --all [--every K] [COMMAND …]

Prints one JSON object a command: how many points it has, at which the same command given again ended
otherwise, and after which something was left that an undisturbed command doesn't leave.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import iceprobe
from iceprobe.cli import main as command_line
from iceprobe.cli import run
from iceprobe.report import page
from tests.cli.conftest import BACKBONE, write_images
from tests.robustness.kill_points import Points

FIT = ["--seeds", "1", "--epochs", "1", "--learning-rates", "1e-2,1e-1", "--device", "cpu"]
DATA = ["--data", "folder:images"]
RUN = ["run", "--backbone", BACKBONE, *DATA, *FIT, "--probe", "knn", "--probe", "ep4"]
VIT = BACKBONE.replace(":build?", ":build_vit?")


def commanded(*words: str) -> Callable[[], None]:
    def call() -> None:
        sys.argv = ["iceprobe", *words]
        command_line(list(words))

    return call


def fitted() -> None:
    (store,) = Path("features").iterdir()
    found = iceprobe.fit(
        iceprobe.Store.open(store), ["knn", "linear", "ep4"], seeds=1, epochs=1,
        learning_rates=[1e-2, 1e-1], device="cpu", output="runs/python",
    )  # fmt: skip
    assert [result.probe for result in found] == ["knn", "linear", "ep4"]


def segmented() -> None:
    from tests.dense.conftest import planted
    from tests.store.conftest import make_backbone

    store = iceprobe.extract(make_backbone(), planted(), "features", batch_size=16)
    iceprobe.segment(store, seeds=1, epochs=1, learning_rates=[0.1], output="runs/dense")


@dataclass(frozen=True)
class Scenario:
    """A command, and what was done before it."""

    command: Callable[[], None]
    before: tuple[Callable[[], None], ...] = ()


EXTRACT = commanded("extract", "--backbone", BACKBONE, *DATA, "--device", "cpu")
MINE = commanded(*RUN, "--output", "runs/mine")
EXPORT = commanded("export", "runs/mine", "--probe", "ep4", "--output", "model", "--trust")
PREDICT = ["predict", "model", "--images", "images/test", "--output", "p.csv", "--trust"]
SCENARIOS = {
    "extract": Scenario(EXTRACT),
    "run": Scenario(MINE),
    "fit": Scenario(fitted, (EXTRACT,)),
    "knn": Scenario(lambda: commanded("knn", _store(), "--device", "cpu")(), (EXTRACT,)),
    "adapt": Scenario(
        commanded(
            "adapt", "--backbone", VIT, *DATA, "--adapt", "none", "--adapt", "lora?rank=2",
            "--seeds", "1", "--epochs", "1", "--learning-rates", "1e-3,1e-2", "--device", "cpu",
            "--output", "runs/adapted",
        )
    ),
    "campaign": Scenario(commanded(*RUN, "--shots", "2,4", "--replicates", "1", "--output", "all")),
    "predict": Scenario(commanded(*PREDICT, "--maps", "maps", "--device", "cpu"), (MINE, EXPORT)),
    "export": Scenario(EXPORT, (MINE,)),
    "segment": Scenario(segmented),
    "analyze": Scenario(commanded("analyze", "runs/mine", "--device", "cpu"), (MINE,)),
    "report": Scenario(commanded("report", "runs/mine", "--output", "report.html"), (MINE,)),
}  # fmt: skip


def _store() -> str:
    (store,) = Path("features").iterdir()
    return str(store)


def ended(folder: Path, call: Callable[[], None], fatal: int | None = None, *, watch: bool = False):
    """Call in a fork with ``folder`` as the working folder: exit code or −signal, and the points."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 70
        try:
            os.chdir(folder)
            os.environ["ICEPROBE_CACHE"] = str(folder / "cache")
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(
                    os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number
                )
            points = Points(folder, fatal)
            if watch or fatal is not None:
                points.install()
            try:
                call()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            sys.stdout.flush()
            with os.fdopen(write, "w") as pipe:
                pipe.write(json.dumps([points.passed, list(sys.modules)]))
        except Exception:  # noqa: BLE001 (the parent tells what it said)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        passed = pipe.read()
    _, status = os.waitpid(child, 0)
    points, modules = json.loads(passed) if passed else ([], [])
    for name in modules:  # imported here once, they are there in every fork from now on
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return os.waitstatus_to_exitcode(status), points


def content(folder: Path) -> dict[str, object]:
    """Every file by what must be the same: its bytes, without times of day and durations."""
    return {
        path.relative_to(folder).as_posix(): _told(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def _told(path: Path) -> object:
    if path.is_dir():
        return "empty folder"
    if path.name == "log.txt":
        return "log"
    if path.suffix == ".json":
        text = re.sub(r'"(created|seconds)": .*', "", path.read_text())
        return re.sub(r'^  "sha256": .*$', "", text, flags=re.M)  # over the whole, times included
    return path.read_bytes()


def tried(name: str, root: Path, count: int | None, every: int = 1) -> dict[str, object]:
    scenario, base = SCENARIOS[name], root / name / "base"
    base.mkdir(parents=True)
    write_images(base / "images", {"train": 6, "test": 3}, ("dark", "light"))
    for call in scenario.before:
        code, _ = ended(base, call)
        assert code == 0, (root / name / "err").read_text()
    work = root / name / "work"  # always here: results name their store by its path
    shutil.copytree(base, work)
    code, points = ended(work, scenario.command, watch=True)
    assert code == 0, (root / name / "err").read_text()
    expected = content(work)
    shutil.move(work, root / name / "whole")
    numbers = list(range(0, len(points), every))
    if count is not None and count < len(numbers):
        numbers = sorted(random.Random(f"{name} 1").sample(numbers, count))
    otherwise, left = [], []
    for number in numbers:
        shutil.copytree(base, work)
        code, _ = ended(work, scenario.command, number)
        said = (root / name / "err").read_text().strip().splitlines()[-1:]
        if code in (-signal.SIGKILL, 0):  # 0: a run that had fewer points this time
            code, _ = ended(work, scenario.command)
            said = (root / name / "err").read_text().strip().splitlines()[-1:]
        found = content(work)
        surplus = sorted(found.keys() - expected.keys())
        differ = sorted(k for k in expected if found.get(k) != expected[k])
        if surplus:
            left.append([number, points[number], surplus])
        if code != 0 or differ:
            otherwise.append([number, points[number], code, *said, differ])
        wrong = (code != 0 or differ) and otherwise[-1], surplus and left[-1]
        print(name, number, points[number], *filter(None, wrong), file=sys.stderr, flush=True)
        shutil.rmtree(work)
    return {"command": name, "points": len(points), "tried": len(numbers),
            "otherwise": otherwise, "left": left}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("commands", nargs="*")
    parser.add_argument("--all", action="store_true", help="every point, not a sample")
    parser.add_argument("--every", type=int, default=1, help="with --all: every so many-th point")
    parser.add_argument("--points", type=int, default=6, help="tried of each command")
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    # What writes nothing and takes seconds: the page's charts, and the estimate before a run.
    page.render = lambda results, **_: "\n".join(f"{r.label} {r.top1.values}" for r in results)
    run.print_estimate = lambda *_: None
    for name in given.commands or SCENARIOS:
        count = None if given.all else given.points
        told = tried(name, given.folder.resolve(), count, given.every if given.all else 1)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
