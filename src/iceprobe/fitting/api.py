"""Stored tokens → fitted probes → results: the two public functions.

:func:`fit` works on a feature store and leaves a run folder; :func:`probe` works on a model and a
data set in memory and leaves nothing, to be called every few epochs of pre-training.
"""

import contextlib
import dataclasses
import itertools
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from iceprobe.core.arguments import checked
from iceprobe.core.checksums import Digest
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import DAY, in_days, short_name, shown
from iceprobe.fitting.checks import all_diverged, check_device
from iceprobe.fitting.fitted import load_fitted
from iceprobe.fitting.members import Shape
from iceprobe.fitting.repetition import Request, check, repetition
from iceprobe.fitting.run_folder import STATE_FILE, abandon, begin, check_folder, check_there, tidy
from iceprobe.fitting.shuffling import check_shuffle
from iceprobe.machine.files import write_atomically
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import first, world
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress, timed
from iceprobe.machine.torch_state import in_own_state
from iceprobe.probes import parse_probe, probe_label, within_budget
from iceprobe.protocols.lowshot import draw
from iceprobe.protocols.protocol import for_images, get_protocol
from iceprobe.protocols.repeats import repeated
from iceprobe.results.curves import FILE_NAME as CURVES_FILE
from iceprobe.results.curves import CurveRow, write_curves
from iceprobe.results.files import write_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import write_predictions
from iceprobe.results.provenance import identical_line
from iceprobe.results.replicates import merged
from iceprobe.results.schema import Diverged, Files
from iceprobe.store.format import Manifest
from iceprobe.store.reader import Store

log = logging.getLogger("iceprobe")


