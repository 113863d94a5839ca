"""What was done to images on decoding: counted in the manifest, and logged if it was assumed."""

import logging
import threading
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iceprobe.backbones.kinds import plural, singular
from iceprobe.core.assumptions import log_assumptions
from iceprobe.datasets import clips, pixels, recordings
from iceprobe.store.examples import kind_of

if TYPE_CHECKING:
    from iceprobe.store.format import DatasetRecord, Manifest

ROUNDED = 0.01  # rounding above this share of the tokens' variance is reported
NAMED = 5  # images that are named before the rest is counted
log = logging.getLogger("iceprobe")

#: What was done → the line that says it, after their number.
_LINES = {
    pixels.TURNED: "images turned upright as the EXIF tag says (orientation=ignore leaves them as stored)",
    pixels.ON_WHITE: "images with transparent pixels, laid on white (alpha=black, or alpha=drop)",
    pixels.FIRST_FRAME: "images with several frames or pages, of which the first is read",
    pixels.BAND_LEFT_OUT: "images with bands beyond the first three (or one), which are left out",
    pixels.EIGHT_BIT_DEPTH: "images with depth maps of 8 bits, which tell 255 numbers apart at most",
    "CMYK to RGB": "images in CMYK, turned to RGB without its colour profile",
    clips.TURNED: "clips turned upright as their files say",
    clips.UNEVEN: "clips with frames at uneven times: frames are counted (fps= reads by their times)",
    clips.SHORT: "clips of which frames are read again: they have fewer, or fewer a second, than are read",
    recordings.MIXED: "recordings with several channels, mixed to one by their mean",
    recordings.RESAMPLED: "recordings at another rate than the backbone's, converted to it",
    recordings.CUT: "recordings longer than the piece that the backbone reads, which is their beginning",
}
_OPTION = {
    pixels.TURNED: "orientation",
    pixels.ON_WHITE: "alpha",
    pixels.DEEP: "scale",
}  # which sets it


def noted(images: Sequence[pixels.Seen]) -> dict[str, Any]:
    """The fields ``read`` and ``largest`` of a shard."""
    values = [one.largest for one in images if one.largest is not None]
    counts = Counter(word for one in images for word in one.done)
    return {"read": dict(sorted(counts.items())), "largest": max(values, default=None)}


def assumed(manifest: "Manifest") -> list[str]:
    """Assumptions about backbone, data set and image files, a line each."""
    return [*manifest.backbone.assumed, *manifest.dataset.assumed, *assumed_of_files(manifest)]


def rounded(manifest: "Manifest") -> list[str]:
    """A line if rounding exceeds `ROUNDED` of the tokens' variance."""
    share = max((s.rounding for s in manifest.shards if s.rounding is not None), default=0.0)
    if share <= ROUNDED:
        return []
    return [
        f"tokens stored as {manifest.settings.tokens} are rounded by {share:.1%} of their variance; "
        "tokens=float32 keeps them"
    ]


def assumed_of_files(manifest: "Manifest") -> list[str]:
    """Assumptions about the files of a store, a line for each kind."""
    shards = manifest.shards
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard.read or {})
    largest = max((s.largest for s in shards if s.largest is not None), default=None)
    total = sum(shard.images for shard in shards)
    said = manifest.dataset.reading
    return assumed_of(counts, largest, total, said, kind_of(manifest)) + rounded(manifest)


def assumed_of(
    read: Mapping[str, int],
    largest: float | None,
    total: int,
    said: Container[str],
    kind: str = "image",
) -> list[str]:
    """Assumptions about ``total`` files, by what was :func:`noted` of them, a line for each kind.

    Args:
        said: options that were given, which assume nothing.
        kind: of the examples; of bags those with such images are counted.
    """
    of = "bags with " if kind == "bag" else ""
    lines = [
        f"{read[what]:,} of {total:,} {of}{line}"
        for what, line in _LINES.items()
        if read.get(what) and _OPTION.get(what) not in said
    ]
    if largest is not None and "scale" not in said and _next_depth(largest) < pixels.FULL:
        lines.append(
            f"{read.get(pixels.DEEP, 0):,} of {total:,} {of}images of 16 bits, in which {pixels.FULL:,} is white; the "
            f"largest value is {largest:,g} (scale={_next_depth(largest)} if that is their depth)"
        )
    return lines


class FirstSeen:
    """Logs assumptions at the first file of each kind, and adds them to the data set's ``record``.

    For tokens that are not stored, where no manifest counts them.
    """

    def __init__(self, record: "DatasetRecord"):
        self._record = record
        self._lock = threading.Lock()

    def note(self, image: Any) -> None:
        """Note an image, or another example, of the data set; threads may call this."""
        found, record = pixels.seen(image), self._record
        lines = {kind: _LINES[kind] for kind in found.done if kind in _LINES}
        if found.largest is not None:
            lines[pixels.DEEP] = (
                f"images of 16 bits, in which {pixels.FULL:,} is white (scale= says otherwise)"
            )
        for kind, line in lines.items():
            with self._lock:
                new = line not in record.assumed and _OPTION.get(kind) not in record.reading
                if new:
                    record.assumed.append(line)
            if new:
                log_assumptions([line])


def _next_depth(largest: float) -> int:
    """White of the smallest depth that holds a value: 3,012 has 12 bits, 4095."""
    return 2 ** max(8, int(largest).bit_length()) - 1


def log_file_assumptions(manifest: "Manifest") -> None:
    """Log the assumptions about the files, and which examples were left out."""
    log_assumptions(assumed_of_files(manifest))
    if skipped := manifest.skipped:
        log.warning("%s", left_out(skipped, kind_of(manifest)))


def left_out(names: Sequence[str], kind: str = "image") -> str:
    """The first examples that could not be read, and how many more."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    shown = ", ".join(map(repr, names[:NAMED]))
    what = plural(kind) if len(names) > 1 else singular(kind)
    return f"left out {len(names):,} {what} that could not be read: {shown}{more}"
