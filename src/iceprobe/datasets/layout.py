"""Which folders of ``folder:DIR`` are its splits, by their names.

The usual words for training, validation and test, in upper or lower case, are read as splits, and the
choice is reported. Folders that look like splits and can't be read as such are refused: as classes,
they would give a meaningless result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.walking import AnyPath, folders_in, some

# The first of each is iceprobe's own name.
WORDS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
}
_AROUND = r"images?|imgs?|data|dataset|set|split|new|final|v?\d+"
_SPLIT_LIKE = re.compile(
    rf"(?:(?:{_AROUND})[\W_]*)*(?:{'|'.join(word for words in WORDS.values() for word in words)})"
    rf"(?:[\W_]*(?:{_AROUND}))*|(?:fold|split)[\W_]*\d+|(?:hold|held)[\W_]?out"
)


@dataclass(frozen=True)
class Layout:
    """The folders of the splits, relative to the data set's, and a line for each assumption."""

    train: str
    test: str
    assumed: tuple[str, ...] = ()


def role_of(name: str) -> str | None:
    """``train``, ``test`` or ``val`` if a folder's name is a word for it."""
    return next((role for role, words in WORDS.items() if name.casefold() in words), None)


def find_layout(
    root: AnyPath,
    *,
    split: str | None,
    train: str | None,
    test: str | None,
    source: str = "folder",
    what: str = "images",
) -> Layout | None:
    """The folders of the splits, or ``None`` if there are none.

    Args:
        root: the data set's folder.
        split: ``"test"`` or ``"val"``: which of the two is the test split.
        train, test: the folders, if they have unusual names.
        source, what: of the spec, and of the files, for a remedy.

    Raises:
        IceprobeError: if folders look like splits and can't be read as such, or a folder asked for
            is missing.
    """
    folders = folders_in(root)
    by_role = {role: [name for name in folders if role_of(name) == role] for role in WORDS}
    train, test = train or None, test or None  # `?train=` names none
    named = train is not None or test is not None
    if split is not None and not named and not by_role["train"]:
        raise IceprobeError(
            f"folder {str(root)!r} has no train/ beside {split}/: make one, or drop split={split}"
        )
    asked = named or split is not None
    if not asked and not (by_role["train"] and (by_role["test"] or by_role["val"])):
        _refuse_what_looks_like_splits(root, folders, source, what)
        return None
    chosen = _named(root, train, "train") or _pick(root, by_role["train"], "train")
    reported = _named(root, test, "test") or _test_folder(root, by_role, split)
    if chosen is None or reported is None:
        missing = "train" if chosen is None else "test"
        raise IceprobeError(
            f"folder {str(root)!r} has no folder for {missing}: name it as {missing}=FOLDER"
        )
    if chosen == reported:
        raise IceprobeError(f"train and test of {str(root)!r} are both {test!r}: name two")
    return Layout(chosen, reported, () if asked else _assumed(root, chosen, reported, folders))


def assumed_classes(root: AnyPath) -> list[str]:
    """A line if folders named like splits are read as classes, because they hold no folders."""
    alike = [name for name in folders_in(root) if _looks_like_a_split(name)]
    if not alike:
        return []
    what = "it is read as a class" if len(alike) == 1 else "they are read as classes"
    return [
        f"{some(alike)} of folder {str(root)!r} may be named after a split and "
        f"{'has' if len(alike) == 1 else 'have'} no class folders: {what}"
    ]


def refuse_splits_below(root: AnyPath, names: Sequence[str], source: str = "folder") -> None:
    """Refuse splits below classes, such as ``cat/train/…``; ``names`` are relative to ``root``."""
    found: dict[str, set[str]] = {}
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if len(parts) > 2 and role_of(parts[1]):
            found.setdefault(parts[0], set()).add(parts[1])
    for folder, inner in sorted(found.items()):
        roles = {role_of(name) for name in inner}
        if "train" in roles and len(roles) > 1:
            raise IceprobeError(
                f"folder {str(root)!r} has splits below {folder}/ ({some(sorted(inner))}), not on "
                f"top: pass {source}:{root / folder} if that is the data set, put the splits above "
                "the classes, or pass flat=true to mix them"
            )


def _looks_like_a_split(name: str) -> bool:
    return bool(_SPLIT_LIKE.fullmatch(name.casefold()))


def _named(root: AnyPath, name: str | None, option: str) -> str | None:
    """A folder that was given by name."""
    if name is None:
        return None
    clean = name.strip("/")
    if not clean or ".." in clean.split("/") or not (root / clean).is_dir():
        raise IceprobeError(
            f"option {option}={name!r}: no such folder in {str(root)!r}, it has "
            f"{some(folders_in(root), 12) or 'none'}"
        )
    return clean


def _pick(root: AnyPath, candidates: Sequence[str], role: str) -> str | None:
    """The folder for a role: the plain name if it exists, else the only candidate."""
    if role in candidates or len(candidates) < 2:
        return role if role in candidates else next(iter(candidates), None)
    option = "train" if role == "train" else "test"
    raise IceprobeError(
        f"folder {str(root)!r} has several folders for {option}: {some(candidates)}; name one, "
        f"as {option}={candidates[0]}"
    )


def _test_folder(root: AnyPath, by_role: dict[str, list[str]], split: str | None) -> str | None:
    if split is not None and not by_role[split]:
        raise IceprobeError(f"folder {str(root)!r} has no {split}/: drop split={split}")
    role = split or ("test" if by_role["test"] else "val")
    return _pick(root, by_role[role], role)


def _assumed(root: AnyPath, train: str, test: str, folders: Sequence[str]) -> tuple[str, ...]:
    """A line on the choice, unless the folders are ``train/`` and ``test/`` alone."""
    unread = [name for name in folders if name not in (train, test)]
    if (train, test) == ("train", "test") and not unread:
        return ()
    line = f"folder {str(root)!r}: {train}/ is read as train and {test}/ as test"
    return (f"{line}; {some(unread)} left unread" if unread else line,)


def _refuse_what_looks_like_splits(
    root: AnyPath, folders: Sequence[str], source: str, what: str
) -> None:
    """Folders named like splits may be classes only beside others, with images directly in them."""
    alike = [name for name in folders if _looks_like_a_split(name)]
    nested = [name for name in alike if folders_in(root / name)]
    if not alike or (not nested and len(alike) < len(folders)):
        return
    shown = some(nested or alike)
    if not nested:
        raise IceprobeError(
            f"folder {str(root)!r} looks like splits ({shown}) with {what} but no class folders in "
            f"them, so labels are missing: put the {what} of each class in a folder of its own, or "
            "pass flat=true if these are the classes"
        )
    remedies = ["name two as train=FOLDER&test=FOLDER", "pass flat=true if these are the classes"]
    if train := [name for name in nested if role_of(name) == "train"]:
        remedies.insert(0, f"add one, pass {source}:{root / train[0]} to split it")
        trouble = f"has {train[0]}/ but neither test/ nor val/ beside it ({some(folders)})"
    else:
        trouble = (
            f"looks like splits ({shown}), but there is no train/ with test/ or val/ beside it"
        )
    raise IceprobeError(
        f"folder {str(root)!r} {trouble}: {', '.join(remedies[:-1])}, or {remedies[-1]}"
    )
