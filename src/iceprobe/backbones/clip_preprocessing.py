"""From a video to a backbone's input: which frames are read, and how each of them is prepared.

    even      frame ⌊(t + (c + ½) / C) · L / T⌋, t = 0 … T−1: the middle of each of T equal parts of L frames
    stride    T frames, every stride-th; the window in the middle of the video
    fps       the same, at T moments 1 / fps seconds apart: the frame that is shown at each

C clips c = 0 … C−1 of a video are read side by side. Evenly spread ones take other places of the parts; windows
begin at the start, end at the end, and lie evenly between.

Sources, both deterministic at test: VideoMAE's ``ssv2.py`` spreads frames evenly (two clips: the middles and
the beginnings of the parts), its loader of Kinetics takes windows of every fourth frame that lie so
(Tong et al. 2022). V-JEPA 2's ``src/datasets/video_dataset.py`` takes a window at the start of each of C parts
of the video, or of all of it where that is shorter (Assran et al. 2025). All of them repeat the last frame of
a video that is too short; that is noted here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.clips import SHORT, Clip
from iceprobe.datasets.pixels import note_done

LIBRARY = ("tensor", "picture")
LARGEST = 2**12  # frames of an example: above, a blank one takes gigabytes


@dataclass(frozen=True)
class ClipPreprocessing(ExamplePreprocessing):
    """Frames of a clip, one after the other.

    Attributes:
        picture: how each frame is prepared.
        frames: T of each clip.
        stride: frames from one to the next; ``None``: they are spread evenly, or by ``fps``.
        fps: frames a second, by the times of the video's frames.
        clips: C, read side by side.
        library: how the model's own processor resizes, ``"tensor"`` or ``"picture"``, which round
            differently; it rounds the centre down. ``None``: each frame is prepared as an image.
    """

    kind: ClassVar[str] = "clip"
    augmented: ClassVar[bool] = True

    picture: Preprocessing
    frames: int
    stride: int | None = None
    fps: float | None = None
    clips: int = 1
    library: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.picture, Mapping):
            object.__setattr__(self, "picture", Preprocessing(**self.picture))
        for name in ("frames", "stride", "clips", "fps"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise IceprobeError(f"{name}={value}: take a number above 0")
        if self.frames * self.clips > LARGEST:
            raise IceprobeError(
                f"frames={self.frames} of clips={self.clips} are {self.frames * self.clips:,} frames a video: "
                f"take at most {LARGEST:,}"
            )
        if self.library not in (None, *LIBRARY):
            raise IceprobeError(f"library={self.library!r}: take one of {', '.join(LIBRARY)}")
        if self.stride is not None and self.fps is not None:
            raise IceprobeError(
                f"stride={self.stride} and fps={self.fps:g} exclude each other: keep one"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C · T, channels, S, S)``."""
        return self.clips * self.frames, *self.picture.shape

    @property
    def frame(self) -> Preprocessing:
        return self.picture

    def indices(self, clip: Clip) -> np.ndarray:
        """``(C · T,)``: which frames are read."""
        count, frames, clips = clip.count, self.frames, self.clips
        places, numbers = np.arange(frames), np.arange(clips)[:, None]
        if self.stride is None and self.fps is None:
            part = count / frames
            found = np.floor(part * (places + (numbers + 0.5) / clips)).astype(np.int64)
            return found.clip(0, count - 1).reshape(-1)
        share = (numbers / (clips - 1)) if clips > 1 else np.array([[0.5]])
        if self.stride is not None:
            start = np.floor(share * max(count - ((frames - 1) * self.stride + 1), 0)).astype(
                np.int64
            )
            return (start + places * self.stride).clip(0, count - 1).reshape(-1)
        assert self.fps is not None
        times, span = clip.times, (frames - 1) / self.fps
        moments = share * max(times[-1] - span, 0.0) + places / self.fps
        half = 0.5e-6  # of rounded time stamps
        return (np.searchsorted(times, moments + half, side="right") - 1).clip(0).reshape(-1)

    def transform(self, example: Clip) -> Tensor:
        """Float32 ``(C · T, channels, S, S)``."""
        return torch.stack(self._each(example, self._prepared))

    def views(self, example: Clip, view: Any) -> Tensor:
        """The same of a function of a picture, PIL's → ``(channels, S, S)``."""
        return torch.stack(self._each(example, lambda values: view(Image.fromarray(values))))

    def _each(self, example: Clip, prepared: Any) -> list[Tensor]:
        indices = self.indices(example).tolist()
        made = {index: prepared(v) for index, v in example.pictures(sorted(set(indices)))}
        if len(made) < len(indices):
            note_done(example, SHORT)
        return [made[index] for index in indices]

    def _prepared(self, values: np.ndarray) -> Tensor:
        picture = Image.fromarray(values)
        if self.library is None:
            return self.picture.transform(picture)
        across, down = self.picture.resized(picture.size)
        whole: Any = self.picture.converted(picture)
        if self.library == "tensor":
            whole = F.pil_to_tensor(whole)
        mode = InterpolationMode(self.picture.interpolation)
        resized = F.resize(whole, [down, across], mode, antialias=True)
        if self.library == "picture":
            resized = F.pil_to_tensor(resized)
        side = self.picture.image_size
        top, left = (down - side) // 2, (across - side) // 2
        return self.picture.normalised_pixels(resized[:, top : top + side, left : left + side])

    def as_dict(self) -> dict[str, Any]:
        """Its fields, those at their default left out."""
        rest = {
            key: value
            for key, value in asdict(self).items()
            if key != "picture" and value is not None and (key, value) != ("clips", 1)
        }
        return {"kind": self.kind, "picture": self.picture.as_dict(), **rest}
