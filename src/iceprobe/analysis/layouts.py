"""How the patch tokens of a store's examples lie.

What is measured of attention, and how it is drawn, follows from it.
"""

from typing import TYPE_CHECKING, Literal

from iceprobe.store.examples import kind_of, without_grid

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
    manifest = store.manifest
    return layout_of_tokens(kind_of(manifest), store.grid, own_grids=not without_grid(manifest))


def layout_of_tokens(kind: str, grid: tuple[int, ...] | None, *, own_grids: bool) -> Layout:
    """The same of examples of a ``kind`` and the ``grid`` of all; ``own_grids``: each example may have one."""
    if kind == "sound":
        return "spectrogram"
    if grid is None and not own_grids:
        return "bag"
    return "moments" if kind == "clip" and len(grid or ()) != 2 else "grid"
