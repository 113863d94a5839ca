"""The data set that a store names, which may be somebody else's store."""

from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import REMEDY
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.registry import load_dataset, names_elsewhere
from iceprobe.machine.object_storage import RemotePath


def recorded_dataset(spec: str, file: Path | RemotePath | None, *, trust: bool = False) -> Dataset:
    """The data set of ``spec``.

    Args:
        spec: of the manifest.
        file: the store that it is in.
        trust: whether another host that it names may be asked.

    Raises:
        IceprobeError: if another host isn't trusted, or the data set can't be loaded.
    """
    if not trust and names_elsewhere(spec):
        raise IceprobeError(
            f"{file or 'the store'} names images on another host, {spec!r}, which isn't asked: "
            f"{REMEDY}"
        )
    return load_dataset(spec)
