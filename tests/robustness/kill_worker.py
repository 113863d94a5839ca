"""Stop every command at its n-th change to the disk, give it again, compare with the undisturbed end.

Run by ``test_kill_points.py`` as a process of its own: it imports everything once and forks before
torch has started a thread, so a point costs a command and no imports. By hand, every point of every
command:

    python -m tests.robustness.kill_worker FOLDER --all [--kill] [--from N] [--every K] [COMMAND …]

A kill leaves what was on the disk. One undisturbed process puts that aside at each of its points,
so that a point costs the second command alone; --kill kills a process of its own at each.

Prints one JSON object a command: how many points it has, at how many the files differ from those of
every earlier point, which were tried, at which the same command given again ended otherwise, and
after which something was left that an undisturbed command doesn't leave.
"""

import argparse
import contextlib
import dataclasses
import gc
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import iceprobe
from iceprobe.cli import main as command_line
from iceprobe.cli import sources
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.reporting import page
from tests.cli.conftest import BACKBONE, write_images
from tests.robustness.kill_points import Points
from tests.store.conftest import SMALL, make_backbone, make_dataset

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
        iceprobe.Store.open(store), ["knn", "linear", "ep4"], replicates=2, epochs=1,
        learning_rates=[1e-2, 1e-1], device="cpu", output="runs/python",
    )  # fmt: skip
    assert [result.probe for result in found] == ["knn", "linear", "ep4"]


def segmented() -> None:
    from tests.dense.masks import planted

    store = iceprobe.extract(make_backbone(), planted(), "features", batch_size=16)
    iceprobe.segment(store, seeds=1, epochs=1, learning_rates=[0.1], output="runs/dense")


def extracted(train: int, **settings: object) -> Callable[[], None]:
    """Shards of three batches of train, then of one batch, and one of one of test."""

    def call() -> None:
        data = make_dataset(train=train, test=3)
        iceprobe.extract(make_backbone(), data, "features", **(SMALL | settings))

    return call


@dataclass(frozen=True)
class Scenario:
    """A command, and what was done before it."""

    command: Callable[[], None]
    before: tuple[Callable[[], None], ...] = ()


EXTRACT = commanded("extract", "--backbone", BACKBONE, *DATA, "--device", "cpu")
MINE = commanded(*RUN, "--output", "runs/mine")
EXPORT = ["export", "runs/mine", "--probe", "ep4", "--output", "model", "--trust"]
PREDICT = ["predict", "model", "--images", "images/test", "--output", "p.csv", "--trust"]
CELLS = f"""
backbone: ["{BACKBONE}", "{VIT}"]
data: [folder:images]
probe: [linear]
seeds: 1
epochs: 1
learning_rates: [1.0e-2]
device: cpu
output: runs/cells
"""
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
    "cells": Scenario(
        commanded("run", "cells.yaml"), (lambda: _written("cells.yaml", CELLS),)
    ),
    "predict": Scenario(
        commanded(*PREDICT, "--maps", "maps", "--device", "cpu"), (MINE, commanded(*EXPORT))
    ),
    "export": Scenario(commanded(*EXPORT), (MINE,)),
    "onnx": Scenario(commanded(*EXPORT, "--format", "onnx"), (MINE,)),
    "segment": Scenario(
        commanded(
            "segment", "--backbone", BACKBONE, "--data", "bundled:fashion-clutter", "--limit", "40",
            "--probe", "linear", "--probe", "ep4", "--seeds", "1", "--epochs", "1",
            "--learning-rates", "0.1", "--device", "cpu", "--output", "runs/segmented",
        )
    ),
    "dense": Scenario(segmented),
    "analyze": Scenario(commanded("analyze", "runs/mine", "--device", "cpu"), (MINE,)),
    "report": Scenario(commanded("report", "runs/mine", "--output", "report.html"), (MINE,)),
    "prune": Scenario(commanded("prune", "--yes"), (EXTRACT,)),
    "store": Scenario(extracted(14)),
    "store-int8-views": Scenario(extracted(10, tokens="int8", views=1)),
}  # fmt: skip


def _written(name: str, text: str) -> None:
    Path(name).write_text(text)


def _store() -> str:
    (store,) = Path("features").iterdir()
    return str(store)


@dataclass
class Ended:
    """How a command in a fork ended: its exit code, or −signal; what it said; its points."""

    code: int
    said: str
    points: list[str]


