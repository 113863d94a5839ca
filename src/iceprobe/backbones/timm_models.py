"""``timm:NAME``: any model of timm, with its published weights or a checkpoint of the user's."""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_model_data_config
from timm.models.beit import Beit
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.backbones.extras import hub_has_address
from iceprobe.backbones.families import family_of
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.preprocessing import (
    CROP_PCT,
    Preprocessing,
    check_image_size,
    other_crop,
)
from iceprobe.backbones.readers import TimmReader
from iceprobe.errors import IceprobeError

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them


def load_timm(
    name: str,
    *,
    spec: str,
    layer: Layers = -1,
    norm: bool | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float = CROP_PCT,
    resize: str | None = None,
    checkpoint: str | None = None,
    checkpoint_key: str | None = None,
    strip: str | None = None,
    ignore: Sequence[str] = (),
    pretrained: bool = True,
) -> Backbone:
    """Load ``timm:NAME``; the options are those of :func:`iceprobe.load_backbone`.

    Statistics, size and interpolation are those of the name's tag in timm, also for a checkpoint:
    name the tag whose training they belong to, or pass ``mean``, ``std`` and ``image_size``.

    Raises:
        IceprobeError: for a name that timm doesn't know, weights that can't be downloaded, and a
            checkpoint that doesn't fit.
    """
    _check_name(name)
    if checkpoint is None and pretrained:
        model = _published(name)
        _set_image_size(model, image_size, name)
    else:
        model = _random(name)
        _set_image_size(model, image_size, name)
        if checkpoint is not None:
            load_checkpoint(
                model,
                checkpoint,
                key=checkpoint_key,
                strip=strip,
                ignore=ignore,
                convert=_conversion(model),
            )
    # A checkpoint's family is what the name says: the tag that timm adds to a bare name is not its.
    family = family_of(_full_name(model) if checkpoint is None else name)
    paradigm = "random weights" if checkpoint is None and not pretrained else family.paradigm
    norm = family.norm if norm is None else norm
    preprocessing, assumed = timm_preprocessing(
        model,
        spec=spec,
        image_size=image_size,
        mean=mean,
        std=std,
        interpolation=interpolation,
        crop_pct=crop_pct,
        resize=resize,
    )
    return Backbone(
        TimmReader(model, layer, norm),
        preprocessing,
        spec=spec,
        name=name,
        paradigm=paradigm,
        pooled_class=has_pooler(model),
        settings={"architecture": _architecture(model), "norm": norm},
        assumed=assumed,
    )


def timm_preprocessing(
    model: nn.Module,
    *,
    spec: str,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float = CROP_PCT,
    resize: str | None = None,
) -> tuple[Preprocessing, list[str]]:
    """The evaluation transform from a model's own data configuration, less what is given.

    The crop is this project's (``spec/protocols.md``), not timm's: models are compared alike.
    What of timm's is of another kind than a centre crop is told in the lines beside it.

    Raises:
        IceprobeError: for a model of images that aren't square or of one channel, unless the size
            or statistics of one channel are given.
    """
    config = resolve_model_data_config(model)
    # A model that was made for another size than its tag's knows so itself.
    made_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    height, width = (made_for or config["input_size"])[-2:]
    if image_size is None and height != width:
        raise IceprobeError(
            f"{spec}: its images are {height} x {width} pixels (height x width), iceprobe's are "
            f"square: pass image_size={min(height, width)} or another"
        )
    channels = _input_channels(model)
    mean, std = tuple(mean or config["mean"]), tuple(std or config["std"])
    if channels is not None and channels != len(mean):
        raise IceprobeError(
            f"{spec}: its images have {channels} channel(s), mean={mean} is of {len(mean)}: pass "
            "mean and std with a number a channel"
        )
    stated = config["interpolation"]
    preprocessing = Preprocessing(
        image_size=image_size or height,
        mean=mean,
        std=std,
        # "random" is drawn for each training image; evaluation takes bicubic.
        interpolation=interpolation or ("bicubic" if stated == "random" else stated),
        crop_pct=crop_pct,
        channels=len(mean),
        resize=resize or "shorter",
    )
    own = {
        "squash": f"squashes images: resize=squash&crop_pct={config['crop_pct']:.15g} does so",
        "border": "pads images, which iceprobe has no option for",
    }.get(config["crop_mode"])
    return preprocessing, [other_crop(spec, f"its tag {own}")] if own and not resize else []


