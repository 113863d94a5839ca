"""A store by what a user names: its folder, a URL of one, or the spec of tokens in files."""

from pathlib import Path

from iceprobe.core.specs import names_features
from iceprobe.machine.progress import ProgressCallback
from iceprobe.store.features import load_features
from iceprobe.store.reader import Store


def open_store(
    place: str | Path, *, trust: bool = False, progress: ProgressCallback | bool | None = None
) -> Store:
    """`Store.open` of a folder or URL, `load_features` of ``features:FILE``.

    Raises:
        IceprobeError: as they do.
    """
    if names_features(place):
        return load_features(str(place), progress=progress)
    return Store.open(place, trust=trust)
