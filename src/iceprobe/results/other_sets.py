"""Tests of a run on other data sets (``iceprobe test``), read from its folder, and as a table."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from iceprobe.results.files import FILE_NAME, read_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.schema import Result
from iceprobe.results.varying import value_of

log = logging.getLogger("iceprobe")
TESTS, MASKED = "tests", "masked"  # folders: of a run's tests, and in one of them
NAME = re.compile(r"[\w=-][\w.=-]*")  # of a test


def read_tests(run: str | Path) -> list[FittedResult]:
    """The results of all tests in a run folder, by name; of a campaign those of its runs.

    Tests of an earlier fit in the same folder are left out, and reported.
    """
    run = Path(run)
    found: list[FittedResult] = []
    for folder in (run, *sorted(run.glob("cells/*"))):
        if not (folder / TESTS).is_dir() or not (folder / FILE_NAME).is_file():
            continue
        created = {one.label: one.created for one in read_results(folder)}
        for test in sorted((folder / TESTS).iterdir()):
            # `results.json` of the test says that it is whole.
            if not (test / FILE_NAME).is_file():
                continue
            for part in (test, test / MASKED):
                results = read_results(part) if (part / FILE_NAME).is_file() else []
                mine = [
                    r for r in results if r.test_of and created.get(r.label) == r.test_of.created
                ]
                if len(mine) < len(results):
                    log.warning("%s is of an earlier fit, and left out: remove it", part)
                found += mine
    return found


def tests_of(results: Sequence[FittedResult]) -> list[FittedResult]:
    """The tests of the runs that these are the results of."""
    runs = dict.fromkeys(one.run for one in results if one.run is not None and not one.test_of)
    return [test for run in runs for test in read_tests(run)]


def column_of(result: Result) -> str:
    """The test's name, and whether it is masked."""
    return value_of(result, "test") + (", masked" if result.masked else "")


def same_fit(result: Result) -> tuple[object, ...]:
    """Equal for a run's result and its tests."""
    on = result.test_of
    dataset, store = (on.dataset, on.store) if on else (result.dataset, result.store)
    where = (result.backbone, dataset, store.identity)
    return (result.label, *where, result.protocol, result.shots, result.fraction)
