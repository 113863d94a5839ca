"""``transformers:NAME_OR_DIR``: vision models of Hugging Face's transformers.

``ARCHITECTURES`` says for each model type which class is loaded (of image-text models the image
tower alone) and where its tokens are. Tokens are caught at the blocks, so that every layer is
there without the final norm as well, which ``last_hidden_state`` hides. A model type that isn't in
the table, or that comes with code of its own (``trust=true``), is read by its
``last_hidden_state``.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import BlockPaths, BlockReader, first_tensor, nothing
from iceprobe.backbones.checkpoints import check_keys, load_saved
from iceprobe.backbones.extras import model_folder, one_line, quiet, require
from iceprobe.backbones.families import family_of
from iceprobe.backbones.options import CheckpointOptions, ImageOptions, OutputOptions
from iceprobe.backbones.preprocessing import Preprocessing, check_image_size
from iceprobe.backbones.processors import read_processor
from iceprobe.backbones.python_modules import code_of
from iceprobe.backbones.readers import OutputReader, TimmReader, has_pooler, square_grid
from iceprobe.backbones.timm_models import timm_preprocessing
from iceprobe.core.errors import IceprobeError

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


def _patchified(model: Any, images: Tensor) -> dict[str, Any]:
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
    "siglip2": replace(_SIGLIP, loads="Siglip2VisionModel", inputs=_patchified),
    "siglip2_vision_model": replace(_SIGLIP, loads="Siglip2VisionModel", inputs=_patchified),
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
OPTIONAL = ("visual_projection", "head")  # what vectors are made by; not every checkpoint has it


def load_transformers(
    name: str,
    *,
    spec: str,
    tokens: OutputOptions,
    images: ImageOptions,
    saved: CheckpointOptions,
    trust: bool = False,
) -> Backbone:
    """Load ``transformers:NAME_OR_DIR``; the options are those of :func:`iceprobe.load_backbone`.

    Size, statistics and interpolation are those of the folder's ``preprocessor_config.json``
    (:mod:`iceprobe.backbones.processors`).
    ``num_prefix`` and ``has_class`` are for model types that iceprobe doesn't know.

    Raises:
        IceprobeError: if transformers isn't installed, the folder isn't one of a model, weights
            are missing, or its own code isn't trusted.
    """
    transformers = require("transformers", "transformers", spec)
    folder = model_folder(name, spec, "config.json", _FETCH)
    with quiet(transformers.utils.logging), torch.random.fork_rng(devices=[]):
        config = _config(transformers, folder, spec, trust)
        architecture = ARCHITECTURES.get(config.model_type)
        model, whole = _model(
            transformers, folder, config, architecture, spec, trust, saved.checkpoint
        )
    assumed = load_saved(model, saved)
    family = family_of(config.model_type, Path(folder).name)
    norm = family.norm if tokens.norm is None else tokens.norm
    reader: nn.Module
    if config.model_type == "timm_wrapper":
        model = model.timm_model
        reader = TimmReader(model, tokens.layers, norm)
        preprocessing, crop = timm_preprocessing(model, images, spec)
    else:
        with quiet(transformers.utils.logging):
            stated, crop = _stated_preprocessing(
                transformers, folder, spec, images.given, model, trust and architecture is None
            )
        preprocessing = Preprocessing(**{**stated, **images.given})
        patch = getattr(model.config, "patch_size", None)
        if isinstance(patch, int):
            check_image_size(preprocessing.image_size, patch, name)
        if architecture is not None:
            _refuse(spec, config.model_type, tokens, "num_prefix", "has_class")
            paths = _block_paths(architecture, model, spec)
            if not whole:
                paths = replace(paths, vectors=nothing)
            if tokens.norm is None and paths.norm is None:
                norm = True  # a CNN by the name of a family of ViTs
            reader = BlockReader(model, paths, tokens.layers, norm)
        else:
            _refuse(spec, config.model_type, tokens, "layer", "norm")
            reader = OutputReader(
                _LastHiddenState(model),
                tokens.num_prefix,
                tokens.has_class,
                pooled_class=has_pooler(model),
            )
    own_file = bool(saved.checkpoint) or Path(folder).is_dir()
    return Backbone(
        reader,
        preprocessing,
        spec=spec,
        name=Path(folder).name if Path(folder).is_dir() else name,
        # A folder's model type says what was built, not how it was trained.
        paradigm="unknown" if own_file else family.paradigm,
        settings={
            "architecture": f"transformers {type(model).__name__}",
            "config": _settings(config),
            "norm": norm,
            **({} if architecture else {"code": code_of(model)}),
        },
        assumed=[*assumed, *crop],
    )


class _LastHiddenState(nn.Module):
    """A model of transformers as a module that returns its last hidden state."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).last_hidden_state


