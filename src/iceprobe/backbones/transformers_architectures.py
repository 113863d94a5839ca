"""Vision models of transformers: the class to load for a model type, and where its tokens are."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.block_reader import BlockPaths, first_tensor
from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.backbones.native_readers import grids_of
from iceprobe.backbones.readers import square_grid


def _pooled(output: Any) -> dict[str, Tensor]:
    return {} if output.pooler_output is None else {"pooled": output.pooler_output}


def _class_projected(output: Any) -> dict[str, Tensor]:
    return {"class_projected": output.image_embeds}


def _in_order(model: Any, images: Tensor) -> dict[str, Any]:
    """ViTMAE shuffles its patches even without masking: ascending noise keeps their order."""
    size = model.config.patch_size
    count = (images.shape[2] // size) * (images.shape[3] // size)
    noise = torch.arange(count, device=images.device, dtype=torch.float32)
    return {"pixel_values": images, "noise": noise.expand(len(images), -1)}


def patchified(model: Any, images: Inputs) -> dict[str, Any]:
    """NaFlex models of SigLIP 2 take patches ``(B, N, side·side·C)`` and their grid.

    Images of their own shape are a `Ragged` of such patches.
    """
    if isinstance(images, Ragged):
        shapes = torch.tensor(grids_of(images), device=images.device)
        return {
            "pixel_values": images.padded(),
            "pixel_attention_mask": images.mask.long(),
            "spatial_shapes": shapes,
        }
    side = model.config.patch_size
    batch, channels, height, width = images.shape
    rows, columns = height // side, width // side
    patches = images.reshape(batch, channels, rows, side, columns, side)
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    mask = torch.ones(batch, rows * columns, dtype=torch.long, device=images.device)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device=images.device),
    }


def _unrolled(model: Any, output: Any, position: int) -> Tensor:
    """Hiera's tokens are in the order of its mask units: put back into rows and columns."""
    return model.encoder.reroll(output[0], stage_idx=position).permute(0, 3, 1, 2)


def _before_downsampling(model: Any, output: Any, position: int) -> Tensor:
    """Output of a Swin stage's last block, whose tokens lie row by row over a square."""
    tokens = first_tensor(output, position)
    grid = square_grid(tokens.shape[1])
    assert grid is not None  # images are square, and so are Swin's patches
    return tokens.transpose(1, 2).unflatten(2, grid)


@dataclass(frozen=True)
class Architecture:
    """Where the tokens of a model type are.

    Attributes:
        blocks: paths to the list of blocks; the first that exists is used (versions differ).
        norm: paths to the final norm, likewise; empty if there is none.
        loads: the class to load; empty for ``AutoModel``.
        prefix: prefix tokens besides registers, the class token first.
        registers: whether register tokens follow, as many as the configuration states.
        stages, vectors, pooled_class: as in ``BlockPaths``.
        inputs: model and images → keyword arguments; ``None``: ``pixel_values`` only.
        features: model, a block's output and its position → its tokens.
        each: path from a block to the list whose last module is read.
        masks: whether ``inputs`` takes a `Ragged` of patches of images of several shapes.
    """

    blocks: tuple[str, ...]
    norm: tuple[str, ...] = ()
    loads: str = ""
    prefix: int = 1
    registers: bool = False
    stages: bool = False
    vectors: Callable[[Any], dict[str, Tensor]] | None = None
    inputs: Callable[[Any, Any], dict[str, Any]] | None = None
    features: Callable[[Any, Any, int], Tensor] | None = None
    each: str = ""
    pooled_class: bool = False
    masks: bool = False

    def paths(self, model: Any) -> BlockPaths:
        """Raises AttributeError if this version of the library has other names."""
        inputs, features = self.inputs, self.features
        registers = model.config.num_register_tokens if self.registers else 0
        return BlockPaths(
            blocks=[
                block.get_submodule(self.each)[-1] if self.each else block
                for block in _first(model, self.blocks)
            ],
            norm=_first(model, self.norm) if self.norm else None,
            num_prefix=self.prefix + registers,
            has_class=self.prefix > 0,
            stages=self.stages,
            features=(lambda o, k: features(model, o, k)) if features else first_tensor,
            inputs=lambda images: {
                **(inputs(model, images) if inputs else {"pixel_values": images}),
                **_other_size(model, images),
            },
            vectors=self.vectors,
            pooled_class=self.pooled_class,
        )


_TOWER = ("encoder.layers", "vision_model.encoder.layers")
_PLAIN = Architecture(("layers", "encoder.layer"), ("layernorm",))
_DINOV3 = Architecture(("model.layer", "layer"), ("norm",), registers=True)
_CLIP = Architecture(
    ("vision_model.encoder.layers",),
    ("vision_model.post_layernorm",),
    "CLIPVisionModelWithProjection",
    vectors=_class_projected,
)
_METACLIP2 = replace(_CLIP, loads="MetaClip2VisionModelWithProjection")
_SIGLIP = Architecture(
    _TOWER,
    ("post_layernorm", "vision_model.post_layernorm"),
    "SiglipVisionModel",
    prefix=0,
    vectors=_pooled,
    pooled_class=True,
)
_SIGLIP2 = replace(_SIGLIP, loads="Siglip2VisionModel", inputs=patchified, masks=True)
_AIM = Architecture(_TOWER, ("rms_norm",), "Aimv2VisionModel", prefix=0, vectors=_pooled)
_CNN = Architecture(("encoder.stages",), prefix=0, stages=True)
_SWIN = replace(
    _CNN,
    blocks=("encoder.layers",),
    norm=("layernorm",),
    features=_before_downsampling,
    each="blocks",
)
# Model type → where its tokens are. Image-text models have two types: the whole and the tower.
ARCHITECTURES = {
    "vit": _PLAIN,
    "vit_msn": _PLAIN,
    "vit_mae": replace(_PLAIN, inputs=_in_order),
    "deit": replace(_PLAIN, prefix=2),
    "beit": _PLAIN,
    "data2vec-vision": _PLAIN,
    "ijepa": replace(_PLAIN, prefix=0),
    "dinov2": _PLAIN,
    "dinov2_with_registers": replace(_PLAIN, registers=True),
    "dinov3_vit": _DINOV3,
    "dinov3_convnext": replace(_CNN, blocks=("model.stages", "stages"), norm=("layer_norm",)),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "metaclip_2": _METACLIP2,
    "metaclip_2_vision_model": _METACLIP2,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
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


def _other_size(model: Any, images: Inputs) -> dict[str, Any]:
    """The argument that resizes the position embeddings, if the images have another size."""
    if isinstance(images, Ragged):
        return {}
    made_for = getattr(model.config, "image_size", None)
    sides = tuple(made_for) if isinstance(made_for, list | tuple) else (made_for,) * 2
    parameters = inspect.signature(model.forward).parameters
    if sides == tuple(images.shape[-2:]) or "interpolate_pos_encoding" not in parameters:
        return {}
    return {"interpolate_pos_encoding": True}
