"""Stored tokens → fitted probes → results: the two public functions.

:func:`fit` works on a feature store and leaves a run folder; :func:`probe` works on a model and a
data set in memory and leaves nothing, to be called every few epochs of pre-training.
"""

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from iceprobe.core.checksums import Digest
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import DAY, in_days, short_name, shown
from iceprobe.fitting.checks import all_diverged
from iceprobe.fitting.fitted import load_fitted
from iceprobe.fitting.repetition import Request, check, repetition
from iceprobe.fitting.rounds import Round, cut_groups, folds_of_store, rounds_of
from iceprobe.fitting.run_folder import (
    PREDICTIONS_FILE,
    STATE_FILE,
    abandon,
    begin,
    check_folder,
    check_there,
    flat_request,
    tidy,
)
from iceprobe.loggers.session import Session, Tell, logging_to
from iceprobe.machine.files import write_atomically
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import World, first, world
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress, timed
from iceprobe.machine.torch_state import in_own_state
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.budget import budgeted
from iceprobe.protocols.outer_folds import Rows
from iceprobe.protocols.protocol import for_images, repeated
from iceprobe.results.curves import FILE_NAME as CURVES_FILE
from iceprobe.results.curves import CurveRow, write_curves
from iceprobe.results.files import write_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.folds import joined_folds
from iceprobe.results.listing import Results
from iceprobe.results.predictions import FILE_NAME as PREDICTIONS
from iceprobe.results.predictions import Predictions, read_predictions, write_predictions
from iceprobe.results.provenance import identical_line
from iceprobe.results.replicates import merged
from iceprobe.results.schema import Diverged, Files
from iceprobe.settings import FitCall, Fitting, ProbeCall
from iceprobe.store.format import FOLDS, Manifest
from iceprobe.store.opening import open_store
from iceprobe.store.reader import Store
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone
    from iceprobe.datasets import Dataset
    from iceprobe.store.kept_images import KeptImages

log = logging.getLogger("iceprobe")


@shows_progress
@takes(FitCall)
@in_own_state
def fit(
    store: Store | str | Path | Sequence[Store], probes: Sequence[str], *, call: FitCall
) -> list[FittedResult]:
    """Fit every probe on the stored tokens, in one pass, and write a run folder.

    Args:
        store: the tokens, with a ``train`` split and the split to report; or the store's folder; or
            ``features:FILE``, tokens of your own in files (`iceprobe.load_features`); or
            the stores of several layers, which probes that name ``layers=`` read side by side
            (:meth:`iceprobe.Store.joined`).
        probes: spec strings: ``["knn", "linear", "ep32", "aim12"]``.
        settings: an :class:`iceprobe.settings.Fitting`, its options as keywords, or both,
            where keywords win; with ``output``, the run folder (a new one under ``runs/`` by default),
            ``resume``, ``progress`` and ``command``.

    Without seeds and replicates there are 5 replicates of two or more trained probes under
    ``"heldout"``, and 3 seeds otherwise. A replicate has its own initialisation, order of batches, held-out
    part and, low-shot, draw of images; the results' deviation is then over all of these.

    Returns:
        One result a probe, in the order asked for; written to ``output`` as well. If ``output`` holds
        this very run, finished, they are read from there. Seeds that have diverged are left out of the
        scores and named in ``diverged``; a probe of which no member reached the end has no result, and
        an error is logged.

    Raises:
        IceprobeError: for what the caller can put right, before anything is written; or if there
            is no result at all.
    """
    with logging_to(call.log) as session:
        return _fit_into_folder(store, probes, call, session)


