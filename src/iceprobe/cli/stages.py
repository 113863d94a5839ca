"""What ``run``, ``demo``, ``fit`` and ``knn`` share: checks, fit, report, and what is shown."""

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iceprobe.cli.console import Bars, console
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import Settings, part_of
from iceprobe.core.text import DAY, duration, in_days
from iceprobe.fitting.run_folder import tidy, untidy
from iceprobe.machine.allocator import give_back_freed_memory
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import first, world
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.registry import MODEL_VECTORS, no_vector, probe_options
from iceprobe.settings import Extraction, FitRun, Fitting, Forward, Live, Run, Views

if TYPE_CHECKING:
    import numpy as np

    from iceprobe.results import FittedResult
    from iceprobe.results.segmentation import Segmentation
    from iceprobe.store import Store
    from iceprobe.tokens import HasTokenShape

log = logging.getLogger("iceprobe")


def run_stages(
    config: FitRun,
    obtain: Callable[[Bars], "Store"],
    identities: Callable[[], Collection[str]],
    *,
    resume: bool = True,
) -> None:
    """Everything between a configuration and the path of its report.

    A finished run is shown, not run again; an unfinished one goes on.

    Args:
        config: resolved.
        obtain: makes or opens the feature store. It runs before the run folder is made, so that
            what is wrong with backbone or images leaves no folder behind.
        identities: of the stores that would serve ``config`` now. A finished run is shown if it
            read one of them.
        resume: go on from an unfinished fit; without it, begin it again.

    Raises:
        IceprobeError: for what the user can put right.
    """
    for text in config.probe:
        parse_probe(text)  # a wrong name needn't wait for torch
    folder = RunFolder(config)
    if folder.state == "finished":
        first(lambda: show_finished(folder, identities, resume))
    else:
        show(fit_run(config, folder, obtain, resume=resume), folder)


def fit_run(
    config: FitRun,
    folder: RunFolder,
    obtain: Callable[[Bars], "Store"],
    *,
    resume: bool,
) -> list["FittedResult"]:
    """Obtain the tokens, fit, write the run folder with its report."""
    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log:
        log.info("%s", command)
        with Bars() as progress:
            store = obtain(progress)
            log.info("store %s", store.path or store.identity)
            check_fit(config, store, store.classes, store["train"].labels)
            first(lambda: _check_duration(config, store))
            folder.create()
            run_log.write_to(folder.log)
            first(lambda: _tell_steps(config, len(store["train"]), len(store.classes)))
            try:
                results = _fit(store, config, command, resume, progress)
            except IceprobeError:
                folder.abandon()
                raise
            log.info("results of %d probes", len(results))
            first(lambda: write_report(results, folder, progress))
            log.info("report %s", folder.report)
    return results


def check_fit(
    config: FitRun,
    tokens: "HasTokenShape",
    classes: Sequence[str],
    train_labels: "np.ndarray",
) -> None:
    """See that probes, budget and draws fit the tokens and the images, before anything long.

    Args:
        config: of the fit.
        tokens: a store, or a backbone.
        classes: their names.
        train_labels: ``(n,)`` of the training images.

    Raises:
        IceprobeError: naming what doesn't fit.
    """
    from iceprobe import probes
    from iceprobe.protocols.lowshot import draw

    shape = tokens.shape
    if has_budget(config):
        probes.within_budget(
            shape.dim,
            len(classes),
            shape.num_tokens,
            parameters=config.budget,
            flops=config.budget_flops,
        )
    for shots in config.shots or []:
        draw(train_labels, list(classes), shots=shots)
    for text in config.probe:
        spec = parse_probe(text)
        source = spec.options.get("input", "")
        if spec.name == "knn" and source in MODEL_VECTORS and source not in shape.vectors:
            raise IceprobeError(f"probe {text!r}: {no_vector(source, shape.vectors)}")
        if spec.name != "knn":
            probes.build_for(shape, spec, len(classes))


def needs_patches(config: FitRun) -> bool:
    """Whether a probe reads patch tokens; the others do with class token and mean."""
    inputs = [str(probe_options(text).get("input", "")) for text in config.probe]
    return has_budget(config) or any(name.endswith("patches") for name in inputs)


def has_budget(config: FitRun) -> bool:
    return config.budget is not None or config.budget_flops is not None


def _fit(
    store: "Store", config: FitRun, command: str, resume: bool, progress: Bars
) -> list["FittedResult"]:
    from iceprobe import fit

    if config.memory is not None:
        give_back_freed_memory()
    return fit(
        store, config.probe, fitting_of(config), output=config.output, resume=resume,
        progress=progress, command=command,
    )  # fmt: skip


def fitting_of(config: FitRun) -> Fitting:
    """The settings of one fit: the first number of training images, where there are any."""
    one = {
        "shots": config.shots and config.shots[0],
        "fraction": config.fraction and config.fraction[0],
    }
    return part_of(config.model_copy(update=one), Fitting)


def _check_duration(config: FitRun, store: "Store") -> None:
    """Ask before a fit of more than a day (:func:`begin_or_refuse`)."""
    if config.long or all(parse_probe(text).name == "knn" for text in config.probe):
        return
    from iceprobe.cost.fit import expected_seconds
    from iceprobe.protocols.protocol import protocol_of

    settings = fitting_of(config)
    protocol = protocol_of(settings)
    seconds = expected_seconds(store, config.probe, settings)
    begin_or_refuse(f"the fit of {protocol.epochs:,} epochs", seconds)


