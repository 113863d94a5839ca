"""What an image processor of transformers does to an image, found by running it.

The fields of a processor don't define its output: MobileViT never normalises, despite its
``image_mean``, and reverses the channels; EfficientNet divides by ``image_std`` twice. So the
fields give the numbers, and a run on noise shows which formula the class applies to them:

    x_c = (p_c − m_c) / s_c      p in [0, 1], m and s made of rescale_factor, mean, std and offset

If no formula matches, the processor is refused by name. The formula, the order of channels, the
size and the interpolation are used. The crop is this project's (spec/protocols.md), the same for
all models; a line reports a processor whose own crop is of another kind.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from iceprobe.backbones.native import pixels_of
from iceprobe.backbones.options import NATIVE
from iceprobe.backbones.preprocessing import Preprocessing, check_square, other_crop
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import one_line

TOLERANCE = 1e-6  # difference from the processor's pixels, relative to the largest value
LARGEST = 4096  # pixels a side: a processor that states more isn't run
GEOMETRY = (
    "do_resize", "do_center_crop", "do_crop", "do_pad", "do_thumbnail", "do_align_long_axis",
    "do_crop_margin", "do_image_splitting", "crop_to_patches", "do_pan_and_scan",
)  # fmt: skip
INSTEAD = (
    "pass image_size, mean, std and interpolation, which replace it, or take the model as "
    "python: in a module that makes what it needs of plain pictures"
)


def read_processor(
    processor: Any,
    given: Mapping[str, Any],
    spec: str,
    *,
    channels: int = 3,
    made_for: int | None = None,
    patches: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The fields of a :class:`Preprocessing`, and what was assumed.

    Args:
        given: fields that the user gives instead: ``image_size``, ``mean``, ``std``, ….
        channels: of the model's images.
        made_for: pixels a side that the model's configuration states.
        patches: whether model and processor use patches instead of pictures (NaFlex).

    Raises:
        IceprobeError: if no formula gives its pixels, or its images have no fixed square size, and
            ``given`` doesn't replace them.
    """
    run = Run(processor, channels, patches)
    fields: dict[str, Any] = {"channels": channels, "interpolation": interpolation_of(run, spec)}
    assumed: list[str] = []
    formula, why = formula_of(run)
    if formula is not None:
        fields |= formula
    elif {"mean", "std", "image_size"} <= given.keys():
        assumed.append(
            f"{spec}: images are prepared as image_size, mean and std say; what else its "
            f"{run.name} does is left out ({why})"
        )
    else:
        raise IceprobeError(f"{spec}: its {run.name} {why}: {INSTEAD}")
    if patches and given.get("image_size") == NATIVE:
        fields["max_tokens"] = processor.max_num_patches
    if "image_size" not in given:
        fields["image_size"], lines = _side(run, made_for, spec)
        assumed += lines
    cropped = "resize" not in given and given.get("image_size") != NATIVE
    if formula is not None and cropped and not run.too_large:
        own = _own_crop(run, formula)
        assumed += [other_crop(spec, f"its {run.name} {own}")] if own else []
    return fields, assumed


class _NoPicture(IceprobeError):
    """The processor returns no picture for any image size."""