def _fit_into_folder(
    store: Store | str | Path | Sequence[Store],
    probes: Sequence[str],
    call: FitCall,
    session: Session,
) -> list[FittedResult]:
    """:func:`fit` with its loggers made."""
    if isinstance(store, str | Path):
        store = open_store(store, progress=call.progress)
    if isinstance(store, Sequence):
        store = Store.joined(store)
    if not isinstance(store, Store):
        raise IceprobeError(
            f"fit(store={shown(store)}): give a feature store, of iceprobe.extract(…), or its folder"
        )
    store = store.grouped_by(call.groups)
    request = Request.of(_labels(store, probes, call), call)
    seeds, replicates = _repeated(request, call)
    later = {
        "groups": store.manifest.dataset.group,
        "fold": store.manifest.dataset.fold,
        "slices": store.manifest.dataset.slices,
        "task": store.task if store.task != "classification" else None,
        "metric": call.metric,
        "class_weight": call.class_weight if call.class_weight != "none" else None,
        "layers": [one.identity for one in store.layers.values()],
    }
    asked = {
        "store": store.identity,
        "probes": request.labels,
        "protocol": request.protocol,
        "seeds": seeds,
        "replicates": replicates,
        "shots": call.shots,
        "fraction": call.fraction,
        "split": call.split,
        "run_seed": call.run_seed,
        "amp": call.fit_dtype,
        "shuffle": call.shuffle,
        "device": request.device.type,
        **{name: value for name, value in later.items() if value},  # not in older runs
    }
    folder = first(lambda: call.output or new_run(store.manifest, call.protocol))
    with contextlib.ExitStack() as locked:
        done = first(lambda: _lock(folder, asked, call.resume, locked))
        if done is not None:
            first(lambda: session.complete(folder, done))
            return Results(reopened(one, store, store.shape) for one in done)

        def start() -> None:
            begin(folder, asked)
            session.begin(folder, described(store.manifest, asked))

        try:
            results, rows = _fit(
                store, request, call, seeds=seeds, replicates=replicates, folder=folder,
                begin=start, tell=session.curves if session else None,
            )  # fmt: skip
        except IceprobeError:
            if world().size == 1:  # of several processes one may be alone with its error
                abandon(folder)
            raise
        first(lambda: check_there(folder))
        files = first(lambda: write_run(folder, results, rows))
        results = Results(
            one.replaced(run=folder, files=each)
            for one, each in zip(_mapped(results, folder / PREDICTIONS), files, strict=True)
        )
        session.results(results)
    return results


def _put_aside(results: list[FittedResult], folder: Path, replicate: int) -> list[FittedResult]:
    """The results, whose predictions stay in a file of their replicate until the run is written."""
    path = folder / PREDICTIONS_FILE.format(replicate)

    def write() -> None:
        check_there(folder)
        _write_predictions(path, results)

    first(write)
    return _mapped(results, path)


def _mapped(results: list[FittedResult], path: Path) -> list[FittedResult]:
    """The results with their predictions as a file has them, which memory then keeps no copy of."""
    if not world().main:  # the file is the first process's, perhaps on a disk of its own
        return results
    return [
        one.replaced(predictions=read_predictions(path, one.label, fresh=True))
        if one.predictions() is not None
        else one
        for one in results
    ]


def _lock(
    folder: Path, asked: dict[str, Any], resume: bool, locked: contextlib.ExitStack
) -> list[FittedResult] | None:
    """Lock the run folder if it is new or this run's own; its results if the run is finished."""
    if folder.exists() and not folder.is_dir():
        raise IceprobeError(f"{folder} is a file: give --output a folder")
    locked.enter_context(exclusive(folder))
    return check_folder(folder, asked, resume=resume)


def reopened(result: FittedResult, store: Store | None, shape: TokenShape) -> FittedResult:
    """A result read from its folder, with its fitted modules loaded."""
    seeds = result.seeds if result.files.probes else []
    probes = [load_fitted(result, shape, seed) for seed in seeds] or None
    return result.replaced(probes=probes, open_store=store)


@shows_progress
@takes(ProbeCall)
@in_own_state
def probe(
    model: Any, dataset: Any, probes: Sequence[str], *, call: ProbeCall, **backbone_options: Any
) -> list[FittedResult]:
    """Probe a model in memory: nothing is written, and the model is as before afterwards.

    (A module is in evaluation mode during each forward pass only.)

    Args:
        model: a :class:`Backbone`, a spec string or any ``nn.Module`` (``backbone_options`` go to
            :func:`iceprobe.load_backbone`: image size, mean, std, …).
        dataset: a :class:`Dataset`, a spec string, or ``{"train": data, "test": data}`` with data
            sets of torch or torchvision (:func:`iceprobe.load_dataset`).
        settings: or options as keywords, as of :func:`fit`, with ``limit``, images of each split, and
            ``tokens``, the dtype in which they are held: ``"bfloat16"`` or ``"float32"`` if values are
            too large for ``"float16"``.

    Returns:
        One result a probe, with its fitted modules and predictions.
    """
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import load_dataset

    request = request_in_memory(probes, call)
    if not isinstance(model, Backbone):
        model = load_backbone(model, **backbone_options)
    return probe_backbone(model, load_dataset(dataset), request, call)


@in_own_state
def probe_backbone(
    backbone: "Backbone",
    data: "Dataset",
    request: Request,
    call: ProbeCall,
    kept: "KeptImages | None" = None,
    processes: World | None = None,
) -> list[FittedResult]:
    """:func:`probe` of what is loaded already.

    Args:
        kept: decoded images, for the next look at the same data.
        processes: each of which makes the tokens of a part of the images, from the same backbone and data;
            the first one fits, and the others have no results.
    """
    from iceprobe.store import extract_together

    store = extract_together(backbone, data, kept, processes or World(), **_in_memory(call))
    if store is None:
        return []
    seeds, replicates = _repeated(request, call)
    store = store.grouped_by(call.groups)
    results, _ = _fit(store, request, call, seeds=seeds, replicates=replicates, folder=None)
    return Results(results)


