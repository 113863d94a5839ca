"""A backbone that changes → results beside those of the frozen one: the public function."""

import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from iceprobe.adaptation.coordinates import measured
from iceprobe.adaptation.finished import Trainings
from iceprobe.adaptation.images import Images
from iceprobe.adaptation.protocol import AdaptedFit, Contest
from iceprobe.adaptation.registry import FROZEN, LEARNING_RATES, pairs
from iceprobe.adaptation.training import Setting
from iceprobe.backbones import load_backbone
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.strengths import STRENGTHS
from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import DAY, duration
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data, Dataset
from iceprobe.fitting import probe as probe_in_memory
from iceprobe.fitting.api import new_run, reopened, write_run
from iceprobe.fitting.checks import check_device
from iceprobe.fitting.members import Shape
from iceprobe.fitting.run_folder import begin, check_folder
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.machine.torch_state import in_own_state
from iceprobe.protocols.protocol import get_protocol, images_per_step, total_steps
from iceprobe.protocols.reported import refuse_train
from iceprobe.results.building import built_result, flops_of
from iceprobe.results.curves import CurveRow
from iceprobe.results.fitted import FittedResult
from iceprobe.results.provenance import images_hash, origin
from iceprobe.results.schema import Files, Parameters
from iceprobe.results.undertrained import signs_of_undertraining
from iceprobe.store.format import EVALUATION_VIEW, SHARD_IMAGES, Manifest
from iceprobe.store.layout import chosen_rows
from iceprobe.store.noted import FirstSeen
from iceprobe.store.request import describe, make_settings

log = logging.getLogger("iceprobe")

DTYPES = ("float32", "bfloat16")  # float16 would need its loss scaled
EPOCHS, BATCH_SIZE = 20, 64
FORWARD_IMAGES = 64  # of extraction, whose store's identity frozen and adapted results share


