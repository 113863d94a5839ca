"""``webdataset:PATTERN``: tar files of samples, read by index instead of as a stream.

A sample is a run of members that share their name up to the first dot of its last part; the rest is
the key: ``0001.jpg``, ``0001.cls``. The headers and labels of all tars are read once; an image is then
one read at its offset (one request on object storage), from any thread. Compressed tars have no
offsets and are refused. No sample is dropped: a tar is read to its last byte (``tars.py``), and a
repeated key or sample is an error.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from glob import glob, has_magic
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Dataset, Split
from iceprobe.datasets.cells import Rows
from iceprobe.datasets.columns import Asked, Targets, read_further, read_targets
from iceprobe.datasets.files import below, decode, one_line, state
from iceprobe.datasets.labels import negative_numbers, numbered
from iceprobe.datasets.pixels import Reading
from iceprobe.datasets.sample_fields import Fields
from iceprobe.datasets.tars import regular_members
from iceprobe.datasets.walking import unreadable
from iceprobe.machine.object_storage import RemotePath, located

IMAGE_KEYS = "jpg;jpeg;png;webp"


@dataclass(frozen=True)
class Member:
    """An image in a tar: ``size`` bytes from byte ``offset`` on."""

    tar: Path | RemotePath
    name: str
    offset: int
    size: int


def _below(root: Path | RemotePath, tar: Path | RemotePath) -> str:
    """A tar's name in those of its images; patterns may have ``..`` in them."""
    return (
        below(root, [tar])[0] if isinstance(root, RemotePath) else os.path.relpath(str(tar), root)
    )


class TarSplit(Split):
    """Images in tar files below ``root``."""

    reading = Reading()

    def __init__(
        self,
        name: str,
        root: Path | RemotePath,
        members: list[Member],
        labels: np.ndarray,
        outputs: Sequence[str] = (),
        **more: Any,
    ):
        shown = {tar: _below(root, tar) for tar in {member.tar for member in members}}
        names = [f"{shown[member.tar]}/{member.name}" for member in members]
        super().__init__(name, labels, names, **more)
        self.members, self.outputs = members, list(outputs)

    def image(self, index: int) -> Image.Image:
        return decode(self.source(index), self.names[index], self.reading)

    def source(self, index: int) -> IO[bytes]:
        member = self.members[index]
        try:
            if isinstance(member.tar, RemotePath):
                end = member.offset + member.size
                return io.BytesIO(member.tar.read_bytes(member.offset, end))
            with member.tar.open("rb") as file:
                file.seek(member.offset)
                return io.BytesIO(file.read(member.size))
        except FileNotFoundError as error:
            shown = self.names[index]
            raise BadImage(f"image {shown!r} can't be read: {member.tar} is gone") from error

    def fingerprint(self) -> str:
        """Sha256 over each image's name, place and label, and its tar's size and time of change; and over
        the names of tags or numbers."""
        digest = hashlib.sha256(json.dumps(self.outputs).encode() if self.outputs else b"")
        state_of = cache(_state)
        for member, name, label in zip(self.members, self.names, self.labels.tolist(), strict=True):
            row = [name, member.offset, member.size, label, *state_of(member.tar)]
            digest.update(json.dumps(row).encode() + b"\n")
        return self.reading.mark(digest.hexdigest())


