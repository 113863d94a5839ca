"""What ``run``, ``demo``, ``fit``, ``knn`` and ``adapt`` share: checks, fit, report and output."""

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from iceprobe.cli.config import written
from iceprobe.cli.console import Bars, console, say
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.cli.other_sets import OtherSets, tell_tests
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import Settings, part_of
from iceprobe.core.text import DAY, duration, in_days
from iceprobe.fitting.run_folder import tidy, untidy
from iceprobe.machine.allocator import give_back_freed_memory
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import first, world
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.budget import budgeted
from iceprobe.probes.inputs import input_of
from iceprobe.probes.registry import probe_options
from iceprobe.protocols.protocol import check_splits, launch_line, protocol_of, reported
from iceprobe.results import FittedResult, read_results
from iceprobe.results.dense import Dense
from iceprobe.settings import Extraction, FitRun, Fitting, Forward, Live, Run, Views
from iceprobe.store.examples import example_noun

if TYPE_CHECKING:
    import numpy as np

    from iceprobe.loggers.session import Session
    from iceprobe.store import Store
    from iceprobe.tokens import TokenShape

log = logging.getLogger("iceprobe")

C = TypeVar("C", bound=FitRun)
C_contra = TypeVar("C_contra", bound=FitRun, contravariant=True)


class TokenSource(Protocol[C_contra]):
    """Where the tokens of a run come from.

    Attributes:
        tests: the other data sets that its probes are read on.
    """

    tests: OtherSets

    def store(self, config: C_contra, progress: Bars) -> "Store":
        """Make or open the feature store of ``config``."""

    def identities(self, config: C_contra) -> Collection[str]:
        """Identities of the stores that would serve ``config`` now."""

    def check(self, config: C_contra) -> None:
        """Refuse probes, budgets and draws that don't fit the images."""

    def other_sets(self, config: C_contra) -> dict[str, Any]:
        """The options of `iceprobe.test` that say where the tokens of other data sets come from."""


def run_stages(config: C, source: TokenSource[C], *, resume: bool = True) -> None:
    """Fit the probes of ``config`` and report.

    A finished run is shown if it read one of the stores that would serve it now. An unfinished
    one is continued, or with ``resume=False`` started again.
    """
    folder = RunFolder(config)
    if folder.state == "finished":
        read = partial(source.tests.read, config, folder, partial(source.other_sets, config))
        first(lambda: show_finished(folder, lambda: source.identities(config), resume, read))
    else:
        show(fit_run(config, folder, source, resume=resume), folder)


def fit_run(
    config: C, folder: RunFolder, source: TokenSource[C], *, resume: bool
) -> list[FittedResult]:
    """Obtain the tokens, fit, write the run folder with its report."""

    def prepare(progress: Bars) -> Callable[..., list[FittedResult]]:
        from iceprobe import fit

        if config.memory is not None:
            give_back_freed_memory()
        store = source.store(config, progress)
        log.info("store %s", store.path or store.identity)
        spec = store.manifest.dataset.spec
        check_splits(store.splits, reported(fitting_of(config)), spec, folds=True)
        check_fit_on(config, store)
        if not isinstance(config, Run):  # of images this was checked before their tokens were made
            from iceprobe.fitting.other_fit import Predicts

            first(lambda: source.tests.check(config, Predicts.of(store.manifest)))
        first(lambda: _check_duration(config, store))
        first(lambda: _tell_steps(config, store))
        return partial(fit, store, config.probe, fitting_of(config))

    results = write_run(folder, prepare, resume=resume)
    first(lambda: source.tests.read(config, folder, partial(source.other_sets, config)))
    return results


def write_run(
    folder: RunFolder,
    prepare: Callable[[Bars], Callable[..., list[FittedResult]]],
    *,
    resume: bool,
) -> list[FittedResult]:
    """Write a run folder with its log, results and report.

    Args:
        folder: of the run.
        prepare: loads and checks everything, and returns the function that fits. It runs before
            the folder is made, so that a wrong backbone or data set leaves no folder behind.
        resume: passed to that function.
    """
    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log, session_of(folder) as session:
        log.info("%s", command)
        with Bars() as progress:
            fit = prepare(progress)
            folder.create()
            run_log.write_to(folder.log)
            try:
                results = fit(
                    output=folder.path, resume=resume, progress=progress, command=command, log=session
                )  # fmt: skip
            except IceprobeError:
                folder.abandon()
                raise
            log.info("results of %d probes", len(results))
            first(lambda: write_report(results, folder, progress))
            log.info("report %s", folder.report)
            session.report(folder.report)
            places = session.places
    for place in places:
        say(f"logged to {place}")
    return results


