"""The backbone and the data set that a store or an exported folder names.

The file may come from somebody else: code of a model runs, and another host is contacted, only if the
caller trusts the file, or has already named that code or host in this process.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from iceprobe.backbones import BACKBONES, load_backbone
from iceprobe.backbones.registry import has_run
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.core.trust import REMEDY
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.registry import has_run as has_run_data
from iceprobe.datasets.registry import load_dataset, names_elsewhere, runs_code
from iceprobe.machine.object_storage import RemotePath
from iceprobe.store.format import BackboneRecord
from iceprobe.store.joined_manifest import joined_backbone
from iceprobe.tokens import GIVEN

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone

Origin = Path | RemotePath | None  # where the record was read


def recorded_dataset(spec: str, file: Origin, *, trust: bool = False) -> Dataset:
    """The data set of the ``spec`` in the store ``file``; ``trust`` allows contacting its host and running
    its code.

    Raises:
        IceprobeError: if another host or code isn't trusted, or the data set can't be loaded.
    """
    if not trust and names_elsewhere(spec):
        raise IceprobeError(
            f"{file or 'the store'} names images on another host, {spec!r}, which isn't asked: "
            f"{REMEDY}"
        )
    if not runs_code(spec):
        return load_dataset(spec)
    if not trust and not has_run_data(spec):
        raise IceprobeError(
            f"{file or 'the store'} names the data set {spec!r}, which runs code of its own on this "
            f"machine: read that code, then {REMEDY}"
        )
    parsed = parse_spec(spec)
    with _path_without(file):
        # `trust` is set by the caller, not by the file.
        return load_dataset(str(replace(parsed, options={**parsed.options, "trust": "true"})))


def recorded_backbone(record: BackboneRecord, file: Origin, *, trust: bool = False) -> "Backbone":
    """The backbone of ``record``, loaded by its spec and checked to be the same.

    Args:
        record: of a manifest or a card.
        file: the store or folder that it is in, ``None`` if it was never on disk.
        trust: whether code that it names may run.

    Raises:
        IceprobeError: if it was a module in memory, runs code that isn't trusted, can't be loaded,
            or has changed.
    """
    backbone = load_recorded(record.spec, record, file, trust)
    same_backbone(backbone, record)
    return backbone


def same_backbone(backbone: "Backbone", record: BackboneRecord) -> None:
    """Check that ``backbone`` is the one of ``record``.

    Raises:
        IceprobeError: naming what has changed.
    """
    singles = [BackboneRecord.of(one) for one in backbone.per_layer()]
    several = isinstance(record.identity.get("layer"), list)
    whole = joined_backbone(singles) if several else singles[0]
    identity = json.loads(json.dumps(whole.identity))
    keys = dict.fromkeys([*record.identity, *identity])
    if changed := [key for key in keys if identity.get(key) != record.identity.get(key)]:
        raise IceprobeError(
            f"backbone {record.spec!r} isn't what it was when its tokens were stored "
            f"({', '.join(changed)} changed): put it back as it was, or run again"
        )


def load_recorded(spec: str, record: BackboneRecord, file: Origin, trust: bool) -> "Backbone":
    """Load ``spec``, a variant of the one in ``record``; errors as of :func:`recorded_backbone`."""
    asked = parse_spec(record.spec)
    if asked.kind == GIVEN:
        raise IceprobeError(
            f"{record.spec!r} are tokens of your own: there is no backbone to run; probe the backbone "
            "itself (iceprobe.extract) for what needs one"
        )
    if (asked.kind or "") not in BACKBONES:
        raise IceprobeError(
            f"backbone {record.spec!r} was a module in memory, whose architecture a file can't "
            "name: make it in a function of an importable module, save its state_dict(), and probe "
            "python:package.module:factory?checkpoint=FILE"
        )
    entry = BACKBONES[asked.kind or ""]
    if not entry.runs_code(asked):
        return load_backbone(spec)
    if not trust and not has_run(asked):
        raise IceprobeError(
            f"{file or 'the store'} names the backbone {record.spec!r}, which runs code of its own "
            f"on this machine: read that code, then {REMEDY}"
        )
    parsed = parse_spec(spec)
    if "trust" in entry.options:  # set by the caller, not by the file
        parsed = replace(parsed, options={**parsed.options, "trust": "true"})
    with _path_without(file):
        return load_backbone(str(parsed))


@contextlib.contextmanager
def _path_without(file: Origin) -> Iterator[None]:
    """Import nothing from the current folder, which may be a download, nor from ``file``.

    Folders in PYTHONPATH and the folder of the running script are allowed.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    asked = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    kept = {*map(os.path.realpath, asked), os.path.dirname(os.path.realpath(main or os.devnull))}
    left_out = {os.path.realpath("."), *([str(file.resolve())] if isinstance(file, Path) else [])}
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if os.path.realpath(entry) not in left_out - kept]
    try:
        yield
    finally:
        sys.path[:] = before
