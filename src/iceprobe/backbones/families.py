"""What a model's name says about how it was trained, and whether its final norm is read.

The published probes of plain ViTs trained by masking or contrast (MAE, SimMIM, BEiTv2, MaskFeat,
iBOT, MoCo v3) read the last block *without* the final norm; everything else is read with it
(``spec/protocols.md``, "What is read from a backbone"). The family stands in timm's tag, as in
``vit_base_patch16_224.mae``. A raw checkpoint loaded under a name without its family's tag is
read with the norm unless ``norm=false`` is said.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One row: models whose name matches, how they were trained, and the default of ``norm``."""

    pattern: str  # a regular expression searched in the name, "ARCHITECTURE.TAG"
    paradigm: str
    norm: bool = True


_PLAIN_VIT = r"^(vit|deit3?)_\w+\.(.*_)?"
# The first row that matches counts.
FAMILIES = (
    Family(_PLAIN_VIT + r"(mae|simmim|maskfeat)(?![a-z])", "masked image modelling", norm=False),
    Family(r"^beitv2_", "masked image modelling", norm=False),
    Family(_PLAIN_VIT + r"ibot(?![a-z])", "self-distillation", norm=False),
    Family(_PLAIN_VIT + r"moco(_?v3)?(?![a-z])", "contrastive", norm=False),
    Family(r"clip|siglip|tips|_pe_(core|spatial|lang)", "image-text"),
    Family(r"^(beit|eva(02)?)_|\.(.*_)?(mae|mim|fcmae)(?![a-z])", "masked image modelling"),
    Family(r"dino(?![a-z])|dinov[23]|franca", "self-distillation"),
    Family(r"jepa", "joint-embedding prediction"),
    Family(r"^aimv2", "autoregressive"),
    Family(r"^sam(vit|2)_", "segmentation"),
    Family(r"in1k|in12k|in22k|in21k|imagenet", "supervised"),
)
_UNKNOWN = Family("", "unknown")


def family_of(name: str) -> Family:
    """The family of ``name`` (timm's, with its tag); a name that says nothing reads the norm."""
    return next((family for family in FAMILIES if re.search(family.pattern, name)), _UNKNOWN)
