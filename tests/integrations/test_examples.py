"""The scripts of examples/pretraining/ run as they stand, offline, and leave nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "pretraining").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_a_script_looks_three_times(file, tmp_path):
    done = subprocess.run(
        [sys.executable, file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["8", "16", "24"]
    assert all("k-NN" in line for line in lines)
    assert not list(tmp_path.iterdir())
