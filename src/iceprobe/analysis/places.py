"""Attention of bags written back to the coordinates of their tokens.

    FOLDER/ep12/bags.csv        file, name, tokens, truth, predicted: a row a bag
    FOLDER/ep12/slide_1.h5      attention_scores (N, 1), coords (N, 2), maps (N, M), evidence (N, K')

Rows are the tokens of the bag, in its own order. ``attention_scores`` is the mean over the M maps; it and
``coords``, which are x, then y, are what CLAM writes as ``SLIDE_blockmap.h5`` and what the heatmaps of CLAM and
TRIDENT are drawn of. ``evidence`` is there where the probe's logits are sums over tokens: for the class that was
predicted, the most probable tag, or each number. Without h5py the same arrays are in ``slide_1.npz``. One bag is
in memory at a time.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.analysis.bags import names_of
from iceprobe.analysis.evidence import has_evidence, patch_evidence
from iceprobe.analysis.maps import patch_maps
from iceprobe.analysis.measurements import Measurements
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import counted, csv_text, short_name, utf8, visible
from iceprobe.core.trust import plain_name
from iceprobe.machine.files import write_atomically
from iceprobe.machine.progress import ProgressCallback
from iceprobe.machine.temporary import new_folder
from iceprobe.store.examples import example_noun, without_grid
from iceprobe.tasks.task import Task
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe

TABLE = "bags.csv"
ORDERS = {1: "as given", 2: "x, y", 3: "time, y, x"}  # of coordinates in the files
Arrays = dict[str, NDArray]


@contextmanager
def attention_folder(path: Path, found: Sequence[Measurements]) -> Iterator[Path]:
    """A folder for the files of bags, which appears at ``path`` when the block succeeds.

    Raises:
        IceprobeError: if something else is there, or examples aren't bags.
    """
    for one in found:
        if not without_grid(one.store.manifest):
            drawn = (
                ", and --figure draws them" if example_noun(one.store.manifest) == "image" else ""
            )
            raise IceprobeError(
                f"--attention writes weights back to tokens on no grid, as those of bags, and those of "
                f"{one.result.label!r} lie on a grid: leave it out (the report has their maps{drawn})"
            )
    ours = {
        f"{folder}/{name}"
        for folder, one in zip(folders(found), found, strict=True)
        for name in (TABLE, *file_names(names_of(one.result, one.store), suffix()))
    }
    with new_folder(path, "--attention", ours) as folder:
        yield folder


def folders(found: Sequence[Measurements]) -> list[str]:
    """A folder's name for each probe."""
    return file_names([one.result.label for one in found], "")


def suffix() -> str:
    """Of the files of bags."""
    return ".npz" if find_spec("h5py") is None else ".h5"


def write_all(
    found: Sequence[Measurements], folder: Path | None, report: ProgressCallback | None
) -> list[list[str]]:
    """The files of each probe; what is said of them, nothing without a ``folder``."""
    if folder is None:
        return [[] for _ in found]
    said = []
    for one, name in zip(found, folders(found), strict=True):
        progress = report and partial(report, f"{one.result.label} to coordinates")
        said.append([_write(one, folder / name, progress)])
    return said


def _write(found: Measurements, folder: Path, progress: Callable[[int, int], None] | None) -> str:
    """One file a bag, of the first seed of a probe, and the table of them; what is said of them."""
    probe, part, task = found.probes[0].to(found.device), found.part, found.scoring.task
    names = names_of(found.result, found.store)
    files = file_names(names, suffix())
    seed = str(found.result.seeds[0]) if found.result.seeds else ""
    rows = [["file", "name", "tokens", "truth", "predicted"]]
    for row, (name, file) in enumerate(zip(names, files, strict=True)):
        tokens = part.tokens(np.array([row]), found.device, probe.read.layers or None)
        arrays, logits = written_back(probe, tokens, task)
        truth = _truth(np.asarray(part.labels)[row], found.store.classes)
        predicted = _predicted(logits, task, found.store.classes)
        said = {
            "name": visible(name),
            "probe": found.result.label,
            "seed": seed,
            "truth": visible(truth),
            "predicted": visible(predicted),
        }
        write_atomically(folder / file, _file(arrays, said))
        rows.append([file, name, str(tokens.patches.shape[1]), truth, predicted])
        if progress is not None:
            progress(row + 1, len(part))
    write_atomically(folder / TABLE, utf8(csv_text(rows)))
    order = ORDERS.get(part.shape.coords, "as given")
    where = (
        f"coordinates in the order {order}"
        if part.shape.coords
        else "this store has no coordinates"
    )
    of = f"of seed {seed} " if len(found.probes) > 1 else ""
    return f"weights {of}of {counted(len(part), example_noun(found.store.manifest))} written, tokens in their own order; {where}"