def ended(
    folder: Path,
    call: Callable[[], None],
    *,
    fatal: int | None = None,
    keep: Path | None = None,
) -> Ended:
    """Call in a fork, with ``folder`` as the working folder."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(folder, call, Points(folder, fatal, keep), write)
    os.close(write)
    with os.fdopen(read) as pipe:
        seen = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    passed, modules = json.loads(seen) if code == 0 else ([], [])
    for name in modules:  # imported here once, they are there in every fork from now on
        if name not in sys.modules and not name.startswith("onnxruntime"):  # it starts a thread
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    said = (folder.parent / "err").read_text().strip()
    return Ended(code, said, passed)


def _child(folder: Path, call: Callable[[], None], points: Points, write: int) -> None:
    code = 70
    try:
        os.chdir(folder)
        os.environ["ICEPROBE_CACHE"] = str(folder / "cache")
        for number, name in ((1, "out"), (2, "err")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(folder.parent / name, flags), number)
        if points.fatal is not None or points.keep is not None:
            points.install()
        try:
            call()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        sys.stdout.flush()
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps([points.passed, list(sys.modules)]))
    except BaseException:  # noqa: BLE001 (the parent tells what it said)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def content(folder: Path) -> dict[str, object]:
    """Every file by what must be the same: its bytes, without times of day and durations."""
    return {
        path.relative_to(folder).as_posix(): _comparable(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def _comparable(path: Path) -> object:
    if path.is_dir():
        return "empty folder"
    if path.name == "log.txt":
        return "log"
    if path.suffix == ".json":
        text = re.sub(r'"(created|seconds)": .*', "", path.read_text())
        return re.sub(r'^  "sha256": .*$', "", text, flags=re.M)  # over the whole, times included
    if path.suffix == ".html":
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}", "", path.read_text())
    return path.read_bytes()


def chosen(
    name: str, whole: Ended, kept: dict[int, Path], given: argparse.Namespace
) -> Iterator[tuple[str, dict]]:
    """The interruptions, in words, with the files that one left or how `ended` makes it."""
    numbers = [n for n in sorted(kept) if n >= given.first][:: given.every]
    if not given.all and given.points < len(numbers):
        numbers = sorted(random.Random(f"{name} 1").sample(numbers, given.points))
    for n in numbers:
        yield f"{n} {whole.points[n]}", {"fatal": n} if given.kill else {"left": kept[n]}


def tried(name: str, root: Path, given: argparse.Namespace) -> dict[str, object]:
    scenario, base = SCENARIOS[name], root / "base"
    base.mkdir(parents=True)
    write_images(base / "images", {"train": 6, "test": 3}, ("dark", "light"))
    for call in scenario.before:
        before = ended(base, call)
        assert before.code == 0, before.said
    work = root / "work"  # always here: results name their store by its path
    shutil.copytree(base, work)
    aside = root / "kept"
    whole = ended(work, scenario.command, keep=aside)
    assert whole.code == 0, whole.said
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    expected = content(work)
    shutil.move(work, root / "whole")
    stops, otherwise, left = [], [], []
    kept = {int(path.name): path for path in aside.iterdir()}
    for what, how in chosen(name, whole, kept, given):
        code = -signal.SIGKILL
        if "left" in how:
            shutil.move(how["left"], work)
        else:
            shutil.copytree(base, work)
            code = ended(work, scenario.command, **how).code
        again = ended(work, scenario.command)
        found = content(work)
        surplus = sorted(found.keys() - expected.keys())
        differ = sorted(k for k in expected if found.get(k) != expected[k])
        wrong = []
        if surplus:
            left.append([what, code, surplus])
            wrong.append(surplus)
        if again.code != 0 or differ:
            otherwise.append([what, code, again.code, again.said[-300:], differ])
            wrong.append(otherwise[-1][2:])
        print(name, what, code, *wrong, file=sys.stderr, flush=True)
        if wrong:
            shutil.move(work, root / f"wrong-{len(stops)}")
        else:
            shutil.rmtree(work)
        stops.append(what)
    return {"command": name, "points": len(whole.points), "distinct": len(kept),
            "tried": stops, "otherwise": otherwise, "left": left}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("commands", nargs="*")
    parser.add_argument("--all", action="store_true", help="every point, not a sample")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first point")
    parser.add_argument("--every", type=int, default=1, help="every so many-th point")
    parser.add_argument("--points", type=int, default=6, help="tried of each command")
    parser.add_argument("--kill", action="store_true", help="kill at a point: not only its files")
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    # What writes nothing and takes seconds: charts, the estimate before a run, 400 steps at least.
    page.render = lambda results, **_: "\n".join(f"{r.label} {r.top1.values}" for r in results)
    sources.print_estimate = lambda *_: None
    PROTOCOLS["heldout"] = dataclasses.replace(PROTOCOLS["heldout"], min_steps=0)
    for name in given.commands or SCENARIOS:
        print(json.dumps(tried(name, given.folder.resolve() / name, given)), flush=True)


if __name__ == "__main__":
    main()
