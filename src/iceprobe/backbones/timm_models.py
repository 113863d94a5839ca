"""``timm:NAME``: any model of timm, with its published weights or the user's checkpoint."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_model_data_config
from torch import nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.checkpoint_entries import Checkpoint
from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.backbones.conversions import conversion
from iceprobe.backbones.extras import hub_has_address
from iceprobe.backbones.families import UNKNOWN, Family, family_of, family_of_file
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.native import native_transform
from iceprobe.backbones.native_readers import native_reader
from iceprobe.backbones.options import (
    NATIVE,
    AnyShapeOptions,
    CheckpointOptions,
    ImageOptions,
    TokenOptions,
)
from iceprobe.backbones.preprocessing import ImagePreprocessing, check_image_size, stated_transform
from iceprobe.backbones.readers import TimmReader, has_pooler, timm_name
from iceprobe.core.errors import IceprobeError

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them


def load_timm(
    name: str,
    *,
    spec: str,
    tokens: TokenOptions,
    images: AnyShapeOptions,
    saved: CheckpointOptions,
    resample: str | None = None,
    pretrained: bool = True,
) -> Backbone:
    """Load ``timm:NAME``; the options are those of :func:`iceprobe.load_backbone`.

    Statistics, size and interpolation are those of the name's tag in timm, for a checkpoint too,
    unless the checkpoint's family (by name or file) has its own. Name the tag that matches the
    training, or pass ``mean``, ``std`` and ``image_size``. ``resample="patch_embed"`` allows
    resampling the kernel of a checkpoint's patch embedding to another patch size.

    Raises:
        IceprobeError: for a name that timm doesn't know, weights that can't be downloaded, and a
            checkpoint that doesn't fit.
    """
    _check_name(name, saved.checkpoint is not None)
    assumed: list[str] = []
    file = family = None
    if saved.checkpoint is not None:
        file = Checkpoint.read(saved.checkpoint)
        family = _family_of_file(file, name, tokens, images, assumed)
    if file is None and pretrained:
        _same_channels(name, images.mean)
        model = _published(name, **_any_shape(name, images))
    else:
        options = {**(_overrides(family, name) if family else {}), **_any_shape(name, images)}
        if images.mean is not None and len(images.mean) != 3:
            options["in_chans"] = len(images.mean)
        model = _random(name, **options)
    if not images.native:
        _set_image_size(model, images.image_size, name)
    # timm adds a tag to a bare name. It says nothing about a checkpoint.
    family = family or family_of(timm_name(model))
    norm = family.norm if tokens.norm is None else tokens.norm
    if file is not None:
        assumed += [
            f"{key}={value}, as {family.name} trained {name}; timm's has another"
            for key, value in _overrides(family, name).items()
        ]
        key, strip = _key_and_strip(file, saved, family)
        assumed += load_checkpoint(
            model,
            file,
            key=key,
            strip=strip,
            ignore=(*saved.ignore, *family.ignore),
            unneeded=_unneeded(model, norm),
            convert=conversion(model, file.path, resample is not None, file.content, assumed),
        )
        if family.statistics and not ("." in name and timm.is_model_pretrained(name)):
            mean, std = family.statistics
            images = replace(images, mean=images.mean or mean, std=images.std or std)
        elif family is UNKNOWN and (images.mean is None or images.std is None):
            config = resolve_model_data_config(model)
            assumed.append(
                f"images of {file.path} are normalised by {name}'s mean={_spelled(config['mean'])} "
                f"and std={_spelled(config['std'])}, as timm has it"
            )
    elif resample is not None:
        raise IceprobeError(f"{spec}: resample={resample} is for a checkpoint: add checkpoint=FILE")
    reader, preprocessing, crop = timm_reading(model, tokens.layers, norm, images, spec)
    architecture = timm_name(model).partition(".")[0]
    return Backbone(
        reader,
        preprocessing,
        spec=spec,
        name=name,
        paradigm="random weights" if file is None and not pretrained else family.paradigm,
        settings={"architecture": architecture, "norm": norm, **_overrides(family, name)},
        assumed=[*assumed, *crop],
    )


def _family_of_file(
    file: Checkpoint, name: str, tokens: TokenOptions, images: AnyShapeOptions, assumed: list[str]
) -> Family:
    """The family by the name, else by the file; a line in ``assumed`` if they differ."""
    named, shown = family_of(name), family_of_file(file.names)
    if shown is UNKNOWN or shown is named:
        return named
    if named is not UNKNOWN and "." in name:  # an architecture alone says nothing about training
        assumed.append(
            f"{file.path} is read as one of {named.name}, as the name {name} says, though it looks "
            f"like one of {shown.name}"
        )
        return named
    read = f"{'with' if shown.norm else 'without'} the final norm" if tokens.norm is None else ""
    stated = images.mean and images.std
    normalised = "ImageNet's mean and std" if shown.statistics and not stated else ""
    assumed.append(
        f"{file.path} is one of {shown.name}, by the names in it"
        + "".join(f", {part}" for part in (read, normalised) if part)
    )
    return shown


def _key_and_strip(
    file: Checkpoint, saved: CheckpointOptions, family: Family
) -> tuple[str | None, str | None]:
    """As given; otherwise the family's own entry and prefix if the file has them."""
    key, strip = saved.checkpoint_key, saved.strip
    if not key and isinstance(file.content, Mapping) and family.key in file.content:
        key = family.key
    if strip is None and (own := family.strip) is not None:
        strip = own if any(name.startswith(own) for name in file.weights(key)) else None
    return key, strip


