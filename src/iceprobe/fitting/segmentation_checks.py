"""What can't be segmented, said before anything is fitted."""

from collections.abc import Sequence

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.probes.segmentation import label
from iceprobe.protocols.protocol import refuse_train
from iceprobe.store.reader import Store
from iceprobe.tasks.miou import IGNORE

MASKED = ("bundled:fashion-clutter", "pets")  # data sets that come with masks


def check_probes(probes: Sequence[str]) -> list[str]:
    """Canonical labels.

    Raises:
        IceprobeError: if there is none, one doesn't segment, or one is named twice.
    """
    labels = [label(text) for text in probes]
    if not labels:
        raise IceprobeError("no probe was named: give --probe linear --probe ep8")
    for one in labels:
        if labels.count(one) > 1:
            raise IceprobeError(f"probe {one!r} is named twice: name it once")
    return labels


def no_masks(dataset: str) -> str:
    """What is said of a data set without masks."""
    return f"{dataset} has no masks to segment by: take one that has, {' or '.join(MASKED)}"


def no_grid(backbone: str) -> str:
    """What is said of a backbone whose tokens lie on no grid."""
    return (
        f"tokens of {backbone} lie on no grid, and have no place in a mask: take another backbone"
    )


def check_store(store: Store, split: str) -> None:
    """See that a store has what segmentation reads.

    Raises:
        IceprobeError: naming what is missing.
    """
    name = store.path or store.manifest.dataset.spec
    refuse_train(split, store.splits)
    for one in ("train", split):
        if one not in store.splits:
            raise IceprobeError(unknown(f"split of {name}", one, store.splits))
        if store[one].live:
            raise IceprobeError(
                "live tokens come without masks: extract a store (iceprobe extract)"
            )
        if not store[one].has_masks:
            raise IceprobeError(no_masks(f"split {one!r} of {store.manifest.dataset.spec}"))
    if not store.has_patches:
        raise IceprobeError(f"store {name} has no patch tokens: extract it again with patches")
    if store.grid is None:
        raise IceprobeError(no_grid(store.manifest.backbone.spec))
    if len(store.classes) >= IGNORE:
        raise IceprobeError(
            f"{store.manifest.dataset.spec} has {len(store.classes)} classes: masks have room for "
            f"{IGNORE - 1} beside background and the ignored {IGNORE}"
        )
