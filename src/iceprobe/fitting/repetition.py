"""One fit of all probes on one set of training images: k-NN, the trained probes, their results."""

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import (
    check_class_weight,
    check_device,
    check_norms,
    check_request,
    check_task,
    check_training_images,
)
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.fitted_probe import FittedProbe
from iceprobe.fitting.penalties import check_solved
from iceprobe.fitting.selection import grids_of, run_protocol
from iceprobe.loggers.session import Tell
from iceprobe.machine.processes import world
from iceprobe.machine.progress import ProgressCallback
from iceprobe.neighbours import knn
from iceprobe.probes import parse_probe
from iceprobe.probes.probe import build_for
from iceprobe.protocols.protocol import (
    Protocol,
    for_images,
    images_per_step,
    protocol_of,
    total_steps,
)
from iceprobe.results.building import built_result, flops_of
from iceprobe.results.curves import CurveRow
from iceprobe.results.fitted import FittedResult
from iceprobe.results.provenance import provenance
from iceprobe.results.schema import Diverged, Parameters
from iceprobe.results.undertrained import far_below, signs_of_undertraining, training_warnings
from iceprobe.results.weighted import selected_score
from iceprobe.settings import FitCall, ProbeCall
from iceprobe.store.examples import example_noun
from iceprobe.store.format import TRAIN
from iceprobe.store.layout import DTYPES
from iceprobe.store.reader import Store, metric_of
from iceprobe.tasks.selecting import kept_for
from iceprobe.tasks.task import ClassWeight, Task

