"""What a user starts from works as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from iceprobe.cli.config import RunConfig, resolve
from iceprobe.probes import parse_probe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_configurations_name_what_exists(file):
    config = resolve(RunConfig, {}, file, [])
    labels = [parse_probe(text) for text in config.probe]
    assert len(set(map(str, labels))) == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda f: f.name)
def test_scripts_run(file, tmp_path):
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ep8" in done.stdout
    assert list(tmp_path.iterdir()) == []  # in memory, as it says
