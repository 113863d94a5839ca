"""The sources of data sets by name, and ``load_dataset``. Importing this imports no torch, no Pillow."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import place_of
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
from iceprobe.tokens import GIVEN

if TYPE_CHECKING:
    from iceprobe.datasets.base import Dataset


@dataclass(frozen=True)
class SourceEntry(Entry):
    """A source of data sets: ``target(name, *, spec, **options) -> Dataset``.

    Attributes:
        examples: spec strings to copy.
        options: every option of the source and the function that converts its text.
        fetches: whether a name that is not a local folder is downloaded from a hub.
        foreign: whether loading runs code from outside iceprobe, to which further options go as text.
    """

    examples: tuple[str, ...] = ()
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    fetches: bool = False
    foreign: bool = False


def _scene_target(text: str) -> list[str]:
    from iceprobe.datasets.bundled_images import parse_target

    return parse_target(text)


#: Options of every source of image files (`iceprobe.datasets.pixels.Reading`).
READING: Mapping[str, Callable[[str], Any]] = {
    "scale": above_zero,
    "alpha": one_of("white", "black", "drop"),
    "orientation": one_of("upright", "ignore"),
}

#: Options of every source with columns (`iceprobe.datasets.columns.Asked`).
COLUMNS: Mapping[str, Callable[[str], Any]] = {
    "target": str,
    "separator": str,
    "task": one_of("classification", "multilabel", "regression"),
    "unit": str,
    "group": str,
    "fold": str,
    "slice": str,
}

#: Options of every source of one folder a class.
FOLDERS: Mapping[str, Callable[[str], Any]] = {
    "split": str,
    "train": str,
    "test": str,
    "flat": boolean,
    "test_fraction": float,
    "seed": int,
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
            FOLDERS,
        ),
        "video": SourceEntry(
            "iceprobe.datasets.videos:load_videos",
            "videos in one folder a class, laid out as the images of folder: are",
            ("video:/data/actions", "video:/data/flat?test_fraction=0.3"),
            FOLDERS,
        ),
        "audio": SourceEntry(
            "iceprobe.datasets.recordings:load_sounds",
            "recordings in one folder a class, laid out as the images of folder: are",
            ("audio:/data/birdsong", "audio:/data/flat?test_fraction=0.3"),
            FOLDERS,
        ),
        "table": SourceEntry(
            "iceprobe.datasets.table:load_table",
            "images and targets listed in a CSV, TSV, JSON lines or Parquet file, columns by name",
            (
                "table:/data/labels.csv?image=file&target=species&split=split",
                "table:labels.csv?images=DIR&target=tags&separator=;&test=test.csv&group=patient",
                "table:scans.parquet?target=age,weight&unit=years,kg&test_fraction=0.2&slice=site,sex",
                "table:rooms.csv?image=file&depth=depth_file&depth_scale=0.001&unit=m",
                "table:actions.csv?video=file&target=action&split=split",
                "table:drums.csv?sound=file&target=instrument&group=kit",
            ),
            {
                **dict.fromkeys(("image", "video", "sound", "images", "suffix"), str),
                **COLUMNS,
                **dict.fromkeys(("delimiter", "split", "train", "test"), str),
                **dict.fromkeys(("box", "mask", "masks", "depth", "depths"), str),
                "depth_scale": above_zero,
                "box_format": one_of("xyxy", "xywh"),
                "test_fraction": float,
                "seed": int,
            },
        ),
        "bags": SourceEntry(
            "iceprobe.datasets.table:load_bags",
            "bags of images: rows of a table are images, one of its columns says whose",
            (
                "bags:tiles.csv?example=slide&image=tile&target=grade&split=split",
                "bags:tiles.parquet?example=study&target=finding&group=patient&test_fraction=0.2",
                "bags:tiles.csv?example=slide&image=tile&target=grade&x=left&y=top&split=split",
            ),
            {
                **dict.fromkeys(("example", "image", "images", "suffix", "x", "y"), str),
                **COLUMNS,
                **dict.fromkeys(("delimiter", "split", "train", "test"), str),
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
                "webdataset:/data/train-*.tar?test=/data/val-*.tar&target=json.tags&group=json.patient",
            ),
            {"test": str, "image": str, "label": str, **COLUMNS},
        ),
        "huggingface": SourceEntry(
            "iceprobe.datasets.huggingface:load_huggingface",
            "data sets of the Hugging Face hub, and local folders in its formats",
            (
                "huggingface:uoft-cs/cifar10?image=img",
                "huggingface:/data/parquet?label=species&test=validation",
                "huggingface:/data/parquet?target=tags&group=patient",
            ),
            {
                **dict.fromkeys(("image", "label", "train", "test", "config", "revision"), str),
                **COLUMNS,
            },
            fetches=True,
        ),
        "python": SourceEntry(
            "iceprobe.datasets.python_source:load_python",
            "a function of yours that returns a data set; its code runs only with trust=true",
            (
                "python:my_package.data:birds?trust=true&root=/data/birds",
                "python:./data.py:birds?trust=true",
            ),
            {"trust": boolean},
            foreign=True,
        ),
        "features": SourceEntry(
            "iceprobe.datasets.features:load_feature_set",
            "tokens that somebody has extracted already, in files: for fit, knn, plan, extract --from",
            (
                "features:train.h5?test=test.h5&target=y",
                "features:tokens.npz?test_fraction=0.2&key=feats",
                "features:CLAM/h5_files?table=dataset.csv&splits=splits_0.csv&group=case_id",
                "features:features_uni?table=labels.csv&name=slide_id&target=label&fold=fold",
            ),
            {
                **dict.fromkeys(("key", "table", "name", "delimiter", "test_table", "splits"), str),
                "axes": one_of("nd", "dn", "hwd", "dhw"),
                "coords": one_of("xy", "yx"),
                **COLUMNS,
                **dict.fromkeys(("split", "train", "test", "backbone"), str),
                "missing": one_of("fail", "skip"),
                "has_class": boolean,
                "test_fraction": float,
                "seed": int,
            },
        ),
        "bundled": SourceEntry(
            "iceprobe.datasets.bundled_images:load_bundled",
            "real images that ship with iceprobe (Fashion-MNIST: classes, tags, numbers, a number a pixel, clips)",
            (
                "bundled:fashion",
                "bundled:fashion-clutter",
                "bundled:fashion-scenes",
                "bundled:fashion-scenes?target=count,area",
                "bundled:fashion-scenes?target=distance",
                "bundled:fashion-motion",
            ),
            {"target": _scene_target},
        ),
    },
)


_fetched: set[str] = set()  # names on a hub that the caller loaded in this process
_ran: set[tuple[str, ...]] = set()  # code that the caller's own specs have run in this process


def names_elsewhere(spec: str) -> bool:
    """Whether loading ``spec`` would contact another host that the caller hasn't named."""
    parsed = parse_spec(spec)
    values = (parsed.name, *parsed.options.values())
    return any(map(elsewhere, values)) or (_is_fetched(parsed) and parsed.name not in _fetched)


