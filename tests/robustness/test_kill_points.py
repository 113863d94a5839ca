"""Killed at any change to the disk, a command given again ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path


def test_killed_and_given_again(tmp_path):
    """A sample of the points of every command; `python -m tests.robustness.kill_worker DIR --all`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.kill_worker", tmp_path, "--points", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["command"] for one in told] == [
        "extract", "run", "fit", "knn", "adapt", "campaign", "predict", "export", "segment",
        "analyze", "report",
    ]  # fmt: skip
    for one in told:
        assert one["points"] > 5, one
        assert one["tried"] == 3, one
        assert (one["otherwise"], one["left"]) == ([], []), one
