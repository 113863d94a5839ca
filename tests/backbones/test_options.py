"""Options that sources share: typed once, and given to a loader in groups."""

import subprocess
import sys
from dataclasses import fields

import pytest

from iceprobe.backbones import BACKBONES, load_backbone
from iceprobe.backbones.options import (
    CheckpointOptions,
    ImageOptions,
    LayerOptions,
    OutputOptions,
    PartOptions,
    grouped,
    parsers,
)
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec, typed_options


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_option_has_one_place(name):
    entry = BACKBONES[name]
    groups = {*entry.groups.values(), PartOptions}
    shared = [each.name for group in groups for each in fields(group)]
    assert len({*shared, *entry.own}) == len(shared) + len(entry.own)
    assert set(entry.options) == {*shared, *entry.own, "paradigm"}


def test_values_go_into_their_groups_and_the_rest_stays():
    spec = parse_spec("timm:x?layer=0,-1&mean=0.5&image_size=32&ignore=a,b&trust=true")
    groups = {"tokens": OutputOptions, "images": ImageOptions, "saved": CheckpointOptions}
    types = {**parsers(groups.values()), "trust": str}
    assert grouped(groups, typed_options(spec, types)) == {
        "tokens": OutputOptions(layer=(0, -1)),
        "images": ImageOptions(image_size=32, mean=(0.5,)),
        "saved": CheckpointOptions(ignore=("a", "b")),
        "trust": "true",
    }


def test_what_is_not_given_keeps_the_models_own():
    assert ImageOptions(mean=[0.5], crop_pct=1.0).given == {"mean": (0.5,), "crop_pct": 1.0}
    assert (LayerOptions().layers, LayerOptions(layer=0).layers) == (-1, 0)
    with pytest.raises(IceprobeError, match="image_size=0: write a number of pixels"):
        load_backbone(object(), image_size=0)


def test_importing_options_and_tokens_imports_no_torch():
    code = (
        "import sys, iceprobe.backbones.options, iceprobe.tokens, iceprobe.store.request; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
