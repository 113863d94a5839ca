"""Where tokens lie: a file, or a folder of one file an example, with train and test apart or not.

As CLAM leaves them: ``h5_files/SLIDE.h5`` with ``features (N, D)`` and ``coords (N, 2)`` in x and y, and
``pt_files/SLIDE.pt``, the features alone (github.com/mahmoodlab/CLAM, ``extract_features_fp.py``). As TRIDENT
does: ``features_ENCODER/SLIDE.h5`` with ``features`` and ``coords`` of level 0
(github.com/mahmoodlab/TRIDENT, ``trident/wsi_objects/WSI.py``).
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.feature_files.apart import Apart
from iceprobe.datasets.feature_files.arrays import KINDS, Arrays, Form, Runs, Values, open_arrays
from iceprobe.datasets.feature_files.examples import Examples, OneFile, Reading
from iceprobe.datasets.feature_files.keys import NAMES, ROLES, last, one_called
from iceprobe.datasets.feature_files.parquet import OfParquet
from iceprobe.datasets.layout import role_of
from iceprobe.datasets.table_files import PARQUET
from iceprobe.datasets.walking import files_in, folders_in

_CLAM = ("h5_files", "pt_files")  # the first has coordinates as well

T = TypeVar("T")


def open_place(place: Path, read_as: Reading) -> tuple[dict[str, Examples], list[str]]:
    """The examples of each split, ``"train"`` alone if the place has none, and assumptions.

    Args:
        place: a file or a folder.
        read_as: how arrays are read.

    Raises:
        IceprobeError: if there is nothing, or it may be read as several things.
    """
    if place.is_dir():
        return _folder(place, read_as)
    if not place.is_file():
        raise IceprobeError(f"no tokens at {str(place)!r}: name a file or a folder that is there")
    if place.suffix.lower() in PARQUET:
        found: Examples = OfParquet(place, read_as)
        return {"train": _named(found)}, []
    arrays = open_arrays(place)
    parts, assumed = _chosen(_within(arrays), place.name)
    return {split: _of_file(one, read_as) for split, one in parts.items()}, assumed


def _of_file(arrays: Arrays, read_as: Reading) -> Examples:
    """One array with all examples, or one in each group."""
    wanted = ROLES["features"] if read_as.key is None else (read_as.key.casefold(),)
    within = [name for name in arrays.forms if last(name) in wanted]
    groups = [name.rpartition("/")[0] for name in within]
    if "" in groups or not groups or (read_as.key or "") in arrays.forms:
        return _named(OneFile(arrays, read_as))
    if doubled := [name for name in groups if groups.count(name) > 1]:
        both = [name for name in within if name.startswith(f"{doubled[0]}/")]
        raise IceprobeError(
            f"{str(arrays.place)!r}: {' and '.join(map(shown, both[:3]))} may all be the tokens: pass key=NAME"
        )
    return Apart({name: (arrays.place, f"{name}/") for name in groups}, read_as)


def _named(examples: Examples) -> Examples:
    """The examples with the names that an array or a column gives them."""
    for column in one_called(NAMES, examples.columns):
        values = examples.column(column)
        if not all(isinstance(one, str | int) for one in values):
            continue
        if len(set(values)) == len(values):
            examples.names = [str(one) for one in values]
            break
        examples.assumed.append(
            f"{column!r} has a value twice, so it isn't read as the names of the examples"
        )
    return examples


def _within(arrays: Arrays) -> dict[str, Arrays]:
    """The arrays of each split by words in their names: ``train/features``, ``X_train``, ``train_X``."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in arrays.forms:
        head, slash, rest = name.partition("/")
        ways = [(head, rest)] if slash else [name.rpartition("_")[::-2], name.partition("_")[::2]]
        word, rest = next(((w, r) for w, r in ways if role_of(w) and r), ("", ""))
        if word:
            found[word][rest] = name
    roles = {role_of(word) for word in found}
    if "train" not in roles or not roles & {"test", "val"}:
        return {"train": arrays}
    return {word: _renamed(arrays, names) for word, names in found.items()}


def _renamed(arrays: Arrays, names: Mapping[str, str]) -> Arrays:
    """Some arrays of a file under other names."""

    def gather(name: str, runs: Runs) -> list[Values]:
        return arrays.gather(names[name], runs)

    forms: dict[str, Form] = {name: arrays.forms[was] for name, was in names.items()}
    return replace(arrays, forms=forms, gather=gather)


def _chosen(parts: Mapping[str, T], name: str) -> tuple[dict[str, T], list[str]]:
    """The parts that are train and test by their names; val is test where there is no other."""
    roles = {role_of(word): word for word in parts}
    test = roles.get("test", roles.get("val"))
    chosen = {"train": parts[roles["train"]]} | ({"test": parts[test]} if test else {})
    left = [word for word in parts if word not in (roles["train"], test)]
    lines = []
    if test and (left or role_of(test) == "val"):
        more = f"; {', '.join(map(repr, left))} left unread" if left else ""
        lines = [f"{name}: {test!r} is read as test{more}"]
    return chosen, lines


def _folder(place: Path, read_as: Reading) -> tuple[dict[str, Examples], list[str]]:
    if sources := _files(place):
        return {"train": Apart(sources, read_as)}, []
    folders = folders_in(place)
    if clam := [name for name in _CLAM if name in folders and _files(place / name)]:
        lines = [
            f"{place.name}: tokens are read from h5_files/, not pt_files/, which has no coordinates"
        ]
        sources = _files(place / clam[0])
        return {"train": Apart(sources, read_as)}, lines if len(clam) > 1 else []
    within = {name: _files(place / name) for name in folders}
    named = {name: files for name, files in within.items() if role_of(name) and files}
    if "train" in map(role_of, named):
        parts, lines = _chosen(named, place.name)
        return {split: Apart(files, read_as) for split, files in parts.items()}, lines
    there = [name for name, files in within.items() if files]
    hint = f"; name one of its folders, {', '.join(map(shown, there[:5]))}" if there else ""
    raise IceprobeError(
        f"folder {str(place)!r} holds no files of tokens ({', '.join(KINDS)}): give one file an example, "
        f"NAME.h5{hint}"
    )


def _files(folder: Path) -> dict[str, tuple[Path, str]]:
    """The files of tokens in a folder by the name of their example."""
    found: dict[str, tuple[Path, str]] = {}
    for file in files_in(folder):
        place = folder / file
        if place.suffix.lower() not in KINDS:
            continue
        if place.stem in found:
            raise IceprobeError(
                f"{str(found[place.stem][0])!r} and {file!r} are both of {shown(place.stem)}: keep one file an "
                "example"
            )
        found[place.stem] = place, ""
    return found