def load_webdataset(
    name: str,
    *,
    spec: str,
    test: str | None = None,
    image: str = IMAGE_KEYS,
    label: str | None = None,
    **columns: str,
) -> Dataset:
    """Load ``webdataset:PATTERN?test=PATTERN``.

    Args:
        name: the training tars, with ``{000..010}`` or ``*``.
        spec: the spec string given.
        test: the test tars, likewise; without them, a ``fold`` is needed.
        image: keys of the image; a sample's first is taken.
        label: key of the label (``cls``), text or a number; ``json`` takes the field ``label`` of a JSON
            object and ``json.FIELD`` another.
        **columns: the fields of `columns.Asked`, in place of columns keys as of ``label``.

    Raises:
        IceprobeError: if a tar is missing, compressed or damaged, a sample lacks its image or label,
            or train lacks a class.
    """
    asked = Asked(**columns)
    if test is None and asked.fold is None:
        raise IceprobeError(f"{spec!r} has no test split: add test=PATTERN with the test tars")
    if label is not None and asked.target is not None:
        raise IceprobeError(f"{spec!r}: label= and target= are the same, keep one")
    tars = {"train": _expand(name)} | ({} if test is None else {"test": _expand(test)})
    if both := set(tars["train"]) & set(tars.get("test", ())):
        raise IceprobeError(
            f"{min(map(str, both))!r} is in train and in test of {spec!r}: keep one"
        )
    root = _common([tar.parent for part in tars.values() for tar in part], spec)
    fields = Fields(label or "cls", asked, spec)
    members: dict[str, list[Member]] = {}
    rows: dict[str, Rows] = {}
    assumed: list[str] = []
    for split, paths in tars.items():
        samples = [
            sample for tar in paths for sample in _samples(tar, image.split(";"), fields, assumed)
        ]
        if not samples:
            raise IceprobeError(f"split {split!r} of {spec!r} is empty: its tars hold no samples")
        members[split] = [member for member, _ in samples]
        values = {one.name: [found[one.key] for _, found in samples] for one in fields.all}
        rows[split] = Rows(values, partial(_sample_of, members[split]))
        assumed += _repeated(split, members[split])
    # `/data/birds/train-{000..010}.tar` is called `birds`.
    short = Path(os.path.abspath(name)).parent.name or "webdataset"
    further, lines = read_further(rows, fields.asked, fields.slices)
    assumed += lines
    if fields.plain:
        classes, labels = numbered(
            {split: one.values[fields.targets[0]] for split, one in rows.items()}, spec
        )
        targets = Targets("classification", classes, labels, [], negative_numbers(classes, spec))
    else:
        targets = read_targets(rows, fields.targets, asked, spec)
    splits = {
        split: TarSplit(
            split,
            root,
            members[split],
            targets.labels[split],
            () if fields.plain else targets.names,
            task=targets.task,
            columns=further[split],
        )
        for split in tars
    }
    return Dataset(
        spec,
        short,
        targets.names,
        splits,
        targets.headline,
        [*assumed, *targets.assumed],
        targets.units,
        fields.asked.group,
        fields.asked.fold,
        fields.slices,
    )


def _sample_of(members: Sequence[Member], row: int) -> str:
    return f"sample {_parts(members[row].name)[0]!r} of {str(members[row].tar)!r}"


def _common(folders: Sequence[Path | RemotePath], spec: str) -> Path | RemotePath:
    """The deepest folder that all of them are in, or are."""
    if len({isinstance(folder, RemotePath) for folder in folders}) > 1:
        raise IceprobeError(f"{spec!r} has tars here and on object storage: keep them in one place")
    return located(os.path.commonpath([str(folder) for folder in folders]))


def _expand(pattern: str) -> list[Path | RemotePath]:
    """The tars of a pattern: braces in their order, stars sorted."""
    patterns = [os.path.expanduser(pattern)]
    if "{" in pattern:
        try:
            from braceexpand import braceexpand
        except ImportError as error:
            raise IceprobeError(
                f"braces in {pattern!r} need the package braceexpand: pip install "
                "'iceprobe[webdataset]'"
            ) from error
        patterns = list(braceexpand(patterns[0]))
    paths = [
        path for one in patterns for path in (_glob(one) if has_magic(one) else [located(one)])
    ]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise IceprobeError(
            f"no file {(missing or [pattern])[0]!r} for the pattern {pattern!r}: write it as "
            "/data/train-{000..010}.tar or /data/train-*.tar"
        )
    return paths


def _glob(pattern: str) -> Sequence[Path | RemotePath]:
    place = located(pattern)
    if isinstance(place, RemotePath):
        return place.glob()
    _see_folders(Path(pattern))
    return list(map(Path, sorted(glob(pattern))))


