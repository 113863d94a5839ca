"""Vision models of transformers: which class is loaded for a model type, and where its tokens are."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.block_reader import BlockPaths, first_tensor, nothing
from iceprobe.backbones.readers import square_grid

Prefix = Callable[[Any], int]  # of a configuration


def _none(config: Any) -> int:
    return 0


def _class(config: Any) -> int:
    return 1


def _class_and_distillation(config: Any) -> int:
    return 2


def _class_and_registers(config: Any) -> int:
    return 1 + config.num_register_tokens


def _pooled(output: Any) -> dict[str, Tensor]:
    return {} if output.pooler_output is None else {"pooled": output.pooler_output}


def _class_projected(output: Any) -> dict[str, Tensor]:
    return {"class_projected": output.image_embeds}


def _in_order(model: Any, images: Tensor) -> dict[str, Any]:
    """ViTMAE shuffles its patches even when it masks none: ascending noise keeps their order."""
    size = model.config.patch_size
    count = (images.shape[2] // size) * (images.shape[3] // size)
    noise = torch.arange(count, device=images.device, dtype=torch.float32)
    return {"pixel_values": images, "noise": noise.expand(len(images), -1)}


def patchified(model: Any, images: Tensor) -> dict[str, Any]:
    """NaFlex models of SigLIP 2 take patches ``(B, N, side·side·C)`` and their grid."""
    side = model.config.patch_size
    batch, channels, height, width = images.shape
    rows, columns = height // side, width // side
    patches = images.reshape(batch, channels, rows, side, columns, side)
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(
            batch, rows * columns, dtype=torch.long, device=images.device
        ),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device=images.device),
    }


def _unrolled(model: Any, output: Any, position: int) -> Tensor:
    """Hiera keeps tokens in the order of its mask units: back to rows and columns."""
    return model.encoder.reroll(output[0], stage_idx=position).permute(0, 3, 1, 2)


def _before_downsampling(model: Any, output: Any, position: int) -> Tensor:
    """The last block of a stage of Swin, whose tokens lie row by row over a square."""
    tokens = first_tensor(output, position)
    grid = square_grid(tokens.shape[1])
    assert grid is not None  # images are square, and so are Swin's patches
    return tokens.transpose(1, 2).unflatten(2, grid)


@dataclass(frozen=True)
class Architecture:
    """Where the tokens of a model type are.

    Attributes:
        blocks: paths to the list of blocks, the first that is there counts (versions differ).
        norm: paths to the final norm, likewise; empty where features have none.
        loads: the class to load; empty for ``AutoModel``.
        prefix: prefix tokens, class token first, of a configuration.
        stages: whether the blocks are stages.
        vectors: as in ``BlockPaths``.
        inputs: model and images → keyword arguments; ``None`` for ``pixel_values`` alone.
        features: model, a block's output and its position → its tokens.
        each: path from a block to what is caught of it.
        pooled_class: whether it was trained on the output of a learned pooler.
    """

    blocks: tuple[str, ...]
    norm: tuple[str, ...] = ()
    loads: str = ""
    prefix: Prefix = _class
    stages: bool = False
    vectors: Callable[[Any], dict[str, Tensor]] = nothing
    inputs: Callable[[Any, Tensor], dict[str, Any]] | None = None
    features: Callable[[Any, Any, int], Tensor] | None = None
    each: str = ""
    pooled_class: bool = False

    def paths(self, model: Any) -> BlockPaths:
        """Raises AttributeError if this version of the library has other names."""
        config, inputs, features = model.config, self.inputs, self.features
        count = self.prefix(config)
        return BlockPaths(
            blocks=[
                block.get_submodule(self.each)[-1] if self.each else block
                for block in _first(model, self.blocks)
            ],
            norm=_first(model, self.norm) if self.norm else None,
            num_prefix=count,
            has_class=count > 0,
            stages=self.stages,
            features=(lambda o, k: features(model, o, k)) if features else first_tensor,
            inputs=lambda images: {
                **(inputs(model, images) if inputs else {"pixel_values": images}),
                **_other_size(model, images),
            },
            vectors=self.vectors,
            pooled_class=self.pooled_class,
        )


_VIT = ("layers", "encoder.layer")
_TOWER = ("encoder.layers", "vision_model.encoder.layers")
_STAGES = ("encoder.stages",)
_PLAIN = Architecture(_VIT, ("layernorm",))
_CLIP = Architecture(
    ("vision_model.encoder.layers",),
    ("vision_model.post_layernorm",),
    "CLIPVisionModelWithProjection",
    vectors=_class_projected,
)
_SIGLIP = Architecture(
    _TOWER,
    ("post_layernorm", "vision_model.post_layernorm"),
    "SiglipVisionModel",
    prefix=_none,
    vectors=_pooled,
    pooled_class=True,
)
_AIM = Architecture(_TOWER, ("rms_norm",), "Aimv2VisionModel", prefix=_none, vectors=_pooled)
_CNN = Architecture(_STAGES, prefix=_none, stages=True)
_SWIN = Architecture(
    ("encoder.layers",),
    ("layernorm",),
    prefix=_none,
    stages=True,
    features=_before_downsampling,
    each="blocks",
)
# Model type → where its tokens are; image-text models under the type of the whole and of the tower.
ARCHITECTURES = {
    "vit": _PLAIN,
    "vit_msn": _PLAIN,
    "vit_mae": Architecture(_VIT, ("layernorm",), inputs=_in_order),
    "deit": Architecture(_VIT, ("layernorm",), prefix=_class_and_distillation),
    "beit": _PLAIN,
    "data2vec-vision": _PLAIN,
    "ijepa": Architecture(_VIT, ("layernorm",), prefix=_none),
    "dinov2": _PLAIN,
    "dinov2_with_registers": Architecture(_VIT, ("layernorm",), prefix=_class_and_registers),
    "dinov3_vit": Architecture(("model.layer", "layer"), ("norm",), prefix=_class_and_registers),
    "dinov3_convnext": Architecture(
        ("model.stages", "stages"), ("layer_norm",), prefix=_none, stages=True
    ),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "metaclip_2": replace(_CLIP, loads="MetaClip2VisionModelWithProjection"),
    "metaclip_2_vision_model": replace(_CLIP, loads="MetaClip2VisionModelWithProjection"),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": replace(_SIGLIP, loads="Siglip2VisionModel", inputs=patchified),
    "siglip2_vision_model": replace(_SIGLIP, loads="Siglip2VisionModel", inputs=patchified),
    "aimv2": _AIM,
    "aimv2_vision_model": _AIM,
    "hiera": replace(_CNN, features=_unrolled),
    "swin": _SWIN,
    "swinv2": _SWIN,
    "resnet": _CNN,
    "regnet": _CNN,
    "convnext": _CNN,
    "convnextv2": _CNN,
}


def _first(model: Any, paths: Sequence[str]) -> Any:
    for path in paths[:-1]:
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    return model.get_submodule(paths[-1])


def _other_size(model: Any, images: Tensor) -> dict[str, Any]:
    """What asks a model to resize its position embeddings, where the images aren't of its size."""
    made_for = getattr(model.config, "image_size", None)
    sides = tuple(made_for) if isinstance(made_for, list | tuple) else (made_for,) * 2
    parameters = inspect.signature(model.forward).parameters
    if sides == tuple(images.shape[-2:]) or "interpolate_pos_encoding" not in parameters:
        return {}
    return {"interpolate_pos_encoding": True}
