"""Tokens made elsewhere → an ordinary store in memory.

    iceprobe.from_tokens({"train": (X, y), "test": (Xt, yt)})

X ``(n, D)`` is one vector an example. It is stored as ``mean``, which k-NN and linear probes read;
there are no patch tokens. X ``(n, N, D)`` are patch tokens, whose mean is computed; so is a list of
``(N_i, D)``, an example each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import shown
from iceprobe.core.trust import plain_name
from iceprobe.datasets.base import TRAIN, Column, Dataset
from iceprobe.datasets.cells import names_of
from iceprobe.datasets.columns import without_group
from iceprobe.datasets.given_targets import GivenTargets, read_targets
from iceprobe.datasets.token_split import TokenSplit, hash_names
from iceprobe.settings import GivenTokens
from iceprobe.store.assembled import given_spec, given_store
from iceprobe.store.given_arrays import (
    as_held,
    as_stored,
    as_tensor,
    common_dtype,
    content_hash,
    even,
    like,
    mean_of,
    width,
)
from iceprobe.store.layout import COLUMN
from iceprobe.store.reader import Store
from iceprobe.store.shards import LENGTH
from iceprobe.store.split import Held, memory_split
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import TokenShape

HOW = 'give {"train": (X, y), "test": (X, y)}'


@takes(GivenTokens)
def from_tokens(splits: Mapping[str, tuple[Any, Any]], *, call: GivenTokens) -> Store:
    """A store in memory of tokens that somebody has already extracted.

    Args:
        splits: ``(X, y)`` by split, ``"train"`` among them. X is ``(n, D)``, one vector an example, or
            ``(n, N, D)`` tokens, or a list of ``(N_i, D)`` where examples differ in their number of
            tokens, of NumPy or torch; y is a class (text or a whole number), 0 and 1 a
            tag, ``(n, K)``, NaN where it isn't known, or one or several floats an example.
        settings: an :class:`iceprobe.settings.GivenTokens`, or its options as keywords.

    The task follows from y. float16, bfloat16 and float32 are stored as they are and not copied, so don't
    change them afterwards; float64 becomes float32, in which k-NN and probes compute.

    Returns:
        A store whose ``path`` is None and whose identity is the content's hash. What needs a backbone or
        images says that there are none.

    Raises:
        IceprobeError: for what isn't such arrays, naming the split and the row.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(60, 8)), np.repeat(["cat", "dog", "owl"], 20)
        >>> from_tokens({"train": (x, y), "test": (x[::2], y[::2])}).classes
        ['cat', 'dog', 'owl']
    """
    pairs = _pairs(splits)
    targets = read_targets(
        {split: y for split, (_, y) in pairs.items()}, call.task, call.classes, call.name
    )
    names = _names({split: len(y) for split, y in targets.arrays.items()}, call.names)
    x, prefix = _tokens({split: given for split, (given, _) in pairs.items()}, names, call)
    coords = _coords(x, call)
    hashes = {
        split: content_hash(x[split], prefix[split], *([coords[split]] if coords else []))
        for split in x
    }
    # Named examples are the same in other tokens of them.
    contents = hashes if call.names is None else {s: hash_names(one) for s, one in names.items()}
    dataset = _dataset(targets, names, contents, call)
    log_assumptions(dataset.assumed)

    first, count = x[TRAIN], prefix[TRAIN].shape[1]
    several = isinstance(first, list) or first.ndim == 3
    lengths = {split: torch.tensor([*map(len, one)]) for split, one in x.items()} if several else {}
    every = torch.cat([*lengths.values()]) if several else torch.zeros(1)
    ragged = isinstance(first, list)
    shape = TokenShape(
        dim=width(first),
        num_tokens=round(float(every.double().mean())),
        num_prefix=count,
        grid=call.grid,
        has_class=call.has_class and count > 0,
        lengths=(int(every.min()), int(every.max())) if ragged else None,
        coords=width(coords[TRAIN]) if coords else 0,
        parts=call.parts,
    )
    held = {}
    for split, part in dataset.splits.items():
        tensors = {
            **({"patches": x[split]} if several else {}),
            **({"coords": coords[split]} if coords else {}),
            **({LENGTH: lengths[split]} if ragged else {}),
            "prefix": prefix[split],
            "mean": mean_of(x[split]),
            "label": torch.from_numpy(part.labels),
            "index": torch.arange(len(part)),
            **{COLUMN + name: torch.from_numpy(one.codes) for name, one in part.columns.items()},
        }
        held[split] = memory_split(tensors, shape)
    return given_store(dataset, held, shape, prefix[TRAIN].dtype, hashes, call.backbone)


def _pairs(splits: Any) -> dict[str, tuple[Any, Any]]:
    """X and y by split."""
    if not isinstance(splits, Mapping):
        raise IceprobeError(f"from_tokens(splits={shown(type(splits).__name__)}): {HOW}")
    if TRAIN not in splits:
        raise IceprobeError(
            f"splits {', '.join(map(shown, splits)) or 'none'} are given, and no 'train': {HOW}"
        )
    for name, pair in splits.items():
        try:
            plain_name(name)
        except (ValueError, TypeError):
            raise IceprobeError(f"split {shown(name)} has no plain name: {HOW}") from None
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise IceprobeError(f"split {name!r} is no pair of X and y: {HOW}")
    return {name: (x, y) for name, (x, y) in splits.items()}


def _dataset(
    targets: GivenTargets,
    names: Mapping[str, list[str]],
    contents: Mapping[str, str],
    call: GivenTokens,
) -> Dataset:
    """The examples as a data set without images."""
    task = get_task(targets.task)
    task.metric(call.metric)  # refused if there is none
    columns, slices, lines = _columns({split: len(one) for split, one in names.items()}, call)
    assumed = [*targets.assumed, *lines]
    if call.prefix is not None and "has_class" not in call.model_fields_set:
        assumed.append(
            "the first prefix token is read as the class token (has_class=False: as none)"
        )
    parts = {
        split: TokenSplit(
            split,
            array,
            names[split],
            content=contents[split],
            task=targets.task,
            columns={name: column[split] for name, column in columns.items()},
        )
        for split, array in targets.arrays.items()
    }
    return Dataset(
        given_spec("name", call.name),
        call.name,
        targets.classes,
        parts,
        headline=call.metric or task.primary,
        assumed=assumed,
        units=_units(call.units, targets.task, len(targets.classes)),
        group="group" if call.groups is not None else None,
        fold="fold" if call.folds is not None else None,
        slices=slices,
    )


def _tokens(
    given: Mapping[str, Any], names: Mapping[str, list[str]], call: GivenTokens
) -> tuple[dict[str, Held], dict[str, Tensor]]:
    """X and prefix tokens of each split as they are stored, all of one dtype."""
    x = even({split: as_held(one, f"X of {split!r}") for split, one in given.items()})
    _check_tokens(x, names, call)
    prefix = _prefixes(x, call)
    dtype = common_dtype(*map(like, x.values()), *prefix.values())
    return (
        {s: as_stored(one, dtype, f"X of {s!r}", names[s]) for s, one in x.items()},
        {s: as_stored(one, dtype, f"prefix of {s!r}", names[s]) for s, one in prefix.items()},
    )


def _coords(x: Mapping[str, Held], call: GivenTokens) -> dict[str, Held]:
    """Coordinates of each split's tokens, float32; empty where none are given."""
    if call.coords is None:
        return {}
    found = {}
    for split, one in _by_split("coords", call.coords, x).items():
        held, tokens = as_held(one, f"coords of {split!r}"), x[split]
        held = list(held) if isinstance(tokens, list) else held
        fits = len(held) == len(tokens) and like(held).ndim == like(tokens).ndim == 3
        if not fits or [*map(len, held)] != [*map(len, tokens)]:
            raise IceprobeError(
                f"coords of {split!r} aren't of these tokens: give (N_i, k) of each example, k numbers "
                "of each of its tokens, in the order down, right (time first)"
            )
        what = f"coords of {split!r}"
        found[split] = as_stored(held, torch.float32, what, [str(i) for i in range(len(held))])
    if len({width(one) for one in found.values()}) > 1:
        raise IceprobeError(f"coords have {[*map(width, found.values())]} numbers a token: give k")
    return found


