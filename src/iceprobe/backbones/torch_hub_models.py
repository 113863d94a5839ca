"""``torch_hub:OWNER/REPO?entry=NAME`` and ``torch_hub:DIR?entry=NAME``: repositories with a hubconf.

Their code runs on this machine, so it must be trusted (``trust=true``). How the returned module is
read depends on its kind: models of timm by timm's methods; a plain ViT with ``blocks`` and a final
``norm`` (DINO, DINOv2, DINOv3, Franca, …) at its blocks; a ResNet at its four stages; any other by
its ``tokens(images)`` or its output.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import BlockPaths, BlockReader
from iceprobe.backbones.checkpoints import load_saved
from iceprobe.backbones.families import family_of
from iceprobe.backbones.options import CheckpointOptions, HubOptions, ImageOptions, OutputOptions
from iceprobe.backbones.python_modules import code_of, stated_preprocessing
from iceprobe.backbones.readers import OutputReader, TimmReader, has_pooler, is_timm
from iceprobe.backbones.wrappers import unwrapped
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import explained, one_line

REGISTERS = ("num_register_tokens", "n_storage_tokens")  # DINOv2 and Franca, DINOv3


def load_torch_hub(
    name: str,
    *,
    spec: str,
    tokens: OutputOptions,
    images: ImageOptions,
    saved: CheckpointOptions,
    hub: HubOptions,
) -> Backbone:
    """Load an entry of a repository; the options are those of :func:`iceprobe.load_backbone`.

    ``weights`` and ``pretrained`` go to the entry unchanged. Image size and statistics must be
    given, since no hub states them, unless the module has an attribute ``preprocessing``.

    Raises:
        IceprobeError: if the code isn't trusted, the repository or entry doesn't exist, the entry
            fails, or an option doesn't apply to the module that it returns.
    """
    module = _load(name, spec, hub)
    assumed = load_saved(module, saved)
    label = type(module).__qualname__
    family = family_of(str(hub.entry))
    norm = family.norm if tokens.norm is None else tokens.norm
    paths = None if tokens.describes_output else _block_paths(module)
    reader: nn.Module
    if is_timm(module) and not tokens.describes_output:
        reader = TimmReader(module, tokens.layers, norm)
    elif paths is not None:
        if tokens.norm is None and paths.norm is None:
            norm = True  # a CNN by the name of a family of ViTs
        reader = BlockReader(module, paths, tokens.layers, norm)
    elif tokens.layer is not None or tokens.norm is not None:
        raise IceprobeError(
            f"{spec}: layer and norm don't apply to {label}, it has no blocks that iceprobe knows"
        )
    else:
        reader = OutputReader(module, tokens, has_pooler(module))
    preprocessing, crop = stated_preprocessing(module, images, label)
    random = hub.pretrained is False and saved.checkpoint is None
    return Backbone(
        reader,
        preprocessing,
        spec=spec,
        name=str(hub.entry),
        paradigm="random weights" if random else family.paradigm,
        settings={"architecture": hub.entry, "code": code_of(module), "norm": norm},
        assumed=[*assumed, *crop],
    )


def _load(name: str, spec: str, hub: HubOptions) -> nn.Module:
    folder = Path(name).expanduser()
    if hub.entry is None:
        raise IceprobeError(f"{spec}: say which of its models with entry=NAME")
    if not hub.trust:
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
    given = {"weights": hub.weights, "pretrained": hub.pretrained}
    given = {key: value for key, value in given.items() if value is not None}
    repository = str(folder.resolve()) if local else name
    remedy = (
        f"torch.hub.list({repository!r}, source='local') lists entries"
        if local
        else f"clone it on a connected machine and pass torch_hub:DIR?entry={hub.entry}"
    )

    def failed(error: Exception) -> str:
        reason = f"{type(error).__name__}: {one_line(error)}"
        return f"{spec}: its entry {hub.entry!r} can't be loaded ({reason}): {remedy}"

    with explained(failed), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = torch.hub.load(repository, hub.entry, **where, verbose=False, **given)
    if not isinstance(module, nn.Module):
        raise IceprobeError(f"{spec}: the entry returned a {type(module).__name__}, no nn.Module")
    return unwrapped(module)


def _block_paths(module: Any) -> BlockPaths | None:
    """Where a plain ViT or a ResNet has its tokens; ``None`` for other modules."""
    if hasattr(module, "tokens"):
        return None
    blocks, norm = getattr(module, "blocks", None), getattr(module, "norm", None)
    if isinstance(blocks, nn.ModuleList | nn.Sequential) and isinstance(norm, nn.Module):
        has_class = getattr(module, "cls_token", None) is not None
        registers = sum(int(getattr(module, name, 0) or 0) for name in REGISTERS)
        return BlockPaths(list(blocks), norm, int(has_class) + registers, has_class)
    stages = [getattr(module, f"layer{number}", None) for number in (1, 2, 3, 4)]
    modules = [stage for stage in stages if isinstance(stage, nn.Module)]
    return BlockPaths(modules, norm=None, stages=True) if len(modules) == 4 else None
