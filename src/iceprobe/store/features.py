"""``features:FILE`` → a store whose tokens stay in the user's files, read when they are asked for.

One pass over them comes first, an example at a time: it finds what isn't finite, computes the means, and
hashes the content, which is the store's identity.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets import load_dataset
from iceprobe.datasets.feature_files.content import Content
from iceprobe.datasets.feature_files.examples import Read, state_of
from iceprobe.datasets.features import AT_ONCE, FeatureSplit
from iceprobe.datasets.token_split import FeatureSet
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.settings import SHARD_IMAGES
from iceprobe.store.assembled import given_store
from iceprobe.store.given_arrays import Rounded, common_dtype, finite_of, mean_of
from iceprobe.store.layout import COLUMN, Layout
from iceprobe.store.reader import Store
from iceprobe.store.shards import LENGTH
from iceprobe.store.split import Held, StoredSplit
from iceprobe.tokens import TokenShape

SHARD_BYTES = 2**30  # of a shard, about, should it be saved
BYTES_AT_ONCE = 2**24  # of tokens that are read at once, if an example is smaller


@shows_progress
def load_features(
    features: str | FeatureSet,
    *,
    progress: ProgressCallback | bool | None = None,
    **options: Any,
) -> Store:
    """A store of tokens that somebody has extracted already, which stay in their files.

    Args:
        features: ``features:FILE?target=NAME`` (docs/tokens.md), or what `iceprobe.load_dataset` gives of it.
        progress: called with ``("read SPLIT", done, total)``; by default a bar in a terminal or a
            notebook, and ``False`` shows nothing.
        **options: options of the spec as keyword arguments.

    Returns:
        A store whose ``path`` is None, and whose identity is the content's hash. The files must stay as
        they are while it is used.

    Raises:
        IceprobeError: for what can't be read, isn't finite or doesn't fit, naming file and example.
    """
    dataset = load_dataset(features, **options)
    if not isinstance(dataset, FeatureSet):
        raise IceprobeError(
            f"{shown(features)} are no tokens of your own: name them as features:FILE, or extract tokens of "
            "images, iceprobe.extract(backbone, data)"
        )
    parts, (shape, dtype) = _parts(dataset), form_of(dataset)
    held, hashes, show = {}, {}, callback(progress)
    for name, part in parts.items():
        report = None if show is None else partial(show, f"read {name}")
        tensors, (content, beside) = _read_once(part, shape, dtype, report)
        hashes[name] = content + beside
        if part.examples.names is None:
            part.content = content
        held[name] = _split(part, tensors, shape, dtype)
    each = max(1, shape.num_tokens) * shape.dim * dtype.itemsize
    shard_images = max(1, min(SHARD_IMAGES, SHARD_BYTES // each))
    return given_store(dataset, held, shape, dtype, hashes, dataset.backbone, shard_images)


def unchanged(store: Store) -> bool:
    """Whether the files of a store that `load_features` gave are as they were."""
    dataset = store.dataset()
    examples = [one.examples for one in dataset.splits.values() if isinstance(one, FeatureSplit)]
    return all(state_of(place) == was for one in examples for place, was in one.states.items())


def _parts(dataset: FeatureSet) -> dict[str, FeatureSplit]:
    return {name: one for name, one in dataset.splits.items() if isinstance(one, FeatureSplit)}


def form_of(dataset: FeatureSet) -> tuple[TokenShape, torch.dtype]:
    """The shape of all splits' tokens, and the dtype in which they are stored; no token is read.

    Raises:
        IceprobeError: if splits differ in it, or a grid doesn't fit.
    """
    parts = _parts(dataset)
    (name, first), *others = parts.items()
    for other, part in others:
        for what, mine, its in (
            ("width D", first.examples.dim, part.examples.dim),
            ("tokens an example", first.examples.lengths is None, part.examples.lengths is None),
            ("grid", first.examples.grid, part.examples.grid),
            ("shape of further arrays", first.examples.forms, part.examples.forms),
        ):
            if mine != its:
                raise IceprobeError(
                    f"the {what} of {name!r} ({first.examples.where(0)}) and {other!r} "
                    f"({part.examples.where(0)}) differ, {mine} and {its}: give tokens of one encoder"
                )
    examples = first.examples
    prefix = examples.forms.get("prefix", (0, 0))[0]
    pooled = {"pooled": examples.forms["pooled"][0]} if "pooled" in examples.forms else {}
    lengths = [
        part.examples.lengths[part.rows]
        for part in parts.values()
        if part.examples.lengths is not None
    ]
    together = np.concatenate(lengths) if lengths else np.zeros(1, np.int64)
    low, high = int(together.min()), int(together.max())
    grid = examples.grid
    if grid is not None and (low != high or int(np.prod(grid)) != low):
        raise IceprobeError(
            f"{examples.where(0)}: a grid of {grid} has not {low if low == high else f'{low} to {high}'} "
            "tokens: take the array out, or mend it"
        )
    shape = TokenShape(
        dim=examples.dim,
        num_tokens=round(float(together.mean())),
        num_prefix=prefix,
        grid=grid,
        has_class=dataset.has_class and prefix > 0,
        vectors=pooled,
        lengths=None if low == high else (low, high),
        coords=examples.forms.get("coords", (0,))[0],
    )
    named = (getattr(torch, part.examples.dtype) for part in parts.values())
    return shape, common_dtype(*(torch.empty(0, dtype=one) for one in named))


def _read_once(
    part: FeatureSplit, shape: TokenShape, dtype: torch.dtype, report: Any
) -> tuple[dict[str, Tensor], tuple[str, str]]:
    """The small tensors of a split, and the hashes of its tokens and of what is beside them.

    Raises:
        IceprobeError: naming the first example that isn't finite, or a dimension that float32 rounds
            too much.
    """
    n, examples = len(part), part.examples
    found = {
        "prefix": torch.empty(n, shape.num_prefix, shape.dim, dtype=dtype),
        "mean": torch.empty(n, shape.dim),
        **{name: torch.empty(n, width) for name, width in shape.vectors.items()},
    }
    content, beside, rounded = Content(), Content(), Rounded(dtype)
    size = max(1, shape.longest) * shape.dim * dtype.itemsize
    at_once = max(1, min(AT_ONCE if size > 2**14 else 2**14, BYTES_AT_ONCE // size))
    for start in range(0, n, at_once):
        rows = part.rows[start : start + at_once].tolist()
        read = examples.read("features", rows)
        _check_finite(read, part, start)
        for one in read:
            content.add(one)
        if not isinstance(read, Tensor) and not shape.ragged:
            read = torch.stack(read) if len(read) > 1 else read[0][None]
        kept: Held = (
            rounded.add(read) if isinstance(read, Tensor) else [rounded.add(one) for one in read]
        )
        found["mean"][start : start + len(rows)] = mean_of(kept)
        for name in examples.forms:
            further = examples.read(name, rows)
            _check_finite(further, part, start, f"its {name} ")
            for i, one in enumerate(further, start):
                beside.add(one)
                if name in found:
                    found[name][i] = one
        if report is not None:
            report(min(n, start + at_once), n)
    rounded.check(f"tokens of {part.name!r}")
    return found, (content.hexdigest(), beside.hexdigest() if examples.forms else "")


def _check_finite(read: Read, part: FeatureSplit, start: int, what: str = "it ") -> None:
    """Refuse what isn't finite of the examples from ``start`` on."""
    if (finite := finite_of(read)).all():
        return
    row = start + int((~finite).nonzero()[0])
    raise IceprobeError(
        f"{part.examples.where(int(part.rows[row]))}, example {shown(part.names[row])} of {part.name!r}: "
        f"{what}is not finite (NaN or infinite): mend it, or leave it out"
    )