@checked
@shows_progress
@in_own_state
def fit(
    store: Store | str | Path,
    probes: Sequence[str],
    *,
    budget: int | None = None,
    budget_flops: int | None = None,
    protocol: str = "heldout",
    seeds: int | None = None,
    replicates: int | None = None,
    shots: int | None = None,
    fraction: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    min_steps: int | None = None,
    halving: bool = False,
    coordinates: str | None = None,
    output: str | Path | None = None,
    split: str = "test",
    memory: int | None = None,
    shuffle: str = "auto",
    device: str | None = None,
    amp: str = "float32",
    run_seed: int = 0,
    resume: bool = True,
    progress: ProgressCallback | bool | None = None,
    command: str | None = None,
) -> list[FittedResult]:
    """Fit every probe on the stored tokens, in one pass, and write a run folder.

    Args:
        store: the tokens, with a ``train`` split and the split to report; or the store's folder.
        probes: spec strings: ``["knn", "linear", "ep32", "aim12"]``.
        budget: parameters; the EPs of a grid of (M, D_o) that stay within it are fitted as well.
        budget_flops: the same for FLOPs of the whole probe for one image.
        protocol: ``"heldout"`` (default) or ``"paper"``.
        seeds: initialisations of every setting: 0, 1, … seeds − 1.
        replicates: in place of seeds, this many complete repetitions: each with another
            initialisation, order of batches, held-out part and, low-shot, draw of images. The
            results' deviation is then over all of these. Where neither is given it is 5 replicates of
            two or more trained probes under ``"heldout"``, and 3 seeds otherwise.
        shots: train on this many images a class, a seeded draw a replicate (5 by default).
        fraction: train on this part of each class, likewise.
        epochs: passes over the training images, in place of the protocol's own.
        batch_size: images a training step, likewise.
        learning_rates: the grid of every probe, in place of each kind's own, and not grown.
        weight_decays: the grid, likewise; of linear probes the λ of their penalty.
        min_steps: steps that a fit takes at least, the epochs are raised to it; by default the
            protocol's, and 0 where ``epochs`` is given.
        halving: stop settings that are clearly beaten on the held-out images after a quarter or a
            half of the epochs of selection; the results say which. Not under ``"paper"``.
        coordinates: ``"standardised"``, in which no number depends on the units of the tokens, or
            ``"raw"``; by default the protocol's, which ``"paper"`` has raw. Either way what is
            fitted is the published probe on raw tokens.
        output: run folder; by default a new one under ``runs/``.
        split: the split to report.
        memory: budget in bytes for the tokens that trained probes hold and all that they compute
            from them, by default half of what is free. Tokens are streamed beyond it; where one
            training step takes more, as under ``0``, no more than that is taken and a line says
            how much.
        shuffle: order of training images whose tokens are streamed: ``"rows"`` at random,
            ``"blocks"`` of neighbours at random, mixed in a buffer of half the budget; ``"auto"``
            takes blocks where the page cache can't hold the tokens. It's ``"rows"`` where
            all tokens are in memory. Results say which in ``training["shuffle"]``.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        amp: dtype of the token products: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        run_seed: of the held-out split and of the order of batches.
        resume: go on from where an interrupted fit of this folder stands.
        progress: called with ``(stage, done, total)``; by default a bar in a
            terminal or a notebook, and ``False`` shows nothing.
        command: to be written into the results; by default this process's own.

    Returns:
        One result a probe, in the order asked for; written to ``output`` as well. Where ``output``
        holds this very run, finished, they are read from there. Seeds that have
        diverged are left out of its scores and named in ``diverged``; a probe of which no member
        got to the end has no result, and an error is logged.

    Raises:
        IceprobeError: for what the caller can put right, before anything is written; or if there
            is no result at all.
    """
    store = _opened(store)
    request = Request(
        _labels(store, probes, budget, budget_flops),
        get_protocol(
            protocol,
            epochs=epochs,
            batch_size=batch_size,
            learning_rates=learning_rates,
            weight_decays=weight_decays,
            min_steps=min_steps,
            halving=halving,
            coordinates=coordinates,
        ),
        split=split,
        memory=memory,
        shuffle=check_shuffle(shuffle),
        device=check_device(device),
        amp=amp,
        low_shot=shots is not None or fraction is not None,
        resume=resume,
        command=command if command is not None else shlex.join(sys.argv),
    )
    seeds, replicates = _repeated(request, seeds, replicates)
    asked = {
        "store": store.identity,
        "probes": request.labels,
        "protocol": request.protocol,
        "seeds": seeds,
        "replicates": replicates,
        "shots": shots,
        "fraction": fraction,
        "split": split,
        "run_seed": run_seed,
        "amp": amp,
        "shuffle": shuffle,
        "device": request.device.type,
    }
    folder = first(
        lambda: Path(output) if output is not None else new_run(store.manifest, protocol)
    )
    with contextlib.ExitStack() as locked:
        if (done := first(lambda: _lock(folder, asked, resume, locked))) is not None:
            return [reopened(one, store, Shape.of(store.manifest)) for one in done]
        try:
            results, rows = _fit(
                store,
                request,
                seeds=seeds,
                replicates=replicates,
                shots=shots,
                fraction=fraction,
                run_seed=run_seed,
                folder=folder,
                progress=callback(progress),
                begin=lambda: begin(folder, asked),
            )
        except IceprobeError:
            if world().size == 1:  # of several processes one may be alone with its error
                abandon(folder)
            raise
        first(lambda: check_there(folder))
        files = first(lambda: write_run(folder, results, rows))
    return [one.replaced(run=folder, files=each) for one, each in zip(results, files, strict=True)]


def _lock(
    folder: Path, asked: dict[str, Any], resume: bool, locked: contextlib.ExitStack
) -> list[FittedResult] | None:
    """Lock the run folder, if it is new or this run's own; its results if that is finished."""
    if folder.exists() and not folder.is_dir():
        raise IceprobeError(f"{folder} is a file: give --output a folder")
    locked.enter_context(exclusive(folder))
    return check_folder(folder, asked, resume=resume)