def _check_tokens(
    given: Mapping[str, Held], names: Mapping[str, list[str]], call: GivenTokens
) -> None:
    first = given[TRAIN]
    for split, x in given.items():
        if isinstance(x, list):
            _check_list(x, split, names[split], first)
            continue
        if x.ndim not in (2, 3):
            channels = " (X.reshape(n, H * W, D) with grid=(H, W))" if x.ndim == 4 else ""
            raise IceprobeError(
                f"X of {split!r} has the shape {tuple(x.shape)}: give one vector an example, (n, D), "
                f"or tokens, (n, N, D){channels}"
            )
        if not x.numel():
            raise IceprobeError(f"X of {split!r} is empty, {tuple(x.shape)}: leave the split out")
        if len(x) != len(names[split]):
            raise IceprobeError(
                f"X of {split!r} has {len(x):,} examples and y {len(names[split]):,}: give one target "
                "an example"
            )
        if not isinstance(first, list) and x.shape[1:] != first.shape[1:]:
            raise IceprobeError(
                f"X of 'train' is {tuple(first.shape)} and of {split!r} {tuple(x.shape)}: give tokens "
                "of one backbone, of equal number and width, or lists of (N_i, D) where examples differ "
                "in their number"
            )
    _check_parts(first, call)
    if call.grid is None:
        return
    if isinstance(first, list):
        raise IceprobeError(
            f"grid={call.grid} is of all examples, and these differ in their number of tokens: give "
            "coords, of each token its cell"
        )
    if first.ndim == 2:
        raise IceprobeError(f"grid={call.grid} is of tokens, and X has one vector an example")
    if min(call.grid) < 1 or math.prod(call.grid) != first.shape[1]:
        raise IceprobeError(
            f"grid={call.grid} has not {first.shape[1]} tokens: give (rows, columns)"
        )


