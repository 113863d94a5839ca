"""``python:package.module:factory`` and plain ``nn.Module`` objects."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.backbones.extras import one_line
from iceprobe.backbones.families import family_of
from iceprobe.backbones.layers import Layers
from iceprobe.backbones.local_files import is_file_path
from iceprobe.backbones.preprocessing import CROP_PCT, Preprocessing
from iceprobe.backbones.readers import OutputReader, TimmReader, is_timm
from iceprobe.backbones.wrappers import unwrapped
from iceprobe.core.errors import IceprobeError


def load_python(
    name: str,
    *,
    spec: str,
    checkpoint: str | None = None,
    checkpoint_key: str | None = None,
    strip: str | None = None,
    ignore: Sequence[str] = (),
    **options: Any,
) -> Backbone:
    """Load ``python:package.module:factory``, where ``factory()`` returns an ``nn.Module``.

    The options are those of :func:`wrap_module` and of a checkpoint.

    Raises:
        IceprobeError: if the factory isn't found or returns something else, and as
            :func:`wrap_module` and ``load_checkpoint``.
    """
    factory = _import(name, spec)
    module = _made(factory, spec)
    if not isinstance(module, nn.Module):
        raise IceprobeError(f"{spec!r} returned a {type(module).__name__}: return an nn.Module")
    module = unwrapped(module)
    assumed: list[str] = []
    if checkpoint is not None:
        assumed += load_checkpoint(
            module, checkpoint, key=checkpoint_key, strip=strip, ignore=ignore
        )
    return wrap_module(
        module,
        spec=spec,
        name=name,
        sources=(factory,),
        borrowed=False,
        assumed=assumed,
        **options,
    )


def wrap_module(
    module: nn.Module,
    *,
    layer: Layers | None = None,
    norm: bool | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    resize: str | None = None,
    num_prefix: int | None = None,
    has_class: bool | None = None,
    spec: str | None = None,
    name: str | None = None,
    sources: Sequence[Any] = (),
    borrowed: bool = True,
    assumed: Sequence[str] = (),
) -> Backbone:
    """Make a backbone of a module.

    Args:
        module: a ``Backbone`` (given back as it is), a model of timm, a module with
            ``tokens(images) -> Tokens``, or one that returns ``(B, N, D)`` or ``(B, D, H, W)``.
            Statistics may stand in its attribute ``preprocessing``, a ``Preprocessing``. Wrappers
            of training are taken off, see :mod:`iceprobe.backbones.wrappers`.
        layer, norm: for models of timm only.
        image_size, mean, std, interpolation, crop_pct, resize: over what the module's own configuration
            says; all of the first three where it has none.
        num_prefix, has_class: of a ``(B, N, D)`` output.
        sources: functions whose code is part of the identity besides the module's class.
        borrowed: whether the module is somebody else's and must be left as it is.
        assumed: what was assumed before.

    Raises:
        IceprobeError: if the module has no statistics and isn't told them, if an option doesn't
            apply to it, or if it doesn't make tokens.
    """
    stated = {
        "image_size": image_size,
        "mean": mean and tuple(mean),
        "std": std and tuple(std),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "resize": resize,
    }
    given = {key: value for key, value in stated.items() if value is not None}
    if isinstance(module, Backbone):
        if given or any(v is not None for v in (layer, norm, num_prefix, has_class)):
            raise IceprobeError(
                f"backbone {module.spec!r} is loaded already: options come too late"
            )
        return module
    module = unwrapped(module)
    label = type(module).__qualname__
    preprocessing, crop = stated_preprocessing(module, given, label)
    settings: dict[str, Any] = {"architecture": name or label, "code": code_of(module, *sources)}
    told = [*assumed, *crop]
    reader: nn.Module
    if is_timm(module):
        if num_prefix is not None or has_class is not None:
            raise IceprobeError(f"{label} is a model of timm: it says its prefix tokens itself")
        # timm's tag says how such a model is read. It is there with random weights too, so that it
        # says nothing of how this one was trained.
        family = family_of(_timm_name(module))
        if norm is None and not family.norm:
            told.append(
                f"{label} is read without its final norm, as {family.name} is: its tag of timm is "
                f"{_timm_name(module)}"
            )
        norm = family.norm if norm is None else norm
        settings |= {"norm": norm}
        reader = TimmReader(module, -1 if layer is None else layer, norm)
    else:
        if layer is not None or norm is not None:
            raise IceprobeError(
                f"layer and norm don't apply to {label}: choose inside its tokens(images) method"
            )
        reader = OutputReader(module, num_prefix, has_class)
    return Backbone(
        reader,
        preprocessing,
        spec=spec or f"module:{label}",
        name=name or label,
        pooled_class=getattr(module, "attn_pool", None) is not None,
        settings=settings,
        borrowed=borrowed,
        assumed=told,
    )


def _made(factory: Callable[[], Any], spec: str) -> Any:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:  # built in: what it takes isn't known
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
    try:
        return factory()
    except IceprobeError:
        raise
    except Exception as error:  # the user's own code raises what it likes
        raise IceprobeError(
            f"{spec!r} failed: {type(error).__name__}: {one_line(error)} (--debug shows where)"
        ) from error


def _import(name: str, spec: str) -> Callable[[], Any]:
    path, _, attribute = name.rpartition(":")
    if not path or not attribute:
        raise IceprobeError(
            f"{spec!r} names no factory: write python:package.module:factory, or "
            "python:./file.py:factory"
        )
    try:
        if is_file_path(path):
            module = _from_file(Path(path).expanduser(), spec)
        else:
            module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise IceprobeError(
            f"{spec!r}: no module named {error.name!r}; is its folder on PYTHONPATH?"
        ) from error
    except IceprobeError:
        raise
    except Exception as error:  # the user's own code raises what it likes
        raise IceprobeError(
            f"{spec!r} can't be imported: {type(error).__name__}: {one_line(error)} (--debug shows "
            "where)"
        ) from error
    if not callable(getattr(module, attribute, None)):
        raise IceprobeError(f"{spec!r}: {path} has no function {attribute!r}")
    return getattr(module, attribute)


def _from_file(file: Path, spec: str) -> ModuleType:
    """The module in a file: who names it asks for that file, and its folder isn't searched."""
    if not file.is_file():
        raise IceprobeError(f"{spec!r}: no file {str(file)!r} here ({Path.cwd()})")
    file = file.resolve()
    name = f"_iceprobe_{hashlib.sha256(bytes(file)).hexdigest()[:12]}_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise IceprobeError(f"{spec!r}: {str(file)!r} is no Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look their classes up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def stated_preprocessing(
    module: nn.Module, given: dict[str, Any], label: str
) -> tuple[Preprocessing, list[str]]:
    """What the module's own configuration says, less what is given, and what was assumed.

    Raises:
        IceprobeError: if it says nothing and something is missing.
    """
    stated = getattr(module, "preprocessing", None)
    if isinstance(stated, Preprocessing):
        return Preprocessing(**{**stated.as_dict(), **given}), []
    if getattr(module, "pretrained_cfg", None):
        from iceprobe.backbones.timm_models import timm_preprocessing

        return timm_preprocessing(module, spec=label, **given)
    missing = [key for key in ("image_size", "mean", "std") if key not in given]
    if missing:
        raise IceprobeError(
            f"{label} doesn't say how its images are prepared: pass {', '.join(missing)}, or give "
            "it an attribute preprocessing = iceprobe.backbones.Preprocessing(…)"
        )
    return Preprocessing(**{"crop_pct": CROP_PCT, "channels": len(given["mean"]), **given}), []


def _timm_name(module: Any) -> str:
    config = getattr(module, "pretrained_cfg", None) or {}
    return f"{config.get('architecture', '')}.{config.get('tag') or ''}"


def code_of(*objects: Any) -> str:
    """Sha256 of the files that define the objects: other code may make other tokens."""
    digest = hashlib.sha256()
    for item in objects:
        definition = type(item) if isinstance(item, nn.Module) else item
        try:
            file = inspect.getsourcefile(definition)
        except (TypeError, OSError):  # built in or defined interactively: there is no file
            file = None
        digest.update(Path(file).read_bytes() if file and Path(file).is_file() else b"")
    return digest.hexdigest()
