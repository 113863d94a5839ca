"""Raw training checkpoints → the weights of a module, or an error that names what doesn't fit."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch import strided as dense

from iceprobe.backbones.checkpoint_entries import INFIX, Checkpoint, some
from iceprobe.backbones.options import CheckpointOptions
from iceprobe.core.errors import IceprobeError

Weights = Mapping[str, Tensor]
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

# What training saves beside the encoder; left out silently where the module has no such weights.
# ``fc_norm`` comes after pooling.
NOT_THE_ENCODER = (
    "head.",
    "head_dist.",
    "fc.",
    "fc_norm.",
    "classifier.",
    "decoder",
    "mask_token",
)
# Last parts of names that only training reads.
FOR_TRAINING = ("num_batches_tracked", "mask_token")
_CHUNK = re.compile(r"(^|\.)(blocks|layers|layer)\.\d+\.(\d+)\.")
# Names of architectures that are read in another way.
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
    """:func:`load_checkpoint` of the file that ``saved`` names, and nothing where it names none."""
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
        module: what takes the weights.
        checkpoint: ``.safetensors``, or what ``torch.save`` wrote, read as data only.
        key: where in the file the weights are, as ``teacher`` or ``state.model``; needed only
            if more than one entry holds weights.
        strip: prefix of the names that belong to the module, taken off, as ``module.backbone.``;
            names without it are taken where the module has no other, and left out otherwise.
        ignore: prefixes of further names in the file that are no part of the encoder.
        unneeded: prefixes of the module's own weights that what is read doesn't depend on: they
            may be missing.
        convert: the model family's own conversion of published names and sizes.

    Returns:
        What was assumed, a line each.

    Raises:
        IceprobeError: if the file can't be read as data, if ``key`` isn't there or is needed, or
            if weights are missing, left over, of another shape or no plain numbers, all of which
            are named.
    """
    if isinstance(checkpoint, str):
        checkpoint = Checkpoint.read(checkpoint)
    path = checkpoint.path
    weights, outside, assumed = _stripped(checkpoint.weights(key), path, strip)
    weights = _without_chunks(weights, module, path)
    before = dict(weights)
    if convert is not None:
        try:
            weights = dict(convert(weights))
        except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError) as error:
            raise IceprobeError(
                f"checkpoint {path!r} doesn't fit {type(module).__name__}: its family's "
                f"conversion failed on it ({' '.join(str(error).split())[:300]})"
                f"{_shapes_apart(module, before)}"
            ) from error
    ignored = (*NOT_THE_ENCODER, *filter(None, ignore), *outside)
    try:
        used = _load(module, weights, path, ignored, tuple(unneeded))
    except IceprobeError as error:
        if elsewhere := _elsewhere(before):
            raise IceprobeError(f"{error}; {elsewhere}") from error
        raise
    if taken := sorted(used & outside.keys()):
        assumed.append(
            f"{some(taken)} of {path} {'has' if len(taken) == 1 else 'have'} no prefix {strip} "
            "there: taken as it stands"
        )
    return assumed


def _stripped(
    weights: dict[str, Tensor], path: str, strip: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Weights with the prefix taken off, those without the prefix, and what was assumed."""
    prefix = INFIX.sub("", strip or "")
    if not prefix:
        return weights, {}, []
    inside = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    if not inside:
        raise IceprobeError(
            f"strip={strip!r}: no weight in {path!r} begins so; they are {some(weights)}"
        )
    outside = {name: t for name, t in weights.items() if not name.startswith(prefix)}
    assumed = []
    if twice := sorted(inside.keys() & outside.keys()):
        assumed.append(
            f"{some(twice)} of {path} {'is' if len(twice) == 1 else 'are'} there with {strip} and "
            "without: the one with it is taken"
        )
    outside = {name: tensor for name, tensor in outside.items() if name not in inside}
    return {**outside, **inside}, outside, assumed


def _without_chunks(weights: dict[str, Tensor], module: nn.Module, path: str) -> dict[str, Tensor]:
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
    """Returns the names that were taken."""
    own = module.state_dict()
    left_over = [
        name
        for name in weights
        if name not in own
        and not name.startswith((*ignore, *unneeded))
        and name.rpartition(".")[2] not in FOR_TRAINING
    ]
    missing = [
        name
        for name in own
        if name not in weights
        and not (unneeded and name.startswith(unneeded))
        and name.rpartition(".")[2] not in FOR_TRAINING
    ]
    taken = {name: weights[name] for name in own if name in weights}
    reshaped = [
        f"{name} ({_shape(tensor)} in the file, {_shape(own[name])} in the model)"
        for name, tensor in taken.items()
        if tensor.shape != own[name].shape
    ]
    check_keys(module, path, missing, reshaped, left_over)
    for name, tensor in taken.items():
        if what := _no_numbers(tensor, own[name]):
            raise IceprobeError(f"checkpoint {path!r}: {name} {what}, and save it again")
    module.load_state_dict(taken, strict=False)
    return set(taken)


def _elsewhere(weights: Weights) -> str | None:
    """How to load weights whose names show another architecture; ``None`` where they show none."""
    for pattern, how in _ELSEWHERE.items():
        if any(re.search(pattern, name) for name in weights):
            return how
    return None


def _no_numbers(found: Tensor, own: Tensor) -> str | None:
    """What is wrong with a tensor that has no plain numbers to copy, with what to do."""
    if found.is_meta:
        return "has a shape and no values (device meta): load the weights"
    if found.is_quantized:
        return f"is quantised ({_dtype(found)}): call dequantize() on it"
    if found.layout is not dense:
        return f"is sparse ({str(found.layout).removeprefix('torch.')}): call to_dense() on it"
    if own.is_floating_point() and not found.is_floating_point():
        return f"holds {_dtype(found)}, where the model has {_dtype(own)}: undo the quantisation"
    if found.is_floating_point() and found.element_size() < 2:
        return f"holds {_dtype(found)}, whose scale stands apart: bring it to bfloat16 or float32"
    return None


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
        problems.append(f"{len(missing)} weights are missing: {some(missing)}")
    if reshaped:
        problems.append(f"{len(reshaped)} have another shape: {some(reshaped)}")
    if left_over:
        problems.append(f"{len(left_over)} have no place: {some(left_over)}")
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


def _shapes_apart(module: nn.Module, weights: Weights) -> str:
    """The weights of the same name and another shape, as the end of an error."""
    own = module.state_dict()
    apart = [
        f"{name} ({_shape(tensor)} in the file, {_shape(own[name])} in the model)"
        for name, tensor in weights.items()
        if name in own and tensor.shape != own[name].shape
    ]
    return f"; of another shape: {some(apart)}" if apart else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