log = logging.getLogger("iceprobe")
FIT_VERSION = 7  # in a checkpoint's fingerprint: raise it when the same settings train otherwise
_AS_FITTED = (  # fields of a result that are a fitted probe's
    "seeds", "probes", "selected", "selected_on", "selected_score", "settings_tried",
    "best_minus_median", "last_epoch", "early_stopping", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The settings of a fit, the same in every repetition."""

    labels: list[str]  # canonical spec strings of the probes
    protocol: Protocol  # with the values that the caller sets
    split: str  # the split to report
    memory: int | None  # budget in bytes of tokens and training steps
    shuffle: str  # how streamed training images are ordered
    device: torch.device  # where to fit
    fit_dtype: str  # name of the dtype of the token products
    low_shot: bool  # whether a few training images are drawn
    resume: bool  # go on from a state file
    command: str  # for the results
    task: str | None = None  # name of the task, if the caller gives it
    metric: str | None = None  # name of the metric that selects and leads, likewise
    class_weight: ClassWeight = "none"  # how classes or tags count in the loss
    max_tokens: int | None = None  # that are in memory at once of a batch, if the caller says it
    draw_tokens: int | None = None  # of a training example that a step reads; all by default

    @classmethod
    def of(cls, labels: list[str], settings: FitCall | ProbeCall) -> Self:
        """The request of a call; one that stays in memory resumes nothing."""
        return cls(
            labels,
            protocol_of(settings),
            split=settings.split,
            memory=settings.memory,
            shuffle=settings.shuffle,
            device=check_device(settings.device),
            fit_dtype=settings.fit_dtype,
            low_shot=settings.shots is not None or settings.fraction is not None,
            resume=isinstance(settings, FitCall) and settings.resume,
            command=settings.command if settings.command is not None else shlex.join(sys.argv),
            task=settings.task,
            metric=settings.metric,
            class_weight=settings.class_weight,
            max_tokens=settings.max_tokens,
            draw_tokens=settings.draw_tokens,
        )


def check(store: Store, request: Request, seeds: Sequence[int], run_seed: int) -> None:
    """Refuse what can't be fitted, before anything is written.

    Raises:
        IceprobeError: naming it.
    """
    task = check_task(store, request.task)
    check_selects(task, request, store)
    check_class_weight(task, request.class_weight)
    if not task.votes and len(_trained(request.labels)) < len(request.labels):
        raise IceprobeError(f"knn doesn't predict targets of task={task.name!r}: leave it out")
    # A wrong option of a probe is refused here.
    trained = {
        label: build_for(store.shape, label, len(store.classes))
        for label in _trained(request.labels)
    }
    check_request(store, request.labels, trained, request.split)
    if request.draw_tokens is not None and store.shape.parts > 1:
        raise IceprobeError(
            f"draw_tokens={request.draw_tokens}: of the {store.shape.parts} parts of an example, whose outputs are "
            "averaged, all tokens are read: leave it out"
        )
    for label in trained:
        check_solved(label, task.name, store["train"].live)
    check_norms({label: probe.pooling for label, probe in trained.items()})
    check_training_images(store, task, request.protocol, request.split, run_seed, request.low_shot)


def check_selects(task: Task, request: Request, store: Store) -> None:
    """Refuse a metric that can't select: one that needs what is only known once a setting is chosen.

    Raises:
        IceprobeError: naming it.
    """
    metric = task.metric(metric_of(store, task, request.metric))
    if metric.name == task.primary or TRAIN not in store.splits:
        return
    try:
        kept_for(task, metric, task.num_outputs(store.classes), store[TRAIN].targets)
    except IceprobeError as error:
        later = f"take it afterwards, iceprobe report RUN --metric {metric.name}"
        if request.protocol.outer_folds:
            later = "leave it out"
        raise IceprobeError(
            f"metric={metric.name!r} can't select a setting ({error}); {later}"
        ) from None


def repetition(
    store: Store,
    request: Request,
    seeds: Sequence[int],
    run_seed: int,
    state: Path | None,
    progress: ProgressCallback,
    tell: Tell | None = None,
) -> tuple[list[FittedResult], list[CurveRow], dict[str, list[Diverged]]]:
    """Fit every probe of ``request`` on ``store``.

    Args:
        store: its ``train`` split holds the images to train on.
        request: checked.
        seeds: initialisations.
        run_seed: of the held-out split and of the order of batches.
        state: the file to keep the fit's state in; ``None`` keeps nothing.
        progress: called with ``(stage, done, total)``.
        tell: of the loggers, called with the rows of each epoch.

    Returns:
        Results in the order asked for, without probes all members of which have diverged; a row a
        member and epoch; by probe the members that have diverged.
    """
    found = {
        label: knn(
            store,
            label,
            protocol=request.protocol.name,
            split=request.split,
            seed=run_seed,
            task=request.task,
            metric=request.metric,
            device=request.device,
            command=request.command,
            progress=progress,
        )
        for label in request.labels
        if parse_probe(label).name == "knn"
    }
    rows: list[CurveRow] = []
    diverged: dict[str, list[Diverged]] = {}
    if trained := _trained(request.labels):
        images, task = len(store["train"]), check_task(store, request.task)
        protocol = for_images(request.protocol, images)
        metric = metric_of(store, task, request.metric)
        outputs = task.num_outputs(store.classes)
        parameters = {
            label: build_for(store.shape, label, outputs).num_parameters()["total"]
            for label in trained
        }
        grids = grids_of(protocol, parameters, images)
        fingerprint = _fingerprint(
            store,
            task=task.name,
            metric=metric,
            probes=trained,
            protocol=protocol,
            grids=grids,
            seeds=list(seeds),
            split=request.split,
            amp=request.fit_dtype,
            run_seed=run_seed,
            shuffle=request.shuffle,
            device=str(request.device).partition(":")[0],
            **({} if request.class_weight == "none" else {"class_weight": request.class_weight}),
            **({} if request.draw_tokens is None else {"draw_tokens": request.draw_tokens}),
            torch=torch.__version__,
        )
        checkpoint = Checkpoint(state, fingerprint)
        context = FitContext(
            protocol, store.shape, outputs, run_seed, request.device, DTYPES[request.fit_dtype],
            checkpoint, progress, task, metric, request.class_weight,
            max_tokens=request.max_tokens, draw_tokens=request.draw_tokens, tell=tell,
        )  # fmt: skip
        fitted, rows, diverged = run_protocol(
            store,
            grids,
            context,
            seeds=seeds,
            split=request.split,
            memory=request.memory,
            shuffle=request.shuffle,
            saved=checkpoint.load() if request.resume else None,
        )
        found |= {f.label: _result(f, store, context, request, rows) for f in fitted}
    return [found[label] for label in request.labels if label in found], rows, diverged


def _result(
    fitted: FittedProbe, store: Store, context: FitContext, request: Request, rows: list[CurveRow]
) -> FittedResult:
    """A fitted probe with its scores and where it comes from."""
    of_split = replace(fitted.predictions, **store.beside(request.split))
    fitted = replace(fitted, predictions=of_split)
    probe, rates = fitted.probes[0], fitted.grid.learning_rates
    course: dict[str, Any] = {
        "rows": [row for row in rows if row.probe == fitted.label],
        "selected": fitted.selected,
        "classes": context.task.as_hard_as(len(store.classes)),
        "epochs": context.protocol.epochs,
        "steps": total_steps(context.protocol, len(store["train"])),
    }
    signs = [] if fitted.solution else signs_of_undertraining(learning_rates=rates, **course)
    return built_result(
        fitted.predictions,
        **{name: getattr(fitted, name) for name in _AS_FITTED},
        open_store=store,
        probe=fitted.label,
        method="trained",
        protocol=context.protocol.name,
        parameters=Parameters(**probe.num_parameters()),
        flops=flops_of(probe, store.num_tokens, store.num_prefix),
        training=_training_record(context, fitted, len(store["train"])),
        undertrained=signs,
        warnings=_warnings(fitted, context, request.split, course, example_noun(store.manifest)),
        training_images=store.manifest.settings.training_images,
        variance="initialisation" if len(fitted.seeds) > 1 else "none",
        **provenance(store, request.split, request.command)
        | {"task": context.task.name, "primary": context.metric.name},
    )


def _warnings(
    fitted: FittedProbe, context: FitContext, split: str, course: Mapping[str, Any], noun: str
) -> list[str]:
    """A result's warnings on its training and its held-out score; they are logged as well."""
    solution = fitted.solution
    if solution is None:
        found = training_warnings(edge=fitted.edge, **course)
    else:
        found = (
            [] if solution.converged else [f"not at its optimum (gradient {solution.gradient:.0e})"]
        )
        if fitted.edge is not None:
            key, value = next(iter(fitted.selected.items()))  # λ, or the C or alpha that gives it
            found.append(f"its {key.replace('_', ' ')}, {value:g}, is the {fitted.edge} tried")
    metric, labels = context.metric, fitted.predictions.labels
    scores = metric.needed_scores(fitted.predictions.record, labels).mean(0)
    reported = selected_score(scores, metric.weights(labels), fitted.predictions.groups)
    found += far_below(metric, reported, fitted.selected_score, split, noun)
    for warning in found:
        log.info("%s: %s", fitted.label, warning)
    return found


def _training_record(context: FitContext, fitted: FittedProbe, num_images: int) -> dict[str, Any]:
    """How a probe was trained, without the selected values."""
    protocol, grid = context.protocol, fitted.grid
    where = {
        "run_seed": context.run_seed,
        "device": context.device.type,
        **({"processes": world().size} if world().size > 1 else {}),
        **({} if context.shape.parts == 1 else {"parts": context.shape.parts}),
    }
    if fitted.solution is not None:
        return {
            "optimizer": fitted.solution.method,
            "converged": fitted.solution.converged,
            "weight_decays": list(grid.weight_decays),
            **fitted.searched,
            **where,
        }
    return {
        "optimizer": protocol.optimizer,
        "epochs": protocol.epochs,
        "images_per_step": images_per_step(protocol, num_images),
        "warmup_epochs": protocol.warmup_epochs,
        "learning_rates": list(grid.learning_rates),
        "weight_decays": list(grid.weight_decays),
        "coordinates": protocol.coordinates,
        "whitening": protocol.whitening,
        "shuffle": context.shuffle.by,
        **({"buffer_images": context.shuffle.buffer} if context.shuffle.buffer else {}),
        "dtype": str(context.dtype).removeprefix("torch."),
        **({} if context.class_weight == "none" else {"class_weight": context.class_weight}),
        **({} if context.draw_tokens is None else {"draw_tokens": context.draw_tokens}),
        **where,
    }


def _trained(labels: list[str]) -> list[str]:
    return [label for label in labels if parse_probe(label).name != "knn"]


def _fingerprint(store: Store, **settings: Any) -> str:
    """Of everything that a fit's outcome depends on."""
    images = hashlib.sha256(store["train"].index.tobytes()).hexdigest()  # a draw, or all of them
    content = {"version": FIT_VERSION, "store": store.identity, "images": images, **settings}
    return hashlib.sha256(json.dumps(content, default=asdict).encode()).hexdigest()
