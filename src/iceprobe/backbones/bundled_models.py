"""``bundled:mae-tiny``: a small ViT that ships with the package, made by tools/pretrain_mae.py.

A masked autoencoder's encoder (``bundled/mae-tiny.json`` is its model card), read as plain ViTs of
that family are: last block, without the final norm.
"""

import json
from importlib import resources

from safetensors.torch import load
from timm.models.vision_transformer import VisionTransformer

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.backbones.readers import TimmReader
from iceprobe.errors import IceprobeError
from iceprobe.specs import unknown

NAMES = ("mae-tiny",)


def load_bundled(name: str, *, spec: str, layer: Layers = -1, norm: bool = False) -> Backbone:
    """Load a bundled backbone in float32 (its weights ship as float16).

    Raises:
        IceprobeError: for a name that isn't bundled.
    """
    if name not in NAMES:
        raise IceprobeError(unknown("bundled backbone", name, NAMES))
    folder = resources.files("iceprobe.backbones") / "bundled"
    card = json.loads((folder / f"{name}.json").read_text())
    shape = {key: value for key, value in card["architecture"].items() if key != "timm"}
    model = VisionTransformer(**shape)
    model.load_state_dict(load((folder / f"{name}.safetensors").read_bytes()))
    return Backbone(
        TimmReader(model, layer, norm),
        # Images are composed at the size the model sees: nothing is cropped off.
        Preprocessing(**card["preprocessing"], crop_pct=1.0),
        spec=spec,
        name=name,
        paradigm=card["paradigm"],
        settings={"architecture": name, "norm": norm},
    )
