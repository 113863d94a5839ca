"""Load raw training checkpoints into a module, or name what doesn't fit."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch import strided as dense

from iceprobe.backbones.checkpoint_entries import INFIX, Checkpoint, first_few
from iceprobe.backbones.options import CheckpointOptions
from iceprobe.core.errors import IceprobeError

Weights = Mapping[str, Tensor]
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

# What training saves besides the encoder; ignored silently if the module has no such weights.
# ``fc_norm`` comes after pooling.
NOT_THE_ENCODER = (
    "head.", "head_dist.", "fc.", "fc_norm.", "classifier.", "decoder", "mask_token",
)  # fmt: skip
# Last parts of names that only training uses.
FOR_TRAINING = ("num_batches_tracked", "mask_token")
_CHUNK = re.compile(r"(^|\.)(blocks|layers|layer)\.\d+\.(\d+)\.")
# Names in architectures that must be loaded in another way → how.
_ELSEWHERE = {
    r"(^|\.)blocks\.0\.adaLN_modulation\.": "these are weights of a DiT: name its pipeline as "
    "diffusers:facebook/DiT-XL-2-256?checkpoint=FILE (or diffusers:FOLDER)",
    r"(^|\.)patch_generator\.embedder\.": "these are weights of RADIO: name the model of timm that it "
    "is, as timm:vit_base_patch16_radio_v3?checkpoint=FILE",
    r"(^|\.)encoder\.blocks\.0\.residual1\.": "these are weights of CAPI, which no library here has: "
    "name a factory, python:my_models:capi, as the guide shows under 'A model in code'",
}


def load_saved(
    module: nn.Module, saved: CheckpointOptions, convert: Convert | None = None
) -> list[str]:
    """:func:`load_checkpoint` for the options in ``saved``; does nothing without a file."""
    if saved.checkpoint is None:
        return []
    return load_checkpoint(
        module,
        saved.checkpoint,
        key=saved.checkpoint_key,
        strip=saved.strip,
        ignore=saved.ignore,
        convert=convert,
    )


def load_checkpoint(
    module: nn.Module,
    checkpoint: str | Checkpoint,
    *,
    key: str | None = None,
    strip: str | None = None,
    ignore: Iterable[str] = (),
    unneeded: Iterable[str] = (),
    convert: Convert | None = None,
) -> list[str]:
    """Load the weights in a file into ``module``.

    Args:
        module: gets the weights.
        checkpoint: a file in safetensors or from ``torch.save``, read as data only.
        key: where in the file the weights are, such as ``teacher`` or ``state.model``; needed only
            if more than one entry holds weights.
        strip: prefix to remove from names, such as ``module.backbone.``; names without it fill what
            those with it leave open, and are ignored otherwise.
        ignore: prefixes of further names in the file outside the encoder.
        unneeded: prefixes of the module's weights that the tokens don't depend on: may be missing.
        convert: the model family's own conversion of published names and sizes.

    Returns:
        What was assumed, a line each.

    Raises:
        IceprobeError: if the file can't be read as data, if ``key`` doesn't exist or is needed, or
            if weights are missing, left over, of another shape or not plain numbers: names them.
    """
    if isinstance(checkpoint, str):
        checkpoint = Checkpoint.read(checkpoint)
    path = checkpoint.path
    weights, outside, assumed = _stripped(checkpoint.weights(key), path, strip)
    weights = _without_chunks(weights, module)
    before = dict(weights)
    if convert is not None:
        try:
            weights = dict(convert(weights))
        except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError) as error:
            reshaped = _reshaped(module.state_dict(), before)
            raise IceprobeError(
                f"checkpoint {path!r} doesn't fit {type(module).__name__}: its family's "
                f"conversion failed on it ({' '.join(str(error).split())[:300]})"
                + (f"; of another shape: {first_few(reshaped)}" if reshaped else "")
            ) from error
    ignored = (*NOT_THE_ENCODER, *filter(None, ignore), *outside)
    try:
        used = _load(module, weights, path, ignored, tuple(unneeded))
    except IceprobeError as error:
        for pattern, how in _ELSEWHERE.items():
            if any(re.search(pattern, name) for name in before):
                raise IceprobeError(f"{error}; {how}") from error
        raise
    if taken := sorted(used & outside.keys()):
        assumed.append(
            f"{first_few(taken)} of {path} {'has' if len(taken) == 1 else 'have'} no prefix {strip} "
            "there: used unchanged"
        )
    return assumed


def _stripped(
    weights: dict[str, Tensor], path: str, strip: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """All weights without the prefix, those that never had it, and what was assumed."""
    prefix = INFIX.sub("", strip or "")
    if not prefix:
        return weights, {}, []
    inside = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    if not inside:
        raise IceprobeError(
            f"strip={strip!r}: no weight in {path!r} begins so; they are {first_few(weights)}"
        )
    outside = {name: t for name, t in weights.items() if not name.startswith(prefix)}
    assumed = []
    if twice := sorted(inside.keys() & outside.keys()):
        assumed.append(
            f"{first_few(twice)} of {path} {'is' if len(twice) == 1 else 'are'} there with {strip} and "
            "without: the one with it is taken"
        )
    outside = {name: tensor for name, tensor in outside.items() if name not in inside}
    return {**outside, **inside}, outside, assumed


def _without_chunks(weights: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """``blocks.0.7.attn`` → ``blocks.7.attn``: DINOv2 trains its blocks in chunks."""
    if any(_CHUNK.search(name) for name in module.state_dict()):
        return weights
    plain = {_CHUNK.sub(r"\1\2.\3.", name): tensor for name, tensor in weights.items()}
    return plain if len(plain) == len(weights) else weights


def _load(
    module: nn.Module,
    weights: Weights,
    path: str,
    ignore: tuple[str, ...],
    unneeded: tuple[str, ...],
) -> set[str]:
    """Returns the names that were loaded."""
    own = module.state_dict()

    def matters(name: str, prefixes: tuple[str, ...]) -> bool:
        return not name.startswith(prefixes) and name.rpartition(".")[2] not in FOR_TRAINING

    left_over = [n for n in weights if n not in own and matters(n, (*ignore, *unneeded))]
    missing = [n for n in own if n not in weights and matters(n, unneeded)]
    taken = {name: weights[name] for name in own if name in weights}
    check_keys(module, path, missing, _reshaped(own, taken), left_over)
    for name, tensor in taken.items():
        if what := _no_numbers(tensor, own[name]):
            raise IceprobeError(f"checkpoint {path!r}: {name} {what}, and save it again")
    module.load_state_dict(taken, strict=False)
    return set(taken)


def _reshaped(own: Weights, weights: Weights) -> list[str]:
    """Names of the weights whose shape isn't the module's own, with both shapes."""
    return [
        f"{name} ({_shape(tensor)} in the file, {_shape(own[name])} in the model)"
        for name, tensor in weights.items()
        if name in own and tensor.shape != own[name].shape
    ]


def _no_numbers(found: Tensor, own: Tensor) -> str | None:
    """What is wrong with a tensor that isn't plain numbers, and what to do; else ``None``."""
    if found.is_meta:
        return "has a shape and no values (device meta): load the weights"
    if found.is_quantized:
        return f"is quantised ({_dtype(found)}): call dequantize() on it"
    if found.layout is not dense:
        return f"is sparse ({str(found.layout).removeprefix('torch.')}): call to_dense() on it"
    if own.is_floating_point() and not found.is_floating_point():
        return f"holds {_dtype(found)}, where the model has {_dtype(own)}: undo the quantisation"
    if found.is_floating_point() and found.element_size() < 2:
        return f"holds {_dtype(found)} with a separate scale: convert it to bfloat16 or float32"
    return None


