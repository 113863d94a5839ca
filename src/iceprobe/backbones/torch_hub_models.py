"""``torch_hub:OWNER/REPO?entry=NAME`` and ``torch_hub:DIR?entry=NAME``: repositories with a hubconf.

Their code runs on this machine, so it has to be trusted (``trust=true``). The module that an entry
returns is read by what it has: a model of timm as such; a plain ViT, with ``blocks`` and a final
``norm`` (DINO, DINOv2, DINOv3, Franca, …), at its blocks; a ResNet at its four stages; a module
with ``tokens(images)``, or whose output is tokens or a map, by that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import Anatomy, BlockReader
from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.backbones.extras import one_line
from iceprobe.backbones.families import family_of
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.python_modules import code_of, stated_preprocessing
from iceprobe.backbones.readers import OutputReader, TimmReader, is_timm
from iceprobe.backbones.wrappers import unwrapped
from iceprobe.core.errors import IceprobeError

REGISTERS = ("num_register_tokens", "n_storage_tokens")  # DINOv2 and Franca, DINOv3


def load_torch_hub(
    name: str,
    *,
    spec: str,
    entry: str | None = None,
    trust: bool = False,
    weights: str | None = None,
    pretrained: bool | None = None,
    layer: Layers | None = None,
    norm: bool | None = None,
    num_prefix: int | None = None,
    has_class: bool | None = None,
    checkpoint: str | None = None,
    checkpoint_key: str | None = None,
    strip: str | None = None,
    ignore: Sequence[str] = (),
    **preprocessing: Any,
) -> Backbone:
    """Load an entry of a repository; the options are those of :func:`iceprobe.load_backbone`.

    ``weights`` and ``pretrained`` go to the entry as they are. Image size and statistics must be
    said, as no hub states them, unless the module has an attribute ``preprocessing``.

    Raises:
        IceprobeError: if the code isn't trusted, the repository or the entry isn't there, the
            entry fails, or an option doesn't apply to what it returns.
    """
    module = _load(name, spec, entry, trust, weights, pretrained)
    assumed: list[str] = []
    if checkpoint is not None:
        assumed += load_checkpoint(
            module, checkpoint, key=checkpoint_key, strip=strip, ignore=ignore
        )
    label = type(module).__qualname__
    told = {key: value for key, value in preprocessing.items() if value is not None}
    family = family_of(str(entry))
    reads_norm = family.norm if norm is None else norm
    at = -1 if layer is None else layer
    told_output = num_prefix is not None or has_class is not None
    anatomy = None if told_output else _anatomy(module)
    reader: nn.Module
    if is_timm(module) and not told_output:
        reader = TimmReader(module, at, reads_norm)
    elif anatomy is not None:
        if norm is None and anatomy.norm is None:
            reads_norm = True  # a CNN by the name of a family of ViTs
        reader = BlockReader(module, anatomy, at, reads_norm)
    elif layer is not None or norm is not None:
        raise IceprobeError(
            f"{spec}: layer and norm don't apply to {label}, it has no blocks that iceprobe knows"
        )
    else:
        reader = OutputReader(module, num_prefix, has_class)
    prepared, crop = stated_preprocessing(module, told, label)
    return Backbone(
        reader,
        prepared,
        spec=spec,
        name=str(entry),
        paradigm="random weights" if _is_random(pretrained, checkpoint) else family.paradigm,
        pooled_class=getattr(module, "attn_pool", None) is not None,
        settings={"architecture": entry, "code": code_of(module), "norm": reads_norm},
        assumed=[*assumed, *crop],
    )


def _load(
    name: str,
    spec: str,
    entry: str | None,
    trust: bool,
    weights: str | None,
    pretrained: bool | None,
) -> nn.Module:
    folder = Path(name).expanduser()
    if entry is None:
        raise IceprobeError(f"{spec}: say which of its models with entry=NAME")
    if not trust:
        raise IceprobeError(
            f"{spec}: the repository's own code would run on this machine: read it, then add "
            "trust=true"
        )
    local = folder.is_dir()
    if local and not (folder / "hubconf.py").is_file():
        raise IceprobeError(f"{spec}: the folder {name!r} has no hubconf.py")
    if not local and name.count("/") != 1:
        raise IceprobeError(f"{spec}: no folder {name!r}, and no OWNER/REPO of GitHub")
    where: dict[str, Any] = {"source": "local"} if local else {"trust_repo": True}
    given = {"weights": weights, "pretrained": pretrained}
    given = {key: value for key, value in given.items() if value is not None}
    repository = str(folder.resolve()) if local else name
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            module = torch.hub.load(repository, entry, **where, verbose=False, **given)
    except Exception as error:  # foreign code raises what it likes, and so does its download
        remedy = (
            f"torch.hub.list({repository!r}, source='local') lists entries"
            if local
            else f"clone it on a connected machine and pass torch_hub:DIR?entry={entry}"
        )
        raise IceprobeError(
            f"{spec}: its entry {entry!r} can't be loaded ({type(error).__name__}: "
            f"{one_line(error)}): {remedy}"
        ) from error
    if not isinstance(module, nn.Module):
        raise IceprobeError(f"{spec}: the entry returned a {type(module).__name__}, no nn.Module")
    return unwrapped(module)


def _anatomy(module: Any) -> Anatomy | None:
    """Where the tokens of a plain ViT or a ResNet are; ``None`` for other modules."""
    if hasattr(module, "tokens"):
        return None
    blocks, norm = getattr(module, "blocks", None), getattr(module, "norm", None)
    if isinstance(blocks, nn.ModuleList | nn.Sequential) and isinstance(norm, nn.Module):
        has_class = getattr(module, "cls_token", None) is not None
        registers = sum(int(getattr(module, name, 0) or 0) for name in REGISTERS)
        return Anatomy(list(blocks), norm, int(has_class) + registers, has_class)
    stages = [getattr(module, f"layer{number}", None) for number in (1, 2, 3, 4)]
    if all(isinstance(stage, nn.Module) for stage in stages):
        return Anatomy([s for s in stages if s is not None], norm=None, stages=True)
    return None


def _is_random(pretrained: bool | None, checkpoint: str | None) -> bool:
    return pretrained is False and checkpoint is None
