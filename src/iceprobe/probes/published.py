"""EP heads as the publication's authors release them: one file, pooling with batch norm and classifier.

The file holds ``{"state_dict": …, "meta": …}``, or is a checkpoint of their training with ``"model"`` in place of it:

    0.cls_token (1, M, D)   0.v.weight (D_o, D)   1.running_mean, 1.running_var (D_o,)   2.weight (K, D_o)   2.bias (K,)

These are queries, W_V, the batch norm without affine and the classifier of :class:`iceprobe.probes.Probe`, number for
number. What was read of the backbone stands in ``meta`` alone and is put into words, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.checkpoint_files import read_checkpoint
from iceprobe.core.errors import IceprobeError
from iceprobe.probes.ep import EfficientProbing
from iceprobe.probes.probe import Probe

_QUERY, _VALUE = "0.cls_token", "0.v.weight"
_OURS = {
    _QUERY: "pooling.query",
    _VALUE: "pooling.value.weight",
    "1.running_mean": "norm.running_mean",
    "1.running_var": "norm.running_var",
    "1.num_batches_tracked": "norm.num_batches_tracked",
    "2.weight": "classifier.weight",
    "2.bias": "classifier.bias",
}
_COUNTER = "1.num_batches_tracked"  # may be missing: it has no part in evaluation
# Prefixes of the models whose "patch tokens" still hold the class token in the authors' code.
_WITH_CLASS = ("EVA02", "PE-")
_UNNORMED = "without the backbone's final norm"


@dataclass(frozen=True)
class Published:
    """What a released head says of itself; ``""`` and None where it doesn't.

    Attributes:
        encoder: method and architecture: ``"MAE ViT-B/16"``.
        image_size: pixels along one side, at evaluation.
        top1: accuracy of this very head on ImageNet-1k's validation split, a fraction.
        table_top1: the accuracy that the authors' table states, of the best epoch of its run.
        epoch: of its run, from 0, that it was saved after.
        reads: what its tokens have to be.
        note: of its authors.
    """

    encoder: str = ""
    image_size: int | None = None
    top1: float | None = None
    table_top1: float | None = None
    epoch: int | None = None
    reads: str = ""
    note: str = ""


class PublishedHead(Probe):
    """A released EP head: a probe with what its file says of it in ``published``."""

    published: Published = Published()


def load_published(path: str | Path) -> PublishedHead:
    """An EP head of the publication's authors as a probe, in evaluation mode.

    Args:
        path: ``ep_head.pth`` of their release, or a checkpoint of their training script. It is read as data: no code
            from it is run.

    Returns:
        A probe, tokens ``(B, N, D)`` → logits ``(B, K)``, with a field ``published`` (:class:`Published`). The tokens have to
        be what ``published.reads`` says.

    Raises:
        IceprobeError: if there is no such file, it is no EP head, or its tensors don't fit each other.
    """
    content = read_checkpoint(str(path))
    state, meta = _parts(content, path)
    query, value = state[_QUERY], state[_VALUE]
    if (
        query.ndim != 3
        or value.ndim != 2
        or query.shape[0] != 1
        or query.shape[2] != value.shape[1]
    ):
        raise IceprobeError(
            f"{path}: queries {_shape(query)} and values {_shape(value)} don't fit each other: (1, M, D) and (D_o, D) "
            "are those of an EP head"
        )
    read = _input(meta)
    pooling = EfficientProbing(query.shape[2], query.shape[1], value.shape[0])
    probe = PublishedHead(pooling, len(state["2.bias"]), input=read)
    ours = {_OURS[name]: tensor.float() for name, tensor in state.items()}
    ours["pooling.query"] = ours["pooling.query"][0]
    ours.setdefault("norm.num_batches_tracked", torch.tensor(0))
    for name, tensor in probe.state_dict().items():
        if ours[name].shape != tensor.shape:
            raise IceprobeError(
                f"{path}: {name} is {_shape(ours[name])} where {_shape(tensor)} fits the other tensors of the head: is "
                "the file whole?"
            )
    probe.load_state_dict(ours)
    probe.published = _published(meta, read)
    return probe.eval()


def _parts(content: Any, path: str | Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Tensors and metadata of a head's file."""
    state: Any = content
    meta: Any = {}
    if isinstance(content, Mapping):
        meta = content.get("meta") or {}
        state = content.get("state_dict") or content.get("model") or content
    names = [*state] if isinstance(state, Mapping) else []
    missing = [name for name in _OURS if name not in names and name != _COUNTER]
    unknown = [str(name) for name in names if name not in _OURS]
    if missing or unknown:
        odd = f"has {', '.join(unknown[:3])}" if unknown else f"lacks {', '.join(missing)}"
        raise IceprobeError(
            f"{path} {odd}: an EP head of the authors' release has {', '.join(_OURS)} (probes that iceprobe wrote are "
            "read by iceprobe.load_probe)"
        )
    return dict(state), meta if isinstance(meta, Mapping) else {}


def _input(meta: Mapping[str, Any]) -> str:
    """What the probe reads of a backbone's tokens, as ``input=`` names it."""
    if str(meta.get("model", "")).startswith(_WITH_CLASS):
        return "class+patches"
    return "class+patches" if meta.get("cls_features") == "ep_all" else "patches"


def _published(meta: Mapping[str, Any], read: str) -> Published:
    percent = {
        name: meta[key] / 100 if isinstance(meta.get(key), int | float) else None
        for name, key in (("top1", "val_acc1_at_head_epoch"), ("table_top1", "table_best_acc1"))
    }
    return Published(
        encoder=" ".join(str(meta[key]) for key in ("method", "arch") if meta.get(key)),
        image_size=meta.get("image_size"),
        epoch=meta.get("head_epoch"),
        reads=_reads(meta, read),
        note=str(meta.get("note", "")),
        **percent,
    )


def _reads(meta: Mapping[str, Any], read: str) -> str:
    """What the tokens have to be, in words."""
    if not meta:
        return f"{read}; the file doesn't say of which backbone"
    parts = [read]
    loader, all_tokens = str(meta.get("loader", "")), meta.get("cls_features") == "ep_all"
    if loader in ("", "simmim"):
        parts.append(_UNNORMED)
    if loader == "openclip":
        parts.append(
            "both after the image projection" if all_tokens else "before the image projection"
        )
    if meta.get("image_size"):
        parts.append(f"at {meta['image_size']} pixels")
    return ", ".join(parts)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
