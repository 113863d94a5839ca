"""``open_clip:ARCH?pretrained=TAG``: the image tower of a model of open_clip.

Patch tokens are read before the projection into the space shared with text. The class token after
the final norm is a prefix token; after the projection it is the vector ``class_projected``. Towers
with an attention pool (SigLIP, PE, the ResNets) give its output as ``pooled``.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import BlockPaths, BlockReader
from iceprobe.backbones.checkpoints import load_saved
from iceprobe.backbones.conversions import note_resampled
from iceprobe.backbones.families import family_of
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.options import CheckpointOptions, ImageOptions, TokenOptions
from iceprobe.backbones.preprocessing import Preprocessing, check_image_size, stated_transform
from iceprobe.backbones.readers import LayerReader, TimmReader
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.foreign import explained, one_line
from iceprobe.core.specs import unknown
from iceprobe.tokens import Tokens


def load_open_clip(
    name: str,
    *,
    spec: str,
    tokens: TokenOptions,
    images: ImageOptions,
    saved: CheckpointOptions,
    pretrained: str | None = None,
) -> Backbone:
    """Load ``open_clip:ARCH``; the options are those of :func:`iceprobe.load_backbone`.

    ``pretrained`` is a tag of open_clip. With ``checkpoint`` the weights come from that file, and
    the tag gives only the preprocessing and the activation function. ``ARCH`` may also be
    ``local-dir:DIR`` or ``hf-hub:NAME``.

    Raises:
        IceprobeError: if open_clip isn't installed, for an architecture or tag that it doesn't
            know, weights that can't be downloaded, and a checkpoint that doesn't fit.
    """
    open_clip = require("open_clip", "open-clip", spec)
    model = _create(name, spec, pretrained, saved.checkpoint, images.image_size)
    assumed: list[str] = []
    # Only the image tower is read, and the file may hold nothing else.
    ignore = [*saved.ignore, *(prefix.removeprefix("visual.") for prefix in saved.ignore)]
    tower = model.visual
    assumed += load_saved(
        tower,
        replace(saved, ignore=ignore),
        convert=lambda weights: _converted(model, weights, str(saved.checkpoint), assumed),
    )
    config = open_clip.get_model_preprocess_cfg(model)
    patch = getattr(tower, "patch_size", None)
    if images.image_size is not None and isinstance(patch, tuple):
        check_image_size(images.image_size, patch[0], name)
    # The user's own weights, in a file or a folder, don't show how they were trained.
    own = (saved.checkpoint is not None and pretrained is None) or name.startswith("local-dir:")
    family = family_of(f"{name}.{pretrained or ''}", "clip")
    preprocessing, crop = _preprocessing(config, images, spec)
    norm = tokens.norm is not False
    return Backbone(
        _reader(tower, tokens.layers, norm),
        preprocessing,
        spec=spec,
        name=f"{name}.{pretrained}" if pretrained else name,
        paradigm="unknown" if own else family.paradigm,
        settings={"architecture": f"open_clip {name}", "norm": norm, **_activation(tower)},
        assumed=[*assumed, *crop],
    )


def _preprocessing(
    config: Mapping[str, Any], images: ImageOptions, spec: str
) -> tuple[Preprocessing, list[str]]:
    """The transform by ``images`` and the model's ``preprocess_cfg``, and what was assumed."""
    size = config["size"]
    stated = {"mean": _each(config["mean"]), "std": _each(config["std"])}
    own = {
        "squash": "its own squashes images: resize=squash&crop_pct=1 does so",
        "longest": "its own pads images, which iceprobe has no option for",
    }.get(config["resize_mode"])
    return stated_transform(
        spec,
        images,
        (size, size) if isinstance(size, int) else size,
        {**stated, "interpolation": config["interpolation"]},
        own,
    )