@in_own_state
def check_probe(
    backbone: "Backbone", data: "Dataset", probes: Sequence[str], call: ProbeCall
) -> None:
    """Refuse what :func:`probe` would refuse before it trains. It reads two images of each split.

    Raises:
        IceprobeError: naming it.
    """
    from iceprobe.store import blank_in_memory, extract_in_memory

    request = request_in_memory(probes, call)
    few = min(2, call.limit or 2)
    extract_in_memory(backbone, data, **_in_memory(call) | {"limit": few, "progress": None})
    store = blank_in_memory(backbone, data, **_in_memory(call)).grouped_by(call.groups)
    _checked_rounds(store, request, call, *_repeated(request, call))


def request_in_memory(probes: Sequence[str], call: ProbeCall) -> Request:
    """The request of a call of :func:`probe`.

    Raises:
        IceprobeError: for an unknown probe, protocol or device.
    """
    return Request.of([probe_label(parse_probe(text)) for text in probes], call)


def _in_memory(call: ProbeCall) -> dict[str, Any]:
    """Options of the extraction."""
    named = ("limit", "device", "forward_dtype", "tokens")
    return {name: getattr(call, name) for name in named} | {"progress": callback(call.progress)}


def _repeated(request: Request, settings: Fitting) -> tuple[int, int | None]:
    return repeated(
        settings.seeds,
        settings.replicates,
        trained=sum(parse_probe(label).name != "knn" for label in request.labels),
        held_out=request.protocol.held_out,
        low_shot=request.low_shot,
    )


def _fit(
    store: Store,
    request: Request,
    call: FitCall | ProbeCall,
    *,
    seeds: int,
    replicates: int | None,
    folder: Path | None,
    begin: Callable[[], None] = lambda: None,
    tell: Tell | None = None,
) -> tuple[list[FittedResult], list[CurveRow]]:
    """A repetition for each round, and what they give together; ``begin`` is called when all is checked."""
    progress = callback(call.progress)
    request, folds, rounds = _checked_rounds(store, request, call, seeds, replicates)
    cut = cut_groups(store, folds)
    first(begin)
    found: dict[str, dict[int, list[FittedResult]]] = {label: {} for label in request.labels}
    rows: list[CurveRow] = []
    diverged: dict[str, list[Diverged]] = {}
    for number, one in enumerate(rounds):
        state = folder / STATE_FILE.format(number) if folder else None
        stages = _counted(progress, number, len(rounds))
        if number == 0:
            stages = _warning_of_days(stages, one.store, request, len(rounds))
        results, more, gone = repetition(
            one.store, request, one.seeds, one.run_seed, state, stages,
            _told(tell, number, len(rounds)),
        )  # fmt: skip
        if folder is not None and len(rounds) > 1:
            results = _put_aside(results, folder, number)
        for result in results:
            found[result.probe].setdefault(one.replicate, []).append(result)
        rows += more
        for label, members in gone.items():
            diverged.setdefault(label, []).extend(members)
    whole = Predictions(store[request.split].targets, None, **store.beside(request.split))
    results = []
    for label, of_replicates in found.items():
        parts = list(of_replicates.values())
        if folds:  # of which none may be lost
            parts = [[joined_folds(p, folds, whole)] for p in parts if len(p) == len(folds)]
        if not parts:
            log.error("%s", all_diverged([label]))
        else:
            results.append(parts[0][0] if replicates is None else merged([p[0] for p in parts]))
    if not results:
        raise IceprobeError(all_diverged(list(found)))
    if not folds and (line := identical_line(store, request.split)):  # read when all is fitted
        log.warning("assumed: %s", line)
    names = store.names_at_hand(request.split)
    named = []
    for result in results:
        if (predictions := result.predictions()) is not None:
            predictions = replace(predictions, names=names)
        named.append(
            result.replaced(
                predictions=predictions,
                diverged=diverged.get(result.probe, []),
                shots=call.shots,
                fraction=call.fraction,
                assumed=[*result.assumed, *filter(None, [cut])],
            )
        )
    return named, rows


def _checked_rounds(
    store: Store, request: Request, call: FitCall | ProbeCall, seeds: int, replicates: int | None
) -> tuple[Request, list[Rows], list[Round]]:
    """The request with the split that is reported, the folds if there are any, and the rounds."""
    folds = folds_of_store(store, request, call.run_seed, call.folds)
    request = replace(request, split=FOLDS) if folds else request
    rounds = rounds_of(store, request, call, seeds, replicates, folds)
    for one in rounds:
        check(one.store, request, one.seeds, one.run_seed)
    return request, folds, rounds


