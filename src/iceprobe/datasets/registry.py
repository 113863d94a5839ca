"""The sources of data sets by name, and ``load_dataset``, which knows the catalogue too.

Importing this imports neither torch nor Pillow.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import (
    Spec,
    above_zero,
    boolean,
    one_of,
    parse_spec,
    typed_options,
    unknown,
    with_options,
)
from iceprobe.core.trust import elsewhere, name_hosts
from iceprobe.datasets.catalogue import CATALOGUE

if TYPE_CHECKING:
    from iceprobe.datasets.base import Dataset


@dataclass(frozen=True)
class SourceEntry(Entry):
    """A source of data sets: ``target(name, *, spec, **options) -> Dataset``.

    Attributes:
        examples: spec strings to copy from.
        options: every key of the source and how its text becomes a value.
        fetches: whether a name that is no folder here is fetched from a hub.
    """

    examples: tuple[str, ...] = ()
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    fetches: bool = False


#: How image files are read, options of every source that has some (`iceprobe.datasets.pixels.Reading`).
READING: Mapping[str, Callable[[str], Any]] = {
    "scale": above_zero,
    "alpha": one_of("white", "black", "drop"),
    "orientation": one_of("upright", "ignore"),
}

DATASETS: Registry[SourceEntry] = Registry(
    "data set source",
    {
        "folder": SourceEntry(
            "iceprobe.datasets.folder:load_folder",
            "images in one folder a class, under train/ and test/ (or val/), or split by iceprobe",
            (
                "folder:/data/birds",
                "folder:/data/flat?test_fraction=0.3&seed=1",
                "folder:/data/birds?train=train2017&test=val2017",
            ),
            {
                "split": str,
                "train": str,
                "test": str,
                "flat": boolean,
                "test_fraction": float,
                "seed": int,
            },
        ),
        "webdataset": SourceEntry(
            "iceprobe.datasets.webdataset:load_webdataset",
            "samples in tar files, read by index; labels are text, numbers or a field of JSON",
            (
                "webdataset:/data/train-{000..010}.tar?test=/data/test-{000..001}.tar",
                "webdataset:/data/train-*.tar?test=/data/val-*.tar&image=jpg;png&label=json.species",
            ),
            {"test": str, "image": str, "label": str},
        ),
        "huggingface": SourceEntry(
            "iceprobe.datasets.huggingface:load_huggingface",
            "data sets of the Hugging Face hub, and local folders in its formats",
            (
                "huggingface:uoft-cs/cifar10?image=img",
                "huggingface:/data/parquet?label=species&test=validation",
            ),
            dict.fromkeys(("image", "label", "train", "test", "config", "revision"), str),
            fetches=True,
        ),
        "bundled": SourceEntry(
            "iceprobe.datasets.bundled_images:load_bundled",
            "real images that ship with iceprobe (Fashion-MNIST, 10 classes)",
            ("bundled:fashion", "bundled:fashion-clutter"),
        ),
    },
)


_fetched: set[str] = set()  # names on a hub, by the caller's own specs, in this process


def names_elsewhere(spec: str) -> bool:
    """Whether loading ``spec`` would ask another host that the caller hasn't named."""
    parsed = parse_spec(spec)
    places = (parsed.name, *parsed.options.values())
    return any(map(elsewhere, places)) or (_is_fetched(parsed) and parsed.name not in _fetched)


def _is_fetched(parsed: Spec) -> bool:
    kind = parsed.kind or ""
    fetches = kind in DATASETS and DATASETS[kind].fetches
    return fetches and not os.path.isdir(os.path.expanduser(parsed.name))


def load_dataset(spec: "str | Mapping[str, Any] | Dataset", **options: Any) -> "Dataset":
    """Load a data set by its spec string; images are decoded when they are asked for.

    Args:
        spec: ``folder:DIR``, ``webdataset:PATTERN``, ``huggingface:NAME_OR_DIR``,
            ``bundled:NAME`` or a bare name of the catalogue with ``root=DIR``; with ``?key=value``
            options. Or ``{"train": data, "test": data}`` with map-style data sets of torch or
            torchvision, whose items are ``(image, label)``. A data set is returned as it is.
        **options: the same options as keyword arguments.

    Where images are files, ``scale=``, ``alpha=`` and ``orientation=`` say how they are read
    (docs/images.md).

    Raises:
        IceprobeError: for an unknown source, name or option, and for images that aren't laid
            out as the source wants them.
    """
    if not isinstance(spec, str):
        return _given(spec, options)
    parsed = parse_spec(spec)
    for place in (parsed.name, *parsed.options.values(), *map(str, options.values())):
        name_hosts(place)
    if _is_fetched(parsed):
        _fetched.add(parsed.name)
    if parsed.kind is None:
        loaded, reading = _load_from_catalogue(with_options(parsed, options))
    else:
        entry = DATASETS[parsed.kind]
        parsed = with_options(parsed, options)
        values, reading = _split_off(typed_options(parsed, {**READING, **entry.options}))
        loaded = entry.load()(parsed.name, spec=str(parsed), **values)
    _read_by(loaded, reading)
    log_assumptions(loaded.assumed)
    return loaded


def _given(data: Any, options: Mapping[str, Any]) -> "Dataset":
    """``data`` if it is a data set, else one made of two map-style data sets."""
    from iceprobe.datasets.base import Dataset
    from iceprobe.datasets.wrapping import from_splits

    if options:
        raise IceprobeError(
            f"option {min(options)!r} is for a spec string: a {type(data).__name__} takes none"
        )
    if isinstance(data, Dataset):
        return data
    made = from_splits(data)
    log_assumptions(made.assumed)
    return made


def _load_from_catalogue(parsed: Spec) -> "tuple[Dataset, dict[str, Any]]":
    if parsed.name not in CATALOGUE:
        raise IceprobeError(
            f"{unknown('data set', parsed.name, CATALOGUE)} Other images need a source in front: "
            f"{', '.join(f'{kind}:' for kind in DATASETS)}."
        )
    from iceprobe.datasets.benchmark import load_benchmark

    entry = CATALOGUE[parsed.name]
    values, reading = _split_off(typed_options(parsed, {**READING, **entry.all_options}))
    return load_benchmark(parsed.name, entry, spec=str(parsed), **values), reading


def _split_off(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a source, and those that say how its files are read."""
    reading = {key: values.pop(key) for key in READING if key in values}
    return values, reading


def _read_by(dataset: "Dataset", options: dict[str, Any]) -> None:
    """Let the splits read their files by these options.

    Raises:
        IceprobeError: if there are some, and a split's images aren't files.
    """
    if not options:
        return
    from iceprobe.datasets.pixels import Reading

    for split in dataset.splits.values():
        if split.reading is None:
            raise IceprobeError(
                f"option {next(iter(options))!r} of {dataset.spec!r} is for images in files, and "
                "these are arrays: leave it out"
            )
        split.reading = Reading(**options)
