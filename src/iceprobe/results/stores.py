"""The feature store of a result: the open one, or the one that its file names.

A results file may be somebody else's: another host that it names is asked only where the caller trusts it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import names_features
from iceprobe.core.trust import refuse_elsewhere
from iceprobe.results.fitted import FittedResult

if TYPE_CHECKING:
    from iceprobe.machine.object_storage import RemotePath
    from iceprobe.store import Store
    from iceprobe.store.format import Manifest


_read: "dict[str, Store]" = {}  # tokens in files that this process has read, by their spec


def store_of(result: FittedResult, *, trust: bool = False) -> "Store":
    """The store of ``result``, with the specs that its run named.

    Args:
        result: of a run.
        trust: whether other hosts may be asked that the result, or its store's manifest, names.

    Raises:
        IceprobeError: if it was in memory only, is on a host that isn't trusted, or can't be opened.
    """
    store = result.open_store
    if store is not None and trust:
        store = store.trusting()
    if store is None:
        return stored_for(result, trust=trust)
    return store.asked_as(result.backbone, result.dataset, result.group)


def stored_for(result: FittedResult, *, trust: bool = False) -> "Store":
    """The same from where it is stored, with all of its images. Raises as :func:`store_of`."""
    from iceprobe.store import Store

    if (store := _in_files(result, trust)) is not None:
        return store.asked_as(result.backbone, result.dataset, result.group)
    opened = [Store.open(place, trust=trust) for place in places_of(result, trust=trust)]
    joins = result.store.layers
    store = Store.joined(opened, depth=result.store.depth, trust=trust) if joins else opened[0]
    return store.asked_as(result.backbone, result.dataset, result.group)


def manifest_of(result: FittedResult, *, trust: bool = False) -> "Manifest":
    """The manifest of its store, whose shards may be missing. Raises as :func:`store_of`."""
    if result.open_store is not None:
        return result.open_store.manifest.asked_as(result.backbone, result.dataset, result.group)
    if (store := _in_files(result, trust)) is not None:
        return store.manifest.asked_as(result.backbone, result.dataset, result.group)
    from iceprobe.store.format import read_manifest

    manifests = [read_manifest(place) for place in places_of(result, trust=trust)]
    manifest = manifests[0]
    if result.store.layers:
        from iceprobe.store.joined_manifest import joined_manifest

        manifest = joined_manifest(manifests, result.store.depth)
    return manifest.asked_as(result.backbone, result.dataset, result.group)


def _in_files(result: FittedResult, trust: bool) -> "Store | None":
    """The store of tokens that lie in files of the user (``features:FILE``), which are read again.

    Raises:
        IceprobeError: if they aren't what they were.
    """
    if result.store.path is not None or not names_features(result.dataset):
        return None
    from iceprobe.store import load_features
    from iceprobe.store.features import unchanged

    where = result.dataset.partition(":")[2]  # `features:/data` names no host
    refuse_elsewhere(f"the result of {result.label}", where, trust)
    store = _read.get(result.dataset)
    if store is None or not unchanged(store):
        store = _read[result.dataset] = load_features(result.dataset)
    if store.identity != result.store.identity:
        raise IceprobeError(
            f"tokens or targets in {result.dataset} have changed since {result.label} was fitted: put them "
            "back, or run again"
        )
    return store


def places_of(result: FittedResult, *, trust: bool = False) -> "list[Path | RemotePath]":
    """Where the store is, or that of each layer. Raises as :func:`store_of`."""
    from iceprobe.machine.object_storage import located

    found = []
    for store in result.store.layers or [result.store]:
        if store.path is None:
            raise IceprobeError(
                f"the features of {result.label} were held in memory only: run again and keep them, or "
                "pass what fit returned"
            )
        refuse_elsewhere(f"the result of {result.label}", store.path, trust)
        found.append(located(store.path))
    return found
