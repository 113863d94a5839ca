"""What a video processor of transformers does to the frames of a clip, found by running it.

Its formula of pixels is found as that of an image processor (:mod:`iceprobe.backbones.processors`). Size and
crop are its own: VideoMAE, TimeSformer and ViViT crop the centre of frames of 224 or 256 pixels, V-JEPA 2
resizes to 256/224 of its side. A run on noise says whether frames come out alike.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from iceprobe.backbones.clip_preprocessing import LIBRARY, ClipPreprocessing
from iceprobe.backbones.preprocessing import Preprocessing, check_square
from iceprobe.backbones.processors import (
    INSTEAD,
    TOLERANCE,
    Run,
    crop_share,
    formula_of,
    interpolation_of,
    numbers_of,
)
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import one_line
from iceprobe.datasets.clips import ArrayClip

WIDE = (97, 58)  # width and height of the trial: other than the square, and odd


def video_processor(transformers: Any, folder: str) -> Any:
    """The video processor of a model's folder; an older folder has an image processor of videos."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder)
    except Exception:  # noqa: BLE001 (its file is another one, or is missing: the next says so)
        return transformers.AutoVideoProcessor.from_pretrained(folder)


def read_clip_processor(
    processor: Any, given: Mapping[str, Any], spec: str, *, channels: int, made_for: int
) -> tuple[Preprocessing, str, list[str]]:
    """How each frame is prepared, `ClipPreprocessing.library`, and what was assumed.

    Args:
        processor: of videos.
        given: fields that the user gives instead.
        channels: of the model's frames.
        made_for: pixels a side that the model takes.

    Raises:
        IceprobeError: if no formula gives its pixels, and ``given`` doesn't replace them.
    """
    run = _ClipRun(processor, channels)
    fields: dict[str, Any] = {"channels": channels, "interpolation": interpolation_of(run, spec)}
    formula, why = formula_of(run)
    if formula is None and not {"mean", "std"} <= given.keys():
        raise IceprobeError(f"{spec}: its {run.name} {why}: {INSTEAD}")
    resized, cropped = _sides(run, made_for, spec)
    fields |= (formula or {}) | {"image_size": cropped}
    fields["crop_pct"] = min(float(crop_share(cropped, resized)), 1.0)
    if "height" in numbers_of(processor, "size"):
        fields["resize"] = "squash"
    made = Preprocessing(**{**fields, **given})
    return made, *_library(run, made, spec, bool(given))


class _ClipRun(Run):
    """A processor of videos, run on one of a single frame."""

    def __init__(self, processor: Any, channels: int):
        super().__init__(processor, channels, patches=False)

    def __call__(self, picture: Image.Image, *, geometry: bool = True) -> Tensor:
        """``(C, H, W)``."""
        keys = () if geometry else ("do_resize", "do_center_crop")
        options = {key: False for key in keys if getattr(self.processor, key, None)}
        frames = np.array(picture.convert("RGB"))[None]  # of its own: tensors are made of it
        try:
            output = self.processor([list(frames)], return_tensors="pt", **options)
        except Exception as error:  # from the library
            raise IceprobeError(f"can't be run on one clip ({one_line(error, 120)})") from error
        made = output.get("pixel_values_videos", output.get("pixel_values"))
        if not isinstance(made, Tensor) or made.ndim != 5 or made.shape[:2] != (1, 1):
            keys_found = ", ".join(output)
            raise IceprobeError(f"makes {keys_found} of a clip, no (1, 1, {self.channels}, H, W)")
        return made[0, 0].float()


def _sides(run: Run, made_for: int, spec: str) -> tuple[int, int]:
    """Pixels a side after the resize and after the crop."""
    size, crop = (numbers_of(run.processor, name) for name in ("size", "crop_size"))
    resized = int(size.get("shortest_edge", size.get("height", made_for)))
    if not getattr(run.processor, "do_center_crop", True):
        crop = {}
    cropped = int(crop.get("height", resized))
    check_square(f"{spec} ({run.name})", cropped, int(crop.get("width", cropped)))
    return max(resized, cropped), cropped


def _library(run: Run, made: Preprocessing, spec: str, given: bool) -> tuple[str, list[str]]:
    """How the processor resizes, and a line if it makes other pixels of a wide frame than either way.

    ``given``: options replace its own, so that they differ.
    """
    if run.too_large or given:
        return LIBRARY[0], []
    picture = run.picture(WIDE).convert("RGB")
    try:
        theirs = run(picture)
    except IceprobeError as error:
        return LIBRARY[0], [
            f"{spec}: its {run.name} {error}: frames are resized and their centre is cropped"
        ]
    clip = ArrayClip(np.asarray(picture)[None])
    for library in LIBRARY:
        ours = ClipPreprocessing(made, 1, library=library).transform(clip)[0]
        if theirs.shape == ours.shape:
            apart = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1.0)
            if apart <= TOLERANCE:
                return library, []
    return LIBRARY[0], [
        f"{spec}: the shorter side is resized and the centre cropped; its {run.name} makes other pixels "
        "of a wide frame"
    ]
