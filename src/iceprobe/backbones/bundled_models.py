"""``bundled:NAME``: small ViTs of one shape that ship with the package, made by tools/pretrain_*.py.

``bundled/NAME.json`` is the model card, which says too whether the final norm is applied: a masked
autoencoder is read as plain ViTs of that family are, without it; whatever was trained on its class
token behind the norm, with it.
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

    Without ``norm`` in ``tokens`` the model card's counts.

    Raises:
        IceprobeError: for a name that isn't bundled, or a file that isn't what was shipped.
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
        # Images are composed at the size the model sees: nothing is cropped off.
        Preprocessing(**card["preprocessing"], crop_pct=1.0),
        spec=spec,
        name=name,
        paradigm=card["paradigm"],
        settings={"architecture": name, "norm": norm},
    )