def reopened(result: FittedResult, store: Store | None, shape: Shape) -> FittedResult:
    """A result that was read from its folder, with the fitted modules as a fresh one has them."""
    seeds = result.seeds if result.files.probes else []
    probes = [load_fitted(result, shape, seed) for seed in seeds] or None
    return result.replaced(probes=probes, open_store=store)


@checked
@shows_progress
@in_own_state
def probe(
    model: Any,
    dataset: Any,
    probes: Sequence[str],
    *,
    protocol: str = "heldout",
    seeds: int = 1,
    replicates: int | None = None,
    shots: int | None = None,
    fraction: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    min_steps: int | None = None,
    halving: bool = False,
    coordinates: str | None = None,
    split: str = "test",
    limit: int | None = None,
    device: str | None = None,
    amp: str = "float32",
    tokens: str = "float16",
    run_seed: int = 0,
    progress: ProgressCallback | bool | None = None,
    **backbone_options: Any,
) -> list[FittedResult]:
    """Probe a model in memory: nothing is written, and the model is as before afterwards.

    (`load_backbone` borrows a module: evaluation mode lasts for each forward pass only.)

    Args:
        model: a :class:`Backbone`, a spec string or any ``nn.Module`` (``backbone_options`` go to
            :func:`iceprobe.load_backbone`: image size, mean, std, …).
        dataset: a :class:`Dataset`, a spec string, or ``{"train": data, "test": data}`` with data
            sets of torch or torchvision (:func:`iceprobe.load_dataset`).
        limit: images of each split to read.
        tokens: dtype in which tokens are held: ``"bfloat16"`` or ``"float32"`` where they are too
            large for ``"float16"``.

    The other arguments are those of :func:`fit`.

    Returns:
        One result a probe, with its fitted modules and predictions.
    """
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import load_dataset
    from iceprobe.store import extract_in_memory

    request = Request(
        [probe_label(parse_probe(text)) for text in probes],
        get_protocol(
            protocol,
            epochs=epochs,
            batch_size=batch_size,
            learning_rates=learning_rates,
            weight_decays=weight_decays,
            min_steps=min_steps,
            halving=halving,
            coordinates=coordinates,
        ),
        split=split,
        memory=None,
        shuffle="rows",
        device=check_device(device),
        amp=amp,
        low_shot=shots is not None or fraction is not None,
        resume=False,
        command=shlex.join(sys.argv),
    )
    if not isinstance(model, Backbone):
        model = load_backbone(model, **backbone_options)
    data = load_dataset(dataset)
    store = extract_in_memory(
        model,
        data,
        limit=limit,
        device=device,
        amp=amp,
        tokens=tokens,
        progress=callback(progress),
    )
    seeds, replicates = _repeated(request, seeds, replicates)
    results, _ = _fit(
        store,
        request,
        seeds=seeds,
        replicates=replicates,
        shots=shots,
        fraction=fraction,
        run_seed=run_seed,
        folder=None,
        progress=callback(progress),
    )
    return results


def _repeated(
    request: Request, seeds: int | None, replicates: int | None
) -> tuple[int, int | None]:
    return repeated(
        seeds,
        replicates,
        trained=sum(parse_probe(label).name != "knn" for label in request.labels),
        held_out=request.protocol.held_out,
        low_shot=request.low_shot,
    )


