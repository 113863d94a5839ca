"""What the examples of a store are called, and how their patch tokens lie.

What is measured of attention, and how it is drawn, follows from it.
"""

from typing import TYPE_CHECKING, Literal

from iceprobe.backbones.kinds import plural

if TYPE_CHECKING:
    from iceprobe.store import Store

Layout = Literal["grid", "moments", "spectrogram", "bag"]


def layout_of(store: "Store") -> Layout | None:
    """How the patch tokens of an example lie; ``None`` where a store has none.

    - ``"grid"``: in rows and columns, all in the same or each image in its own;
    - ``"moments"``: in the time of a clip;
    - ``"spectrogram"``: in the time of a recording, or in bands and time;
    - ``"bag"``: on no grid.
    """
    if not store.has_patches:
        return None
    return layout_of_tokens(_kind(store), store.grid, own_grids=not without_grid(store))


def layout_of_tokens(kind: str, grid: tuple[int, ...] | None, *, own_grids: bool) -> Layout:
    """The same of examples of a ``kind`` and the ``grid`` of all; ``own_grids``: each example may have one."""
    if kind == "sound":
        return "spectrogram"
    if grid is None and not own_grids:
        return "bag"
    return "moments" if kind == "clip" and len(grid or ()) != 2 else "grid"


def without_grid(store: "Store") -> bool:
    """Whether patch tokens lie on no grid, neither that of all nor, of images of their own shape, that of each."""
    if not store.has_patches or store.grid is not None:
        return False
    return "patch_size" not in store.manifest.backbone.preprocessing


def example_of(store: "Store") -> str:
    """``"image"``, ``"bag"``, ``"recording"`` or ``"clip"``."""
    if _kind(store) == "image" and layout_of(store) == "bag":
        return "bag"
    return plural(_kind(store)).partition(" ")[0].removesuffix("s")  # "bags of images"


def _kind(store: "Store") -> str:
    """Of `iceprobe.backbones.kinds.KINDS`; of tokens that were given nothing says it: images."""
    return str(store.manifest.backbone.preprocessing.get("kind", "image"))