def _check_parts(first: Held, call: GivenTokens) -> None:
    """Refuse parts that the tokens can't be cut into."""
    if call.parts == 1:
        return
    had = "examples of several lengths" if isinstance(first, list) else "one vector an example"
    if isinstance(first, list) or first.ndim == 2:
        raise IceprobeError(
            f"parts={call.parts} is of tokens (n, N, D), and X has {had}: leave it out"
        )
    along = first.shape[1] if call.grid is None else call.grid[0]
    if along % call.parts:
        what = (
            f"{first.shape[1]} tokens"
            if call.grid is None
            else f"{along} first places of grid={call.grid}"
        )
        raise IceprobeError(
            f"parts={call.parts}: {what} have no {call.parts} equal parts, one after the other: give their number"
        )


def _check_list(x: list[Tensor], split: str, names: Sequence[str], first: Held) -> None:
    """Refuse what isn't a list of ``(N_i, D)``, naming the example."""
    if len(x) != len(names):
        raise IceprobeError(
            f"X of {split!r} has {len(x):,} examples and y {len(names):,}: give one target an example"
        )
    for row, one in enumerate(x):
        if one.ndim != 2 or one.shape[1] != width(first) or not len(one):
            raise IceprobeError(
                f"X of {split!r}, example {row} ({names[row]!r}) has the shape {tuple(one.shape)}: give "
                f"(N_i, {width(first)}), at least one token of the width of the first"
            )


