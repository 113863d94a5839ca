"""``--test NAME=SPEC`` of `run` and `fit`: the fitted probes on other data sets, after the fit."""

import functools
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import iceprobe
from iceprobe.cli.console import Bars, say
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.registry import load_grouped_if_it_can
from iceprobe.probes.budget import budgeted
from iceprobe.results.other_sets import NAME
from iceprobe.settings import FitRun

if TYPE_CHECKING:
    from iceprobe.fitting.other_fit import Predicts

log = logging.getLogger("iceprobe")


def named(config: FitRun) -> dict[str, str]:
    """Spec of each other data set by the name of its test.

    Raises:
        IceprobeError: for one without a name, or two of one name.
    """
    found: dict[str, str] = {}
    for text in config.test:
        name, equals, spec = text.partition("=")
        if not equals or not spec or not NAME.fullmatch(name):
            raise IceprobeError(
                f"--test {shown(text)}: write NAME=SPEC, a name for its folder and the data set, such as "
                "v2=imagenet-v2?root=/data"
            )
        if name in found:
            raise IceprobeError(f"--test {name}=… is given twice: name each data set once")
        found[name] = spec
    return found


def has_stores(config: FitRun) -> bool:
    """Whether some of them are feature stores."""
    from iceprobe.fitting.other_sets import is_store

    return any(map(is_store, named(config).values()))


class OtherSets:
    """The other data sets of a command; each is loaded once."""

    def __init__(self) -> None:
        self._load = functools.cache(load_grouped_if_it_can)

    def check(self, config: FitRun, run: "Predicts") -> None:
        """Refuse those that ``run`` can't be read on, before it is fitted."""
        from iceprobe.fitting.other_sets import is_store
        from iceprobe.store import Store

        for spec in named(config).values():
            if is_store(spec):
                store = Store.open(spec)
                added = budgeted(store.shape, len(run.classes), config)
                run.check_store(store, "test", [*config.probe, *added])
            else:
                run.check_dataset(self._load(spec, config.groups or run.group), "test")

    def read(self, config: FitRun, folder: RunFolder, how: Callable[[], Mapping[str, Any]]) -> None:
        """Read the finished run in ``folder`` on them; those that are read stay.

        ``how`` gives the options of :func:`iceprobe.test` that say where its tokens come from.
        """
        if not (tests := named(config)):
            return
        from iceprobe.fitting.other_sets import is_store
        from iceprobe.results import read_results

        command = shlex.join(["iceprobe", *sys.argv[1:]])
        group = config.groups or read_results(folder.path)[0].group
        with RunLog() as run_log, Bars() as progress:
            run_log.write_to(folder.log)
            for name, spec in tests.items():
                data = spec if is_store(spec) else self._load(spec, group)
                results = iceprobe.test(
                    folder.path, data, name=name, progress=progress, command=command, **how()
                )
                log.info("test %s: results of %d probes on %s", name, len(results), spec)


def tell_tests(run: Any) -> None:
    """Print the scores of a run's tests, if it has some, beside its own."""
    from iceprobe.cli.console import console
    from iceprobe.results import read_results
    from iceprobe.results.other_sets import read_tests
    from iceprobe.results.other_tables import to_rich_tests

    if tests := read_tests(run):
        console.print(to_rich_tests(read_results(run), tests))
        for one in dict.fromkeys(one.run for one in tests if not one.masked):
            say(one)
