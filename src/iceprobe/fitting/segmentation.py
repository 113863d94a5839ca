"""Segmentation probes on a feature store with masks: the public function."""

import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.specs import unknown
from iceprobe.core.text import DAY, duration
from iceprobe.datasets.registry import check_train
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import check_device, check_named, check_training_images
from iceprobe.fitting.run_folder import begin, check_same
from iceprobe.fitting.segmentation_files import reopened, write_segmentations
from iceprobe.fitting.segmentation_protocol import (
    FittedSegmentation,
    SegmentationContext,
    run_heldout,
)
from iceprobe.machine.progress import callback, shows_progress, timed
from iceprobe.machine.temporary import new_folder
from iceprobe.machine.torch_state import in_own_state
from iceprobe.probes.segmentation import label
from iceprobe.protocols.protocol import get_protocol, images_per_step, refuse_train
from iceprobe.results.provenance import provenance
from iceprobe.results.schema import Flops, Score
from iceprobe.results.segmentation import Difference, Segmentation, Selection
from iceprobe.results.segmentation_files import JSON_NAME, read_segmentations
from iceprobe.results.undertrained import signs_of_undertraining
from iceprobe.settings import SegmentCall
from iceprobe.store.reader import Store
from iceprobe.tasks import miou
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.segmentation import Segmentation as SegmentationTask

log = logging.getLogger("iceprobe")

PROBES = ("linear", "ep8")
MASKED = ("bundled:fashion-clutter", "pets")  # data sets that come with masks


@shows_progress
@takes(SegmentCall)
@in_own_state
def segment(
    store: Store, probes: Sequence[str] = PROBES, *, call: SegmentCall
) -> list[Segmentation]:
    """Fit segmentation probes on stored patch tokens and report their mean IoU.

    The classes are background and the data set's own: the pixels of an image's mask have its
    label, all others are background, and images without a pixel on the mask are left out.

    Args:
        store: with patch tokens on a grid and masks.
        probes: ``"linear"``, ``"ep8"``; see `iceprobe.probes.segmentation`.
        settings: an :class:`iceprobe.settings.Segmentation`, its options as keywords, or
            both; with ``output``, a folder for ``dense.json``, ``dense.csv``, ``segmentation.png`` and the
            fitted probes, new or with this very run (nothing is written by default), ``progress``,
            ``command``, and ``on_estimate``, called with the seconds of training, about, after its first steps.

    Returns:
        One result a probe, in the order asked for, with the fitted modules. Where ``output`` holds
        this very run, finished, they are read from there.

    Raises:
        IceprobeError: for a store without masks, patch tokens or a grid, for probes that don't
            segment, for settings that mean nothing, and for an ``output`` with something else.
    """
    labels = check_probes(probes)
    split, output = call.split, call.output
    check_store(store, split)
    protocol = get_protocol(
        "heldout",
        epochs=call.epochs,
        batch_size=call.batch_size,
        learning_rates=call.learning_rates,
    )
    check_training_images(
        store, get_task("segmentation"), protocol, split, call.run_seed, low_shot=False
    )

    def expected(seconds: float) -> None:
        level = logging.WARNING if seconds > DAY else logging.INFO
        log.log(level, "about %s of training, by its first steps", duration(seconds))
        if call.on_estimate is not None:
            call.on_estimate(seconds)

    task = SegmentationTask()
    context = SegmentationContext(
        protocol,
        store.shape,
        task.num_outputs(store.classes),
        call.run_seed,
        check_device(call.device),
        torch.float32,
        Checkpoint(None, ""),
        timed(callback(call.progress), {"select"}, expected),
        task,
    )
    request = {
        "store": store.identity,
        "probes": labels,
        "protocol": protocol,
        "seeds": call.seeds,
        "split": split,
        "run_seed": call.run_seed,
        "device": context.device.type,
    }
    if output is not None:
        output = output.expanduser()
        if (output / JSON_NAME).exists():
            check_same(output, request)
            return [reopened(one, store) for one in read_segmentations(output)]
        store.dataset()  # the picture shows its images: better refused now than after the fit
    command = call.command if call.command is not None else shlex.join(sys.argv)
    with nullcontext() if output is None else new_folder(output, "--output") as folder:
        began = time.perf_counter()
        fitted = run_heldout(
            context, store, labels, seeds=range(call.seeds), split=split, memory=call.memory
        )
        seconds = time.perf_counter() - began
        origin = {
            name: value
            for name, value in provenance(store, split, command).items()
            if name in Segmentation.model_fields
        } | {"class_names": ["background", *store.classes]}
        draws = [np.mean([miou.resampled(seed) for seed in one.counts], 0) for one in fitted]
        results = [
            _result(one, drawn, context, store, origin, seconds)
            for one, drawn in zip(fitted, draws, strict=True)
        ]
        results = _beside_the_first(results, draws)
        if folder is not None:
            begin(folder, request)
            results = write_segmentations(folder, results, store)
    return [result.replaced(run=output) for result in results]