_FETCH = (
    "copy its folder (config.json, preprocessor_config.json, model.safetensors) from a connected "
    "machine and pass transformers:DIR"
)


def _config(transformers: Any, folder: str, spec: str, trust: bool) -> Any:
    try:
        fields, _ = transformers.PretrainedConfig.get_config_dict(folder)
        if "auto_map" in fields and fields.get("model_type") not in transformers.CONFIG_MAPPING:
            if not trust:
                raise IceprobeError(
                    f"{spec}: its model comes with code of its own, which would run on this "
                    "machine: read it, then add trust=true"
                )
            return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise IceprobeError(
            f"{spec}: its configuration can't be read ({one_line(error)}): {_FETCH}"
        ) from error


def _model(
    transformers: Any,
    folder: str,
    config: Any,
    architecture: Architecture | None,
    spec: str,
    trust: bool,
    checkpoint: str | None,
) -> tuple[Any, bool]:
    """The model in float32, without its pooler, and whether all that vectors need is there."""
    loads = architecture.loads if architecture else ""
    if loads and not hasattr(transformers, loads):
        raise IceprobeError(
            f"{spec}: transformers {transformers.__version__} has no {loads}: upgrade it"
        )
    kind = getattr(transformers, loads or "AutoModel")
    code = {"trust_remote_code": trust and architecture is None}
    if checkpoint is not None:
        tower = getattr(config, "vision_config", config) if loads else config
        make = kind._from_config if loads else partial(kind.from_config, **code)
        model, missing = make(tower), []
    else:
        try:
            model, info = kind.from_pretrained(
                folder, output_loading_info=True, **({} if loads else code)
            )
        except Exception as error:  # the library's own, the hub's client's, foreign code's
            raise IceprobeError(
                f"{spec}: its weights can't be loaded ({one_line(error)}): {_FETCH}"
            ) from error
        missing = sorted(info["missing_keys"])
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and next(pooler.parameters(), None) is not None:
        model.pooler = None  # not read, and random where the checkpoint has none
    whole = True
    for part in OPTIONAL:
        if any(key.startswith(f"{part}.") for key in missing):
            setattr(model, part, nn.Identity())
            whole = False
    check_keys(model, folder, [k for k in missing if not k.startswith(("pooler.", *OPTIONAL))])
    if config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
    return model.float(), whole


def _block_paths(architecture: Architecture, model: Any, spec: str) -> BlockPaths:
    try:
        return architecture.paths(model)
    except AttributeError as error:
        raise IceprobeError(
            f"{spec}: this version of transformers has another {type(model).__name__} than "
            f"iceprobe knows ({one_line(error)}): take transformers>=4.56"
        ) from error


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


def _stated_preprocessing(
    transformers: Any, folder: str, spec: str, given: dict[str, Any], model: Any, trust: bool
) -> tuple[dict[str, Any], list[str]]:
    """What the folder's image processor says, and what was assumed."""
    config = model.config
    channels = getattr(config, "num_channels", 3)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:  # the library's own, whatever a wrong field leads it to
        if missing := [key for key in ("image_size", "mean", "std") if key not in given]:
            raise IceprobeError(
                f"{spec}: no preprocessor_config.json says how its images are prepared "
                f"({one_line(error, 120)}): pass {', '.join(missing)}"
            ) from error
        assumed = [] if "interpolation" in given else [
            f"{spec}: interpolation=bicubic, nothing says how its images are resized"
        ]  # fmt: skip
        return {"channels": len(given["mean"])}, assumed
    side = getattr(config, "image_size", None)
    if isinstance(side, list | tuple):
        side = side[0] if len(set(side)) == 1 else None
    return read_processor(
        processor,
        given,
        spec,
        channels=channels,
        made_for=side if isinstance(side, int) else None,
        patches=(known := ARCHITECTURES.get(config.model_type)) is not None
        and known.inputs is _patchified,
    )


def _settings(config: Any) -> dict[str, Any]:
    """What the configuration says about the tokens, without what it says about its file."""
    config = getattr(config, "vision_config", config)
    kept = {"architectures", "transformers_version", "dtype", "torch_dtype"}
    fields = config.to_diff_dict().items()
    return {key: v for key, v in fields if key not in kept and not key.startswith("_")}


def _refuse(spec: str, model_type: str, tokens: OutputOptions, *options: str) -> None:
    for key in options:
        if getattr(tokens, key) is not None:
            raise IceprobeError(f"{spec}: {key} doesn't apply to the model type {model_type!r}")
