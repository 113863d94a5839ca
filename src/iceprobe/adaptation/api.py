"""The public function: adapt a backbone, and compare the results with those of the frozen one."""

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.adaptation.coordinates import AT_ONCE, measured
from iceprobe.adaptation.examples import Examples
from iceprobe.adaptation.finished import Trainings
from iceprobe.adaptation.protocol import AdaptationRun, AdaptedFit
from iceprobe.adaptation.registry import FROZEN, LEARNING_RATES, pairs
from iceprobe.adaptation.training import AdaptationContext
from iceprobe.backbones import load_backbone
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.kinds import plural, singular
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import DAY, duration
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data, Dataset
from iceprobe.fitting import probe as probe_in_memory
from iceprobe.fitting.api import described, new_run, reopened, write_run
from iceprobe.fitting.checks import check_class_weight, check_device, check_trained
from iceprobe.fitting.run_folder import begin, check_folder
from iceprobe.loggers.session import Session, logging_to
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.progress import callback, shows_progress
from iceprobe.machine.torch_state import in_own_state
from iceprobe.protocols.protocol import check_splits, get_protocol, images_per_step, total_steps
from iceprobe.results.building import built_result, flops_of
from iceprobe.results.curves import CurveRow
from iceprobe.results.fitted import FittedResult
from iceprobe.results.listing import Results
from iceprobe.results.provenance import images_hash, origin
from iceprobe.results.schema import Files, Parameters
from iceprobe.results.undertrained import signs_of_undertraining
from iceprobe.settings import Adaptation, AdaptCall, Extraction
from iceprobe.store.format import EVALUATION_VIEW, Manifest
from iceprobe.store.forward import autocast, behind
from iceprobe.store.layout import chosen_rows
from iceprobe.store.noted import FirstSeen
from iceprobe.store.request import check_augmented, describe, make_settings
from iceprobe.tasks.registry import pooled_task
from iceprobe.tasks.stratified import alone

log = logging.getLogger("iceprobe")


@shows_progress
@takes(AdaptCall)
@in_own_state
def adapt(
    backbone: Backbone | str,
    dataset: Data,
    adaptations: Sequence[str] = (FROZEN, "lora"),
    probes: Sequence[str] = ("linear",),
    *,
    call: AdaptCall,
) -> Results[FittedResult]:
    """Adapt a backbone in several ways, each with several probes, and write a run folder.

    Every adaptation with every probe is trained on its own copy: ``backbone`` doesn't change. The
    adaptation ``none`` is ordinary probing of the frozen backbone, with `heldout`'s own settings.

    Args:
        backbone: of one layer, or a spec string.
        dataset: as for :func:`iceprobe.extract`; with splits ``train`` and the one to report.
        adaptations: spec strings, ``lora?rank=8``; ``"lora?rank=4 + ep12"`` names its own probe.
        probes: for adaptations that name none.
        settings: an :class:`iceprobe.settings.Adaptation`, its options as keywords, or
            both; with ``output``, ``resume``, ``progress``, ``command``, and ``on_estimate``,
            called before training with its estimated seconds.

    Returns:
        One result for each adaptation and probe, in the given order; also written to ``output``. If
        ``output`` holds this run, finished, they are read from there.

    Raises:
        IceprobeError: for errors that the caller can correct.
    """
    with logging_to(call.log) as session:
        return _adapt(backbone, dataset, pairs(adaptations, probes), call, session)


