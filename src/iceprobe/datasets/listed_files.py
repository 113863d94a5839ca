"""Paths that a table lists → files that are there, below one folder or a prefix on object storage."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.cells import Rows, class_name, kind_of, plain
from iceprobe.datasets.walking import EXTENSIONS, SOUNDS, VIDEOS, AnyPath, unreadable
from iceprobe.machine.object_storage import RemotePath, is_remote

# What every row needs, and its endings.
_EXAMPLES = {"image": EXTENSIONS, "video": VIDEOS, "sound": SOUNDS}
_LOOKED_AT = 2000  # folders in which a missing image is looked for


def file_names(
    rows: Mapping[str, Rows], column: str, root: AnyPath, *, suffix: str = "", what: str = "image"
) -> dict[str, list[str | None]]:
    """Names of the files in a column, relative to ``root``, or absolute; ``None`` for an empty cell.

    Args:
        suffix: what each path lacks, ``".jpg"``.
        what: ``"image"``, ``"video"`` or ``"sound"``, which every row needs, or ``"mask"``.

    Raises:
        IceprobeError: naming the row of the first path that is empty, leads out of ``root``, is on
            another host, or isn't there.
    """
    found: dict[str, list[str | None]] = {}
    for split, one in rows.items():
        found[split] = []
        for row, value in enumerate(one.values[column]):
            given = plain(value)
            kind = "text" if isinstance(given, str) and given else kind_of(given)
            if kind in ("empty", "unknown"):
                if what in _EXAMPLES:
                    raise IceprobeError(
                        f"{one.place(row)} has no {what} in column {column!r}: fill it in, or remove "
                        "the row"
                    )
                found[split].append(None)
                continue
            if kind in ("list", "other", "flag"):
                raise IceprobeError(
                    f"{one.place(row)}: {shown(given)} in column {column!r} is no path: pass "
                    f"{what}=COLUMN"
                )
            found[split].append(_below(class_name(given) + suffix, root, one.place(row), what))
    _check_there(found, rows, root, what)
    return found


def _below(path: str, root: AnyPath, place: str, what: str) -> str:
    """A path relative to ``root``, or absolute on this machine."""
    local = not isinstance(root, RemotePath)
    if local and os.path.isabs(path):
        path = os.path.normpath(path)
    whole = str(root) if isinstance(root, RemotePath) else os.path.abspath(root)
    path = path.removeprefix(f"{whole.rstrip('/')}/")
    if ":/" in path and is_remote(path):
        raise IceprobeError(
            f"{place}: {what} {shown(path)} is a URL: write paths below one place, and pass {_option(what)}=URL "
            "for it"
        )
    if os.path.isabs(path):
        if local:
            return path
        raise IceprobeError(
            f"{place}: {what} {shown(path)} is a path of a machine, and the {what}s are at {root}: "
            "write paths below that"
        )
    path = os.path.normpath(path)
    if path.split(os.sep)[0] == os.pardir:
        raise IceprobeError(
            f"{place}: {what} {shown(path)} leads out of {str(root)!r}: pass {_option(what)}=DIR, the folder "
            "that all of them are below"
        )
    return path


def _check_there(
    found: Mapping[str, Sequence[str | None]],
    rows: Mapping[str, Rows],
    root: AnyPath,
    what: str,
) -> None:
    listed = root.find() if isinstance(root, RemotePath) else None
    missing = [
        (split, row, name)
        for split, names in found.items()
        for row, name in enumerate(names)
        if name is not None and not (name in listed if listed is not None else _is_file(root, name))
    ]
    if not missing:
        return
    split, row, name = missing[0]
    total = sum(map(len, found.values()))
    more = ", ".join(shown(one) for _, _, one in missing[1:3])
    more = f"; {len(missing):,} of {total:,} aren't there, next {more}" if more else ""
    raise IceprobeError(
        f"{rows[split].place(row)}: no {what} {shown(name)} in {str(root)!r}{more}: "
        f"{_remedy(root, name, what)}"
    )


def _option(what: str) -> str:
    """The option that names the folder of such files."""
    return "images" if what in _EXAMPLES else f"{what}s"


def _is_file(root: AnyPath, name: str) -> bool:
    try:
        return os.path.isfile(os.path.join(str(root), name))
    except ValueError:  # a zero byte
        return False


def _remedy(root: AnyPath, name: str, what: str) -> str:
    """What to pass, if the file is found under another name or folder."""
    usual = (
        f"pass {_option(what)}=DIR, the folder that the paths are relative to, or remove the rows"
    )
    if isinstance(root, RemotePath):
        return usual
    if "\\" in name and _is_file(root, name.replace("\\", "/")):
        return "write / in place of \\ in the paths"
    endings = _EXAMPLES.get(what, ())
    suffix = next((end for end in endings if _is_file(root, name + end)), None)
    if suffix is not None:
        return f"pass suffix={suffix}, which the paths lack"
    nearby = _nearby(root, name)
    return usual if nearby is None else f"pass {_option(what)}={nearby}, where it is"


def _nearby(root: Path, name: str) -> str | None:
    """A folder around, below or here in which the file is."""
    around = [Path.cwd(), *list(root.resolve().parents)[:3]]
    for folder in around:
        if _is_file(folder, name):
            return str(folder)

    def stop(error: OSError) -> None:
        raise unreadable(error, root) from error

    if root.is_dir():
        for seen, (here, _, _) in enumerate(os.walk(root, onerror=stop)):
            if seen > _LOOKED_AT:
                break
            if _is_file(Path(here), name):
                return os.path.normpath(here)
    return None