def session_of(folder: RunFolder) -> "Session":
    """The loggers that a run's configuration names."""
    from iceprobe.loggers.session import Session  # numpy, which `ls` has no need of

    config = folder.config
    return Session(config.log, {**written(config), "run": str(folder.path)}, folder.path)


def check_fit(
    config: FitRun,
    shape: "TokenShape",
    classes: Sequence[str],
    targets: "np.ndarray",
    task: str,
    groups: "np.ndarray | None" = None,
) -> None:
    """Check that probes, budget and draws fit the tokens and the images.

    Args:
        config: of the fit.
        shape: of the tokens.
        classes: their names.
        targets: ``(n, …)`` of the training images.
        task: name of their task.
        groups: ``(n,)`` of those that aren't independent.
    """
    from iceprobe import probes
    from iceprobe.protocols.lowshot import drawn
    from iceprobe.tasks.registry import get_task, pooled_task

    pooled_task(task)
    budgeted(shape, len(classes), config)  # refuses a budget that no probe keeps
    for shots in config.shots or []:
        drawn(get_task(task), targets, classes, shots=shots, groups=groups)
    for text in config.probe:
        spec = parse_probe(text)
        if spec.name == "knn":
            input_of(shape, spec)
        else:
            probes.build_for(shape, spec, len(classes))


def check_fit_on(config: FitRun, store: "Store") -> None:
    """The same of a feature store."""
    train, groups = store["train"], store.grouped_by(config.groups).groups("train")
    check_fit(config, store.shape, store.classes, train.targets, store.task, groups)


def has_budget(config: FitRun) -> bool:
    return config.budget is not None or config.budget_flops is not None


def fitting_of(config: FitRun) -> Fitting:
    """The settings of one fit: the first number of training images, if numbers are given."""
    one = {
        "shots": config.shots and config.shots[0],
        "fraction": config.fraction and config.fraction[0],
    }
    return part_of(config.model_copy(update=one), Fitting)


def _only_knn(config: FitRun) -> bool:
    return all(parse_probe(text).name == "knn" for text in config.probe)


def _check_duration(config: FitRun, store: "Store") -> None:
    """Ask before a fit of more than a day (:func:`begin_or_refuse`)."""
    if config.long or _only_knn(config):
        return
    from iceprobe.cost.fit import expected_seconds

    settings = fitting_of(config)
    seconds = expected_seconds(store, config.probe, settings)
    begin_or_refuse(f"the fit of {protocol_of(settings).epochs:,} epochs", seconds)


def print_duration(config: Any, seconds: float) -> None:
    """Print how long ``config.epochs`` of training will take; ask if that is more than a day."""
    say(f"about {duration(seconds)} of training, by its first steps")
    if not config.long:
        begin_or_refuse(f"the training of {config.epochs:,} epochs", seconds)


def begin_or_refuse(what: str, seconds: float) -> None:
    """Ask before ``what`` takes more than a day; without a terminal to ask in, refuse it.

    Raises:
        IceprobeError: with the estimate and the option that allows it.
    """
    if seconds <= DAY:
        return
    text = f"{what} would take about {in_days(seconds)}"
    person = sys.stdin.isatty() and sys.stdout.isatty() and console.answer is None
    asks = person and world().size == 1
    if asks and typer.confirm(f"{text}. Begin it?"):
        return
    raise IceprobeError(f"{text}: give fewer --epochs, or --long to begin it all the same")


def _tell_steps(config: FitRun, store: "Store") -> None:
    """Print how many steps the fit takes, and why they aren't the protocol's epochs."""
    if _only_knn(config) and not has_budget(config):
        return
    images = len(store["train"])
    if config.shots:
        images = min(images, config.shots[0] * len(store.classes))
    elif config.fraction:
        images = max(1, round(images * config.fraction[0]))
    steps = launch_line(protocol_of(fitting_of(config)), images, example_noun(store.manifest))
    text = f"fit: {steps}"
    log.info("%s", text)
    say(text)


