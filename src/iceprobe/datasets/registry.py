"""The sources of data sets by name, and ``load_dataset``, which knows the catalogue as well. Importing
this imports neither images nor torch."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iceprobe.assumptions import tell
from iceprobe.datasets.catalogue import CATALOGUE
from iceprobe.errors import IceprobeError
from iceprobe.registry import Entry, Registry
from iceprobe.specs import Spec, parse_spec, typed_options, unknown, with_options
from iceprobe.trust import elsewhere, name_hosts

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


DATASETS: Registry[SourceEntry] = Registry(
    "data set source",
    {
        "folder": SourceEntry(
            "iceprobe.datasets.folder:load_folder",
            "images in one folder a class, under train/ and test/ (or val/), or split by iceprobe",
            ("folder:/data/birds", "folder:/data/flat?test_fraction=0.3&seed=1"),
            {"split": str, "test_fraction": float, "seed": int},
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
    """Whether loading ``spec`` would ask another host that the caller hasn't named himself."""
    parsed = parse_spec(spec)
    places = (parsed.name, *parsed.options.values())
    return any(map(elsewhere, places)) or (_is_fetched(parsed) and parsed.name not in _fetched)


def _is_fetched(parsed: Spec) -> bool:
    kind = parsed.kind or ""
    fetches = kind in DATASETS and DATASETS[kind].fetches
    return fetches and not os.path.isdir(os.path.expanduser(parsed.name))


def load_dataset(spec: str, **options: Any) -> "Dataset":
    """Load a data set by its spec string; images are decoded when they are asked for.

    Args:
        spec: ``folder:DIR``, ``webdataset:PATTERN``, ``huggingface:NAME_OR_DIR``,
            ``bundled:NAME`` or a bare name of the catalogue with ``root=DIR``; with ``?key=value``
            options.
        **options: the same options as keyword arguments.

    Raises:
        IceprobeError: for an unknown source, name or option, and for images that aren't laid
            out as the source wants them.
    """
    parsed = parse_spec(spec)
    for place in (parsed.name, *parsed.options.values(), *map(str, options.values())):
        name_hosts(place)
    if _is_fetched(parsed):
        _fetched.add(parsed.name)
    if parsed.kind is None:
        loaded = _load_from_catalogue(with_options(parsed, options))
    else:
        entry = DATASETS[parsed.kind]
        parsed = with_options(parsed, options)
        values = typed_options(parsed, entry.options)
        loaded = entry.load()(parsed.name, spec=str(parsed), **values)
    tell(loaded.assumed)
    return loaded


def _load_from_catalogue(parsed: Spec) -> "Dataset":
    if parsed.name not in CATALOGUE:
        raise IceprobeError(
            f"{unknown('data set', parsed.name, CATALOGUE)} Other images need a source in front: "
            f"{', '.join(f'{kind}:' for kind in DATASETS)}."
        )
    from iceprobe.datasets.benchmark import load_benchmark

    entry = CATALOGUE[parsed.name]
    values = typed_options(parsed, entry.all_options)
    return load_benchmark(parsed.name, entry, spec=str(parsed), **values)
