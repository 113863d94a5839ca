"""Dense probes on a feature store with masks or depth maps: the public function."""

import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from iceprobe.backbones.options import NATIVE
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import DAY, duration
from iceprobe.dense.files import reopened, write_segmentations
from iceprobe.dense.protocol import DenseContext, run_heldout
from iceprobe.dense.results import IMAGES_AT_ONCE, Facts, dense_results
from iceprobe.fitting.api import described
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import check_device, check_named, check_training_images
from iceprobe.fitting.run_folder import begin, check_same
from iceprobe.loggers.session import Session, logging_to
from iceprobe.machine.progress import callback, shows_progress, timed
from iceprobe.machine.temporary import new_folder
from iceprobe.machine.torch_state import in_own_state
from iceprobe.probes.segmentation import label
from iceprobe.protocols.protocol import check_splits, get_protocol
from iceprobe.results.dense import Dense
from iceprobe.results.provenance import provenance
from iceprobe.results.segmentation_files import JSON_NAME, read_segmentations
from iceprobe.settings import SegmentCall
from iceprobe.store.reader import Store
from iceprobe.tasks import miou
from iceprobe.tasks.pixels import PixelTask
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.segmentation import Segmentation

log = logging.getLogger("iceprobe")

PROBES = ("linear", "ep8")
MASKED = ("bundled:fashion-clutter", "pets")  # data sets that come with masks


@shows_progress
@takes(SegmentCall)
@in_own_state
def segment(store: Store, probes: Sequence[str] = PROBES, *, call: SegmentCall) -> list[Dense]:
    """Fit dense probes on stored patch tokens: a class a pixel, or a number a pixel.

    Of masks, the classes are background and the data set's own: the pixels of an image's mask have its
    label, all others are background, and images without a pixel on the mask are left out; results are
    `Segmentation`, by mean IoU. Of depth maps, a probe predicts the number of each pixel; results are
    `Depth`, by RMSE.

    Args:
        store: with patch tokens on a grid, and masks or depth maps.
        probes: ``"linear"``, ``"ep8"``; see `iceprobe.probes.segmentation`.
        settings: an :class:`iceprobe.settings.Segmentation`, its options as keywords, or
            both; with ``output``, a folder for ``dense.json``, ``dense.csv``, ``segmentation.png`` and the
            fitted probes, new or with this very run (nothing is written by default), ``progress``,
            ``command``, ``log``, which needs an ``output``, and ``on_estimate``, called with the seconds of
            training, about, after its first steps.

    Returns:
        One result a probe, in the order asked for, with the fitted modules. Where ``output`` holds
        this very run, finished, they are read from there.

    Raises:
        IceprobeError: for a store without masks or depth maps, patch tokens or a grid, for maps of which
            nothing can be learnt, for probes that don't segment, for settings that mean nothing, and for an ``output`` with something else.
    """
    output = call.output and call.output.expanduser()
    if call.log and output is None:
        raise IceprobeError("log= tells of a run folder: give output= as well, a new folder")
    with logging_to(call.log, output) as session:
        return _segment(store, check_probes(probes), output, call, session)


def _segment(
    store: Store, labels: list[str], output: Path | None, call: SegmentCall, session: Session
) -> list[Dense]:
    """:func:`segment` with its loggers made."""
    split = call.split
    task = task_of(store)
    check_store(store, split, task)
    protocol = get_protocol(
        "heldout",
        epochs=call.epochs,
        batch_size=call.batch_size,
        learning_rates=call.learning_rates,
    )
    check_training_images(store, task, protocol, split, call.run_seed, low_shot=False)

    def expected(seconds: float) -> None:
        level = logging.WARNING if seconds > DAY else logging.INFO
        log.log(level, "about %s of training, by its first steps", duration(seconds))
        if call.on_estimate is not None:
            call.on_estimate(seconds)

    device = check_device(call.device)
    request = {
        "store": store.identity,
        "probes": labels,
        "protocol": protocol,
        "seeds": call.seeds,
        "split": split,
        "run_seed": call.run_seed,
        "device": device.type,
    }
    if output is not None:
        if (output / JSON_NAME).exists():
            check_same(output, request)
            done = read_segmentations(output)
            session.complete(output, done)
            return [reopened(one, store) for one in done]
        store.dataset()  # the picture shows its images: better refused now than after the fit
    context = DenseContext(
        protocol,
        store.shape,
        task.num_outputs(store.classes),
        call.run_seed,
        device,
        torch.float32,
        Checkpoint(None, ""),
        timed(callback(call.progress), {"select"}, expected),
        task.learning_pixels(_pixels(store, "train", task)),
        tell=session.curves if session else None,
    )
    task.check_pixels(_pixels(store, split, task), split)
    command = call.command if call.command is not None else shlex.join(sys.argv)
    with nullcontext() if output is None else new_folder(output, "--output") as folder:
        if folder is not None:
            begin(folder, request)
            session.begin(folder, described(store.manifest, request))
        began = time.perf_counter()
        fitted = run_heldout(
            context, store, labels, seeds=range(call.seeds), split=split, memory=call.memory
        )
        seconds = time.perf_counter() - began
        origin = provenance(store, split, command)
        facts = Facts(context, store, split, origin, store.groups(split), seconds)
        results = dense_results(fitted, facts)
        if folder is not None:
            results = write_segmentations(folder, results, store)
        session.results(results)
    return [result.replaced(run=output) for result in results]