def _fit(
    store: Store,
    request: Request,
    *,
    seeds: int,
    replicates: int | None,
    shots: int | None,
    fraction: float | None,
    run_seed: int,
    folder: Path | None,
    progress: ProgressCallback | None,
    begin: Callable[[], None] = lambda: None,
) -> tuple[list[FittedResult], list[CurveRow]]:
    """One repetition with all seeds, or one a replicate with everything drawn anew.

    ``begin`` is called when all is checked.
    """
    if replicates is not None and replicates < 1:
        raise IceprobeError(f"replicates={replicates}: give at least 1")
    initialisations = [range(seeds)] if replicates is None else [[r] for r in range(replicates)]
    views = [store] * len(initialisations)
    if request.low_shot and "train" in store.splits:
        labels = store["train"].labels
        views = [
            store.take(
                "train",
                draw(labels, store.classes, shots=shots, fraction=fraction, seed=run_seed + r),
            )
            for r in range(len(views))
        ]
    for r, (view, mine) in enumerate(zip(views, initialisations, strict=True)):
        check(view, request, mine, run_seed + r)
    first(begin)
    rounds: list[FittedResult] = []
    rows: list[CurveRow] = []
    diverged: dict[str, list[Diverged]] = {}
    for r, (view, mine) in enumerate(zip(views, initialisations, strict=True)):
        state = folder / STATE_FILE.format(r) if folder else None
        stages = _counted(progress, r, len(views))
        if r == 0:
            stages = _warning_of_days(stages, view, request, len(views))
        results, more, gone = repetition(view, request, mine, run_seed + r, state, stages)
        rounds += results
        rows += more
        for label, members in gone.items():
            diverged.setdefault(label, []).extend(members)
    by_probe = {label: [r for r in rounds if r.probe == label] for label in request.labels}
    lost = [label for label, found in by_probe.items() if not found]
    if len(lost) == len(by_probe):
        raise IceprobeError(all_diverged(lost))
    if lost:
        log.error("%s", all_diverged(lost))
    results = [
        found[0] if replicates is None else merged(found) for found in by_probe.values() if found
    ]
    if line := identical_line(store, request.split):  # test images are read when all is fitted
        log.warning("assumed: %s", line)
    names = store.names_at_hand(request.split)
    drawn: dict[str, Any] = {"shots": shots, "fraction": fraction}
    named = []
    for result in results:
        if (predictions := result.predictions()) is not None:
            predictions = dataclasses.replace(predictions, names=names)
        members = diverged.get(result.probe, [])
        named.append(result.replaced(predictions=predictions, diverged=members, **drawn))
    return named, rows


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


def _opened(store: Any) -> Store:
    if isinstance(store, str | Path):
        return Store.open(store)
    if not isinstance(store, Store):
        raise IceprobeError(
            f"fit(store={shown(store)}): give a feature store, of iceprobe.extract(…), or its folder"
        )
    return store


def _labels(
    store: Store, probes: Sequence[str], budget: int | None, budget_flops: int | None
) -> list[str]:
    """Canonical labels of the probes named, and behind them of the EPs within a budget."""
    labels = [probe_label(parse_probe(text)) for text in probes]
    if budget is None and budget_flops is None:
        return labels
    within = within_budget(
        store.dim, len(store.classes), store.num_tokens, parameters=budget, flops=budget_flops
    )
    more = [probe_label(parse_probe(text)) for text in within]
    return labels + [label for label in more if label not in labels]


def _counted(progress: ProgressCallback | None, number: int, total: int) -> ProgressCallback:
    """``progress`` with the replicate's number in each stage's name, where there are several."""
    if progress is None:
        return lambda stage, done, of: None
    if total == 1:
        return progress
    return lambda stage, done, of: progress(f"{stage} {number + 1}/{total}", done, of)


def _files(result: FittedResult) -> Files:
    """Names in the run folder of what :func:`write_run` puts there; k-NN has no modules."""
    seeds = result.seeds[: len(result.probes or [])]
    return Files(
        probes=[f"probes/{file_name(result.label)}-seed{seed}.safetensors" for seed in seeds],
        predictions="predictions.safetensors",
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
    write_predictions(
        folder / "predictions.safetensors",
        {r.label: p for r in results if (p := r.predictions()) is not None},
    )
    write_curves(folder, rows)
    files = [each.with_digests(_digests(folder, each)) for each in files]
    write_results(
        folder, [one.replaced(files=each) for one, each in zip(results, files, strict=True)]
    )
    tidy(folder)
    return files


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