def write_report(
    results: Sequence[FittedResult], folder: RunFolder, progress: Bars, title: str | None = None
) -> None:
    from iceprobe import report

    progress("report", 0, 1)
    report(results, folder.report, title=title)
    progress("report", 1, 1)


def show_finished(
    folder: RunFolder,
    identities: Callable[[], Collection[str]],
    resume: bool,
    read: Callable[[], None] = lambda: None,
) -> None:
    """Show a finished run, once its other data sets are read by ``read``."""
    if not resume:
        raise IceprobeError(
            f"output {str(folder.path)!r} holds a finished run: choose another --output, or "
            "remove the folder to begin again"
        )
    results = check_finished(folder, identities())
    finish_off(folder, results)
    complete_log(folder, results)
    read()
    tell_complete(folder)
    show(results, folder)


def complete_log(folder: RunFolder, results: Sequence[FittedResult | Dense]) -> None:
    """Log what is missing of a finished run."""
    with session_of(folder) as session:
        if session and not session.complete(folder.path, results):
            say(f"nothing new to log: {folder.path} was finished before")


def finish_off(folder: RunFolder, results: Sequence[FittedResult]) -> None:
    """Complete a run that was killed after its results were written."""
    if not folder.report.exists():
        with Bars() as progress:
            write_report(results, folder, progress)
    if untidy(folder.path):
        # Files stay if another process works there, or the disk can't be written to.
        with contextlib.suppress(IceprobeError, OSError), exclusive(folder.path):
            tidy(folder.path)


def check_finished(folder: RunFolder, identities: Collection[str]) -> list[FittedResult]:
    """Read the results of a finished run, checked by :func:`check_features_of`."""
    results = read_results(folder.path)
    check_features_of(results, folder, identities)
    return results


def check_features_of(
    results: Sequence[FittedResult | Dense], folder: RunFolder, identities: Collection[str]
) -> None:
    """Check that results were computed on the stores that would be read now.

    Raises:
        IceprobeError: if backbone or images have changed since.
    """
    if not {result.store.identity for result in results} <= set(identities):
        raise IceprobeError(
            f"output {str(folder.path)!r} holds a finished run, and its features have changed "
            "since (backbone or data): choose another --output to run again"
        )


def tell_complete(folder: RunFolder) -> None:
    say(f"{folder.path} is complete already: nothing to do.")


def show(results: Sequence[FittedResult], folder: RunFolder) -> None:
    """Print the table and the report's path.

    Raises:
        IceprobeError: after them, if a requested probe has no result.
    """
    from iceprobe.results import to_rich, to_rich_matrix

    one, *_ = results
    same = len({(r.backbone, r.dataset, r.shots, r.fraction) for r in results}) == 1
    title = f"{one.backbone} on {one.dataset}, protocol {one.protocol}" if same else None
    console.print(to_rich(results, title=title) if same else to_rich_matrix(results))
    tell_tests(folder.path)
    say(folder.report.resolve())
    found = {result.probe for result in results}
    asked = [probe_label(parse_probe(text)) for text in folder.config.probe]
    if lost := [label for label in asked if label not in found]:
        from iceprobe.fitting.checks import all_diverged

        raise IceprobeError(all_diverged(lost))


def live_of(config: Run) -> Live:
    """The settings of ``iceprobe.live`` in ``config``."""
    augmentation = None if config.augmentation == "none" else config.augmentation or "paper"
    return Live(augmentation=augmentation, **_set_of(config, Forward))


def reads_patches(config: FitRun) -> bool:
    """Whether some probe of ``config`` reads patch tokens."""
    inputs = [str(probe_options(text).get("input", "")) for text in config.probe]
    return has_budget(config) or any(name.endswith("patches") for name in inputs)


def extraction_of(config: Run) -> Extraction:
    """The settings of ``iceprobe.extract`` in ``config``; patches are stored only for probes that read them."""
    patches = reads_patches(config)
    values = _set_of(config, Views) | {"patches": patches}
    if config.live:
        values.pop("augmentation", None)
    return Extraction(**values)


def _set_of(config: Run, model: type[Settings]) -> dict[str, Any]:
    names = config.model_fields_set & set(model.model_fields)
    return {name: getattr(config, name) for name in names}
