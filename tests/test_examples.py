"""What a user starts from works as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from iceprobe.adaptation.model import Adapted
from iceprobe.adaptation.registry import pairs
from iceprobe.backbones import load_backbone
from iceprobe.cli.commands import AdaptRun, Run
from iceprobe.cli.config import read_yaml, resolve
from iceprobe.probes import parse_probe
from iceprobe.probes.probe import build_for

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_configurations_name_what_exists(file):
    if "adapt" in read_yaml(file):
        adapted = resolve(AdaptRun, {}, file, [])
        assert pairs(adapted.adapt, adapted.probe)
        return
    config = resolve(Run, {}, file, [])
    labels = [parse_probe(text) for text in config.probe]
    assert len(set(map(str, labels))) == len(labels)


def test_lora_with_ep_has_no_more_parameters_than_either_alone():
    """As the example says: counted, not typed."""
    config = resolve(AdaptRun, {}, ROOT / "examples" / "adaptation.yaml", [])
    backbone = load_backbone(config.backbone)

    def total(adaptation, probe):
        made = build_for(backbone.shape, probe, 10)
        if adaptation == "none":
            return made.num_parameters()["total"]
        return Adapted(backbone, adaptation, made).num_parameters()["total"]

    counts = {pair: total(*pair) for pair in pairs(config.adapt, config.probe)}
    linear = "linear?input=mean"
    assert counts["none", "ep12"] == 41_098
    assert counts["lora?rank=16", linear] == counts["lora?blocks=-1&rank=96", linear] == 38_794
    assert (
        counts["lora", "ep12?out_dim=48"] == 6 * 8 * 2 * 192 + 12 * 192 + 48 * 192 + 490 == 30_442
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda f: f.name)
def test_scripts_run(file, tmp_path):
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ep8" in done.stdout
    assert list(tmp_path.iterdir()) == []  # in memory, as it says