def runs_code(spec: str) -> bool:
    """Whether loading ``spec`` runs code that comes with it."""
    kind = parse_spec(spec).kind or ""
    return kind in DATASETS and DATASETS[kind].foreign


def has_run(spec: str) -> bool:
    """Whether a spec of the caller has run the same code in this process."""
    return _code(parse_spec(spec)) in _ran


def _code(parsed: Spec) -> tuple[str, ...]:
    """What determines the code that runs for a data set, and its arguments."""
    given = (f"{key}={value}" for key, value in sorted(parsed.options.items()) if key != "trust")
    return (parsed.name, place_of(parsed.name), *given)


def _is_fetched(parsed: Spec) -> bool:
    kind = parsed.kind or ""
    fetches = kind in DATASETS and DATASETS[kind].fetches
    return fetches and not os.path.isdir(os.path.expanduser(parsed.name))


def load_dataset(spec: "str | Mapping[str, Any] | Dataset", **options: Any) -> "Dataset":
    """Load a data set by its spec string; images are decoded when they are asked for.

    Args:
        spec: ``folder:DIR``, ``video:DIR``, ``audio:DIR``, ``table:FILE``, ``bags:TABLE``,
            ``webdataset:PATTERN``, ``huggingface:NAME_OR_DIR``, ``python:package.module:function``,
            ``features:FILE``, ``bundled:NAME`` or a bare name of the catalogue with
            ``root=DIR``; with ``?key=value`` options. Or ``{"train": data, "test": data}`` with
            map-style data sets of torch or torchvision, whose items are ``(image, label)``. A data set
            is returned as it is.
        **options: the same options as keyword arguments; ``task`` and ``unit`` of two map-style ones.

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
    if parsed.kind == GIVEN:
        raise IceprobeError(
            f"{spec!r} are tokens that iceprobe.from_tokens was given: they were in memory, and there "
            "are no images behind them"
        )
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
    foreign = parsed.kind is not None and DATASETS[parsed.kind].foreign
    if foreign:
        types = {**dict.fromkeys(parsed.options, str), **types}
    values = typed_options(parsed, {**types, **READING})
    reading = {key: values.pop(key) for key in READING if key in values}
    if foreign:
        values = {"trust": values.pop("trust", False), "arguments": values}
    loaded = load(parsed.name, spec=str(parsed), **values)
    if foreign:
        _ran.add(_code(parsed))
    _set_reading(loaded, reading)
    log_assumptions(loaded.assumed)
    return loaded


def load_grouped(spec: str, group: str | None) -> "Dataset":
    """The data set of ``spec``, read with the column ``group`` if its source has columns."""
    return load_dataset(_in_groups(spec, group))


def load_grouped_if_it_can(spec: str, group: str | None) -> "Dataset":
    """The same; a set that can't be read with that column, which another set has, is read without."""
    if (grouped := _in_groups(spec, group)) != spec:
        with contextlib.suppress(IceprobeError):  # if it isn't of the column, it comes again
            return load_dataset(grouped)
    return load_dataset(spec)