def _input_channels(model: Any) -> int | None:
    """Channels of the images that the model takes, where timm says which layer is the first."""
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    try:
        layer = model.get_submodule(first) if isinstance(first, str) else None
    except AttributeError:
        return None
    return getattr(layer, "in_channels", None)


def has_pooler(model: nn.Module) -> bool:
    """Whether the model's pooled output is a learned attention pool (SigLIP, PE)."""
    return getattr(model, "attn_pool", None) is not None


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise IceprobeError(
            f"timm has no model {architecture!r}: {hint}timm.list_models('*vit*') lists names"
        )
    if tag and not timm.is_model_pretrained(name):
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        raise IceprobeError(
            f"timm's {architecture} has no weights {tag!r}. There are: {', '.join(tags) or 'none'}."
        )


def _published(name: str) -> nn.Module:
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
        # Said at once: the hub's client would try for a minute.
        raise IceprobeError(
            f"the weights of timm:{name} can't be downloaded, there is no network: {remedy}"
        )
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises whatever its transport does
        raise IceprobeError(
            f"the weights of timm:{name} can't be downloaded ({type(error).__name__}): {remedy}"
        ) from error


def _is_cached(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, f), str) for f in _HUB_FILES)


def _random(name: str) -> nn.Module:
    """The architecture with timm's random weights, the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=0)


def _set_image_size(model: Any, image_size: int | None, name: str) -> None:
    """Tell models with position embeddings their image size; CNNs take any."""
    if image_size is None:
        return
    if not hasattr(model, "set_input_size"):
        config = model.pretrained_cfg
        height, width = config["input_size"][-2:]
        if config.get("fixed_input_size") and (height, width) != (image_size, image_size):
            raise IceprobeError(
                f"timm's {name} takes images of {height} x {width} alone: drop "
                f"image_size={image_size}"
            )
        return
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    for side in patch:
        check_image_size(image_size, side, name)
    model.set_input_size(img_size=(image_size, image_size))


def _conversion(
    model: nn.Module,
) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None:
    """The family's own conversion of published names and of position embeddings' sizes."""
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if isinstance(model, Beit):
        return partial(_convert_beit, model=model, convert=convert)
    return None if convert is None else partial(convert, model=model)


def _convert_beit(
    weights: dict[str, Tensor], model: Any, convert: Callable[..., Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Pre-training checkpoints of BEiT, BEiTv2 and SimMIM as timm's classifiers have them.

    While pre-training, all blocks share one table of relative positions, and the final norm comes
    before pooling; timm has a table in every block and, in its models that pool by the mean, the
    norm after it. Neither changes a token that is read without the norm.
    """
    weights = dict(weights)
    shared = weights.pop("rel_pos_bias.relative_position_bias_table", None)
    if shared is not None:
        for number in range(len(model.blocks)):
            weights[f"blocks.{number}.attn.relative_position_bias_table"] = shared
    if isinstance(model.norm, nn.Identity):
        for name in ("weight", "bias"):
            if f"norm.{name}" in weights:
                weights[f"fc_norm.{name}"] = weights.pop(f"norm.{name}")
    return convert(weights, model=model)


def _full_name(model: Any) -> str:
    config = model.pretrained_cfg
    return f"{config['architecture']}.{config.get('tag') or ''}"


def _architecture(model: Any) -> str:
    return model.pretrained_cfg["architecture"]