@checked
@shows_progress
@in_own_state
def adapt(
    backbone: Backbone | str,
    dataset: Data,
    adaptations: Sequence[str] = (FROZEN, "lora"),
    probes: Sequence[str] = ("linear",),
    *,
    seeds: int = 3,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    checkpointing: bool = False,
    accumulate: int = 1,
    augmentation: str | None = None,
    limit: int | None = None,
    split: str = "test",
    output: str | Path | None = None,
    memory: int | None = None,
    device: str | None = None,
    amp: str = "float32",
    run_seed: int = 0,
    resume: bool = True,
    progress: ProgressCallback | bool | None = None,
    tell: Callable[[float], None] | None = None,
    command: str | None = None,
) -> list[FittedResult]:
    """Adapt a backbone in several ways, each under several probes, and write a run folder.

    Every adaptation with every probe is a training of its own, on a copy: ``backbone`` stays as it
    is. The adaptation ``none`` is ordinary probing of the frozen backbone, under `heldout`'s own
    settings for it.

    Args:
        backbone: of one layer, or a spec string.
        dataset: as :func:`iceprobe.extract` takes it; with splits ``train`` and the one to report.
        adaptations: spec strings, ``lora?rank=8``; ``"lora?rank=4 + ep12"`` brings its own probe.
        probes: for those that don't.
        seeds: initialisations of adapter and probe: 0, 1, … seeds − 1.
        epochs: passes over the training images; the schedule's horizon.
        batch_size: images a step.
        learning_rates: the grid, of the probe (the backbone's is ``lr_scale`` times it); one alone
            is trained without selection.
        weight_decays: the grid, ``(0,)`` by default; vectors get none.
        checkpointing: see :class:`iceprobe.adaptation.model.Adapted`.
        accumulate: micro-batches a step; see :mod:`iceprobe.adaptation.steps`.
        augmentation: of training images, ``"paper"``, ``"light"`` or ``"clip"``
            (`iceprobe.backbones.augmentation`); the evaluation view by default.
        limit: images of each split.
        split: the one to report.
        output: run folder; by default a new one under ``runs/``.
        memory: budget in bytes for decoded images; beyond it they are decoded at every pass.
            Training, and the tokens of a frozen encoder, come on top.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        amp: dtype of the forward pass: ``"float32"`` or ``"bfloat16"``.
        run_seed: of the held-out split and of the order of batches.
        resume: keep the trainings that an interrupted run of this folder has finished.
        progress: called with ``(stage, done, total)``; by default a bar in a
            terminal or a notebook, and ``False`` shows nothing.
        tell: called with the seconds that training will take, about, before it begins.
        command: to be written into the results; by default this process's own.

    Returns:
        One result an adaptation and probe, in the order asked for; written to ``output`` as well.
        Where ``output`` holds this very run, finished, they are read from there.

    Raises:
        IceprobeError: for what the caller can put right.
    """
    asked = pairs(adaptations, probes)
    protocol = get_protocol(
        "heldout", epochs=epochs, batch_size=batch_size,
        weight_decays=(0.0,) if weight_decays is None else weight_decays,
        learning_rates=LEARNING_RATES if learning_rates is None else learning_rates,
    )  # fmt: skip
    protocol = dataclasses.replace(protocol, min_steps=0, whitening=None)
    if amp not in DTYPES:
        raise IceprobeError(unknown("amp dtype of adapt", amp, DTYPES))
    if augmentation is not None and augmentation not in STRENGTHS:
        raise IceprobeError(unknown("augmentation", augmentation, STRENGTHS))
    for name, number in (("seeds", seeds), ("accumulate", accumulate)):
        if number < 1:
            raise IceprobeError(f"{name}={number}: give at least 1")
    target = check_device(device)
    backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
    dataset = load_dataset(dataset)
    manifest = manifest_of(backbone, dataset, split=split, limit=limit, device=target, amp=amp)
    command = command if command is not None else shlex.join(sys.argv)
    folder = Path(output) if output is not None else new_run(manifest, "adapt")
    if folder.exists() and not folder.is_dir():
        raise IceprobeError(f"{folder} is a file: give --output a folder")
    told = callback(progress) or (lambda stage, done, total: None)
    with exclusive(folder):
        request = {
            "store": manifest.identity,
            "pairs": asked,
            "protocol": protocol,
            "seeds": seeds,
            "split": split,
            "run_seed": run_seed,
            "amp": amp,
            "augmentation": augmentation,
            "device": target.type,
        }
        if (finished := check_folder(folder, request, resume=resume)) is not None:
            return [reopened(one, None, Shape.of(manifest)) for one in finished]
        backbone.to(target)
        train, reported = _images(backbone, dataset, manifest, split, memory, augmentation, told)
        _check_classes(train, dataset)
        setting = Setting(
            backbone,
            Shape.of(manifest),
            protocol,
            run_seed,
            target,
            amp,
            checkpointing,
            -(-images_per_step(protocol, len(train)) // accumulate),
            augmentation,
            measured(
                backbone,
                train,
                Shape.of(manifest),
                [probe for adaptation, probe in asked if adaptation != FROZEN],
                run_seed,
            ),
        )
        trainings = Trainings(folder, _common(manifest, setting, train, reported), resume)
        contest = Contest(
            setting, train, reported, seeds=range(seeds), trainings=trainings, folder=folder,
        )  # fmt: skip
        adapted = [pair for pair in asked if pair[0] != FROZEN]
        _rehearse(contest, adapted, tell)
        begin(folder, request)
        results, rows = _frozen(
            backbone, dataset, [probe for adaptation, probe in asked if adaptation == FROZEN],
            seeds=seeds, split=split, limit=limit, device=target, amp=amp, run_seed=run_seed,
            progress=told, command=command,
        )  # fmt: skip
        done, total = 0, sum(map(contest.steps, adapted))

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            told("adapt (images)", done, total)

        for pair in adapted:
            fit = contest.run(pair, stepped)
            rows += fit.rows
            results[pair] = _result(fit, setting, manifest, train, reported, range(seeds), command)
        ordered = [results[pair] for pair in asked]
        files = write_run(folder, ordered, rows)
        trainings.remove()
    return [one.replaced(run=folder, files=each) for one, each in zip(ordered, files, strict=True)]


def manifest_of(
    backbone: Backbone,
    dataset: Dataset,
    *,
    split: str,
    limit: int | None,
    device: torch.device,
    amp: str,
) -> Manifest:
    """Of the store that probes on the frozen backbone read: adapted results carry its identity."""
    settings = make_settings(
        batch_size=FORWARD_IMAGES, device=device.type, amp=amp, tokens="float16", patches=True,
        shard_images=SHARD_IMAGES,
    )  # fmt: skip
    refuse_train(split, list(dataset.splits))
    for name in ("train", split):
        if name not in dataset.splits:
            raise IceprobeError(unknown(f"split of {dataset.name}", name, dataset.splits))
    return describe(backbone, dataset, settings, splits=None, limit=limit)


def _images(
    backbone: Backbone,
    dataset: Dataset,
    manifest: Manifest,
    split: str,
    memory: int | None,
    augmentation: str | None,
    progress: Callable[[str, int, int], None],
) -> tuple[Images, Images]:
    """Training and reported images, decoded where they fit; augmented ones are decoded anew."""
    budget = (available_memory() or 0) // 4 if memory is None else memory
    made = []
    look = FirstSeen(manifest.dataset).look
    for name in ("train", split):
        record = manifest.splits[name]
        rows = chosen_rows(record.listed, record.images)
        images = Images(dataset.splits[name], rows, backbone.preprocessing, look)
        if images.bytes <= budget and not (name == "train" and augmentation is not None):
            budget -= images.bytes
            images.hold(partial(progress, f"decode {name}"))
        log.info("images of %s: %s", name, "in memory" if images.held else "decoded at every pass")
        made.append(images)
    return made[0], made[1]


def _check_classes(train: Images, dataset: Dataset) -> None:
    missing = sorted(set(range(len(dataset.classes))) - set(train.labels.tolist()))
    if missing:
        names = ", ".join(repr(str(dataset.classes[i])) for i in missing[:3])
        raise IceprobeError(
            f"no training image of class {names} among {len(train)}: add some, or raise --limit"
        )


def _rehearse(
    contest: Contest, asked: Sequence[tuple[str, str]], tell: Callable[[float], None] | None
) -> None:
    """Build every pair and take two steps of it: what can't work ends here, and time is known."""
    seconds = sum(contest.rehearse(pair) for pair in asked)
    if not asked:
        return
    level = logging.WARNING if seconds > DAY else logging.INFO
    log.log(level, "about %s of training, by its first steps", duration(seconds))
    if tell is not None:
        tell(seconds)


def _frozen(
    backbone: Backbone, dataset: Dataset, probes: Sequence[str], *, seeds: int, command: str,
    device: torch.device, **options: Any,
) -> tuple[dict[tuple[str, str], FittedResult], list[CurveRow]]:  # fmt: skip
    """The probes of the adaptation ``none``, by the ordinary engine."""
    if not probes:
        return {}, []
    found = probe_in_memory(backbone, dataset, probes, seeds=seeds, device=str(device), **options)
    return {(FROZEN, one.probe): one.replaced(command=command) for one in found}, []


def _result(
    fit: AdaptedFit,
    setting: Setting,
    manifest: Manifest,
    train: Images,
    reported: Images,
    seeds: Sequence[int],
    command: str,
) -> FittedResult:
    probe, choice, shape = fit.probes[0], fit.choice, manifest.shape
    selected: dict[str, float | int | str] = {
        "learning_rate": choice.learning_rate,
        "weight_decay": choice.weight_decay,
        "epoch": choice.epoch,
    }
    return built_result(
        fit.predictions,
        probes=fit.probes,
        probe=fit.probe,
        adaptation=fit.adaptation,
        method="trained",
        protocol=setting.protocol.name,
        selected=selected,
        training={
            **_training_record(setting, train),
            "learning_rates": list(setting.protocol.learning_rates or ()),
        },
        training_images=(
            f"live, {setting.augmentation} augmentation"
            if setting.augmentation
            else EVALUATION_VIEW
        ),
        selected_on=fit.selected_on,
        settings_tried=choice.tried,
        best_minus_median=choice.best_minus_median,
        parameters=Parameters(**fit.counts),
        flops=flops_of(probe, shape.num_tokens, shape.num_prefix),
        seconds=fit.seconds,
        seeds=list(seeds),
        variance="initialisation" if len(seeds) > 1 else "none",
        undertrained=signs_of_undertraining(
            fit.rows,
            selected,
            classes=setting.shape.num_classes,
            epochs=setting.protocol.epochs,
            steps=total_steps(setting.protocol, len(train)),
            learning_rates=setting.protocol.learning_rates or (),
        ),
        files=Files(adapters=fit.adapters),
        **origin(manifest, reported.split.name, len(train), reported.index, command),
    )


def _training_record(setting: Setting, train: Images) -> dict[str, Any]:
    protocol = setting.protocol
    return {
        "optimizer": "adamw",
        "epochs": protocol.epochs,
        "images_per_step": images_per_step(protocol, len(train)),
        "warmup_epochs": protocol.warmup_epochs,
        "weight_decays": list(protocol.weight_decays or ()),
        "augmentation": setting.augmentation,
        "run_seed": setting.run_seed,
        "device": setting.device.type,
        "dtype": setting.amp,
    }


def _common(
    manifest: Manifest,
    setting: Setting,
    train: Images,
    reported: Images,
) -> dict[str, Any]:
    """What the outcome of every training depends on besides its own task."""
    return {
        "store": manifest.identity,
        "train": images_hash(manifest, train.split.name, train.index),
        "reported": images_hash(manifest, reported.split.name, reported.index),
        "training": _training_record(setting, train),
        "torch": torch.__version__,
    }