def _warning_of_days(
    progress: ProgressCallback | None, store: Store, request: Request, repetitions: int
) -> ProgressCallback:
    """``progress`` that also warns, by the first steps, of a fit that takes more than a day.

    All phases are taken to be as long as the first.
    """
    protocol = for_images(request.protocol, len(store["train"]))
    phases = 1
    if protocol.held_out:
        folds = protocol.folds * protocol.repeats
        phases += folds if len(store["train"]) < protocol.folds_below else 1

    def expected(seconds: float) -> None:
        whole = seconds * phases * repetitions
        if whole > DAY:
            epochs = f"{protocol.epochs:,}"
            log.warning("the fit of %s epochs will take about %s", epochs, in_days(whole))

    return timed(progress, {"select", "refit", "paper"}, expected)


def _labels(store: Store, probes: Sequence[str], settings: Fitting) -> list[str]:
    """Canonical labels of the probes named, then of the EPs within a budget."""
    labels = [probe_label(parse_probe(text)) for text in probes]
    within = budgeted(store.shape, len(store.classes), settings)
    more = [probe_label(parse_probe(text)) for text in within]
    return labels + [label for label in more if label not in labels]


def _counted(progress: ProgressCallback | None, number: int, total: int) -> ProgressCallback:
    """``progress`` with the replicate's number in each stage's name, where there are several."""
    if progress is None:
        return lambda stage, done, of: None
    if total == 1:
        return progress
    return lambda stage, done, of: progress(f"{stage} {number + 1}/{total}", done, of)


def _told(tell: Tell | None, number: int, total: int) -> Tell | None:
    """``tell`` with the round's number in each training's name: a replicate's or a fold's."""
    if tell is None or total == 1:
        return tell
    mine = f", round {number + 1}/{total}"
    return lambda of, rows, metric, once: tell(of + mine, rows, metric, once and once + mine)


def described(manifest: Manifest, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run for its loggers: what it reads, and all that can change a number."""
    read = {"backbone": manifest.backbone.spec, "dataset": manifest.dataset.spec}
    return {**read, **flat_request(asked)}


def _files(result: FittedResult) -> Files:
    """Names in the run folder of what :func:`write_run` puts there; k-NN has no modules."""
    seeds = result.seeds[: len(result.probes or [])]
    return Files(
        probes=[f"probes/{file_name(result.label)}-seed{seed}.safetensors" for seed in seeds],
        predictions=PREDICTIONS,
        adapters=result.files.adapters,
    )


def write_run(
    folder: Path, results: Sequence[FittedResult], rows: Sequence[CurveRow]
) -> list[Files]:
    """Write the run folder; `results.json` last, since its presence says that the run is finished.

    Returns:
        Where the files of each result are, with their digests.
    """
    files = [_files(result) for result in results]
    for result, each in zip(results, files, strict=True):
        for name, probe in zip(each.probes, result.probes or [], strict=True):
            content = save(probe.state_dict(), metadata={"probe": result.label})
            write_atomically(folder / name, content)
    _write_predictions(folder / PREDICTIONS, results)
    write_curves(folder, rows)
    files = [each.with_digests(_digests(folder, each)) for each in files]
    write_results(
        folder, [one.replaced(files=each) for one, each in zip(results, files, strict=True)]
    )
    tidy(folder)
    return files


def _write_predictions(path: Path, results: Sequence[FittedResult]) -> None:
    write_predictions(path, {r.label: p for r in results if (p := r.predictions()) is not None})


def _digests(folder: Path, files: Files) -> dict[str, Digest]:
    """Of all files of a result that are in a run folder."""
    adapters = [folder / name for name in files.adapters]
    names = [*files.probes, CURVES_FILE, *([files.predictions] if files.predictions else [])]
    found = [folder / name for name in names]
    found += sorted(file for place in adapters for file in place.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): Digest.of(file) for file in found}


def new_run(manifest: Manifest, what: str) -> Path:
    """A readable name under ``runs/`` that isn't taken, and that file systems take."""
    name = short_name(file_name(f"{manifest.backbone.spec}-{manifest.dataset.spec}-{what}"))
    taken = (Path("runs") / f"{name}-{i}" for i in itertools.count(2))
    return next(p for p in itertools.chain([Path("runs") / name], taken) if not p.exists())


def file_name(text: str) -> str:
    """``text`` with what file systems or shells might not take replaced."""
    return re.sub(r"[^\w.=-]+", "-", text).strip("-")