def _split(
    part: FeatureSplit, tensors: dict[str, Tensor], shape: TokenShape, dtype: torch.dtype
) -> StoredSplit:
    """A split that reads its tokens from the files."""
    n, examples = len(part), part.examples
    held = {
        **tensors,
        "label": torch.from_numpy(part.labels),
        "index": torch.arange(n),
        **{COLUMN + name: torch.from_numpy(one.codes) for name, one in part.columns.items()},
    }
    layout: Layout = {}
    sources = {"patches": "features", "coords": "coords"}
    if examples.lengths is not None:
        tokens = -1 if shape.ragged else shape.num_tokens
        layout["patches"] = (dtype, (tokens, shape.dim))
        if shape.coords:
            layout["coords"] = (torch.float32, (tokens, shape.coords))
        if shape.ragged:
            held[LENGTH] = torch.from_numpy(examples.lengths[part.rows])
    layout |= {name: (one.dtype, tuple(one.shape[1:])) for name, one in held.items()}

    def gather(name: str, rows: np.ndarray, out: Tensor) -> None:
        if name in held:
            torch.index_select(held[name], 0, torch.from_numpy(rows), out=out)
            return
        for first in range(0, len(rows), AT_ONCE):
            wanted = rows[first : first + AT_ONCE]
            fill(out[first:], examples.read(sources[name], part.rows[wanted].tolist()))

    def whole(name: str) -> Tensor:
        if name in held:
            return held[name]
        read = examples.read(sources[name], part.rows.tolist())
        found = read if isinstance(read, Tensor) and not shape.ragged else torch.cat([*read])
        return found.to(layout[name][0])

    return StoredSplit(
        whole,
        gather,
        shape=shape,
        layout=layout,
        resident=np.zeros(n, bool),
        in_memory=False,
    )


def fill(out: Tensor, found: Read) -> None:
    """Copy tokens ``(N_i, …)`` to the first N_i rows of each of ``out (b, L, …)``."""
    if isinstance(found, Tensor):
        out[: len(found), : found.shape[1]] = found
        return
    for row, one in enumerate(found):
        out[row, : len(one)] = one
