"""The feature stores of a folder and the runs that read them, for ``ls stores`` and ``prune``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import is_remote
from iceprobe.store.examples import example_noun
from iceprobe.store.format import MANIFEST, Manifest, read_manifest

# Files of a finished run, an unfinished one and a segmentation that name the store they read.
_NAMED_IN = ("results.json", "request.json", "dense.json")
_DEPTH = (
    6  # of a test of a campaign's cell below the folder of runs: NAME/cells/CELL/tests/TEST/masked
)


@dataclass(frozen=True)
class Stored:
    """A store that lies in a folder.

    Attributes:
        path: of the store.
        manifest: of the store, or why it can't be read.
        readers: folders of the runs that read it.
    """

    path: Path
    manifest: Manifest | IceprobeError
    readers: Sequence[Path]

    @cached_property
    def bytes(self) -> int:
        """Size of all its files, also of those that a stopped writer left."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def state(self) -> str:
        """``"finished"``, the number of finished shards, or what is wrong with it."""
        if isinstance(self.manifest, IceprobeError):
            return str(self.manifest)
        if self.manifest.finished:
            return "finished"
        missing = sum(len(self.manifest.missing(name)) for name in self.manifest.splits)
        done = sum(len(split.shards) for split in self.manifest.splits.values())
        return f"unfinished: {done} of {done + missing} shards; the same command goes on from here"

    @property
    def record(self) -> dict[str, Any]:
        """The same for programs."""
        known: dict[str, Any] = {}
        if not isinstance(self.manifest, IceprobeError):
            known = {
                "identity": self.manifest.identity,
                "backbone": self.manifest.backbone.spec,
                "dataset": self.manifest.dataset.spec,
                "images": {name: one.images for name, one in self.manifest.splits.items()},
                "finished": self.manifest.finished,
            }
        size = {"path": self.path, "bytes": self.bytes, "state": self.state}
        return {**size, **known, "readers": [*self.readers]}

    @property
    def content(self) -> list[str]:
        """Lines such as ``images: train 320, test 80; 196 patch tokens of width 768 in float16``."""
        if isinstance(self.manifest, IceprobeError):
            return []
        shape, settings = self.manifest.shape, self.manifest.settings
        kept = f"{shape.num_tokens} patch tokens" if settings.patches else "mean of the patches"
        if shape.num_prefix:
            kept += f" and {shape.num_prefix} prefix token{'s' * (shape.num_prefix > 1)}"
        views = f", {count} augmented views" if (count := settings.augmented_views) else ""
        splits = self.manifest.splits.items()
        counts = ", ".join(f"{name} {split.images:,}" for name, split in splits)
        examples = f"{example_noun(self.manifest)}s"
        return [
            f"{self.manifest.backbone.spec} on {self.manifest.dataset.spec}",
            f"{examples}: {counts}; {kept} of width {shape.dim} in {settings.tokens}{views}",
        ]


def stores_in(features: Path, runs: Sequence[Path]) -> list[Stored]:
    """The stores directly in ``features``, by name, with the runs below ``runs`` that read them.

    Raises:
        IceprobeError: if ``features`` is on object storage.
    """
    if is_remote(features):
        raise IceprobeError(
            f"--features {str(features)!r}: stores on object storage aren't listed here; use its "
            "own tools"
        )
    if not features.is_dir():
        return []
    said = list(_said(runs))
    paths = [path for path in features.iterdir() if not path.name.startswith(".")]
    return [
        stored(path, said)
        for path in sorted(paths)
        if path.is_dir() and not path.is_symlink() and (path / MANIFEST).is_file()
    ]


def stored(path: Path, said: Sequence[tuple[Path, str]]) -> Stored:
    """The store at ``path``, read by the runs whose files contain its identity.

    If the manifest can't be read, the start of the identity is taken from the folder's name.
    """
    manifest: Manifest | IceprobeError
    try:
        manifest = read_manifest(path)
        identity = manifest.identity
    except IceprobeError as error:
        manifest, identity = error, path.name.rpartition("-")[2]
    readers = [run for run, text in said if identity and f'"{identity}' in text]
    return Stored(path, manifest, list(dict.fromkeys(readers)))


def _said(runs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each run folder with the text of a file that names its store."""
    for root in runs:
        for depth in range(_DEPTH + 1):
            for name in _NAMED_IN:
                for file in sorted(root.glob("*/" * depth + name)):
                    yield file.parent, file.read_text(errors="replace")
