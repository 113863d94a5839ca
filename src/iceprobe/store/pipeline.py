"""Images → tokens on the host, with decoding, forward pass and use of the tokens overlapped.

An image is decoded once, whatever the number of views made of it; a batch of images is a forward
pass for each view, so the evaluation view's tokens are the same with and without others.

Decoding runs ahead in threads (``workers=0``) or processes; the forward pass runs in the calling
thread; whoever iterates does with the batches what it likes, best in a thread of its own.
Everything in flight is bounded, so memory doesn't grow with the data set.
"""

import contextlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import one_line
from iceprobe.datasets.pixels import Seen, seen, upright_boxes
from iceprobe.store.decoding import decoded_in_order, looking_at
from iceprobe.store.format import Settings
from iceprobe.store.layout import DTYPES, STORED, Layout, token_layout
from iceprobe.store.noted import NAMED
from iceprobe.store.quantisation import check_rounding, dequantise, quantise, rounding
from iceprobe.store.work import Decoded, Work
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone
    from iceprobe.backbones.preprocessing import Preprocessing

OnBadImage = Literal["fail", "skip"]
Progress = Callable[[str, int, int], None] | None

log = logging.getLogger("iceprobe")


_FLAGS = ("finite", "fits", "rounding")  # of `forward`, which aren't stored


@dataclass(frozen=True)
class Extracted:
    """What one forward pass gave.

    Attributes:
        work: what was asked for.
        layers: for each layer of the backbone and each view ``patches (b, N, D)`` if wanted (int8 codes with their
            ``scales (b, N)`` where they are stored so), ``prefix (b, P, D)``, ``mean (b, D)`` and the model's own vectors float32, ``label (b,)``, ``index (b,)``,
            and of the evaluation view ``box (b, 4)`` where there are boxes and
            ``mask (b, S, S)`` uint8 where there are masks, on the host.
        skipped: names of the images that couldn't be read.
        seen: what was done to each of the others on the way from its file.
        rounding: for each layer the share of rounding in the variance of its tokens.
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


def plan_work(split: str, rows: np.ndarray, number: int, settings: Settings) -> list[Work]:
    """Cut shard ``number`` of ``rows`` into batches: the same ones whoever makes them, and when."""
    start = number * settings.shard_images
    rows = rows[start : start + settings.shard_images]
    size, views = settings.batch_size, settings.views_of(split)
    firsts = range(0, len(rows), size)
    return [
        Work(split, number, rows[first : first + size], last=first == firsts[-1], views=views)
        for first in firsts
    ]


def extracted_batches(
    backbone: "Backbone",
    splits: Mapping[str, Split],
    work: list[Work],
    *,
    settings: Settings,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    tell: bool = True,
) -> Generator[Extracted, None, None]:
    """Run ``work`` in order.

    Args:
        tell: whether the first images that are left out are said.

    Raises:
        BadImage: if an image can't be read and ``on_bad_image`` is ``"fail"``.
        IceprobeError: if tokens are not finite (names the image), or the device is out of memory.
    """
    backbone.to(device)
    nothing = [_nothing(one, settings) for one in backbone.per_layer()]  # of one view
    gpu = device.type == "cuda"
    decode = _Decode(splits, backbone.preprocessing, settings, pin=gpu and workers == 0)
    told = 0
    waiting: deque[tuple[Work, Decoded, list[list[dict[str, Tensor]]], Any]] = deque()
    with contextlib.closing(_decoded(decode, work, workers, gpu)) as decoded:
        for todo, batch in zip(work, decoded, strict=True):
            if on_bad_image == "skip":
                told = _tell_skipped(batch.bad, told) if tell else 0
            elif batch.bad:
                raise BadImage(
                    f"{_reason(batch.bad[0][1])} (leave such images out with on_bad_image=skip, "
                    "on the command line --on-bad-image skip)"
                )
            views = [nothing] * todo.views
            if len(batch.rows):
                views = [forward(backbone, view, device, settings) for view in batch.images]
            waiting.append((todo, batch, *_to_host(views, device)))
            # A GPU works on the next batch while this one comes to the host.
            if len(waiting) > gpu:
                yield _finish(*waiting.popleft(), splits, settings)
        while waiting:
            yield _finish(*waiting.popleft(), splits, settings)


def _tell_skipped(bad: list[tuple[int, str]], told: int) -> int:
    """Say why images are left out, the first few; how many were said by then."""
    for _, message in bad[: max(0, NAMED - told)]:
        log.warning("skipped: %s", _reason(message))
    return told + len(bad)


def _reason(message: str) -> str:
    """What is wrong with an image, without the remedy that all such messages share."""
    return message.removesuffix(", or pass --on-bad-image skip")


def autocast(device: torch.device, amp: str) -> torch.autocast:
    dtype = DTYPES[amp]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def forward(
    backbone: "Backbone", images: Tensor, device: torch.device, settings: Settings
) -> list[dict[str, Tensor]]:
    """Each layer's tokens as they are stored, and for each image whether they are finite."""
    try:
        with torch.no_grad(), autocast(device, settings.amp):
            layers = backbone.forward_layers(images.to(device, non_blocking=True))
        with torch.no_grad():
            return [_as_stored(tokens, settings) for tokens in layers]
    except torch.OutOfMemoryError as error:
        raise IceprobeError(
            f"a batch of {len(images)} images doesn't fit into the memory of {device}: "
            f"try batch_size={max(1, settings.batch_size // 2)}"
        ) from error


