"""What a number was made with: versions, processor, commit."""

import hashlib
import importlib.metadata
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from iceprobe.results.schema import StoreReference
from iceprobe.store.examples import example_noun
from iceprobe.store.format import listed_as
from iceprobe.store.noted import assumed

_PACKAGES = ("iceprobe", "torch", "torchvision", "timm", "numpy")


def now() -> datetime:
    """The wall clock, with its zone: for stamps alone, never for durations."""
    return datetime.now().astimezone()


def environment() -> dict[str, str]:
    """Versions and processor, without importing any of the packages."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional package that isn't there has no version
    return {**found, "processor": _processor(), "platform": platform.platform()}


def git_commit(folder: str | Path | None = None) -> str | None:
    """The commit of the checkout that iceprobe runs from, with ``-dirty`` where files differ.

    None where iceprobe isn't run from a checkout, or git isn't installed.
    """
    folder = Path(folder) if folder else Path(__file__).resolve().parent

    def git(*command: str) -> str:
        full = ["git", "-C", str(folder), *command]
        return subprocess.run(full, capture_output=True, check=True, text=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", ".")
        return (
            git("describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*").strip() or None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """The processor's model name where Linux has it, else what ``platform`` knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def images_hash(manifest: Any, split: str, index: Any) -> str:
    """Of a split's listing and the rows ``index (n,)`` int64 of it: equal means the same images in order."""
    content = hashlib.sha256(manifest.splits[listed_as(split)].content["listing"].encode())
    content.update(index.tobytes())
    return content.hexdigest()[:16]


def provenance(store: Any, split: str, command: str) -> dict[str, Any]:
    """The fields of a :class:`Result` that say where it comes from, for any probe on ``store``."""
    manifest = store.manifest
    found = origin(manifest, split, len(store["train"]), store[split].index, command)
    return found | {
        "store": reference_of(store),
        "assumed": [*found["assumed"], *filter(None, [identical_line(store, split)])],
        "identical_images": len(store.identical(split)),
    }


def reference_of(store: Any) -> StoreReference:
    """Which store it is, and of several layers the store of each."""
    return StoreReference(
        path=str(store.path.resolve()) if store.path else None,
        identity=store.identity,
        layers=tuple(reference_of(one) for one in store.layers.values()),
        depth=store.depth if store.layers else None,
    )


def origin(
    manifest: Any, split: str, train_images: int, index: Any, command: str
) -> dict[str, Any]:
    """The same fields for training on the images themselves.

    Args:
        manifest: of the store that would hold the features.
        split: that is reported.
        train_images: how many there are.
        index: ``(n,)`` int64, the rows of ``split`` that were tested.
        command: as typed.
    """
    backbone, dataset, shape = manifest.backbone, manifest.dataset, manifest.shape
    return {
        "backbone": backbone.spec,
        "paradigm": backbone.paradigm,
        "dataset": dataset.spec,
        "task": "classification",
        "primary": dataset.headline,
        "layer": layer if isinstance(layer := backbone.identity.get("layer"), int) else None,
        "example": example_noun(manifest),
        "images": images_hash(manifest, split, index),
        "split": split,
        "classes": len(dataset.classes),
        "class_names": list(dataset.classes),
        "units": list(dataset.units),
        "group": dataset.group,
        "train_images": train_images,
        "test_images": len(index),
        "dim": shape.dim,
        "num_tokens": shape.num_tokens,
        "lengths": shape.lengths,
        "grid": shape.grid,
        "store": StoreReference(path=None, identity=manifest.identity),
        "environment": environment(),
        "git_commit": git_commit(),
        "command": command,
        "created": now().isoformat(timespec="seconds"),
        "assumed": assumed(manifest),
        "skipped_images": len(manifest.skipped),
    }


def identical_line(store: Any, split: str) -> str:
    """How many images of a split are training images too, and the first of them; ``""`` if none are.

    No error: a collapsed encoder makes nearly the same tokens of all images.
    """
    rows, names = store.identical(split), store.names_at_hand(split)
    return line_of_identical(rows, len(store[split]), split, names, example_noun(store.manifest))


def line_of_identical(rows: Any, count: int, split: str, names: Any, noun: str = "image") -> str:
    """The same of ``rows`` out of ``count`` examples, each called a ``noun``, whose ``names`` may be known."""
    if not len(rows):
        return ""
    first = f", such as {names[rows[0]]!r}" if names else f", the first is number {rows[0]}"
    one, many = ("is", f"a training {noun}", "its"), ("are", f"training {noun}s", "their")
    are, training, their = many if len(rows) > 1 else one
    return (
        f"{len(rows):,} of {count:,} {split} {noun}s {are} identical to {training} "
        f"(by {their} pooled tokens{first}): what was memorised counts as read"
    )
