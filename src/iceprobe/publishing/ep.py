"""``ep``: a run as a row of the authors' ``results.csv``."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec
from iceprobe.machine.files import write_atomically
from iceprobe.published.authors_row import COLUMNS, row_of
from iceprobe.publishing.publication import Files, Publication
from iceprobe.results.fitted import FittedResult
from iceprobe.settings import PublishCall

_KEY = ("method", "arch", "pretrain", "image_size")  # by which a table knows a row


def as_row(
    spec: Spec, results: Sequence[FittedResult], call: PublishCall, folder: Path
) -> Publication:
    """The row, appended to the table of ``ep:FILE``, or with the header in ``ep.csv`` of the run.

    Raises:
        IceprobeError: as :func:`iceprobe.published.authors_row.row_of`, or if the file is no such table or has the row
            already (``update`` puts the new one in its place).
    """
    row = row_of(results, spec.options)
    run = results[0].run
    if not spec.name and run is None:
        raise IceprobeError("results without a run folder: name the table, ep:results.csv")
    file = Path(spec.name).expanduser() if spec.name else Path(run or "") / "ep.csv"
    rows = _table(file) if spec.name else []
    same = [at for at, one in enumerate(rows) if all(one[key] == row[key] for key in _KEY)]
    if same and not call.update:
        named = ", ".join(row[key] for key in _KEY)
        raise IceprobeError(
            f"{file} has a row of {named}: take it out, or put this one in its place with --update"
        )
    if same:
        rows[same[0]] = row
    else:
        rows.append(row)
    content = _as_csv(rows)

    def send() -> str:
        write_atomically(file, content)
        return str(file)

    return Publication(
        place=str(file),
        files=Files({file.name: content}),
        shown=file.name,
        notes=(
            "Only the authors mark a row as verified. They ask for the training logs and the winning number of queries "
            "in the pull request.",
        ),
        missing="",
        send=send,
    )


def _table(file: Path) -> list[dict[str, str]]:
    """The rows of the authors' table; none of a file that isn't there yet."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise IceprobeError(
            f"{file} is no text ({error}): name the authors' results.csv"
        ) from error
    if tuple(reader.fieldnames or ()) != COLUMNS or any(None in one for one in rows):
        raise IceprobeError(
            f"{file} doesn't have the columns of the authors' results.csv, {', '.join(COLUMNS[:4])} …: name that file, or "
            "a new one"
        )
    return rows


def _as_csv(rows: Sequence[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
