"""How a folder of transformers says that images, clips or recordings are prepared, and what the options replace.

The file is ``preprocessor_config.json``: an image processor (:mod:`iceprobe.backbones.processors`), a video
processor (:mod:`iceprobe.backbones.video_processors`) or a feature extractor
(:mod:`iceprobe.backbones.sound_preprocessing`).
"""

import math
from typing import Any

from iceprobe.backbones.clip_preprocessing import LIBRARY, ClipPreprocessing
from iceprobe.backbones.extras import quiet
from iceprobe.backbones.native import native_transform
from iceprobe.backbones.options import NATIVE, AnyShapeOptions, PartOptions, SoundOptions
from iceprobe.backbones.parts import spread
from iceprobe.backbones.preprocessing import ImagePreprocessing, Preprocessing, check_image_size
from iceprobe.backbones.processors import read_processor
from iceprobe.backbones.sound_models import Sound, check_extractor
from iceprobe.backbones.sound_preprocessing import SoundPreprocessing
from iceprobe.backbones.transformers_architectures import Clips
from iceprobe.backbones.video_processors import read_clip_processor, video_processor
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import one_line


def for_images(
    transformers: Any,
    folder: str,
    spec: str,
    images: AnyShapeOptions,
    config: Any,
    trust: bool,
    patches: bool = False,
) -> tuple[ImagePreprocessing, list[str]]:
    """How a model of images reads them, and what was assumed.

    Args:
        patches: whether model and processor use patches instead of pictures (NaFlex).
    """
    with quiet(transformers.utils.logging):
        stated, lines = _stated(transformers, folder, spec, images.given, config, trust, patches)
    patch = getattr(config, "patch_size", None)
    patch = patch if isinstance(patch, int) else None
    if images.native:
        most = _most_tokens(config, patch)
        native, said = native_transform(spec, images, patch, stated, most)
        return native, [*lines, *said]
    made = Preprocessing(**{**stated, **images.given})
    if patch is not None:
        check_image_size(made.image_size, patch, spec)
    return made, lines


def for_clips(
    transformers: Any,
    folder: str,
    spec: str,
    images: AnyShapeOptions,
    config: Any,
    clips: Clips,
    parts: PartOptions,
) -> tuple[ClipPreprocessing, list[str]]:
    """How a model of videos reads its clips, and what was assumed."""
    if parts.reads == "bags":
        raise IceprobeError(f"{spec} reads clips, and reads=bags is of models of images: drop it")
    if images.native:
        raise IceprobeError(
            f"{spec}: image_size={NATIVE} is for models of images, and this one reads clips of one size: drop it"
        )
    given = images.given
    channels = int(getattr(config, "num_channels", getattr(config, "in_chans", 3)))
    with quiet(transformers.utils.logging):
        try:
            processor = video_processor(transformers, folder)
        except Exception as error:  # noqa: BLE001 (the library raises anything for a wrong field)
            stated, lines = _without_processor(spec, given, error, "videos")
            picture, library = Preprocessing(**{"crop_pct": 1.0, **stated, **given}), LIBRARY[0]
        else:
            picture, library, lines = read_clip_processor(
                processor, given, spec, channels=channels, made_for=clips.own_side(config)
            )
    frames = getattr(config, clips.frames) if parts.frames is None else parts.frames
    clips.check(config, frames, picture.image_size, spec)
    count = 1 if parts.clips is None else parts.clips
    made = ClipPreprocessing(picture, frames, parts.stride, parts.fps, count, library)
    return made, [*lines, *spread(spec, made)]


def for_sound(
    transformers: Any,
    folder: str,
    spec: str,
    sound: Sound,
    asked: SoundOptions,
    shortest: int,
) -> tuple[SoundPreprocessing, list[str]]:
    """How a model of sound reads recordings, and what is assumed of short ones."""
    try:
        with quiet(transformers.utils.logging):
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    except Exception as error:  # the library raises anything for a wrong field
        raise IceprobeError(
            f"{spec}: no preprocessor_config.json says how its recordings are prepared "
            f"({one_line(error, 120)}): put the one of the model beside it"
        ) from error
    fields = check_extractor(extractor, sound, spec)
    made = SoundPreprocessing(int(fields["sampling_rate"]), asked.seconds, shortest, fields)
    window = made.window
    if window is None:
        return made, []
    said = sound.said.format(seconds=window / made.rate)
    return made, [f"{spec}: recordings shorter than its window are {said}"]


def _stated(
    transformers: Any,
    folder: str,
    spec: str,
    given: dict[str, Any],
    config: Any,
    trust: bool,
    patches: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Fields of the folder's image processor, and what was assumed."""
    channels = getattr(config, "num_channels", 3)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:  # noqa: BLE001 (the library raises anything for a wrong field)
        return _without_processor(spec, given, error, "images")
    side = getattr(config, "image_size", None)
    if isinstance(side, list | tuple):
        side = side[0] if len(set(side)) == 1 else None
    return read_processor(
        processor,
        given,
        spec,
        channels=channels,
        made_for=side if isinstance(side, int) else None,
        patches=patches,
    )


def _most_tokens(config: Any, patch: int | None) -> int:
    """Patches of the images that the model was built for."""
    side, stated = getattr(config, "image_size", None), getattr(config, "num_patches", None)
    if isinstance(stated, int):
        return stated
    sides = side if isinstance(side, list | tuple) else (side, side)
    return math.prod(int(one or 0) // (patch or 1) for one in sides)


def _without_processor(
    spec: str, given: dict[str, Any], error: Exception, what: str
) -> tuple[dict[str, Any], list[str]]:
    """What ``given`` lacks of a folder that doesn't say how its images, or videos, are prepared."""
    if missing := [key for key in ("image_size", "mean", "std") if key not in given]:
        raise IceprobeError(
            f"{spec}: no preprocessor_config.json says how its {what} are prepared "
            f"({one_line(error, 120)}): pass {', '.join(missing)}"
        ) from error
    assumed = [] if "interpolation" in given else [
        f"{spec}: interpolation=bicubic, nothing says how its {what} are resized"
    ]  # fmt: skip
    return {"channels": len(given["mean"])}, assumed
