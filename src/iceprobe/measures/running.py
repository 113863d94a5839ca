"""``iceprobe.measure``: measures of stored tokens, without labels."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import shown
from iceprobe.machine.progress import callback, shows_progress
from iceprobe.measures.reading import Vectors, said
from iceprobe.measures.registry import MEASURES, Undefined
from iceprobe.measures.schema import Measured
from iceprobe.settings import MeasureCall
from iceprobe.store import Store


@shows_progress
@takes(MeasureCall)
def measure(
    stores: Store | str | Path | Sequence[Store | str | Path], *, call: MeasureCall
) -> list[Measured]:
    """Measure stores without labels.

    A measure that a store doesn't allow (no stored views, too few examples) is left out, and
    :attr:`Measured.missing` says why; one that is asked for by name is an error then.

    Args:
        stores: one or several, open or as folders. Those of the same examples are also compared.
        settings: an :class:`iceprobe.settings.Measuring`, or its options as keywords.

    Returns:
        One entry a store, in their order; :func:`iceprobe.frame` makes a table of them.

    Raises:
        IceprobeError: if nothing is given, a measure isn't known, a store lacks the split or the vectors, or
            has fewer than two examples.

    Examples:
        >>> import numpy as np, iceprobe
        >>> x = np.eye(8).repeat(4, 0) * np.tile([1.0, -1.0], 16)[:, None]
        >>> store = iceprobe.from_tokens({"train": (x, np.arange(32) % 2)})
        >>> round(iceprobe.measure(store)[0].values["rankme"], 3)
        8.0
    """
    given = [stores] if isinstance(stores, Store | str | Path) else list(stores)
    if not given:
        raise IceprobeError("no store was given: give one of iceprobe.extract(…), or its folder")
    names = list(dict.fromkeys(call.measures or MEASURES))
    entries = [(name, MEASURES[name]) for name in names]  # a wrong name is told before work begins
    opened = [_opened(one) for one in given]
    vectors = [Vectors(one, call) for one in opened]
    if call.measures and len(opened) < 2 and (pair := [n for n, e in entries if e.pairwise]):
        raise IceprobeError(f"{pair[0]} compares stores and one was given: give two or more")
    report = callback(call.progress)
    found = []
    for number, one in enumerate(vectors):
        found.append(_measured(one, [n for n, entry in entries if not entry.pairwise], call))
        if report:
            report("measure", number + 1, len(vectors))
    for name, entry in entries:
        if entry.pairwise:
            _compare(name, vectors, found, asked=bool(call.measures))
    return found


def _opened(one: Store | str | Path) -> Store:
    if isinstance(one, Store):
        return one
    if not isinstance(one, str | Path):
        raise IceprobeError(f"measure({shown(one)}): give stores, or their folders")
    return Store.open(one)


def _measured(one: Vectors, names: Sequence[str], call: MeasureCall) -> Measured:
    """The measures of one store alone."""
    manifest = one.store.manifest
    layer = manifest.backbone.identity.get("layer")
    made = Measured(
        store=one.store.identity,
        path=None if one.store.path is None else str(one.store.path),
        backbone=manifest.backbone.spec,
        layer=layer if isinstance(layer, int) else None,
        dataset=manifest.dataset.spec,
        split=call.split,
        input=str(one.read),
        examples=len(one.rows),
        vectors=one.count,
        dim=one.dim,
    )
    for name in names:
        try:
            made.values.update(MEASURES[name].load()(one))
        except Undefined as reason:
            if call.measures:
                raise IceprobeError(f"{name} of {said(one.store)}: {reason}") from reason
            made.missing[name] = str(reason)
    made.notes.extend(_notes(one, made))
    return made


def _notes(one: Vectors, made: Measured) -> list[str]:
    """What to know of the numbers of a store."""
    found = []
    if made.examples < len(one.split):
        found.append(f"{made.examples:,} of {len(one.split):,} examples were drawn by a seed")
    if one.read.of_tokens:
        each = made.vectors / made.examples
        found.append(f"{each:.3g} patch tokens of an example, drawn by a seed, are the vectors")
    if constant := int(one.moments.constant.sum()):
        found.append(f"{constant} of {one.dim} dimensions have one value in all vectors")
    if made.vectors <= one.dim:
        found.append(
            f"{made.vectors:,} vectors have at most {made.vectors} dimensions, of {one.dim}: measures of rank "
            "are bounded by that"
        )
    if (drawn := made.values.get("uniformity_vectors", made.vectors)) < made.vectors:
        found.append(f"uniformity is over all pairs of {int(drawn):,} vectors drawn by a seed")
    return found


def _compare(name: str, vectors: list[Vectors], found: list[Measured], *, asked: bool) -> None:
    """Add a measure of two stores to both, for every pair that has the same examples."""
    for first, second in combinations(range(len(vectors)), 2):
        one, other = vectors[first], vectors[second]
        try:
            if why := one.differ(other):
                raise Undefined(why)
            values = MEASURES[name].load()(one, other)
        except Undefined as reason:
            between = f"{said(one.store)} and {said(other.store)}"
            if asked:
                raise IceprobeError(f"{name} of {between}: {reason}") from reason
            for place in (first, second):
                found[place].missing.setdefault(name, str(reason))
            continue
        found[first].others.setdefault(found[second].store, {}).update(values)
        found[second].others.setdefault(found[first].store, {}).update(values)