def _each(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


def _create(
    name: str, spec: str, pretrained: str | None, checkpoint: str | None, image_size: int | None
) -> Any:
    import open_clip

    options: dict[str, Any] = {"pretrained_text": False, "force_image_size": image_size}
    stored = name.startswith(("local-dir:", "hf-hub:"))
    if not stored:
        if name not in open_clip.list_models():
            raise IceprobeError(unknown("architecture of open_clip", name, open_clip.list_models()))
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained is not None and pretrained not in tags:
            raise IceprobeError(unknown(f"pretrained= of open_clip's {name}", pretrained, tags))
        if pretrained is None and checkpoint is None:
            raise IceprobeError(
                f"{spec}: say which weights with pretrained=TAG or checkpoint=FILE; tags of {name}: "
                f"{', '.join(tags) or 'none'}"
            )
    elif pretrained is not None:
        raise IceprobeError(f"{spec}: {name} has weights of its own: drop pretrained={pretrained}")
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    # open_clip only warns where a tag was trained with another activation than the architecture's.
    options["force_quick_gelu"] = bool(tag.get("quick_gelu"))
    if checkpoint is not None:
        options["load_weights"] = False
        options["force_preprocess_cfg"] = {
            key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag
        }
    else:
        options["pretrained"] = pretrained
    where = (tag.get("hf_hub") or "").rstrip("/")
    fetch = f"{where} of Hugging Face" if where else tag.get("url") or "its folder"
    take = name if stored else f"{name}?pretrained={pretrained}&checkpoint=FILE"
    remedy = f"fetch {fetch} on a connected machine and pass open_clip:{take}"
    with (
        explained(lambda e: f"{spec}: its weights can't be loaded ({one_line(e)}): {remedy}"),
        torch.random.fork_rng(devices=[]),
    ):
        torch.default_generator.manual_seed(0)
        return open_clip.create_model(name, require_pretrained=checkpoint is None, **options)


def _converted(
    model: Any, weights: dict[str, Tensor], path: str, assumed: list[str]
) -> Mapping[str, Tensor]:
    """The image tower of a published file, converted to the model's names and sizes.

    A file without ``visual.`` in its names holds only an image tower.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import resize_pos_embed

    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    weights = convert_state_dict(model, weights)
    if not any(name.startswith("visual.") for name in weights):
        weights = {f"visual.{name}": tensor for name, tensor in weights.items()}
    table = "visual.positional_embedding"
    before = weights.get(table)
    if before is not None:
        rows = before.shape[0] - 1
        if math.isqrt(max(rows, 0)) ** 2 == rows:  # otherwise refused for its shape
            resize_pos_embed(weights, model)
        if weights[table].shape != before.shape:
            note_resampled(assumed, f"a position table of {path}", before, weights[table])
    return {
        name.removeprefix("visual."): tensor
        for name, tensor in weights.items()
        if name.startswith("visual.")
    }


def _reader(tower: Any, layer: Layers, norm: bool) -> LayerReader:
    if hasattr(tower, "trunk"):  # a model of timm, with open_clip's head
        return TowerReader(tower, layer, norm)
    if hasattr(tower, "attnpool"):  # CLIP's ResNets
        paths = BlockPaths(
            [tower.layer1, tower.layer2, tower.layer3, tower.layer4],
            norm=None,
            stages=True,
            vectors=lambda output: {"pooled": output},
            pooled_class=True,
        )
    else:
        tower.output_tokens = False
        pooled = tower.attn_pool is not None  # CoCa: its final norm is the pooler's
        by_class = not pooled and tower.pool_type == "tok" and tower.proj is not None
        paths = BlockPaths(
            list(tower.transformer.resblocks),
            norm=None if pooled else tower.ln_post,
            num_prefix=1,
            has_class=True,
            vectors=(lambda output: {"class_projected": output}) if by_class else None,
        )
    return BlockReader(tower, paths, layer, norm)


class TowerReader(TimmReader):
    """A tower whose trunk is a model of timm.

    ``class_projected`` is the tower's own output (the trunk's head, then the tower's) if the trunk
    pools by its class token.
    """

    def __init__(self, tower: Any, layer: Layers, norm: bool):
        super().__init__(tower.trunk, layer, norm)
        self.head = tower.head
        self.by_class = self.has_class and self.model.global_pool == "token"

    def _from_features(self, features: Any, images: Tensor) -> Tokens:
        tokens = super()._from_features(features, images)
        if not self.by_class:
            return tokens
        projected = self.head(self.model.forward_head(features))
        return replace(tokens, vectors={**tokens.vectors, "class_projected": projected})


def _activation(tower: Any) -> dict[str, str]:
    """QuickGELU or GELU: neither the weights nor the architecture's name always show it."""
    names = {type(part).__name__ for part in tower.modules() if "GELU" in type(part).__name__}
    return {"activation": ",".join(sorted(names))}