def _as_stored(tokens: Tokens, settings: Settings) -> dict[str, Tensor]:
    of_patches, of_prefix = STORED[settings.tokens]
    mean, prefix = tokens.mean, tokens.prefix.to(of_prefix)
    # A NaN or an infinity in any patch is one in the mean.
    finite = _finite(mean) & _finite(tokens.prefix)
    fits = _finite(prefix)
    tensors = {"prefix": prefix, "mean": mean}
    share = mean.new_zeros((), dtype=torch.float32)
    if settings.patches and of_patches is torch.int8:  # whose scales hold whatever is finite
        patches, scales = quantise(tokens.patches)
        share = rounding(tokens.patches, dequantise(patches, scales, torch.float32))
        tensors = {"patches": patches, "scales": scales, **tensors}
    elif settings.patches:
        patches = tokens.patches.to(of_patches)
        fits &= _finite(patches)
        if of_patches.itemsize < tokens.patches.dtype.itemsize:
            share = rounding(tokens.patches, patches)
        tensors = {"patches": patches, **tensors}
    for name, vector in tokens.vectors.items():
        tensors[name] = vector.float()
        finite &= _finite(vector)
    return tensors | {"finite": finite, "fits": fits, "rounding": share.expand(len(mean)).float()}


def _nothing(backbone: "Backbone", settings: Settings) -> dict[str, Tensor]:
    """What a batch gives of which no image could be read."""
    layout = token_layout(backbone.shape, settings)
    flags: Layout = {
        "finite": (torch.bool, ()),
        "fits": (torch.bool, ()),
        "rounding": (torch.float32, ()),
    }
    return {
        name: torch.empty(0, *size, dtype=dtype) for name, (dtype, size) in (layout | flags).items()
    }


def _finite(tensor: Tensor) -> Tensor:
    """``(b,)``: whether all values of each image are finite."""
    if tensor.numel() == 0:
        return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
    low, high = torch.aminmax(tensor.flatten(1), dim=1)  # one pass; both are NaN if one value is
    return low.isfinite() & high.isfinite()


def _to_host(
    views: list[list[dict[str, Tensor]]], device: torch.device
) -> tuple[list[list[dict[str, Tensor]]], Any]:
    """Start the copy to the host; the event, where there is one, tells when it is done."""
    if device.type != "cuda":
        return [
            [{name: tensor.cpu() for name, tensor in one.items()} for one in layers]
            for layers in views
        ], None
    host = [[_pinned_copy(one) for one in layers] for layers in views]
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return host, event


def _pinned_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy under way to the host."""
    pinned = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        pinned[name].copy_(tensor, non_blocking=True)
    return pinned


def _finish(
    work: Work,
    batch: Decoded,
    views: list[list[dict[str, Tensor]]],
    copied: Any,
    splits: Mapping[str, Split],
    settings: Settings,
) -> Extracted:
    if copied is not None:
        copied.synchronize()
    split = splits[work.split]
    for one in itertools.chain(*views):
        check_finite(one, [split.names[row] for row in batch.rows], settings)
    known = {
        "label": torch.from_numpy(split.labels[batch.rows]),
        "index": torch.from_numpy(np.ascontiguousarray(batch.rows, dtype=np.int64)),
    }
    placed = {}
    if batch.boxes is not None:
        placed["box"] = torch.from_numpy(batch.boxes)
    if batch.masks is not None:
        placed["mask"] = torch.from_numpy(batch.masks)
    made = [
        [
            {name: tensor for name, tensor in one.items() if name not in _FLAGS}
            | known
            | ({} if view else placed)
            for view, one in enumerate(views_of_one)
        ]
        for views_of_one in zip(*views, strict=True)
    ]
    shares = [max(map(_share, views_of_one)) for views_of_one in zip(*views, strict=True)]
    bad = [split.names[row] for row, _ in batch.bad]
    return Extracted(work, made, bad, batch.seen, shares)


def _share(tensors: dict[str, Tensor]) -> float:
    """Of `forward`'s batch, to three digits."""
    return float(f"{float(tensors['rounding'].amax()):.3g}") if len(tensors["rounding"]) else 0.0


