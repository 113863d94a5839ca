"""The backbone of a store, as it was when its tokens were stored."""

import json

from iceprobe.backbones import BACKBONES, Backbone, load_backbone
from iceprobe.errors import IceprobeError
from iceprobe.specs import parse_spec
from iceprobe.store.format import BackboneRecord


def recorded_backbone(record: BackboneRecord) -> Backbone:
    """The backbone of ``record``, loaded by its spec and found to be the same.

    Raises:
        IceprobeError: if it was a module in memory, can't be loaded, or has changed since.
    """
    if (parse_spec(record.spec).kind or "") not in BACKBONES:
        raise IceprobeError(
            f"backbone {record.spec!r} was a module in memory, whose architecture a file can't "
            "name: make it in a function of an importable module, save its state_dict(), and probe "
            "python:package.module:factory?checkpoint=FILE"
        )
    backbone = load_backbone(record.spec)
    identity = json.loads(json.dumps(backbone.identity()))
    keys = dict.fromkeys([*record.identity, *identity])
    if changed := [key for key in keys if identity.get(key) != record.identity.get(key)]:
        raise IceprobeError(
            f"backbone {record.spec!r} isn't what it was when its tokens were stored "
            f"({', '.join(changed)} changed): put it back as it was, or run again"
        )
    return backbone