def check_keys(
    module: nn.Module,
    source: str,
    missing: Sequence[str],
    reshaped: Sequence[str] = (),
    left_over: Sequence[str] = (),
) -> None:
    """Refuse weights of ``source``, a file or folder, that don't fit ``module``.

    Raises:
        IceprobeError: if any are missing, have another shape or are left over; says what to try.
    """
    found = {
        "weights are missing": missing,
        "have another shape": reshaped,
        "have no place": left_over,
    }
    problems = [
        f"{len(names)} {what}: {first_few(names)}" for what, names in found.items() if names
    ]
    if problems:
        raise IceprobeError(
            f"checkpoint {source!r} doesn't fit {type(module).__name__}: {'; '.join(problems)}; "
            f"{_remedy(missing, reshaped, left_over)}"
        )


def _remedy(missing: Sequence[str], reshaped: Sequence[str], left_over: Sequence[str]) -> str:
    if not reshaped and all(name.startswith("norm.") for name in (*missing, *left_over)):
        return "read it without its final norm: norm=false"
    if missing:
        prefixes = (n.removesuffix(missing[0]) for n in left_over if n.endswith(f".{missing[0]}"))
        prefix = next(prefixes, None)
        return f"try strip={prefix}" if prefix else "see checkpoint_key= and strip="
    if reshaped:
        return "name the architecture it was trained as"
    tops = dict.fromkeys(name.split(".")[0] for name in left_over)
    return f"add ignore={','.join(tops)} if they are no part of the encoder"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
