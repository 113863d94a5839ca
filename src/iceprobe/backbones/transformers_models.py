"""``transformers:NAME_OR_DIR``: models of images, clips and sound of Hugging Face's transformers.

Only the tower of images of image-text models is read, and only the encoder of models of sound. Tokens are read at the blocks
(``transformers_architectures.py``), so every layer is available without the final norm too, which
``last_hidden_state`` includes. Model types outside that table, and models with their own code
(``trust=true``), are read by their ``last_hidden_state``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import BlockPaths, BlockReader
from iceprobe.backbones.checkpoints import check_keys, load_saved
from iceprobe.backbones.extras import model_folder, quiet
from iceprobe.backbones.families import family_of
from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.backbones.native import NativePreprocessing
from iceprobe.backbones.native_readers import native_reader
from iceprobe.backbones.options import (
    NATIVE,
    AnyShapeOptions,
    CheckpointOptions,
    OutputOptions,
    PartOptions,
    SoundOptions,
)
from iceprobe.backbones.parts import Joining, averaged_clips, over_parts
from iceprobe.backbones.python_modules import code_of
from iceprobe.backbones.readers import OutputReader, has_pooler
from iceprobe.backbones.sound_models import FrameReader
from iceprobe.backbones.sound_preprocessing import FRAME
from iceprobe.backbones.timm_models import timm_reading
from iceprobe.backbones.transformers_architectures import ARCHITECTURES, Architecture
from iceprobe.backbones.transformers_preprocessing import for_clips, for_images, for_sound
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.foreign import explained, one_line

OPTIONAL = ("visual_projection", "head")  # they make the vectors; not every checkpoint has them
# What no checkpoint needs, and no one of models of sound: it isn't read.
UNREAD = ("pooler.",)
UNREAD_OF_SOUND = ("decoder.", "audio_projection.", "masked_spec_embed")


def load_transformers(
    name: str,
    *,
    spec: str,
    tokens: OutputOptions,
    images: AnyShapeOptions,
    saved: CheckpointOptions,
    parts: PartOptions = PartOptions(),
    sound: SoundOptions = SoundOptions(),
    trust: bool = False,
) -> Backbone:
    """Load ``transformers:NAME_OR_DIR``; the options are those of :func:`iceprobe.load_backbone`.

    Size, statistics and interpolation come from the folder's ``preprocessor_config.json``
    (:mod:`iceprobe.backbones.processors`), for clips from its video processor
    (:mod:`iceprobe.backbones.video_processors`), and features of sound are its feature extractor's
    (:mod:`iceprobe.backbones.sound_preprocessing`). ``num_prefix`` and ``has_class`` are for model types
    that iceprobe doesn't know.

    Raises:
        IceprobeError: if transformers isn't installed, the folder isn't one of a model, weights
            are missing, or its own code isn't trusted.
    """
    transformers = require("transformers", "transformers", spec)
    folder = model_folder(name, spec, "config.json", _FETCH)
    with quiet(transformers.utils.logging), torch.random.fork_rng(devices=[]):
        config = _config(transformers, folder, spec, trust)
        architecture = ARCHITECTURES.get(config.model_type)
        trust = trust and architecture is None
        model, whole = _model(
            transformers, folder, config, architecture, spec, trust, saved.checkpoint
        )
    assumed = load_saved(model, saved)
    family = family_of(config.model_type, Path(folder).name)
    norm = family.norm if tokens.norm is None else tokens.norm
    reader: nn.Module
    preprocessing: ExamplePreprocessing
    each: dict[str, Any] = {}
    if sound.seconds is not None and (architecture is None or architecture.sound is None):
        raise IceprobeError(
            f"{spec}: seconds={sound.seconds:g} is of models of sound, and this is a {config.model_type}: "
            "drop it"
        )
    if config.model_type == "timm_wrapper":
        model = model.timm_model
        reader, preprocessing, crop = timm_reading(model, tokens.layers, norm, images, spec)
    elif architecture is None:
        preprocessing, crop = for_images(transformers, folder, spec, images, model.config, trust)
        if isinstance(preprocessing, NativePreprocessing):
            raise IceprobeError(
                f"{spec}: image_size={NATIVE} isn't known of the model type {config.model_type!r}: give "
                "image_size= a number of pixels"
            )
        _refuse(spec, config.model_type, tokens, "layer", "norm")
        reader = OutputReader(_LastHiddenState(model), tokens, has_pooler(model))
    else:
        if architecture.sound is not None:
            _refuse_others(spec, config.model_type, images.given | parts.given)
        _refuse(spec, config.model_type, tokens, "num_prefix", "has_class")
        model = model.get_submodule(architecture.tower)
        paths = _block_paths(architecture, model, spec)
        if not whole:
            paths = replace(paths, vectors=None)
        if tokens.norm is None and paths.norm is None:
            norm = True  # a CNN by the name of a family of ViTs, or a model with its norm within its blocks
        read = BlockReader(model, paths, tokens.layers, norm)
        if architecture.sound is not None:
            of_frames = architecture.sound.frames
            frames = None if of_frames is None else of_frames(model.config)
            shortest = FRAME if frames is None else frames.shortest()
            preprocessing, crop = for_sound(
                transformers, folder, spec, architecture.sound, sound, shortest
            )
            reader = read if frames is None else FrameReader(read, frames, preprocessing.rate)
        elif architecture.clips is not None:
            preprocessing, crop = for_clips(
                transformers, folder, spec, images, model.config, architecture.clips, parts
            )
            reader = read
            averaged = averaged_clips(spec, parts, preprocessing.clips, parts.each == "pooled")
            if parts.clips is not None or parts.each is not None:
                joining = Joining(
                    parts.each or "patches", preprocessing.clips, clips=True, averaged=averaged
                )
                each, reader = joining.settings, over_parts(read, joining)
        else:
            preprocessing, crop = for_images(
                transformers, folder, spec, images, model.config, trust, architecture.masks
            )
            reader = native_reader(read, preprocessing, spec, architecture.masks)
    own_file = bool(saved.checkpoint) or Path(folder).is_dir()
    return Backbone(
        reader,
        preprocessing,
        spec=spec,
        name=Path(folder).name if Path(folder).is_dir() else name,
        # A folder's model type states the architecture, not the training.
        paradigm="unknown" if own_file else family.paradigm,
        settings={
            "architecture": f"transformers {type(model).__name__}",
            "config": _settings(config),
            "norm": norm,
            **each,
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
        foreign = (
            "auto_map" in fields and fields.get("model_type") not in transformers.CONFIG_MAPPING
        )
        if foreign and not trust:
            raise IceprobeError(
                f"{spec}: its model comes with code of its own, which would run on this machine: "
                "read it, then add trust=true"
            )
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=foreign)
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
    """The model in float32 without its pooler, and whether all `OPTIONAL` layers are loaded."""
    loads = architecture.loads if architecture else ""
    if loads and not hasattr(transformers, loads):
        raise IceprobeError(
            f"{spec}: transformers {transformers.__version__} has no {loads}: upgrade it"
        )
    kind = getattr(transformers, loads or "AutoModel")
    code = {} if loads else {"trust_remote_code": trust}
    if checkpoint is not None:
        tower = _tower(config) if loads else config
        make = kind._from_config if loads else kind.from_config
        model, missing = make(tower, **code), []
    else:
        with explained(lambda e: f"{spec}: its weights can't be loaded ({one_line(e)}): {_FETCH}"):
            model, info = kind.from_pretrained(folder, output_loading_info=True, **code)
        missing = sorted(info["missing_keys"])
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and next(pooler.parameters(), None) is not None:
        model.pooler = None  # not read, and random if the checkpoint has none
    absent = [part for part in OPTIONAL if any(key.startswith(f"{part}.") for key in missing)]
    for part in absent:
        setattr(model, part, nn.Identity())
    unread = UNREAD_OF_SOUND if architecture is not None and architecture.sound else ()
    unread = (*UNREAD, *OPTIONAL, *unread)
    check_keys(model, folder, [key for key in missing if not key.startswith(unread)])
    if config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
    return model.float(), not absent


def _block_paths(architecture: Architecture, model: Any, spec: str) -> BlockPaths:
    try:
        return architecture.paths(model)
    except AttributeError as error:
        raise IceprobeError(
            f"{spec}: this version of transformers has another {type(model).__name__} than "
            f"iceprobe knows ({one_line(error)}): take transformers>=4.56"
        ) from error


def _settings(config: Any) -> dict[str, Any]:
    """The configuration without its metadata."""
    config = _tower(config)
    metadata = {"architectures", "transformers_version", "dtype", "torch_dtype"}
    fields = config.to_diff_dict().items()
    return {key: v for key, v in fields if key not in metadata and not key.startswith("_")}


def _tower(config: Any) -> Any:
    """The configuration of the encoder that is read, of a model of several."""
    return getattr(config, "vision_config", None) or getattr(config, "audio_config", None) or config


def _refuse_others(spec: str, model_type: str, others: dict[str, Any]) -> None:
    """Refuse options of images and clips for a model of sound."""
    if others:
        raise IceprobeError(
            f"{spec}: {next(iter(others))} is of images or clips, and {model_type!r} reads recordings: drop it"
        )


def _refuse(spec: str, model_type: str, tokens: OutputOptions, *options: str) -> None:
    for key in options:
        if getattr(tokens, key) is not None:
            raise IceprobeError(f"{spec}: {key} doesn't apply to the model type {model_type!r}")