def _unneeded(model: nn.Module, norm: bool) -> tuple[str, ...]:
    """Weights that the tokens don't depend on: norms after pooling, and an unused final norm."""
    if has_pooler(model):
        return ()
    return ("fc_norm.",) if norm else ("norm.", "fc_norm.")


def _spelled(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def timm_reading(
    model: nn.Module, layers: Layers, norm: bool, images: ImageOptions, spec: str
) -> tuple[nn.Module, ImagePreprocessing, list[str]]:
    """A reader of the model's tokens, its transform, and what was assumed.

    Raises:
        IceprobeError: as :func:`timm_preprocessing`, and for ``image_size=native`` of a model that can't.
    """
    reader = TimmReader(model, layers, norm)
    preprocessing, assumed = timm_preprocessing(model, images, spec)
    return native_reader(reader, preprocessing, spec), preprocessing, assumed


def timm_preprocessing(
    model: Any, images: ImageOptions, spec: str
) -> tuple[ImagePreprocessing, list[str]]:
    """The evaluation transform: ``images``, and the rest from the model's own data configuration.

    The crop is this project's (``spec/protocols.md``), the same for all models, not timm's.

    Returns:
        The transform, and lines: that timm's own crop isn't a centre crop, or how many tokens images of
        their own shape have.

    Raises:
        IceprobeError: for a model of images that aren't square, unless ``image_size`` is given, or
            statistics of another number of channels than the model's.
    """
    config = resolve_model_data_config(model)
    # A model that was built for another size than its tag's states it in patch_embed.
    made_for: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
    channels = _input_channels(model)
    mean, std = tuple(images.mean or config["mean"]), tuple(images.std or config["std"])
    if channels is not None and channels != len(mean):
        raise IceprobeError(
            f"{spec}: its images have {channels} channel(s), mean={mean} is of {len(mean)}: pass "
            "mean and std with a number a channel"
        )
    stated = {"mean": mean, "std": std, "channels": len(mean)}
    own_size = (made_for or config["input_size"])[-2:]
    if images.native:
        patch, (height, width) = _patch(model), own_size
        most = (height // (patch or 1)) * (width // (patch or 1))
        fields = {**stated, "interpolation": config["interpolation"]}
        return native_transform(spec, images, patch, fields, most)
    own = {
        "squash": f"its tag squashes images: resize=squash&crop_pct={config['crop_pct']:.15g} does so",
        "border": "its tag pads images, which iceprobe has no option for",
    }.get(config["crop_mode"])
    return stated_transform(
        spec,
        images,
        own_size,
        {**stated, "interpolation": config["interpolation"]},
        own,
    )


def _patch(model: Any) -> int | None:
    """Pixels a side of its patches; ``None`` if it has none, or they aren't square."""
    embed = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    sides: Any = getattr(embed, "patch_size", None)
    square = isinstance(sides, tuple) and len(sides) == 2 and sides[0] == sides[1]
    return sides[0] if square else None


def _any_shape(name: str, images: AnyShapeOptions) -> dict[str, Any]:
    """What timm builds a model with that takes images of any shape; NaFlexVit always does."""
    flexible = timm.models.is_model_in_modules(name.partition(".")[0], ["naflexvit"])
    return {"dynamic_img_size": True} if images.native and not flexible else {}


def _input_channels(model: Any) -> int | None:
    """Input channels of the model, if timm names its first layer."""
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    try:
        layer = model.get_submodule(first) if isinstance(first, str) else None
    except AttributeError:
        return None
    return getattr(layer, "in_channels", None)


def _check_name(name: str, own: bool) -> None:
    """Check that timm has the model; with a checkpoint (``own``) its tag may just name a family."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise IceprobeError(
            f"timm has no model {architecture!r}: {hint}timm.list_models('*vit*') lists names"
        )
    if not tag or timm.is_model_pretrained(name):
        return
    known = timm.list_pretrained(f"{architecture}.*")
    tags = ", ".join(full.partition(".")[2] for full in known) or "none"
    if family_of(name) is family_of(architecture):
        raise IceprobeError(f"timm's {architecture} has no weights {tag!r}. There are: {tags}.")
    if not own:
        raise IceprobeError(
            f"timm has no weights of {name} to download: pass timm:{name}?checkpoint=FILE. Those it "
            f"has: {tags}"
        )


def _published(name: str, **options: Any) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise IceprobeError(
            f"timm has no published weights for {name!r}: pass timm:{name}?checkpoint=FILE, or "
            "pretrained=false for its random initialisation"
        )
    repository = config.hf_hub_id
    where = f"{_HUB_FILES[0]} from {repository} of Hugging Face" if repository else config.url
    remedy = f"fetch {where} on a connected machine and pass timm:{name}?checkpoint=FILE"
    if repository and not _is_cached(repository) and not hub_has_address():
        # Fail at once: the hub's client would retry for a minute.
        raise IceprobeError(
            f"the weights of timm:{name} can't be downloaded, there is no network: {remedy}"
        )
    try:
        return _created(name, True, options)
    except IceprobeError:
        raise
    except Exception as error:  # the hub's client raises whatever its transport does
        raise IceprobeError(
            f"the weights of timm:{name} can't be downloaded ({type(error).__name__}): {remedy}"
        ) from error


def _is_cached(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, f), str) for f in _HUB_FILES)


def _random(name: str, **options: Any) -> nn.Module:
    """The architecture with timm's random weights from a fixed seed."""
    known = name if timm.is_model_pretrained(name) else name.partition(".")[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _created(known, False, options)


def _created(name: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        raise IceprobeError(
            f"image_size={NATIVE} is for vision transformers that take images of any shape, and timm's {name} is "
            "none: give image_size= a number of pixels"
        ) from error


def _overrides(family: Family, name: str) -> Mapping[str, Any]:
    return family.overrides.get(name.partition(".")[0], {})


def _same_channels(name: str, mean: Sequence[float] | None) -> None:
    config = timm.get_pretrained_cfg(name)
    if mean and config is not None and len(mean) != (channels := config.input_size[0]):
        raise IceprobeError(
            f"the weights of timm:{name} read {channels} channels, and mean={_spelled(mean)} is for "
            f"{len(mean)}: give {channels} numbers, or a checkpoint of {len(mean)} channels with "
            "checkpoint=FILE"
        )


def _set_image_size(model: Any, image_size: int | None, name: str) -> None:
    """Set the image size of models with position embeddings. CNNs take any size."""
    if image_size is None:
        return
    if not hasattr(model, "set_input_size"):
        config = model.pretrained_cfg
        height, width = config["input_size"][-2:]
        if config.get("fixed_input_size") and (height, width) != (image_size, image_size):
            raise IceprobeError(
                f"timm's {name} only takes images of {height} x {width}: drop image_size={image_size}"
            )
        return
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    for side in patch:
        check_image_size(image_size, side, name)
    model.set_input_size(img_size=(image_size, image_size))
