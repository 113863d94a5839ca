"""``features:FILE``: tokens that somebody has extracted already, and what is to be predicted of them.

Targets, groups, folds, slices and splits are arrays of the file, or columns of a table whose rows are the
examples by their names (docs/tokens.md). Both are read as the columns of ``table:`` are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import Column
from iceprobe.datasets.cells import Rows
from iceprobe.datasets.columns import AskedSplits, Targets, read_further, read_targets, several
from iceprobe.datasets.feature_files.content import content_of
from iceprobe.datasets.feature_files.examples import Examples, Reading
from iceprobe.datasets.feature_files.joining import Joined, joined
from iceprobe.datasets.feature_files.keys import GROUPS, NAMES, TARGETS, one_called
from iceprobe.datasets.feature_files.places import open_place
from iceprobe.datasets.feature_files.split_lists import split_lists
from iceprobe.datasets.table_files import TableFile, open_table
from iceprobe.datasets.table_splits import divided, rows_of_splits, with_split
from iceprobe.datasets.token_split import FeatureSet, TokenSplit, hash_names
from iceprobe.machine.object_storage import is_remote
from iceprobe.tasks.targets import some

AT_ONCE = 256  # examples that are read at once
_PLAIN = ("features", "tokens", "embeddings", "train", "data", "h5_files", "pt_files")


@dataclass(frozen=True)
class FeatureOptions(AskedSplits):
    """Options of ``features:``.

    Attributes:
        key, axes, coords: of `Reading`.
        table, name, delimiter: the table, its column of names, and what is between its cells.
        test_table: of the examples at ``test``, if these have no names.
        splits: a table of the names in train and in test, as CLAM writes it.
        missing: ``skip`` leaves out rows whose tokens aren't there.
        backbone: what made the tokens, for tables and reports.
        has_class: whether the first prefix token is a class token.
    """

    key: str | None = None
    axes: str | None = None
    coords: str = "xy"
    table: str | None = None
    name: str | None = None
    delimiter: str | None = None
    test_table: str | None = None
    splits: str | None = None
    missing: str = "fail"
    backbone: str | None = None
    has_class: bool = True


class FeatureSplit(TokenSplit):
    """Examples whose tokens lie in files.

    Attributes:
        examples: of the files.
        rows: ``(n,)``, those of this split, in its order.
    """

    def __init__(self, *args: Any, examples: Examples, rows: np.ndarray, **more: Any):
        super().__init__(*args, content="", **more)
        self.examples, self.rows = examples, rows
        if examples.names is not None:
            self.content = hash_names(self.names)

    def fingerprint(self) -> str:
        if not self.content:  # without names the tokens alone say which examples these are
            self.content = content_of(self.examples, self.rows.tolist(), AT_ONCE)
        return self.content


def load_feature_set(where: str, /, *, spec: str, **options: Any) -> FeatureSet:
    """Load ``features:FILE?target=NAME``: names, targets and lengths, no tokens yet.

    Args:
        where: a file or a folder.
        spec: the spec string given.
        **options: the fields of `FeatureOptions`.

    Raises:
        IceprobeError: for what can't be read or may mean several things, naming the file or row.
    """
    asked = FeatureOptions(**options)
    for one in filter(None, (where, asked.test)):
        if is_remote(one):
            raise IceprobeError(
                f"{one!r} is a URL, and tokens in files are read from this machine's own disks: copy them here"
            )
    read_as = Reading(asked.key, asked.axes, asked.coords)
    place = Path(where).expanduser()
    sources, assumed = open_place(place, read_as)
    test = None if asked.test is None else Path(asked.test).expanduser()
    if test is not None and asked.split is None and asked.splits is None:
        sources, lines = _with_test(sources, test, read_as, spec)
        assumed += lines
    tables, lines = _tables(asked, sources, spec)
    assumed += lines
    asked, target, slices, lines = _columns(asked, tables["train"])
    assumed += lines
    if "test" in sources:
        _check_divided(asked, spec)
    elif asked.splits is None:
        used = [*target, *slices, *asked.further]
        asked, lines = with_split(asked, tables["train"], used, spec)
        assumed += lines
    columns = list(dict.fromkeys([*target, *slices, *asked.further, *filter(None, [asked.split])]))
    _check_there([*filter(None, [asked.name]), *columns], tables)
    together, lines = joined(sources, tables, asked.name, asked.missing == "skip")
    assumed += lines
    rows = {split: one.read(columns) for split, one in together.items()}
    together, rows, lines = _split(together, rows, asked, spec)
    assumed += lines
    targets = read_targets(rows, target, asked, spec)
    further, lines = read_further(rows, asked, slices)
    assumed += [*targets.assumed, *lines]
    parts, lines = divided(rows, targets, further, asked, spec)
    assumed += lines
    splits = {
        split: _feature_split(split, together[source], chosen, targets, source, further[source])
        for split, (source, chosen) in parts.items()
    }
    assumed += dict.fromkeys(line for one in together.values() for line in one.examples.assumed)
    assumed += _of_parts(asked, together, "has_class" in options)
    return FeatureSet(
        spec,
        _short_name(place),
        targets.names,
        splits,
        targets.headline,
        assumed,
        targets.units,
        asked.group,
        asked.fold,
        slices,
        backbone=asked.backbone or _made_by(place),
        has_class=asked.has_class,
    )


def _feature_split(
    name: str,
    source: Joined,
    chosen: np.ndarray,
    targets: Targets,
    of: str,
    columns: Mapping[str, Column],
) -> FeatureSplit:
    """The split of the ``chosen`` examples of a source, which ``targets`` know as ``of``."""
    examples, rows = source.examples, source.rows[chosen]
    if examples.names is None:
        names = [f"{name}/{row:06d}" for row in range(len(rows))]
    else:
        names = [examples.names[row] for row in rows]
    return FeatureSplit(
        name,
        targets.labels[of][chosen],
        names,
        examples=examples,
        rows=rows,
        task=targets.task,
        columns={key: column.take(chosen) for key, column in columns.items()},
    )


def _check_there(columns: Sequence[str], tables: Mapping[str, TableFile]) -> None:
    for table in tables.values():
        for column in columns:
            if column not in table.columns:
                raise IceprobeError(unknown(f"column of {table.place.name}", column, table.columns))


class ArrayTable(TableFile):
    """The arrays with a value an example, as a table."""

    def __init__(self, examples: Examples, place: Path):
        super().__init__(place)
        self.examples, self.columns = examples, examples.columns

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, names: Sequence[str]) -> Rows:
        return Rows({name: self.examples.column(name) for name in names}, self.examples.where)


def _with_test(
    sources: Mapping[str, Examples], test: Path, read_as: Reading, spec: str
) -> tuple[dict[str, Examples], list[str]]:
    """The examples with those of a test split in a place of its own."""
    if "test" in sources:
        raise IceprobeError(f"{spec!r} has a test split already: drop test={str(test)!r}")
    if not test.exists():
        raise IceprobeError(
            f"{spec!r}: no tokens at test={str(test)!r}: name a file or folder that is there, or pass "
            "split=COLUMN as well, if it is a value of a column"
        )
    found, lines = open_place(test, read_as)
    if "test" in found:
        raise IceprobeError(f"test={str(test)!r} has a train split of its own: name its test part")
    return {**sources, "test": found["train"]}, lines


def _tables(
    asked: FeatureOptions, sources: Mapping[str, Examples], spec: str
) -> tuple[dict[str, TableFile], list[str]]:
    """The table of each source: a file, or its own arrays."""
    for option in ("name", "delimiter", "test_table"):
        if asked.table is None and getattr(asked, option) is not None:
            raise IceprobeError(f"option {option}= of {spec!r} is of table=: add it")
    if asked.table is None:
        return {s: ArrayTable(one, _place(one)) for s, one in sources.items()}, []
    first = open_table(asked.table, asked.delimiter)
    other = first if asked.test_table is None else open_table(asked.test_table, asked.delimiter)
    return {split: first if split == "train" else other for split in sources}, []


def _place(examples: Examples) -> Path:
    return next(iter(examples.states))


def _columns(
    asked: FeatureOptions, table: TableFile
) -> tuple[FeatureOptions, list[str], list[str], list[str]]:
    """The options with the columns that are found by their names, those of targets and slices, and lines."""
    where, assumed = table.place.name, []
    for option in ("name", "group", "fold", "split"):
        column = getattr(asked, option)
        if column is not None and column not in table.columns:
            raise IceprobeError(
                f"{unknown(f'column of {where}', column, table.columns)} Pass {option}=COLUMN."
            )
    if asked.target is not None:
        target = several(asked.target, "target", table.columns, where)
    else:
        alike = one_called(TARGETS, table.columns)
        if len(alike) != 1:
            found = f"columns {some(alike)} may" if alike else "no column seems to"
            raise IceprobeError(
                f"{where}: {found} be the target: pass target=NAME of one of its columns, or "
                f"table=FILE with labels (there are {', '.join(map(str, table.columns)) or 'none'})"
            )
        target = alike
        assumed.append(f"{where}: the target is {alike[0]!r} (target= names another)")
    if asked.name is None and asked.table is not None:
        called = [one for one in one_called(NAMES, table.columns) if one not in target]
        if called:
            asked = replace(asked, name=called[0])
            assumed.append(f"{where}: names are in column {called[0]!r} (name= names another)")
    if asked.group is None and (alike := one_called(GROUPS, table.columns)):
        if isinstance(table, ArrayTable):
            asked = replace(asked, group=alike[0])
            assumed.append(f"{where}: groups are {alike[0]!r} (group= names another)")
        else:
            assumed.append(
                f"{where}: examples are independent; column {alike[0]!r} isn't read as their group "
                f"(group={alike[0]} does)"
            )
    slices = [] if asked.slice is None else several(asked.slice, "slice", table.columns, where)
    return asked, target, slices, assumed


def _check_divided(asked: FeatureOptions, spec: str) -> None:
    """Refuse options that divide what is divided already."""
    for option in ("split", "splits", "train", "test_fraction", "seed"):
        if (given := getattr(asked, option)) is not None:
            raise IceprobeError(
                f"option {option}={given} of {spec!r}: train and test are apart already, drop it"
            )


def _split(
    together: dict[str, Joined], rows: dict[str, Rows], asked: FeatureOptions, spec: str
) -> tuple[dict[str, Joined], dict[str, Rows], list[str]]:
    """Examples and rows of each split, by a column or by lists of names."""
    column, assumed = asked.split, list[str]()
    whole, source = rows["train"], together["train"]
    if asked.splits is not None:
        if asked.split is not None or asked.test_fraction is not None:
            raise IceprobeError(
                f"{spec!r}: splits= stands beside split= or test_fraction=: keep one"
            )
        values, listed, lines = split_lists(asked.splits, source.examples, source.rows)
        source, whole = source.take(listed), whole.take(listed)
        column, assumed = Path(asked.splits).name, lines
        whole = Rows({**whole.values, column: values}, whole.place)
    if column is None:
        return together, rows, []
    index, lines = rows_of_splits(whole, column, asked.train, asked.test, spec)
    return (
        {split: source.take(chosen) for split, chosen in index.items()},
        {split: whole.take(chosen) for split, chosen in index.items()},
        [*assumed, *lines],
    )


def _of_parts(asked: FeatureOptions, together: Mapping[str, Joined], said_class: bool) -> list[str]:
    """Lines on prefix tokens and coordinates."""
    forms = next(iter(together.values())).examples.forms
    lines = []
    if "prefix" in forms and not said_class:
        lines.append("the first prefix token is read as the class token (has_class=false: as none)")
    if forms.get("coords") == (2,) and asked.coords == "xy":
        lines.append(
            "coordinates are read as x, then y, as CLAM and TRIDENT write them (coords=yx)"
        )
    return lines


def _short_name(place: Path) -> str:
    """``birds`` of ``birds.h5``; of a name that says nothing, the folder's around it."""
    while place.resolve().stem.casefold() in _PLAIN and place.resolve().parent.name:
        place = place.resolve().parent
    return place.resolve().stem


def _made_by(place: Path) -> str:
    """``uni`` of a folder ``features_uni``, as TRIDENT names it."""
    name = place.resolve().name
    return name.removeprefix("features_") if name.startswith("features_") else "tokens"
