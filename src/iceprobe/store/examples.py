"""What the examples of a store are called."""

from typing import TYPE_CHECKING

from iceprobe.backbones.kinds import KINDS, singular

if TYPE_CHECKING:
    from iceprobe.datasets.base import Split
    from iceprobe.store.format import Manifest


def example_noun(manifest: "Manifest") -> str:
    """``"image"``, ``"bag"``, ``"recording"`` or ``"clip"``; ``"example"`` of a kind that isn't known here."""
    kind = kind_of(manifest)
    if kind == "image" and without_grid(manifest):
        return "bag"
    return singular(kind) if kind in KINDS else "example"


def named(split: "Split", row: int) -> str:
    """The example in a message: ``image 'train/3.png'``."""
    return f"{singular(split.kind)} {split.names[row]!r}"


def kind_of(manifest: "Manifest") -> str:
    """Of `iceprobe.backbones.kinds.KINDS`; of tokens that were given nothing says it: images."""
    return str(manifest.backbone.preprocessing.get("kind", "image"))


def without_grid(manifest: "Manifest") -> bool:
    """Whether patch tokens lie on no grid, neither that of all nor, of images of their own shape, that of each."""
    if not manifest.settings.patches or manifest.shape.grid is not None:
        return False
    return "patch_size" not in manifest.backbone.preprocessing
