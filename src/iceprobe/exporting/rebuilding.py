"""A backbone as it was when its tokens were stored, with exported weights.

An exported folder holds the weights, so of the spec only the architecture is needed: what fetches
weights is left out of it, and what a checkpoint decided by its absence (the norm) is said.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from iceprobe.backbones import BACKBONES, Backbone, Preprocessing
from iceprobe.backbones.registry import CHECKPOINT
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec, boolean, parse_spec
from iceprobe.store.format import BackboneRecord
from iceprobe.store.recorded import load_recorded


def rebuilt_backbone(record: BackboneRecord, weights: Path, *, trust: bool = False) -> Backbone:
    """The architecture of ``record`` with the weights in a file.

    Args:
        record: of the card.
        weights: a file of its folder.
        trust: whether code that ``record`` names may run.

    Raises:
        IceprobeError: if the architecture runs code that isn't trusted or can't be built, or the
            weights don't fit it.
    """
    spec = architecture_spec(record)
    backbone = load_recorded(spec, record, weights.parent, trust)
    try:
        # Assigned, not copied: in the dtype that was exported, whatever the architecture comes in.
        backbone.reader.load_state_dict(load_file(weights), assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise IceprobeError(
            f"{weights} doesn't fit {spec!r} ({reason}): install the versions that model.json names"
        ) from error
    backbone.preprocessing = Preprocessing.from_dict(record.preprocessing)
    return backbone


def architecture_spec(record: BackboneRecord) -> str:
    """The spec of ``record`` without what fetches weights.

    Examples:
        ``timm:vit_base_patch16_224?checkpoint=last.pth`` → with ``norm=true&pretrained=false``
        in place of the checkpoint: read by name alone, it would be the family of timm's default
        weights that decides the norm.
    """
    spec = parse_spec(record.spec)
    known = BACKBONES[spec.kind or ""].options
    options = {key: value for key, value in spec.options.items() if key not in CHECKPOINT}
    if known.get("pretrained") is boolean:
        options["pretrained"] = "false"
    norm = record.identity.get("norm")
    if "norm" in known and isinstance(norm, bool):
        options["norm"] = str(norm).lower()
    return str(Spec(spec.kind, spec.name, options))


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the state of a module; tied weights stand there under each of their names."""
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path)
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes private files