def _see_folders(pattern: Path) -> None:
    """Raise for a folder of the pattern that can't be read: ``glob`` leaves it out silently."""
    for part in (pattern, *pattern.parents):
        if has_magic(part.name):
            for folder in filter(os.path.isdir, glob(str(part.parent))):
                try:
                    os.scandir(folder).close()
                except OSError as error:
                    raise unreadable(error, folder) from error


def _samples(
    tar: Path | RemotePath, image_keys: Sequence[str], fields: Fields, assumed: list[str]
) -> Iterator[tuple[Member, dict[str, Any]]]:
    """Image and fields of every sample of a tar, in its order; ``assumed`` gets remarks."""
    seen: set[str] = set()
    try:
        with tar.open("rb") as file:
            files = regular_members(file, str(tar), assumed)
            for stem, run in groupby(files, key=lambda member: _parts(member.name)[0]):
                members: dict[str, tarfile.TarInfo] = {}
                for member in run:
                    key = _parts(member.name)[1]
                    if key in members:
                        raise IceprobeError(
                            f"sample {stem!r} of {str(tar)!r} has two {key!r} "
                            f"({members[key].name!r} and {member.name!r}): pack it again with one"
                        )
                    members[key] = member
                if stem in seen:
                    raise IceprobeError(
                        f"sample {stem!r} is twice in {str(tar)!r}, or its files don't lie together: "
                        "pack the tar again, each sample once and its files one after another"
                    )
                seen.add(stem)
                image = next((members[key] for key in image_keys if key in members), None)
                lacking = next((f for f in fields.all if f.member not in members), None)
                if image is None or lacking is not None:
                    option, wanted = (
                        ("image", ";".join(image_keys))
                        if image is None or lacking is None
                        else (lacking.option, lacking.member)
                    )
                    raise IceprobeError(
                        f"sample {stem!r} of {str(tar)!r} has no {wanted!r}, it has "
                        f"{', '.join(sorted(members))}: pass {option}=KEY"
                    )
                contents: dict[str, bytes] = {}
                found: dict[str, Any] = {}
                for one in fields.all:
                    held = members[one.member]
                    if one.member not in contents:
                        file.seek(held.offset_data)
                        contents[one.member] = file.read(held.size)
                    found[one.key] = one.read(
                        contents[one.member], f"{held.name!r} of {str(tar)!r}"
                    )
                yield Member(tar, image.name, image.offset_data, image.size), found
    except tarfile.TarError as error:
        raise IceprobeError(
            f"{str(tar)!r} can't be read as a plain tar ({one_line(error)}): unpack it if it is "
            "compressed, get it again if not"
        ) from error
    if not seen:
        assumed.append(f"{str(tar)!r} holds no sample")


def _repeated(split: str, members: Sequence[Member]) -> list[str]:
    """A line if tars of a split have samples of the same name."""
    first: dict[str, Member] = {}
    named = [(_parts(member.name)[0], member) for member in members]
    again = [(name, one) for name, one in named if first.setdefault(name, one).tar != one.tar]
    if not again:
        return []
    name, repeated = again[0]
    return [
        f"{len(again)} samples of {split} have the name of one in another tar ({name!r} is in "
        f"{str(first[name].tar)!r} and {str(repeated.tar)!r}): each is read as an image of its own"
    ]


def _parts(name: str) -> tuple[str, str]:
    """Name of the sample and key of a member: ``a/0001.seg.png`` → ``a/0001``, ``seg.png``."""
    folder, slash, file = name.rpartition("/")
    stem, _, key = file.partition(".")
    return folder + slash + stem, key.lower()


def _state(tar: Path | RemotePath) -> tuple[int, int | str]:
    try:
        return state(tar)
    except OSError as error:
        raise IceprobeError(f"{str(tar)!r} is gone ({one_line(error)}): put it back") from error
