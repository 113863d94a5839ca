"""Images → tokens on the host, with decoding, forward pass and use of the tokens overlapped.

A batch of images is a forward pass for each view, so other views don't change the tokens of the
evaluation view. Decoding runs ahead, the forward pass in the calling thread; the caller should use the
batches in another thread. A bounded number of batches is in flight, so memory doesn't grow with the data
set.
"""

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from iceprobe.backbones.kinds import plural
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.pixels import Seen
from iceprobe.settings import Policy
from iceprobe.store.decoded_images import ImageDecoder, decoded_images
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.forward import FLAGS, check_finite, empty_batch, forward, rounding_share
from iceprobe.store.kept_images import KeptImages
from iceprobe.store.layout import COLUMN
from iceprobe.store.noted import NAMED
from iceprobe.store.work import Decoded, Work, in_pieces

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

Progress = Callable[[str, int, int], None] | None
Views = list[list[dict[str, Tensor]]]  # a view's layers, each its tensors by name

log = logging.getLogger("iceprobe")


@dataclass(frozen=True)
class Extracted:
    """The tokens of one item of work, on the host.

    Attributes:
        work: the item.
        layers: of each layer of the backbone, each view's tensors by name: ``patches (b, N, D)`` if
            they are stored, with ``scales (b, N)`` for int8 codes; ``prefix (b, P, D)``,
            ``mean (b, D)`` and the model's own vectors ``(b, D')`` float32; ``label (b,)`` and
            ``index (b,)``. The evaluation view also has ``box (b, 4)``, ``mask (b, S, S)`` uint8 (``cover (b, N)`` float32 of
            images of their own shape) and ``depth (b, S, S)`` float32 if the data set has them.
        skipped: names of the images that couldn't be read.
        seen: what was done to each of the others on decoding.
        rounding: of each layer, rounding as a share of the tokens' variance.
    """

    work: Work
    layers: list[list[dict[str, Tensor]]]
    skipped: list[str]
    seen: list[Seen]
    rounding: list[float]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The evaluation view, of a backbone of one layer."""
        (only,) = self.layers
        return only[0]


def extracted_batches(
    backbone: "Backbone",
    splits: Mapping[str, Split],
    work: list[Work],
    *,
    settings: ExtractionSettings,
    device: torch.device,
    workers: int,
    on_bad_image: Policy | Literal["pass over"],
    kept: KeptImages | None = None,
) -> Generator[Extracted, None, None]:
    """Run ``work`` in order.

    Args:
        backbone: moved to ``device``.
        splits: by name.
        work: forward passes to make.
        settings: of the extraction.
        device: of the forward pass.
        workers: processes that decode; 0 decodes in threads.
        on_bad_image: whether an unreadable image is an error (``"fail"``) or left out: ``"skip"`` logs
            the first of them, ``"pass over"`` none.
        kept: decoded images of an earlier extraction, which are taken from there and put there.

    Raises:
        BadImage: if an image can't be read and ``on_bad_image`` is ``"fail"``.
        IceprobeError: if tokens are not finite (names the image), or the device is out of memory.
    """
    backbone.to(device)
    work = list(in_pieces(work, splits))
    empty = [empty_batch(one, settings) for one in backbone.per_layer()]  # of one view
    gpu = device.type == "cuda"
    decode = ImageDecoder(splits, backbone.preprocessing, settings, pin=gpu and workers == 0)
    named = 0
    waiting: deque[tuple[Work, Decoded, Views, Any]] = deque()
    images = partial(decoded_images, decode, workers=workers, gpu=gpu)
    with contextlib.closing(images(work) if kept is None else kept.read(images, work)) as decoded:
        for todo, batch in zip(work, decoded, strict=True):
            if on_bad_image == "skip":
                named = _log_skipped(batch.bad, named)
            elif batch.bad and on_bad_image == "fail":
                raise BadImage(
                    f"{reason(batch.bad[0][1])} (leave such {plural(splits[todo.split].kind)} out "
                    "with on_bad_image=skip, on the command line --on-bad-image skip)"
                )
            views = [empty] * todo.views
            if len(batch.rows):
                views = [forward(backbone, view, device, settings) for view in batch.images]
            waiting.append((todo, batch, *_to_host(views, device)))
            # A GPU works on the next batch while this one is copied to the host.
            if len(waiting) > gpu:
                yield _finish(*waiting.popleft(), splits, settings)
        while waiting:
            yield _finish(*waiting.popleft(), splits, settings)


def _log_skipped(bad: list[tuple[int, str]], named: int) -> int:
    """Log why the first few images are left out; return how many are left out so far."""
    for _, message in bad[: max(0, NAMED - named)]:
        log.warning("skipped: %s", reason(message))
    return named + len(bad)


def reason(message: str) -> str:
    """The message without the remedy that all such messages share."""
    return message.removesuffix(", or pass --on-bad-image skip")


def _to_host(views: Views, device: torch.device) -> tuple[Views, Any]:
    """Start the copy to the host, which is complete at the event, if there is one."""
    gpu = device.type == "cuda"
    host = [
        [{name: _pinned_copy(t) if gpu else t.cpu() for name, t in one.items()} for one in layers]
        for layers in views
    ]
    if not gpu:
        return host, None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return host, event


def _pinned_copy(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _finish(
    work: Work,
    batch: Decoded,
    views: Views,
    copied: Any,
    splits: Mapping[str, Split],
    settings: ExtractionSettings,
) -> Extracted:
    if copied is not None:
        copied.synchronize()
    split = splits[work.split]
    for one in itertools.chain(*views):
        check_finite(one, split, batch.rows, settings)
    known = {
        "label": torch.from_numpy(split.labels[batch.rows]),
        "index": torch.from_numpy(np.ascontiguousarray(batch.rows, dtype=np.int64)),
    }
    for name, column in split.columns.items():
        known[COLUMN + name] = torch.from_numpy(column.codes[batch.rows])
    found = {"box": batch.boxes, "mask": batch.masks, "cover": batch.covers, "depth": batch.depths}
    placed = {name: torch.from_numpy(one) for name, one in found.items() if one is not None}
    layers = list(zip(*views, strict=True))
    made = [
        [
            {name: tensor for name, tensor in one.items() if name not in FLAGS}
            | known
            | ({} if view else placed)
            for view, one in enumerate(layer)
        ]
        for layer in layers
    ]
    shares = [max(map(rounding_share, layer)) for layer in layers]
    bad = [split.names[row] for row, _ in batch.bad]
    return Extracted(work, made, bad, batch.seen, shares)