class Run:
    """A processor, run on pictures of noise and of plain colours."""

    def __init__(self, processor: Any, channels: int, patches: bool):
        self.processor, self.channels, self.patches = processor, channels, patches
        self.name = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
        stated = [numbers_of(processor, name) for name in ("size", "crop_size", "pad_size")]
        self.too_large = any(
            value > LARGEST for numbers in stated for key, value in numbers.items()
            if key in ("height", "width", "shortest_edge", "max_height", "max_width")
        )  # fmt: skip

    def picture(self, size: tuple[int, int]) -> Image.Image:
        """Noise of width and height ``size``."""
        shape = (size[1], size[0], 3) if self.channels == 3 else (size[1], size[0])
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    def __call__(self, picture: Image.Image, *, geometry: bool = True) -> Tensor:
        """``(C, H, W)``.

        Raises:
            IceprobeError: a clause, if it doesn't return this for one image.
        """
        off = () if geometry else GEOMETRY
        options = {key: False for key in (*off, "apply_ocr") if getattr(self.processor, key, None)}
        try:
            output = self.processor(images=picture, return_tensors="pt", **options)
        except Exception as error:  # from the library or foreign code
            raise IceprobeError(f"can't be run on one image ({one_line(error, 120)})") from error
        made = output if isinstance(output, Tensor) else output.get("pixel_values")
        if self.patches and isinstance(made, Tensor) and made.ndim == 3:
            return self._unfolded(made[0], output)
        shape = tuple(made.shape) if isinstance(made, Tensor) else ()
        if len(shape) != 4 or shape[:2] != (1, self.channels):
            keys = ", ".join([] if isinstance(output, Tensor) else output)
            what = f"pixel_values of the shape {shape}" if shape else f"{keys}, no pixel_values"
            raise _NoPicture(f"makes {what} of an image, no picture (1, {self.channels}, H, W)")
        return made[0].float()

    def _unfolded(self, patches: Tensor, output: Any) -> Tensor:
        """Patches ``(N, side·side·C)`` as a picture again, by ``spatial_shapes``."""
        rows, columns = output["spatial_shapes"][0].tolist()
        own = patches[: rows * columns]
        return pixels_of(own, (rows, columns), self.processor.patch_size)

    @cached_property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of its output for square images, if that is one size."""
        if self.too_large:
            return None
        try:
            first, second = (self(self.picture((side, side))) for side in (64, 100))
        except IceprobeError:
            return None
        return (first.shape[1], first.shape[2]) if first.shape == second.shape else None


def numbers_of(processor: Any, name: str) -> dict[str, float]:
    """``size``, ``crop_size`` or ``pad_size`` as a dictionary, in any version of the library."""
    value = getattr(processor, name, None)
    if isinstance(value, int):
        return {"height": value, "width": value}
    try:
        pairs = dict(value or {}).items()
    except (TypeError, ValueError):
        return {}
    return {key: number for key, number in pairs if isinstance(number, int | float)}


def formula_of(run: Run) -> tuple[dict[str, Any] | None, str]:
    """The formula that gives the processor's pixels, or ``None`` and why there is none."""
    why = ""
    # Some can't keep the size of an image: they get an image of their own output size.
    for geometry in (False, True):
        if geometry and run.output_size is None:
            continue
        size = max(run.output_size) if geometry and run.output_size else 32
        picture = run.picture((size, size))
        try:
            made = run(picture, geometry=geometry)
        except _NoPicture as error:
            return None, str(error)
        except IceprobeError as error:
            why = why or str(error)
            continue
        if made.shape[1:] != (size, size):
            why = why or f"makes {made.shape[1]} x {made.shape[2]} pixels of {size} x {size}"
            continue
        nearest = math.inf
        for fields in _formulas(run.processor, run.channels):
            try:
                ours = Preprocessing(size, crop_pct=1.0, **fields).normalised(picture)
            except IceprobeError:  # no formula: a deviation of 0, a mean of another length
                continue
            apart = (ours - made).abs().max().item() / max(made.abs().max().item(), 1.0)
            if apart <= TOLERANCE:
                return fields, ""
            nearest = min(nearest, apart)
        why = (
            "makes other pixels than (pixel - mean) / std of what its fields say "
            f"(up to {nearest:.2g} away)"
        )
    return None, why or "makes images too large to try"