def _in_groups(spec: str, group: str | None) -> str:
    parsed = parse_spec(spec)
    takes = (parsed.kind or "") in DATASETS and "group" in DATASETS[parsed.kind or ""].options
    if group is None or not takes or "group" in parsed.options:
        return spec
    return str(with_options(parsed, {"group": group}))


def _given(data: Any, options: Mapping[str, Any]) -> "Dataset":
    """``data`` if it is a data set, else one made of two map-style data sets."""
    from iceprobe.datasets.base import Dataset

    taken = ("task", "unit") if isinstance(data, Mapping) else ()
    if others := options.keys() - set(taken):
        raise IceprobeError(
            f"option {min(others)!r} is for a spec string: a {type(data).__name__} takes "
            f"{' and '.join(taken) or 'none'}"
        )
    if isinstance(data, Dataset):
        return data
    from iceprobe.datasets.wrapping import from_splits

    if options.get("task") is not None:
        try:
            COLUMNS["task"](options["task"])
        except ValueError as error:
            raise IceprobeError(f"task={options['task']!r}: {error}") from error
    made = from_splits(data, **options)
    log_assumptions(made.assumed)
    return made


def _set_reading(dataset: "Dataset", options: dict[str, Any]) -> None:
    """Let the splits decode their files by these options; refuse them for images in memory."""
    from iceprobe.datasets.pixels import Reading

    for split in dataset.splits.values() if options else ():
        if split.reading is None or split.kind in ("clip", "sound"):
            raise IceprobeError(
                f"option {next(iter(options))!r} of {dataset.spec!r} is for images in files, and "
                f"these are {'arrays' if split.kind == 'image' else f'{split.kind}s'}: leave it out"
            )
        split.reading = Reading(**options)