def _adapt(
    backbone: Backbone | str,
    dataset: Data,
    asked: list[tuple[str, str]],
    call: AdaptCall,
    session: Session,
) -> Results[FittedResult]:
    """:func:`adapt` with its loggers made."""
    protocol = get_protocol(
        "heldout", epochs=call.epochs, batch_size=call.batch_size,
        weight_decays=(0.0,) if call.weight_decays is None else call.weight_decays,
        learning_rates=LEARNING_RATES if call.learning_rates is None else call.learning_rates,
    )  # fmt: skip
    protocol = replace(protocol, min_steps=0, whitening=None)
    target = check_device(call.device)
    backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
    dataset = load_dataset(dataset)
    task = pooled_task(dataset.task)
    metric = task.metric(call.metric, dataset.headline)
    check_class_weight(task, call.class_weight)
    manifest = manifest_of(backbone, dataset, call, target)
    command = call.command if call.command is not None else shlex.join(sys.argv)
    folder = call.output if call.output is not None else new_run(manifest, "adapt")
    if folder.exists() and not folder.is_dir():
        raise IceprobeError(f"{folder} is a file: give --output a folder")
    progress = callback(call.progress) or (lambda stage, done, total: None)
    with exclusive(folder):
        request = {
            "store": manifest.identity,
            "pairs": asked,
            "protocol": protocol,
            "seeds": call.seeds,
            "split": call.split,
            "run_seed": call.run_seed,
            "amp": call.forward_dtype,
            "augmentation": call.augmentation,
            "device": target.type,
            **_later(dataset, call),
        }
        if (finished := check_folder(folder, request, resume=call.resume)) is not None:
            session.complete(folder, finished)
            return Results(reopened(one, None, manifest.shape) for one in finished)
        backbone.to(target)
        train, reported = _examples(backbone, dataset, manifest, call, progress)
        listed = manifest.splits["train"].listed
        check_trained(
            task, train.targets, dataset.classes, listed, call.split, singular(dataset.kind)
        )
        groups = _groups(dataset, train)
        adapted = [pair for pair in asked if pair[0] != FROZEN]
        micro = -(-images_per_step(protocol, len(train)) // call.accumulate)
        if adapted and manifest.shape.ragged:
            counting = partial(progress, "count tokens")
            counts = _counts(backbone, [train, reported], micro, call.forward_dtype, counting)
            manifest = manifest.model_copy(update={"shape": replace(manifest.shape, **counts)})
        setting = AdaptationContext(
            backbone,
            manifest,
            protocol,
            run_seed=call.run_seed,
            device=target,
            forward_dtype=call.forward_dtype,
            checkpointing=call.checkpointing,
            micro_batch=micro,
            augmentation=call.augmentation,
            coordinates=measured(
                backbone, train, task.num_outputs(dataset.classes),
                [probe for _, probe in adapted], call.run_seed,
                AT_ONCE if isinstance(backbone.preprocessing, Preprocessing) else min(AT_ONCE, micro),
            ),
            task=task,
            metric_name=metric.name,
            class_weight=call.class_weight,
            tell=session.curves if session else None,
        )  # fmt: skip
        common = _common(setting, train, reported) | _later(dataset, call)
        trainings = Trainings(folder, common, call.resume)
        run = AdaptationRun(
            setting, train, reported, seeds=range(call.seeds), trainings=trainings, folder=folder,
            groups=groups,
        )  # fmt: skip
        _estimate(run, adapted, call.on_estimate, progress)
        begin(folder, request)
        session.begin(folder, described(manifest, request))
        results = _frozen(
            backbone, dataset, [probe for adaptation, probe in asked if adaptation == FROZEN],
            call, device=target, progress=progress, command=command,
        )  # fmt: skip
        rows: list[CurveRow] = []
        done, total = 0, sum(map(run.steps, adapted))

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            progress(f"adapt ({plural(backbone.preprocessing.kind)})", done, total)

        for pair in adapted:
            fit = run.run(pair, stepped)
            rows += fit.rows
            results[pair] = _result(fit, run, dataset, command)
        ordered = [results[pair] for pair in asked]
        files = write_run(folder, ordered, rows)
        written = Results(
            one.replaced(run=folder, files=each) for one, each in zip(ordered, files, strict=True)
        )
        session.results(written)
    return written


def manifest_of(
    backbone: Backbone, dataset: Dataset, asked: Adaptation, device: torch.device
) -> Manifest:
    """The manifest of the frozen backbone's store: adapted results have its identity."""
    settings = make_settings(Extraction(forward_dtype=asked.forward_dtype), device.type)
    check_splits(dataset.splits, asked.split, dataset.spec)
    check_augmented(backbone, asked.augmentation)
    return describe(backbone, dataset, settings, splits=None, limit=asked.limit)


def _examples(
    backbone: Backbone,
    dataset: Dataset,
    manifest: Manifest,
    asked: Adaptation,
    progress: Callable[[str, int, int], None],
) -> tuple[Examples, Examples]:
    """Those to learn from and to report on, kept decoded if they fit in memory and aren't augmented."""
    budget = (available_memory() or 0) // 4 if asked.memory is None else asked.memory
    made, note = [], FirstSeen(manifest.dataset).note
    kinds = plural(backbone.preprocessing.kind)
    for name in ("train", asked.split):
        record = manifest.splits[name]
        rows = chosen_rows(record.listed, record.images)
        examples = Examples(dataset.splits[name], rows, backbone.preprocessing, note)
        if not (name == "train" and asked.augmentation is not None):
            budget -= examples.hold(partial(progress, f"decode {name}"), budget)
        where = "in memory" if examples.held else "decoded at every pass"
        log.info("%s of %s: %s", kinds, name, where)
        made.append(examples)
    return made[0], made[1]


@torch.no_grad()
def _counts(
    backbone: Backbone,
    every: Sequence[Examples],
    at_once: int,
    dtype: str,
    counted: Callable[[int, int], None],
) -> dict[str, Any]:
    """Mean number and range of the tokens of these examples, as in the shape of a store of them."""
    lengths: list[int] = []
    for examples in every:
        for batch, _ in examples.batches(examples.in_turn(at_once)):
            with autocast(backbone.device, dtype):
                tokens = behind(backbone(batch.to(backbone.device)), ragged=True)
            assert tokens.mask is not None
            lengths += tokens.mask.sum(1).tolist()
            counted(len(lengths), sum(map(len, every)))
    mean = max(1, round(sum(lengths) / len(lengths)))
    return {"num_tokens": mean, "lengths": (min(lengths), max(lengths))}


def _later(dataset: Dataset, asked: Adaptation) -> dict[str, Any]:
    """Settings that older runs don't have, without those at their default."""
    found = {
        "task": dataset.task if dataset.task != "classification" else None,
        "metric": asked.metric,
        "class_weight": asked.class_weight if asked.class_weight != "none" else None,
        "group": dataset.group,
    }
    return {name: value for name, value in found.items() if value is not None}


def _groups(dataset: Dataset, examples: Examples) -> NDArray[np.int64] | None:
    """Which examples aren't independent, ``(n,)``; None if the data set doesn't say."""
    if dataset.group is None:
        return None
    return alone(examples.split.columns[dataset.group].codes[examples.index])


def _estimate(
    run: AdaptationRun,
    asked: list[tuple[str, str]],
    on_estimate: Callable[[float], None] | None,
    progress: Callable[[str, int, int], None],
) -> None:
    """Build every pair and take two steps of it: finds errors early and estimates the time."""
    if not asked:
        return
    seconds = 0.0
    for done, pair in enumerate(asked):
        progress("first steps", done, len(asked))
        seconds += run.time_step(pair)
    progress("first steps", len(asked), len(asked))
    level = logging.WARNING if seconds > DAY else logging.INFO
    log.log(level, "about %s of training, by its first steps", duration(seconds))
    if on_estimate is not None:
        on_estimate(seconds)


def _frozen(
    backbone: Backbone,
    dataset: Dataset,
    probes: Sequence[str],
    asked: Adaptation,
    *,
    device: torch.device,
    progress: Callable[[str, int, int], None],
    command: str,
) -> dict[tuple[str, str], FittedResult]:
    """The probes of the adaptation ``none``, by the ordinary engine."""
    if not probes:
        return {}
    found = probe_in_memory(
        backbone, dataset, probes, seeds=asked.seeds, split=asked.split, limit=asked.limit,
        metric=asked.metric, class_weight=asked.class_weight,
        forward_dtype=asked.forward_dtype, fit_dtype=asked.forward_dtype, run_seed=asked.run_seed,
        device=str(device), progress=progress, command=command,
    )  # fmt: skip
    return {(FROZEN, one.probe): one for one in found}


def _result(fit: AdaptedFit, run: AdaptationRun, dataset: Dataset, command: str) -> FittedResult:
    setting, train, choice = run.setting, run.examples, fit.choice
    split, rows = run.reported.split, run.reported.index
    predictions = replace(
        fit.predictions,
        names=[split.names[row] for row in rows],
        groups=_groups(dataset, run.reported),
        slices={
            name: (split.columns[name].codes[rows], split.columns[name].values)
            for name in dataset.slices
        },
    )
    manifest, protocol = setting.manifest, setting.protocol
    learning_rates = list(protocol.learning_rates or ())
    selected: dict[str, float | int | str] = {
        "learning_rate": choice.learning_rate,
        "weight_decay": choice.weight_decay,
        "epoch": choice.epoch,
    }
    return built_result(
        predictions,
        probes=fit.probes,
        probe=fit.probe,
        adaptation=fit.adaptation,
        method="trained",
        protocol=protocol.name,
        selected=selected,
        training={**_training_record(setting, train), "learning_rates": learning_rates},
        training_images=(
            f"live, {setting.augmentation} augmentation"
            if setting.augmentation
            else EVALUATION_VIEW
        ),
        selected_on=fit.selected_on,
        settings_tried=choice.tried,
        best_minus_median=choice.best_minus_median,
        parameters=Parameters(**fit.counts),
        flops=flops_of(fit.probes[0], manifest.shape.num_tokens, manifest.shape.num_prefix),
        seconds=fit.seconds,
        seeds=list(run.seeds),
        variance="initialisation" if len(run.seeds) > 1 else "none",
        undertrained=signs_of_undertraining(
            fit.rows,
            selected,
            classes=len(manifest.dataset.classes),
            epochs=protocol.epochs,
            steps=total_steps(protocol, len(train)),
            learning_rates=learning_rates,
        ),
        files=Files(adapters=fit.adapters),
        **origin(manifest, split.name, len(train), rows, command)
        | {"task": setting.task.name, "primary": setting.metric.name},
    )


def _training_record(setting: AdaptationContext, train: Examples) -> dict[str, Any]:
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
        "dtype": setting.forward_dtype,
        **({} if setting.class_weight == "none" else {"class_weight": setting.class_weight}),
        **({} if (parts := setting.manifest.shape.parts) == 1 else {"parts": parts}),
    }


def _common(setting: AdaptationContext, train: Examples, reported: Examples) -> dict[str, Any]:
    """What the outcome of every training depends on besides its own task."""
    manifest = setting.manifest
    return {
        "store": manifest.identity,
        "train": images_hash(manifest, train.split.name, train.index),
        "reported": images_hash(manifest, reported.split.name, reported.index),
        "training": _training_record(setting, train),
        "torch": torch.__version__,
    }