@torch.no_grad()
def written_back(probe: "Probe", tokens: Tokens, task: Task) -> tuple[Arrays, Tensor]:
    """What is written of one bag, as the file has it, and its logits ``(K,)``.

    Args:
        probe: fitted, in evaluation mode.
        tokens: of one bag, where the probe is.
        task: whose outputs the logits are.
    """
    maps = patch_maps(probe, tokens)[0][0].cpu()
    logits = probe(tokens)[0].cpu()
    arrays = {"attention_scores": maps.mean(0)[:, None].numpy(), "maps": maps.T.numpy()}
    if tokens.coords is not None:
        arrays["coords"] = as_given(tokens.coords[0].cpu().numpy())
    if has_evidence(probe):
        asked = torch.arange(len(logits)) if task.outputs == "numbers" else logits.argmax()[None]
        arrays["evidence"] = patch_evidence(probe, tokens, asked[None])[0].cpu().T.numpy()
    return arrays, logits


def as_given(coords: NDArray[np.float32]) -> NDArray:
    """Coordinates ``(N, k)`` of `Tokens` as slide tools write them: of two, x first; whole numbers as such."""
    if coords.shape[1] == 2:
        coords = coords[:, ::-1]
    whole = coords.astype(np.int64)
    return whole if (whole == coords).all() else np.ascontiguousarray(coords)


def file_names(names: Sequence[str], ending: str) -> list[str]:
    """A plain file name of each of ``names``, which may hold anything; no two are equal, in any case.

    A name that had to change, or that is there twice, has a hash of itself behind it.
    """
    found: list[str] = []
    taken, seen = {TABLE}, set[str]()
    for place, name in enumerate(names):
        plain = re.sub(r"[^\w. -]", "_", visible(name), flags=re.ASCII).strip(".- ")
        stem = short_name(plain)
        if stem != name or not stem or f"{stem}{ending}".casefold() in taken:
            content = f"{place if name in seen else ''} {name}"
            digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            stem = f"{stem}-{digest}".lstrip("-")
        found.append(plain_name(f"{stem}{ending}"))
        taken.add(found[-1].casefold())
        seen.add(name)
    return found


def _file(arrays: Arrays, said: dict[str, str]) -> bytes:
    content = io.BytesIO()
    if suffix() == ".npz":
        np.savez(content, allow_pickle=False, **arrays, **{k: np.array(v) for k, v in said.items()})
        return content.getvalue()
    import h5py

    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(said)
    return content.getvalue()


def _truth(target: NDArray, names: Sequence[str]) -> str:
    """``"tumour"``, ``"red; round"``, ``"age 61; weight ?"``."""
    if target.ndim == 0:
        return names[int(target)]
    if target.dtype == np.uint8:
        return "; ".join(names[k] for k in np.flatnonzero(target == 1).tolist())
    return "; ".join(
        f"{name} {'?' if np.isnan(value) else f'{value:g}'}"
        for name, value in zip(names, target, strict=True)
    )


def _predicted(logits: Tensor, task: Task, names: Sequence[str]) -> str:
    """The same of what a probe reads in a bag: logits ``(K,)``."""
    (readings,) = task.readings(logits[None], names, len(names))
    if task.outputs == "classes":
        return readings[0][0]
    if task.outputs == "tags":
        return "; ".join(name for name, probability in readings if probability >= 0.5)
    return "; ".join(f"{name} {value:g}" for name, value in readings)
