"""Weights of an exported folder: written, and loaded into the probe and the backbone again.

The folder holds the weights, so only the architecture is built from the backbone's spec: options
that fetch weights are removed, and the norm that they decided is set.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from iceprobe.backbones import BACKBONES, Backbone
from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.backbones.parts import LayersOfParts
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
    # Assigned, not copied: the parameters take the dtype that was exported.
    remedy = "install the versions that model.json names"
    load_weights(weighted(backbone), weights, spec, remedy, assign=True)
    backbone.preprocessing = ExamplePreprocessing.from_dict(record.preprocessing)
    return backbone


def weighted(backbone: Backbone) -> nn.Module:
    """The module whose weights are a backbone's; a reader of parts has them under two names."""
    reader = backbone.reader
    return reader.reader if isinstance(reader, LayersOfParts) else reader


def architecture_spec(record: BackboneRecord) -> str:
    """The spec of ``record`` without what fetches weights.

    Examples:
        ``timm:vit_base_patch16_224?checkpoint=last.pth`` → ``norm=true&pretrained=false`` in
        place of the checkpoint. Without ``norm``, timm's default weights of that name would
        decide it.
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


def load_weights(
    module: nn.Module, path: Path, spec: str, remedy: str, *, assign: bool = False
) -> None:
    """Load the state that :func:`save_weights` wrote.

    Raises:
        IceprobeError: if it doesn't fit, naming ``spec`` and ``remedy``.
    """
    try:
        module.load_state_dict(load_file(path), assign=assign)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise IceprobeError(f"{path} doesn't fit {spec!r} ({reason}): {remedy}") from error


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the state of a module; tied weights are stored under each of their names."""
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    save_file(state, path)
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes the file private
