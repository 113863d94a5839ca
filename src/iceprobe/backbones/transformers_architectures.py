"""Models of transformers: the class to load for a model type, and where its tokens are."""

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.block_reader import BlockPaths, first_tensor
from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.backbones.native import patches_of
from iceprobe.backbones.native_readers import grids_of
from iceprobe.backbones.readers import square_grid
from iceprobe.backbones.sound_models import (
    Sound,
    WaveFrames,
    WhisperFrames,
    ast_grid,
    clap_inputs,
    clap_map,
)
from iceprobe.core.errors import IceprobeError


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
    patches = patches_of(images, side)
    shape = [length // side for length in images.shape[2:]]
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones_like(patches[..., 0], dtype=torch.long),
        "spatial_shapes": torch.tensor([shape] * len(images), device=images.device),
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


def _as_video(model: Any, clips: Tensor) -> dict[str, Any]:
    """V-JEPA 2 takes clips by another name; its predictor isn't read."""
    return {"pixel_values_videos": clips, "skip_predictor": True}


def _time_first(model: Any, output: Any, position: int) -> Tensor:
    """TimeSformer's patches come place by place, all frames of one after the other: frame by frame here."""
    tokens = first_tensor(output, position)
    places = (model.config.image_size // model.config.patch_size) ** 2
    patches = tokens[:, 1:].unflatten(1, (places, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], 1)


@dataclass(frozen=True)
class Clips:
    """How a model of videos takes its clips ``(B, T, C, S, S)``.

    Attributes:
        frames, side: names in its configuration: of T and of S.
        tube: frames of one token, by the model's configuration.
        fixed: whether it takes T of its configuration only.
    """

    frames: str = "num_frames"
    side: str = "image_size"
    tube: Callable[[Any], int] = lambda config: 1
    fixed: bool = False

    def check(self, config: Any, frames: int, side: int, spec: str) -> None:
        """Refuse clips that the model would read wrongly, or not at all.

        Raises:
            IceprobeError: with what it takes.
        """
        made_for, tube, own = getattr(config, self.frames), self.tube(config), self.own_side(config)
        if getattr(config, "attention_type", None) == "space_only":
            raise IceprobeError(
                f"{spec}: its attention is within each frame (space_only): take the model of images that it "
                "is, with frames="
            )
        if frames % tube or frames < 1 or (self.fixed and frames != made_for):
            takes = f"{made_for} frames" if self.fixed else f"a multiple of {tube} frames"
            raise IceprobeError(
                f"{spec}: frames={frames}: its model takes {takes}: take frames={made_for}, or several clips "
                "of a video with clips="
            )
        if side != own:
            raise IceprobeError(
                f"{spec}: its clips are of {own} x {own} pixels, and image_size={side}: its positions are of "
                f"that size, take image_size={own}"
            )

    def own_side(self, config: Any) -> int:
        """S of the configuration."""
        side = getattr(config, self.side)
        return int(side[0] if isinstance(side, list | tuple) else side)

    def grid(self, config: Any, clips: Tensor) -> tuple[int, int, int]:
        """``(T, H, W)`` of the tokens of a batch of clips."""
        patch = getattr(config, "patch_size", None) or config.tubelet_size[1]
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        rows, columns = (size // patch for size in clips.shape[-2:])
        return clips.shape[1] // self.tube(config), rows, columns


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
        clips: how it takes clips; ``None`` for a model of images or sound.
        sound: how it takes recordings; ``None`` for a model of images or clips.
        tower: path from the loaded model to the encoder; empty if it is that.
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
    clips: Clips | None = None
    sound: Sound | None = None
    tower: str = ""

    def paths(self, model: Any) -> BlockPaths:
        """Raises AttributeError if this version of the library has other names."""
        inputs, features = self.inputs, self.features
        registers = model.config.num_register_tokens if self.registers else 0
        return BlockPaths(
            blocks=[
                block.get_submodule(self.each)[-1] if self.each else block
                for block in _first(model, self.blocks)
            ],
            norm=_norm(model, self.norm) if self.norm else None,
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
            grid=self._grid(model),
        )

    def _grid(self, model: Any) -> Callable[[Any], tuple[int, ...] | None] | None:
        clips, sound = self.clips, self.sound
        if clips is not None:
            return lambda batch: clips.grid(model.config, batch)
        if sound is not None and (grid := sound.grid) is not None:
            return lambda batch: grid(model.config)
        return None


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
# Of videos. A model that was made for the mean of its tokens has no final norm (`use_mean_pooling`).
_VIDEOMAE = Architecture(
    ("encoder.layer",),
    ("layernorm",),
    prefix=0,
    clips=Clips(tube=lambda config: int(config.tubelet_size), fixed=True),
)
_VJEPA2 = Architecture(
    ("encoder.layer",),
    ("encoder.layernorm",),
    prefix=0,
    inputs=_as_video,
    clips=Clips("frames_per_clip", "crop_size", lambda config: int(config.tubelet_size)),
)
_TIMESFORMER = Architecture(
    ("encoder.layer",), ("layernorm",), features=_time_first, clips=Clips(fixed=True)
)
_VIVIT = Architecture(
    ("encoder.layer", "layers"),
    ("layernorm",),
    clips=Clips(tube=lambda config: int(config.tubelet_size[0]), fixed=True),
)
# Of sound. wav2vec 2.0 and its like normalise within their blocks, or at the end (`do_stable_layer_norm`).
_WAVES = Architecture(
    ("encoder.layers",),
    ("encoder.layer_norm",),
    prefix=0,
    sound=Sound("Wav2Vec2FeatureExtractor", frames=WaveFrames),
)
_AST = Architecture(
    ("layers", "encoder.layer"),
    ("layernorm",),
    "ASTModel",
    prefix=2,
    vectors=_pooled,
    inputs=lambda model, features: {"input_values": features},
    sound=Sound(
        "ASTFeatureExtractor",
        grid=ast_grid,
        said="padded to {seconds:.4g} s, and tokens of the padding are read like others, as in its training",
    ),
)
_WHISPER = Architecture(
    ("layers",),
    ("layer_norm",),
    "WhisperModel",
    prefix=0,
    sound=Sound(
        "WhisperFeatureExtractor",
        frames=WhisperFrames,
        said="padded to {seconds:.4g} s, and tokens beyond their end are left out",
    ),
    tower="encoder",
)
_CLAP = Architecture(
    ("audio_encoder.layers",),
    ("audio_encoder.norm",),
    "ClapAudioModelWithProjection",
    prefix=0,
    stages=True,
    vectors=_pooled,
    inputs=clap_inputs,
    features=clap_map,
    each="blocks",
    sound=Sound("ClapFeatureExtractor", said="repeated to {seconds:.4g} s, as by its extractor"),
    tower="audio_model",
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
    "videomae": _VIDEOMAE,
    "vjepa2": _VJEPA2,
    "timesformer": _TIMESFORMER,
    "vivit": _VIVIT,
    "audio-spectrogram-transformer": _AST,
    "wav2vec2": _WAVES,
    "hubert": _WAVES,
    "wavlm": _WAVES,
    "whisper": _WHISPER,
    "clap": _CLAP,
    "clap_audio_model": _CLAP,
}


def _norm(model: Any, paths: Sequence[str]) -> Any:
    """The final norm, ``None`` for a model that was built without, or has it within its blocks."""
    if getattr(model.config, "do_stable_layer_norm", True) is False:
        return None
    for path in paths:
        parent, _, name = path.rpartition(".")
        with contextlib.suppress(AttributeError):
            if getattr(model.get_submodule(parent), name) is None:
                return None
    return _first(model, paths)


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
