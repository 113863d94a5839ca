"""Which task columns of targets are of, by their values; what may be several things is refused.

- one column of text or whole numbers: classification; of numbers with decimals: regression;
- one column of lists, or of text with a separator: multilabel; of lists of numbers: regression;
- several columns of 0 and 1: multilabel; of other numbers: regression.
"""

from collections.abc import Sequence

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.cells import Target, class_name, kind_of, number

MANY = 50  # different whole numbers, from which on they may be a quantity


def task_of(columns: Sequence[Target], separator: str | None, task: str | None) -> tuple[str, str]:
    """The task, and the reason in words (empty if ``task`` says it).

    Raises:
        IceprobeError: naming the row of a value that is unlike the others, or what may be meant.
    """
    if len(columns) > 1:
        return _task_of_several(columns, task)
    return _task_of_one(columns[0], separator, task)


def _task_of_several(columns: Sequence[Target], task: str | None) -> tuple[str, str]:
    """The task of several columns, and the reason in words."""
    if task is not None:
        return task, ""
    for column in columns:
        column.refuse_kind("has a decimal comma: write 3.5 for 3,5", "comma")
        column.refuse(
            lambda value: number(value) is None,
            "is neither 0 nor 1 and no number, as a column of several targets holds: mend it, or "
            "name one column",
        )
    found = {number(value) for column in columns for value in column}
    known = {value for value in found if value == value}
    if known <= {0, 1}:
        return "multilabel", f"0 and 1 in {len(columns)} columns"
    if known <= {-1, 0, 1}:
        for column in columns:
            column.refuse(
                lambda value: number(value) == -1,
                "may say no, or that it isn't known: write 0, or ? where it isn't known; or pass "
                "task=regression",
            )
    return "regression", f"numbers in {len(columns)} columns"


def _task_of_one(column: Target, separator: str | None, task: str | None) -> tuple[str, str]:
    """The task of one column, and the reason in words."""
    kinds = column.kinds
    if not column.numbers + column.texts + kinds["list"] + kinds["word"] + kinds["other"]:
        raise IceprobeError(f"target {column.name!r} is empty in every row: name another column")
    column.refuse_kind("is neither text nor a number nor a list: name another column", "other")
    if separator is not None or kinds["list"]:
        return _task_of_lists(column, separator, task)
    if task is not None:
        return _overruled(column, task)
    numbers, texts = column.numbers, column.texts
    if kinds["comma"] and not kinds["text"]:
        column.refuse_kind("has a decimal comma: write 3.5 for 3,5", "comma")
    if texts and numbers > texts:
        column.refuse_kind(
            f"is no number, and {numbers:,} of {numbers + texts:,} rows hold one: mend it, or pass "
            "task=classification",
            "text", "comma",
        )  # fmt: skip
    if texts or not numbers:
        return "classification", _texts(column)
    if kinds["decimal"]:
        found = {number(value) for value in column}
        if {value for value in found if value == value} <= {0, 1}:
            return "classification", "0 and 1, if with decimals"
        whole = all(value.is_integer() for value in found if value is not None and value == value)
        return "regression", "numbers with decimals" + (", all of them whole" if whole else "")
    different = len({class_name(value) for value in column if kind_of(value) in ("whole", "flag")})
    if different > MANY:
        return "classification", (
            f"whole numbers, {different:,} different ones, each read as a class of its own; "
            "task=regression predicts the number"
        )
    return "classification", f"whole numbers, {different:,} different ones"


def _texts(column: Target) -> str:
    found = [value for value in column if isinstance(value, str) and value]
    reason = f"text, {len(set(found)):,} different ones"
    for separator in (";", "|"):
        if len(within := [value for value in found if separator in value]) * 20 > len(found):
            reason += (
                f", with {separator!r} in {len(within):,} of {len(found):,} rows "
                f"(separator={separator} reads tags)"
            )
    return reason


def _overruled(column: Target, task: str) -> tuple[str, str]:
    if task == "multilabel":
        column.refuse(
            lambda value: (
                (found := number(value)) is None or (found == found and found not in (0, 1))
            ),
            "is neither 0 nor 1: pass separator=, the text between two tags of a cell, for "
            "task=multilabel",
        )
    return task, ""


def _task_of_lists(column: Target, separator: str | None, task: str | None) -> tuple[str, str]:
    """As :func:`_task_of_one` of lists, or of text with a separator."""
    if task is not None:
        if task == "classification":
            raise IceprobeError(
                f"target {column.name!r} holds lists, and task=classification wants one class a "
                "row: pass task=multilabel, or name another column"
            )
        return task, ""
    if separator is not None:
        return "multilabel", f"lists with {separator!r} between their items"
    lists = [value for value in column if isinstance(value, list)]
    items = {kind_of(item) for value in lists for item in value} - {"unknown"}
    lengths = {len(value) for value in lists}
    if "other" in items or "list" in items:
        column.refuse_kind("is a list of lists or of other things: give text or numbers", "list")
    if not items <= {"whole", "decimal", "flag"}:
        return "multilabel", "lists of text"
    if is_multi_hot(column):
        return "multilabel", f"lists of {max(lengths)} numbers, each 0 or 1"
    if "decimal" in items:
        return "regression", "lists of numbers with decimals"
    if len(lengths) == 1:
        raise IceprobeError(
            f"target {column.name!r} holds {max(lengths)} whole numbers in every row, which may be "
            "tags or quantities: pass task=multilabel or task=regression"
        )
    return "multilabel", "lists of whole numbers"


def is_multi_hot(column: Target) -> bool:
    """Whether every list has the same length, two at least, and holds 0 and 1 only."""
    lists = [value for value in column if isinstance(value, list)]
    found = {number(item) for value in lists for item in value}
    return (
        len({len(value) for value in lists}) == 1
        and len(lists[0]) > 1
        and {value for value in found if value == value} <= {0, 1}
    )
