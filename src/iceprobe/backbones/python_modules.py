"""``python:package.module:factory`` and plain ``nn.Module`` objects."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.checkpoints import load_saved
from iceprobe.backbones.families import family_of
from iceprobe.backbones.kinds import ExamplePreprocessing, plural
from iceprobe.backbones.native import NativePreprocessing, native_transform
from iceprobe.backbones.native_readers import native_reader
from iceprobe.backbones.options import NATIVE, CheckpointOptions, ImageOptions, OutputOptions
from iceprobe.backbones.preprocessing import ImagePreprocessing, Preprocessing
from iceprobe.backbones.readers import (
    OutputReader,
    TimmReader,
    has_pooler,
    is_timm,
    timm_name,
)
from iceprobe.backbones.wrappers import unwrapped
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import explained, imported, one_line, where


def load_python(
    name: str, *, spec: str, tokens: OutputOptions, images: ImageOptions, saved: CheckpointOptions
) -> Backbone:
    """Load ``python:package.module:factory``, where ``factory()`` returns an ``nn.Module``.

    Raises:
        IceprobeError: if the factory isn't found or returns something else, and as
            :func:`wrap_module` and ``load_checkpoint``.
    """
    factory = imported(name, spec, "factory")
    module = _made(factory, spec)
    if not isinstance(module, nn.Module):
        raise IceprobeError(f"{spec!r} returned a {type(module).__name__}: return an nn.Module")
    module = unwrapped(module)
    assumed = load_saved(module, saved)
    return wrap_module(
        module,
        tokens=tokens,
        images=images,
        spec=spec,
        name=name,
        sources=(factory,),
        borrowed=False,
        assumed=assumed,
    )


def wrap_module(
    module: nn.Module,
    *,
    tokens: OutputOptions,
    images: ImageOptions,
    spec: str | None = None,
    name: str | None = None,
    sources: Sequence[Any] = (),
    borrowed: bool = True,
    assumed: Sequence[str] = (),
) -> Backbone:
    """Make a backbone of a module.

    Args:
        module: a ``Backbone`` (returned unchanged), a model of timm, a module with
            ``tokens(images) -> Tokens``, or one that returns ``(B, N, D)`` or ``(B, D, H, W)``.
            Its attribute ``preprocessing`` states how its examples are read: a ``Preprocessing`` of
            images, a ``NativePreprocessing`` of images of their own shape (``tokens(Ragged) -> Tokens``),
            or that of another kind (`iceprobe.backbones.kinds.KINDS`).
            Training wrappers are removed, see :mod:`iceprobe.backbones.wrappers`.
        tokens: ``layer`` and ``norm`` are for models of timm only, the rest for a
            ``(B, P + N, D)`` output.
        images: replaces the module's own configuration; without one, size, mean and std are needed.
        sources: functions whose code is part of the identity besides the module's class.
        borrowed: whether the module is in use elsewhere and must not change.
        assumed: earlier assumptions, a line each.

    Raises:
        IceprobeError: if nothing states how the module's images are normalised, if an option
            doesn't apply to it, or if it doesn't return tokens.
    """
    if isinstance(module, Backbone):
        if images.given or tokens != OutputOptions():
            raise IceprobeError(
                f"backbone {module.spec!r} is already loaded: give its options when loading it"
            )
        return module
    module = unwrapped(module)
    label = type(module).__qualname__
    preprocessing, crop = stated_preprocessing(module, images, label)
    settings: dict[str, Any] = {"architecture": name or label, "code": code_of(module, *sources)}
    assumed = [*assumed, *crop]
    reader: nn.Module
    if is_timm(module):
        if tokens.describes_output:
            raise IceprobeError(f"{label} is a model of timm: drop num_prefix and has_class")
        # timm's tag decides how the model is read. It doesn't show how the model was trained, since
        # a model with random weights has a tag too.
        family = family_of(timm_name(module))
        if tokens.norm is None and not family.norm:
            assumed.append(
                f"{label} is read without its final norm, as {family.name} is: its tag of timm is "
                f"{timm_name(module)}"
            )
        settings["norm"] = norm = family.norm if tokens.norm is None else tokens.norm
        reader = native_reader(TimmReader(module, tokens.layers, norm), preprocessing, label)
    else:
        if tokens.layer is not None or tokens.norm is not None:
            raise IceprobeError(
                f"layer and norm don't apply to {label}: choose inside its tokens(images) method"
            )
        reader = OutputReader(module, tokens, has_pooler(module))
    return Backbone(
        reader,
        preprocessing,
        spec=spec or f"module:{label}",
        name=name or label,
        settings=settings,
        borrowed=borrowed,
        assumed=assumed,
    )


def _made(factory: Callable[[], Any], spec: str) -> Any:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:  # built in: its parameters aren't known
        raise IceprobeError(
            f"{spec!r}: its factory is called without arguments ({one_line(error)}): name a "
            "function that takes none and returns the module"
        ) from error
    needed = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise IceprobeError(
            f"{spec!r}: its factory is called without arguments and needs {', '.join(needed)}: "
            "name a function that takes none and returns the module, def build(): return ..."
        )
    with explained(lambda error: f"{spec!r} failed: {where(error)}"):
        return factory()


def stated_preprocessing(
    module: nn.Module, images: ImageOptions, label: str
) -> tuple[ExamplePreprocessing, list[str]]:
    """The transform by ``images`` and the module's own configuration, and what was assumed.

    Raises:
        IceprobeError: if size, mean or std are in neither.
    """
    stated, given = getattr(module, "preprocessing", None), images.given
    if isinstance(stated, NativePreprocessing):
        if images.image_size is not None and not images.native:
            raise IceprobeError(
                f"{label} takes images of their own shape, as its preprocessing says: leave "
                f"image_size={images.image_size} out"
            )
        fields = stated.as_dict()
        return native_transform(label, images, fields["patch_size"], fields, fields["max_tokens"])
    if isinstance(stated, ExamplePreprocessing) and not isinstance(stated, ImagePreprocessing):
        if given:
            raise IceprobeError(
                f"{label} reads {plural(stated.kind)}, as its attribute preprocessing says: drop "
                f"{next(iter(given))}="
            )
        return stated, []
    if isinstance(stated, Preprocessing) and not images.native:
        return Preprocessing(**{**stated.as_dict(), **given}), []
    if getattr(module, "pretrained_cfg", None):
        from iceprobe.backbones.timm_models import timm_preprocessing

        return timm_preprocessing(module, images, label)
    if images.native:
        raise IceprobeError(
            f"{label}: image_size={NATIVE} is for models of timm, and for modules with an attribute preprocessing = "
            "iceprobe.backbones.NativePreprocessing(…): give image_size= a number of pixels"
        )
    missing = [key for key in ("image_size", "mean", "std") if key not in given]
    if missing:
        raise IceprobeError(
            f"{label} doesn't say how its images are prepared: pass {', '.join(missing)}, or give "
            "it an attribute preprocessing = iceprobe.backbones.Preprocessing(…)"
        )
    return Preprocessing(channels=len(given["mean"]), **given), []


def code_of(*objects: Any) -> str:
    """SHA-256 of the files that define the objects: other code may return other tokens."""
    digest = hashlib.sha256()
    for item in objects:
        definition = type(item) if isinstance(item, nn.Module) else item
        try:
            file = inspect.getsourcefile(definition)
        except (TypeError, OSError):  # built in or defined interactively: there is no file
            file = None
        digest.update(Path(file).read_bytes() if file and Path(file).is_file() else b"")
    return digest.hexdigest()