def task_of(store: Store) -> PixelTask:
    """The task of the store's targets if it is one of pixels; otherwise segmentation, by its masks."""
    stored = get_task(store.task)
    return stored if isinstance(stored, PixelTask) else Segmentation()


def _pixels(store: Store, split: str, task: PixelTask) -> Iterator[torch.Tensor]:
    """Targets of the pixels of a split, ``(b, S, S)`` at a time."""
    stored = store[split]
    labels = torch.from_numpy(stored.labels)
    for rows in torch.arange(len(stored)).split(IMAGES_AT_ONCE):
        yield task.truth(stored.rows(task.map, rows), labels[rows])


def check_probes(probes: Sequence[str]) -> list[str]:
    """Canonical labels.

    Raises:
        IceprobeError: if there is none, one doesn't segment, or one is named twice.
    """
    labels = [label(text) for text in probes]
    check_named(labels, "--probe linear --probe ep8")
    return labels


def no_masks(dataset: str) -> str:
    """The message on a data set without targets of pixels."""
    return (
        f"{dataset} has no masks to segment by: take one that has, {' or '.join(MASKED)}, or numbers of "
        "pixels, table:…&depth=COLUMN"
    )


def no_grid(backbone: str) -> str:
    """The message on a backbone whose tokens lie on no grid."""
    if f"image_size={NATIVE}" in backbone:
        return f"{backbone} keeps the shape of images, and masks are of one size: give image_size= a number of pixels"
    return (
        f"tokens of {backbone} lie on no grid, and have no place in a mask: take another backbone"
    )


def several(dataset: str, outputs: str) -> str:
    """The message on a data set whose masks are of images with tags or numbers."""
    return (
        f"{dataset} has {outputs} an image, and the pixels on a mask have their image's one class: take a "
        f"data set of classes, {' or '.join(MASKED)}"
    )


def check_store(store: Store, split: str, task: PixelTask) -> None:
    """Refuse a store without the tokens and targets of pixels that the task reads.

    Raises:
        IceprobeError: naming what is missing.
    """
    spec = store.manifest.dataset.spec
    name = store.path or spec
    check_splits(store.splits, split, spec)
    if store.layers:
        raise IceprobeError(
            f"segmentation reads one layer and this store is of layers "
            f"{', '.join(map(str, store.layers))}: give the store of one of them"
        )
    for one in ("train", split):
        if store[one].live:
            raise IceprobeError(
                "live tokens come without masks: extract a store (iceprobe extract)"
            )
        if task.map not in store[one].layout:
            raise IceprobeError(no_masks(f"split {one!r} of {spec}"))
    if (stored := get_task(store.task)).several:
        raise IceprobeError(several(spec, stored.outputs))
    if not store.has_patches:
        raise IceprobeError(f"store {name} has no patch tokens: extract it again with patches")
    if store.grid is None or len(store.grid) != 2:
        raise IceprobeError(no_grid(store.manifest.backbone.spec))
    if len(store.classes) >= miou.IGNORE:
        raise IceprobeError(
            f"{spec} has {len(store.classes)} classes: masks have room for "
            f"{miou.IGNORE - 1} beside background and the ignored {miou.IGNORE}"
        )