def print_duration(config: Any, seconds: float) -> None:
    """Say how long a training of ``config.epochs`` will take; one of more than a day is asked for.

    Raises:
        IceprobeError: as :func:`begin_or_refuse`.
    """
    console.print(f"about {duration(seconds)} of training, by its first steps", markup=False)
    if not config.long:
        begin_or_refuse(f"the training of {config.epochs:,} epochs", seconds)


def begin_or_refuse(what: str, seconds: float) -> None:
    """Ask before ``what`` takes more than a day; where nobody can be asked, refuse it.

    Raises:
        IceprobeError: with the estimate, and the option that says yes.
    """
    if seconds <= DAY:
        return
    text = f"{what} would take about {in_days(seconds)}"
    if sys.stdin.isatty() and sys.stdout.isatty() and world().size == 1:
        import typer

        if typer.confirm(f"{text}. Begin it?"):
            return
    raise IceprobeError(f"{text}: give fewer --epochs, or --long to begin it all the same")


def _tell_steps(config: FitRun, images: int, classes: int) -> None:
    """How many steps the fit takes, and why they aren't the protocol's epochs."""
    from iceprobe.protocols.protocol import launch_line, protocol_of

    if all(parse_probe(text).name == "knn" for text in config.probe) and not has_budget(config):
        return
    if config.shots:
        images = min(images, config.shots[0] * classes)
    elif config.fraction:
        images = max(1, round(images * config.fraction[0]))
    text = f"fit: {launch_line(protocol_of(fitting_of(config)), images)}"
    log.info("%s", text)
    console.print(text, markup=False, soft_wrap=True)


def write_report(results: Sequence["FittedResult"], folder: RunFolder, progress: Bars) -> None:
    from iceprobe import report

    progress("report", 0, 1)
    report(results, folder.report)
    progress("report", 1, 1)


def show_finished(
    folder: RunFolder, identities: Callable[[], Collection[str]], resume: bool
) -> None:
    if not resume:
        raise IceprobeError(
            f"output {str(folder.path)!r} holds a finished run: choose another --output, or "
            "remove the folder to begin again"
        )
    results = check_finished(folder, identities())
    finish_off(folder, results)
    tell_complete(folder)
    show(results, folder)


def finish_off(folder: RunFolder, results: Sequence["FittedResult"]) -> None:
    """What a run lacks that was killed between its last number and its end."""
    if not folder.report.exists():
        with Bars() as progress:
            write_report(results, folder, progress)
    if untidy(folder.path):
        # Another process at work there, or a disk that can't be written to: they stay.
        with contextlib.suppress(IceprobeError, OSError), exclusive(folder.path):
            tidy(folder.path)


def check_finished(folder: RunFolder, identities: Collection[str]) -> list["FittedResult"]:
    """The results of a finished run, if they are of the stores that would be read now.

    Raises:
        IceprobeError: if backbone or images have changed since.
    """
    from iceprobe.results import read_results

    results = read_results(folder.path)
    check_features_of(results, folder, identities)
    return results


def check_features_of(
    results: "Sequence[FittedResult | Segmentation]", folder: RunFolder, identities: Collection[str]
) -> None:
    """Refuse the results of a finished run that read other features than would be read now."""
    if not {result.store.identity for result in results} <= set(identities):
        raise IceprobeError(
            f"output {str(folder.path)!r} holds a finished run, and its features have changed "
            "since (backbone or images): choose another --output to run again"
        )


def tell_complete(folder: RunFolder) -> None:
    console.print(
        f"{folder.path} is complete already: nothing to do.", markup=False, soft_wrap=True
    )


def show(results: Sequence["FittedResult"], folder: RunFolder) -> None:
    """The table and the report's path.

    Raises:
        IceprobeError: after them, if a probe that was asked for has no result.
    """
    from iceprobe.results import to_rich, to_rich_matrix

    first = results[0]
    one = len({(r.backbone, r.dataset, r.shots, r.fraction) for r in results}) == 1
    title = f"{first.backbone} on {first.dataset}, protocol {first.protocol}" if one else None
    console.print(to_rich(results, title=title) if one else to_rich_matrix(results))
    console.print(str(Path(folder.report).resolve()), markup=False, soft_wrap=True)
    found = {result.probe for result in results}
    asked = [probe_label(parse_probe(text)) for text in folder.config.probe]
    if lost := [label for label in asked if label not in found]:
        from iceprobe.fitting.checks import all_diverged

        raise IceprobeError(all_diverged(lost))


def live_of(config: Run) -> Live:
    """The settings of ``iceprobe.live`` in ``config``."""
    augmentation = None if config.augmentation == "none" else config.augmentation or "paper"
    return Live(augmentation=augmentation, **_set_of(config, Forward))


def extraction_of(config: Run) -> Extraction:
    """The settings of ``iceprobe.extract`` in ``config``."""
    values = _set_of(config, Views) | {"patches": needs_patches(config)}
    if config.live:
        values.pop("augmentation", None)
    return Extraction(**values)


def _set_of(config: Run, model: type[Settings]) -> dict[str, Any]:
    names = config.model_fields_set & set(model.model_fields)
    return {name: getattr(config, name) for name in names}
