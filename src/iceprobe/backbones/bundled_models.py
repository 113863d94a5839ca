"""``bundled:NAME``: small ViTs of one shape that ship with iceprobe (tools/pretrain_*.py).

``bundled/NAME.json`` is the model card. It also states whether the final norm is applied: not for a
masked autoencoder (as for plain ViTs of that family), but for models trained on the class token
after the norm.
"""

import json
from importlib import resources

from safetensors.torch import load
from timm.models.vision_transformer import VisionTransformer

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.options import TokenOptions
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.backbones.readers import TimmReader
from iceprobe.core.checksums import listed
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown

NAMES = ("mae-tiny", "supervised-tiny", "dino-tiny")


def load_bundled(name: str, *, spec: str, tokens: TokenOptions) -> Backbone:
    """Load a bundled backbone in float32 (its weights ship as float16).

    The default of ``norm`` is in the model card.

    Raises:
        IceprobeError: for an unknown name, or a file that differs from the one that was shipped.
    """
    if name not in NAMES:
        raise IceprobeError(unknown("bundled backbone", name, NAMES))
    folder = resources.files("iceprobe.backbones") / "bundled"
    card = json.loads(listed(folder, f"{name}.json"))
    shape = {key: value for key, value in card["architecture"].items() if key != "timm"}
    model = VisionTransformer(**shape)
    norm = card["norm"] if tokens.norm is None else tokens.norm
    model.load_state_dict(load(listed(folder, f"{name}.safetensors")))
    return Backbone(
        TimmReader(model, tokens.layers, norm),
        # Images are made at the model's size: nothing is cropped.
        Preprocessing(**card["preprocessing"], crop_pct=1.0),
        spec=spec,
        name=name,
        paradigm=card["paradigm"],
        settings={"architecture": name, "norm": norm},
    )
