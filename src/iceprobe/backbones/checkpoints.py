"""Raw training checkpoints → the weights of a module, or an error that names what doesn't fit."""

import argparse
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from iceprobe.errors import IceprobeError

Weights = Mapping[str, Tensor]

# What training leaves beside the encoder; left out without a word where the module has no such
# weights itself.
NOT_THE_ENCODER = ("head.", "head_dist.", "fc.", "classifier.", "decoder", "mask_token")


def load_checkpoint(
    module: nn.Module,
    path: str,
    *,
    key: str | None = None,
    strip: str | None = None,
    ignore: Iterable[str] = (),
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> None:
    """Load the weights in a file into ``module``.

    Args:
        module: what takes the weights.
        path: ``.safetensors``, or what ``torch.save`` wrote (read with ``weights_only=True``;
            ``argparse.Namespace``, which training scripts leave there, is allowed as data).
        key: where in the file the weights are, as ``teacher`` or ``state.model``; needed only
            if more than one entry holds weights.
        strip: prefix of the names that belong to the module, taken off, as ``module.backbone.``;
            other names are left as they are.
        ignore: prefixes of further names in the file that are no part of the encoder.
        convert: the model family's own conversion of published names and sizes.

    Raises:
        IceprobeError: if the file can't be read as data, if ``key`` isn't there or is needed, or
            if weights are missing, left over or of another shape, all of which are named.
    """
    weights = _pick(_read(path), path, key)
    if strip:
        weights = _stripped(weights, path, strip)
    if convert is not None:
        try:
            weights = dict(convert(weights))
        except (KeyError, RuntimeError, ValueError) as error:
            raise IceprobeError(
                f"checkpoint {path!r} doesn't fit {type(module).__name__}: its family's "
                f"conversion failed on it ({' '.join(str(error).split())})"
            ) from error
    _load(module, weights, path, (*NOT_THE_ENCODER, *ignore))


def _read(path: str) -> Any:
    file = Path(path).expanduser()
    if not file.is_file():
        raise IceprobeError(f"no checkpoint {path!r}: pass checkpoint=FILE with an existing file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise IceprobeError(
            f"checkpoint {path!r} can't be read as data ({_first_sentence(error)}): load it where "
            "you trust it and save its state_dict() alone"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise IceprobeError(
            f"checkpoint {path!r} can't be read ({_first_sentence(error)}): is the file whole?"
        ) from error


def _pick(content: Any, path: str, key: str | None) -> dict[str, Tensor]:
    """The entry of a checkpoint that holds the weights."""
    if key:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                raise IceprobeError(
                    f"checkpoint {path!r} has no checkpoint_key={key}. {_entries(content)}"
                )
            content = content[part]
        if not _is_weights(content):
            raise IceprobeError(
                f"checkpoint_key={key} of {path!r} holds no weights. {_entries(content)}"
            )
        return dict(content)
    if _is_weights(content):
        return dict(content)
    found = (
        [name for name, value in content.items() if _is_weights(value)]
        if isinstance(content, Mapping)
        else []
    )
    if len(found) == 1:
        return dict(content[found[0]])
    if found:
        raise IceprobeError(
            f"checkpoint {path!r} holds weights under {' and '.join(map(str, found))}: "
            f"choose with checkpoint_key={found[0]}"
        )
    raise IceprobeError(f"checkpoint {path!r} holds no weights at its top. {_entries(content)}")


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _stripped(weights: Weights, path: str, strip: str) -> dict[str, Tensor]:
    if not any(name.startswith(strip) for name in weights):
        raise IceprobeError(
            f"strip={strip!r}: no weight in {path!r} begins so; they are {_some(weights)}"
        )
    return {name.removeprefix(strip): tensor for name, tensor in weights.items()}


def _load(module: nn.Module, weights: Weights, path: str, ignore: tuple[str, ...]) -> None:
    own = module.state_dict()
    left_over = [name for name in weights if name not in own and not name.startswith(ignore)]
    missing = [name for name in own if name not in weights]
    reshaped = [
        f"{name} ({_shape(weights[name])} in the file, {_shape(own[name])} in the model)"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    check_keys(module, path, missing, reshaped, left_over)
    module.load_state_dict({name: weights[name] for name in own})


def check_keys(
    module: nn.Module,
    source: str,
    missing: Sequence[str],
    reshaped: Sequence[str] = (),
    left_over: Sequence[str] = (),
) -> None:
    """Refuse weights that don't fit.

    Args:
        module: what takes the weights.
        source: the file or folder they are from.
        missing: names of weights that aren't there.
        reshaped: names of weights that have another shape, with both shapes.
        left_over: names of weights that the module has no place for.

    Raises:
        IceprobeError: if there are any; names them and what to try.
    """
    problems = []
    if missing:
        problems.append(f"{len(missing)} weights are missing: {_some(missing)}")
    if reshaped:
        problems.append(f"{len(reshaped)} have another shape: {_some(reshaped)}")
    if left_over:
        problems.append(f"{len(left_over)} have no place: {_some(left_over)}")
    if problems:
        raise IceprobeError(
            f"checkpoint {source!r} doesn't fit {type(module).__name__}: {'; '.join(problems)}; "
            f"{_remedy(missing, left_over)}"
        )


def _remedy(missing: Sequence[str], left_over: Sequence[str]) -> str:
    if missing:
        prefixes = (n.removesuffix(missing[0]) for n in left_over if n.endswith(f".{missing[0]}"))
        prefix = next(prefixes, None)
        return f"try strip={prefix}" if prefix else "see checkpoint_key= and strip="
    if left_over:
        tops = dict.fromkeys(name.split(".")[0] for name in left_over)
        return f"add ignore={','.join(tops)} if they are no part of the encoder"
    return "name the architecture it was trained as"


def _entries(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"There are: {_some(map(str, content))}."
    return f"There is a {type(content).__name__}."


def _some(names: Iterable[str], count: int = 6) -> str:
    names = list(names)
    tail = f", … ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + tail


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