def _result(
    fitted: FittedSegmentation,
    draws: NDArray[np.float64],
    context: SegmentationContext,
    store: Store,
    origin: Mapping[str, Any],
    seconds: float,
) -> Segmentation:
    choice, group, protocol = fitted.choice, fitted.group, context.protocol
    confusions = [counts.confusion for counts in fitted.counts]
    probes = [group.probe(g) for g in range(len(group))]
    by_class = np.array([miou.iou(one) for one in confusions])
    occurring = np.isfinite(by_class).any(0)
    truth = confusions[0].sum(1)
    return Segmentation(
        **origin,
        probe=group.label,
        side=store.manifest.backbone.preprocessing["image_size"],
        miou=Score.of(map(miou.mean_iou, confusions), miou.interval(draws)),
        object_iou=Score.of(map(miou.object_iou, confusions)),
        pixel_accuracy=Score.of(one.trace() / max(1, one.sum()) for one in confusions),
        iou=[
            float(np.nanmean(of_class)) if there else None
            for of_class, there in zip(by_class.T, occurring, strict=True)
        ],
        all_background=float(truth[0] / max(1, truth.sum()) / max(1, np.count_nonzero(truth))),
        confusion=np.sum(confusions, 0).tolist(),
        selection=Selection(
            learning_rate=choice.learning_rate,
            epoch=choice.epoch,
            tried=list(protocol.learning_rates or ()),
            images=fitted.held_out,
            best_minus_median=choice.best_minus_median or 0.0,
        ),
        training={
            "optimizer": "adamw",
            "epochs": protocol.epochs,
            "images_per_step": images_per_step(protocol, len(store["train"])),
            "warmup_epochs": protocol.warmup_epochs,
            "run_seed": context.run_seed,
            "device": context.device.type,
        },
        undertrained=signs_of_undertraining(
            fitted.rows,
            {"learning_rate": choice.learning_rate, "epoch": choice.epoch},
            classes=_even_classes(truth),
            epochs=protocol.epochs,
            steps=fitted.steps,
            learning_rates=protocol.learning_rates or (),
        ),
        parameters=sum(p.numel() for p in probes[0].parameters()),
        flops=Flops(per_image=2 * probes[0].macs(store.num_tokens)),
        seeds=[member.seed for member in group.members],
        seconds=seconds,
    ).replaced(probes=probes)


def _even_classes(pixels: NDArray[np.int64]) -> float:
    """Number of equal classes that are as hard to guess: e to the entropy of the pixels' classes.

    Most pixels are background, so the loss is far below log C before any training.
    """
    share = pixels[pixels > 0] / max(1, pixels.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def _beside_the_first(
    results: Sequence[Segmentation], draws: Sequence[NDArray[np.float64]]
) -> list[Segmentation]:
    """Every result but the first with its difference from that one, on the same resamples."""
    found = [results[0]]
    for result, drawn in zip(results[1:], draws[1:], strict=True):
        beside = Difference(
            probe=results[0].probe,
            mean=result.miou.mean - results[0].miou.mean,
            interval=miou.interval(drawn - draws[0]),
        )
        found.append(result.replaced(beside=beside))
    return found


def check_probes(probes: Sequence[str]) -> list[str]:
    """Canonical labels.

    Raises:
        IceprobeError: if there is none, one doesn't segment, or one is named twice.
    """
    labels = [label(text) for text in probes]
    check_named(labels, "--probe linear --probe ep8")
    return labels


def no_masks(dataset: str) -> str:
    """The message on a data set without masks."""
    return f"{dataset} has no masks to segment by: take one that has, {' or '.join(MASKED)}"


def no_grid(backbone: str) -> str:
    """The message on a backbone whose tokens lie on no grid."""
    return (
        f"tokens of {backbone} lie on no grid, and have no place in a mask: take another backbone"
    )


def check_store(store: Store, split: str) -> None:
    """Refuse a store without the tokens and masks that segmentation reads.

    Raises:
        IceprobeError: naming what is missing.
    """
    name = store.path or store.manifest.dataset.spec
    refuse_train(split, store.splits)
    if store.layers:
        raise IceprobeError(
            f"segmentation reads one layer and this store is of layers "
            f"{', '.join(map(str, store.layers))}: give the store of one of them"
        )
    check_train(store.splits, store.manifest.dataset.spec)
    for one in ("train", split):
        if one not in store.splits:
            raise IceprobeError(unknown(f"split of {name}", one, store.splits))
        if store[one].live:
            raise IceprobeError(
                "live tokens come without masks: extract a store (iceprobe extract)"
            )
        if not store[one].has_masks:
            raise IceprobeError(no_masks(f"split {one!r} of {store.manifest.dataset.spec}"))
    if not store.has_patches:
        raise IceprobeError(f"store {name} has no patch tokens: extract it again with patches")
    if store.grid is None:
        raise IceprobeError(no_grid(store.manifest.backbone.spec))
    if len(store.classes) >= miou.IGNORE:
        raise IceprobeError(
            f"{store.manifest.dataset.spec} has {len(store.classes)} classes: masks have room for "
            f"{miou.IGNORE - 1} beside background and the ignored {miou.IGNORE}"
        )