def _prefixes(given: Mapping[str, Held], call: GivenTokens) -> dict[str, Tensor]:
    """Prefix tokens of each split, ``(n, P, D)``; P is 0 where none are given."""
    if call.prefix is None:
        dim = width(given[TRAIN])
        return {s: torch.empty(len(x), 0, dim, dtype=like(x).dtype) for s, x in given.items()}
    values = _by_split("prefix", call.prefix, given)
    found = {split: as_tensor(one, f"prefix of {split!r}") for split, one in values.items()}
    for split, prefix in found.items():
        n, dim = len(given[split]), width(given[split])
        wanted = (n, found[TRAIN].shape[1] if found[TRAIN].ndim == 3 else "P", dim)
        if prefix.ndim != 3 or tuple(prefix.shape) != wanted or not prefix.shape[1]:
            raise IceprobeError(
                f"prefix of {split!r} is {tuple(prefix.shape)}: give (n, P, D), here "
                f"{str(wanted).replace(chr(39), '')}"
            )
    return found


def _by_split(option: str, values: Any, splits: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an option, which has the same splits."""
    if not isinstance(values, Mapping) or set(values) != set(splits):
        named = ", ".join(f"{split!r}: …" for split in splits)
        raise IceprobeError(f"{option}= is of other splits: give {{{named}}}")
    return {split: values[split] for split in splits}


def _per_example(option: str, values: Any, counts: Mapping[str, int]) -> dict[str, list[Any]]:
    """The values of an option, one an example."""
    found = {}
    for split, one in _by_split(option, values, counts).items():
        listed = one.tolist() if hasattr(one, "tolist") else one
        n = counts[split]
        if not isinstance(listed, list | tuple) or len(listed) != n:
            had = f"{len(listed)}" if isinstance(listed, list | tuple) else shown(one)
            raise IceprobeError(f"{option}= of {split!r} has {had} values for {n} examples")
        found[split] = list(listed)
    return found


def _names(counts: Mapping[str, int], names: Any) -> dict[str, list[str]]:
    """Names of the examples, by default the split's and a number."""
    if names is None:
        return {s: [f"{s}/{row:06d}" for row in range(n)] for s, n in counts.items()}
    found = {
        split: [str(one) for one in listed]
        for split, listed in _per_example("names", names, counts).items()
    }
    for split, listed in found.items():
        if len(set(listed)) < len(listed):
            twice = next(one for one in listed if listed.count(one) > 1)
            raise IceprobeError(f"names= of {split!r} has {twice!r} twice: give each its own")
    return found


def _columns(
    counts: Mapping[str, int], call: GivenTokens
) -> tuple[dict[str, dict[str, Column]], list[str], list[str]]:
    """Columns by name and split, the names of those that are slices, and assumptions."""
    own = {"group": call.groups, "fold": call.folds}
    named = {
        name: names_of(_per_example(f"{name}s", values, counts))
        for name, values in own.items()
        if values is not None
    }
    lines = without_group("group", named["group"]) if "group" in named else []
    slices = {} if call.slices is None else call.slices
    if not isinstance(slices, Mapping) or not all(isinstance(v, Mapping) for v in slices.values()):
        raise IceprobeError('slices= has no names of columns: give {"site": {"train": […], …}}')
    for name, values in slices.items():
        if not isinstance(name, str) or name in own:
            raise IceprobeError(f"slices= names a column {shown(name)}: give it another name")
        named[name] = names_of(_per_example(f"slices {name!r}", values, counts))
    return {name: Column.of(one) for name, one in named.items()}, list(slices), lines


def _units(units: Sequence[str] | None, task: str, outputs: int) -> list[str]:
    if units is None:
        return []
    if task != "regression" or len(units) != outputs:
        raise IceprobeError(
            f"units={shown(list(units))}: give one for each number, and y is "
            + (f"{outputs} of them" if task == "regression" else f"of {task}")
        )
    return list(units)