def _formulas(processor: Any, channels: int) -> Iterator[dict[str, Any]]:
    """The formulas that processors apply to their fields, the usual one first."""
    factor = getattr(processor, "rescale_factor", None) or 1 / 255
    full = 1.0 if math.isclose(255 * factor, 1) else 255 * factor  # value of a white pixel
    normalised = [(0.0,) * channels, (1.0,) * channels]
    statistics = [getattr(processor, name, None) for name in ("image_mean", "image_std")]
    stated = [_each(value, channels) for value in statistics]
    pairs = [stated, normalised] if all(stated) else [normalised]
    turned = [[one[::-1] for one in stated]] if all(stated) else []  # normalised, then reversed
    choices = [("RGB", pair) for pair in pairs]
    choices += [("BGR", pair) for pair in (*pairs, *turned) if channels == 3]
    for (order, (mean, std)), white, offset, power in itertools.product(
        choices, (full, 255.0), (0, 1), (1, 2)
    ):
        yield {
            "mean": tuple((m + offset) / white for m in mean),
            "std": tuple(s**power / white for s in std),
            "order": order,
            "channels": channels,
        }


def _each(value: Any, channels: int) -> tuple[float, ...]:
    """One value a channel: a processor may have one number for all."""
    try:
        if isinstance(value, int | float):
            return (float(value),) * channels
        return tuple(map(float, value))
    except (TypeError, ValueError):
        return ()


def interpolation_of(run: Run, spec: str) -> str:
    resample = getattr(run.processor, "resample", None)
    if resample is None:
        return "bilinear"  # the library's default
    if isinstance(resample, InterpolationMode):
        return resample.value
    try:
        return Image.Resampling(int(resample)).name.lower()
    except ValueError as error:
        raise IceprobeError(
            f"{spec}: its {run.name} has resample={resample!r}, which is none of PIL's: take 0 "
            "(nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic) in preprocessor_config.json"
        ) from error


def _side(run: Run, made_for: int | None, spec: str) -> tuple[int, list[str]]:
    """Pixels a side of the processor's output for a square image, and what was assumed."""
    if run.output_size is None:
        what = f"of more than {LARGEST} pixels a side" if run.too_large else "of varying size"
        if made_for is None:
            raise IceprobeError(f"{spec}: its {run.name} makes images {what}: pass image_size=")
        return made_for, [
            f"{spec}: image_size={made_for}, which the model's configuration states; its "
            f"{run.name} makes images {what}"
        ]
    height, width = run.output_size
    check_square(f"{spec} ({run.name})", height, width)
    return height, []


def _own_crop(run: Run, formula: dict[str, Any]) -> str:
    """A clause that states how the processor makes an image square, if not by a centre crop.

    It is run on three colours side by side. The corners of a centre crop have the middle colour.
    """
    colours = np.zeros((32, 160, 3), np.uint8)
    colours[:, :32, 0] = colours[:, 32:128, 1] = colours[:, 128:, 2] = 255
    wide = Image.fromarray(colours).convert("RGB" if run.channels == 3 else "L")
    try:
        made = run(wide)
    except IceprobeError as error:
        return f"{error}, where it is wide"
    side = made.shape[1]
    if made.shape[2] != side:
        return f"makes {made.shape[2]} x {side} pixels of an image of 160 x 32"
    plain = Preprocessing(32, crop_pct=1.0, **formula)
    left, centre, right = (
        plain.normalised(wide.crop((at, 0, at + 32, 32)))[:, 0, 0] for at in (0, 64, 128)
    )
    corners = torch.stack([made[:, row, column] for row in (0, -1) for column in (0, -1)])
    near = 0.02 * max(1.0, corners.abs().max().item())
    if torch.allclose(corners, torch.stack([centre] * 4), atol=near, rtol=0):
        return ""
    if torch.allclose(corners, torch.stack([left, right] * 2), atol=near, rtol=0):
        resized = int(numbers_of(run.processor, "size").get("height", side))
        kept = crop_share(side, max(resized, side))
        return f"squashes images to a square: resize=squash&crop_pct={kept} does so"
    return f"pads images to {side} x {side}, which iceprobe has no option for"


def crop_share(side: int, resized: int) -> str:
    """The shortest ``crop_pct`` that crops a square of ``side`` from one of ``resized``."""
    texts = (f"{side / resized:.{digits}g}" for digits in range(1, 18))
    return next((t for t in texts if int(side / float(t)) == resized), str(side / resized))
