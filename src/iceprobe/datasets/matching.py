"""Outputs of a run ↔ classes, tags or numbers of another data set, by their names.

A run predicts K outputs. Another set may name some of them, in any order. An output goes by its name; a
class of ImageNet-1k by its WordNet id as well. A set may give ``maps`` (`Dataset.maps`), a class of it →
several of the run: the logit of such a group is the maximum of theirs, and a prediction is right if the
highest logit is of the true class's group (ObjectNet).

    all       outputs of the run, with groups merged: the prediction may be a class that the set lacks
    masked    outputs that the set names and no others, where an example has one of its outputs
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown

NOWHERE = -1


@dataclass(frozen=True)
class Matching:
    """How the outputs of a run are read on another set.

    Attributes:
        names: of the outputs that are read, K'.
        outputs: ``(K,)`` int64, the place of each output of the run in ``names``; −1: left out.
        targets: ``(C,)`` int64, the place of each class (tag, number) of the set; −1: none.
    """

    names: list[str]
    outputs: NDArray[np.int64]
    targets: NDArray[np.int64]

    @cached_property
    def whole(self) -> bool:
        """Whether the outputs of the run are read as they are."""
        return np.array_equal(self.outputs, np.arange(len(self.names)))

    @property
    def without(self) -> int:
        """How many outputs of the run are no class of the set."""
        return len(np.setdiff1d(np.arange(len(self.names)), self.targets))

    def masked(self) -> "Matching":
        """The same without the outputs that are no class of the set."""
        kept = np.intersect1d(self.targets, np.arange(len(self.names)))
        place = np.full(len(self.names) + 1, NOWHERE)  # the last one is of −1
        place[kept] = np.arange(len(kept))
        names = [self.names[one] for one in kept]
        return Matching(names, place[self.outputs], place[self.targets])


def matched(
    ours: Sequence[str],
    theirs: Sequence[str],
    occurring: Iterable[int],
    maps: Mapping[str, Sequence[str]],
    what: str,
) -> Matching:
    """Match the outputs ``ours`` of a run with the names ``theirs`` of another set.

    Args:
        ours: K names.
        theirs: C names.
        occurring: those of them that have to be found.
        maps: of some of them, the names of ours that stand for it.
        what: the set and what its names are, for errors: ``"class of folder:/x"``.

    Raises:
        IceprobeError: naming one that the run doesn't predict, with the nearest that it does, or two that
            would share an output.
    """
    find = _Finder(ours)
    needed = set(occurring)
    groups: list[list[int]] = []
    for number, name in enumerate(theirs):
        found = [find(other) for other in maps.get(name, [name])]
        if None in found and number in needed:
            missing = maps.get(name, [name])[found.index(None)]
            raise IceprobeError(_unknown(what, str(name), str(missing), ours))
        groups.append([] if None in found else sorted({one for one in found if one is not None}))
    _check_apart(groups, theirs, ours, what)
    if not maps:
        targets = np.array([group[0] if group else NOWHERE for group in groups], np.int64)
        return Matching([str(name) for name in ours], np.arange(len(ours)), targets)
    # The set's own classes first, then the outputs of the run that stand for none of them.
    outputs = np.full(len(ours), NOWHERE)
    targets = np.full(len(theirs), NOWHERE)
    names: list[str] = []
    for place, group in enumerate(groups):
        if group:
            outputs[group] = targets[place] = len(names)
            names.append(str(theirs[place]))
    rest = np.flatnonzero(outputs == NOWHERE)
    outputs[rest] = len(names) + np.arange(len(rest))
    return Matching([*names, *(str(ours[int(one)]) for one in rest)], outputs, targets)


class _Finder:
    """A name → its place in a list; else the place of the same class of ImageNet-1k."""

    def __init__(self, names: Sequence[str]):
        self.names = [str(name) for name in names]
        self.place = {name: number for number, name in enumerate(self.names)}

    def __call__(self, name: str) -> int | None:
        name = str(name)
        return self.place[name] if name in self.place else self._of_imagenet.get(self._plain(name))

    @cached_property
    def _of_imagenet(self) -> dict[str | None, int]:
        found = {self._plain(name): number for number, name in enumerate(self.names)}
        found.pop(None, None)
        return found

    def _plain(self, name: str) -> str | None:
        from iceprobe.datasets.imagenet import other_names

        return other_names().get(name)


def _check_apart(
    groups: Sequence[Sequence[int]], theirs: Sequence[str], ours: Sequence[str], what: str
) -> None:
    """Refuse two classes of a set that are the same output of the run."""
    taken: dict[int, int] = {}
    for number, group in enumerate(groups):
        for output in group:
            if output in taken:
                raise IceprobeError(
                    f"{what}: {shown(theirs[taken[output]])} and {shown(theirs[number])} are both "
                    f"{shown(ours[output])} of the run: give each of them outputs of its own"
                )
            taken[output] = number


def _unknown(what: str, name: str, missing: str, ours: Sequence[str]) -> str:
    names = [str(one) for one in ours]
    plain = {one.casefold().replace("_", " "): one for one in names}  # whatever the spelling
    close = difflib.get_close_matches(missing.casefold().replace("_", " "), plain, n=3, cutoff=0.5)
    near = [plain[one] for one in close]
    mapped = f" stands for {shown(missing)}, which" if name != missing else ""
    nearest = f"; the nearest are {', '.join(map(shown, near))}" if near else ""
    return (
        f"{what} {shown(name)}{mapped} is none of the {len(names)} that the run predicts{nearest}: "
        "rename it, or leave its examples out"
    )
