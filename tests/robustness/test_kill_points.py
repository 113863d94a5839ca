"""Killed at any change to the disk, a command given again ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def killed(folder: Path, *arguments: str) -> dict[str, dict]:
    """What `tests.robustness.kill_worker` tells, by command; it ran as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.kill_worker", folder, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    seen = {one["command"]: one for one in map(json.loads, done.stdout.splitlines())}
    for one in seen.values():
        assert (one["otherwise"], one["left"]) == ([], []), one
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("store", ["store", "store-int8-views"])
def test_an_extraction_killed_anywhere(tmp_path, store):
    """Every point, from nothing written over half-written shards to everything done."""
    one = killed(tmp_path, "--all", store)[store]
    assert len(one["tried"]) == one["distinct"] > 40
    files = {point.rpartition(" ")[2] for point in one["tried"]}
    assert {
        "train-00000.safetensors.tmp",
        "test-00000.safetensors.tmp",
        "manifest.json.tmp",
    } <= files


@pytest.mark.slow
def test_a_command_killed_and_given_again(tmp_path):
    """A sample of the points; all: `python -m tests.robustness.kill_worker DIR --all` (and ONNX)."""
    names = [
        "extract", "run", "fit", "knn", "adapt", "campaign", "cells", "predict", "export",
        "segment", "dense", "analyze", "report", "prune",
    ]  # fmt: skip
    seen = killed(tmp_path, "--kill", "--points", "2", *names)
    assert list(seen) == names
    for one in seen.values():
        assert one["points"] > 5, one
        assert len(one["tried"]) == 2, one
