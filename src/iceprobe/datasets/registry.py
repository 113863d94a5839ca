"""The sources of data sets by name, and ``load_dataset``. Importing this imports no torch, no Pillow."""

import os
from collections.abc import Callable, Iterable, Mapping
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
        examples: spec strings to copy.
        options: every option of the source and the function that converts its text.
        fetches: whether a name that is not a local folder is downloaded from a hub.
    """

    examples: tuple[str, ...] = ()
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    fetches: bool = False


#: Options of every source of image files (`iceprobe.datasets.pixels.Reading`).
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


_fetched: set[str] = set()  # names on a hub that the caller loaded in this process


def names_elsewhere(spec: str) -> bool:
    """Whether loading ``spec`` would contact another host that the caller hasn't named."""
    parsed = parse_spec(spec)
    values = (parsed.name, *parsed.options.values())
    return any(map(elsewhere, values)) or (_is_fetched(parsed) and parsed.name not in _fetched)


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

    For images in files, ``scale=``, ``alpha=`` and ``orientation=`` set how they are decoded
    (docs/images.md).

    Raises:
        IceprobeError: for an unknown source, name or option, and for images in another layout than
            the source's.
    """
    if not isinstance(spec, str):
        return _given(spec, options)
    parsed = parse_spec(spec)
    for place in (parsed.name, *parsed.options.values(), *map(str, options.values())):
        name_hosts(place)
    if _is_fetched(parsed):
        _fetched.add(parsed.name)
    if parsed.kind is not None:
        load, types = DATASETS[parsed.kind].load(), DATASETS[parsed.kind].options
    elif parsed.name in CATALOGUE:
        from iceprobe.datasets.benchmark import load_benchmark

        load, types = load_benchmark, CATALOGUE[parsed.name].all_options
    else:
        raise IceprobeError(
            f"{unknown('data set', parsed.name, CATALOGUE)} Other images need a source in front: "
            f"{', '.join(f'{kind}:' for kind in DATASETS)}."
        )
    parsed = with_options(parsed, options)
    values = typed_options(parsed, {**READING, **types})
    reading = {key: values.pop(key) for key in READING if key in values}
    loaded = load(parsed.name, spec=str(parsed), **values)
    _set_reading(loaded, reading)
    log_assumptions(loaded.assumed)
    return loaded


def check_train(splits: Iterable[str], spec: str) -> None:
    """Refuse to fit on a data set without a training split, such as ``imagenet-a``.

    Raises:
        IceprobeError: with what reads it.
    """
    if "train" not in (names := list(splits)):
        raise IceprobeError(
            f"{spec} has no split 'train' (it has {', '.join(names)}), so nothing can be fitted on it: "
            f"fit on another data set, then read that run here: iceprobe test RUN --data {spec}"
        )


def _given(data: Any, options: Mapping[str, Any]) -> "Dataset":
    """``data`` if it is a data set, else one made of two map-style data sets."""
    from iceprobe.datasets.base import Dataset

    if options:
        raise IceprobeError(
            f"option {min(options)!r} is for a spec string: a {type(data).__name__} takes none"
        )
    if isinstance(data, Dataset):
        return data
    from iceprobe.datasets.wrapping import from_splits

    made = from_splits(data)
    log_assumptions(made.assumed)
    return made


def _set_reading(dataset: "Dataset", options: dict[str, Any]) -> None:
    """Let the splits decode their files by these options; refuse them for images in memory."""
    from iceprobe.datasets.pixels import Reading

    for split in dataset.splits.values() if options else ():
        if split.reading is None:
            raise IceprobeError(
                f"option {next(iter(options))!r} of {dataset.spec!r} is for images in files, and "
                "these are arrays: leave it out"
            )
        split.reading = Reading(**options)