def check_finite(tensors: dict[str, Tensor], names: Sequence[str], settings: Settings) -> None:
    """Refuse what `forward` gave of an image whose tokens aren't finite, or too large to store.

    And a batch of which storing would leave too little.

    Raises:
        IceprobeError: naming the first of them.
    """
    for flag in ("finite", "fits"):
        if not tensors[flag].all():
            name = names[int(tensors[flag].logical_not().nonzero()[0])]
            raise IceprobeError(_not_finite(name, settings, overflow=flag == "fits"))
    check_rounding(
        _share(tensors),
        f"tokens={settings.tokens}",
        f"store them with tokens={'float16' if settings.tokens == 'int8' else 'float32'}",
    )


def _not_finite(name: str, settings: Settings, overflow: bool) -> str:
    if overflow:
        dtype = str(STORED[settings.tokens][1]).removeprefix("torch.")
        return (
            f"tokens of image {name!r} are too large for {dtype}: store them with tokens=bfloat16"
        )
    if settings.amp != "float32":
        return (
            f"tokens of image {name!r} are not finite in a {settings.amp} forward pass: "
            "use amp=float32"
        )
    return (
        f"tokens of image {name!r} are not finite: look at that image and at the backbone's weights"
    )


class _Decode:
    """Rows of a split → images as the backbone sees them; can go to another process."""

    def __init__(
        self, splits: Mapping[str, Split], preprocessing: Any, settings: Settings, pin: bool
    ):
        self.splits, self.preprocessing = splits, preprocessing
        self.augment = augmentation(preprocessing, settings.augmentation or "paper")
        self.pin = pin  # from threads only: processes hand their images over unpinned

    def __getitem__(self, work: Work) -> Decoded:
        split, preprocessing = self.splits[work.split], self.preprocessing
        side = preprocessing.image_size
        images = torch.empty(
            work.views, len(work.rows), preprocessing.channels, side, side, pin_memory=self.pin
        )
        boxes = None if split.boxes is None else np.empty((len(work.rows), 4), np.float32)
        masks = np.zeros((len(work.rows), side, side), np.uint8) if split.masks else None
        pixels = images.numpy()
        rows: list[int] = []
        bad: list[tuple[int, str]] = []
        done: list[Seen] = []
        for row in work.rows.tolist():
            looking_at(row)
            try:
                image = split.image(row)
                mask = _mask(split, row, image) if masks is not None else None
                pixels[0, len(rows)] = preprocessing.transform(image).numpy()
            except BadImage as error:
                bad.append((row, str(error)))
                continue
            except (IceprobeError, MemoryError) as error:
                size = f"{image.width} x {image.height} pixels, mode {image.mode}"
                why = f"{size}: {one_line(error)}"
                bad.append((row, f"image {split.names[row]!r} can't be made ready ({why})"))
                continue
            done.append(seen(image))
            for view in range(1, work.views):
                made = self.augment(image, view_generator(row, view))
                pixels[view, len(rows)] = made.numpy()
            if split.boxes is not None and boxes is not None:
                box = upright_boxes(split.boxes[row : row + 1], done[-1].turn, image.size)
                boxes[len(rows)] = preprocessing.transform_boxes(box, image.size)[0]
            if masks is not None and mask is not None:
                masks[len(rows)] = _cropped_mask(preprocessing, mask)
            rows.append(row)
        good = len(rows)
        return Decoded(
            images[:, :good],
            np.array(rows, np.int64),
            None if boxes is None else boxes[:good],
            None if masks is None else masks[:good],
            bad,
            done,
        )


def _mask(split: Split, row: int, image: Image.Image) -> Image.Image | None:
    """The mask of an image, which has to lie on it pixel by pixel."""
    mask = split.mask(row)
    if mask is not None and mask.size != image.size:
        raise BadImage(
            f"mask of image {split.names[row]!r} has {mask.width} x {mask.height} pixels and the "
            f"image {image.width} x {image.height}: mend it, or pass --on-bad-image skip"
        )
    return mask


def _cropped_mask(preprocessing: "Preprocessing", mask: Image.Image) -> np.ndarray:
    """``(S, S)``, 1 on the object: through the image's own resize and crop, but no blending."""
    nearest = replace(preprocessing, channels=1, mean=(0,), std=(1,), interpolation="nearest")
    return np.asarray(nearest.crop(mask)) > 127


def _decoded(
    decode: _Decode, work: list[Work], workers: int, gpu: bool
) -> Generator[Decoded, None, None]:
    """Decode in order, ahead of use."""
    readers = workers or decode_threads(gpu)
    return decoded_in_order(
        decode,
        work,
        lambda item, row: decode.splits[item.split].names[row],
        readers=readers,
        ahead=2 * workers if workers else readers + 1,
        processes=workers > 0,
        pin=gpu and workers > 0,
    )


def decode_threads(gpu: bool) -> int:
    """Threads that decode: few beside a forward pass that has use for the processor itself."""
    return min(8, os.cpu_count() or 1) if gpu else min(2, os.cpu_count() or 1)
